# SPDX-License-Identifier: GPL-3.0-or-later
"""Edit Apache's listeners, virtual hosts and lists of clients (httpd 2.4: "Binding to Addresses and Ports").

Apache ends when a wildcard and a literal claim the same port, and neither configtest nor the reload says so.
So a twin is only put beside a Listen with an IPv4 literal, and never where the port has IPv6 already.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from ._edit_text import Settings, body, end, is_addition, is_ipv4, is_loopback, literal, only_keys, scalar, split_lines
from ._edit_web import Networks, Read, Site, SiteAddresses, Socket, at, chosen, list_problem, members, reachable
from ._errors import InputError

_LISTEN = re.compile(r"(\s*listen\s+\"?)([^\s\"]+)(.*)", re.IGNORECASE)
_VHOST = re.compile(r"(\s*<virtualhost\s+)([^>]*?)(\s*>.*)", re.IGNORECASE)
_LIST = re.compile(r"\s*((require)\s+(not\s+)?ip|(allow|deny)\s+from)\s+(.*?)\s*", re.IGNORECASE)
_OPEN = re.compile(r"\s*<([\w-]+)\s*([^>]*)", re.IGNORECASE)
_CLOSE = re.compile(r"\s*</([\w-]+)", re.IGNORECASE)
_SIMPLE = re.compile(
    r"\s*(include|includeoptional|servername|serveralias|sslengine|loadmodule|define|serverroot)\s+(.*?)\s*",
    re.IGNORECASE,
)
_PATTERNS = (("listen", _LISTEN), ("vhost", _VHOST), ("list", _LIST), ("", _SIMPLE))
# Compiled into Debian's httpd.
_STATIC = {"core", "so", "watchdog", "http", "log_config", "logio", "version", "unixd"}


@dataclass(frozen=True)
class _Section:
    """A section; ``head`` is what stands behind its name."""

    path: str
    index: int
    name: str
    head: str


@dataclass(frozen=True)
class _Line:
    """A line that matters: where it is, which match it is, and the sections around it."""

    path: str
    index: int
    kind: str
    words: tuple[str, ...]
    blocks: tuple[_Section, ...]


@dataclass(frozen=True)
class _Listen:
    """A Listen directive; an empty ``address`` is the wildcard."""

    line: _Line
    head: str
    address: str
    port: str
    tail: str

    @property
    def ipv4(self) -> bool:
        return is_ipv4(self.address)


@dataclass
class _Tree:
    """The configuration that starts at one file; ``lines`` in the order in which Apache reads them."""

    root: str
    read: Read
    texts: dict[str, list[str]] = field(default_factory=dict)
    lines: list[_Line] = field(default_factory=list)
    modules: set[str] = field(default_factory=lambda: set(_STATIC))
    defined: set[str] = field(default_factory=set)
    problems: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.base = os.path.dirname(self.root)
        self._open: list[str] = []
        self._file(os.path.realpath(self.root) if self.root else self.root, ())

    def place(self, line: _Line | _Section) -> str:
        return at(line.path, line.index + 1)

    def of(self, kind: str) -> list[_Line]:
        return [line for line in self.lines if line.kind == kind]

    def hosts(self) -> list[tuple[_Line, list[_Line]]]:
        """Return each virtual host with the lines in it."""
        inside: dict[tuple[str, int], list[_Line]] = {}
        for line in self.lines:
            for block in line.blocks:
                inside.setdefault((block.path, block.index), []).append(line)
        return [(line, inside.get((line.path, line.index), [])) for line in self.of("vhost")]

    def listens(self) -> list[_Listen]:
        found = []
        for line in self.of("listen"):
            head, endpoint, tail = line.words
            address, colon, port = endpoint.rpartition(":")
            found.append(_Listen(line, head, "" if not colon or address == "*" else address, port, tail))
        return found

    def in_force(self, line: _Line) -> bool:
        """Tell whether LINE counts; a section whose condition is not known leaves it out."""
        return all(self._holds(block) for block in line.blocks)

    def beside(self, sections: Iterable[tuple[_Section, ...]], line: _Line) -> bool:
        """Tell whether what stands in one of SECTIONS may count together with LINE."""
        around = {line.blocks[:depth] for depth in range(len(line.blocks) + 1)}  # what holds wherever this one does
        return any(blocks in around or not self._ruled_out(blocks) for blocks in sections)

    def _ruled_out(self, blocks: Iterable[_Section]) -> bool:
        """Tell whether a module is missing; what is defined on the command line is not known."""
        return any(block.name == "ifmodule" and not self._holds(block) for block in blocks)

    def _holds(self, block: _Section) -> bool:
        wanted = block.head.strip().strip('"')
        inverted, wanted = wanted.startswith("!"), wanted.lstrip("!")
        if block.name == "ifmodule":
            name = re.sub(r"^mod_(.*)\.c$|^(.*)_module$", r"\1\2", wanted)
            return (name in self.modules) != inverted
        if block.name == "ifdefine":
            return (wanted in self.defined) != inverted
        return block.name not in ("ifversion", "ifdirective", "iffile", "ifsection", "macro")

    def _file(self, path: str, blocks: tuple[_Section, ...]) -> None:
        text = self.read(path)
        if text is None:
            return  # apache2ctl configtest has the words for it
        lines = self.texts[path] = split_lines(text)
        self._open.append(path)
        stack = blocks
        for index, full in enumerate(lines):
            line = body(full)
            if line.lstrip().startswith("#") or not line.strip():
                continue
            if _CLOSE.match(line):
                stack = stack[:-1] if len(stack) > len(blocks) else stack
                continue
            self._line(path, index, line, stack)
            opened = _OPEN.match(line)
            if opened:
                stack = (*stack, _Section(path, index, opened[1].lower(), opened[2]))
        self._open.pop()

    def _line(self, path: str, index: int, line: str, blocks: tuple[_Section, ...]) -> None:
        matches = ((kind, pattern.fullmatch(line)) for kind, pattern in _PATTERNS)
        kind, match = next(((kind, match) for kind, match in matches if match), ("", None))
        if match is None:
            return
        words = tuple(word or "" for word in match.groups())
        found = _Line(path, index, kind or words[0].lower(), words, blocks)
        self.lines.append(found)
        value = words[1].strip('"')
        if found.kind in ("listen", "vhost", "list", "include", "includeoptional"):
            self._unreadable(found, line)
        if found.kind == "loadmodule":
            self.modules.add(value.split()[0].removesuffix("_module") if value else "")
        elif found.kind == "define":
            self.defined.add(value.split()[0] if value else "")
        elif found.kind == "serverroot":
            self.base = value
        elif found.kind in ("include", "includeoptional") and path and "$" not in value:
            for member in members(value, self.base):
                if member in self._open:
                    raise InputError([f"{self.place(found)}: {member} includes itself"])
                self._file(member, blocks)

    def _unreadable(self, line: _Line, text: str) -> None:
        macro = any(block.name == "macro" for block in line.blocks)
        where = " ".join(line.words[1:2] if line.kind != "list" else line.words[4:])
        if text.rstrip().endswith("\\"):
            self.problems.append(
                f"{self.place(line)}: goes on in the next line, which this editor does not read; join them"
            )
        elif re.search(r"\$\{|%\{" if not macro else r"[$%@]", where):
            self.problems.append(
                f"{self.place(line)}: {text.strip()}: what the variable stands for is not known here; write it out"
            )


def edit(root: str, read: Read, settings: Settings) -> dict[str, str]:
    """Return the changed texts of the configuration that starts at ROOT.

    SETTINGS: ``Listen`` and ``VirtualHost``, ``*`` or ``{add: ["[A6]" or "[A6]:PORT"]}``. ``sites``: addresses of
    single sites. ``networks``: twins for ``Require ip``, ``Allow from`` and ``Deny from``.
    """
    only_keys(settings, "Listen", "VirtualHost", "sites", "networks")
    tree = _Tree(root, read)
    problems = list(tree.problems)
    own = SiteAddresses(settings.get("sites") or {})
    changed: dict[tuple[str, int], str] = {}
    behind: dict[tuple[str, int], list[str]] = {}
    wanted: dict[str, list[tuple[str, str]]] = {}
    for key in ("Listen", "VirtualHost"):
        value = settings.get(key)
        try:
            if value is not None and not is_addition(value) and scalar(key, value) != "*":
                raise InputError([f'{key}: {value!r} is not understood; write "*" or {{add: ["[2001:db8::1]:80"]}}'])
            wanted[key] = chosen(key, value)
        except InputError as error:
            problems += error.problems
    if problems:
        raise InputError(problems)
    if "VirtualHost" in settings or "sites" in settings:
        extra = _hosts(tree, wanted["VirtualHost"], own, changed, problems)
        problems += own.problems()
    else:
        extra = []
    if settings.get("Listen") == "*":
        _wildcards(tree, extra, changed, problems)
    _twins(tree, [*wanted["Listen"], *extra], changed, behind)
    if "networks" in settings:
        _lists(tree, Networks(settings["networks"]), changed, problems)
    if problems:
        raise InputError(problems)
    return _texts(tree, changed, behind)


def sockets(root: str, read: Read) -> set[Socket]:
    """Return what the configuration listens on."""
    tree = _Tree(root, read)
    return {_bound(listen) for listen in tree.listens() if tree.in_force(listen.line)}


def sites(root: str, read: Read) -> list[Site]:
    """Return what can be asked: each virtual host at each of its ports, and each port that has none."""
    tree = _Tree(root, read)
    listens = [listen for listen in tree.listens() if tree.in_force(listen.line)]
    hosts = [(line, inside) for line, inside in tree.hosts() if tree.in_force(line)]
    numbers = dict.fromkeys(listen.port for listen in listens)
    ports = {number: _Port(number, listens, [line for line, _inside in hosts]) for number in numbers}
    known: set[tuple[str, str]] = set()
    found: list[Site] = []
    for line, every in hosts:
        inside = [other for other in every if tree.in_force(other)]
        tls = any(other.kind == "sslengine" and other.words[1].lower() == "on" for other in inside)
        listed = any(other.kind == "list" for other in inside)
        name = next((_host(other.words[1]) for other in inside if other.kind == "servername"), "")
        endpoints = [_endpoint(word) for word in line.words[1].split()]
        keys = set(map(_key, line.words[1].split()))
        plain = bool(name) or not keys & known  # nameless and not the first, it is what no client can ask for
        known |= keys
        for port in ports.values():
            heard = port.heard([address for address, only in endpoints if only in ("", "*", port.number)])
            if heard[0] or heard[1]:
                secure = tls or port.secure
                found.append(Site(tree.place(line), name, int(port.number), secure, *heard, listed=listed, plain=plain))
    served = {(site.port, address) for site in found for address in site.ipv4 + site.ipv6}
    for listen in listens:  # the main server has what no virtual host has
        heard = reachable([_bound(listen)[0]], ())
        if not served & {(int(listen.port), address) for address in heard[0] + heard[1]}:
            found.append(Site(tree.place(listen.line), "", int(listen.port), ports[listen.port].secure, *heard))
    return found


class _Port:
    """What listens on one port, and the addresses of it that virtual hosts name."""

    def __init__(self, number: str, listens: Iterable[_Listen], hosts: Iterable[_Line]) -> None:
        here = [listen for listen in listens if listen.port == number]
        self.number = number
        self.secure = any(listen.tail.strip('"').split()[:1] == ["https"] for listen in here)
        self.bound = {str(literal(address) or ""): address for address, _port in map(_bound, here)}
        keys = (key for line in hosts for key in map(_key, line.words[1].split()))
        self.named = {address for address, only in keys if only in ("", "*", number)}

    def heard(self, endpoints: Iterable[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Return where a virtual host with ENDPOINTS answers: not where another one names the address."""
        heard: list[str] = []
        for endpoint in endpoints:
            known = literal(endpoint)
            if endpoint in ("*", "_default_"):
                heard += (address for key, address in self.bound.items() if key not in self.named)
            elif known and {str(known), "", "0.0.0.0" if known.version == 4 else ""} & self.bound.keys():
                heard.append(endpoint)
        return reachable(heard, self.named)


