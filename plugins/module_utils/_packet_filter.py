# SPDX-License-Identifier: GPL-3.0-or-later
"""What a host's IPv4 packet filter lets in, asked packet by packet.

The rules of nftables and of iptables become one form, in which a question has three answers: a rule matches, does not,
or perhaps.
"""

from __future__ import annotations

import fnmatch
import ipaddress
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

ACCEPT, DROP = "accept", "drop"
YES, NO, PERHAPS = "yes", "no", "perhaps"
PROTOCOLS = {"icmp": 1, "tcp": 6, "udp": 17, "gre": 47, "esp": 50, "ah": 51, "ospf": 89, "vrrp": 112, "sctp": 132}
PROTOCOLS.update({"ipv6-icmp": 58, "icmpv6": 58, "udplite": 136, "dccp": 33, "igmp": 2, "ipip": 4, "all": 0})
HOOKS = ("prerouting", "input")


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
    """The first packet of a connection that comes in. Without SOURCE it is a stranger's, whom no rule names."""

    protocol: int
    port: int | None = None
    device: str = ""
    source: ipaddress.IPv4Network | None = None
    own: tuple[ipaddress.IPv4Address, ...] = ()


@dataclass(frozen=True)
class Answer:
    """What becomes of the packet, and the rules that were not understood on the way."""

    verdict: str
    doubts: tuple[str, ...] = ()


def ask(tables: Sequence[Table], packet: Packet) -> Answer:
    """Return what TABLES do with PACKET: one drop is final, an accept is not."""
    doubts: tuple[str, ...] = ()
    for table in tables:
        for chain, policy in table.bases:
            answer = _walk(table, chain, packet)
            doubts += answer.doubts if answer else ()
            if (answer.verdict if answer and answer.verdict else policy) == DROP:
                return Answer(DROP, doubts)
    return Answer(ACCEPT, doubts)


def _walk(table: Table, chain: str, packet: Packet, depth: int = 0) -> Answer:
    """Return the verdict of CHAIN, empty when it returns."""
    doubts: tuple[str, ...] = ()
    left = False
    for rule in table.chains.get(chain, []) if depth < 32 else []:
        met = _meets(rule, packet)
        if met == NO or not rule.action:
            continue
        if rule.action == "return":
            if met == YES:
                return Answer("", doubts)
            doubts += (rule.text,)
            left = True
            continue
        inner = _walk(table, rule.target, packet, depth + 1) if rule.target else Answer(rule.action)
        doubts += inner.doubts
        if met == PERHAPS or (left and inner.verdict == ACCEPT):
            doubts += (rule.text,) if inner.verdict else ()
            # What may be dropped counts as dropped, what may be accepted does not count.
            if inner.verdict == DROP:
                return Answer(DROP, doubts)
            continue
        if inner.verdict or rule.action == "goto":
            return Answer(inner.verdict, doubts)
    return Answer("", doubts)


def _meets(rule: Rule, packet: Packet) -> str:
    answers = {_meets_one(match, packet) for match in rule.matches}
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


def _source(values: Sequence[ipaddress.IPv4Network], packet: Packet) -> str:
    if any(not value.prefixlen for value in values):
        return YES
    if packet.source is None:
        return NO
    if any(packet.source.subnet_of(value) for value in values):
        return YES
    return PERHAPS if any(packet.source.overlaps(value) for value in values) else NO


def _destination(values: Sequence[ipaddress.IPv4Network], packet: Packet) -> str:
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
