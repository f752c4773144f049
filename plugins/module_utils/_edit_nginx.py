# SPDX-License-Identifier: GPL-3.0-or-later
"""Edit nginx's listen, allow and deny directives (nginx.org: ngx_http_core_module, ngx_http_access_module).

``listen 80`` is IPv4 only, and a socket on ``[::]:80`` IPv6 only. A site answers over IPv6 when its own server block
has the twin; else the default site answers in its place, and ``nginx -t`` has nothing to say.
"""

from __future__ import annotations

import bisect
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from ._edit_text import Settings, is_ipv4, is_loopback, literal, only_keys
from ._edit_web import (
    Networks,
    Read,
    Site,
    SiteAddresses,
    Socket,
    at,
    chosen,
    list_problem,
    members,
    reachable,
)
from ._errors import InputError

# White space, comment, quoted word, mark, or word: in a word # and quotes are plain, and ${ belongs to a variable.
_TOKEN = re.compile(r"""\s+|\#[^\n]*|"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*'|[;{}]|(?:\\.|\$\{|[^\s;{\\])+|\\""", re.DOTALL)
_CONTEXTS = ("http", "stream", "mail")
# Once for each address: nginx refuses them a second time.
_SOCKET_OPTIONS = re.compile(
    r"(backlog|rcvbuf|sndbuf|accept_filter|ipv6only|so_keepalive|fastopen|setfib)=.*|deferred|bind|reuseport"
)
_DEFAULT = ("default_server", "default")
_WILD = ("", "*", "0.0.0.0")

Edits = dict[str, dict[int, list[str]]]  # what is put behind which offset of which file


@dataclass(frozen=True)
class _Directive:
    """A directive; ``stop`` is behind its semicolon or brace. An include has what it reads as ``children``."""

    path: str
    start: int
    stop: int
    words: tuple[str, ...]
    block: bool = False
    children: tuple[_Directive, ...] = ()

    @property
    def name(self) -> str:
        return self.words[0]

    @property
    def values(self) -> list[str]:
        return [word[1:-1] if word[0] in "\"'" else word for word in self.words[1:]]


@dataclass(frozen=True)
class _Listen:
    """A listen directive; ``address`` is empty for all of IPv4, and as it is written otherwise."""

    directive: _Directive
    address: str
    port: str
    options: tuple[str, ...]

    @property
    def ipv4(self) -> bool:
        return not self.address or is_ipv4(self.address)

    @property
    def known(self) -> bool:
        """Whether the address is one, and not a name that is looked up at each start."""
        return (
            self.address in ("", "localhost") or self.address.startswith("unix:") or literal(self.address) is not None
        )

    @property
    def bound(self) -> str:
        """The address of its socket, empty where that has both families."""
        return "" if "ipv6only=off" in self.options else self.address or "0.0.0.0"

    @property
    def key(self) -> tuple[str, str, bool]:
        """Where it is heard; UDP and TCP do not meet."""
        datagram = "udp" in self.options or "quic" in self.options
        return str(literal(self.address) or self.address), self.port, datagram

    @property
    def datagram(self) -> bool:
        return self.key[2]


@dataclass(frozen=True)
class _Server:
    directive: _Directive
    context: str
    names: tuple[str, ...]
    listens: tuple[_Listen, ...]

    @property
    def plain(self) -> str:
        """The first name that a client can ask for."""
        return next((name for name in self.names if re.fullmatch(r"[\w-]+(\.[\w-]+)*", name) and name != "_"), "")


