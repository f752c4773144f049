# SPDX-License-Identifier: GPL-3.0-or-later
"""What the editors of web servers share: a configuration of many files, lists of networks, sites that can be asked."""

from __future__ import annotations

import glob
import ipaddress
import os
import re
from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import dataclass

from ._edit_text import additions, bracketed, literal
from ._errors import InputError

Read = Callable[[str], "str | None"]
Socket = tuple[str, str]  # address (empty: all of IPv4 and IPv6) and port
LOOPBACK = (("127.0.0.1", "127.0.0.2"), ("::1",))  # a wildcard answers at the whole of 127.0.0.0/8
_ANY = ("0.0.0.0", "::")
_ALWAYS = {"127.0.0.1/32": ("::1",), "127.0.0.0/8": ("::1",), "0.0.0.0/0": ("::/0",)}


@dataclass(frozen=True)
class Site:
    """What is served at a port under a name; nameless, it is what an unknown name gets.

    ``listed``: lists of addresses decide who gets it, so that this host itself may be sent away over one family.
    """

    place: str
    name: str
    port: int
    tls: bool
    ipv4: tuple[str, ...]
    ipv6: tuple[str, ...]
    listed: bool = False
    plain: bool = True  # speaks HTTP
    greeting: str = ""  # regular expression of what it says first, where the client waits for that


def members(pattern: str, base: str) -> list[str]:
    """Return the real paths of the files that an include of PATTERN reads, in order; a directory is all below it."""
    found: list[str] = []
    path = os.path.join(base, pattern)
    for match in sorted(glob.glob(path)) if glob.has_magic(path) else [path]:
        if os.path.isdir(match):
            found += (entry for name in sorted(os.listdir(match)) for entry in members(glob.escape(name), match))
        else:
            found.append(os.path.realpath(match))
    return found


def at(path: str, line: int) -> str:
    """Return how a place is named in errors; the text of a single file has no path."""
    return f"{path}: line {line}" if path else f"line {line}"


def chosen(key: str, value: object) -> list[tuple[str, str]]:
    """Return the endpoints of ``{add: [...]}``; ``*`` names none."""
    return [] if value in ("*", None) else bracketed(key, additions(key, value))


class SiteAddresses:
    """The IPv6 addresses that sites have for themselves: ``{name: [A6, ...]}``."""

    def __init__(self, value: object) -> None:
        if not isinstance(value, Mapping):
            raise InputError([f"sites: {value!r} is not understood; write {{NAME: [ADDRESS, ...]}}"])
        self._table: dict[str, list[tuple[str, str]]] = {}
        self._unused = set()
        problems: list[str] = []
        for name, addresses in value.items():
            try:
                words = [word if word.startswith("[") else f"[{word}]" for word in map(str, _listed(addresses))]
                self._table[str(name).lower()] = bracketed(f"sites: {name}", words)
            except InputError as error:
                problems += error.problems
        if problems:
            raise InputError(problems)
        self._unused = set(self._table)

    def of(self, names: Iterable[str]) -> list[tuple[str, str]]:
        """Return the endpoints of the site with NAMES; empty when it has none of its own."""
        known = [name for name in dict.fromkeys(map(str.lower, names)) if name in self._table]
        self._unused -= set(known)
        return list(dict.fromkeys(endpoint for name in known for endpoint in self._table[name]))

    def problems(self) -> list[str]:
        """Return the names that no site has."""
        return [
            f"sites: no site here is called {name}; correct the name or take it out" for name in sorted(self._unused)
        ]


