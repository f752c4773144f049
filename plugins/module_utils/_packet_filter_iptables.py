# SPDX-License-Identifier: GPL-3.0-or-later
"""Read a packet filter of iptables, as ``iptables-save`` shows it (iptables-save(8), iptables-extensions(8))."""

from __future__ import annotations

import ipaddress
import re
import shlex
from collections.abc import Callable, Sequence

from ._packet_filter import ACCEPT, DROP, HOOKS, PROTOCOLS, Match, Network, Rule, Table, says

# They thin out what they match; who is let in stays the same.
RATES = ("limit", "recent", "hashlimit", "connlimit", "quota")


def tables(text: str, source: str = "iptables", hooks: Sequence[str] = HOOKS) -> list[Table]:
    """Return the tables that ``iptables-save`` or ``ip6tables-save`` printed, as far as packets pass HOOKS in them."""
    found: list[Table] = []
    for line in text.splitlines():
        if line.startswith("*"):
            found.append(Table(f"{source} {line[1:]}"))
        elif line.startswith(":") and found:
            name, policy = line[1:].split()[:2]
            found[-1].chains[name] = []
            if name.lower() in hooks and found[-1].name != f"{source} nat":
                found[-1].bases.append((name, DROP if policy == "DROP" else ACCEPT))
        elif line.startswith("-A") and found:
            words = shlex.split(line)
            found[-1].chains[words[1]].append(_rule(words[2:], f"{found[-1].name}: {line}"))
    return [table for table in found if table.bases]


_TARGETS = {"ACCEPT": ACCEPT, "DROP": DROP, "REJECT": DROP, "RETURN": "return"}
# Targets that end nothing.
_SIDE = ("LOG", "NFLOG", "ULOG", "MARK", "CONNMARK", "SET", "TRACE", "CT", "NOTRACK", "TCPMSS", "AUDIT", "CLASSIFY")


def _rule(words: Sequence[str], text: str) -> Rule:
    matches: list[Match] = []
    action = target = ""
    rest, negated = list(words), False
    modules: list[str] = []
    while rest:
        word = rest.pop(0)
        if word == "!":
            negated = True
            continue
        values = []
        while rest and not rest[0].startswith("-") and rest[0] != "!":
            values.append(rest.pop(0))
        value = values[0] if values else ""
        if word in ("-j", "-g"):
            action = _TARGETS.get(value, "" if value in _SIDE else "goto" if word == "-g" else "jump")
            target = value if action in ("jump", "goto") else ""
            break  # what follows are the target's options
        if word == "-m":
            modules.append(value)
        else:
            matches += _matches(word, values, negated, modules)
        negated = False
    return Rule(tuple(matches), action, target, text)


def _matches(word: str, values: Sequence[str], negated: bool, modules: Sequence[str]) -> list[Match]:
    read = _READERS.get(word)
    if read:
        try:
            return [Match(read[0], tuple(read[1](values)), negated)]
        except ValueError:
            return [Match("unknown")]
    if word in ("--comment", "--icmp-type", "--icmpv6-type"):
        return []
    if modules and modules[-1] in RATES:
        # `--set` only remembers; the others are for who comes again.
        again = ("--update", "--rcheck", "--connlimit-above", "--hashlimit-above")
        return [Match("rate", negated=True)] if word in again and not negated else []
    return [Match("unknown")]


def _protocol(values: Sequence[str]) -> tuple[int, ...]:
    return (PROTOCOLS[values[0]] if values[0] in PROTOCOLS else int(values[0]),)


def _port(values: Sequence[str]) -> tuple[tuple[int, int], ...]:
    return tuple(_span(item) for item in values[0].split(","))


def _network(values: Sequence[str]) -> tuple[Network, ...]:
    return tuple(ipaddress.ip_network(item, strict=False) for item in values[0].split(","))


def _device(values: Sequence[str]) -> tuple[str, ...]:
    return (re.sub(r"\+$", "*", values[0]),)


def _state(values: Sequence[str]) -> tuple[str, ...]:
    return tuple(values[0].lower().split(","))


def _flags(values: Sequence[str]) -> tuple[tuple[frozenset[str], frozenset[str]], ...]:
    mask, wanted = (frozenset() if item == "NONE" else frozenset(item.lower().split(",")) for item in values)
    return ((mask, wanted),)


def _constant(values: Sequence[str]) -> tuple[str, ...]:
    return (says(values[0] in ("LOCAL", "host")),)


_READERS: dict[str, tuple[str, Callable[[Sequence[str]], Sequence[object]]]] = {
    "-p": ("protocol", _protocol),
    "--dport": ("port", _port),
    "--dports": ("port", _port),
    "-s": ("source", _network),
    "-d": ("destination", _network),
    "-i": ("device", _device),
    "--ctstate": ("state", _state),
    "--state": ("state", _state),
    "--tcp-flags": ("flags", _flags),
    "--dst-type": ("constant", _constant),
    "--pkt-type": ("constant", _constant),
}


def _span(text: str) -> tuple[int, int]:
    low, _colon, high = text.partition(":")
    return int(low), int(high or low)