class _Tree:
    """The configuration that starts at one file."""

    def __init__(self, root: str, read: Read) -> None:
        self.base = os.path.dirname(root)
        self.texts: dict[str, str] = {}
        self._ends: dict[str, list[int]] = {}
        self._read = read
        self._open: list[str] = []
        self.top = self._file(os.path.realpath(root) if root else root)
        self.servers = [_server(context, block) for context, block in self._blocks()]

    def place(self, directive: _Directive) -> str:
        return self._at(directive.path, directive.start)

    def _at(self, path: str, offset: int) -> str:
        ends = self._ends.get(path) or [match.start() for match in re.finditer("\n", self.texts[path])]
        self._ends[path] = ends
        return at(path, bisect.bisect_left(ends, offset) + 1)

    def _file(self, path: str) -> tuple[_Directive, ...]:
        text = self._read(path)
        if text is None:
            return ()  # nginx -t has the words for it
        self.texts[path] = text
        self._open.append(path)
        stack: list[tuple[int, list[str], int, list[_Directive]]] = []
        words: list[str] = []
        start = 0
        found: list[_Directive] = []
        skip = 0
        for match in _TOKEN.finditer(text):
            token = match[0]
            if match.start() < skip or token.isspace() or token.startswith("#"):
                continue
            start = start if words else match.start()
            if token == ";":
                if words:
                    found.append(self._plain(path, start, match.end(), words))
                words = []
            elif token == "{" and words and words[0].endswith("_by_lua_block"):
                skip, words = _closing(text, match.end()), []
            elif token == "{":
                stack.append((start, words or [""], match.end(), found))
                words, found = [], []
            elif token == "}" and stack:
                begin, head, stop, outer = stack.pop()
                outer.append(_Directive(path, begin, stop, tuple(head), True, tuple(found)))
                words, found = [], outer
            elif token == "}":
                raise InputError([f"{self._at(path, match.start())}: a brace is closed that was not opened"])
            else:
                words.append(token)
        if stack:
            raise InputError([f"{self._at(path, stack[-1][0])}: {stack[-1][1][0]} has no closing brace"])
        self._open.pop()
        return tuple(found)

    def _plain(self, path: str, start: int, stop: int, words: list[str]) -> _Directive:
        directive = _Directive(path, start, stop, tuple(words))
        if directive.name != "include" or len(words) != 2 or not path:
            return directive
        read: list[_Directive] = []
        for member in members(directive.values[0], self.base):
            if member in self._open:
                raise InputError([f"{self._at(path, start)}: {member} includes itself"])
            read += self._file(member)
        return _Directive(path, start, stop, tuple(words), children=tuple(read))

    def _blocks(self) -> Iterator[tuple[str, _Directive]]:
        for outer in _flat(self.top):
            if outer.block and outer.name == "server":
                yield "http", outer
            elif outer.block and outer.name in _CONTEXTS:
                for inner in _flat(outer.children):
                    if inner.block and inner.name == "server":
                        yield outer.name, inner


def edit(root: str, read: Read, settings: Settings) -> dict[str, str]:
    """Return the changed texts of the configuration that starts at ROOT.

    SETTINGS: ``listen``, ``*`` or ``{add: ["[A6]" or "[A6]:PORT"]}`` for sites on IPv4 literals; a site on all of IPv4
    gets all of IPv6. ``sites``: addresses of single sites. ``networks``: twins for allow and deny, geo, map of the
    client's address and set_real_ip_from.
    """
    only_keys(settings, "listen", "sites", "networks")
    tree = _Tree(root, read)
    edits: Edits = {}
    problems: list[str] = []
    if {"listen", "sites"} & set(settings):
        twins = _Twins(tree, chosen("listen", settings.get("listen")), SiteAddresses(settings.get("sites") or {}))
        edits, problems = twins.edits, twins.problems
    if "networks" in settings:
        networks = Networks(settings["networks"])
        _list_edits(tree, tree.top, networks, edits, problems)
        _tables(tree, networks, edits)
    if problems:
        raise InputError(problems)
    return {path: _inserted(tree.texts[path], places) for path, places in edits.items()}


def sockets(root: str, read: Read) -> set[Socket]:
    """Return what the configuration listens on; a literal beside its wildcard has no socket of its own."""
    tree = _Tree(root, read)
    listens = [listen for server in tree.servers for listen in server.listens if not listen.datagram]
    wild = {(listen.bound, listen.port) for listen in listens if listen.bound in (*_WILD, "[::]")}
    return {
        (listen.bound, listen.port)
        for listen in listens
        if (listen.bound, listen.port) in wild
        or any(map(_SOCKET_OPTIONS.fullmatch, listen.options))
        or not {("", listen.port), ("0.0.0.0" if listen.ipv4 else "[::]", listen.port)} & wild
    }


