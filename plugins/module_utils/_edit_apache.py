# SPDX-License-Identifier: GPL-3.0-or-later
"""Edit Apache's Listen directives and VirtualHost addresses (httpd 2.4, "Binding to Addresses and Ports").

Apache ends when a wildcard and a literal claim the same port, and neither configtest nor the reload says so.
So a twin is only put beside a Listen with an IPv4 literal, and never where the port has IPv6 already.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from ._edit_text import (
    Settings,
    additions,
    body,
    bracketed,
    end,
    is_addition,
    is_ipv4,
    is_loopback,
    literal,
    only_keys,
    scalar,
    split_lines,
)
from ._errors import InputError

_LISTEN = re.compile(r"(\s*listen\s+)(\S+)(.*)", re.IGNORECASE)
_VHOST = re.compile(r"(\s*<virtualhost\s+)([^>]*?)(\s*>.*)", re.IGNORECASE)
_OPEN = re.compile(r"\s*<(\w+)", re.IGNORECASE)
_CLOSE = re.compile(r"\s*</(\w+)", re.IGNORECASE)


@dataclass(frozen=True)
class _Listen:
    """A Listen directive; ``blocks`` are the line indexes of the sections around it."""

    index: int
    head: str
    address: str  # empty: the wildcard
    port: str
    tail: str
    blocks: tuple[int, ...]

    @property
    def ipv4(self) -> bool:
        return is_ipv4(self.address)


def edit(text: str, settings: Settings) -> str:
    """Return TEXT with ``Listen`` and ``VirtualHost`` as SETTINGS say: ``{add: ["[A6]" or "[A6]:PORT"]}`` or ``*``."""
    only_keys(settings, "Listen", "VirtualHost")
    lines = split_lines(text)
    problems: list[str] = []
    for key, value in settings.items():
        try:
            twins, wildcards = (_twins, _wildcards) if key == "Listen" else (_host_twins, _host_wildcards)
            if is_addition(value):
                lines = twins(lines, bracketed(key, additions(key, value)))
            elif scalar(key, value) == "*":
                lines = wildcards(lines)
            else:
                raise InputError([f'{key}: {value!r} is not understood; write "*" or {{add: ["[2001:db8::1]:80"]}}'])
        except InputError as error:
            problems += error.problems
    if problems:
        raise InputError(problems)
    return "".join(lines)


def _split(endpoint: str) -> tuple[str, str]:
    address, colon, port = endpoint.rpartition(":")
    return (address, port) if colon else ("", endpoint)


def _listens(lines: list[str]) -> list[_Listen]:
    found: list[_Listen] = []
    blocks: list[int] = []
    for index, line in enumerate(lines):
        text = body(line)
        match = _LISTEN.fullmatch(text)
        if match:
            address, port = _split(match[2])
            address = "" if address == "*" else address
            found.append(_Listen(index, match[1], address, port, match[3], tuple(blocks)))
        elif _CLOSE.match(text):
            blocks = blocks[:-1]
        elif _OPEN.match(text):
            blocks.append(index)
    return found


def _served(listens: list[_Listen], near: _Listen, address: str) -> bool:
    """Whether ADDRESS has the port of NEAR already, by a Listen that holds wherever NEAR does."""
    wanted = literal(address)
    return any(
        other.port == near.port
        and near.blocks[: len(other.blocks)] == other.blocks
        and (other.address in ("", "[::]", "::") or literal(other.address) == wanted)
        for other in listens
    )


def _twins(lines: list[str], wanted: list[tuple[str, str]]) -> list[str]:
    listens = _listens(lines)
    after: dict[int, list[str]] = {}
    done: set[tuple[tuple[int, ...], str, str]] = set()
    for listen in listens:
        if not listen.ipv4 or is_loopback(listen.address):
            continue
        for address, port in wanted:
            key = (listen.blocks, listen.port, str(literal(address)))
            if (port and port != listen.port) or key in done or _served(listens, listen, address):
                continue
            done.add(key)
            after.setdefault(listen.index, []).append(f"{listen.head}{address}:{listen.port}{listen.tail}")
    return _insert(lines, after)


def _insert(lines: list[str], after: dict[int, list[str]]) -> list[str]:
    style = (end(lines[0]) or "\n") if lines else "\n"
    changed: list[str] = []
    for index, line in enumerate(lines):
        group = [body(line), *after.get(index, [])]
        changed += [text + style for text in group[:-1]] + [group[-1] + end(line)]
    return changed


def _wildcards(lines: list[str]) -> list[str]:
    listens = _listens(lines)
    changed = list(lines)
    problems = []
    for listen in listens:
        six = any(other.port == listen.port and not other.ipv4 for other in listens)
        if not listen.ipv4 or is_loopback(listen.address) or six:
            continue
        if listen.address == "0.0.0.0":
            changed[listen.index] = f"{listen.head}{listen.port}{listen.tail}{end(lines[listen.index])}"
        else:
            problems.append(
                f"line {listen.index + 1}: Listen {listen.address}:{listen.port} names one IPv4 address, which stays "
                "as it is; name the IPv6 addresses to listen on beside it"
            )
    if problems:
        raise InputError(problems)
    return changed


def _host_wildcards(lines: list[str]) -> list[str]:
    """Only check: over IPv6 the default site would answer for a virtual host of one IPv4 address."""
    problems = []
    for index, line in enumerate(lines):
        match = _VHOST.fullmatch(body(line))
        addresses = [_vhost_endpoint(endpoint)[0] for endpoint in match[2].split()] if match else []
        if addresses and all(is_ipv4(address) and not is_loopback(address) for address in addresses):
            problems.append(
                f"line {index + 1}: <VirtualHost {' '.join(addresses)}> has IPv4 addresses only; over IPv6 the default "
                "site would answer for it; name the IPv6 addresses to serve it on"
            )
    if problems:
        raise InputError(problems)
    return lines


def _host_twins(lines: list[str], wanted: list[tuple[str, str]]) -> list[str]:
    changed = list(lines)
    for index, line in enumerate(lines):
        match = _VHOST.fullmatch(body(line))
        if not match:
            continue
        endpoints = match[2].split()
        have = {_key(endpoint) for endpoint in endpoints}
        new: list[str] = []
        for endpoint in endpoints:
            address, port = _vhost_endpoint(endpoint)
            if not is_ipv4(address) or is_loopback(address):
                continue
            for six, only in wanted:
                twin = f"{six}:{port}" if port else six
                if (not only or only == port) and not {_key(twin), ("*", port)} & have:
                    new.append(twin)
                    have.add(_key(twin))
        if new:
            changed[index] = match[1] + " ".join([match[2], *new]) + match[3] + end(line)
    return changed


def _vhost_endpoint(endpoint: str) -> tuple[str, str]:
    """A VirtualHost's port may be left out; an address without one has no colon unless it is bracketed."""
    match = re.fullmatch(r"(\[[^]]*\]|[^:]*)(?::(\d+|\*))?", endpoint)
    return (match[1], match[2] or "") if match else (endpoint, "")


def _key(endpoint: str) -> tuple[str, str]:
    address, port = _vhost_endpoint(endpoint)
    known = literal(address)
    return (str(known) if known else address.replace("_default_", "*"), port)
