# SPDX-License-Identifier: GPL-3.0-or-later
"""From plan, hosts and ledger to every host's addresses: one pass, the same result in any order."""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from . import _validate
from ._addresses import IID_MASK, RESERVED, Prefix, kind, parse_index, reserved, reverse_name, text
from ._errors import DualStackError, InputError
from ._ledger import Ledger, Record, uncollected
from ._plan import IDENTITY, NAME, Delegate, Field, HostClass, Plan, Pool, Vhosts, behind, read_plan

COMMAND = "ansible-playbook dualstack.fleet.plan"
NEIGHBOURS = 1024  # Linux's default of net.ipv6.neigh.default.gc_thresh3
DISPUTED = 0xFFFFFFFFFFFFFF7F
NO_VHOSTS: Mapping[str, int] = {}
CLASS, POOL, VHOST = range(3)  # A host's index is chosen before that of its prefix, and this before those in the prefix


class Lack(NamedTuple):
    """Where identities have no index, which only new ledger records can give them.

    The allocating mode adds those, the frozen mode complains.
    """

    level: int
    pool: str
    class_name: str
    owner: (
        str  # the identity of the host on which they are, if they are vhosts; "" if each is that of a host of its own
    )

    def what(self, host: str, identity: str) -> str:
        """Return in words what the index of IDENTITY, which is on HOST, is for."""
        if self.level == CLASS:
            return f"{host} (class {self.class_name})"
        if self.level == POOL:
            return f"{host} (delegated prefix of pool {self.pool.partition('/')[2]})"
        return f"{identity} (vhost of {host})"


@dataclass(frozen=True)
class Numbering:
    """The hosts' places in the plan, what the ledger lacks in words, and all errors and warnings."""

    places: Mapping[str, Place]
    missing: tuple[str, ...]
    problems: tuple[str, ...]
    warnings: tuple[str, ...]

    @property
    def records(self) -> dict[str, dict[str, Any]]:
        """The record of every host by its name."""
        return records(self.places)


def frozen(plan: Plan, problems: Iterable[str], hosts: Mapping[str, Any], ledger: Ledger, today: str = "") -> Numbering:
    """Number HOSTS by PLAN and LEDGER as they are; PROBLEMS are those of reading PLAN. Any error raises all of them.

    Without TODAY (an ISO date) no quarantine is over.
    """
    found = number(plan, hosts, ledger, today)
    lacking = [
        f"E304 {each} has no allocation and mode is frozen; run: {COMMAND}, then commit {ledger.name}"
        for each in found.missing
    ]
    errors = [*problems, *_validate.problems(plan), *ledger.problems, *found.problems]
    if plan.skip_missing:
        found = Numbering(found.places, found.missing, found.problems, (*found.warnings, *lacking))
    else:
        errors += lacking
    if errors:
        raise InputError(errors)
    warnings = _validate.heard(plan, [*_validate.warnings(plan), *found.warnings])
    return Numbering(found.places, found.missing, (), tuple(warnings))


def allocate(hosts: object, config: object, ledger: Ledger) -> dict[str, dict[str, Any]]:
    """Return the record of each of HOSTS (name to {groups, variables...}) by the plan file's mapping CONFIG."""
    plan, problems = read_plan(config)
    usable, wrong = readable_hosts(hosts)
    return frozen(plan, [*problems, *wrong], usable, ledger).records


def readable_hosts(hosts: object) -> tuple[Mapping[str, Any], list[str]]:
    """Return HOSTS (name to {groups, variables...}), or none and what is wrong with them."""
    if not isinstance(hosts, Mapping):
        return {}, [f"E100 hosts: expected a mapping, got {kind(hosts)}; give name: {{groups: []}}"]
    problems = []
    for name, entry in hosts.items():
        groups = entry.get("groups") if isinstance(entry, Mapping) else None
        if not isinstance(groups, (list, tuple)) or not all(isinstance(group, str) for group in groups):
            problems.append(
                f"E100 hosts.{name}.groups: expected a list, got {kind(groups)}; give the host's group names"
            )
    return {} if problems else hosts, problems


