# SPDX-License-Identifier: GPL-3.0-or-later
"""A packet filter for IPv6 that lets in what the host's filter lets in over IPv4, in a table of its own."""

from __future__ import annotations

import ipaddress
import os
import socket
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from . import _rtnetlink
from ._command import run as run_command
from ._errors import DualStackError, InputError
from ._files import STORE, FileState, read_file, write_file
from ._packet_filter import ACCEPT, Network, Packet, Table, ask, named_devices, ports, protocols
from ._packet_filter_host import NFT, gather, makers, unguarded
from ._rollback import Leftover, Store, arm, confirmed, leftover, refuse_edited, revert, settle, undo_now

RULES = "/etc/dualstack/firewall.nft"
UNIT = "/etc/systemd/system/dualstack-firewall.service"
WANTS = "/etc/systemd/system/sysinit.target.d/dualstack-firewall.conf"
# Debian's unit flushes every table when it starts, reloads or stops, but no rules of iptables-legacy, which ferm makes
# for IPv4; ours comes back each time.
AFTER_FLUSH = "/etc/systemd/system/nftables.service.d/dualstack-firewall.conf"
TABLE = ["table", "inet", "dualstack"]
TCP, UDP = 6, 17
# A number for experiments (RFC 3692) stands for the protocols that nobody names.
UNNAMED = 253
_UNIT_TEXT = f"""\
# Made by dualstack.fleet.firewall_parity.
[Unit]
Description=Let in over IPv6 what the packet filter lets in over IPv4
DefaultDependencies=no
After=local-fs.target nftables.service
Before=network-pre.target shutdown.target
Wants=network-pre.target
Conflicts=shutdown.target
ConditionPathExists={RULES}

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart={NFT} -f {RULES}
ExecReload={NFT} -f {RULES}
"""
_WANTS_TEXT = """\
# Made by dualstack.fleet.firewall_parity.
[Unit]
Wants=dualstack-firewall.service
"""
_AFTER_FLUSH_TEXT = f"""\
# Made by dualstack.fleet.firewall_parity: this unit's own commands flush every table.
[Service]
ExecStartPost={NFT} -f {RULES}
ExecReload={NFT} -f {RULES}
ExecStopPost={NFT} -f {RULES}
"""

Ranges = tuple[tuple[int, int], ...]
Twin = tuple[ipaddress.IPv4Network, ipaddress.IPv6Network]
EVERY_PORT: Ranges = ((0, 65535),)
UNFILTERED = "IPv4 has no packet filter, so IPv6 gets none: whatever listens can be reached over both"
UNGUARDED = (
    "this host forwards IPv6, and its filter for IPv4 drops forwarded packets while none for IPv6 does: what lies "
    "behind this host is more open over IPv6. Add rules for the hook forward to the host's own filter"
)


@dataclass(frozen=True)
class Request:
    """What one run of the module asks for."""

    state: str = "applied"
    device: str = ""
    policy: str = "parity"
    twins: Mapping[str, object] = field(default_factory=dict)
    accept: Sequence[Mapping[str, object]] = ()
    window: int = 60


@dataclass(frozen=True)
class Opening:
    """What SOURCE (empty: everybody) may reach: ports of TCP and UDP, and protocols without ports."""

    source: str = ""
    tcp: Ranges = ()
    udp: Ranges = ()
    others: tuple[int, ...] = ()


