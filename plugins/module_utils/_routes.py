# SPDX-License-Identifier: GPL-3.0-or-later
"""Routes as values: records in, a plan and its commands out. Addresses are compared as bytes, never as spelled."""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import socket
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from ._errors import DualStackError, InputError
from ._rtnetlink import LOCAL, TABLE_MAIN, UNICAST, UNREACHABLE, Change, KernelRoute

VHOST = 80  # the plan's prefix of a virtual host
KINDS = {"unicast": UNICAST, "local": LOCAL, "unreachable": UNREACHABLE}
KIND_NAMES = {UNICAST: "unicast", LOCAL: "local", 6: "blackhole", UNREACHABLE: "unreachable", 8: "prohibit"}
PROTOCOL_NAMES = {1: "redirect", 2: "kernel", 3: "boot", 4: "static", 9: "ra"}
_FIELDS = {"dest", "via", "dev", "type", "metric"}
BAD = "\0"  # the key that no record has
_AT_ONCE = 4096  # lines that are decoded together
_HOST_BITS = [(1 << (128 - length)) - 1 for length in range(129)]
_NO_HOST = bytes(8)
_DIGITS, _HOST = set("0123456789abcdefABCDEF"), (1 << 64) - 1
# FRR takes the highest byte of a kernel route's metric for its administrative distance, and OSPF's is 110.
BEHIND_OSPF = 200 << 24
OSPF = 188  # RTPROT_OSPF
_HEADER = "# Written by dualstack.fleet.edge_routes; read at boot by: ip -6 -force -batch FILE"

Key = tuple[int, bytes, int]
"""(table, destination, prefix length): what one line of a batch file stands for."""


class Route(NamedTuple):
    """One wanted route. ``via`` is empty for a device or unreachable route, ``dev`` where the kernel shall choose."""

    dest: bytes
    length: int
    via: bytes = b""
    dev: str = ""
    type: str = "unicast"
    metric: int = 1024

    def __str__(self) -> str:
        if self.via and self.length and not self.dev:  # nearly all of them
            text = socket.inet_ntop
            return f"{text(socket.AF_INET6, self.dest)}/{self.length} via {text(socket.AF_INET6, self.via)}"
        words = [] if self.type == "unicast" else [self.type]
        words.append(prefix_text(self.dest, self.length))
        words += ["via", address_text(self.via)] if self.via else []
        words += ["dev", self.dev] if self.dev else []
        return " ".join(words)


@dataclass(frozen=True)
class Scope:
    """Which kernel routes are ours: one protocol number in one table."""

    protocol: int = 250
    table: int = TABLE_MAIN

    def suffix(self, metric: int) -> str:
        """Return the ip(8) words that every route of the scope ends with."""
        return f"proto {self.protocol} metric {metric} table {self.table}"


@dataclass(frozen=True)
class Plan:
    """What has to happen: pairs of a route and the kernel route that it replaces or None; and what to delete."""

    add: tuple[Route, ...] = ()
    replace: tuple[tuple[Route, KernelRoute], ...] = ()
    delete: tuple[KernelRoute, ...] = ()
    conflicts: tuple[str, ...] = ()
    unchanged: int = 0
    present: int = 0

    @property
    def changes_kernel(self) -> bool:
        """Whether any message has to be sent."""
        return bool(self.add or self.replace or self.delete)


def address_text(value: bytes) -> str:
    """Return the one spelling of a packed IPv6 address that iproute2 uses too."""
    return socket.inet_ntop(socket.AF_INET6, value)


def prefix_text(dest: bytes, length: int) -> str:
    """Return the canonical spelling of a packed prefix; the default route by its name."""
    return f"{address_text(dest)}/{length}" if length else "default"


