# SPDX-License-Identifier: GPL-3.0-or-later
"""Commit-confirmed changes of a host's IPv6 addresses and routes. IPv4 is looked at, never touched."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from . import _netplan, _rtnetlink, _undo
from ._backends import (
    AS_IT_IS,
    RELOAD,
    SETTINGS,
    SYSCTL_DIRECTORY,
    Backend,
    declared,
    detect,
    is_wedged,
    note_as_up,
    paths,
    plan_files,
    reload_commands,
    reload_keeps_ipv4,
    strangers,
    unsettled,
)
from ._command import run as run_command
from ._disabled import diagnose
from ._errors import DualStackError, InputError
from ._files import FileState, read_file, write_file
from ._network import Observed, Steps, Wanted, missing, ours, parse_wanted, plan_live, to_record
from ._rollback import Store, arm, confirmed, leftover, own, refuse_edited, revert, settle, undo_now
from ._routes import PROTOCOL_NAMES, address_text, prefix_text
from ._rtnetlink import UNREACHABLE

SYSCTL = "/proc/sys/net/ipv6/conf"
SETTLE_SECONDS = 10.0
# Three solicitations, one a second (RFC 4861 section 10).
NEIGHBOUR_SECONDS = 3.5
_POLL = 0.05
_MARK = "as-it-is"
_DEVICES = "/sys/class/net"
_NEIGHBOURS = "/proc/sys/net/ipv6/neigh/default"
_ARP = "/proc/net/arp"
_UP = 1  # IFF_UP, see netdevice(7)
_MAC = re.compile(r"[0-9a-fA-F]{2}(:[0-9a-fA-F]{2}){5}")


@dataclass(frozen=True)
class Request:
    """What one run of the module asks for."""

    state: str = "applied"
    device: str = ""
    addresses: Sequence[Mapping[str, object]] = ()
    routes: Sequence[Mapping[str, object]] = ()
    window: int = 60
    backend: str = "auto"


def run(request: Request, check: bool = False, store: Store | None = None) -> dict[str, object]:
    """Carry REQUEST out (with CHECK: only say what would happen) and return the module's result."""
    store = store or Store()
    if request.state == "gathered":
        return _gather(request, store)
    if check:
        return _ACTIONS[request.state](request, store, True)
    with store.locked():
        return _ACTIONS[request.state](request, store, False)


def _apply(request: Request, store: Store, check: bool) -> dict[str, object]:
    if request.window < 5:
        raise InputError([f"window {request.window} is too short for a new connection: give at least 5 seconds"])
    observed = _observe()
    main = _default_device(observed.indexes)
    device = _named_device(request.device, main, observed.indexes)
    wanted = parse_wanted(device, request.addresses, request.routes, observed.indexes.keys())
    left = settle(store, check)
    if left.state == "fired":
        observed = _observe()
    idle = _check_enabled(wanted)
    backends = {each.device: detect(each.device, observed.indexes, request.backend, main=main) for each in wanted}
    owned = {each.device: _owned(store, each.device, observed.indexes) for each in wanted}
    parts = {each.device: plan_live(each, observed, owned[each.device]) for each in wanted}
    steps = _join(list(parts.values()))
    changes = _plan_files([_to_write(each, backends[each.device], owned[each.device]) for each in wanted], backends)
    _netplan.check(after for _before, after in changes)
    settings = [setting for each in wanted for setting in _settings(each.device)]
    managed = [each for each in wanted if backends[each.device].by_networkd]
    reload, warnings = _reload([after for _, after in changes], [(each, owned[each.device]) for each in managed])
    commands = _all_commands(steps, settings, reload)
    wedged, told = _wedged(wanted, backends)
    warnings += [*told, *idle, *_unruly(backends), *_crowded()]
    commands += [" ".join(note_as_up(name, store.file(_MARK))) for name in wedged]
    result: dict[str, object] = {
        "changed": bool(commands or changes),
        "rollback": left.state,
        "rollback_detail": left.text,
        "device": device,
        "backend": backends[device].name,
        "commands": commands,
        "files": [after.path for _before, after in changes],
        "diff": _diff(steps, changes),
        "warnings": warnings,
    }
    record = {each.device: to_record(ours(each, owned[each.device], parts[each.device])) for each in wanted}
    if not result["changed"]:
        if not check and record != {name: to_record(each) for name, each in owned.items()}:
            own(store, record)
        return result
    if check:
        return result
    deadline = arm(
        store,
        request.window,
        commands=steps.undo,
        reload=reload,
        changes=changes,
        settings=[(setting, before) for setting, before, _value in settings],
        owned=record,
        more=_more(wanted, [after.path for _before, after in changes]),
    )
    ipv4 = {each.device: _ipv4(each.device) for each in wanted}
    try:
        _go(wanted, steps, changes, settings=settings, reload=reload, managed=managed)
        for name, backend in backends.items():
            backend.check(name)
        problems = _lost(ipv4)
        if problems:
            raise DualStackError("; ".join(problems))
        _note(wedged, store.file(_MARK))
    except BaseException as error:
        problems = [*undo_now(store), *_lost(ipv4, SETTLE_SECONDS)]
        if not isinstance(error, (DualStackError, OSError)):
            raise
        details = {"rollback": left.state, **(error.details if isinstance(error, DualStackError) else {})}
        end = "; ".join(problems) or "everything was put back"
        raise DualStackError(f"{error}. {end}", **details) from error
    confirm_by = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(deadline))
    return {**result, "confirm_by": confirm_by, "warnings": [*warnings, *_silent(wanted)]}


