# SPDX-License-Identifier: GPL-3.0-or-later
"""Questions to one name server, with nothing but the standard library (RFC 1035)."""

from __future__ import annotations

import ipaddress
import random
import socket
import struct
import time
from collections.abc import Iterator

from ._talk import RCODES, endpoint, family, until

TYPES = {"A": 1, "NS": 2, "CNAME": 5, "SOA": 6, "PTR": 12, "MX": 15, "TXT": 16, "AAAA": 28}
TRUNCATED, RECURSION_DESIRED, REPLY = 0x0200, 0x0100, 0x8000
STEPS = 256  # labels and pointers of one name
TRIES = 2  # answers in a row that did not come, before nobody waits for one any more


class LookupFailed(Exception):
    """No answer, or one that is none."""


class Resolver:
    """The name server at SERVER. Each question may take TIMEOUT seconds."""

    def __init__(self, server: str, port: int = 53, timeout: float = 5.0) -> None:
        self.server, self.port, self.timeout, self.silent = server, port, timeout, 0

    def ask(self, name: str, kind: str) -> list[str]:
        """Return the values of NAME and KIND, in order, which may be none. Aliases are followed by the server."""
        if self.silent >= TRIES:
            raise LookupFailed(f"{self.server} does not answer")
        try:
            reply = self._exchange(_query(name, kind), time.monotonic() + self.timeout)
            self.silent = 0
            return _answers(reply, kind)
        except (OSError, IndexError, ValueError, struct.error) as error:
            late = isinstance(error, socket.timeout)
            self.silent += late
            reason = f"no answer within {self.timeout:g} s" if late else str(error)
            raise LookupFailed(f"{self.server} does not tell {kind} of {name}: {reason}") from error

    def _exchange(self, query: bytes, deadline: float) -> bytes:
        """Return the reply over UDP, or over TCP where it does not fit (RFC 7766 section 5)."""
        with socket.socket(family(self.server), socket.SOCK_DGRAM) as handle:
            handle.connect(endpoint(self.server, self.port, socket.SOCK_DGRAM))
            handle.send(query)
            reply = b""
            while reply[:2] != query[:2]:
                until(handle, deadline)
                reply = handle.recv(65535)
        if not struct.unpack("!H", reply[2:4])[0] & TRUNCATED:
            return reply
        with socket.socket(family(self.server), socket.SOCK_STREAM) as handle:
            until(handle, deadline)
            handle.connect(endpoint(self.server, self.port, socket.SOCK_STREAM))
            handle.sendall(struct.pack("!H", len(query)) + query)
            size = struct.unpack("!H", _exactly(handle, 2, deadline))[0]
            return _exactly(handle, size, deadline)


def _exactly(handle: socket.socket, size: int, deadline: float) -> bytes:
    text = b""
    while len(text) < size:
        until(handle, deadline)
        piece = handle.recv(size - len(text))
        if not piece:
            raise OSError("the connection was closed in the middle of the answer")
        text += piece
    return text


def _query(name: str, kind: str) -> bytes:
    labels = [label.encode("ascii") for label in name.rstrip(".").split(".") if label]
    question = b"".join(bytes([len(label)]) + label for label in labels) + b"\0"
    head = struct.pack("!6H", random.getrandbits(16), RECURSION_DESIRED, 1, 0, 0, 0)
    return head + question + struct.pack("!2H", TYPES[kind], 1)


def _answers(reply: bytes, kind: str) -> list[str]:
    _ident, flags, questions, answers, _authority, _additional = struct.unpack("!6H", reply[:12])
    rcode = RCODES.get(flags & 15, str(flags & 15))
    if rcode not in ("NOERROR", "NXDOMAIN") or not flags & REPLY:
        raise OSError(rcode)
    place, found = 12, []
    for _number in range(questions):
        place = _name(reply, place)[1] + 4
    for _number in range(answers):
        place = _name(reply, place)[1]
        number, _class, _ttl, size = struct.unpack("!HHIH", reply[place : place + 10])
        place += 10
        if number == TYPES[kind]:
            found.append(_value(reply, place, size, kind))
        place += size
    return found


def _value(reply: bytes, place: int, size: int, kind: str) -> str:
    if kind in ("A", "AAAA"):
        return str(ipaddress.ip_address(reply[place : place + size]))
    if kind == "TXT":
        return b"".join(_strings(reply[place : place + size])).decode("utf-8", "replace")
    return _name(reply, place + 2 if kind == "MX" else place)[0]


def _strings(text: bytes) -> Iterator[bytes]:
    while text:
        yield text[1 : 1 + text[0]]
        text = text[1 + text[0] :]


def _name(reply: bytes, place: int) -> tuple[str, int]:
    """Return the name at PLACE in lower case without its last dot, and where it ends (RFC 1035 section 4.1.4)."""
    labels, end = [], 0
    for _number in range(STEPS):
        size = reply[place]
        if size & 0xC0:
            end = end or place + 2
            place = struct.unpack("!H", reply[place : place + 2])[0] & 0x3FFF
        elif size:
            labels.append(reply[place + 1 : place + 1 + size].decode("ascii").lower())
            place += 1 + size
        else:
            return ".".join(labels), end or place + 1
    raise OSError("a name without an end")
