# SPDX-License-Identifier: GPL-3.0-or-later
"""The ledger: who holds which index of which pool, as JSON Lines."""

from __future__ import annotations

import contextlib
import gc
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date
from itertools import chain
from json.encoder import encode_basestring as _quote
from operator import itemgetter
from typing import Any, NamedTuple

DATE = r"[0-9]{4}-[0-9]{2}-[0-9]{2}"
PATTERNS = {"p": r".+", "i": r"[0-9a-f]{1,16}", "id": r".+", "s": r"[aqr]", "t": DATE, "u": DATE}
SYNTAX = {key: re.compile(pattern).fullmatch for key, pattern in PATTERNS.items()}
KEYS = ("p", "i", "id", "s", "t")
QUARANTINED = (*KEYS, "u")
HEADER = {"dualstack": 1}
# A record as render() writes it. What differs in any way is read line by line, which takes four times as long.
CANONICAL = re.compile(
    r'^\{"i":"([0-9a-f]{1,16})","id":"([^"\\\n]+)","p":"([^"\\\n]+)","s":"([aqr])"'
    rf',"t":"({DATE})"(?:,"u":"({DATE})")?\}}$',
    re.MULTILINE,
)


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key appears twice")
    return found


_decode = json.JSONDecoder(object_pairs_hook=_unique).decode


NUMBER = itemgetter(1)


class Record(NamedTuple):
    """One line: IDENTITY holds INDEX of POOL in STATE (a active, q quarantine until ``until``, r reserved)."""

    pool: str
    number: int  # the index, a word that tuples keep for themselves
    identity: str
    state: str
    since: str
    line: int = 0
    until: str = ""


def active_records(pool: str, indices: Iterable[int], identities: Iterable[str], since: str) -> list[Record]:
    """Return the records of IDENTITIES that hold INDICES of POOL since a day; there may be many."""
    make = tuple.__new__  # a named tuple's own constructor takes twice as long
    return [make(Record, (pool, index, who, "a", since, 0, "")) for index, who in zip(indices, identities)]


@dataclass(frozen=True)
class Ledger:
    """A ledger that was read, and all that is wrong with it."""

    name: str = "addresses.jsonl"
    holders: Mapping[str, Mapping[int, Record]] = field(default_factory=dict)  # by pool and index
    indices: Mapping[str, Mapping[str, int]] = field(default_factory=dict)  # of active records, by pool and identity
    problems: tuple[str, ...] = ()
    header: Mapping[str, Any] = field(default_factory=lambda: dict(HEADER))
    digits: Mapping[str, int] = field(default_factory=dict)  # how wide the file writes the indices of a pool

    @property
    def records(self) -> Iterator[Record]:
        """All records, pool by pool."""
        return chain.from_iterable(held.values() for held in self.holders.values())

    def active(self, pool: str, identity: str) -> int | None:
        """Return the index that IDENTITY holds in POOL, or None."""
        return self.indices.get(pool, {}).get(identity)

    def holder(self, pool: str, index: int) -> Record | None:
        """Return the record of INDEX in POOL, or None."""
        return self.holders.get(pool, {}).get(index)