def _wedged(wanted: Sequence[Wanted], backends: Mapping[str, Backend]) -> tuple[list[str], list[str]]:
    """Return the interfaces that ifupdown has lost sight of, and a warning about them."""
    found = [each.device for each in wanted if _ipv4(each.device) and is_wedged(backends[each.device], each.device)]
    told = (
        f"ifupdown counts {', '.join(found)} as not configured after an ifup that failed, though IPv4 works: "
        "neither ifup nor ifdown would work on it. It is noted as configured; nothing else is touched"
    )
    return found, [told] if found else []


def _note(wedged: Sequence[str], mark: str) -> None:
    """Have ifupdown count WEDGED interfaces as configured again, by the file MARK."""
    if wedged:
        write_file(FileState(mark, "".join(AS_IT_IS.format(device=name) for name in wedged).encode()))
        for name in wedged:
            _must_run(note_as_up(name, mark))
        os.unlink(mark)


def _more(parts: Sequence[Wanted], files: Iterable[str]) -> dict[str, object]:
    """Return what the way back needs to find interfaces that are renamed, and IPv4 that somebody has taken away.

    At boot netplan has made its files of FILES before they go back, and must do it again.
    """
    names = {each.device for each in parts} | {address.device for each in parts for address in each.addresses}
    boot = [words for words in reload_commands(files) if words not in RELOAD]
    return {"devices": {name: socket.if_nametoindex(name) for name in names}, "ipv4": _undo.save_ipv4(), "boot": boot}


def _reload(files: Sequence[FileState], managed: Sequence[tuple[Wanted, Wanted]]) -> tuple[list[list[str]], list[str]]:
    """Return what makes networkd read FILES now, and warnings where that has to wait.

    Reading them, networkd would remove what others put on the interface: the IPv4 address of VRRP above all. The kernel
    has everything already, so the files wait for the next start.
    """
    commands = reload_commands(state.path for state in files)
    if not commands:
        return [], []
    later = [words for words in commands if words not in RELOAD]
    warnings = []
    if not reload_keeps_ipv4():
        devices = ", ".join(wanted.device for wanted, _owned in managed)
        return later, [
            f"systemd-networkd reads its new files for {devices} at its next start: before version 257, reading them "
            "takes the interface's IPv4 address away for a moment. Until then it heeds router advertisements"
        ]
    for wanted, owned in managed:
        found = strangers(wanted, owned)
        if found:
            more = f" and {len(found) - 3} more" if len(found) > 3 else ""
            warnings.append(
                f"systemd-networkd reads its new files for {wanted.device} at its next start: reading them now would "
                f"remove {', '.join(found[:3])}{more}"
            )
    return (later if warnings else commands), warnings


def _join(parts: Sequence[Steps]) -> Steps:
    """Return the steps of all interfaces in order; the way back is walked from the end."""
    commands = [command for part in parts for command in part.commands]
    undo = [command for part in reversed(parts) for command in part.undo]
    return Steps(tuple(_unique(commands)), tuple(_unique(undo)))