@dataclass(frozen=True)
class Policy:
    """What is let in on DEVICE (empty: on all others). REST: protocols that no rule names are, but not CLOSED ones."""

    device: str = ""
    openings: tuple[Opening, ...] = (Opening(),)
    rest: bool = False
    closed: tuple[int, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def open(self) -> bool:
        """Whether everything is let in, so that no table is needed."""
        whole = all(each.tcp == each.udp == EVERY_PORT for each in self.openings)
        same = len({each.others for each in self.openings}) == 1
        return self.rest and whole and same and not self.closed


@dataclass(frozen=True)
class Plan:
    """What is to be let in, device by device, and the TABLE that sees to it; empty where none is needed."""

    policies: tuple[Policy, ...]
    table: str = ""
    own_rules: bool = False
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def derive(
    tables: Sequence[Table],
    packet: Packet,
    sources: Sequence[tuple[Network | None, str]] = ((None, ""),),
    alike: Sequence[Table] = (),
) -> Policy:
    """Return what TABLES let in of packets such as PACKET, from each of SOURCES, which has a name in the policy.

    Ports and protocols that ALIKE tell apart are told apart, too.
    """
    notes: dict[str, None] = {}
    both = (*tables, *alike)
    spans, named = ports(both), protocols(both)

    def opened(protocol: int, source: Network | None) -> Ranges:
        let_in = []
        for low, high in spans:
            answer = ask(tables, replace(packet, protocol=protocol, port=low, source=source))
            notes.update({f"cannot be read to the end, so it opens nothing: {text}": None for text in answer.doubts})
            notes.update({f"its limit of the rate is not carried over: {text}": None for text in answer.limits})
            if answer.verdict == ACCEPT:
                let_in.append((low, high))
        return _merged(let_in)

    def lets(protocol: int, source: Network | None) -> bool:
        return ask(tables, replace(packet, protocol=protocol, source=source)).verdict == ACCEPT

    openings = [
        Opening(
            name,
            opened(TCP, source),
            opened(UDP, source),
            tuple(protocol for protocol in named if lets(protocol, source)),
        )
        for source, name in sources
    ]
    closed = tuple(protocol for protocol in named if protocol not in openings[0].others)
    return Policy("", tuple(openings), lets(UNNAMED, None), closed, tuple(notes))


def _merged(spans: Iterable[tuple[int, int]]) -> Ranges:
    merged: list[tuple[int, int]] = []
    for low, high in spans:
        if merged and merged[-1][1] + 1 == low:
            merged[-1] = (merged[-1][0], high)
        else:
            merged.append((low, high))
    return tuple(merged)


def render(policies: Sequence[Policy]) -> str:
    """Return the table as a file for nft(8) that replaces it in one step; the last of POLICIES is for all devices."""
    lines = [line for policy in policies for line in _device_lines(policy)]
    return _TABLE_TEXT.format(rules="".join(f"\t\t{line}\n" for line in lines))


def _device_lines(policy: Policy) -> list[str]:
    general, *special = policy.openings
    # Who may do less than everybody is told no first; who may do more is let in beside everybody.
    lines = [line for each in special for line in _lines(each.source, _less(general, each), "drop")]
    lines += _lines("", general, "accept")
    lines += [line for each in special for line in _lines(each.source, _less(each, general), "accept")]
    closed = ", ".join(["tcp", "udp", *map(str, policy.closed)])
    lines += [f"meta l4proto {{ {closed} }} drop", "accept"] if policy.rest else ["drop"]
    return [f'iifname "{policy.device}" {line}' for line in lines] if policy.device else lines


# RFC 4890, section 4.4, for a host; the hop limits are those of RFC 4861, section 7.1, and RFC 3810, section 5.
_TABLE_TEXT = """\
# Made by dualstack.fleet.firewall_parity from what the host lets in over IPv4; the role firewall makes it anew.
table inet dualstack
delete table inet dualstack
table inet dualstack {{
\tchain input {{
\t\ttype filter hook input priority filter; policy accept;
\t\tmeta nfproto ipv4 accept
\t\tiifname "lo" accept
\t\tct state established accept
\t\ticmpv6 type {{ 133, 134, 135, 136, 141, 142, 148, 149 }} ip6 hoplimit 255 accept
\t\ticmpv6 type {{ 130, 131, 132, 143, 151, 152, 153 }} ip6 hoplimit 1 accept
\t\ticmpv6 type {{ 1, 2, 3, 4 }} accept
\t\ticmpv6 type {{ 128, 129 }} accept
\t\tmeta l4proto ipv6-icmp drop
{rules}\t}}
}}
"""


def _less(wide: Opening, taken: Opening) -> Opening:
    """Return what is in WIDE and not in TAKEN, for nobody in particular."""
    return Opening(
        "",
        _subtracted(wide.tcp, taken.tcp),
        _subtracted(wide.udp, taken.udp),
        tuple(sorted(set(wide.others) - set(taken.others))),
    )


def _subtracted(wide: Ranges, taken: Ranges) -> Ranges:
    cuts = sorted({end for low, high in (*wide, *taken) for end in (low, high + 1)})
    pieces = zip(cuts, cuts[1:])
    inside = [(low, end - 1) for low, end in pieces if _covers(wide, low) and not _covers(taken, low)]
    return _merged(inside)


def _covers(ranges: Ranges, port: int) -> bool:
    return any(low <= port <= high for low, high in ranges)


def _lines(source: str, opening: Opening, verdict: str) -> list[str]:
    start = f"ip6 saddr {source} " if source else ""
    lines = [
        f"{start}{name} dport {{ {', '.join(_range(*each) for each in ranges)} }} {verdict}"
        for name, ranges in (("tcp", opening.tcp), ("udp", opening.udp))
        if ranges
    ]
    if opening.others:
        lines.append(f"{start}meta l4proto {{ {', '.join(map(str, opening.others))} }} {verdict}")
    return lines


def _range(low: int, high: int) -> str:
    return str(low) if low == high else f"{low}-{high}"


# --- the host ---------------------------------------------------------------------------------------------------------


def run(request: Request, check: bool = False, store: Store | None = None) -> dict[str, object]:
    """Carry REQUEST out (with CHECK: only say what would happen) and return the module's result."""
    store = store or Store(os.path.join(STORE, "firewall"), "dualstack-rollback-firewall")
    if check or request.state == "gathered":
        return _ACTIONS[request.state](request, store, True)
    with store.locked():
        return _ACTIONS[request.state](request, store, False)


def _apply(request: Request, store: Store, check: bool) -> dict[str, object]:
    _check(request)
    left = settle(store, check)
    planned = plan(request)
    text = planned.table
    if text and not os.path.exists(NFT):
        raise DualStackError(f"{NFT} is missing: install the package nftables; its service need not be enabled")
    wanted = {RULES: text, UNIT: _UNIT_TEXT, WANTS: _WANTS_TEXT, AFTER_FLUSH: _AFTER_FLUSH_TEXT}
    before = [read_file(path) for path in wanted]
    pairs = [
        (was, FileState(was.path, wanted[path].encode() if text else None, 0o644)) for path, was in zip(wanted, before)
    ]
    changes = [(was, after) for was, after in pairs if was.content != after.content]
    live, record = _listing(), store.load("record.json") or {}
    stale = live != record.get("owned", {}).get("listing", "")
    result = _result(planned, left, changes)
    result["changed"] = bool(changes) or stale
    result["warnings"] = [*planned.warnings, *planned.notes]
    if check or not result["changed"]:
        return result
    if text:
        _must_be_valid(text, store)
    had = before[0].content if live else None
    if had is not None:
        write_file(FileState(store.file("before.nft"), had, 0o600))
    back = [NFT, "-f", store.file("before.nft")] if had is not None else [NFT, "delete", *TABLE]
    reload = [["systemctl", "daemon-reload"]]
    deadline = arm(
        store,
        request.window,
        commands=[back],
        reload=reload,
        changes=changes,
        settings=[],
        owned=record.get("owned", {}),
    )
    try:
        if text:
            _must_run([NFT, "-f", store.file("new.nft")])
        elif live:
            _must_run([NFT, "delete", *TABLE])
        for _was, after in changes:
            write_file(after)
        _must_run(reload[0])
        pending = store.load("pending.json") or {}
        store.save("pending.json", {**pending, "owned": {"listing": _listing()}})
    except BaseException as error:
        problems = undo_now(store)
        if not isinstance(error, (DualStackError, OSError)):
            raise
        raise DualStackError(f"{error}. {'; '.join(problems) or 'everything was put back'}") from error
    result["confirm_by"] = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(deadline))
    return result