class Networks:
    """The IPv6 networks that belong to IPv4 networks in lists of who may come in: ``{IPV4: IPV6 or [IPV6, ...]}``."""

    def __init__(self, value: object) -> None:
        if not isinstance(value, Mapping):
            raise InputError([f"networks: {value!r} is not understood; write {{IPV4 NETWORK: [IPV6 NETWORK, ...]}}"])
        self._table: dict[str, tuple[str, ...]] = dict(_ALWAYS)
        problems: list[str] = []
        for old, new in value.items():
            key = ipv4_network(str(old))
            if key is None:
                problems.append(f"networks: {old!r} is not an IPv4 network, such as 198.51.100.0/24")
            words = [str(word) for word in _listed(new)]
            for word in words:
                problems += _ipv6_problem(word)
            self._table[key or ""] = tuple(words)
        if problems:
            raise InputError(problems)

    def twins(self, words: Iterable[str]) -> tuple[list[str], list[str]]:
        """Return the IPv6 networks that the list WORDS lacks, and its IPv4 networks of which none is known."""
        words = list(words)
        have = {network for word in words if (network := _ipv6(word))}
        missing: list[str] = []
        unknown: list[str] = []
        for word in words:
            key = ipv4_network(word)
            if key is None:
                continue
            if ipaddress.ip_network(key).is_loopback:
                key = "127.0.0.1/32"
            if key not in self._table:
                unknown.append(word)
            missing += (twin for twin in self._table.get(key, ()) if _ipv6(twin) not in have and twin not in missing)
        # Who wrote IPv6 networks there has thought of IPv6.
        return missing, [] if any(not network.is_loopback for network in have) else unknown


def list_problem(place: str, directive: str, words: Iterable[str], refuses: bool) -> str:
    """Return the error for a list of IPv4 networks of which no IPv6 twin is known."""
    end = "an IPv6 client would come past it" if refuses else "it would send every IPv6 client away"
    return (
        f"{place}: {directive} {' '.join(words)}: {end}; name the IPv6 networks of these clients in networks, "
        "or an empty list where they have none"
    )


def ipv4_network(word: str) -> str | None:
    """Return the IPv4 network that WORD names: an address, with a length or mask, or its first octets (10.1.)."""
    octets = word.rstrip(".").split(".")
    if (
        "/" not in word
        and 0 < len(octets) < 4
        and "." in word
        and all(re.fullmatch(r"\d{1,3}", part) for part in octets)
    ):
        word = ".".join(octets + ["0"] * (4 - len(octets))) + f"/{8 * len(octets)}"
    try:
        return str(ipaddress.IPv4Network(word, strict=False))
    except ValueError:
        return None


def overlap(new: Socket, old: Socket) -> bool:
    """Tell whether a process that listens on OLD cannot bind NEW beside it."""
    if new == old or new[1] != old[1]:
        return False
    one, other = (literal(socket[0]) for socket in (new, old))
    if one is not None and other is not None and one.version != other.version:
        return False
    return any(address is None or str(address) in _ANY for address in (one, other))


def reachable(addresses: Iterable[str], taken: Container[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the IPv4 and the IPv6 addresses at which listeners on ADDRESSES answer, a loopback one for a wildcard.

    At the addresses TAKEN another one would answer instead.
    """
    found: tuple[list[str], list[str]] = ([], [])
    for address in addresses:
        known = literal(address)
        for family, (version, loopback) in enumerate(zip((4, 6), LOOPBACK)):
            if known is None or (known.version == version and str(known) in _ANY):
                found[family].append(next((one for one in loopback if one not in taken), ""))
            elif known.version == version:
                found[family].append(str(known))
    four, six = (tuple(dict.fromkeys(filter(None, family))) for family in found)
    return four, six


def _listed(value: object) -> list[object]:
    return list(value) if isinstance(value, (list, tuple)) else [] if value is None else [value]


def _ipv6(word: str) -> ipaddress.IPv6Network | None:
    try:
        return ipaddress.IPv6Network(word)
    except ValueError:
        return None


def _ipv6_problem(word: str) -> list[str]:
    if _ipv6(word):
        return []
    return [f"networks: {word!r} is not an IPv6 network without brackets and host bits, such as 2001:db8:1::/48"]