def _plan_files(wanted: Sequence[Wanted], backends: Mapping[str, Backend]) -> list[tuple[FileState, FileState]]:
    """Return (before, after) of each file; interfaces may share one."""
    before: dict[str, FileState] = {}
    now: dict[str, FileState] = {}
    for each in wanted:
        # Behind a symbolic link a file has another path.
        found = {path: read_file(path) for path in paths(backends[each.device], each.device)}
        for state in found.values():
            before.setdefault(state.path, state)
        at_hand = {path: now.setdefault(state.path, state) for path, state in found.items()}
        now.update({was.path: after for was, after in plan_files(backends[each.device], each, at_hand)})
    return [(before[path], after) for path, after in now.items() if before[path] != after]


def _to_write(wanted: Wanted, backend: Backend, owned: Wanted) -> Wanted:
    """Return WANTED without what stands in other files already."""
    there = declared(backend, wanted, owned)
    return replace(
        wanted,
        addresses=tuple(each for each in wanted.addresses if each not in there.addresses),
        routes=tuple(each for each in wanted.routes if each not in there.routes),
    )


def _unique(commands: Iterable[list[str]]) -> list[list[str]]:
    return [list(words) for words in dict.fromkeys(tuple(words) for words in commands)]


def _go(
    wanted: Sequence[Wanted],
    steps: Steps,
    changes: Sequence[tuple[FileState, FileState]],
    *,
    settings: Sequence[tuple[str, str, str]],
    reload: Sequence[list[str]],
    managed: Sequence[Wanted],
) -> None:
    for setting, _old, value in settings:
        with open(setting, "w", encoding="ascii") as stream:
            stream.write(value)
    for command in steps.commands:
        _must_run(command)
    _wait(wanted)
    for _before, after in changes:
        write_file(after)
    for command in reload:
        _must_run(command)
    if any(words in RELOAD for words in reload):
        _wait(wanted, managed)


def _silent(wanted: Sequence[Wanted]) -> list[str]:
    """Return a warning for each next hop that does not answer neighbour discovery (RFC 4861 section 7.2)."""
    hops = sorted({(address_text(route.via), route.device) for each in wanted for route in each.routes if route.via})
    for via, device in hops:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as asker, contextlib.suppress(OSError):
            # Anything that is sent has the kernel look for the router; it drops what comes to the port discard.
            asker.sendto(b"", (via, 9, 0, socket.if_nametoindex(device)))
    end = time.monotonic() + NEIGHBOUR_SECONDS
    while True:
        silent = [(via, device) for via, device in hops if not _is_neighbour(via, device)]
        if not silent or time.monotonic() > end:
            return [
                f"the router {via} does not answer on {device}: IPv6 to other networks will not work until it does"
                for via, device in silent
            ]
        time.sleep(_POLL)


def _is_neighbour(via: str, device: str) -> bool:
    return "lladdr" in run_command(["ip", "-6", "neighbour", "show", "to", via, "dev", device]).output


def _must_run(command: Sequence[str]) -> None:
    done = run_command(command)
    if done.rc:
        raise DualStackError(f"{' '.join(command)}: {done.output}")


def _wait(wanted: Sequence[Wanted], managed: Sequence[Wanted] = ()) -> None:
    """Wait until the kernel has all of WANTED and has checked it, and networkd has made MANAGED its own."""
    end = time.monotonic() + SETTLE_SECONDS
    while True:
        observed = _observe()
        problems = [problem for each in wanted for problem in missing(each, observed)]
        problems += [problem for each in managed for problem in unsettled(each)]
        if not problems:
            return
        if time.monotonic() > end:
            raise DualStackError(f"after {SETTLE_SECONDS:g} s {'; '.join(problems)}")
        time.sleep(_POLL)


def _confirm(_request: Request, store: Store, check: bool) -> dict[str, object]:
    return confirmed(store, check)


def _revert(_request: Request, store: Store, check: bool) -> dict[str, object]:
    left = settle(store, check)
    refuse_edited(store, "our lines")
    observed = _observe()
    record = store.load("record.json") or {}
    devices = [device for device in record.get("owned", {}) if device in observed.indexes]
    pairs = [(Wanted(device), _owned(store, device, observed.indexes)) for device in devices]
    commands = [command for nothing, owned in pairs for command in plan_live(nothing, observed, owned).commands]
    originals = store.originals.load()
    files = [(read_file(path), original) for path, (original, _ours) in originals.items()]
    changes = [(now, original) for now, original in files if now != original]
    reload, warnings = _reload([original for original, _ours in originals.values()], pairs)
    result = {
        "changed": bool(commands or changes),
        "rollback": left.state,
        "rollback_detail": left.text,
        "commands": [" ".join(words) for words in [*commands, *reload]],
        "files": [original.path for _now, original in changes],
        "diff": _diff(Steps(tuple(commands)), changes),
        "warnings": warnings,
    }
    if not check and (record or originals):
        ipv4 = {device: _ipv4(device) for device in devices}
        revert(store, commands, reload, _more([owned for _nothing, owned in pairs], originals))
        problems = _lost(ipv4, SETTLE_SECONDS)
        if problems:
            raise DualStackError(f"IPv6 is as it was before, but {'; '.join(problems)}", problems=problems)
    return result


