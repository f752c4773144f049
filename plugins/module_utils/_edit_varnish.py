# SPDX-License-Identifier: GPL-3.0-or-later
"""Edit the -a options of varnishd in the unit that is in force (varnishd(1), systemd.unit(5)).

Debian's own unit serves both families. The host's unit takes its place, drop-ins follow in the order of their names,
and an empty ExecStart forgets what was there before. Varnish dies when a listener cannot be bound, and nobody says so.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass

from ._edit_text import Settings, additions, bracketed, is_ipv4, is_loopback, literal, only_keys
from ._edit_unit import Assignment, in_force
from ._edit_web import Read, Socket
from ._errors import InputError

_LISTEN = re.compile(r"(?<=\s)-a(?:[ \t]|\\\r?\n)*(\S+)")
_ENDPOINT = re.compile(r"((?:\w+=)?)(\[[^]]*\]|[^][:,$\"'\\=]*)(?::(\d+(?:-\d+)?|[a-z]+))?((?:,[^$\"'\\]*)?)")
_COMMENT = re.compile(r"/\*.*?\*/|(?://|#)[^\n]*", re.DOTALL)


@dataclass(frozen=True)
class _Listen:
    """A -a option of TCP; ``stop`` is where it ends in the command."""

    stop: int
    word: str
    name: str
    address: str
    port: str
    tail: str

    @property
    def ipv4(self) -> bool:
        return is_ipv4(self.address) and not is_loopback(self.address)

    @property
    def every(self) -> bool:
        """Whether it takes all addresses of IPv6."""
        return self.address in ("", "*") or str(literal(self.address)) == "::"


def edit(root: str, read: Read, settings: Settings) -> dict[str, str]:
    """Return the changed texts of the unit whose packaged file is ROOT.

    SETTINGS: ``listen``, ``{add: ["[A6]" or "[A6]:PORT"]}`` for listeners on one IPv4 address; one on all of IPv4 gets
    all of IPv6 when there are none.
    """
    only_keys(settings, "listen")
    wanted = bracketed("listen", additions("listen", settings.get("listen", {"add": []})))
    texts: dict[str, str] = {}
    problems: list[str] = []
    for command in reversed(in_force(root, read, "ExecStart")):
        text = texts.get(command.path) or read(command.path) or ""
        place = command.place(text)
        try:
            new = _with_twins(command.text, wanted)
        except InputError as error:
            problems += (f"{place}: {problem}" for problem in error.problems)
            continue
        if new != command.text:
            if command.path == root and root:
                problems.append(f"{place}: the packaged unit was edited; put that in a unit of the host's own")
            texts[command.path] = text[: command.start] + new + text[command.start + len(command.text) :]
    if problems:
        raise InputError(problems)
    return texts


def sockets(root: str, read: Read) -> set[Socket]:
    """Return what Varnish listens on for its clients."""
    found = set()
    for command in in_force(root, read, "ExecStart"):
        for listen in _listens(command.text):
            address = "127.0.0.1" if listen.address == "localhost" else listen.address.strip("[]*")
            first, _dash, last = ("80" if listen.port == "http" else listen.port).partition("-")
            if first.isdigit():
                found |= {(address, str(port)) for port in range(int(first), int(last or first) + 1)}
    return found


def notes(root: str, read: Read, _settings: Settings) -> list[str]:
    """Return which access lists of the VCL name IPv4 clients only."""
    found = []
    for command in in_force(root, read, "ExecStart"):
        for path, text in (each for main in _mains(command.text) for each in _vcl(main, read, set())):
            for acl in re.finditer(r"\bacl\s+([\w-]+)[^{]*\{([^}]*)\}", _COMMENT.sub(_blank, text)):
                entries = re.findall(r'"([^"/]*)', acl[2])
                hosts = [entry for entry in entries if is_ipv4(entry) and not is_loopback(entry)]
                if hosts and not any(":" in entry and not is_loopback(entry) for entry in entries):
                    place = Assignment(path, acl.start(), "").place(text)
                    found.append(
                        f"{place}: acl {acl[1]} names {hosts[0]} and no client of IPv6; "
                        'write the IPv6 networks of these clients beside it, such as "2001:db8::"/64;'
                    )
    return found


def checks(root: str, read: Read) -> list[tuple[str, ...]]:
    """Return the commands that compile the VCL: Varnish does not start again with one that somebody has broken."""
    mains = [path for command in in_force(root, read, "ExecStart") for path in _mains(command.text)]
    return [("varnishd", "-C", "-f", path) for path in mains]


def _mains(command: str) -> list[str]:
    return re.findall(r"(?<=\s)-f(?:[ \t]|\\\r?\n)*(\S+)", command)


def _listens(command: str) -> list[_Listen]:
    found, problems = [], []
    for match in _LISTEN.finditer(command):
        word = match[1]
        if "/" in word.partition(",")[0] or word.partition("=")[2].startswith("@"):
            continue  # a Unix socket
        parts = _ENDPOINT.fullmatch(word)
        address = parts[2] if parts else ""
        if parts is None or (address and address not in ("localhost", "*") and literal(address) is None):
            problems.append(f"-a {word} is not ADDRESS:PORT; put literals there, or edit the unit by hand")
        else:
            found.append(_Listen(match.end(), word, parts[1], address, parts[3] or "80", parts[4]))
    if problems:
        raise InputError(problems)
    return found


def _with_twins(command: str, wanted: list[tuple[str, str]]) -> str:
    found, problems = _listens(command), []
    have = {(literal(listen.address), listen.port) for listen in found}
    places: list[tuple[int, str]] = []
    for listen in found:
        if not listen.ipv4 or any(other.every and other.port == listen.port for other in found):
            continue
        twins = wanted or ([("[::]", "")] if listen.address == "0.0.0.0" else [])
        if not twins:
            problems.append(
                f"-a {listen.word} names one IPv4 address, which stays as it is; name the IPv6 addresses to listen on "
                "beside it (varnish_ipv6_addresses)"
            )
        for address, only in twins:
            if (not only or only == listen.port) and (literal(address), listen.port) not in have:
                have.add((literal(address), listen.port))
                places.append((listen.stop, f" -a {listen.name}{address}:{listen.port}{listen.tail}"))
    if problems:
        raise InputError(problems)
    for stop, text in reversed(places):
        command = command[:stop] + text + command[stop:]
    return command


def _vcl(path: str, read: Read, seen: set[str]) -> Iterator[tuple[str, str]]:
    """Yield (path, text) of a VCL file and of those it includes, which are found beside the main one."""
    text = read(path)
    if text is None or path in seen:
        return
    seen.add(path)
    yield path, text
    for included in re.findall(r'\binclude\s+"([^"]+)"', _COMMENT.sub(_blank, text)):
        yield from _vcl(os.path.join("/etc/varnish", included), read, seen)


def _blank(match: re.Match[str]) -> str:
    return re.sub(r"[^\n]", " ", match[0])