def parse_prefix(text: str) -> tuple[bytes, int]:
    """Return (packed, length) of a prefix, or raise ValueError with the reason."""
    if text == "default":
        return bytes(16), 0
    address, slash, digits = text.partition("/")
    if not slash:
        raise ValueError("has no prefix length: write, for example, 2001:db8::/64")
    packed = parse_address(address)
    if not (digits.isascii() and digits.isdigit() and int(digits) <= 128):
        raise ValueError(f"has the prefix length {digits!r}: it must be a number from 0 to 128")
    length = int(digits)
    value = int.from_bytes(packed, "big")
    host = value & _HOST_BITS[length]
    if host:
        network = (value - host).to_bytes(16, "big")
        raise ValueError(f"has host bits set: the network is {prefix_text(network, length)}")
    return packed, length


def parse_address(text: str) -> bytes:
    """Return a bare IPv6 address packed, or raise ValueError with the reason."""
    try:
        return socket.inet_pton(socket.AF_INET6, text)
    except OSError:
        pass
    if text.startswith("["):
        raise ValueError("has brackets: write the bare address")
    if text.count(".") == 3:
        raise ValueError("is an IPv4 address: only IPv6 routes are handled here")
    raise ValueError("is not an IPv6 address")


def parse_json_lines(lines: Iterable[bytes], place: str) -> Iterator[tuple[str, Mapping[str, object]]]:
    """Yield the records of the LINES of a JSON-lines file, each with its PLACE for error texts."""
    numbered = enumerate(lines, 1)
    while part := list(itertools.islice(numbered, _AT_ONCE)):
        records = _decoded([line for _number, line in part]) or map(_record, (line for _number, line in part))
        for (number, _line), record in zip(part, records):
            if record is not None:
                yield f"{place}, line {number}", record


def _decoded(lines: Sequence[bytes]) -> list[Mapping[str, object]]:
    """Return the records of LINES where each line is one; empty where that takes a look at each of them."""
    if any(not (line[:1] == b"{" and line[-2:] == b"}\n") for line in lines):
        return []
    try:
        records = json.loads(b"[" + b",".join(lines) + b"]")
    except ValueError:
        return []
    return records if len(records) == len(lines) and all(isinstance(record, dict) for record in records) else []


def _record(line: bytes) -> Mapping[str, object] | None:
    """Return the record of LINE; None where it is blank, and what is wrong with it under the key BAD."""
    text = line.decode("utf-8", "replace").strip()
    if not text:
        return None
    try:
        record = json.loads(text)
    except ValueError as error:
        record = error
    if isinstance(record, dict):
        return record
    reason = str(record) if isinstance(record, ValueError) else f"{text} is not one object"
    return {BAD: f'{reason}: write one object a line, {{"dest": ..., "via": ...}}'}


def parse_ranges(text: str, bits: int) -> dict[int, int]:
    """Return {index: index of the next hop} of ranges such as ``11,20-2f,40-4f=140``, or raise ValueError.

    All numbers are hexadecimal. BITS bounds an index; without ``=`` the next hop has the prefix's own index.
    """
    found: dict[int, int] = {}
    for item in text.replace(" ", "").split(","):
        run, equal, hop = item.partition("=")
        first, dash, last = run.partition("-")
        try:
            low = _hex(first)
            high = _hex(last) if dash else low
            start = _hex(hop) if equal else low
        except ValueError:
            raise ValueError(
                f"ranges has {item!r}: write hexadecimal numbers, such as 11 or 20-2f or 20-2f=120"
            ) from None
        if high < low or high >> bits:
            raise ValueError(f"ranges has {item!r}: the numbers of this prefix go from 0 up to {(1 << bits) - 1:x}")
        if not found.keys().isdisjoint(range(low, high + 1)):
            raise ValueError(f"ranges has {item!r}, which it has before: name each number once")
        found.update(zip(range(low, high + 1), range(start, start + high - low + 1)))
    return found


def write_ranges(numbers: Mapping[int, int]) -> str:
    """Return the shortest text for which ``parse_ranges`` returns NUMBERS."""
    runs: list[list[int]] = []
    for index, hop in sorted(numbers.items()):
        if runs and (index, hop) == (runs[-1][1] + 1, runs[-1][2] + index - runs[-1][0]):
            runs[-1][1] = index
        else:
            runs.append([index, index, hop])
    items = []
    for first, last, hop in runs:
        items.append(f"{first:x}" + (f"-{last:x}" if last > first else "") + (f"={hop:x}" if hop != first else ""))
    return ",".join(items)


