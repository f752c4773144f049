# SPDX-License-Identifier: GPL-3.0-or-later
"""Edit Dovecot's configuration, of 2.3 and of 2.4: the addresses that it listens on, and lists of networks.

A block begins at the end of a line and ends with a line of its own, in both releases; ``a/b/key`` is ``key`` in it.
The last assignment of a key in a block is in force, whichever file it is in: that one is edited.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace

from ._edit_text import (
    Settings,
    body,
    is_ipv4,
    is_loopback,
    literal,
    only_keys,
    split_lines,
)
from ._edit_web import Networks, Read, Site, Socket, at, chosen, members, reachable
from ._errors import InputError

_LISTENER = re.compile(r"service/([^/]+)/inet_listener/([^/]+)/(address|listen|port)")  # address is 2.3's, listen 2.4's
_NETWORKS = re.compile(r"(?:.*/)?(?:login_trusted_networks|haproxy_trusted_networks|allow_nets)")
_INLINE = re.compile(r"\ballow_nets=([^\s\"']+)")  # among the extra fields of a passdb
_ALL_IPV4 = ("*", "0.0.0.0")
# What listens unless it is configured away: {protocol: ((listener, port, TLS from the first byte), ...)}.
_DEFAULTS = {
    "imap": (("imap", "143", False), ("imaps", "993", True)),
    "pop3": (("pop3", "110", False), ("pop3s", "995", True)),
    "sieve": (("sieve", "4190", False),),
    "submission": (("submission", "587", False),),
}
_SERVICES = {"sieve": "managesieve-login"}
_GREETINGS = {"imap": r"^\* (OK|PREAUTH)", "pop3": r"^\+OK", "sieve": r'^"IMPLEMENTATION"', "submission": "^220[ -]"}


@dataclass(frozen=True)
class _Entry:
    """An assignment: where it is, the whole name of its key, and the span of the value in the line."""

    path: str
    line: int
    key: str
    start: int
    stop: int
    value: str
    block: bool = False  # written as 2.4's block of ``WORD = yes``

    @property
    def place(self) -> str:
        return at(self.path, self.line + 1)


@dataclass(frozen=True)
class _Place:
    """The end of a list in a line, and the words that it lacks."""

    line: int
    stop: int
    separator: str
    words: list[str]


def edit(path: str, read: Read, settings: Settings) -> dict[str, str]:
    """Return the changed texts of the configuration that begins in PATH; raise InputError with all problems."""
    only_keys(settings, "listen", "networks")
    addresses = [address[1:-1] for address, _port in chosen("listen", settings.get("listen"))]
    networks = Networks(settings["networks"]) if "networks" in settings else None
    problems: list[str] = []
    places: dict[str, list[_Place]] = {}
    for entry in _in_force(path, read, problems).values():
        try:
            places.setdefault(entry.path, []).extend(_missing(entry, addresses, networks))
        except InputError as error:
            problems += error.problems
    if problems:
        raise InputError(problems)
    return {name: _extended(read(name) or "", found) for name, found in places.items() if found}


def sites(path: str, read: Read) -> list[Site]:
    """Return the services that must greet, at the addresses where they do."""
    entries = _in_force(path, read, [])
    found: list[Site] = []
    for protocol, name, port, tls, words, entry in _listeners(entries):
        ipv4, ipv6 = reachable(["0.0.0.0" if word == "*" else word for word in words], [])
        greeting = "" if tls else _GREETINGS.get(protocol, "")
        place = entry.place if entry else path
        found.append(Site(place, name, int(port), tls, ipv4, ipv6, plain=False, greeting=greeting))
    return found


def sockets(path: str, read: Read) -> set[Socket]:
    """Return the addresses and ports that are listened on."""
    return {
        ("0.0.0.0" if word == "*" else word.strip("[]"), port)
        for _protocol, _name, port, _tls, words, _entry in _listeners(_in_force(path, read, []))
        for word in words
    }


def _listeners(entries: dict[str, _Entry]) -> Iterator[tuple[str, str, str, bool, list[str], _Entry | None]]:
    """Return protocol, name, port, TLS and addresses of each listener, and the entry that says so."""
    known = {
        f"service/{_SERVICES.get(protocol, f'{protocol}-login')}/inet_listener/{name}": (protocol, name, port, tls)
        for protocol in _protocols(entries)
        for name, port, tls in _DEFAULTS.get(protocol, ())
    }
    for match in filter(None, map(_LISTENER.fullmatch, entries)):
        block = match[0].rpartition("/")[0]
        known.setdefault(block, ("", match[2], "0", match[2].endswith("s")))
    everywhere = _words(entries["listen"].value) if "listen" in entries else ["*", "::"]
    tls_off = "ssl" in entries and entries["ssl"].value == "no"
    for block, (protocol, name, default, tls) in known.items():
        port = entries[f"{block}/port"].value if f"{block}/port" in entries else default
        entry = entries.get(f"{block}/address") or entries.get(f"{block}/listen")
        if port.isdigit() and port != "0" and not (tls and tls_off):
            yield protocol, name, port, tls, _words(entry.value) if entry else everywhere, entry


def _protocols(entries: dict[str, _Entry]) -> list[str]:
    text = entries["protocols"].value if "protocols" in entries else ""
    return [protocol for protocol in _DEFAULTS if protocol in _words(text)]


def _in_force(path: str, read: Read, problems: list[str]) -> dict[str, _Entry]:
    """Return the last assignment of each key; ``protocols`` with what ``$protocols`` in it stands for."""
    found: dict[str, _Entry] = {}
    blocks: list[tuple[str, str]] = []
    for said in _entries(path, read, blocks, (), problems):
        entry, (key, _slash, word) = said, said.key.rpartition("/")
        if key == "protocols" or _is_listen(key) or _NETWORKS.fullmatch(key):
            others = found[key].value if key in found else ""
            value = f"{others} {word}" if said.value == "yes" else others
            entry = replace(said, key=key, value=value, block=True)
        elif said.key == "protocols" and "protocols" in found:
            entry = replace(said, value=said.value.replace("$protocols", found["protocols"].value))
        found.pop(entry.key, None)
        found[entry.key] = entry
    if blocks:
        problems.append(f"{blocks[-1][1]}: the block that begins here has no end, so what belongs to it is not known")
    return found


def _entries(
    path: str, read: Read, blocks: list[tuple[str, str]], above: tuple[str, ...], problems: list[str]
) -> Iterator[_Entry]:
    """Return the assignments in the order in which Dovecot reads them; BLOCKS are those open, with their places."""
    goes_on = ""  # the key of the assignment that the line before has not ended
    for number, line in enumerate(split_lines(read(path) or "")):
        code = _code(body(line))
        if not code.strip():
            continue  # not even a continuation ends here
        prefix = "".join(f"{name}/" for name, _place in blocks)
        begun, goes_on = goes_on, ""
        if begun:
            yield _Entry(path, number, f"{begun}\\{number}", 0, len(code), code)
            goes_on = begun if code.endswith("\\") else ""
        elif include := re.fullmatch(r"\s*!include(?:_try)?\s+(\S.*)", code):
            for member in members(_bare(include[1]), os.path.dirname(path)):
                if member not in (*above, path):
                    yield from _entries(member, read, blocks, (*above, path), problems)
        elif assignment := re.fullmatch(r"\s*([^\s={}#!]+)\s*=\s*(.*)", code):
            start, stop = assignment.span(2)
            yield _Entry(path, number, prefix + assignment[1], start, stop, _bare(assignment[2]))
            goes_on = prefix + assignment[1] if code.endswith("\\") else ""
        elif block := re.fullmatch(r"\s*(\S+)(?:\s+(\S.*?))?\s*\{", code):
            name = "/".join(filter(None, [block[1], _bare(block[2] or "")]))
            blocks.append((name, at(path, number + 1)))
        elif re.match(r"\s*\}", code):
            if blocks:
                blocks.pop()
            else:
                problems.append(f"{at(path, number + 1)}: a brace closes what none has opened")


def _code(text: str) -> str:
    """Return the line TEXT without its comment; a # between quotation marks or in a word is none."""
    match = re.match(r"(?:\"(?:[^\"\\]|\\.)*\"|'(?:[^'\\]|\\.)*'|[^#]|(?<=[^\s#])#)*", text)
    return (match[0] if match else text).rstrip()


