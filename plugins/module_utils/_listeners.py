# SPDX-License-Identifier: GPL-3.0-or-later
"""Ask this host's own services whether they serve: exit statuses of reloads and restarts do not tell.

A check is tried again until it holds or the time is up, because a daemon may listen a moment after its unit is active.
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import os
import re
import socket
import struct
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import BinaryIO, Protocol

FAMILIES = {"ipv4": socket.AF_INET, "ipv6": socket.AF_INET6}
LOOPBACK = {"ipv4": "127.0.0.1", "ipv6": "::1"}
ANY = {"0.0.0.0", "::"}
ATTEMPT = 3.0  # seconds for one connection, greeting or look-up
TALK_ATTEMPT = 10.0  # postscreen(8) lets a client wait for 6 seconds before it may speak
PAUSE = 0.05
DNS = 53
GREETING_LIMIT = 4096
_LISTENING = "0A"  # TCP_LISTEN in /proc/net/tcp, proc_net_tcp(5)
_ANSWERED = (0, 3)  # NOERROR, NXDOMAIN: any other response code makes a client ask the next server
RCODES = {1: "FORMERR", 2: "SERVFAIL", 4: "NOTIMP", 5: "REFUSED"}
# Every recursive server has this zone itself (RFC 6303, section 4.2): the answer needs no other server.
LOCAL_ZONE = "127.in-addr.arpa"


class Check(Protocol):
    """What can be asked again until it holds."""

    def problem(self) -> str:
        """Return what is wrong, or nothing."""


@dataclass(frozen=True)
class Listener:
    """A TCP port that must accept connections in each of FAMILIES, and greet with what EXPECT matches.

    TALK goes on from there: (what is sent, what the line that answers must match), again and again.
    """

    port: int
    families: tuple[str, ...] = ("ipv4", "ipv6")
    address: str = ""
    expect: str = ""
    send: str = ""
    talk: tuple[tuple[str, str], ...] = ()

    def problem(self) -> str:
        """Return what is wrong, or nothing. IPv6 comes first: it is what a reload adds, so IPv4 is seen after it."""
        for family in sorted(self.families, reverse=True):
            reason = self._family_problem(family)
            if reason:
                return f"port {self.port} over {family}: {reason}"
        return ""

    def _family_problem(self, family: str) -> str:
        reason = ""
        for address in [self.address] if self.address else targets(self.port, family):
            reason = _talk_problem(address, self.port, ((self.send, self.expect), *self.talk))
            if not reason:
                return ""
        return reason


@dataclass(frozen=True)
class Resolver:
    """A name server that must answer a query for NAME over UDP."""

    server: str
    name: str

    def problem(self) -> str:
        """Return what is wrong, or nothing."""
        reason = _query_problem(self.server, self.name)
        return f"name server {self.server}: {reason}" if reason else ""


@dataclass(frozen=True)
class Bindable:
    """An IPv6 address that a service of this host can listen on: it is there, and known to be no duplicate."""

    address: str

    def problem(self) -> str:
        """Return what is wrong, or nothing."""
        try:
            with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as handle:
                handle.bind((self.address, 0))
        except OSError as error:
            if error.errno != errno.EADDRNOTAVAIL:
                return f"{self.address}: {error.strerror or error}"
            return f"{self.address} is not an address of this host, or still being checked for duplicates"
        return ""


def targets(port: int, family: str) -> list[str]:
    """Return the addresses to reach PORT at: those it listens on, the loopback address for the wildcard.

    A socket of both families is listed as IPv6 only; so IPv4 is asked at the loopback address when nothing is found.
    """
    path = "/proc/net/tcp6" if family == "ipv6" else "/proc/net/tcp"
    try:
        with open(path, encoding="ascii") as stream:
            found = listening(stream.read(), port)
    except OSError:
        found = []
    real = [address for address in found if address not in ANY]
    return [LOOPBACK[family]] if len(real) < len(found) or not real else real


def listening(table: str, port: int) -> list[str]:
    """Return the local addresses in TABLE (the text of /proc/net/tcp or tcp6) that listen on PORT."""
    return list(dict.fromkeys(_address(row[1].split(":")[0]) for row in _rows(table, port)))


def sockets(port: int, root: str = "/") -> dict[str, str]:
    """Return {inode: address} of the sockets that listen on PORT, of both families."""
    found: dict[str, str] = {}
    for table in ("tcp", "tcp6"):
        with contextlib.suppress(OSError), open(f"{root}proc/net/{table}", encoding="ascii") as stream:
            found.update((row[9], _address(row[1].split(":")[0])) for row in _rows(stream.read(), port))
    return found


def _rows(table: str, port: int) -> list[list[str]]:
    rows = (line.split() for line in table.splitlines()[1:])
    listen = (row for row in rows if len(row) > 3 and row[3] == _LISTENING)
    return [row for row in listen if int(row[1].split(":")[1], 16) == port]


def _address(digits: str) -> str:
    # The kernel prints network-order words as integers of its own byte order.
    words = [int(digits[at : at + 8], 16) for at in range(0, len(digits), 8)]
    return str(ipaddress.ip_address(struct.pack(f"={len(words)}I", *words)))


def _talk_problem(address: str, port: int, talk: Sequence[tuple[str, str]]) -> str:
    try:
        patience = TALK_ATTEMPT if talk[1:] else ATTEMPT
        with (
            socket.create_connection((address, port), timeout=patience) as connection,
            connection.makefile("rb") as lines,
        ):
            for number, (send, expect) in enumerate(talk, 1):
                connection.sendall(send.encode())
                answer = _answer(lines, number < len(talk)) if expect else ""
                if not re.search(expect, answer):
                    asked = f" to {send.strip()!r}" if send else ""
                    return f"{address}: answered {answer!r}{asked}, expected {expect!r}"
    except OSError as error:
        return f"{address}: {error.strerror or error}"
    return ""


def _answer(lines: BinaryIO, whole: bool) -> str:
    """Return the first line that is there, or the last one of the answer: all of it must be read before we speak on."""
    line = lines.readline(GREETING_LIMIT)
    while whole and re.match(rb"\d{3}-", line):
        line = lines.readline(GREETING_LIMIT)
    return line.decode("utf-8", "replace").rstrip("\r\n")


def _query_problem(server: str, name: str) -> str:
    identifier = os.urandom(2)
    query = identifier + struct.pack(">5H", 0x0100, 1, 0, 0, 0) + _labels(name) + struct.pack(">2H", 1, 1)
    family = socket.AF_INET6 if ":" in server else socket.AF_INET
    until = time.monotonic() + ATTEMPT
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as connection:
            connection.connect(socket.getaddrinfo(server, DNS, family, socket.SOCK_DGRAM)[0][4])
            connection.send(query)
            while (left := until - time.monotonic()) > 0:
                connection.settimeout(left)
                answer = connection.recv(GREETING_LIMIT)
                if len(answer) >= 12 and answer[:2] == identifier and answer[2] & 0x80:
                    code = answer[3] & 0x0F
                    return "" if code in _ANSWERED else f"answered {RCODES.get(code, code)} for {name}"
    except OSError as error:
        if not isinstance(error, (TimeoutError, socket.timeout)):  # two classes before Python 3.10
            return str(error.strerror or error)
    return f"no answer for {name} within {ATTEMPT:g} s"


def _labels(name: str) -> bytes:
    labels = [label.encode("idna") for label in name.rstrip(".").split(".") if label]
    return b"".join(bytes([len(label)]) + label for label in labels) + b"\0"


def await_all(checks: Sequence[Check], limit: float, given_up: Callable[[], str]) -> str:
    """Wait until all CHECKS hold in one round; return the first problem when LIMIT seconds are over.

    GIVEN_UP says why waiting is useless (the unit has failed), or nothing.
    """
    until = time.monotonic() + limit
    failed: list[Check] = []
    while True:
        # What failed goes first: asked each time, a service that holds would take us for an attacker, as sshd does.
        reason = ""
        for check in (*failed, *checks):
            reason = check.problem()
            if reason:
                failed = [check]
                break
        if not reason:
            return ""
        useless = given_up()
        if useless:
            return f"{reason} ({useless})"
        if time.monotonic() >= until:
            return f"{reason} (waited {limit:g} s)"
        time.sleep(PAUSE)
