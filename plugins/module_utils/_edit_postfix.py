# SPDX-License-Identifier: GPL-3.0-or-later
"""Edit Postfix's main.cf: postconf(5) for the syntax of the file, and of mynetworks."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass

from ._edit_text import Settings, additions, append, body, end, is_addition, scalar, split_lines
from ._errors import InputError

# Shorter prefixes than this are no site's own network; in mynetworks they make an open relay.
SHORTEST_PREFIX = 16
# Link-local and unique local addresses (RFC 4291 section 2.5.6, RFC 4193): no one on the internet has these.
LOCAL = (ipaddress.IPv6Network("fe80::/10"), ipaddress.IPv6Network("fc00::/7"))


@dataclass(frozen=True)
class Entry:
    """A logical line: the indexes of its physical lines, comments between them left out."""

    key: str
    head: str  # all before the value, white space included
    lines: tuple[int, ...]


def edit(text: str, settings: Settings) -> str:
    """Return TEXT with the parameters SETTINGS: a text, or ``{add: [...]}`` for words of a list."""
    problems: list[str] = []
    lines = split_lines(text)
    for key, value in settings.items():
        try:
            lines = _set(lines, key, value)
        except InputError as error:
            problems += error.problems
    if problems:
        raise InputError(problems)
    return "".join(lines)


def _set(lines: list[str], key: str, value: object) -> list[str]:
    entry = in_force(lines, key)
    old = value_of(lines, entry) if entry else ""
    words = re.split(r"[,\s]+", old.strip(", \t")) if old.strip(", \t") else []
    if is_addition(value):
        wanted = additions(key, value)
        _check(key, wanted + words, wanted)
        if key == "mynetworks" and entry is None:
            raise InputError(
                [
                    "mynetworks: not in the file, so Postfix derives it from mynetworks_style and an added word would "
                    'replace that; write the value in force first: postconf -e "mynetworks = $(postconf -h mynetworks)"'
                ]
            )
        if key == "inet_interfaces" and (entry is None or "all" in words):
            return lines  # "all" stands alone, and is the default
        have = {same_network(word) for word in words}
        missing = [word for word in wanted if same_network(word) not in have]
        if not missing:
            return lines
        if entry is None or not words:
            return _replace(lines, entry, key, " ".join(missing))
        return extended(lines, entry, old, missing)
    new = scalar(key, value)
    _check(key, re.split(r"[,\s]+", new))
    if entry and old.split() == new.split():
        return lines
    return _replace(lines, entry, key, new)


def in_force(lines: list[str], key: str) -> Entry | None:
    """Return the last definition of KEY."""
    return next((entry for entry in reversed(_entries(lines)) if entry.key == key), None)


def _entries(lines: list[str]) -> list[Entry]:
    found = []
    for indexes in logical_lines(lines):
        match = re.match(r"(([^\s=]+)\s*=[ \t]*)", body(lines[indexes[0]]))
        found.append(Entry(match[2], match[1], indexes) if match else Entry("", "", indexes))
    return found


def logical_lines(lines: Sequence[str]) -> list[tuple[int, ...]]:
    """Return the indexes of the physical lines of each logical line, comments and empty lines left out."""
    found: list[tuple[int, ...]] = []
    for index, line in enumerate(lines):
        text = body(line)
        if not text.strip() or text.lstrip().startswith("#"):
            continue  # neither ends a logical line
        if text[0] not in " \t":
            found.append((index,))
        elif found:
            found[-1] = (*found[-1], index)
    return found


def value_of(lines: list[str], entry: Entry) -> str:
    first = body(lines[entry.lines[0]])[len(entry.head) :]
    return " ".join([first.strip(), *(body(lines[index]).strip() for index in entry.lines[1:])]).strip()


def _replace(lines: list[str], entry: Entry | None, key: str, value: str) -> list[str]:
    if entry is None:
        return append(lines, [f"{key} = {value}"])
    first, *rest = entry.lines
    head = entry.head + " " if entry.head.endswith(" =") else entry.head
    changed = [line for index, line in enumerate(lines) if index not in rest]
    changed[first] = head + value + end(lines[first])
    return changed


def extended(lines: list[str], entry: Entry, old: str, missing: list[str]) -> list[str]:
    last = entry.lines[-1]
    text = body(lines[last])
    separator = ", " if "," in old else " "
    start = " " if old.endswith(",") else separator
    kept = text.rstrip()
    changed = list(lines)
    changed[last] = kept + start + separator.join(missing) + text[len(kept) :] + end(lines[last])
    return changed


def same_network(word: str) -> str:
    """Return one spelling for all spellings of a network, so that none is added twice."""
    match = re.fullmatch(r"\[([^]/]*)(?:/(\d+)\]|\](?:/(\d+))?)", word)
    try:
        return str(ipaddress.IPv6Network(f"{match[1]}/{match[2] or match[3] or 128}")) if match else word
    except ValueError:
        return word


def _check(key: str, words: list[str], new: Sequence[str] = ()) -> None:
    if key == "mynetworks":
        problems = [f"mynetworks: {problem}" for word in words for problem in _network_problem(word)]
        problems += [
            f"mynetworks: {word!r} matches no client, Postfix sees mapped IPv4 as IPv4; name the IPv6 network"
            for word in new
            if same_network(word).startswith("::ffff:")
        ]
    elif key == "smtp_bind_address6":
        problems = [
            f"{key}: {word!r} is not an IPv6 address without brackets, such as 2001:db8::1"
            for word in words
            if not _is_ipv6(word)
        ]
    else:
        problems = []
    if problems:
        raise InputError(problems)


def _is_ipv6(word: str) -> bool:
    try:
        ipaddress.IPv6Address(word)
    except ValueError:
        return False
    return True


def _network_problem(word: str) -> list[str]:
    """Postfix accepts each of these in silence, and then answers 451 to all clients or relays for all the world."""
    bare = word.partition("/")[0]
    if _is_ipv6(bare):
        return [f"{word!r} is an IPv6 network without brackets, which Postfix takes for a table; write [{bare}]/LENGTH"]
    if not word.startswith("["):  # IPv4, a table, or an exclusion
        return []
    match = re.fullmatch(r"\[([^]/]*)(?:/(\d+)\]|\](?:/(\d+))?)", word)
    try:
        if not match:
            raise ValueError
        address = ipaddress.IPv6Address(match[1])
        network = ipaddress.IPv6Network((address, int(match[2] or match[3] or 128)), strict=False)
    except ValueError:
        return [f"{word!r} is not an IPv6 network; write [2001:db8::]/64"]
    if network.network_address != address:
        return [f"{word!r} has bits set behind the prefix; write [{network.network_address}]/{network.prefixlen}"]
    if network.prefixlen < SHORTEST_PREFIX and not any(network.subnet_of(local) for local in LOCAL):
        return [f"{word!r} would make Postfix relay for the whole internet; name your own networks"]
    return []