def _bound(listen: _Listen) -> Socket:
    return ("" if listen.address in ("", "[::]") else listen.address, listen.port)  # [::] takes IPv4 too


def _host(name: str) -> str:
    """Return the host in a ServerName: scheme and port may stand around it."""
    match = re.fullmatch(r"\"?(?:\w+://)?([\w.-]+)(?::\d+)?\"?", name)
    return match[1] if match else ""


def _twins(
    tree: _Tree,
    wanted: list[tuple[str, str]],
    changed: dict[tuple[str, int], str],
    behind: dict[tuple[str, int], list[str]],
) -> None:
    listens = tree.listens()
    there: dict[tuple[str, str], set[tuple[_Section, ...]]] = {}  # which sections listen on an address and port
    for listen in listens:
        address = "" if listen.address in ("", "[::]", "::") else str(literal(listen.address))
        there.setdefault((address, listen.port), set()).add(listen.line.blocks)
    for listen in listens:
        place, blocks = (listen.line.path, listen.line.index), listen.line.blocks
        if not listen.ipv4 or is_loopback(listen.address) or place in changed:
            continue
        for address, port in wanted:
            key = (str(literal(address)), listen.port)
            served = there.get(key, set()) | there.get(("", listen.port), set())
            if port in ("", listen.port) and not tree.beside(served, listen.line):
                there.setdefault(key, set()).add(blocks)
                behind.setdefault(place, []).append(f"{listen.head}{address}:{listen.port}{listen.tail}")


