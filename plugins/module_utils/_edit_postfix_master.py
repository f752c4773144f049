# SPDX-License-Identifier: GPL-3.0-or-later
"""Edit Postfix's master.cf, see master(5): over which families its SMTP clients send mail.

inet_protocols of main.cf is no gate for them: a new smtp(8) process reads it at once, while the listeners wait for a
restart. The option of a service in master.cf outweighs it, and holds for names and literals alike.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

from ._edit_postfix import logical_lines
from ._edit_text import Settings, body, end, is_ipv4, is_loopback, only_keys, scalar, split_lines
from ._errors import InputError

PINNED, OPEN = "pinned", "open"
MARK = "  # IPv4 only until the mail gate is open (dualstack.fleet)"
PIN = "  -o inet_protocols=ipv4"


@dataclass(frozen=True)
class _Client:
    """A service that smtp(8) is; ``told`` when its own options name the families."""

    name: str
    last: int  # index of its last physical line
    told: bool


def edit(text: str, settings: Settings) -> str:
    """Return TEXT with ``outbound`` pinned to IPv4 or open. Services in ``free`` are open; what an administrator says
    of ``inet_protocols`` stays.
    """
    only_keys(settings, "outbound", "free")
    outbound, free = scalar("outbound", settings["outbound"]), settings.get("free") or []
    if outbound not in (PINNED, OPEN):
        raise InputError([f"outbound: {outbound!r} is neither {PINNED} nor {OPEN}"])
    if not isinstance(free, (list, tuple)):
        raise InputError([f"free: {free!r} is not a list of services; write [relay]"])
    problems = _alone(split_lines(text))
    if problems:
        raise InputError(problems)
    lines = _open(split_lines(text))
    clients = _clients(lines)
    unknown = [str(name) for name in free if name not in {client.name for client in clients}]
    if unknown:
        raise InputError([f"free: {name!r} is no SMTP client of this file; see postconf -M" for name in unknown])
    if outbound == PINNED:
        for client in reversed(clients):
            if client.name not in free and not client.told:
                lines = _pin(lines, client.last)
    return "".join(lines)


def _alone(lines: list[str]) -> list[str]:
    """Return which servers stay on one IPv4 address whatever main.cf says, without one on IPv6 beside them."""
    rows = [(indexes[0], body(lines[indexes[0]]).split()) for indexes in logical_lines(lines)]
    places = [(index, *words[0].rpartition(":")[::2]) for index, words in rows if words[1:2] == ["inet"]]
    served = {port for _index, address, port in places if not is_ipv4(address) and not is_loopback(address)}
    return [
        f"line {index + 1}: {address}:{port} is a server on one IPv4 address; write a line for its IPv6 address beside "
        f"it, such as [2001:db8::1]:{port}, with the same options"
        for index, address, port in places
        if is_ipv4(address) and not is_loopback(address) and port not in served
    ]


def _clients(lines: list[str]) -> list[_Client]:
    found = []
    for indexes in logical_lines(lines):
        # service, type, private, unprivileged, chroot, wakeup, maxproc, command
        words = " ".join(body(lines[index]) for index in indexes).split()
        if len(words) > 7 and os.path.basename(words[7]) == "smtp":
            told = re.search(r"-o\s*(?:\{\s*)?inet_protocols\s*=", " ".join(words[8:])) is not None
            found.append(_Client(words[0], indexes[-1], told))
    return found


def _pin(lines: list[str], last: int) -> list[str]:
    """Return LINES with the pin behind the line LAST; a file without a last line end stays one."""
    style = end(lines[last]) or end(lines[0]) or "\n"
    return [
        *lines[:last],
        body(lines[last]) + style,
        MARK + style,
        PIN + end(lines[last]),
        *lines[last + 1 :],
    ]


def _open(lines: list[str]) -> list[str]:
    """Return LINES as they were before they were pinned."""
    kept: list[str] = []
    rest = iter(lines)
    for line in rest:
        if body(line) != MARK:
            kept.append(line)
            continue
        pin = next(rest, "")
        if body(pin) != PIN:  # somebody has changed it
            kept += [line, pin]
        elif kept:
            kept[-1] = body(kept[-1]) + end(pin)
    return kept