_ACTIONS = {"applied": _apply, "confirmed": _confirm, "reverted": _revert}


def _gather(request: Request, store: Store) -> dict[str, object]:
    observed = _observe()
    main = _default_device(observed.indexes)
    device = _named_device(request.device, main, observed.indexes)
    names = {index: name for name, index in observed.indexes.items()}
    try:
        backend = detect(device, observed.indexes, request.backend, main=main).name
    except DualStackError:
        backend = "unknown"
    left = leftover(store)
    return {
        "changed": False,
        "device": device,
        "backend": backend,
        "rollback": left.state,
        "rollback_detail": left.text,
        "addresses": [
            {
                "address": f"{address_text(address.address)}/{address.length}",
                "device": names.get(address.index, str(address.index)),
                "flags": sorted(address.flags),
            }
            for address in observed.addresses
        ],
        "routes": [
            {
                "dest": prefix_text(here.dest, here.length),
                "via": address_text(gateway) if gateway else "",
                "device": names.get(index, ""),
                "type": "unreachable" if here.kind == UNREACHABLE else "unicast",
                "metric": here.metric,
                "protocol": PROTOCOL_NAMES.get(here.protocol, str(here.protocol)),
            }
            for here in observed.routes
            for gateway, index in here.gateways
        ],
    }


def _observe() -> Observed:
    return Observed(
        {name: index for index, name in socket.if_nameindex()},
        _rtnetlink.addresses(),
        list(_rtnetlink.routes()),
        [name for _index, name in socket.if_nameindex() if not _link(name, "flags", 16) & _UP],
    )


def _link(device: str, name: str, base: int) -> int:
    return int(_read_setting(f"{_DEVICES}/{device}/{name}") or "0", base)


def _ipv4(device: str) -> set[str]:
    index = socket.if_nametoindex(device)
    family = socket.AF_INET
    found = {
        f"{socket.inet_ntop(family, address.address)}/{address.length}"
        for address in _rtnetlink.addresses(family)
        if address.index == index
    }
    for here in _rtnetlink.routes(family):
        for gateway, out in here.gateways:
            if out == index:
                via = f" via {socket.inet_ntop(family, gateway)}" if gateway else ""
                found.add(f"route {socket.inet_ntop(family, here.dest)}/{here.length}{via}")
    return found


def _lost(before: Mapping[str, set[str]], patience: float = 0.0) -> list[str]:
    """Return the IPv4 configuration that interfaces had BEFORE and have not, after PATIENCE seconds at most."""
    end = time.monotonic() + patience
    while True:
        gone = {device: sorted(had - _ipv4(device)) for device, had in before.items()}
        problems = [
            f"{device} lost {', '.join(each)} of its IPv4 configuration" for device, each in gone.items() if each
        ]
        if not problems or time.monotonic() > end:
            return problems
        time.sleep(_POLL)


def _default_device(indexes: Mapping[str, int]) -> str:
    """Return the interface of the IPv4 default route; empty without one."""
    names = {index: name for name, index in indexes.items()}
    best = sorted(
        (here.metric, names.get(here.gateways[0][1], ""))
        for here in _rtnetlink.routes(socket.AF_INET)
        if not here.length and here.kind == _rtnetlink.UNICAST
    )
    return best[0][1] if best else ""


def _named_device(given: str, main: str, indexes: Mapping[str, int]) -> str:
    """Return the interface called GIVEN or with that MAC address; MAIN if nothing is given; or raise."""
    hardware = {name: _read_setting(f"{_DEVICES}/{name}/address") for name in sorted(indexes)}
    there = ", ".join(f"{name} ({address})" if address else name for name, address in hardware.items())
    if not (given or main):
        raise InputError([f"this host has no IPv4 default route: name the device, one of {there}"])
    if not _MAC.fullmatch(given):
        name = given or main
        if name not in indexes:
            raise InputError([f"device {name} is not on this host: it has {there}"])
        return name
    # The ports of a bond have its address too.
    found = [name for name, address in hardware.items() if address == given.lower()]
    found = [name for name in found if not os.path.exists(f"{_DEVICES}/{name}/master")]
    if not found:
        raise InputError([f"no device of this host has the MAC address {given}: it has {there}"])
    if len(found) > 1:
        raise InputError([f"the MAC address {given} is that of {' and '.join(found)}: give the name of one of them"])
    return found[0]


