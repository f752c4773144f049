# SPDX-License-Identifier: GPL-3.0-or-later
"""What a host's packet filter lets in, asked packet by packet.

The rules of nftables and of iptables become one form, in which a question has three answers: a rule matches, does not,
or perhaps. IPv4 is asked cautiously: what is not certain to come in does not. IPv6 is asked generously: what may come
in does. So a mistake can only close.
"""

from __future__ import annotations

import fnmatch
import ipaddress
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Union

ACCEPT, DROP = "accept", "drop"
YES, NO, PERHAPS = "yes", "no", "perhaps"
PROTOCOLS = {"icmp": 1, "tcp": 6, "udp": 17, "gre": 47, "esp": 50, "ah": 51, "ospf": 89, "vrrp": 112, "sctp": 132}
PROTOCOLS.update({"ipv6-icmp": 58, "icmpv6": 58, "udplite": 136, "dccp": 33, "igmp": 2, "ipip": 4, "all": 0})
HOOKS = ("prerouting", "input")
Network = Union[ipaddress.IPv4Network, ipaddress.IPv6Network]
Address = Union[ipaddress.IPv4Address, ipaddress.IPv6Address]


@dataclass(frozen=True)
class Match:
    """One condition: KIND of field, VALUES of which one must be met, or none when NEGATED."""

    kind: str
    values: tuple[Any, ...] = ()
    negated: bool = False


@dataclass(frozen=True)
class Rule:
    """Conditions and what happens: ``accept``, ``drop``, ``return``, ``jump``, ``goto`` or nothing."""

    matches: tuple[Match, ...]
    action: str = ""
    target: str = ""
    text: str = ""


@dataclass
class Table:
    """Chains by name; BASES are (chain, policy) of those that the kernel enters."""

    name: str
    chains: dict[str, list[Rule]] = field(default_factory=dict)
    bases: list[tuple[str, str]] = field(default_factory=list)


@dataclass(frozen=True)
class Packet:
    """The first packet of a connection that comes in. Without SOURCE it is a stranger's, whom no rule names.

    OWN are the host's addresses; None means that nobody knows them yet. KNOWN networks are no stranger's.
    """

    protocol: int = 0
    port: int | None = None
    device: str = ""
    source: Network | None = None
    own: tuple[Address, ...] | None = ()
    known: tuple[Network, ...] = ()
    generous: bool = False


@dataclass(frozen=True)
class Answer:
    """What becomes of the packet, and the rules on the way that were not understood, or that limit the rate."""

    verdict: str
    doubts: tuple[str, ...] = ()
    limits: tuple[str, ...] = ()


def ask(tables: Sequence[Table], packet: Packet) -> Answer:
    """Return what TABLES do with PACKET: one drop is final, an accept is not."""
    seen = _Seen()
    for table in tables:
        for chain, policy in table.bases:
            if (_walk(table, chain, packet, seen) or policy) == DROP:
                return seen.answer(DROP)
    return seen.answer(ACCEPT)


@dataclass
class _Seen:
    """The texts of the rules that a walk has to tell of."""

    doubts: list[str] = field(default_factory=list)
    limits: list[str] = field(default_factory=list)

    def answer(self, verdict: str) -> Answer:
        return Answer(verdict, tuple(self.doubts), tuple(self.limits))


def _walk(table: Table, chain: str, packet: Packet, seen: _Seen, depth: int = 0) -> str:
    """Return the verdict of CHAIN, empty when it returns."""
    # The verdict that counts where a rule matches perhaps; the other one does not.
    counts = ACCEPT if packet.generous else DROP
    left = False
    for rule in table.chains.get(chain, []) if depth < 32 else []:
        thinned = tuple(match for match in rule.matches if match.kind != "rate")
        if not rule.action or _meets(thinned, packet) == NO:
            continue
        met = _meets(rule.matches, packet)
        if rule.action == "return":
            if met == YES:
                return ""
            seen.doubts += [rule.text] if met == PERHAPS else []
            left = left or met == PERHAPS
            continue
        verdict = _walk(table, rule.target, packet, seen, depth + 1) if rule.target else rule.action
        seen.limits += [rule.text] if verdict and thinned != rule.matches else []
        if met == NO:
            continue
        if met == PERHAPS or (left and verdict not in ("", counts)):
            seen.doubts += [rule.text] if verdict else []
            if verdict == counts:
                return verdict
            continue
        if verdict or rule.action == "goto":
            return verdict
    return ""