def _check(request: Request) -> list[Twin]:
    """Return the twins of REQUEST, or all that is wrong with it."""
    problems: list[str] = []
    twins: list[Twin] = []
    if request.window < 5:
        problems.append(f"window {request.window} is too short for a new connection: give at least 5 seconds")
    pairs = [
        (old, new)
        for old, given in request.twins.items()
        for new in (given if isinstance(given, (list, tuple)) else [given])
    ]
    for old, new in pairs:
        try:
            twins.append((ipaddress.IPv4Network(old), ipaddress.IPv6Network(new)))
        except ValueError as error:
            problems.append(f"twins: {old}: {new}: {error}; give an IPv4 network and its IPv6 network")
    for item in request.accept:
        port = str(item["port"])
        low, _dash, high = port.partition("-")
        if not (low.isdigit() and (high or low).isdigit() and int(low) <= int(high or low) <= 65535):
            problems.append(f"accept: port {port} is no port and no range of ports, such as 443 or 30000-30100")
    if request.device and request.device not in {name for _index, name in socket.if_nameindex()}:
        problems.append(f"device {request.device} is not on this host: name one that `ip link` shows")
    if problems:
        raise InputError(problems)
    return twins


def plan(request: Request) -> Plan:
    """Return what REQUEST asks for on this host."""
    twins = _check(request)
    if request.policy == "none":
        return Plan((Policy("", (Opening("", EVERY_PORT, EVERY_PORT),), True),))
    if request.policy == "deny":
        policy = _with_accepted(Policy(), request)
        return Plan((policy,), render([policy]))
    pairs = list(_compared(request, twins))
    rest = pairs[-1][0]
    policies = (*(wanted for wanted, _own in pairs[:-1] if replace(wanted, device="", notes=rest.notes) != rest), rest)
    notes = dict.fromkeys(note for policy in policies for note in policy.notes)
    notes.update(dict.fromkeys(note for wanted, own in pairs for note in _kept_out(wanted, own)))
    warnings = (UNGUARDED,) if unguarded() else ()
    if all(policy.open for policy in policies):
        return Plan(policies, notes=tuple(notes), warnings=(UNFILTERED, *warnings))
    if not any(_wider(own, wanted) for wanted, own in pairs):
        return Plan(policies, own_rules=True, notes=tuple(notes), warnings=warnings)
    return Plan(policies, render(policies), notes=tuple(notes), warnings=warnings)


