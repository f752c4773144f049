# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether full-size packets get through, there and back: small and large echoes side by side (RFC 8201, RFC 4443)."""

from __future__ import annotations

import os
import socket
import struct
import time

from ._talk import Answer, Target, endpoint, family, until

REQUEST, REPLY = 128, 129  # RFC 4443 section 4
HEADERS = 48  # of IPv6 and of the echo
SMALL = 56
# The first large packet may be lost to a hop that says how much it takes, the second on its way back.
TRIES = 5
NOT_ASKED = "not asked: IPv4 routers cut packets up"
SILENT = "not measured: no answer to an echo request"
FORBIDDEN = "not measured: this user may not send echo requests"


def talk(target: Target, address: str, timeout: float) -> Answer:
    """Send echo requests of 56 bytes and of ``min_bytes`` with all headers; the kernel cuts up what a hop refuses."""
    if family(address) == socket.AF_INET:
        return Answer(address, True, banner=NOT_ASKED)
    try:
        handle = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
    except PermissionError:
        return Answer(address, True, banner=FORBIDDEN)
    with handle:
        handle.connect(endpoint(address, 0, socket.SOCK_DGRAM))
        if not _echoed(handle, SMALL, timeout):
            return Answer(address, True, banner=SILENT)
        if _echoed(handle, target.min_bytes - HEADERS, timeout):
            return Answer(address, True, banner=f"{target.min_bytes} bytes there and back")
    error = f"echoes {SMALL + HEADERS} bytes and loses {target.min_bytes}"
    return Answer(address, False, error=error, stalled=True)


def _echoed(handle: socket.socket, size: int, timeout: float) -> bool:
    """Tell whether one of some echo requests with SIZE bytes of data comes back within TIMEOUT seconds."""
    mark = os.urandom(8)
    for number in range(TRIES):
        # The kernel fills in the checksum (RFC 3542 section 3.1).
        handle.send(struct.pack("!BBHHH", REQUEST, 0, 0, os.getpid() & 0xFFFF, number) + mark + bytes(size - len(mark)))
        deadline = time.monotonic() + timeout / TRIES
        while time.monotonic() < deadline:
            try:
                until(handle, deadline)
                packet = handle.recv(65536)
            except (socket.timeout, TimeoutError):
                break
            if packet[0] == REPLY and packet[8:16] == mark:
                return True
    return False
