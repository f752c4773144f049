# SPDX-License-Identifier: GPL-3.0-or-later
"""Edit what sshd listens on and whom its lists let in (sshd_config(5)).

The first AddressFamily in reading order is in force, and a drop-in is read where its Include stands; ListenAddress and
Port add up over all files. With an IPv4 ListenAddress alone there is no IPv6, whatever AddressFamily says.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from ._edit_text import (
    Settings,
    additions,
    body,
    bracketed,
    end,
    is_ipv4,
    is_loopback,
    literal,
    only_keys,
    scalar,
    split_lines,
)
from ._edit_unit import HOST, in_force
from ._edit_web import Networks, Read, Socket, at, ipv4_network, members
from ._errors import InputError

_LINE = re.compile(r"[ \t]*(\w+)(?:[ \t]*=[ \t]*|[ \t]+)(?=\S)")
_WORD = re.compile(r'"([^"]*)"|(#.*)|([^\s"#][^\s"]*)')
_FROM = re.compile(r'[^#\s](?:[^"\s]|"(?:[^"\\]|\\.)*")*')
_BOTH = ("localhost", "*")  # what getaddrinfo(3) makes the loopback addresses of both families
_LISTS = {"allowusers": "lets nobody in", "denyusers": "keeps nobody out", "match": "matches nobody"}
_SOCKET = "/usr/lib/systemd/system/ssh.socket"
_ENABLED = (f"{HOST}/sockets.target.wants/ssh.socket", f"{HOST}/ssh.service.requires/ssh.socket")


@dataclass(frozen=True)
class _Word:
    """An argument and where it stands in its line, quotation marks left out."""

    text: str
    start: int
    stop: int


@dataclass(frozen=True)
class _Directive:
    """A directive; ``keyword`` is in small letters. ``conditional``: in a Match block."""

    path: str
    index: int
    keyword: str
    words: tuple[_Word, ...]
    conditional: bool

    @property
    def place(self) -> str:
        return at(self.path, self.index + 1)


@dataclass(frozen=True)
class _Listen:
    """A ListenAddress; without a ``port`` it has those of all Port directives."""

    directive: _Directive
    address: str
    port: str

    @property
    def ipv4(self) -> bool:
        return is_ipv4(self.address)

    @property
    def local(self) -> bool:
        return is_loopback(self.address) or self.address in _BOTH


class _Tree:
    """The configuration that starts at one file, in the order in which sshd reads it."""

    def __init__(self, root: str, read: Read) -> None:
        self.lines: dict[str, list[str]] = {}
        self.changed: dict[str, dict[int, list[str]]] = {}
        self._read, self._base = read, os.path.dirname(root)
        self.directives = list(self._file(root, (), False))
        self.listens = [_listen(one) for one in self._global("listenaddress")]
        self.ports = [word.text for one in self._global("port") for word in one.words[:1]] or ["22"]
        self.family = next(self._global("addressfamily"), None)

    def _file(self, path: str, inside: tuple[str, ...], conditional: bool) -> Iterator[_Directive]:
        text = self._read(path)
        if text is None or path in inside:
            return  # sshd -t has the words for a file that includes itself
        self.lines[path] = split_lines(text)
        for index, line in enumerate(self.lines[path]):
            directive = _directive(path, index, body(line), conditional)
            if directive is None:
                continue
            conditional = conditional or directive.keyword == "match"
            yield directive
            if directive.keyword == "include":
                for word in directive.words:
                    for member in members(word.text, self._base):
                        yield from self._file(member, (*inside, path), conditional)

    def _global(self, keyword: str) -> Iterator[_Directive]:
        return (one for one in self.directives if one.keyword == keyword and not one.conditional and one.words)

    def only_ipv4(self) -> _Directive | None:
        """Return the AddressFamily that keeps IPv6 out."""
        return self.family if self.family and self.family.words[0].text.lower() == "inet" else None

    def sockets(self) -> set[Socket]:
        found = {(listen.address, port) for listen in self.listens for port in self.ports_of(listen)}
        families = {"inet": ["0.0.0.0"], "inet6": ["::"]}.get(self.family.words[0].text.lower() if self.family else "")
        return found or {(address, port) for address in families or [""] for port in self.ports}

    def ports_of(self, listen: _Listen) -> list[str]:
        return [listen.port] if listen.port else self.ports

    def line(self, directive: _Directive) -> list[str]:
        """Return the lines that are to take the place of DIRECTIVE's; the first is its own."""
        lines = self.lines[directive.path]
        return self.changed.setdefault(directive.path, {}).setdefault(directive.index, [body(lines[directive.index])])

    def texts(self) -> dict[str, str]:
        """Return the changed files."""
        texts = {}
        for path, changed in self.changed.items():
            lines = list(self.lines[path])
            style = end(lines[0]) or "\n"
            for index, bodies in changed.items():
                lines[index] = style.join(bodies) + end(lines[index])
            texts[path] = "".join(lines)
        return texts