def number(plan: Plan, hosts: Mapping[str, Any], ledger: Ledger, today: str = "") -> Numbering:
    """Number every one of HOSTS that can be numbered and tell all that is wrong with the others."""
    with uncollected():
        work = Work(plan, ledger, hosts, today)
        work.number(work.enter())
        work.count()
    return Numbering(work.places, tuple(work.lacking()), tuple(work.problems), tuple(work.warnings))


class _Link(NamedTuple):
    """What the addresses of a class in one of its network's prefixes share."""

    base: int  # the address with index 0
    shared: Mapping[str, Any]
    zone: str  # the end of the reverse names, with the network's half

    def record(self, index: int, mark: Callable[[str], str]) -> dict[str, Any]:
        """Return the keys of a host's record that depend on the prefix."""
        value = self.base | index
        address = mark(text(value))
        reverse = mark(".".join(f"{value & IID_MASK:016x}"[::-1]) + self.zone)
        return {**self.shared, "address": address, "next_hop": address, "ptr": reverse}


@dataclass(frozen=True)
class _Layout:
    """What all hosts of a class share, computed once."""

    entry: HostClass
    suspect: bool
    shared: Mapping[str, Any]
    links: tuple[_Link, ...]
    odd: frozenset[int]  # indices with a warning of their own
    lack: Lack  # of an index of the class
    active: Mapping[str, int]  # the ledger's indices of the class
    claims: dict[int, Claim]  # of the class's indices
    pins: frozenset[int]
    pool: Pool | None  # of its delegated prefixes
    follows: bool  # whether their indices are those of this class and nobody else's
    rule: Vhosts | None  # of the prefixes in those

    def whole(self, number: int) -> Prefix:
        """Return the /64 in which the vhosts of the host with the NUMBERth delegated prefix are."""
        if self.rule and self.rule.prefix:
            return self.rule.prefix
        assert self.pool is not None
        return Prefix(self.pool.cut(number).value, 64)

    def marked(self, mark: Callable[[str], str]) -> _Layout:
        """Return the layout with all strings that its hosts' records share MARKed."""
        first, *others = (
            {key: mark(value) if isinstance(value, str) else value for key, value in each.items()}
            for each in (self.shared, *(link.shared for link in self.links))
        )
        links = [link._replace(shared=found) for link, found in zip(self.links, others)]
        return replace(self, links=tuple(links), shared=first)

    def record(
        self, index: int, number: int | None, vhosts: Mapping[str, int], mark: Callable[[str], str]
    ) -> dict[str, Any]:
        """Return the record of a host with INDEX in the class and NUMBER in the pool."""
        found = {**self.shared, **self.links[0].record(index, mark), "index": mark(f"{index:x}"), "vhosts": {}}
        if number is not None and self.pool:
            found["delegated_prefix"] = found["unreachable"] = mark(self.pool.shown(number))
            if vhosts and self.rule:
                whole, length = self.whole(number).value, self.rule.length
                found["vhosts"] = {
                    vhost: mark(f"{text(whole | each << 128 - length)}/{length}") for vhost, each in vhosts.items()
                }
                if self.rule.prefix:
                    found["routed_vhosts"] = [*found["vhosts"].values()]
        if len(self.links) > 1:
            found["networks"] = [link.record(index, mark) for link in self.links]
        return found


class Place(NamedTuple):
    """Where a host is in the plan; its record is made of it only where one is wanted."""

    layout: _Layout
    identity: str
    number: int  # the index in its class
    delegated: int | None  # the index of its delegated prefix
    vhosts: Mapping[str, int]  # by name, the index in the host's or the site's prefix


class Claim(NamedTuple):
    """Who wants an index: a host, or a pin, which holds without its host."""

    holder: str  # a host; of a pin its identity
    layout: _Layout
    identity: str
    pinned: bool
    variables: Mapping[str, Any]  # of the host


