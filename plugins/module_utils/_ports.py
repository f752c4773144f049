# SPDX-License-Identifier: GPL-3.0-or-later
"""Which TCP ports of an address take a connection: what is closed over IPv4 must be closed over IPv6."""

from __future__ import annotations

import contextlib
import errno
import selectors
import socket
import time

from ._talk import Answer, Target, endpoint, family, is_routed

# A port that a filter closes without a word is waited for this long at most.
PATIENCE = 2.0
# What tells that nothing listens, or that a filter on the way refuses.
CLOSED = {errno.ECONNREFUSED, errno.ECONNRESET, errno.EACCES, errno.EPERM, errno.EHOSTUNREACH, errno.ENETUNREACH}


def talk(target: Target, address: str, timeout: float) -> Answer:
    """Return the open ports among those of TARGET at ADDRESS, all asked at the same time."""
    if not is_routed(address):
        raise OSError(errno.ENETUNREACH, "no route")
    found = open_ports(address, target.ports, min(timeout, PATIENCE))
    return Answer(address, True, ports=found, banner=f"open: {', '.join(map(str, found)) or 'none'}")


def open_ports(address: str, ports: tuple[int, ...], timeout: float) -> tuple[int, ...]:
    """Return those of PORTS at ADDRESS that take a TCP connection within TIMEOUT seconds."""
    found: set[int] = set()
    deadline = time.monotonic() + timeout
    with contextlib.ExitStack() as stack:
        waiting = stack.enter_context(selectors.DefaultSelector())
        handles: dict[int, socket.socket] = {}
        for port in ports:
            handle = stack.enter_context(socket.socket(family(address), socket.SOCK_STREAM))
            handle.setblocking(False)
            problem = handle.connect_ex(endpoint(address, port, socket.SOCK_STREAM))
            if problem in (0, errno.EINPROGRESS):
                waiting.register(handle, selectors.EVENT_WRITE, port)
                handles[port] = handle
            elif problem not in CLOSED:
                raise OSError(problem, "port scan")
        while handles and (left := deadline - time.monotonic()) > 0:
            for key, _events in waiting.select(left):
                handle = handles.pop(key.data)
                waiting.unregister(handle)
                if handle.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0:
                    found.add(key.data)
    return tuple(sorted(found))