def compacted(routes: Sequence[Mapping[str, str]]) -> list[Mapping[str, str]]:
    """Return the same routes in fewer records: those of a /48 by next hops of a /112 as one with ``ranges``."""
    pools: dict[tuple[int, int, str], dict[int, int]] = {}
    others: list[Mapping[str, str]] = []
    for route in routes:
        try:
            dest, length = parse_prefix(route["dest"])
            prefix, via = int.from_bytes(dest, "big") >> 64, int.from_bytes(parse_address(route["via"]), "big")
        except ValueError as error:
            raise ValueError(f"of {route['dest']} via {route['via']} one {error}") from None
        numbers = pools.setdefault((prefix >> 16, via >> 16, route.get("dev", "")), {})
        if length == 64 and prefix & 0xFFFF not in numbers:
            numbers[prefix & 0xFFFF] = via & 0xFFFF
        else:
            others.append(route)  # of two routes to one prefix, edge_routes tells
    for (prefix, via, dev), numbers in pools.items():
        if numbers:
            pool = {"dest": prefix_text((prefix << 80).to_bytes(16, "big"), 48), "ranges": write_ranges(numbers)}
            pool["via"] = address_text((via << 16).to_bytes(16, "big"))
            others.append({**pool, "dev": dev} if dev else pool)
    return others


def _hex(text: str) -> int:
    if not 0 < len(text) <= 16 or not set(text) <= _DIGITS:
        raise ValueError(text)
    return int(text, 16)


def parse_routes(
    records: Iterable[tuple[str, Mapping[str, object]]],
    metric: int = 1024,
    own: Collection[bytes] = (),
    devices: Collection[str] | None = None,
    deleting: bool = False,
) -> list[Route]:
    """Return the wanted routes, or raise InputError with every problem of every record.

    OWN are this router's addresses; DEVICES its interfaces (None: not known). DELETING needs only destinations.
    """
    routes, _repeated, problems = read_routes(records, metric, own, devices, deleting)
    if problems:
        raise InputError(problems)
    return routes


def read_routes(
    records: Iterable[tuple[str, Mapping[str, object]]],
    metric: int = 1024,
    own: Collection[bytes] = (),
    devices: Collection[str] | None = None,
    deleting: bool = False,
) -> tuple[list[Route], int, list[str]]:
    """Return what ``parse_routes`` does, how many times a route was named again, and every problem of every record."""
    problems: list[str] = []
    found: dict[tuple[bytes, int], tuple[Route, str]] = {}
    repeated = 0
    usable = 0 < metric < 1 << 32
    for place, record in records:
        try:
            usual = _usual(record, metric) if usable else None
            for route in (usual,) if usual else _routes_of(record, metric, deleting):
                if route.via in own or (devices is not None and route.dev and route.dev not in devices):
                    _check_host(route, own, devices, deleting)
                key = (route.dest, route.length)
                earlier = found.get(key)
                if earlier is None:
                    found[key] = (route, place)
                    continue
                repeated += 1
                if earlier[0] != route and not deleting:
                    problems.append(
                        f"{place}: {route} (metric {route.metric}) contradicts {earlier[0]} (metric "
                        f"{earlier[0].metric}) of {earlier[1]}: keep one route for a destination"
                    )
        except ValueError as error:
            problems.append(f"{place}: {error}")
    return [route for route, _place in found.values()], repeated, problems


def _usual(record: Mapping[str, object], metric: int) -> Route | None:
    """Return the route of a record that is like nearly all: a /64 and its next hop, both of 2000::/3. Others: None."""
    if len(record) != 2 or "dest" not in record or "via" not in record:
        return None
    prefix, hop = str(record["dest"]), str(record["via"])
    if not prefix.endswith("/64"):
        return None
    try:
        dest, via = socket.inet_pton(socket.AF_INET6, prefix[:-3]), socket.inet_pton(socket.AF_INET6, hop)
    except (OSError, ValueError):
        return None
    if dest[0] >> 5 == via[0] >> 5 == 1 and dest.endswith(_NO_HOST):
        return Route(dest, 64, via, "", "unicast", metric)
    return None