class Work:
    """Numbers hosts. A host may be numbered again, after the ledger got what it was missing."""

    def __init__(self, plan: Plan, ledger: Ledger, hosts: Mapping[str, Any], today: str) -> None:
        self.plan, self.ledger, self.hosts, self.today = plan, ledger, hosts, today
        self.places: dict[str, Place] = {}
        self.missing: defaultdict[Lack, list[str]] = defaultdict(list)  # identities
        self.problems: list[str] = []
        self.warnings: list[str] = []
        self.claims: defaultdict[str, dict[int, Claim]] = defaultdict(dict)  # by ledger pool and index
        self.layouts = {name: self.layout(entry) for name, entry in plan.classes.items()}
        self.claimants: dict[str, Claim] = {}  # by identity
        self.named: dict[Lack, list[str] | None] = {}  # names of vhosts, sorted; None: not all are sound
        self.members: dict[tuple[str, ...], _Layout | None] = {}  # by groups; None: not in the fleet
        for layout in self.layouts.values():
            for identity, index in layout.entry.pins.items():
                layout.claims.setdefault(index, Claim(identity, layout, identity, True, {}))
            self.pins_against_ledger(layout.entry)

    def layout(self, entry: HostClass) -> _Layout:
        network = self.plan.networks[entry.network]
        links = tuple(
            _Link(
                prefix.value | entry.block.value,
                {
                    "prefix_length": 128,
                    "network": str(prefix),
                    "on_link": network.on_link,
                    "gateway": network.gateway if entry.gateway else "",
                    "class_prefix": str(behind(prefix, entry.block)),
                },
                "." + reverse_name(prefix.value, 64),
            )
            for prefix in network.prefixes
        )
        shared = {"class": entry.name, "delegated_prefix": "", "unreachable": ""}
        disputed = DISPUTED - (entry.block.value & IID_MASK)
        pool = self.plan.pools[entry.delegate.pool] if entry.delegate else None
        odd = frozenset(index for index in (0, disputed) if 0 <= index < 1 << entry.bits)
        suspect = _validate.has_unusable(entry, network)
        lack = Lack(CLASS, entry.ledger_pool, entry.name, "")
        active, claims = self.ledger.indices.get(entry.ledger_pool, {}), self.claims[entry.ledger_pool]
        pins, follows = frozenset(entry.pins.values()), self.plan.follower(pool) is entry if pool else False
        return _Layout(entry, suspect, shared, links, odd, lack, active, claims, pins, pool, follows, entry.vhosts)

    def lackers(self, lack: Lack, identities: Iterable[str]) -> list[Claim]:
        """Return who has to wait because IDENTITIES LACK an index; none is in two of these lists."""
        return [self.claimants[each] for each in ([lack.owner] if lack.owner else identities)]

    def lacking(self) -> Iterator[str]:
        """Yield in words each index that is missing."""
        for lack, identities in sorted(self.missing.items()):
            for identity in identities:
                yield lack.what(self.claimants[lack.owner or identity].holder, identity)

    def pins_against_ledger(self, entry: HostClass) -> None:
        if entry.track and entry.kind != "auto":
            return  # what is in a place inherits its address
        for identity, index in entry.pins.items():
            held = self.ledger.holder(entry.ledger_pool, index)
            if held and held.identity not in entry.pins:
                self.pin_against(f"{entry.name}/{identity}", entry.spelled[identity], held, identity in entry.forced)

    def pin_against(self, place: str, pin: str, held: Record, forced: bool) -> bool:
        """Tell whether the record HELD leaves its index to a pin of another identity."""
        if held.state == "q" and not forced and not (self.today and held.until <= self.today):
            reason = f"pin {pin} is in quarantine until {held.until} (was {held.identity})"
            self.problem("E303", f"{place}: {reason}; set force_reuse with a reason to override")
        elif held.state != "q":
            reason = f"pin {pin} is held by {held.identity} since {held.since}"
            self.problem("E302", f"{place}: {reason}; choose another pin or move {held.identity}")
        else:
            return True
        return False

    def problem(self, code: str, message: str) -> None:
        self.problems.append(f"{code} {message}")

    def enter(self) -> list[Claim]:
        """Return the hosts that are each in one class, sorted by name."""
        found = []
        for name in sorted(self.hosts):
            try:
                mine = self.introduce(name)
            except (ValueError, RecursionError) as error:
                self.unreadable(name, error)
            else:
                if mine is not None:
                    found.append(mine)
        return found

    def number(self, claims: Iterable[Claim]) -> None:
        """Give each host its place, or note what is missing or wrong."""
        for mine in claims:
            try:
                self.place(mine)
            except (ValueError, RecursionError) as error:
                self.unreadable(mine.holder, error)

    def unreadable(self, name: str, error: Exception) -> None:
        """Note what Python says of an integer too long to be shown or a list that contains itself."""
        self.problem("E209", f"{name}: a host variable cannot be read ({error}); correct it")

    def place(self, mine: Claim) -> None:
        name, layout, variables = mine.holder, mine.layout, mine.variables
        index = self.index(mine)
        if index is None:
            return
        entry = layout.entry
        if mine.pinned or entry.kind != "auto" or index in layout.pins:  # the ledger has each index once
            first = layout.claims.setdefault(index, mine)
            if first is not mine and not self.yields(index, first, mine):
                return
        if layout.suspect and not mine.pinned:
            self.problems += _validate.unusable(entry, self.plan.networks[entry.network], index, name)
        if index in layout.odd:
            self.warnings.append(_odd(layout, index, name))
        groups, number, vhosts = variables["groups"], None, NO_VHOSTS
        rule = entry.delegate
        if rule and (rule.groups is None or not rule.groups.isdisjoint(groups)):
            number = self.delegated(rule, index, mine)
            if number is None:
                return
        elif not self.plan.mail_groups.isdisjoint(groups):
            reason = "sends mail (mail_groups) and has no delegated prefix, so a blocklist would list its whole network"
            self.problem("E212", f"{name}: {reason}; give classes.{entry.name} a delegate for it")
        if layout.rule and variables.get(layout.rule.variable):
            vhosts = self.vhosts(mine, layout.rule, number, variables[layout.rule.variable])
            if layout.rule.prefix and not self.alone(layout.rule, vhosts, mine):
                return
        self.places[name] = Place(layout, mine.identity, index, number, vhosts)

    def introduce(self, name: str) -> Claim | None:
        """Return how a host that is in one class claims an index."""
        variables = self.hosts[name]
        layout = self.layout_of(name, tuple(variables["groups"]))
        identity = variables.get(IDENTITY, name)
        if layout is None or not self.is_identity(name, identity):
            return None
        mine = Claim(name, layout, identity, identity in layout.entry.pins, variables)
        first = self.claimants.setdefault(identity, mine)
        if first is not mine:
            whose = f"identity {identity} is claimed by {first.holder} and {name}"
            self.problem("E208", f"{whose}; give each its own {IDENTITY}")
            return None
        return mine

    def layout_of(self, name: str, groups: tuple[str, ...]) -> _Layout | None:
        if groups in self.members:
            return self.members[groups]
        layout = None
        if self.plan.exclude.isdisjoint(groups):
            class_name = self.class_of(name, groups)
            if not class_name:
                return None  # and not remembered: each of these hosts has its problem
            layout = self.layouts.get(class_name)
        self.members[groups] = layout
        return layout

    def class_of(self, name: str, groups: Iterable[str]) -> str:
        found = {self.plan.membership[group]: group for group in groups if group in self.plan.membership}
        if len(found) == 1:
            return next(iter(found))
        if found:
            classes = " and ".join(f"{each} (group {found[each]})" for each in sorted(found))
            self.problem("E210", f"{name} is in classes {classes}; a host must be in exactly one")
        else:
            known = ", ".join(sorted(groups)) or "none"
            self.problem(
                "E210", f"{name} is in no class (its groups: {known}); add one of them to a class or to exclude"
            )
        return ""

    def is_identity(self, name: str, identity: object) -> bool:
        if not isinstance(identity, str) or not identity:
            self.problem("E209", f"{name}: {IDENTITY} is the {kind(identity)} {identity!r}; put it in quotes")
            return False
        if not identity.isprintable():
            self.problem("E209", f"{name!r}: {IDENTITY} {identity!r} has characters that cannot be printed; change it")
            return False
        return True

    def index(self, mine: Claim) -> int | None:
        """Pins win, then the location, then the ledger."""
        layout = mine.layout
        entry = layout.entry
        if mine.pinned:
            return entry.pins[mine.identity]
        if entry.kind == "auto":
            return self.ledger_index(layout.active, entry.bits, layout.lack, mine.identity)
        if entry.kind == "location":
            return self.location(mine)
        place = f"classes.{entry.name}.pins.{mine.identity}"
        self.problem("E209", f"{entry.name}/{mine.holder}: has no pin; add {place}")
        return None

    def location(self, mine: Claim) -> int | None:
        index, complete = 0, True
        for field in mine.layout.entry.fields:
            try:
                value = _field_value(field, mine.variables)
            except DualStackError as error:
                self.problem("E209", f"{mine.holder}: {error}")
                complete = False
            else:
                index = index << field.bits | value
        return index if complete else None

    def ledger_index(self, active: Mapping[str, int], bits: int, lack: Lack, identity: str) -> int | None:
        """Return the index of IDENTITY among the ACTIVE ones of a pool, or None and note that it LACKs one."""
        index = active.get(identity)
        if index is None:
            self.missing[lack].append(identity)
            return None
        if index >> bits:
            line = self.ledger.holders[lack.pool][index].line
            place = f"{self.ledger.name}:{line}: {index:x} is not in pool {lack.pool}"
            self.problem("E308", f"{place}; restore its block")
            return None
        return index

    def yields(self, index: int, first: Claim, mine: Claim) -> bool:
        """Tell whether INDEX of a class, which FIRST has, is MINE in truth; if not, that is a problem."""
        if first.pinned and first.holder == mine.identity:
            return True
        if not (first.pinned and mine.pinned):  # of two pins the plan's own check has told
            way, other = self.way(mine, index), self.way(first, index)
            way = "same location" if way == other else way
            advice = "add a field or pin one of them" if mine.layout.entry.kind == "location" else "pin one of them"
            address = text(mine.layout.links[0].base | index)
            self.problem(
                "E208", f"{address} is claimed by {first.holder} ({other}) and {mine.holder} ({way}); {advice}"
            )
        return False

    def way(self, claim: Claim, index: int) -> str:
        """Return how the holder of CLAIM came to INDEX."""
        entry = claim.layout.entry
        if claim.pinned:
            return f"pin {index:x}"
        if entry.kind == "location":
            values = (f"{field.name}={claim.variables.get(field.variable)}" for field in entry.fields)
            return "location " + " ".join(values)
        return f"ledger {index:x}"

    def delegated(self, rule: Delegate, index: int, mine: Claim) -> int | None:
        """Return the index of the prefix that a host is given, or None and note what is missing or wrong."""
        pool, entry = mine.layout.pool, mine.layout.entry
        assert pool is not None
        number: int | None = index
        if rule.index != "same":
            active = self.ledger.indices.get(pool.ledger_pool, {})
            number = self.ledger_index(active, pool.bits, Lack(POOL, pool.ledger_pool, entry.name, ""), mine.identity)
        if number is None or number >> pool.bits:
            return None
        if number in pool.reserved:
            reason = f"{pool.cut(number)} is in pools.{pool.name}.reserved; choose another index"
            self.problem("E208", f"{entry.name}/{mine.holder}: {reason}")
            return None
        if mine.layout.follows:
            return number
        first = self.claims[pool.ledger_pool].setdefault(number, mine)
        if first is not mine:
            whose = f"{first.holder} (class {first.layout.entry.name}) and {mine.holder} (class {entry.name})"
            advice = "give each class its own pool or change one index"
            self.problem("E208", f"{pool.cut(number)} is claimed by {whose}; {advice}")
            return None
        return number

    def vhosts(self, mine: Claim, rule: Vhosts, number: int | None, names: object) -> Mapping[str, int]:
        """Return the indices of a host's vhosts; NUMBER is that of the host's delegated prefix."""
        layout, name = mine.layout, mine.holder
        if number is None:
            self.problem("E209", f"{name}: {rule.variable} is set, but the host has no delegated prefix; remove it")
            return NO_VHOSTS
        if not isinstance(names, (list, tuple, Mapping)):
            reason = f"{rule.variable} is a {kind(names)}; write a list of names, or names with quoted hex strings"
            self.problem("E209", f"{name}: {reason}")
            return NO_VHOSTS
        lack = Lack(VHOST, layout.entry.vhost_pool(mine.identity), layout.entry.name, mine.identity)
        known = self.recorded(rule, lack, names)
        if known is not None:
            return known
        found: dict[int, str] = {}
        shift = 128 - rule.length
        for vhost in sorted(names, key=str):
            pinned = names[vhost] if isinstance(names, Mapping) else None
            index = self.vhost_index(mine, rule, lack, vhost, pinned)
            if index is None:
                continue
            if reserved(index << shift, (index + 1 << shift) - 1):
                width = -(-(rule.length - 64) // 4)
                whole = layout.whole(number)
                reason = f"contains reserved interface identifiers of {whole}, RFC 5453"
                place = f"vhost {name}/{vhost}"
                self.problem("E206", f"{place}: /{rule.length} index {index:0{width}x} is reserved ({reason})")
            elif index in found:
                block = layout.whole(number).subnet(rule.length, index)
                self.problem("E208", f"{block} is claimed by vhosts {found[index]} and {vhost} of {name}; change one")
            else:
                found[index] = vhost
        return {vhost: index for index, vhost in found.items()}

    def alone(self, rule: Vhosts, vhosts: Mapping[str, int], mine: Claim) -> bool:
        """Claim a host's VHOSTS in the site's prefix; False (and a problem) when another host has one of them."""
        assert rule.prefix is not None
        claims, before = self.claims[mine.layout.entry.vhost_pool(mine.identity)], len(self.problems)
        for vhost, index in vhosts.items():
            first = claims.setdefault(index, mine)
            if first is not mine:
                block = rule.prefix.subnet(rule.length, index)
                whose = f"{block} is claimed by {first.holder} and {mine.holder} (vhost {vhost})"
                self.problem("E208", f"{whose}; name each vhost on one host only")
        return len(self.problems) == before

    def recorded(self, rule: Vhosts, lack: Lack, given: Collection[Any]) -> Mapping[str, int] | None:
        """Return the indices of vhosts with records and note who LACKs one; None when each must be looked at.

        This is the way of the many, for a prefix may hold 65,533 of them.
        """
        if isinstance(given, Mapping) or rule.kind == "pinned":
            return None
        if lack not in self.named:
            self.named[lack] = _names(given)
        names = self.named[lack]
        if names is None:
            return None
        active = self.ledger.indices.get(lack.pool, {})
        found = {vhost: active[vhost] for vhost in names if vhost in active}
        barred = [(low >> 128 - rule.length, high >> 128 - rule.length) for low, high, _code, _name in RESERVED]
        barred.append((1 << rule.bits, IID_MASK))
        indices = sorted(found.values())
        if any(bisect_left(indices, low) < bisect_right(indices, high) for low, high in barred):
            return None
        if len(found) < len(names):
            self.missing[lack] += [vhost for vhost in names if vhost not in found]
        return found

    def vhost_index(self, mine: Claim, rule: Vhosts, lack: Lack, vhost: object, pinned: object) -> int | None:
        """Return the index of VHOST that the host variable or the ledger has, or None and note that it LACKs one."""
        bits = rule.length - 64
        place = f"{mine.holder}: {rule.variable}"
        if not isinstance(vhost, str) or not NAME.fullmatch(vhost):
            self.problem("E209", f"{place}: {vhost!r} is not a name; use letters, digits, '_', '.' and '-'")
            return None
        if pinned is None and rule.kind == "pinned":
            self.problem("E209", f"{place}.{vhost}: has no index; write {vhost}: and a quoted hex string")
            return None
        if pinned is None:
            return self.ledger_index(self.ledger.indices.get(lack.pool, {}), bits, lack, vhost)
        forced = isinstance(pinned, Mapping) and bool(pinned.get("force_reuse"))
        pin = pinned.get("index") if isinstance(pinned, Mapping) else pinned
        try:
            index = parse_index(pin, bits)
        except DualStackError as error:
            self.problem("E209", f"{place}.{vhost}: {error}")
            return None
        held = self.ledger.holder(lack.pool, index)
        if held and held.identity != vhost and not self.pin_against(f"{mine.holder}/{vhost}", str(pin), held, forced):
            return None
        if rule.prefix is None:
            self.claims[lack.pool].setdefault(index, Claim(vhost, mine.layout, vhost, True, {}))
        return index

    def count(self) -> None:
        """Warn of networks and pools that get full."""
        networks = Counter([place.layout.entry.network for place in self.places.values()])
        for network, hosts in sorted(networks.items()):
            if self.plan.networks[network].on_link and hosts > NEIGHBOURS:
                limit = f"more than {NEIGHBOURS}, Linux's default of net.ipv6.neigh.default.gc_thresh3"
                self.warnings.append(f"W303 networks.{network}: {hosts} hosts on link, {limit}; raise it there")
        sizes = {
            pool.ledger_pool: (f"pools.{pool.name}", pool.bits)
            for pool in self.plan.pools.values()
            if self.plan.follower(pool) is None  # that class is as full
        }
        for each in self.plan.classes.values():
            sizes[each.ledger_pool] = (f"classes.{each.name}", each.bits)
            if each.vhosts and each.vhosts.prefix:
                sizes[each.vhost_pool("")] = (f"classes.{each.name}.delegate.vhosts", each.vhosts.bits)
        for pool, (place, bits) in sizes.items():
            held, claims = self.ledger.holders.get(pool, {}), self.claims[pool]
            if (len(held) + len(claims)) * 10 <= 8 << bits:
                continue  # without a closer look
            taken = self.taken(held, claims)
            if taken * 10 > 8 << bits:
                share = f"{taken} of {1 << bits} indices are taken, more than 80 %"
                self.warnings.append(f"W313 {place}: {share}; plan a wider one before it is exhausted")

    def taken(self, held: Mapping[int, Record], claims: Mapping[int, Claim]) -> int:
        """Return how many indices of a pool nobody else can have."""
        others = (held[index] for index in held.keys() - claims.keys())
        return len(claims) + sum(not (each.state == "q" and self.today and each.until <= self.today) for each in others)


def _names(given: Collection[Any]) -> list[str] | None:
    """Return the names GIVEN in order if all are sound and none is there twice."""
    try:
        names = sorted(given)
        return names if all(map(NAME.fullmatch, names)) and len(set(names)) == len(names) else None
    except TypeError:
        return None


def _odd(layout: _Layout, index: int, name: str) -> str:
    """Return the warning about an index that can be used, and had better not."""
    entry = layout.entry
    if index == 0:
        return f"W306 {entry.name}/{name}: index 0 is the block's own address; choose another index"
    reason = "RFC 6164 section 6 counts it to the subnet anycast addresses in one place of two"
    return f"W315 {entry.name}/{name}: {text(layout.links[0].base | index)}: {reason}; avoid it"


def _field_value(field: Field, variables: Mapping[str, Any]) -> int:
    value = variables.get(field.variable)
    if value is None:
        raise DualStackError(
            f"host variable {field.variable} (field {field.name}) is not set; set it beside the host, "
            "or with use_vars_plugins: true in host_vars or group_vars"
        )
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        raise DualStackError(f"field {field.name}={value!r} is a {kind(value)}; write an integer or a string")
    if field.values is not None:
        if str(value) not in field.values:
            raise DualStackError(f"field {field.name}={value} is not in its map ({', '.join(field.values)}); add it")
        return field.values[str(value)]
    digits = str(value)
    if not re.fullmatch(r"[0-9]{1,20}", digits):
        raise DualStackError(f"field {field.name}={value} is not a whole number; correct it or give the field a map")
    result = int(digits, 16) if field.digits else int(digits)
    if result >> field.bits:
        highest = (1 << field.bits) - 1
        limit = f"{highest:x} as digits" if field.digits else str(highest)
        raise DualStackError(f"field {field.name}={value} does not fit in {field.bits} bits (0..{limit})")
    return result


def records(places: Mapping[str, Place], mark: Callable[[str], str] = str) -> dict[str, dict[str, Any]]:
    """Return the record of every host by its name, as the host variable has it, every string of it MARKed."""
    shared: dict[int, _Layout] = {}
    found = {}
    for name, (layout, _identity, index, number, vhosts) in places.items():
        marked = shared.get(id(layout))
        if marked is None:
            marked = shared[id(layout)] = layout.marked(mark)
        found[name] = marked.record(index, number, vhosts, mark)
    return found
