# SPDX-License-Identifier: GPL-3.0-or-later
"""The kernel's routes and addresses over rtnetlink(7), by the standard library's socket alone.

Numbers, never names: what iproute2 prints for a protocol depends on files that other packages install.
"""

from __future__ import annotations

import bisect
import hashlib
import os
import socket
import struct
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

RTM_NEWADDR, RTM_GETADDR = 20, 22
RTM_NEWROUTE, RTM_DELROUTE, RTM_GETROUTE = 24, 25, 26
UNICAST, LOCAL, UNREACHABLE = 1, 2, 7
TABLE_MAIN = 254
LO_INDEX = 1

REQUEST, DUMP, ECHO = 0x1, 0x300, 0x8
CREATE, EXCLUSIVE, REPLACE = 0x400, 0x200, 0x100

IFA_FLAGS = {
    "temporary": 0x01,
    "nodad": 0x02,
    "dadfailed": 0x08,
    "deprecated": 0x20,
    "tentative": 0x40,
    "permanent": 0x80,
    "noprefixroute": 0x200,
}

_SOL_NETLINK, _EXT_ACK, _STRICT = 270, 11, 12
_SO_RCVBUFFORCE = 33
_ERROR, _DONE = 2, 3
_CAPPED, _HAS_TLVS = 0x100, 0x200
_RTA_DST, _RTA_OIF, _RTA_GATEWAY, _RTA_PRIORITY, _RTA_MULTIPATH, _RTA_TABLE, _RTA_NH_ID = 1, 4, 5, 6, 9, 15, 30
_RTA_CACHEINFO = 12
_EXPIRING = (2, 9)  # RTPROT_KERNEL and RTPROT_RA: their routes may have a lifetime
_CLONED = 0x200
_LONGEST = 1 << 18  # what one recv(2) may return; a new buffer for each would cost more than the call
_PER_PART = 4096  # messages that are digested together
_PER_SEND = 128  # their answers fit into a socket's usual buffer

_HEADER = struct.Struct("=IHHII")
_ROUTE = struct.Struct("=BBBBBBBBI")
_ADDRESS = struct.Struct("=BBBBI")
_ATTRIBUTE = struct.Struct("=HH")
_DST_HEAD = _ATTRIBUTE.pack(20, _RTA_DST)
_HEAD = _ROUTE.size + 8 + len(_DST_HEAD)  # of a message: up to its destination
_KIND = 0x3FFF  # without the flags of an attribute's type
_LENGTHS: dict[int, int] = {socket.AF_INET: 4, socket.AF_INET6: 16}


class KernelRoute(NamedTuple):
    """One route as the kernel reports it; ``gateways`` has more than one entry for a multipath route."""

    dest: bytes
    length: int
    kind: int
    protocol: int
    metric: int
    gateways: tuple[tuple[bytes, int], ...]
    table: int = TABLE_MAIN


@dataclass(frozen=True)
class KernelAddress:
    """One address of an interface, with the names of its flags."""

    index: int
    address: bytes
    length: int
    flags: frozenset[str]


class Change(NamedTuple):
    """One message to the kernel about one route; with ``device`` 0 the kernel chooses the interface."""

    action: str
    dest: bytes
    length: int
    kind: int
    protocol: int
    metric: int
    gateway: bytes = b""
    device: int = 0
    table: int = TABLE_MAIN


_ACTIONS = {
    "add": (RTM_NEWROUTE, REQUEST | CREATE | EXCLUSIVE),
    "replace": (RTM_NEWROUTE, REQUEST | CREATE | REPLACE),
    "delete": (RTM_DELROUTE, REQUEST),
}


def encode(change: Change, sequence: int, more: int = 0) -> bytes:
    """Return CHANGE as one netlink message, with MORE flags."""
    action, dest, length, kind, protocol, metric, gateway, device, table = change
    if kind == UNREACHABLE:
        gateway = b""
    shape = (action, length, kind, protocol, metric, bool(gateway), device, table)
    size, message, flags, head, middle, tail = _frame(shape)
    return b"".join((_HEADER.pack(size, message, flags | more, sequence, 0), head, dest, middle, gateway, tail))


@lru_cache(maxsize=64)
def _frame(shape: tuple[str, int, int, int, int, bool, int, int]) -> tuple[int, int, int, bytes, bytes, bytes]:
    """Return what all messages of a kind have in common: size, type and flags, and what is around the addresses."""
    action, length, kind, protocol, metric, hop, device, table = shape
    message, flags = _ACTIONS[action]
    # A deletion names no scope; IPv6 ignores it.
    head = _ROUTE.pack(socket.AF_INET6, length, 0, 0, table if table < 256 else 0, protocol, 0, kind, 0)
    head += _DST_HEAD
    middle = struct.pack("=HHI", 8, _RTA_PRIORITY, metric) + (_ATTRIBUTE.pack(20, _RTA_GATEWAY) if hop else b"")
    # The kernel finds a route to delete by its next hop, not by its type; one without any stands on lo.
    index = device if kind != UNREACHABLE else LO_INDEX if action == "delete" else 0
    tail = struct.pack("=HHI", 8, _RTA_OIF, index) if index else b""
    if table > 255:
        tail += struct.pack("=HHI", 8, _RTA_TABLE, table)
    size = _HEADER.size + len(head) + 16 + len(middle) + (16 if hop else 0) + len(tail)
    return size, message, flags, head, middle, tail