def sites(root: str, read: Read) -> list[Site]:
    """Return what can be asked: each server block at each of its ports."""
    found = []
    tree = _Tree(root, read)
    default = _defaults(tree)
    taken: dict[str, set[str]] = {}
    for server in tree.servers:
        for listen in server.listens:
            taken.setdefault(listen.port, set()).add(listen.key[0])
    for server in tree.servers:
        names = [directive.name for directive in _below(server.directive.children)]
        on = any(directive.words == ("ssl", "on") for directive in _flat(server.directive.children))
        for port in dict.fromkeys(listen.port for listen in server.listens if not listen.datagram):
            here = [listen for listen in server.listens if listen.port == port and not listen.datagram]
            options = {option for listen in here for option in listen.options}
            heard = [listen.bound for listen in here if not listen.bound or literal(listen.bound)]
            first = all(default[listen.key] is server for listen in here)
            found.append(
                Site(
                    tree.place(server.directive),
                    server.plain,
                    int(port.partition("-")[0]),
                    on or "ssl" in options,
                    *reachable(heard, taken[port]),
                    listed="allow" in names or "deny" in names,
                    # Nameless and not the default, it is what no client can ask for.
                    plain=server.context == "http" and "proxy_protocol" not in options and bool(server.plain or first),
                )
            )
    return found


def _defaults(tree: _Tree) -> dict[tuple[str, str, bool], _Server]:
    bound = [(server, listen) for server in tree.servers for listen in server.listens]
    first: dict[tuple[str, str, bool], _Server] = {}
    for server, listen in bound:
        if set(_DEFAULT) & set(listen.options) or listen.key not in first:
            first[listen.key] = server
    return first


def _flat(directives: Iterable[_Directive]) -> Iterator[_Directive]:
    """Yield the directives of one block, those of its includes in their place."""
    for directive in directives:
        yield directive
        if not directive.block:
            yield from _flat(directive.children)


def _below(directives: Iterable[_Directive]) -> Iterator[_Directive]:
    for directive in directives:
        yield directive
        yield from _below(directive.children)


def _closing(text: str, start: int) -> int:
    """Return where the block of Lua that begins at START ends, behind its brace."""
    depth = 1
    for match in re.finditer(
        r"""--\[\[.*?\]\]|--[^\n]*|"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*'|[{}]""", text[start:], re.DOTALL
    ):
        depth += {"{": 1, "}": -1}.get(match[0], 0)
        if not depth:
            return start + match.end()
    return len(text)


def _server(context: str, block: _Directive) -> _Server:
    inside = list(_flat(block.children))
    names = [name for directive in inside if directive.name == "server_name" for name in directive.values]
    listens = [_listen(directive) for directive in inside if directive.name == "listen" and len(directive.words) > 1]
    return _Server(block, context, tuple(names), tuple(listens))


def _listen(directive: _Directive) -> _Listen:
    word, *options = directive.values
    match = re.fullmatch(r"(\[[^]]*\]|[^:]*):([\d-]+)|([\d-]+)|(.*)", word, re.DOTALL)
    assert match  # the last alternative takes everything
    address, port = (match[1] or "", match[2]) if match[2] else ("", match[3]) if match[3] else (match[4], "80")
    return _Listen(directive, "" if address in _WILD else address, port, tuple(options))