def _meets(matches: Sequence[Match], packet: Packet) -> str:
    answers = {_meets_one(match, packet) for match in matches}
    return NO if NO in answers else PERHAPS if PERHAPS in answers else YES


def _meets_one(match: Match, packet: Packet) -> str:
    if match.kind == "unknown":
        return PERHAPS
    if match.kind == "rate":
        # A drop for those who come too often is not meant for the first packet.
        return NO if match.negated else YES
    found = _CHECKS[match.kind](match.values, packet)
    if match.negated and found != PERHAPS:
        return NO if found == YES else YES
    return found


def says(value: bool) -> str:
    """Return the certain answer that VALUE is."""
    return YES if value else NO


def _protocol(values: Sequence[int], packet: Packet) -> str:
    return says(packet.protocol in values or 0 in values)


def _port(values: Sequence[tuple[int, int]], packet: Packet) -> str:
    port = packet.port
    return says(port is not None and any(low <= port <= high for low, high in values))


def _device(values: Sequence[str], packet: Packet) -> str:
    return says(any(fnmatch.fnmatchcase(packet.device, value) for value in values))


def _source(values: Sequence[Network], packet: Packet) -> str:
    if any(not value.prefixlen for value in values):
        return YES
    if packet.source is None:
        # Whether a stranger is among them is not known; those whom we know, and neighbours without an address, are not.
        named = [value for value in values if not value.is_link_local and not _in_one_of(value, packet.known)]
        return PERHAPS if packet.generous and named else NO
    if _in_one_of(packet.source, values):
        return YES
    return PERHAPS if any(_in_one_of(value, [packet.source]) for value in values) else NO


def _in_one_of(inner: Network, outer: Iterable[Network]) -> bool:
    return any(inner.prefixlen >= value.prefixlen and inner.network_address in value for value in outer)


def _destination(values: Sequence[Network], packet: Packet) -> str:
    if packet.own is None:
        return PERHAPS if any(not value.is_link_local and not value.is_multicast for value in values) else NO
    inside = [any(address in value for value in values) for address in packet.own]
    return YES if inside and all(inside) else PERHAPS if any(inside) else NO


def _state(values: Sequence[str], _packet: Packet) -> str:
    return says("new" in values)


def _flags(values: Sequence[tuple[frozenset[str], frozenset[str]]], packet: Packet) -> str:
    return says(packet.protocol == 6 and any({"syn"} & mask == wanted for mask, wanted in values))


def _constant(values: Sequence[str], _packet: Packet) -> str:
    return values[0]


_CHECKS: dict[str, Callable[[Any, Packet], str]] = {
    "protocol": _protocol,
    "port": _port,
    "device": _device,
    "source": _source,
    "destination": _destination,
    "state": _state,
    "flags": _flags,
    "constant": _constant,
}


def ports(tables: Iterable[Table]) -> list[tuple[int, int]]:
    """Return all ports as ranges within which TABLES make no difference."""
    starts = {0}
    for low, high in _values(tables, "port"):
        starts |= {low, high + 1}
    ordered = sorted(start for start in starts if start <= 65535)
    return [(start, end - 1) for start, end in zip(ordered, [*ordered[1:], 65536])]


def protocols(tables: Iterable[Table]) -> list[int]:
    """Return the protocols without ports that TABLES name."""
    return sorted(set(_values(tables, "protocol")) - {0, 1, 2, 6, 17, 58})


def named_devices(tables: Iterable[Table], devices: Iterable[str]) -> set[str]:
    """Return those of DEVICES that a rule names."""
    patterns = set(_values(tables, "device"))
    return {name for name in devices if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)}


def _values(tables: Iterable[Table], kind: str) -> Iterator[Any]:
    for table in tables:
        for rules in table.chains.values():
            for rule in rules:
                for match in rule.matches:
                    if match.kind == kind:
                        yield from match.values


def restricts(tables: Iterable[Table]) -> bool:
    """Whether TABLES drop anything at all."""
    return any(
        policy == DROP or any(rule.action == DROP for rule in _reachable(table, chain))
        for table in tables
        for chain, policy in table.bases
    )


def _reachable(table: Table, chain: str, depth: int = 0) -> Iterator[Rule]:
    for rule in table.chains.get(chain, []) if depth < 32 else []:
        yield rule
        if rule.target:
            yield from _reachable(table, rule.target, depth + 1)