def _wildcards(
    tree: _Tree, named: list[tuple[str, str]], changed: dict[tuple[str, int], str], problems: list[str]
) -> None:
    listens = tree.listens()
    for listen in listens:
        six = [other.line.blocks for other in listens if not other.ipv4 and other.port == listen.port]
        if not listen.ipv4 or is_loopback(listen.address) or tree.beside(six, listen.line):
            continue
        if listen.address == "0.0.0.0":
            changed[listen.line.path, listen.line.index] = f"{listen.head}{listen.port}{listen.tail}"
        elif not any(port in ("", listen.port) for _address, port in named):
            problems.append(
                f"{tree.place(listen.line)}: Listen {listen.address}:{listen.port} names one IPv4 address, which stays "
                "as it is; name the IPv6 addresses to listen on beside it"
            )


def _hosts(
    tree: _Tree,
    wanted: list[tuple[str, str]],
    own: SiteAddresses,
    changed: dict[tuple[str, int], str],
    problems: list[str],
) -> list[tuple[str, str]]:
    """Give virtual hosts of IPv4 addresses their twins; return what has to be listened on for single sites."""
    listen_on: list[tuple[str, str]] = []
    for line, inside in tree.hosts():
        head, text, tail = line.words
        endpoints = text.split()
        names = [
            _host(name)
            for other in inside
            if other.kind in ("servername", "serveralias")
            for name in other.words[1].split()
        ]
        mine = own.of(names)
        have = {_key(endpoint) for endpoint in endpoints}
        new: list[str] = []
        for endpoint in endpoints:
            address, port = _endpoint(endpoint)
            wild = address in ("*", "_default_")
            if not wild and literal(address) is None:
                problems.append(f"{tree.place(line)}: <VirtualHost {endpoint}> is no address; write the address there")
            if (not wild and not is_ipv4(address)) or is_loopback(address):
                continue
            for six, only in mine or ([] if wild else wanted):
                twin = f"{six}:{port}" if port else six
                if (only and only != port) or _key(twin) in have or (not mine and ("*", port) in have):
                    continue
                new.append(twin)
                have.add(_key(twin))
            listen_on += [(six, port if port.isdigit() else only) for six, only in mine if not only or only == port]
        if new:
            changed[line.path, line.index] = head + " ".join([text, *new]) + tail
        four = [
            address for address, _port in map(_endpoint, endpoints) if is_ipv4(address) and not is_loopback(address)
        ]
        if four and len(four) == len(endpoints) and not new and not wanted:
            problems.append(
                f"{tree.place(line)}: <VirtualHost {' '.join(four)}> has IPv4 addresses only; over IPv6 the default "
                "site would answer for it; name the IPv6 addresses to serve it on"
            )
    return listen_on