def _bare(value: str) -> str:
    """Return VALUE without the one pair of quotation marks that Dovecot takes off."""
    match = re.fullmatch(r"([\"'])(.*)\1", value)
    return match[2] if match else value


def _words(text: str) -> list[str]:
    return [word for word in re.split(r"[,\s]+", text) if word]


def _missing(entry: _Entry, addresses: list[str], networks: Networks | None) -> Iterator[_Place]:
    """Return the lists in the line of ENTRY that lack words, with those."""
    start = entry.start + (entry.stop - entry.start - len(entry.value)) // 2  # behind the quotation mark
    if _is_listen(entry.key) or _NETWORKS.fullmatch(entry.key):
        listen = _is_listen(entry.key)
        if re.search(r"[\"'\\]|[$<]|%\{", entry.value) and (listen or networks):
            raise InputError(
                [f"{entry.place}: {entry.key}: {entry.value!r} is not a plain list on one line; write it so"]
            )
        lacks = _twins(entry, addresses) if listen else _network_twins(entry, entry.value, networks)
        if lacks and entry.block:
            name = entry.key.rpartition("/")[2]
            raise InputError(
                [f"{entry.place}: {name} is a block, which is not edited; write it as one line, {name} = ..."]
            )
        if lacks:
            spaced = " " in entry.value.strip() and "," not in entry.value
            yield _Place(entry.line, start + len(entry.value), " " if spaced else ", ", lacks)
        return
    for match in _INLINE.finditer(entry.value):
        lacks = _network_twins(entry, match[1], networks)
        if lacks:
            yield _Place(entry.line, start + match.end(1), ",", lacks)