class _Twins:
    """The listen directives to add; ``wanted`` are the addresses of sites on IPv4 literals, ``own`` of single sites."""

    def __init__(self, tree: _Tree, wanted: list[tuple[str, str]], own: SiteAddresses) -> None:
        self.tree, self.wanted, self.own = tree, wanted, own
        self.edits: Edits = {}
        self.problems: list[str] = []
        self._bound = [(server, listen) for server in tree.servers for listen in server.listens]
        self._tuned = {listen.key for _server, listen in self._bound if _tuned(listen.options)}
        self._default = {listen.key: server for server, listen in self._bound if set(_DEFAULT) & set(listen.options)}
        self._rivals()
        for server in tree.servers:
            self._serve(server)
        self.problems += own.problems()

    def _rivals(self) -> None:
        both = {listen.port: listen for _server, listen in self._bound if not listen.bound}
        alone = {listen.port: listen for _server, listen in self._bound if listen.bound in _WILD[1:]}
        for port in sorted(both.keys() & alone.keys()):
            self.problems.append(
                f"{self.tree.place(both[port].directive)}: ipv6only=off takes port {port} of IPv4 too, which "
                f"{self.tree.place(alone[port].directive)} has; nginx will not start again with both; take it out"
            )

    def _serve(self, server: _Server) -> None:
        mine = self.own.of(server.names)
        have = {listen.key for listen in server.listens}
        for listen in _in_force(server):
            place = self.tree.place(listen.directive)
            if not listen.known:
                self.problems.append(f"{place}: listen {listen.address} is no address; write the address there")
            if not listen.ipv4 or is_loopback(listen.address):
                continue
            places = [*self._common(server, listen, mine), *mine]
            twins = [
                _Listen(listen.directive, six, listen.port, listen.options)
                for six, only in places
                if only in ("", listen.port)
            ]
            if not twins and not _six(server, listen):
                self.problems.append(
                    f"{place}: listen {listen.address}:{listen.port} names one IPv4 address; name the IPv6 addresses "
                    "to serve the site on beside it"
                )
            new = [self._text(server, listen, twin) for twin in twins if twin.key not in have]
            have |= {twin.key for twin in twins}
            implied = listen.directive is server.directive
            _add(self.edits, listen.directive, ["listen 80;", *new] if implied and new else new)

    def _common(self, server: _Server, listen: _Listen, mine: list[tuple[str, str]]) -> list[tuple[str, str]]:
        """Return what LISTEN gets whatever its server is called."""
        if not listen.address:
            return [] if _six(server, listen) else [("[::]", "")]
        wild = any(other.address == "[::]" for other in _six(server, listen))
        return [] if mine or wild else self.wanted

    def _text(self, server: _Server, listen: _Listen, twin: _Listen) -> str:
        options = list(listen.options)
        if set(_DEFAULT) & set(options):
            first = self._default.setdefault(twin.key, server)
            if first is not server:
                self.problems.append(
                    f"{self.tree.place(listen.directive)}: {twin.address}:{twin.port} would have two default sites, "
                    f"this one and that of {self.tree.place(first.directive)}; give one of them addresses of its own"
                )
        shared = (
            not listen.address and twin.address != "[::]"
        )  # served by the wildcard's socket; nginx has one, or dies
        if twin.key in self._tuned or shared:
            options = [option for option in options if not _SOCKET_OPTIONS.fullmatch(option)]
        elif _tuned(options):
            self._tuned.add(twin.key)
        return " ".join(["listen", f"{twin.address}:{twin.port}", *options]) + ";"


def _tuned(options: Iterable[str]) -> bool:
    return any(map(_SOCKET_OPTIONS.fullmatch, options))


def _six(server: _Server, near: _Listen) -> list[_Listen]:
    """Return what SERVER listens on over IPv6 at the port of NEAR."""
    return [other for other in server.listens if not other.ipv4 and other.key[1:] == near.key[1:]]


def _in_force(server: _Server) -> list[_Listen]:
    """Without a listen directive a site of HTTP is on port 80 of IPv4; one more would take that away."""
    if server.listens or server.context != "http":
        return list(server.listens)
    return [_Listen(server.directive, "", "80", ())]


def _list_edits(
    tree: _Tree,
    directives: Iterable[_Directive],
    networks: Networks,
    edits: Edits,
    problems: list[str],
) -> None:
    inside = list(_flat(directives))
    for kind in ("allow", "deny"):
        entries = [entry for entry in inside if entry.name == kind and len(entry.words) == 2]
        have = [entry.values[0] for entry in entries]
        for entry in entries:
            others = [word for word in have if ":" in word]
            new, unknown = networks.twins([entry.values[0], *others])
            if unknown:
                problems.append(list_problem(tree.place(entry), kind, unknown, kind == "deny"))
            have += new
            _add(edits, entry, [f"{kind} {word};" for word in new])
    for directive in inside:
        if directive.block:
            _list_edits(tree, directive.children, networks, edits, problems)


def notes(root: str, read: Read, settings: Settings) -> list[str]:
    """Return what in tables of clients' addresses gets no twin: nobody can know what value IPv6 clients shall have."""
    return _tables(_Tree(root, read), Networks(settings.get("networks") or {}), {})