def _routes_of(record: Mapping[str, object], metric: int, deleting: bool) -> list[Route]:
    if not record.get("ranges"):
        return [_parse_route(record, metric, deleting)]
    pool = _parse_route({name: value for name, value in record.items() if name != "ranges"}, metric, True)
    if pool.type != "unicast" or pool.length > 64 or not (pool.via or deleting):
        raise ValueError(f"{pool} has ranges: they number the /64 prefixes in dest, and the next hops from via on")
    indices = parse_ranges(str(record["ranges"]), 64 - pool.length)
    dest, via = int.from_bytes(pool.dest, "big"), int.from_bytes(pool.via, "big")
    if not deleting and (via & _HOST) + max(indices.values()) > _HOST:
        raise ValueError(f"{pool} has ranges whose next hops leave the /64 of via: begin lower")
    rest = (pool.dev, pool.type, pool.metric)
    routes = [
        Route((dest + (index << 64)).to_bytes(16, "big"), 64, (via + hop).to_bytes(16, "big"), *rest)
        for index, hop in indices.items()
    ]
    if not deleting:
        for route in routes:
            _check_shape(route)
    return routes


def _parse_route(record: Mapping[str, object], metric: int, deleting: bool) -> Route:
    given = _given(record) if None in record.values() or "" in record.values() else record
    if not given.keys() <= _FIELDS:
        if BAD in given:
            raise ValueError(given[BAD])
        unknown = ", ".join(sorted(set(given) - _FIELDS))
        raise ValueError(f"unknown key {unknown}: a route has {', '.join(sorted({*_FIELDS, 'ranges'}))}")
    if "dest" not in given:
        raise ValueError("dest is missing: name the prefix that is routed")
    name = "dest"
    try:
        dest, length = parse_prefix(str(given[name]))
        name = "via"
        via = parse_address(str(given[name])) if name in given else b""
    except ValueError as error:
        raise ValueError(f"{name} {given[name]} {error}") from None
    kind = str(given.get("type", "unicast"))
    dev = str(given.get("dev", "lo" if kind == "local" else ""))
    number = metric
    if "metric" in given:
        with contextlib.suppress(ValueError):
            number = 0
            number = int(str(given["metric"]))
    if not 0 < number < 1 << 32:
        raise ValueError(f"metric {given.get('metric', metric)!r} must be a number from 1 to 4294967295")
    route = Route(dest, length, via, dev, kind, number)
    if not deleting:
        _check_shape(route)
    return route


def _given(record: Mapping[str, object]) -> dict[str, object]:
    return {name: value for name, value in record.items() if value not in (None, "")}


def _check_shape(route: Route) -> None:
    if route.type == "unicast" and route.length == 64 and route.via and route.dest[0] >> 5 == route.via[0] >> 5 == 1:
        return  # both of 2000::/3: nearly all routes, and nothing below is wrong with them
    if route.type not in KINDS:
        raise ValueError(f"type {route.type!r} of {route} is not known: use unicast, local or unreachable")
    if route.type == "unreachable" and (route.via or route.dev):
        raise ValueError(f"{route}: an unreachable route has no via and no dev: remove them")
    if route.type == "unicast" and not route.via and not route.dev:
        raise ValueError(f"{route} has no next hop: give via, or dev, or type: unreachable")
    if route.type == "local":
        _check_local(route)
    elif route.length > 64 and not (
        route.type == "unreachable" or route.length == VHOST or (route.length == 128 and route.dev and not route.via)
    ):
        raise ValueError(
            f"dest {prefix_text(route.dest, route.length)} is longer than /64: route whole /64 prefixes to a next hop, "
            f"the /{VHOST} of a virtual host that moves between machines, or a /128 with dev and without via"
        )
    if route.dest[0] == 0xFF or (route.length and is_link_local(route.dest)):
        raise ValueError(f"dest {prefix_text(route.dest, route.length)} is not a unicast prefix that can be routed")
    if is_link_local(route.via) and not route.dev:
        raise ValueError(f"via {address_text(route.via)} is link-local: name its interface in dev")
    if route.via and (route.via[0] == 0xFF or route.via == bytes(16)):
        raise ValueError(f"via {address_text(route.via)} cannot be a next hop: name a unicast address")