def edit(root: str, read: Read, settings: Settings) -> dict[str, str]:
    """Return the changed texts of the configuration that starts at ROOT.

    SETTINGS: ``ListenAddress``, ``{add: ["[A6]" or "[A6]:PORT"]}`` for listeners on one IPv4 address, while all of IPv4
    gets all of IPv6 unless IPv6 is thought of: nothing else can be bound beside that. ``AddressFamily``, ``any`` where
    ``inet`` is to give way. ``networks``: twins for AllowUsers, DenyUsers and Match Address. ``keys``:
    patterns of files of authorized keys, for `notes`.
    """
    only_keys(settings, "ListenAddress", "AddressFamily", "networks", "keys")
    wanted = bracketed("ListenAddress", additions("ListenAddress", settings.get("ListenAddress", {"add": []})))
    family = scalar("AddressFamily", settings.get("AddressFamily", "any"))
    tree = _Tree(root, read)
    problems = [] if family == "any" else [f"AddressFamily: {family!r} is not any, the one value with both families"]
    if _activated(read):
        problems += _socket_problems(read)
    else:
        problems += _family_edit(tree, "AddressFamily" in settings)
        problems += _listen_edits(tree, wanted)
    problems += _list_edits(tree, settings)
    if problems:
        raise InputError(problems)
    return tree.texts()


def sockets(root: str, read: Read) -> set[Socket]:
    """Return what the configuration listens on, or systemd in sshd's place."""
    return _streams(read) if _activated(read) else _Tree(root, read).sockets()


def notes(root: str, read: Read, settings: Settings) -> list[str]:
    """Return which lists let IPv4 clients in only, in the configuration and in the files of authorized keys."""
    networks = Networks(settings.get("networks") or {})
    found = []
    if _activated(read):
        found.append(
            "ssh.socket listens for sshd, so ListenAddress, Port and AddressFamily have no effect and were left alone"
        )
    for directive, word, _joint, hosts in _lists(_Tree(root, read)):
        for host in networks.twins(hosts)[1]:
            twin = word.text[: word.text.find("@") + 1] + "2001:db8::/64"
            found.append(
                f"{directive.place}: {word.text} {_LISTS[directive.keyword]} over IPv6; where the clients of {host} "
                f"have IPv6, name their network in networks, or write it there without brackets, such as {twin}"
            )
    keys = settings.get("keys")
    patterns = map(str, keys) if isinstance(keys, (list, tuple)) else ()
    for path in [path for pattern in patterns for path in members(pattern, "/")]:
        for index, line in enumerate(split_lines(read(path) or "")):
            options = _FROM.match(line)
            listed = re.search(r'(?:^|,)from="([^"]*)"', options[0], re.IGNORECASE) if options else None
            new, unknown = networks.twins(_hosts(listed[1])) if listed else ([], [])
            if listed and (new or unknown):
                twin = ",".join(new) or "2001:db8::/64"
                found.append(
                    f'{at(path, index + 1)}: from="{listed[1]}" refuses this key over IPv6; add the network there '
                    f'without brackets: from="{listed[1]},{twin}"'
                )
    return found


def _activated(read: Read) -> bool:
    return any(read(path) is not None for path in _ENABLED)


def _streams(read: Read) -> set[Socket]:
    """Return the listeners of ssh.socket (systemd.socket(5)); a port alone is both families."""
    matches = [
        re.fullmatch(r"(?:\[([^]]*)\]:|([\d.]+):)?(\d+)\s*", one.text)
        for one in in_force(_SOCKET, read, "ListenStream")
    ]
    return {(match[1] or match[2] or "", match[3]) for match in matches if match}


def _socket_problems(read: Read) -> list[str]:
    listens = _streams(read)
    served = {port for address, port in listens if not is_ipv4(address)}
    return [
        f"ssh.socket listens on {address}:{port} for sshd, so nothing in sshd_config brings IPv6; add "
        f"ListenStream=[::]:{port} with BindIPv6Only=ipv6-only to it: systemctl edit ssh.socket"
        for address, port in sorted(listens)
        if port not in served and not is_loopback(address)
    ]


def _directive(path: str, index: int, line: str, conditional: bool) -> _Directive | None:
    head = _LINE.match(line)
    if not head:
        return None
    words = []
    for match in _WORD.finditer(line, head.end()):
        if match[2]:
            break
        group = 1 if match[1] is not None else 3
        words.append(_Word(match[group], match.start(group), match.end(group)))
    return _Directive(path, index, head[1].lower(), tuple(words), conditional)


def _listen(directive: _Directive) -> _Listen:
    text = directive.words[0].text
    match = re.fullmatch(r"(?:\[([^]]*)\]|([^:]*))(?::(\d+))?", text)  # two colons without brackets: IPv6
    return _Listen(directive, match[1] or match[2] or "", match[3] or "") if match else _Listen(directive, text, "")


