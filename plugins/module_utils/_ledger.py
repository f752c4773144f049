# SPDX-License-Identifier: GPL-3.0-or-later
"""The ledger: who holds which index of which pool, as JSON Lines."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

STATES = {"a": "active", "q": "in quarantine", "r": "reserved"}
SYNTAX = {"p": r".+", "i": r"[0-9a-f]{1,16}", "id": r".+", "s": r"[aqr]", "t": r"\d{4}-\d\d-\d\d"}


@dataclass(frozen=True)
class Record:
    """One line: IDENTITY holds INDEX of POOL in STATE (a active, q quarantine, r reserved)."""

    pool: str
    index: int
    identity: str
    state: str
    since: str
    line: int


@dataclass(frozen=True)
class Ledger:
    """A ledger that was read, and all that is wrong with it."""

    name: str = "addresses.jsonl"
    holders: Mapping[tuple[str, int], Record] = field(default_factory=dict)
    indices: Mapping[tuple[str, str], int] = field(default_factory=dict)
    problems: tuple[str, ...] = ()

    def active(self, pool: str, identity: str) -> int | None:
        """Return the index that IDENTITY holds in POOL, or None."""
        return self.indices.get((pool, identity))


def read_ledger(text: str, name: str) -> Ledger:
    """Return the ledger in TEXT; NAME is that of its file."""
    entries: list[tuple[int, object]] = []
    problems = []
    for number, line in enumerate(text.splitlines(), 1):
        if re.match(r"<{7}|={7}|>{7}|\|{7}", line):
            problems.append(f"E308 {name}:{number}: {line[:20]!r} is a conflict marker; resolve the merge")
        elif line.strip():
            try:
                entries.append((number, json.loads(line)))
            except ValueError as error:
                problems.append(f"E308 {name}:{number}: is not a JSON record ({error}); restore the line from git")
    return _index(entries, name, problems)


def ledger_of(records: Iterable[object], name: str) -> Ledger:
    """Return the ledger that a list of RECORDS is."""
    return _index(list(enumerate(records, 1)), name, [])


def _index(entries: list[tuple[int, object]], name: str, problems: list[str]) -> Ledger:
    holders: dict[tuple[str, int], Record] = {}
    active: dict[tuple[str, str], Record] = {}
    for number, entry in entries:
        place = f"E308 {name}:{number}:"
        if isinstance(entry, Mapping) and "dualstack" in entry and "p" not in entry:
            if entry["dualstack"] != 1:
                problems.append(f"{place} version {entry['dualstack']!r} is not known; use a newer dualstack.fleet")
            continue
        reason = _malformed(entry)
        if reason or not isinstance(entry, Mapping):
            problems.append(f"{place} {reason}; restore the line from git")
            continue
        record = Record(entry["p"], int(entry["i"], 16), entry["id"], entry["s"], entry["t"], number)
        other = holders.setdefault((record.pool, record.index), record)
        if other is not record:
            who = f"({other.identity} line {other.line}, {record.identity} line {number})"
            problems.append(f"{place} index {entry['i']} of pool {record.pool} appears twice {who}; resolve the merge")
        elif record.state == "a":
            first = active.setdefault((record.pool, record.identity), record)
            if first is not record:
                who = f"(lines {first.line} and {number})"
                problems.append(f"{place} {record.identity} holds two indices of pool {record.pool} {who}; remove one")
    indices = {key: record.index for key, record in active.items()}
    return Ledger(name, holders, indices, tuple(problems))


def _malformed(entry: object) -> str:
    if not isinstance(entry, Mapping):
        return f"{entry!r} is not a record"
    for key, pattern in SYNTAX.items():
        value = entry.get(key)
        if not isinstance(value, str) or not re.fullmatch(pattern, value):
            return f"{key!r} is {value!r} and does not match {pattern}"
    return ""