def _check_local(route: Route) -> None:
    if route.via or route.dev != "lo":
        raise ValueError(f"{route}: a local route stands on lo and has no via: remove via and dev")
    if route.length < 64:
        raise ValueError(
            f"dest {prefix_text(route.dest, route.length)} is shorter than /64: this host would answer for every "
            "address in it; name a prefix inside its own /64"
        )


def _check_host(route: Route, own: Collection[bytes], devices: Collection[str] | None, deleting: bool) -> None:
    if deleting:
        return
    if route.via in own:
        raise ValueError(
            f"via {address_text(route.via)} of {prefix_text(route.dest, route.length)} is this router's own address: "
            "name the machine that the prefix belongs to"
        )
    if devices is not None and route.dev not in devices:
        raise ValueError(f"dev {route.dev} of {prefix_text(route.dest, route.length)} is not an interface of this host")


def is_link_local(packed: bytes) -> bool:
    """Whether a packed address, which may be empty, is one of fe80::/10."""
    return len(packed) == 16 and packed[0] == 0xFE and packed[1] & 0xC0 == 0x80


@dataclass(frozen=True)
class Supernets:
    """The prefixes that bound a run; with none, everything is inside."""

    networks: tuple[tuple[int, int], ...] = ()

    @classmethod
    def parse(cls, texts: Sequence[str]) -> Supernets:
        """Return the supernets that TEXTS name, or raise InputError with every bad one."""
        problems, networks = [], []
        for text in texts:
            try:
                packed, length = parse_prefix(text)
                networks.append((int.from_bytes(packed, "big") >> (128 - length), length))
            except ValueError as error:
                problems.append(f"within: {text} {error}")
        if problems:
            raise InputError(problems)
        return cls(tuple(networks))

    def __contains__(self, key: tuple[bytes, int]) -> bool:
        if not self.networks:
            return True
        dest, length = key
        value = int.from_bytes(dest, "big")
        return any(length >= size and value >> (128 - size) == network for network, size in self.networks)


def outside(wanted: Iterable[Route], within: Supernets) -> list[str]:
    """Return what is wrong with every wanted destination outside WITHIN."""
    return [
        f"{prefix_text(route.dest, route.length)} is outside within: correct the route, or add its supernet"
        for route in wanted
        if (route.dest, route.length) not in within
    ]


@dataclass(frozen=True)
class Batch:
    """The routes of ``ip -batch`` files: ours by key, and those that other names hold."""

    lines: Mapping[Key, str] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str, place: str) -> Batch:
        """Return the routes of a batch file; a line of another form is an error, as it would be lost."""
        lines: dict[Key, str] = {}
        problems = []
        for number, line in enumerate(text.splitlines(), 1):
            words = line.split()
            if not words or words[0].startswith("#"):
                continue
            try:
                lines[_key_of(words)] = " ".join(words)
            except (ValueError, IndexError):
                problems.append(f"{place}, line {number}: {line.strip()!r} is not of our form: move it to another file")
        if problems:
            raise InputError(problems)
        return cls(lines)

    def render(self) -> str:
        """Return the file's text, sorted by table and destination; empty when it holds no route."""
        if not self.lines:
            return ""
        return "\n".join([_HEADER, *(self.lines[key] for key in sorted(self.lines)), ""])


def edited(text: bytes, changes: Mapping[Key, str]) -> bytes:
    """Return TEXT, as ``Batch.render`` wrote it, with the line of each key in CHANGES put in, or taken out (empty)."""
    for key, line in changes.items():
        start, end = _place_of(text, key)
        whole = memoryview(text)  # whose parts are no copies
        text = b"".join((whole[:start], f"{line}\n".encode() if line else b"", whole[end:]))
    return text