def _family_edit(tree: _Tree, allowed: bool) -> list[str]:
    blocker = tree.only_ipv4()
    if blocker is None:
        return []
    if not allowed:
        return [
            f"{blocker.place}: AddressFamily inet keeps sshd on IPv4, and somebody may have meant that; set "
            "sshd_ipv6_address_family to any to have it changed, or take it out where it comes from"
        ]
    word, line = blocker.words[0], tree.line(blocker)
    line[0] = line[0][: word.start] + "any" + line[0][word.stop :]
    return []


def _listen_edits(tree: _Tree, wanted: list[tuple[str, str]]) -> list[str]:
    problems = []
    have = {(literal(address) or address, port) for address, port in tree.sockets()}

    def missing(address: str, ports: Iterable[str]) -> list[str]:
        known = {literal(address), literal("::")}
        return [port for port in ports if not {(one, port) for one in known} & have]

    for listen in tree.listens:
        ports = tree.ports_of(listen)
        if listen.local or not missing("::", ports) or isinstance(literal(listen.address), type(literal("::"))):
            continue
        if not listen.ipv4:
            problems.append(
                f"{listen.directive.place}: ListenAddress {listen.address} is a name; write its addresses there, "
                "so that they do not depend on the resolver"
            )
            continue
        places = wanted
        if listen.address == "0.0.0.0":
            ports = [port for port in ports if not any(":" in one and on == port for one, on in tree.sockets())]
            places = [("[::]", "")]
        if not places:
            problems.append(
                f"{listen.directive.place}: ListenAddress {listen.address} names one IPv4 address, which stays as it "
                "is; name the IPv6 addresses to listen on beside it (sshd_ipv6_addresses)"
            )
        for address, only in places:
            new = missing(address, [port for port in ports if not only or only == port])
            have |= {(literal(address) or address, port) for port in new}
            if new == tree.ports_of(listen) and not listen.port:
                tree.line(listen.directive).append(_twin(tree, listen, address.strip("[]")))
            else:
                tree.line(listen.directive).extend(_twin(tree, listen, f"{address}:{port}") for port in new)
    return problems


def _twin(tree: _Tree, listen: _Listen, text: str) -> str:
    """Return the line of LISTEN with TEXT for its address, without its comment."""
    words = listen.directive.words
    line = body(tree.lines[listen.directive.path][listen.directive.index])
    return line[: words[0].start] + text + line[words[0].stop : words[-1].stop + (line[words[-1].stop :][:1] == '"')]


def _lists(tree: _Tree) -> Iterator[tuple[_Directive, _Word, str, list[str]]]:
    """Yield (directive, word, what joins a twin to the word, hosts) of each list that names addresses.

    A user's host patterns are those of all words for this user: who wrote one for IPv6 has thought of it.
    """
    for directive in tree.directives:
        if directive.keyword in ("allowusers", "denyusers"):
            anywhere = {word.text for word in directive.words}
            for word in directive.words:
                user, mark, _host = word.text.rpartition("@")
                others = (other.text.rpartition("@") for other in directive.words if other is not word)
                beside = [host for name, _mark, host in others if name == user and ":" in host]
                if mark and user not in anywhere:
                    yield directive, word, f" {user}@", [_network(word.text.rpartition("@")[2]), *beside]
        elif directive.keyword == "match":
            for name, word in zip(directive.words[::2], directive.words[1::2]):
                if name.text.lower() in ("address", "localaddress"):
                    yield directive, word, ",", _hosts(word.text)
                    yield directive, word, ",!", _hosts(word.text, "!")


def _list_edits(tree: _Tree, settings: Settings) -> list[str]:
    networks = Networks(settings.get("networks") or {})
    problems: list[str] = []
    places: list[tuple[_Directive, int, str]] = []
    for directive, word, joint, hosts in _lists(tree):
        new, unknown = networks.twins(hosts)
        if unknown and directive.keyword == "denyusers":
            problems.append(
                f"{directive.place}: DenyUsers {word.text} {_LISTS['denyusers']} over IPv6; name the IPv6 networks of "
                "these clients in networks, or an empty list where they have none"
            )
        places += ((directive, word.stop, joint + network) for network in new if settings.get("networks"))
    for directive, stop, text in sorted(places, key=lambda place: place[1], reverse=True):
        line = tree.line(directive)
        behind = stop + (text.startswith(" ") and line[0][stop : stop + 1] == '"')
        line[0] = line[0][:behind] + text + line[0][behind:]
    return problems


def _hosts(listed: str, sign: str = "") -> list[str]:
    """Return the networks in a list of patterns that have the SIGN, ``!`` or none."""
    found = [re.fullmatch(r"(!?)(.*)", pattern.strip()) for pattern in listed.split(",")]
    return [_network(match[2]) for match in found if match and match[1] == sign]


def _network(pattern: str) -> str:
    """Return the network of a PATTERN that stands for all of its addresses, such as 192.0.2.*; else PATTERN."""
    octets = re.fullmatch(r"((?:\d{1,3}\.){1,3})\*(?:\.\*)*", pattern)
    return (ipv4_network(octets[1]) if octets else None) or pattern