def apply(changes: Sequence[Change], made: list[bytes] | None = None) -> list[tuple[int, str]]:
    """Send CHANGES and return (position, kernel's words) of each that was refused.

    MADE is given the new routes in the kernel's own messages, as ``dumped`` returns them.
    """
    refused: list[tuple[int, str]] = []
    buffer = bytearray(_LONGEST)
    with _open() as link:
        for start in range(0, len(changes), _PER_SEND):
            batch = changes[start : start + _PER_SEND]
            echo = 0 if made is None else ECHO
            link.send(b"".join(encode(change, start + i + 1, echo) for i, change in enumerate(batch)))
            # The kernel works on the messages before send() returns; without acknowledgements only errors come back,
            # and what was asked for by an echo.
            for kind, sequence, flags, body in _answers(link, buffer):
                if kind == _ERROR:
                    refused.append((sequence - 1, _refusal(body, flags)))
                elif kind == RTM_NEWROUTE and made is not None:
                    made.append(body)
    return refused


def routes(family: int = socket.AF_INET6, table: int | None = TABLE_MAIN) -> Iterator[KernelRoute]:
    """Yield every route of FAMILY in TABLE (None: in all tables), whatever protocol made it."""
    return parsed(dumped(family), family, table)


def dumped(family: int = socket.AF_INET6) -> list[bytes]:
    """Return every route of FAMILY in all tables as the kernel's own message, for ``parsed`` and ``digest``."""
    request = _ROUTE.pack(family, 0, 0, 0, 0, 0, 0, 0, 0)
    return [body for message, body in _dump(RTM_GETROUTE, request) if message == RTM_NEWROUTE]


def lasting(bodies: Iterable[bytes]) -> list[bytes]:
    """Return the messages sorted, without a lifetime that runs out."""
    return sorted(_lasting(body) if body[5] in _EXPIRING else body for body in bodies)


def about(texts: Sequence[bytes], dests: Collection[bytes]) -> list[bytes]:
    """Return those of the ``lasting`` messages TEXTS that are of routes to DESTS, or whose destination comes late.

    The kernel writes it as the second attribute; whoever reads the messages found misses none if one day it does not.
    """
    found: list[bytes] = []
    start = 0
    while start < len(texts):
        head = texts[start][:_HEAD]
        end = bisect.bisect_left(texts, (int.from_bytes(head, "big") + 1).to_bytes(_HEAD, "big"), start)
        if head.endswith(_DST_HEAD):
            for first in (head + dest for dest in dests):
                at = bisect.bisect_left(texts, first, start, end)
                while at < end and texts[at].startswith(first):
                    found.append(texts[at])
                    at += 1
        else:
            found += texts[start:end]
        start = end
    return found


def digest(texts: Sequence[bytes], known: Sequence[bytes] = (), parts: list[bytes] | None = None) -> str:
    """Return what is the same only for the same ``lasting`` messages.

    PARTS, where given, are those of an earlier call for KNOWN, and those of this call afterwards: what both have in the
    same place is not read again.
    """
    before, after = parts or [], []
    for number, start in enumerate(range(0, len(texts), _PER_PART)):
        part = texts[start : start + _PER_PART]
        same = number < len(before) and part == known[start : start + _PER_PART]
        after.append(before[number] if same else hashlib.blake2b(b"".join(part), digest_size=32).digest())
    if parts is not None:
        parts[:] = after
    return hashlib.blake2b(b"".join(after), digest_size=32).hexdigest()


def _lasting(body: bytes) -> bytes:
    parts, offset = [body[: _ROUTE.size]], _ROUTE.size
    while offset + 4 <= len(body):
        length, kind = _ATTRIBUTE.unpack_from(body, offset)
        if length < 4:
            break
        if kind & _KIND != _RTA_CACHEINFO:
            parts.append(body[offset : offset + _aligned(length)])
        offset += _aligned(length)
    return b"".join(parts)


def parsed(
    bodies: Iterable[bytes], family: int = socket.AF_INET6, table: int | None = TABLE_MAIN
) -> Iterator[KernelRoute]:
    """Yield the routes in the messages BODIES that are in TABLE (None: in any)."""
    size = _LENGTHS[family]
    for body in bodies:
        _, length, _, _, small_table, protocol, _, kind, flags = _ROUTE.unpack_from(body)
        if flags & _CLONED:
            continue
        found = attributes(body[_ROUTE.size :])
        number = _number(found.get(_RTA_TABLE)) or small_table
        if table is not None and number != table:
            continue
        yield KernelRoute(
            found.get(_RTA_DST, b"").ljust(size, b"\0"),
            length,
            kind,
            protocol,
            _number(found.get(_RTA_PRIORITY)),
            tuple(_next_hops(found)),
            number,
        )