def _place_of(text: bytes, key: Key) -> tuple[int, int]:
    """Return where in TEXT the line of KEY begins and ends; both the same where it would have to be put."""
    low, high = text.find(b"\n") + 1, len(text)
    while low < high:
        start = text.rfind(b"\n", 0, (low + high) // 2) + 1
        end = text.find(b"\n", start) + 1
        here = _key_of(text[start:end].decode().split())
        if here == key:
            return start, end
        low, high = (end, high) if here < key else (low, start)
    return low, low


def _key_of(words: Sequence[str]) -> Key:
    if words[0] != "route" or words[1] != "replace":
        raise ValueError(words[0])
    dest, length = parse_prefix(words[3] if words[2] in KINDS else words[2])
    return int(words[words.index("table") + 1]), dest, length


def batch_line(route: Route, scope: Scope) -> str:
    """Return the line of ``ip -6 -batch`` that makes ROUTE."""
    return f"route replace {route} {scope.suffix(route.metric)}"


def batch_lines(routes: Sequence[Route], scope: Scope) -> dict[Key, str]:
    """Return the ``batch_line`` of each of ROUTES by its key."""
    ends = {metric: scope.suffix(metric) for metric in {route.metric for route in routes}}
    return {(scope.table, route.dest, route.length): f"route replace {route} {ends[route.metric]}" for route in routes}


def plan_merge(
    wanted: Sequence[Route],
    present: Iterable[KernelRoute],
    scope: Scope,
    *,
    indexes: Mapping[str, int],
    others: Mapping[Key, tuple[str, str]],
    within: Supernets | None = None,
) -> Plan:
    """Return what makes WANTED true; with WITHIN, also what makes it the whole truth inside (state overridden).

    OTHERS are the routes that other names persist, as {key: (file, line)}: they are never changed here.
    """
    keys = {(route.dest, route.length) for route in wanted}
    by_dest: dict[tuple[bytes, int], list[KernelRoute]] = {}
    extra: list[KernelRoute] = []
    owned = 0
    for here in present:
        key = (here.dest, here.length)
        ours = here.protocol == scope.protocol and (within is None or key in within)
        owned += ours
        if key in keys:
            by_dest.setdefault(key, []).append(here)
        elif ours and within is not None and (scope.table, *key) not in others:
            extra.append(here)
    add, replace, conflicts, unchanged = [], [], [], 0
    for route in wanted:
        there = by_dest.get((route.dest, route.length), ())
        if not there and not others:
            add.append(route)
            continue
        beside = [here for here in there if here.metric != route.metric]
        moves = bool(beside) and _moves(route, beside, scope)
        if moves:
            beside = [here for here in beside if here.protocol != OSPF]
            there = [here for here in there if here.protocol != OSPF or here.metric == route.metric]
        conflict = _conflict(route, there, scope, others, within is not None or moves)
        if conflict:
            conflicts.append(conflict)
            continue
        same = [here for here in there if here.metric == route.metric]
        extra += beside
        if not same:
            add.append(route)
        elif _equal(route, same[0], indexes):
            unchanged += 1
        else:
            replace.append((route, same[0]))
    return Plan(tuple(add), tuple(replace), tuple(extra), tuple(conflicts), unchanged, owned)


def _moves(route: Route, beside: Iterable[KernelRoute], scope: Scope) -> bool:
    """Whether ROUTE is to stand behind OSPF's, or one of ours BESIDE it does so: then OSPF's may be there too."""
    ours = (here.metric for here in beside if here.protocol == scope.protocol)
    return max(route.metric, *ours, 0) >= BEHIND_OSPF


def _conflict(
    route: Route, there: Sequence[KernelRoute], scope: Scope, others: Mapping[Key, tuple[str, str]], exact: bool
) -> str:
    name = prefix_text(route.dest, route.length)
    for here in there:
        if here.protocol != scope.protocol:
            protocol = PROTOCOL_NAMES.get(here.protocol, str(here.protocol))
            return (
                f"{name} has a route of protocol {protocol} (metric {here.metric}): remove that route, or this record"
            )
        if len(here.gateways) > 1:
            return f"{name} has a multipath route: remove it (ip -6 route del {name}), or this record"
        if here.metric != route.metric and not exact:
            return f"{name} has metric {here.metric}, not {route.metric}: delete that route first, or give its metric"
    if sum(here.metric == route.metric for here in there) > 1:
        return f"{name} has several routes of metric {route.metric}: delete them first"
    file, line = others.get((scope.table, route.dest, route.length), ("", ""))
    if line and line != batch_line(route, scope):
        return f"{name} is held by {file} ({line}): change it under that name, or delete it there first"
    return ""


def _equal(route: Route, here: KernelRoute, indexes: Mapping[str, int]) -> bool:
    if KINDS[route.type] != here.kind:
        return False
    if route.type == "unreachable":
        return True
    gateway, index = here.gateways[0]
    return gateway == route.via and (not route.dev or indexes.get(route.dev) == index)


def plan_delete(
    wanted: Sequence[Route] | None,
    present: Iterable[KernelRoute],
    scope: Scope,
    others: Mapping[Key, tuple[str, str]],
    within: Supernets,
) -> Plan:
    """Return what removes our routes to WANTED's destinations; None: all of ours WITHIN that no other name persists."""
    ours = [here for here in present if here.protocol == scope.protocol and (here.dest, here.length) in within]
    if wanted is None:
        delete = [here for here in ours if (scope.table, here.dest, here.length) not in others]
        return Plan(delete=tuple(delete), present=len(ours))
    keys = {(route.dest, route.length) for route in wanted}
    held = [(key, others.get((scope.table, key[0], key[1]))) for key in sorted(keys)]
    conflicts = [
        f"{prefix_text(*key)} is held by {other[0]}: delete it under that name" for key, other in held if other
    ]
    delete = [here for here in ours if (here.dest, here.length) in keys]
    return Plan(delete=tuple(delete), conflicts=tuple(conflicts), present=len(ours))


def off_link(new: Sequence[Route], present: Iterable[KernelRoute]) -> list[str]:
    """Return what is wrong with every next hop of NEW that the kernel would refuse, as it is on no link of this host.

    A next hop is on a link when the longest prefix among PRESENT and the new device routes that it is in has none.
    """
    links = {(route.dest, route.length): not route.via for route in new if route.type == "unicast"}
    for here in present:
        if here.kind == UNICAST:
            key = (here.dest, here.length)
            links[key] = links.get(key, False) or not here.gateways[0][0]
    lengths = sorted({length for _dest, length in links}, reverse=True)
    far = [
        route for route in new if route.via and not is_link_local(route.via) and not _linked(route.via, links, lengths)
    ]
    return [
        f"via {address_text(route.via)} of {prefix_text(route.dest, route.length)} is on no link of this router: give "
        "it an address of that network first, or correct the record"
        for route in far
    ]


def _linked(via: bytes, links: Mapping[tuple[bytes, int], bool], lengths: Sequence[int]) -> bool:
    value = int.from_bytes(via, "big")
    for length in lengths:
        found = links.get(((value & ~_HOST_BITS[length]).to_bytes(16, "big"), length))
        if found is not None:
            return found
    return False


def check_deletions(plan: Plan, limit: str) -> None:
    """Raise when PLAN deletes more than LIMIT: a count, or a percentage (rounded up) of our routes in scope."""
    text = limit.strip()
    digits = text.rstrip("%")
    if not (digits.isascii() and digits.isdigit()) or len(text) - len(digits) > 1:
        raise InputError([f"max_delete {limit!r} is neither a count nor a percentage: write, for example, 20 or 10%"])
    allowed = math.ceil(plan.present * int(digits) / 100) if text.endswith("%") else int(digits)
    if len(plan.delete) > allowed:
        raise DualStackError(
            f"{len(plan.delete)} of {plan.present} routes would be deleted, max_delete {text} allows {allowed}: "
            "check the wanted routes, or raise max_delete",
            would_delete=[prefix_text(here.dest, here.length) for here in plan.delete],
        )


def kernel_changes(plan: Plan, scope: Scope, indexes: Mapping[str, int]) -> tuple[list[Change], list[Change]]:
    """Return the messages that carry PLAN out: what is new, then what goes."""
    new = [_wanted_change("add", route, scope, indexes) for route in plan.add]
    old = [present_change("delete", here, hop) for here in plan.delete for hop in here.gateways]
    for route, here in plan.replace:
        new.append(_wanted_change("replace", route, scope, indexes))
        if _stays_beside(KINDS[route.type], here.kind):
            old.append(present_change("delete", here))
    return new, old


def inverse(changes: Sequence[Change], plan: Plan) -> list[Change]:
    """Return the messages that undo CHANGES, the accepted part of PLAN."""
    before = {(here.dest, here.length, here.metric): here for _route, here in plan.replace}
    undo = []
    for change in reversed(changes):
        if change.action == "add":
            undo.append(change._replace(action="delete"))
        elif change.action == "delete":
            undo.append(change._replace(action="replace"))
        else:
            old = before[change.dest, change.length, change.metric]
            steps = [present_change("replace", old)]
            if old.kind != change.kind:
                steps.append(change._replace(action="delete"))
            # Replacing among two would take the wrong one along.
            undo += reversed(steps) if _stays_beside(change.kind, old.kind) else steps
    return undo


def _stays_beside(new: int, old: int) -> bool:
    # The kernel puts a reject route beside a unicast one of the same metric instead of replacing it.
    return new != UNICAST and old == UNICAST


def _wanted_change(action: str, route: Route, scope: Scope, indexes: Mapping[str, int]) -> Change:
    index = indexes.get(route.dev, 0) if route.dev else 0
    return Change(
        action,
        route.dest,
        route.length,
        KINDS[route.type],
        scope.protocol,
        route.metric,
        route.via,
        index,
        scope.table,
    )


def present_change(action: str, here: KernelRoute, hop: tuple[bytes, int] | None = None) -> Change:
    """Return ACTION on a route as the kernel reported it."""
    gateway, index = hop or here.gateways[0]
    return Change(action, here.dest, here.length, here.kind, here.protocol, here.metric, gateway, index, here.table)


def records(here: KernelRoute, names: Mapping[int, str]) -> list[dict[str, object]]:
    """Return a kernel route as records that the module accepts: one for each next hop."""
    found = []
    for gateway, index in here.gateways:
        record: dict[str, object] = {"dest": prefix_text(here.dest, here.length)}
        if here.kind in (UNICAST, LOCAL):
            record.update({"via": address_text(gateway)} if gateway else {})
            record.update({"dev": names[index]} if index in names else {})
        record["type"] = KIND_NAMES.get(here.kind, str(here.kind))
        record["metric"] = here.metric
        found.append(record)
    return found


def present_text(here: KernelRoute, names: Mapping[int, str]) -> str:
    """Return the ip(8) words of a route as the kernel reported it, with its protocol, metric and table."""
    words = []
    for gateway, index in here.gateways:
        if here.kind in (UNICAST, LOCAL):
            words += ["via", address_text(gateway)] if gateway else []
            words += ["dev", names.get(index, str(index))] if index else []
    kind = "" if here.kind == UNICAST else KIND_NAMES.get(here.kind, str(here.kind)) + " "
    hops = "".join(f" {word}" for word in words)
    return f"{kind}{prefix_text(here.dest, here.length)}{hops} {Scope(here.protocol, here.table).suffix(here.metric)}"


def commands(plan: Plan, scope: Scope, names: Mapping[int, str]) -> Iterator[str]:
    """Yield PLAN in ip(8)'s words, in the order in which it is carried out."""
    for route in plan.add:
        yield f"ip -6 route add {route} {scope.suffix(route.metric)}"
    for route, _here in plan.replace:
        yield f"ip -6 route replace {route} {scope.suffix(route.metric)}"
    for here in plan.delete:
        yield f"ip -6 route del {present_text(here, names)}"
