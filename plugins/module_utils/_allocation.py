# SPDX-License-Identifier: GPL-3.0-or-later
"""New ledger records: the only place where an index is chosen, kept, let go or given to somebody else."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, timedelta
from hashlib import sha256
from struct import iter_unpack
from typing import Any

from . import _validate
from ._addresses import IID_MASK, RESERVED, parse_address, parse_index, parse_interface, text
from ._errors import DualStackError, InputError
from ._ledger import Ledger, Record, active_records, uncollected
from ._numbering import CLASS, POOL, Lack, Place, Work
from ._plan import HostClass, Plan

FEWEST_GUARDED = 20
SMALL = 24  # bits of the index of a pool whose indices may have a byte each
OF_VHOSTS = ("vhost/", "site/")
EVENTS = ("added", "restored", "released", "renamed", "collected")


@dataclass(frozen=True)
class Request:
    """What to do besides allocating: names as in the options of the module."""

    today: str
    rename: Mapping[str, str] = field(default_factory=dict)
    move: Sequence[Mapping[str, Any]] = ()
    adopt: Mapping[str, Any] = field(default_factory=dict)
    prune: bool = False
    prune_max: int = 0
    gc: bool = False


@dataclass(frozen=True)
class Allocation:
    """The new ledger, every host's place, and what happened: records by ``added``, ``released`` and so on."""

    ledger: Ledger
    places: Mapping[str, Place]
    events: Mapping[str, tuple[Record, ...]]
    pins: Mapping[str, dict[str, str]]
    warnings: tuple[str, ...]


def allocate(
    plan: Plan, problems: Iterable[str], hosts: Mapping[str, Any], ledger: Ledger, request: Request
) -> Allocation:
    """Give every one of HOSTS what the ledger lacks. Any error, PROBLEMS of reading the plan included, raises all."""
    with uncollected():
        return _allocate(plan, problems, hosts, ledger, request)


def _allocate(
    plan: Plan, problems: Iterable[str], hosts: Mapping[str, Any], ledger: Ledger, request: Request
) -> Allocation:
    errors = [*problems, *_validate.problems(plan), *ledger.problems]
    book = _Book(plan, ledger, request.today)
    if not errors:
        for old, new in sorted(request.rename.items()):
            book.rename(old, new)
        for number, entry in enumerate(request.move):
            book.move(entry, f"move[{number}]")
        plan, pins = book.adopt(request.adopt, hosts)
        book.plan = plan
    else:
        pins = {}
    work = Work(plan, book.ledger, hosts, request.today)
    _number_all(work, book, usable=not errors)
    errors += [*book.problems, *work.problems]
    if not errors:
        book.keep_pins(work)
        book.track(work)
        if request.prune:
            book.prune(work, request.prune_max)
        if request.gc:
            book.collect()
        errors += book.problems
    if errors:
        raise InputError(dict.fromkeys(errors))
    work.count()
    lines = [*_validate.warnings(plan), *_validate.advice(plan), *work.warnings, *book.warnings]
    events = {name: tuple(found) for name, found in book.events.items()}
    found = Ledger(ledger.name, book.holders, book.indices, (), ledger.header, ledger.digits)
    return Allocation(found, work.places, events, pins, tuple(_validate.heard(plan, lines)))