def addresses(family: int = socket.AF_INET6) -> list[KernelAddress]:
    """Return every address of FAMILY on the host."""
    result = []
    for message, body in _dump(RTM_GETADDR, _ADDRESS.pack(family, 0, 0, 0, 0)):
        if message != RTM_NEWADDR:
            continue
        _, length, low_flags, _, index = _ADDRESS.unpack_from(body)
        found = attributes(body[_ADDRESS.size :])
        # IFA_LOCAL (2) is the own end of a point-to-point link, IFA_ADDRESS (1) the other; IFA_FLAGS (8) the wide form.
        value = found.get(2) or found.get(1, b"")
        flags = _number(found.get(8)) or low_flags
        result.append(KernelAddress(index, value, length, frozenset(n for n, bit in IFA_FLAGS.items() if flags & bit)))
    return result


def attributes(data: bytes) -> dict[int, bytes]:
    """Return the attributes of a message by type."""
    found, offset, end = {}, 0, len(data)
    while offset + 4 <= end:
        length, kind = _ATTRIBUTE.unpack_from(data, offset)
        if length < 4:
            break
        found[kind & _KIND] = data[offset + 4 : offset + length]
        offset += _aligned(length)
    return found


def _aligned(length: int) -> int:
    return (length + 3) & ~3


def _next_hops(found: Mapping[int, bytes]) -> Iterator[tuple[bytes, int]]:
    multipath = found.get(_RTA_MULTIPATH)
    if multipath is None:
        yield found.get(_RTA_GATEWAY, b""), _number(found.get(_RTA_OIF))
        return
    offset = 0
    while offset + 8 <= len(multipath):
        length, _, _, index = struct.unpack_from("=HBBi", multipath, offset)
        if length < 8:
            break
        yield attributes(multipath[offset + 8 : offset + length]).get(_RTA_GATEWAY, b""), index
        offset += _aligned(length)


def _number(data: bytes | None) -> int:
    return int(struct.unpack("=I", data)[0]) if data else 0


def _open() -> socket.socket:
    link = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
    link.setsockopt(_SOL_NETLINK, _EXT_ACK, 1)
    link.setsockopt(_SOL_NETLINK, _STRICT, 1)
    try:
        # A batch of refusals must fit, or the kernel drops some and says ENOBUFS.
        link.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 4 << 20)
    except PermissionError:
        link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
    link.bind((0, 0))
    return link


def _dump(message: int, request: bytes) -> Iterator[tuple[int, bytes]]:
    buffer = bytearray(_LONGEST)
    with _open() as link:
        link.send(_HEADER.pack(_HEADER.size + len(request), message, REQUEST | DUMP, 1, 0) + request)
        while True:
            for kind, _sequence, flags, body in _messages(buffer, link.recv_into(buffer)):
                if kind == _DONE:
                    return
                if kind == _ERROR:
                    raise OSError(_refusal(body, flags))
                yield kind, body


def _answers(link: socket.socket, buffer: bytearray) -> Iterator[tuple[int, int, int, bytes]]:
    """Yield (type, sequence, flags, body) of the messages that have come."""
    view, size = memoryview(buffer), _HEADER.size
    link.setblocking(False)
    try:
        while True:
            end = link.recv_into(buffer)
            length, kind, flags, sequence, _ = _HEADER.unpack_from(buffer)
            if length == end:  # one message, as nearly always
                yield kind, sequence, flags, bytes(view[size:end])
            else:
                yield from _messages(buffer, end)
    except BlockingIOError:
        return
    finally:
        link.setblocking(True)


def _messages(buffer: bytearray, end: int) -> Iterator[tuple[int, int, int, bytes]]:
    data, offset, size = bytes(memoryview(buffer)[:end]), 0, _HEADER.size
    while offset < end:
        length, kind, flags, sequence, _ = _HEADER.unpack_from(data, offset)
        yield kind, sequence, flags, data[offset + size : offset + length]
        offset += _aligned(length)


def _refusal(body: bytes, flags: int) -> str:
    """Return the text of an error message: the errno's, with the kernel's own sentence where it sent one."""
    number = -struct.unpack_from("=i", body)[0]
    text = os.strerror(number)
    if not flags & _HAS_TLVS:
        return text
    echoed = _HEADER.size if flags & _CAPPED else _HEADER.unpack_from(body, 4)[0]
    words = attributes(body[4 + _aligned(echoed) :]).get(1, b"")
    return f"{text}: {words.rstrip(bytes(1)).decode('ascii', 'replace')}" if words else text
