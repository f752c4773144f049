# SPDX-License-Identifier: GPL-3.0-or-later
"""What else makes IPv6 routes on a router: static routes in others' files; and networkd, which removes foreign ones."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from ._errors import DualStackError
from ._files import text_below
from ._routes import Route, parse_prefix, prefix_text

BIRD, FRR, STATICD = "etc/bird/bird.conf", "etc/frr/frr.conf", "etc/frr/staticd.conf"
OURS = "etc/dualstack/routes.d"
_NETWORKD = ("etc/systemd", "run/systemd", "usr/local/lib/systemd", "usr/lib/systemd")
# The service manager keeps a link of this name for as long as the unit is active.
_NETWORKD_RUNS = "run/systemd/units/invocation:systemd-networkd.service"
_NO = ("no", "false", "off", "0", "n", "f")
_PREFIX = r"(default|[0-9A-Fa-f]*:[0-9A-Fa-f:.]*/\d{1,3})"
_BIRD_ROUTE = re.compile(r"(?:^|[{;\s])route\s+" + _PREFIX + r"\s[^;]*;?")
_BIRD_INCLUDE = re.compile(r'^\s*include\s+"([^"]+)"\s*;')
_FRR_ROUTE = re.compile(r"^ipv6 route " + _PREFIX + r"\s.*")
_INTERFACES_ROUTE = re.compile(
    r"^\s*(?:pre-|post-)?up\s.*\broute\s+(?:add|replace|append)\s+" + _PREFIX + r"(?:\s.*)?$"
)
_NETWORKD_ROUTE = re.compile(r"^\s*Destination\s*=\s*" + _PREFIX + r"\s*$")

Dest = tuple[bytes, int]


@dataclass(frozen=True)
class Static:
    """A static route in a configuration file: whose, where, in which words, and which provider of ours keeps it."""

    owner: str
    path: str
    number: int
    words: str
    provider: str = ""

    def __str__(self) -> str:
        place = f"{self.path}, line {self.number} ({self.words})"
        if self.provider:
            return (
                f"is kept by provider {self.provider} in {place}: delete it there first (state: deleted, provider: "
                f"{self.provider}), or leave the provider as it is"
            )
        return f"is a static route of {self.owner} in {place}: remove it there, or leave this record out"


def files(root: str = "/") -> list[tuple[str, str]]:
    """Return (owner, path below ROOT) of every file in which programs of this host keep static routes."""
    found = [("BIRD", path) for path in bird_files(root)]
    found += [("FRR", path) for path in (FRR, STATICD) if os.path.isfile(os.path.join(root, path))]
    patterns = [("systemd-networkd", f"{place}/network/*.network") for place in _NETWORKD]
    patterns += [("systemd-networkd", f"{place}/network/*.network.d/*.conf") for place in _NETWORKD]
    patterns += [("ifupdown", "etc/network/interfaces"), ("ifupdown", "etc/network/interfaces.d/*")]
    return found + [(owner, path) for owner, pattern in patterns for path in _below(root, pattern)]


def _below(root: str, pattern: str) -> list[str]:
    return [os.path.relpath(path, root) for path in sorted(glob.glob(os.path.join(root, pattern.lstrip("/"))))]


def bird_files(root: str = "/") -> list[str]:
    """Return the paths below ROOT of bird.conf and of all that it includes; none without BIRD."""
    waiting, found = [BIRD], []
    while waiting:
        path = waiting.pop(0)
        if path in found or not os.path.isfile(os.path.join(root, path)):
            continue
        found.append(path)
        for _number, line in _code(text_below(root, path)):
            match = _BIRD_INCLUDE.match(line)
            if match:
                waiting += _below(root, os.path.join("/", os.path.dirname(path), match[1]))
    return found


def statics(root: str = "/", without: str = "") -> dict[Dest, Static]:
    """Return the static routes in the files of other programs, and what our providers put there, by destination.

    WITHOUT is a directory below ROOT whose files do not count.
    """
    found: dict[Dest, Static] = {}
    ours = {line for path in _below(root, f"{OURS}/*.frr") for line in text_below(root, path).splitlines()}
    for owner, path in files(root):
        if without and os.path.dirname(path) == without:
            continue
        read = {"BIRD": _bird_routes, "FRR": _frr_routes, "ifupdown": _interfaces_routes}.get(owner, _networkd_routes)
        for number, dest, words in read(text_below(root, path)):
            try:
                key = parse_prefix("default" if dest == "::/0" else dest)
            except ValueError:
                continue  # not one that could be asked of us
            provider = "bird" if os.path.dirname(path) == OURS else "frr" if words in ours else ""
            found.setdefault(key, Static(owner, f"/{path}", number, words, provider))
    return found


def conflicts(wanted: Iterable[Route], found: dict[Dest, Static]) -> dict[Dest, str]:
    """Return by destination what is wrong with each route of WANTED that somebody else keeps in a file."""
    told = {}
    for route in wanted if found else ():
        static = found.get((route.dest, route.length))
        if static:
            name = prefix_text(route.dest, route.length)
            told[route.dest, route.length] = f"{name} {static}"
    return told


def networkd_problem(root: str = "/") -> str:
    """Return why systemd-networkd would remove our routes and what to do; empty where it would not."""
    if not os.path.lexists(os.path.join(root, _NETWORKD_RUNS)):
        return ""
    value, place = _foreign_routes(root)
    if value.lower() in _NO:
        return ""
    found = f"{place} says ManageForeignRoutes={value}" if place else "its ManageForeignRoutes is yes, the default"
    return (
        f"systemd-networkd runs here and removes routes that it did not make when it is started again ({found}): write "
        "[Network] and ManageForeignRoutes=no to /etc/systemd/networkd.conf.d/60-dualstack.conf, as the role "
        "edge_router does"
    )


def check_networkd(check: bool, root: str = "/") -> list[str]:
    """Raise where systemd-networkd would remove our routes; with CHECK, return that as a warning instead.

    In check mode the file that an earlier task would write is not there.
    """
    problem = networkd_problem(root)
    if problem and not check:
        raise DualStackError(problem)
    return [problem] if problem else []


def _foreign_routes(root: str) -> tuple[str, str]:
    """Return the value of ManageForeignRoutes that counts, and the file that gives it; see networkd.conf(5)."""
    by_name: dict[str, str] = {}
    for place in reversed(_NETWORKD):
        for path in glob.glob(os.path.join(root, place, "networkd.conf.d", "*.conf")):
            by_name[os.path.basename(path)] = path
    main = [path for place in _NETWORKD if os.path.isfile(path := os.path.join(root, place, "networkd.conf"))]
    value, where = "", ""
    for path in [*main[:1], *(by_name[name] for name in sorted(by_name))]:
        relative = os.path.relpath(path, root)
        for section, key, text in _settings(text_below(root, relative)):
            if (section, key) == ("Network", "ManageForeignRoutes"):
                value, where = text, f"/{relative}"
    return value, where


def _settings(text: str) -> Iterator[tuple[str, str, str]]:
    section = ""
    for line in text.splitlines():
        stripped = line.strip()
        if stripped.startswith("["):
            section = stripped.strip("[]")
        elif "=" in stripped and stripped[0] not in "#;":
            key, _, value = stripped.partition("=")
            yield section, key.strip(), value.strip()


def _code(text: str) -> Iterator[tuple[int, str]]:
    """Yield the numbered lines of a BIRD configuration without its comments."""
    bare = re.sub(r"/\*.*?\*/", lambda match: "\n" * match[0].count("\n"), text, flags=re.DOTALL)
    for number, line in enumerate(bare.split("\n"), 1):
        yield number, line.partition("#")[0]


def _bird_routes(text: str) -> Iterator[tuple[int, str, str]]:
    for number, line in _code(text):
        for match in _BIRD_ROUTE.finditer(line):
            yield number, match[1], match[0].strip(" \t{;") + ";"


def _frr_routes(text: str) -> Iterator[tuple[int, str, str]]:
    # A line with spaces before it belongs to a block, such as that of another routing table.
    yield from _matching(_FRR_ROUTE, text)


def _interfaces_routes(text: str) -> Iterator[tuple[int, str, str]]:
    yield from _matching(_INTERFACES_ROUTE, text)


def _networkd_routes(text: str) -> Iterator[tuple[int, str, str]]:
    yield from _matching(_NETWORKD_ROUTE, text)


def _matching(pattern: re.Pattern[str], text: str) -> Iterator[tuple[int, str, str]]:
    for number, line in enumerate(text.split("\n"), 1):
        match = pattern.match(line)
        if match:
            yield number, match[1], line.strip()