def widths(plan: Plan, ledger: Ledger) -> dict[str, int]:
    """Return the hexadecimal digits of an index in each pool of PLAN and, as far as it is known, of LEDGER."""
    bits = {pool.ledger_pool: pool.bits for pool in plan.pools.values()}
    bits.update((entry.ledger_pool, entry.bits) for entry in plan.classes.values())
    rules = [(each.vhost_pool(""), each.vhosts) for each in plan.classes.values() if each.vhosts]
    if rules:
        widest = max(rule.bits for _pool, rule in rules)
        bits.update((pool, widest) for pool in ledger.holders if pool.startswith("vhost/"))
        bits.update((pool, rule.bits) for pool, rule in rules if rule.prefix)
    return {pool: max(1, -(-number // 4)) for pool, number in bits.items()}


def _number_all(work: Work, book: _Book, usable: bool) -> None:
    """Number all hosts; whoever lacks a record gets one, a level of pools at a time, and is numbered again.

    Prefixes wait for all indices, so that a prefix chosen here is not one that follows from another host's index.
    """
    waiting = work.enter()
    while waiting:
        work.number(waiting)
        waiting, lacking = [], sorted(work.missing.items())
        work.missing.clear()
        for lack, identities in lacking if usable else ():
            without = book.give(lack, identities, work) if lack.level == lacking[0][0].level else set()
            if not without:
                waiting += work.lackers(lack, identities)
            elif not lack.owner:
                waiting += work.lackers(lack, [each for each in identities if each not in without])


def _used(work: Work) -> Iterator[tuple[str, str]]:
    """Yield pool and identity of each record by which a host has its place."""
    for layout, identity, _index, delegated, vhosts in work.places.values():
        entry = layout.entry
        if entry.kind == "auto":
            yield entry.ledger_pool, identity
        if entry.delegate and entry.delegate.index != "same" and delegated is not None:
            yield f"pool/{entry.delegate.pool}", identity
        if vhosts:
            pool = entry.vhost_pool(identity)
            yield from ((pool, vhost) for vhost, index in vhosts.items() if work.ledger.active(pool, vhost) == index)


class _Small:
    """The indices of a small pool that nobody can get, a byte for each: nothing is found quicker than a byte."""

    def __init__(self, size: int, barred: list[int]) -> None:
        self.taken = bytearray(size)
        for first, behind in zip(barred[::2], barred[1::2]):
            self.taken[first:behind] = b"\1" * len(self.taken[first:behind])

    def take(self, index: int) -> None:
        if index < len(self.taken):
            self.taken[index] = 1

    def free(self, index: int) -> int | None:
        """Return the first free index from INDEX on."""
        found = self.taken.find(0, index)
        return None if found < 0 else found


class _Large:
    """The indices of a pool of any size that nobody can get, and for each one behind it from which to look on."""

    def __init__(self, size: int, barred: list[int]) -> None:
        self.size, self.barred = size, barred
        self.after: dict[int, int] = {}

    def take(self, index: int) -> None:
        self.after[index] = index + 1

    def free(self, index: int) -> int | None:
        """Return the first free index from INDEX on, and let the next search jump over what this one passed."""
        after, here = self.after, index
        while True:
            while here in after:
                behind = after[here]
                after[here] = here = after.get(behind, behind)
            edge = bisect_right(self.barred, here)
            if edge % 2 == 0:
                return here if here < self.size else None
            after[here] = here = self.barred[edge]


class _Space:
    """The free indices of a pool: finds the next one in about constant time, however full the pool is."""

    def __init__(self, pool: str, bits: int, low: int, start: str, barred: Iterable[tuple[int, int]]) -> None:
        self.pool, self.bits, self.size, self.start = pool, bits, 1 << bits, start
        self.low = min(max(1, low), self.size)
        self.barred = _edges(barred)
        self.indices: _Small | _Large = (_Small if bits <= SMALL else _Large)(self.size, self.barred)
        self.counter = 1

    def take(self, indices: Iterable[int]) -> None:
        for index in indices:
            self.indices.take(index)

    def bars(self, index: int) -> bool:
        """Tell whether nobody can have INDEX."""
        return index >= self.size or bisect_right(self.barred, index) % 2 == 1

    def choose(self, identities: list[str]) -> list[int]:
        """Return free indices for IDENTITIES, as far as there are any: of the dynamic band, then of the static one."""
        take, free = self.indices.take, self.indices.free
        found: list[int] = []
        for start in self.starts(identities, found):
            index = free(start)
            if index is None:
                index = next((each for each in map(free, (self.low, 0)) if each is not None), None)
            if index is None:
                break
            take(index)
            found.append(index)
        return found

    def starts(self, identities: list[str], found: list[int]) -> Iterable[int]:
        """Yield for each of IDENTITIES where to look for its index, when those before it have FOUND theirs."""
        span = self.size - self.low
        if self.start == "sparse":
            return (self.sparse() for _identity in identities)
        if self.start == "sequential" or not span:
            return (found[-1] if found else self.low for _identity in identities)
        seeded, digests = sha256(f"dualstack/1\0{self.pool}\0".encode()), []
        for identity in identities:
            whole = seeded.copy()
            whole.update(identity.encode())
            digests.append(whole.digest())
        return [self.low + number % span for (number,) in iter_unpack(">Q24x", b"".join(digests))]  # eight bytes each

    def sparse(self) -> int:
        """Count with the bits reversed (RFC 3531 section 3.1): each index is as far from the others as can be."""
        while self.counter < self.size:
            index = int(f"{self.counter:0{self.bits}b}"[::-1], 2)
            if index >= self.low and self.indices.free(index) == index:
                return index
            self.counter += 1
        return self.low


def _edges(ranges: Iterable[tuple[int, int]]) -> list[int]:
    """Return where RANGES begin and where what is outside begins again, in turns and in order."""
    edges: list[int] = []
    for first, last in sorted(ranges):
        if edges and first <= edges[-1]:
            edges[-1] = max(edges[-1], last + 1)
        else:
            edges += [first, last + 1]
    return edges


class _Book:
    """The ledger while it is being changed."""

    def __init__(self, plan: Plan, ledger: Ledger, today: str) -> None:
        self.plan, self.today = plan, today
        self.holders: dict[str, dict[int, Record]] = {pool: dict(held) for pool, held in ledger.holders.items()}
        self.indices: dict[str, dict[str, int]] = {pool: dict(held) for pool, held in ledger.indices.items()}
        for entry in plan.classes.values():
            self.indices.setdefault(entry.ledger_pool, {})
        self.ledger = Ledger(ledger.name, self.holders, self.indices, (), ledger.header, ledger.digits)
        self.problems: list[str] = []
        self.warnings: list[str] = []
        self.events: dict[str, list[Record]] = {name: [] for name in EVENTS}
        self.kept: set[tuple[str, str]] = set()  # pool and identity of pins and tracked places

    def over(self, record: Record) -> bool:
        """Tell whether RECORD holds its index no more."""
        return record.state == "q" and record.until <= self.today

    def add(self, pool: str, index: int, identity: str) -> None:
        self.events["added"].append(self.put(Record(pool, index, identity, "a", self.today)))

    def put(self, record: Record) -> Record:
        """Take RECORD in; whoever had its index has it no more."""
        self.holders.setdefault(record.pool, {})[record.number] = record
        if record.state == "a":
            self.indices.setdefault(record.pool, {})[record.identity] = record.number
        return record

    def restore(self, record: Record) -> None:
        self.events["restored"].append(self.put(record._replace(state="a", until="")))

    def release(self, record: Record) -> None:
        until = date.fromisoformat(self.today) + timedelta(days=self.days(record.pool))
        self.events["released"].append(self.put(record._replace(state="q", until=until.isoformat())))
        del self.indices[record.pool][record.identity]

    def days(self, pool: str) -> int:
        return self.plan.vhost_days if pool.startswith(OF_VHOSTS) else self.plan.quarantine_days

    def problem(self, code: str, message: str) -> None:
        self.problems.append(f"{code} {message}")

    def give(self, lack: Lack, identities: Iterable[str], work: Work) -> set[str]:
        """Give an index to each of IDENTITIES, which LACK one; return those that got none."""
        pool, space = lack.pool, self.space(lack)
        taken, waiting = self.holdings(pool, work)
        space.take(taken)
        held, active = self.holders.setdefault(pool, {}), self.indices.setdefault(pool, {})
        wanted = [each for each in dict.fromkeys(sorted(identities)) if each not in active]
        for identity in wanted if waiting else ():
            left = waiting.get(identity)
            if left and left.number not in work.claims[pool] and not space.bars(left.number):
                space.take([left.number])
                self.restore(left)
        new = [identity for identity in wanted if identity not in active] if waiting else wanted
        indices = space.choose(new)
        records = active_records(pool, indices, new, self.today)
        held.update(zip(indices, records))
        active.update(zip(new, indices))
        self.events["added"] += records
        if len(records) < len(new):
            self.exhausted(lack, space, taken)
        return set(new[len(records) :])

    def holdings(self, pool: str, work: Work) -> tuple[list[int], dict[str, Record]]:
        """Return the taken indices of POOL, and by identity what may be given back."""
        taken = list(work.claims[pool])
        waiting: dict[str, Record] = {}
        for index, record in self.holders.get(pool, {}).items():
            if not self.over(record):
                taken.append(index)
            if record.state == "q":
                latest = waiting.setdefault(record.identity, record)
                if latest.until < record.until:
                    waiting[record.identity] = record
        return taken, waiting

    def space(self, lack: Lack) -> _Space:
        entry = self.plan.classes[lack.class_name]
        if lack.level == CLASS:
            barred = _barred(self.plan, entry)
            return _Space(lack.pool, entry.bits, entry.static_band, entry.start, barred)
        assert entry.delegate is not None
        if lack.level == POOL:
            pool = self.plan.pools[entry.delegate.pool]
            start = "sparse" if entry.delegate.index == "sparse" else "hash"
            same = [
                index
                for other in self.plan.classes.values()
                if other.delegate and other.delegate.pool == pool.name and other.delegate.index == "same"
                for index in other.pins.values()
            ]
            barred = [(index, index) for index in (0, *pool.reserved)]
            space = _Space(lack.pool, pool.bits, 1, start, barred)
            space.take(same)
            return space
        assert entry.vhosts is not None
        length = entry.vhosts.length
        barred = [(low >> (128 - length), high >> (128 - length)) for low, high, _code, _name in RESERVED]
        return _Space(lack.pool, length - 64, 1, "hash", barred)

    def exhausted(self, lack: Lack, space: _Space, taken: Sequence[int]) -> None:
        entry = self.plan.classes[lack.class_name]
        records = self.holders.get(lack.pool, {})
        dates = [records[index].until for index in taken if index in records and records[index].state == "q"]
        held = sum(record.state == "a" for record in records.values())
        place = f"classes.{entry.name}.block"
        if entry.delegate and lack.level != CLASS:
            rule = f"classes.{entry.name}.delegate.vhosts.length"
            place = f"pools.{entry.delegate.pool}.prefix" if lack.level == POOL else rule
        free = f" (next free on {min(dates)})" if dates else ""
        counts = f"{space.size} indices, {held} active, {len(dates)} quarantined{free}"
        rest = f"{space.size - held - len(dates)} reserved"
        self.problem("E301", f"pool {lack.pool} is exhausted: {counts}, {rest}; widen {place} or shorten quarantine")

    def rename(self, old: str, new: object) -> None:
        """Give all that is OLD's to NEW."""
        if not isinstance(new, str) or not new or not new.isprintable():
            self.problem("E309", f"rename {old}: {new!r} is not a name; write the new identity in quotes")
            return
        vhosts = {f"vhost/{old}": f"vhost/{new}"}
        mine = [
            (
                record,
                record._replace(pool=vhosts[record.pool]) if record.pool in vhosts else record._replace(identity=new),
            )
            for record in self.ledger.records
            if record.pool in vhosts or (record.identity == old and not record.pool.startswith(OF_VHOSTS))
        ]
        if not mine:
            self.problem("E309", f"rename {old}: the ledger has no record of it; correct the name")
        for record, found in mine:
            stays = found.pool == record.pool
            taken = self.ledger.active(found.pool, new) if stays else self.ledger.holder(found.pool, found.number)
            if taken is not None:
                reason = f"{new} has records of pool {found.pool} already"
                self.problem("E309", f"rename {old}: {reason}; choose another name, or prune {new} first")
                return
        for record, found in mine:
            self.drop(record)
            self.events["renamed"].append(self.put(found))

    def drop(self, record: Record) -> None:
        """Take RECORD out."""
        del self.holders[record.pool][record.number]
        if record.state == "a":
            del self.indices[record.pool][record.identity]

    def move(self, entry: Mapping[str, Any], place: str) -> None:
        """Give an identity another index of its pool."""
        pool, identity, wanted = entry.get("pool"), entry.get("identity"), entry.get("index")
        held = self.ledger.active(str(pool), str(identity))
        if held is None:
            known = sorted(each for each, names in self.indices.items() if str(identity) in names)
            has = f"it holds one of {', '.join(known)}" if known else "the ledger has no record of it"
            self.problem("E309", f"{place}: {identity} has no index of pool {pool}; {has}")
            return
        try:
            index = parse_index(wanted, 64)
        except DualStackError as error:
            self.problem("E309", f"{place}.index: {error}")
            return
        other = self.ledger.holder(str(pool), index)
        if index == held:
            return
        if other and not self.over(other) and other.identity != identity:
            until = f" until {other.until}" if other.state == "q" else ""
            state = {"a": "held", "q": "in quarantine", "r": "reserved"}[other.state]
            reason = f"index {wanted} of pool {pool} is {state}{until} ({other.identity})"
            self.problem("E309", f"{place}: {reason}; choose another index")
            return
        self.release(self.holders[str(pool)][held])
        self.add(str(pool), index, str(identity))

    def adopt(self, carried: Mapping[str, Any], hosts: Mapping[str, Any]) -> tuple[Plan, dict[str, dict[str, str]]]:
        """Make records of the addresses that hosts carry already; where the plan decides, return pins instead."""
        pins: dict[str, dict[str, str]] = {}
        look = Work(self.plan, self.ledger, hosts, self.today)  # its problems come up again when all are numbered
        claims = {mine.holder: mine for mine in look.enter()} if carried else {}
        foreign: dict[str, str] = {}
        for name, addresses in sorted(carried.items()):
            if name not in hosts:
                self.problem("E309", f"adopt {name}: is not a host of the inventory; correct the name")
            if name not in claims:
                continue
            entry, identity = claims[name].layout.entry, claims[name].identity
            index = self.carried(entry, name, addresses, foreign)
            if index is None:
                continue
            place = (
                f"adopt {name}: {text(self.plan.networks[entry.network].prefixes[0].value | entry.block.value | index)}"
            )
            if identity in entry.pins or entry.kind != "auto":
                planned = entry.pins.get(identity)
                if planned is None and entry.kind == "location":
                    try:
                        planned = look.location(claims[name])
                    except ValueError:  # an integer too long to be shown, a problem that comes up again
                        continue
                if planned is None or (planned != index and identity not in entry.pins):
                    pins.setdefault(entry.name, {})[identity] = f"{index:x}"
                elif planned != index:
                    self.problem("E309", f"{place} is not its pin {planned:x}; change the pin or the host")
            else:
                self.adopt_record(entry.ledger_pool, index, identity, place)
        if foreign:
            shown = ", ".join(f"{name} {address}" for name, address in list(foreign.items())[:3])
            reason = f"{len(foreign)} hosts have addresses in the on-link network and outside their class ({shown})"
            self.warnings.append(f"W311 adopt: {reason}; turn SLAAC off there, or temporary addresses become sources")
        classes = {
            name: replace(
                entry,
                pins={**entry.pins, **{identity: int(index, 16) for identity, index in pins.get(name, {}).items()}},
                spelled={**entry.spelled, **pins.get(name, {})},
            )
            for name, entry in self.plan.classes.items()
        }
        return replace(self.plan, classes=classes), pins

    def carried(self, entry: HostClass, name: str, addresses: object, foreign: dict[str, str]) -> int | None:
        """Return the index in the class's block that one of ADDRESSES has."""
        found: dict[int, str] = {}
        network = self.plan.networks[entry.network]
        given = [addresses] if isinstance(addresses, str) else addresses
        for address in given if isinstance(given, (list, tuple)) else [None]:
            try:
                with_length = isinstance(address, str) and "/" in address
                value, length = parse_interface(address) if with_length else (parse_address(address), 128)
            except DualStackError as error:
                self.problem("E309", f"adopt {name}: {error}")
                continue
            if length == 80:
                reason = "is configured as a /80, and a router would own its first address"
                self.warnings.append(f"W305 adopt {name}: {address} {reason}; put /128 on lo or a dummy interface")
            for prefix in network.prefixes:
                suffix = value ^ prefix.value
                if suffix >> (128 - prefix.length):
                    continue
                if entry.block.value <= suffix <= entry.block.last:
                    found.setdefault(suffix - entry.block.value, text(value))
                else:
                    foreign.setdefault(name, text(value))
        if len(found) > 1:
            both = " and ".join(found[index] for index in sorted(found))
            self.problem(
                "E309", f"adopt {name}: carries {both} of class {entry.name}; remove all but one from the list"
            )
            return None
        return next(iter(found), None)

    def adopt_record(self, pool: str, index: int, identity: str, place: str) -> None:
        own, other = self.ledger.active(pool, identity), self.ledger.holder(pool, index)
        if own == index:
            return
        if own is not None:
            self.problem("E309", f"{place} is not {own:x}, which the ledger has for {identity}; move one of them")
        elif other and not self.over(other) and other.identity != identity:
            state = f"in quarantine until {other.until}; it was that of" if other.state == "q" else "held by"
            self.problem("E309", f"{place} is {state} {other.identity}; give one of them another address")
        else:
            self.add(pool, index, identity)

    def keep_pins(self, work: Work) -> None:
        """Let go of what the ledger has for identities that a pin has moved elsewhere."""
        for entry in self.plan.classes.values():
            for identity, index in sorted(entry.pins.items()):
                held = self.ledger.active(entry.ledger_pool, identity)
                if held is None or held == index:
                    self.kept.add((entry.ledger_pool, identity))
                    continue
                self.release(self.holders[entry.ledger_pool][held])
                if held in work.claims[entry.ledger_pool]:  # the pin of another has it
                    del self.holders[entry.ledger_pool][held]

    def track(self, work: Work) -> None:
        """Record the pinned and located hosts of classes that ask for it."""
        if not any(entry.track for entry in self.plan.classes.values()):
            return
        for name, place in sorted(work.places.items()):
            entry, identity, index = place.layout.entry, place.identity, place.number
            pool, address = entry.ledger_pool, text(place.layout.links[0].base | index)
            if not entry.track or (entry.kind == "auto" and identity not in entry.pins):
                continue
            self.kept.add((pool, identity))
            before = self.ledger.active(pool, identity)
            held = self.ledger.holder(pool, index)
            if before == index:
                continue
            if held and held.state == "r":
                self.problem("E302", f"{entry.name}/{name}: {address} is reserved ({held.identity}); free it")
                continue
            if before is not None and self.holders[pool][before].identity == identity:
                self.release(self.holders[pool][before])
            if held and held.identity == identity and held.state == "q":
                self.restore(held)
                continue
            if held:
                self.take_over(name, address, held)
            self.add(pool, index, identity)

    def take_over(self, name: str, address: str, held: Record) -> None:
        released = self.today
        if held.state == "q":
            days = timedelta(days=self.days(held.pool))
            released = (date.fromisoformat(held.until) - days).isoformat()
        elif self.ledger.active(held.pool, held.identity) == held.number:
            del self.indices[held.pool][held.identity]
        self.warnings.append(f"W316 {name} takes over {address} from {held.identity} (released {released})")

    def prune(self, work: Work, most: int) -> None:
        """Release the records of identities that are gone, unless they are suspiciously many."""
        active = [(pool, identity) for pool, held in self.indices.items() for identity in held]
        gone = sorted(set(active) - self.kept - set(_used(work)))
        limit = max(FEWEST_GUARDED, len(active) // 10)
        if len(gone) > max(limit, most):
            reason = f"refusing to release {len(gone)} of {len(active)} records (limit {limit})"
            how = f"Use --prune-max {len(gone)} to proceed (of the playbook: -e plan_prune_max={len(gone)})"
            self.problem("E305", f"{reason}; the inventory may be incomplete. {how}")
            return
        for pool, identity in gone:
            self.release(self.holders[pool][self.indices[pool][identity]])

    def collect(self) -> None:
        """Forget what nobody waits for any more."""
        for record in sorted(self.ledger.records):
            if self.over(record):
                self.drop(record)
                self.events["collected"].append(record)


def _barred(plan: Plan, entry: HostClass) -> list[tuple[int, int]]:
    """Return the ranges of indices of ENTRY that no host can have."""
    network = plan.networks[entry.network]
    first, last = entry.block.value, entry.block.last
    ranges = [(low, high) for low, high, _code, _name in RESERVED]
    ranges += [(each.block.value, each.block.last) for each in network.reserved]
    if network.gateway:
        gateway = parse_address(network.gateway)
        if any(prefix.value == gateway & ~IID_MASK for prefix in network.prefixes):
            ranges.append((gateway & IID_MASK, gateway & IID_MASK))
    inside = [
        (max(low, first) - first, min(high, last) - first) for low, high in ranges if low <= last and high >= first
    ]
    return [(0, 0), *inside]


def parse_day(value: str) -> str:
    """Return VALUE if it is an ISO date, today's date if it is empty."""
    if not value:
        return date.today().isoformat()
    if not re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", value):
        raise DualStackError(f"today: {value!r} is not a date; write it as 2026-01-02")
    try:
        return date.fromisoformat(value).isoformat()
    except ValueError:
        raise DualStackError(f"today: {value!r} is not a day of the calendar; correct it") from None