def _compared(request: Request, twins: Sequence[Twin]) -> Iterator[tuple[Policy, Policy]]:
    """Yield for each device that rules treat differently, then for all others: (what may come in over IPv6, what the
    host's own rules for IPv6 let in)."""
    four, six = gather(4), gather(6)
    strays = strays_of(run_command(["ss", "-Hltn"]).output)
    names = (name for _index, name in socket.if_nameindex())
    device = request.device or _default_device()
    friends = sorted(twins)
    known = tuple(new for _old, new in friends)
    for name in [*sorted(named_devices([*four, *six], names) - {device, "lo"}), device]:
        own = tuple(map(ipaddress.IPv4Address, _own(name)))
        packet = Packet(device=name, own=own)
        sources = [(None, ""), *((old, str(new)) for old, new in friends)]
        wanted = _with_accepted(_without(strays, derive(four, packet, sources, six)), request)
        packet = Packet(device=name, own=None, known=known, generous=True)
        found = derive(six, packet, [(None, ""), *((new, str(new)) for new in known)], four)
        yield replace(wanted, device="" if name == device else name), found


def _wider(own: Policy, wanted: Policy) -> bool:
    """Whether OWN lets anything in that WANTED does not."""
    more = (_less(one, other) for one, other in zip(own.openings, wanted.openings))
    return (own.rest and not wanted.rest) or any(each != Opening() for each in more)


def _kept_out(wanted: Policy, own: Policy) -> Iterator[str]:
    """Yield sentences on what the host's OWN rules for IPv6 do not let in, although WANTED has it."""
    where = f" on {wanted.device}" if wanted.device else ""
    for one, other in zip(wanted.openings, own.openings):
        missing = _less(one, other)
        for name, ranges in (("TCP", missing.tcp), ("UDP", missing.udp)):
            if ranges:
                spans = ", ".join(_range(*span) for span in ranges)
                yield (
                    f"the host's own rules for IPv6 keep out {name} {spans} from {one.source or 'everybody'}{where}; "
                    "where that is not meant, open it there"
                )


def _with_accepted(policy: Policy, request: Request) -> Policy:
    """Return POLICY and what the operator accepts on top."""
    spans = [(item["protocol"], _span(str(item["port"]))) for item in request.accept]
    tcp, udp = ([span for name, span in spans if name == wanted] for wanted in ("tcp", "udp"))
    general, *special = policy.openings
    opened = replace(general, tcp=_joined(general.tcp, tcp), udp=_joined(general.udp, udp))
    return replace(policy, openings=(opened, *special))


def _without(strays: Sequence[int], policy: Policy) -> Policy:
    """Return POLICY without STRAYS, the ports that only IPv6 listens on: no rule for IPv4 has them in mind."""
    closed = tuple((port, port) for port in strays)
    openings = tuple(replace(each, tcp=_subtracted(each.tcp, closed)) for each in policy.openings)
    notes = tuple(f"TCP port {port} listens on IPv6 and not on IPv4; accept it by name to open it" for port in strays)
    return replace(policy, openings=openings, notes=policy.notes + notes)