def _lists(tree: _Tree, networks: Networks, changed: dict[tuple[str, int], str], problems: list[str]) -> None:
    for line in tree.of("list"):
        kind, _require, negated, access, words = line.words
        new, unknown = networks.twins(words.replace('"', " ").split())
        if unknown:
            problems.append(
                list_problem(
                    tree.place(line), " ".join(kind.split()), unknown, bool(negated) or access.lower() == "deny"
                )
            )
        if new:
            text = body(tree.texts[line.path][line.index])
            kept = text.rstrip()
            changed[line.path, line.index] = kept + "".join(f" {word}" for word in new) + text[len(kept) :]


def _texts(
    tree: _Tree, changed: dict[tuple[str, int], str], behind: dict[tuple[str, int], list[str]]
) -> dict[str, str]:
    found = {}
    for path in dict.fromkeys(path for path, _index in (*changed, *behind)):
        lines = tree.texts[path]
        style = (end(lines[0]) or "\n") if lines else "\n"
        new: list[str] = []
        for index, line in enumerate(lines):
            group = [changed.get((path, index), body(line)), *behind.get((path, index), [])]
            new += [text + style for text in group[:-1]] + [group[-1] + end(line)]
        found[path] = "".join(new)
    return found


def _endpoint(endpoint: str) -> tuple[str, str]:
    """A VirtualHost's port may be left out; an address without one has no colon unless it is bracketed."""
    endpoint = endpoint.strip('"')
    match = re.fullmatch(r"(\[[^]]*\]|[^:]*)(?::(\d+|\*))?", endpoint)
    return (match[1], match[2] or "") if match else (endpoint, "")


def _key(endpoint: str) -> tuple[str, str]:
    address, port = _endpoint(endpoint)
    known = literal(address)
    return (str(known) if known else address.replace("_default_", "*"), port)