def _tables(tree: _Tree, networks: Networks, edits: Edits) -> list[str]:
    """Put twins into EDITS for the entries of geo, map and set_real_ip_from; return what is left to do by hand."""
    found: list[str] = []
    every = list(_below(tree.top))
    trusted = [directive for directive in every if directive.name == "set_real_ip_from" and len(directive.words) == 2]
    _entry_edits(tree, networks, edits, found, [(entry, "set_real_ip_from ", entry.values[0], "") for entry in trusted])
    for table in every:
        inside = list(_flat(table.children)) if table.block else []
        if table.name == "geo" and any(entry.name == "ranges" for entry in inside):
            found.append(
                f"{tree.place(table)}: geo with ranges knows IPv4 only; IPv6 clients get its default. Write it with "
                "prefixes, such as 2001:db8::/64, where that is not right"
            )
        elif table.name == "geo":
            _entry_edits(tree, networks, edits, found, [(entry, *_head(entry)) for entry in inside if entry.words[1:]])
        elif table.name == "map" and re.search(r"\$(realip_)?remote_addr\b", " ".join(table.words[1:2])):
            _map_edits(tree, networks, edits, found, inside)
    return found


def _head(entry: _Directive) -> tuple[str, str, str]:
    """Return what stands before the network of an ENTRY of geo, the network, and what stands behind it."""
    return ("proxy ", entry.values[0], "") if entry.name == "proxy" else ("", entry.name, f" {entry.words[1]}")


def _map_edits(tree: _Tree, networks: Networks, edits: Edits, found: list[str], inside: Iterable[_Directive]) -> None:
    entries = [(entry, entry.name.strip("\"'")) for entry in inside if len(entry.words) > 1]
    have = {literal(word) for _entry, word in entries}
    for entry, word in entries:
        twins, unknown = networks.twins([word]) if is_ipv4(word) else ([], [])
        single = [twin.partition("/")[0] for twin in twins if twin.endswith("/128") or "/" not in twin]
        if word.startswith("~") and re.search(r"\d(\\)?\.", word):
            found.append(f"{tree.place(entry)}: map: no IPv6 client matches {word}; write a line for these, or geo")
        elif unknown or len(single) < len(twins):
            found.append(f"{tree.place(entry)}: map: {word} is known over IPv4 only; write a line for its twin")
        _add(edits, entry, [f"{six} {entry.words[1]};" for six in single if literal(six) not in have])


def _entry_edits(
    tree: _Tree,
    networks: Networks,
    edits: Edits,
    found: list[str],
    entries: Iterable[tuple[_Directive, str, str, str]],
) -> None:
    have: dict[str, list[str]] = {}
    for _entry, head, word, _tail in entries:
        have.setdefault(head, []).append(word)
    for entry, head, word, tail in entries:
        new, unknown = networks.twins([word, *(other for other in have[head] if ":" in other)])
        have[head] += new
        _add(edits, entry, [f"{head}{six}{tail};" for six in new])
        if unknown:
            found.append(
                f"{tree.place(entry)}: {head}{word} is known over IPv4 only; name the IPv6 networks of these clients "
                "in networks, or write them there"
            )


def _add(edits: Edits, behind: _Directive, new: list[str]) -> None:
    if new:
        there = edits.setdefault(behind.path, {}).setdefault(behind.stop, [])
        there += (text for text in new if text not in there)  # a file that is included twice is edited once


def _inserted(text: str, places: dict[int, list[str]]) -> str:
    """Put each group behind its place: in lines of their own where the directive has one, else in the same line."""
    pieces, done = [], 0
    for stop, new in sorted(places.items()):
        begin = text.rfind("\n", 0, stop) + 1
        finish = text.find("\n", stop)
        line, rest = text[begin:stop], text[stop:finish]
        place, group = stop, "".join(f" {entry}" for entry in new)
        if finish >= 0 and re.fullmatch(r"\s*(#.*)?", rest.rstrip("\r")) and not re.search(r"[;{}]", line[:-1]):
            indent = line[: len(line) - len(line.lstrip(" \t"))]
            indent = _inner(text, stop - 1, indent) if text[stop - 1] == "{" else indent
            style = "\r\n" if rest.endswith("\r") else "\n"
            place, group = finish + 1, "".join(f"{indent}{entry}{style}" for entry in new)
        pieces += [text[done:place], group]
        done = place
    return "".join([*pieces, text[done:]])


def _inner(text: str, brace: int, outer: str) -> str:
    """Return the indentation inside the block that opens at BRACE."""
    match = re.compile(r"\{[^\n]*\n([ \t]+)\S").match(text, brace)
    return match[1] if match else outer + "    "
