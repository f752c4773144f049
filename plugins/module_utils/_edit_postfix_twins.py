# SPDX-License-Identifier: GPL-3.0-or-later
"""Put IPv6 twins beside the IPv4 networks in what Postfix asks for a client's address.

Lists in main.cf and in files have IPv6 in brackets (postconf(5), mynetworks); CIDR tables have none, and a line with
bits behind its prefix is skipped (cidr_table(5)); indexed tables know single addresses only, as they are printed
(access(5)).
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterable, Iterator, Mapping

from ._edit_postfix import LOCAL, SHORTEST_PREFIX, extended, in_force, logical_lines, same_network, value_of
from ._edit_text import Settings, body, end, only_keys, split_lines
from ._errors import InputError

# Parameters with a list of client networks, from postconf(5).
NETWORK_LISTS = (
    "debug_peer_list",
    "mynetworks",
    "permit_mx_backup_networks",
    "postscreen_access_list",
    "qmqpd_authorized_clients",
    "smtpd_authorized_verp_clients",
    "smtpd_authorized_xclient_hosts",
    "smtpd_authorized_xforward_hosts",
    "smtpd_client_event_limit_exceptions",
    "smtpd_forbid_bare_newline_exclusions",
    "smtpd_sasl_exceptions_networks",
)
V4 = ipaddress.IPv4Network
V6 = ipaddress.IPv6Network
Row = tuple[tuple[int, ...], int, str]  # its physical lines, where its key begins, and the key


class Twins:
    """What the IPv4 networks of the fleet are in IPv6."""

    def __init__(self, pairs: object) -> None:
        if not isinstance(pairs, Mapping):
            raise InputError([f"networks: {pairs!r} is not {{IPV4 PREFIX: [IPV6 PREFIX, ...]}}"])
        self.pairs: dict[V4, list[V6]] = {}
        problems: list[str] = []
        for four, sixes in pairs.items():
            try:
                key = V4(str(four))
            except ValueError as error:
                problems.append(f"networks: {four!r} is not an IPv4 prefix: {error}; write 192.0.2.0/24")
                continue
            self.pairs[key] = []
            for six in sixes if isinstance(sixes, (list, tuple)) else [sixes]:
                problem = _prefix_problem(str(six))
                if problem:
                    problems.append(f"networks: {four}: {six!r} {problem}")
                else:
                    self.pairs[key].append(V6(str(six)))
        if problems:
            raise InputError(problems)

    def of(self, network: V4) -> list[V6]:
        """Return the twins of NETWORK: its own, or those of all that it holds; raise when there are none to know."""
        if network in self.pairs:
            return self.pairs[network]
        inside = [six for key, sixes in self.pairs.items() if key.subnet_of(network) for six in sixes]
        around = [key for key in self.pairs if network.subnet_of(key)]
        if around and not inside:
            raise InputError([f"{network} is part of {around[0]} and has no twin of its own; add it to the networks"])
        return list(dict.fromkeys(inside))


def _prefix_problem(text: str) -> str:
    try:
        prefix = V6(text)
    except ValueError as error:
        return f"is not an IPv6 prefix: {error}; write 2001:db8::/64, without brackets"
    if prefix.network_address.ipv4_mapped or prefix.subnet_of(V6("::ffff:0:0/96")):
        return "is mapped IPv4, which matches no client: Postfix sees those as IPv4"
    if prefix.prefixlen < SHORTEST_PREFIX and not any(prefix.subnet_of(local) for local in LOCAL):
        return "is longer than a site's own network; Postfix would relay for the whole internet"
    return ""


def network(word: str) -> V4 | None:
    """Return the IPv4 network that WORD names; None for anything else, for the host itself and for everybody."""
    try:
        found = V4(word)
    except ValueError:
        return None
    return found if found.prefixlen and not found.is_loopback else None


def lists(text: str, settings: Settings) -> str:
    """Return main.cf with twins in every list of client networks."""
    twins = _given(settings)
    lines = split_lines(text)
    problems: list[str] = []
    for key in NETWORK_LISTS:
        entry = in_force(lines, key)
        if entry is None:
            continue
        old = value_of(lines, entry)
        try:
            missing = _missing(old, twins)
        except InputError as error:
            problems += [f"{key}: {problem}" for problem in error.problems]
            continue
        if missing:
            lines = extended(lines, entry, old, missing)
    if problems:
        raise InputError(problems)
    return "".join(lines)


def word_list(text: str, settings: Settings) -> str:
    """Return a file of words, as a list in main.cf names it by its path, with a line of twins at its end."""
    words = " ".join(line for line in text.split("\n") if not line.lstrip().startswith("#"))
    missing = _missing(words, _given(settings))
    if not missing:
        return text
    lines = split_lines(text)
    style = end(lines[0]) or "\n"
    lines[-1] = body(lines[-1]) + (end(lines[-1]) or style)
    return "".join(lines) + " ".join(missing) + style


def _missing(value: str, twins: Twins) -> list[str]:
    """Return the twins, in brackets, that a list of words has not got; an exclusion has excluded twins."""
    words = [word for word in re.split(r"[,\s]+", value) if word]
    have = {same_network(word) for word in words}
    wanted: list[str] = []
    problems: list[str] = []
    for word in words:
        sign, bare = ("!", word[1:]) if word.startswith("!") else ("", word)
        four = network(bare)
        try:
            wanted += [f"{sign}[{six.network_address}]/{six.prefixlen}" for six in (twins.of(four) if four else [])]
        except InputError as error:
            problems += error.problems
    if problems:
        raise InputError(problems)
    return [word for word in dict.fromkeys(wanted) if same_network(word) not in have]


def cidr(text: str, settings: Settings) -> str:
    """Return a CIDR table with a copy of each IPv4 line for each of its twins, behind it; the first match counts."""
    return _table(text, _given(settings), _cidr_key, lambda _row: 0)


def indexed(text: str, settings: Settings) -> str:
    """Return the source of an indexed table with a copy of each IPv4 line for each of its twins, behind it.

    A whole address is looked up before its first octets.
    """
    return _table(text, _given(settings), _indexed_key, lambda row: -row[2].count("."))


def _cidr_key(key: str, six: V6) -> str:
    return str(six)


def _indexed_key(key: str, six: V6) -> str:
    if six.prefixlen != 128:
        raise InputError(
            [f"{key} has the twin {six}, and this table knows single addresses only; make it a CIDR table"]
        )
    return str(six.network_address)


def _table(text: str, twins: Twins, spell: Callable[[str, V6], str], order: Callable[[Row], int]) -> str:
    lines = split_lines(text)
    rows = sorted(_rows(lines), key=order)
    have = {key.strip("[]!").lower() for _indexes, _at, key in rows}
    behind: dict[int, list[str]] = {}
    problems: list[str] = []
    for indexes, at, key in rows:
        first = body(lines[indexes[0]])
        if key.lstrip("!") == "0.0.0.0/0" and "::/0" not in have:
            problems.append(f"line {indexes[0] + 1}: {key} decides on all others, and IPv6 clients pass it; add ::/0")
        four = network(_whole(key.lstrip("!")))
        try:
            sixes = [spell(key, six) for six in (twins.of(four) if four else [])]
            sixes = [six for six in sixes if six not in have and six.removesuffix("/128") not in have]
            if sixes and re.match(r"if\s", first, re.IGNORECASE):
                raise InputError([f"{key} has twins, and is the condition of a block; write theirs by hand"])
        except InputError as error:
            problems += [f"line {indexes[0] + 1}: {problem}" for problem in error.problems]
            continue
        for six in sixes:
            have.add(six)
            sign = "!" if key.startswith("!") else ""
            copy = [first[:at] + sign + six + first[at + len(key) :], *(body(lines[index]) for index in indexes[1:])]
            # The file's last line may have no end.
            ends = [end(lines[index]) or "\n" for index in indexes]
            behind.setdefault(indexes[-1], []).extend(map("".join, zip(copy, ends)))
    if problems:
        raise InputError(problems)
    return "".join(_joined(lines, behind))


def _rows(lines: list[str]) -> Iterator[Row]:
    """Yield each logical line."""
    for indexes in logical_lines(lines):
        match = re.match(r"(?:(?:if|endif)\s+)?(!?\s*\S+)", body(lines[indexes[0]]), re.IGNORECASE)
        if match:
            yield indexes, match.start(1), match[1]


def _whole(key: str) -> str:
    """Return the prefix that the octets of an indexed table's KEY stand for (access(5))."""
    octets = key.split(".")
    if all(octet.isdigit() for octet in octets) and len(octets) < 4:
        return ".".join(octets + ["0"] * (4 - len(octets))) + f"/{8 * len(octets)}"
    return key


def _joined(lines: Iterable[str], behind: Mapping[int, list[str]]) -> Iterator[str]:
    for index, line in enumerate(lines):
        new = behind.get(index)
        if new is None:
            yield line
        elif end(line):
            yield from (line, *new)
        else:  # the last line has no end, and the new last one gets none
            yield line + "\n"
            yield from (*new[:-1], body(new[-1]))


def _given(settings: Settings) -> Twins:
    only_keys(settings, "networks")
    return Twins(settings["networks"])