@contextlib.contextmanager
def uncollected() -> Iterator[None]:
    """Spare large fleets the collector, which looks at every host's objects again and again and finds no cycle.

    What was made in the meantime is old at the end: frozen and thawed, it is not looked through as a whole at once.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            if not gc.get_freeze_count():
                gc.freeze()
                gc.unfreeze()
            gc.enable()


def read_ledger(text: str, name: str) -> Ledger:
    """Return the ledger in TEXT; NAME is that of its file."""
    with uncollected():
        return _read_canonical(text, name) or _read(text, name)


def _read_canonical(text: str, name: str) -> Ledger | None:
    """Return the ledger in TEXT if it is as render() wrote it, without a mistake; else None."""
    first, _end, rest = text.partition("\n")
    rows = CANONICAL.findall(rest)
    if not rows or len(rows) != rest.count("\n") or rest[-1:] != "\n" or not rest.replace("\n", "").isprintable():
        return None
    head = _read(first, name)
    if head.problems or head.holders or first.strip() == "":
        return None
    holders: dict[str, dict[int, Record]] = {}
    indices: dict[str, dict[str, int]] = {}
    digits: dict[str, int] = {}
    dates: set[str] = set()
    pool, width, make = "", 0, tuple.__new__  # a named tuple's own constructor takes twice as long
    held: dict[int, Record] = {}
    active: dict[str, int] = {}
    for line, (number, identity, of, state, since, until) in enumerate(rows, 2):
        if of != pool:
            pool = of
            held, active = holders.setdefault(pool, {}), indices.setdefault(pool, {})
            width = digits.setdefault(pool, 0)
        index = int(number, 16)
        if index in held or (state == "q") != (until != "") or (state == "a" and identity in active):
            return None
        held[index] = make(Record, (pool, index, identity, state, since, line, until))
        if state == "a":
            active[identity] = index
        if len(number) > width:
            width = digits[pool] = len(number)
        dates.add(since)
        dates.add(until)
    if not all(_is_date(day) for day in dates - {""}):
        return None
    return Ledger(name, holders, indices, (), head.header, digits)


def _read(text: str, name: str) -> Ledger:
    entries: list[tuple[int, object]] = []
    problems = []
    for number, line in enumerate(text.split("\n"), 1):  # not splitlines: an identity may have other line separators
        if line[:1] in "<=>|" and re.match(r"<{7}|={7}|>{7}|\|{7}", line):
            problems.append(f"E308 {name}:{number}: {line[:20]!r} is a conflict marker; resolve the merge")
        elif line.strip():
            try:
                entries.append((number, _decode(line)))
            except (ValueError, RecursionError) as error:
                problems.append(f"E308 {name}:{number}: is not a JSON record ({error}); restore the line from git")
    return _index(entries, name, problems)


def ledger_of(records: Iterable[object], name: str) -> Ledger:
    """Return the ledger that a list of RECORDS is."""
    return _index(list(enumerate(records, 1)), name, [])


def render(ledger: Ledger, widths: Mapping[str, int]) -> str:
    """Return LEDGER as canonical text; WIDTHS are the hexadecimal digits of an index by pool.

    A pool that is not in WIDTHS, since the plan has dropped it, stays as wide as it was.
    """
    found = {**ledger.digits, **widths}
    lines = [json.dumps(dict(ledger.header), sort_keys=True, separators=(",", ":"), ensure_ascii=False)]
    for pool, held in sorted(ledger.holders.items()):
        name, width = _quote(pool), found.get(pool) or max(len(f"{index:x}") for index in held or (0,))
        digits = f"%0{width}x"
        for _pool, index, identity, state, since, _line, until in sorted(held.values(), key=NUMBER):
            end = f'","u":"{until}"}}' if until else '"}'
            lines.append(f'{{"i":"{digits % index}","id":{_quote(identity)},"p":{name},"s":"{state}","t":"{since}{end}')
    return "\n".join([*lines, ""])


def public(record: Record) -> dict[str, str]:
    """Return RECORD with the keys of its line."""
    found = {"i": f"{record.number:x}", "id": record.identity, "p": record.pool, "s": record.state, "t": record.since}
    return dict(found, u=record.until) if record.until else found


def _index(entries: list[tuple[int, object]], name: str, problems: list[str]) -> Ledger:
    holders: dict[str, dict[int, Record]] = {}
    active: dict[str, dict[str, Record]] = {}
    header: Mapping[str, Any] | None = None
    dates: dict[str, bool] = {}
    digits: dict[str, int] = {}
    for number, entry in entries:
        place = f"E308 {name}:{number}:"
        if isinstance(entry, Mapping) and "dualstack" in entry and "p" not in entry:
            if entry["dualstack"] != 1 or isinstance(entry["dualstack"], bool):
                problems.append(f"{place} version {entry['dualstack']!r} is not known; use a newer dualstack.fleet")
            elif header is not None and entry != header:
                problems.append(f"{place} is a second first line, and a different one; resolve the merge")
            elif _unwritable(entry):
                problems.append(f"{place} has characters that are not Unicode; restore the line from git")
            header = entry
            continue
        reason = _malformed(entry, dates)
        if reason or not isinstance(entry, Mapping):
            problems.append(f"{place} {reason}; restore the line from git")
            continue
        pool, index, identity, state = entry["p"], int(entry["i"], 16), entry["id"], entry["s"]
        record = Record(pool, index, identity, state, entry["t"], number, entry.get("u", ""))
        digits[pool] = max(digits.get(pool, 0), len(entry["i"]))
        other, mine = holders.setdefault(pool, {}).setdefault(index, record), active.setdefault(pool, {})
        if other is not record:
            who = f"({other.identity} line {other.line}, {identity} line {number})"
            problems.append(f"{place} index {entry['i']} of pool {pool} appears twice {who}; resolve the merge")
        elif state == "a":
            first = mine.setdefault(identity, record)
            if first is not record:
                who = f"(lines {first.line} and {number})"
                problems.append(f"{place} {identity} holds two indices of pool {pool} {who}; remove one")
    indices = {pool: {identity: record.number for identity, record in held.items()} for pool, held in active.items()}
    return Ledger(name, holders, indices, tuple(problems), dict(HEADER) if header is None else header, digits)


def _malformed(entry: object, dates: dict[str, bool]) -> str:
    """Return what is wrong with a record; DATES remembers which dates exist."""
    if not isinstance(entry, Mapping):
        return f"{repr(entry)[:40]} is not a record"
    quarantined = entry.get("s") == "q"
    for key in QUARANTINED if quarantined else KEYS:
        value = entry.get(key)
        if not isinstance(value, str) or not SYNTAX[key](value):
            return f"{key!r} is {repr(value)[:40]} and does not match {PATTERNS[key]}"
    if not (entry["p"].isprintable() and entry["id"].isprintable()):
        return f"{(entry['p'] + ' ' + entry['id'])[:60]!r} has characters that cannot be printed"
    for key in ("t", "u") if quarantined else ("t",):
        if not _known_date(entry[key], dates):
            return f"{key!r} is {entry[key]!r}, which is no date"
    known = QUARANTINED if quarantined else KEYS
    extra = sorted(str(key) for key in entry if key not in known) if len(entry) != len(known) else []
    return f"{', '.join(map(repr, extra))[:80]} is no key of a record in state {entry['s']}" if extra else ""


def _known_date(value: str, dates: dict[str, bool]) -> bool:
    if value not in dates:
        dates[value] = _is_date(value)
    return dates[value]


def _is_date(value: str) -> bool:
    try:
        date.fromisoformat(value)
    except ValueError:
        return False
    return True


def _unwritable(entry: Mapping[str, Any]) -> bool:
    try:
        json.dumps(entry, ensure_ascii=False).encode()
    except (UnicodeEncodeError, RecursionError):
        return True
    return False
