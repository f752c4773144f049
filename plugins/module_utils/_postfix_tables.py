# SPDX-License-Identifier: GPL-3.0-or-later
"""Which tables Postfix looks a client's address up in, as its own postconf(1) prints the configuration."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

from ._command import run
from ._edit_postfix_twins import NETWORK_LISTS, Twins, network
from ._edit_text import additions, only_keys
from ._errors import DualStackError, InputError

FILE = "file"  # a list's words in a file, see postconf(5), mynetworks
INDEXED = ("btree", "cdb", "dbm", "hash", "lmdb", "sdbm")
FORMATS = {
    FILE: "postfix_list",
    "cidr": "postfix_cidr",
    "texthash": "postfix_indexed",
    **dict.fromkeys(INDEXED, "postfix_indexed"),
}
PATTERNS = (
    "fail",
    "pcre",
    "regexp",
    "static",
    "randmap",
)  # no network is in them that a twin could stand beside
CHECK = re.compile(r"\bcheck_client(?:_a)?_access[\s,{]+((?:\w+:)+)([^\s,}]*)")


@dataclass(frozen=True, order=True)
class Table:
    """A table of TYPE; ``place`` is the parameter that names it first."""

    type: str
    path: str
    place: str

    @property
    def name(self) -> str:
        return self.path if self.type == FILE else f"{self.type}:{self.path}"


def look_up(directory: str, settings: Mapping[str, object], *, reverted: bool = False) -> list[Table]:
    """Return the tables of the Postfix configured in DIRECTORY, asked from postconf(1), that SETTINGS concerns.

    SETTINGS has ``networks`` and ``known``. What cannot get twins is an error, unless they are to be taken out.
    """
    only_keys(settings, "networks", "known")
    known = additions("known", {"add": settings.get("known", [])})
    listings = []
    for options in ("-nx", "-Px"):
        outcome = run(["postconf", "-c", directory, options])
        if outcome.rc:
            raise DualStackError(f"postconf: rc {outcome.rc}: {outcome.output}")
        listings.append(outcome.output)
    values = parameters(*listings)
    master = _read(os.path.join(directory, "master.cf")) or ""
    tables, problems = find(values, Twins(settings["networks"]), known, master)
    if not reverted:
        problems += patterns(values, known, _read)
        if problems:
            raise InputError(problems)
    return tables


def _read(path: str) -> str | None:
    try:
        with open(path, encoding="utf-8", errors="replace") as stream:
            return stream.read()
    except OSError:
        return None


def parameters(*listings: str) -> dict[str, str]:
    """Return {name: value} of what postconf has printed; an option in master.cf has SERVICE/TYPE before its name."""
    pairs = (line.partition("=") for listing in listings for line in listing.splitlines() if "=" in line)
    return {name.strip(): value.strip() for name, _equals, value in pairs}


def find(
    values: dict[str, str], twins: Twins, known: Iterable[str] = (), master: str = ""
) -> tuple[list[Table], list[str]]:
    """Return the tables that can get twins, and what is wrong with those that cannot and are not KNOWN to have them.

    MASTER is the text of master.cf, for the line of an option in it.
    """
    found: list[Table] = []
    problems: list[str] = []
    seen = set(known)
    for place, value in values.items():
        for table in _named(place, value):
            if table.name in seen or table.type in PATTERNS:
                continue
            seen.add(table.name)
            if table.type in FORMATS and table.path.startswith("/"):
                found.append(table)
            else:
                problems.append(
                    f"{place}: {table.name} is no file that can be edited; give the IPv4 networks in it their twins "
                    "there, then add it to the known tables"
                )
        name = place.rpartition("/")[2]
        if place != name and name in NETWORK_LISTS and _wants(value, twins):
            problems.append(
                f"master.cf: line {_line(master, place)}: {place} = {value} has no IPv6 twins; add them there by hand"
            )
    return sorted(found), problems


def patterns(values: dict[str, str], known: Iterable[str], read: Callable[[str], str | None]) -> list[str]:
    """Return where a table of patterns that is not KNOWN has IPv4 addresses: each of them is asked for the client's."""
    found: list[str] = []
    tables = {table for place, value in values.items() for table in _named(place, value)}
    for table in sorted(tables):
        if table.type not in ("pcre", "regexp") or table.name in known:
            continue
        for number, line in enumerate((read(table.path) or "").split("\n"), 1):
            if re.match(r"!?(?:if\s+!?)?[/|].*\d(?:\\.|\[.\]|\.)", line, re.IGNORECASE):
                found.append(
                    f"{table.path}: line {number}: {line.strip()} matches IPv4 addresses and no IPv6 client; write a "
                    f"line for these, then add {table.name} to the known tables"
                )
    return found


def index_commands(tables: Iterable[Table]) -> list[list[str]]:
    """Return the commands that make the index files of TABLES anew."""
    return [["postmap", table.name] for table in tables if table.type in INDEXED]


def _named(place: str, value: str) -> Iterator[Table]:
    words: list[tuple[str, str]] = CHECK.findall(value)
    if place.rpartition("/")[2] in NETWORK_LISTS:
        for word in (word.lstrip("!") for word in re.split(r"[,\s]+", value)):
            match = re.fullmatch(r"((?:[a-z]\w*:)+)(.*)", word)
            if word.startswith("/"):
                yield Table(FILE, word, place)
            elif match:
                words.append((match[1], match[2]))
    for types, path in words:
        kinds = [kind for kind in types.split(":") if kind and kind != "proxy"]
        yield Table(":".join(kinds), path, place)


def _line(master: str, place: str) -> int:
    """Return the number of the line of MASTER that gives the option PLACE, as SERVICE/TYPE/NAME."""
    service, kind, name = place.split("/")
    current: list[str] = []
    for number, line in enumerate(master.split("\n"), 1):
        if line[:1] not in ("", "#", " ", "\t"):
            current = line.split()[:2]
        if current == [service, kind] and not line.startswith("#") and re.search(rf"-o\s*{{?\s*{name}\s*=", line):
            return number
    raise ValueError(f"postconf -P tells of {place}, which is not in master.cf")


def _wants(value: str, twins: Twins) -> bool:
    fours = filter(None, map(network, re.split(r"[,\s]+", value)))
    return "[" not in value and any(twins.of(four) for four in fours)
