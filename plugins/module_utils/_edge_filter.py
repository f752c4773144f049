# SPDX-License-Identifier: GPL-3.0-or-later
"""The ingress filter of an edge router (RFC 2827, RFC 3704): who may use which source address, as a file for nft(8)."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeVar

from ._addresses import BITS, Prefix, parse_prefix, text
from ._errors import DualStackError, InputError

TABLE = "dualstack_edge"
_DEVICE = re.compile(r'[^\s/"]{1,15}')
_MAC = re.compile(r"[0-9a-f]{2}([:-][0-9a-f]{2}){5}")

T = TypeVar("T")
Owners = Mapping[Prefix, frozenset[str]]


def parse_mac(value: object) -> str:
    """Return VALUE, a hardware address of one interface, as nft(8) writes it."""
    if not isinstance(value, str):
        raise DualStackError(f"{value!r} is no text: put the hardware address in quotes")
    mac = value.strip().lower()
    if not _MAC.fullmatch(mac):
        raise DualStackError(f"{value!r} is no hardware address: give six octets, such as 02:00:5e:10:00:01")
    mac = mac.replace("-", ":")
    if int(mac[:2], 16) & 1 or mac == "00:00:00:00:00:00":
        raise DualStackError(f"{value!r} is no address of one interface: give what `ip link` shows for the machine")
    return mac


def owners_of(machines: Iterable[Mapping[str, object]]) -> list[dict[str, object]]:
    """Return who owns which source addresses, from the host variables of MACHINES.

    Each entry has ``prefix`` (a /128 for the machine's own address) and ``mac``, a list. Machines without
    ``dualstack_mac`` or without a record of the plan have none.
    """
    found: list[dict[str, object]] = []
    problems: list[str] = []
    for variables in machines:
        record, given = variables.get("dualstack"), variables.get("dualstack_mac")
        if not given or not isinstance(record, Mapping):
            continue
        macs = []
        for value in given if isinstance(given, (list, tuple)) else [given]:
            try:
                macs.append(parse_mac(value))
            except DualStackError as error:
                problems.append(f"{variables.get('inventory_hostname', '?')}: dualstack_mac: {error}")
        prefixes = [f"{record['address']}/128", record.get("delegated_prefix"), *record.get("routed_vhosts", ())]
        found += [{"prefix": prefix, "mac": macs} for prefix in prefixes if prefix]
    if problems:
        raise InputError(problems)
    return found


def parse_owners(entries: Iterable[Mapping[str, object]]) -> dict[Prefix, frozenset[str]]:
    """Return {prefix: hardware addresses} of ENTRIES, each with ``prefix`` and ``mac`` (a list)."""
    owners: dict[Prefix, frozenset[str]] = {}
    problems: list[str] = []
    for entry in entries:
        try:
            prefix = parse_prefix(entry.get("prefix"))
            given = entry.get("mac")
            macs = frozenset(map(parse_mac, given if isinstance(given, (list, tuple)) else [given]))
            owners[prefix] = owners.get(prefix, frozenset()) | macs
        except DualStackError as error:
            problems.append(f"owner of {entry.get('prefix')!r}: {error}")
    if problems:
        raise InputError(problems)
    return owners


def render(
    owners: Iterable[Mapping[str, object]],
    device: str,
    uplink: str = "",
    inside: Iterable[object] = (),
    routers: Iterable[object] = (),
) -> str:
    """Return the table as a file that nft(8) loads in one step, whatever was in it; its counters go on.

    OWNERS: entries with ``prefix`` and ``mac``, of machines behind DEVICE. INSIDE: our prefixes, which are no source on
    UPLINK. ROUTERS: hardware addresses whose packets pass, since they forward the packets of others.
    """
    problems = [
        f"device {name!r} is no name of an interface: give one that `ip link` shows"
        for name in (device, *([uplink] if uplink else []))
        if not _DEVICE.fullmatch(name)
    ]
    known: Owners = {}
    try:
        known = parse_owners(owners)
    except InputError as error:
        problems += error.problems
    ours = _all("inside", parse_prefix, inside, problems)
    peers = _all("router", parse_mac, routers, problems)
    if problems:
        raise InputError(problems)
    return _file(known, (device, uplink), ours, peers)


def _all(place: str, parse: Callable[[object], T], values: Iterable[object], problems: list[str]) -> list[T]:
    """Return VALUES parsed; what is wrong with them is added to PROBLEMS."""
    found = []
    for value in values:
        try:
            found.append(parse(value))
        except DualStackError as error:
            problems.append(f"{place}: {error}")
    return found


def _file(owners: Owners, devices: tuple[str, str], inside: Sequence[Prefix], routers: Sequence[str]) -> str:
    lengths = sorted({prefix.length for prefix in owners}, reverse=True)
    sets = {name: body for length in lengths for name, body in _sets(owners, length).items()}
    sets["routers"] = (["type ether_addr"], sorted(set(routers)))
    sets["inside"] = (["type ipv6_addr", "flags interval", "auto-merge"], [str(one) for one in sorted(set(inside))])
    chains = _chains(devices, [rule for length in lengths for rule in _rules(length)])
    declared = [*_KEPT, *(_block(f"set {name}", kind) for name, (kind, _elements) in sets.items())]
    declared += [_block(f"chain {name}", [_HOOK] if name == "ingress" else []) for name in chains]
    filled = [
        # One a line, so that a diff shows what changed.
        _block(f"set {name}", [*kind, "elements = {", *(f"{one}," for one in elements), "}"])
        for name, (kind, elements) in sets.items()
        if elements
    ]
    filled += [_block(f"chain {name}", rules) for name, rules in chains.items()]
    flushed = [f"flush table ip6 {TABLE}", *(f"flush set ip6 {TABLE} {name}" for name in sets)]
    return "\n".join(
        [_HEADER, _block(f"table ip6 {TABLE}", declared), *flushed, _block(f"table ip6 {TABLE}", filled), ""]
    )


def _block(head: str, lines: Iterable[str]) -> str:
    return "\n".join([f"{head} {{", *lines, "}"])


def _sets(owners: Owners, length: int) -> dict[str, tuple[list[str], list[str]]]:
    """Return {name: (type, elements)} for the prefixes of LENGTH bits: with their owners, and alone."""
    named = [(text(prefix.value), sorted(owners[prefix])) for prefix in sorted(owners) if prefix.length == length]
    return {
        f"own_{length}": (["type ipv6_addr . ether_addr"], [f"{name} . {mac}" for name, macs in named for mac in macs]),
        f"owned_{length}": (["type ipv6_addr"], [name for name, _macs in named]),
    }


def _rules(length: int) -> list[str]:
    source = "ip6 saddr" if length == BITS else f"ip6 saddr & {text((1 << BITS) - (1 << (BITS - length)))}"
    return [f"{source} . ether saddr @own_{length} accept", f"{source} @owned_{length} goto not_the_owner"]


def _chains(devices: tuple[str, str], machines: Sequence[str]) -> dict[str, list[str]]:
    device, uplink = devices
    # The set may be full: dropping does not depend on it.
    dropped = {name: [_OFFENDER, f"counter name {name} drop"] for name in ("not_the_owner", "no_route_back")}
    entry = ["ether saddr @routers accept", f'iifname "{device}" goto machines']
    return {
        **dropped,
        # Link-local sources, which neighbour discovery, VRRP and OSPF have, are not forwarded (RFC 4291 section 2.5.6);
        # nor is the unspecified one of duplicate address detection.
        "machines": ["ip6 saddr { ::, fe80::/10 } accept", *machines, "fib saddr . iif oif missing goto no_route_back"],
        "uplink": ["ip6 saddr @inside counter name own_prefix_outside drop"],
        "ingress": [*entry, f'iifname "{uplink}" goto uplink'] if uplink else entry,
    }


_HEADER = "# Made by dualstack.fleet.edge_router: which source addresses may come in, and from whom."
_HOOK = "type filter hook prerouting priority raw; policy accept;"
_OFFENDER = "update @offenders { ether saddr . ip6 saddr }"
# What stays over a change.
_KEPT = [
    *(_block(f"counter {name}", []) for name in ("not_the_owner", "no_route_back", "own_prefix_outside")),
    _block("set offenders", ["type ether_addr . ipv6_addr", "size 1024", "flags dynamic,timeout", "timeout 1h"]),
]