def strays_of(listing: str) -> list[int]:
    """Return the TCP ports that LISTING, of ``ss -Hltn``, shows on IPv6 addresses of the network only."""
    found: dict[bool, set[int]] = {True: set(), False: set()}
    for line in listing.splitlines():
        address, _colon, port = line.split()[3].rpartition(":")
        address = address.split("%")[0].strip("[]")
        # A socket of both families is shown as `*`.
        if not address.startswith(("127.", "fe80:")) and address != "::1":
            found[":" in address].add(int(port))
    return sorted(found[True] - found[False])


def _span(text: str) -> tuple[int, int]:
    low, _dash, high = text.partition("-")
    return int(low), int(high or low)


def _joined(ranges: Ranges, more: Iterable[tuple[int, int]]) -> Ranges:
    found: list[tuple[int, int]] = []
    for low, high in sorted([*ranges, *more]):
        if found and low <= found[-1][1] + 1:
            found[-1] = (found[-1][0], max(high, found[-1][1]))
        else:
            found.append((low, high))
    return tuple(found)


def _default_device() -> str:
    """Return the interface of the IPv4 default route; a router may have none, then it is no particular one."""
    names = dict(socket.if_nameindex())
    for here in sorted(_rtnetlink.routes(socket.AF_INET), key=lambda route: route.metric):
        if not here.length and here.kind == _rtnetlink.UNICAST:
            return names.get(here.gateways[0][1], "")
    return ""


def _own(device: str) -> list[str]:
    """Return the IPv4 addresses of DEVICE, or of all interfaces but lo."""
    names = dict(socket.if_nameindex())
    return [
        socket.inet_ntop(socket.AF_INET, address.address)
        for address in _rtnetlink.addresses(socket.AF_INET)
        if names.get(address.index) == device or (not device and names.get(address.index) != "lo")
    ]


def _listing() -> str:
    """Return our table as the kernel has it; empty when it is not there."""
    done = run_command([NFT, "-s", "list", *TABLE])
    return "" if done.rc else done.output


def _must_be_valid(text: str, store: Store) -> None:
    write_file(FileState(store.file("new.nft"), text.encode(), 0o600))
    _must_run([NFT, "-c", "-f", store.file("new.nft")])


def _must_run(command: Sequence[str]) -> None:
    done = run_command(command)
    if done.rc:
        raise DualStackError(f"{' '.join(command)}: {done.output}")


def _result(planned: Plan, left: Leftover, changes: Sequence[tuple[FileState, FileState]]) -> dict[str, object]:
    return {
        "changed": False,
        "rollback": left.state,
        "rollback_detail": left.text,
        "filtered": bool(planned.table),
        "own_rules": planned.own_rules,
        "openings": [
            {
                "device": policy.device,
                "source": each.source or "::/0",
                "tcp": [_range(*span) for span in each.tcp],
                "udp": [_range(*span) for span in each.udp],
                "protocols": list(each.others),
            }
            for policy in planned.policies
            for each in policy.openings
        ],
        "notes": list(planned.notes),
        "makers": makers(),
        "files": [after.path for _was, after in changes],
        "diff": [
            {
                "before_header": after.path,
                "after_header": after.path,
                "before": (was.content or b"").decode("utf-8", "replace"),
                "after": (after.content or b"").decode("utf-8", "replace"),
            }
            for was, after in changes
        ],
    }


def _confirm(_request: Request, store: Store, check: bool) -> dict[str, object]:
    result = confirmed(store, check)
    if result["changed"] and not check:
        for name in ("before.nft", "new.nft"):
            store.remove(name)
    return result


def _revert(_request: Request, store: Store, check: bool) -> dict[str, object]:
    left = settle(store, check)
    refuse_edited(store, "our table")
    kept, live = store.originals.load(), _listing()
    if not check and (kept or live):
        revert(store, [[NFT, "delete", *TABLE]] if live else [], [["systemctl", "daemon-reload"]])
    return {"changed": bool(kept or live), "rollback": left.state, "files": sorted(kept)}


def _gather(request: Request, store: Store, _dry: bool) -> dict[str, object]:
    return _result(plan(request), leftover(store), [])


_ACTIONS = {"applied": _apply, "confirmed": _confirm, "reverted": _revert, "gathered": _gather}