def _is_listen(key: str) -> bool:
    match = _LISTENER.fullmatch(key)
    return key == "listen" or bool(match and match[3] != "port") or bool(re.fullmatch(r"protocol/[^/]+/listen", key))


def _twins(entry: _Entry, addresses: list[str]) -> list[str]:
    """Return the IPv6 twins of the addresses that ENTRY has; none where IPv6 is thought of, or for loopback alone."""
    words = _words(entry.value)
    strange = [word for word in words if word not in ("*", "localhost") and literal(word) is None]
    if strange:
        raise InputError([f"{entry.place}: {strange[0]!r} is not an address; write the address there"])
    outside = [word for word in words if word != "localhost" and not is_loopback(word)]
    if not outside or not all(word == "*" or is_ipv4(word) for word in outside):
        return []
    if any(word in _ALL_IPV4 for word in outside):
        return ["::"]
    if not addresses:
        raise InputError(
            [
                f"{entry.place}: {entry.key} has IPv4 addresses only ({entry.value}), and no IPv6 address is named for "
                "them; name this host's in listen"
            ]
        )
    have = {literal(word) for word in words}
    return [address for address in addresses if literal(address) not in have]


def _network_twins(entry: _Entry, value: str, networks: Networks | None) -> list[str]:
    if networks is None:
        return []
    missing, unknown = networks.twins(word.replace("[", "").replace("]", "") for word in _words(value))
    if unknown:
        raise InputError(
            [
                f"{entry.place}: {entry.key}: over IPv6, the clients of {' '.join(unknown)} would not be known; "
                "name the IPv6 networks of these clients in networks, or an empty list where they have none"
            ]
        )
    return missing


def _extended(text: str, places: list[_Place]) -> str:
    lines = split_lines(text)
    for place in sorted(places, key=lambda place: (place.line, place.stop), reverse=True):
        line = lines[place.line]
        lines[place.line] = (
            line[: place.stop] + "".join(place.separator + word for word in place.words) + line[place.stop :]
        )
    return "".join(lines)