def _owned(store: Store, device: str, indexes: Mapping[str, int]) -> Wanted:
    """Return what we own on DEVICE; an interface that is gone took its part along."""
    record = (store.load("record.json") or {}).get("owned", {}).get(device)
    if not record or device not in indexes:
        return Wanted(device)
    mine = parse_wanted(device, record["addresses"], record["routes"], indexes.keys())[0]
    return replace(mine, raised=record.get("raised", False))


def _check_enabled(wanted: Sequence[Wanted]) -> list[str]:
    """Refuse interfaces that have IPv6 switched off; return what only looks so."""
    devices = {each.device for each in wanted} | {item.device for each in wanted for item in each.addresses}
    problems, idle = diagnose(sorted(devices))
    if problems:
        raise InputError(problems)
    return idle


def _crowded() -> list[str]:
    """Return a warning if the machines on the host's links do not fit into the kernel's table for IPv6.

    Those that speak IPv4 with this host are in arp(7)'s table; each will have a global and a link-local address.
    """
    limit = int(_read_setting(f"{_NEIGHBOURS}/gc_thresh3") or "0")
    machines = len(_read_setting(_ARP).splitlines()[1:])
    if not limit or 2 * machines < limit:
        return []
    return [
        f"this host has {machines} neighbours over IPv4, which need two entries each over IPv6, and "
        f"net.ipv6.neigh.default.gc_thresh3 = {limit}: raise it in {SYSCTL_DIRECTORY}, see arp(7)"
    ]


def _settings(device: str) -> list[tuple[str, str, str]]:
    """Return (file, value now, value wanted) of the kernel settings that differ and can be written."""
    # A container may forbid writing here; what then remains is told at the end.
    return [entry for entry in _deviating(device) if os.access(entry[0], os.W_OK)]


def _deviating(device: str) -> list[tuple[str, str, str]]:
    found = [(f"{SYSCTL}/{device}/{name}", value) for name, value in SETTINGS.items()]
    differ = [(path, now, value) for path, value in found if (now := _read_setting(path)) not in ("", value)]
    # An interface that networkd makes at boot has the kernel's autoconf: without advertisements it does nothing.
    return (
        differ
        if any(path.endswith("/accept_ra") for path, _now, _value in differ)
        else [entry for entry in differ if not entry[0].endswith("/autoconf")]
    )


def _unruly(devices: Iterable[str]) -> list[str]:
    """Return warnings of settings that count and cannot be written."""
    warnings = []
    for device in devices:
        left = [(path, now) for path, now, _value in _deviating(device) if not os.access(path, os.W_OK)]
        said = ", ".join(f"{os.path.basename(path)} = {now}" for path, now in left)
        if said:
            warnings.append(
                f"{device} has {said}, and this host may not write {SYSCTL}: it can take addresses from router "
                "advertisements until whoever runs this container sets these to 0"
            )
    return warnings


def _read_setting(path: str) -> str:
    try:
        with open(path, encoding="ascii") as stream:
            return stream.read().strip()
    except OSError:
        return ""


def _all_commands(steps: Steps, settings: Sequence[tuple[str, str, str]], reload: Sequence[Sequence[str]]) -> list[str]:
    first = [f"sysctl -w {path[len('/proc/sys/') :]}={value}" for path, _before, value in settings]
    return first + [" ".join(words) for words in [*steps.commands, *reload]]


def _diff(steps: Steps, changes: Sequence[tuple[FileState, FileState]]) -> list[dict[str, str]]:
    entries = []
    if steps.commands:
        gone = "".join(f"{' '.join(words[4:])}\n" for words in steps.commands if words[3] == "del")
        new = "".join(f"{' '.join(words[4:])}\n" for words in steps.commands if words[3] == "replace")
        entries.append(_entry("kernel", gone, new))
    for before, after in changes:
        was, will = ((state.content or b"").decode("utf-8", "replace") for state in (before, after))
        entries.append(_entry(before.path, was, will))
    return entries


def _entry(label: str, before: str, after: str) -> dict[str, str]:
    return {"before_header": label, "after_header": label, "before": before, "after": after}
