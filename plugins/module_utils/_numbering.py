# SPDX-License-Identifier: GPL-3.0-or-later
"""From plan, hosts and ledger to every host's addresses: one pass, the same result in any order."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from . import _validate
from ._addresses import IID_MASK, Prefix, kind, parse_index, reserved, reverse_name, text
from ._errors import DualStackError, InputError
from ._ledger import Ledger, Record, uncollected
from ._plan import IDENTITY, NAME, Delegate, Field, HostClass, Plan, Vhosts, behind, read_plan

COMMAND = "ansible-playbook dualstack.fleet.plan"
NEIGHBOURS = 1024  # Linux's default of net.ipv6.neigh.default.gc_thresh3
DISPUTED = 0xFFFFFFFFFFFFFF7F
CLASS, POOL, VHOST = range(3)  # A host's index is chosen before that of its prefix, and this before those in the prefix


class Missing(NamedTuple):
    """An index that only a new ledger record can give: the allocating mode adds one, the frozen mode complains."""

    level: int
    pool: str
    identity: str
    host: str
    class_name: str

    @property
    def what(self) -> str:
        """What the index is for, in words."""
        if self.level == CLASS:
            return f"{self.host} (class {self.class_name})"
        if self.level == POOL:
            return f"{self.host} (delegated prefix of pool {self.pool.partition('/')[2]})"
        return f"{self.identity} (vhost of {self.host})"


@dataclass(frozen=True)
class Numbering:
    """The hosts' places in the plan, what the ledger lacks, and all errors and warnings."""

    places: Mapping[str, Place]
    missing: tuple[Missing, ...]
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
        f"E304 {each.what} has no allocation and mode is frozen; run: {COMMAND}, then commit {ledger.name}"
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
        for name in sorted(hosts):
            work.host(name)
        work.count()
    return Numbering(work.places, tuple(work.missing), tuple(work.problems), tuple(work.warnings))


@dataclass(frozen=True)
class _Layout:
    """What all hosts of a class share, computed once."""

    entry: HostClass
    suspect: bool
    gateway: str
    on_link: bool
    links: tuple[tuple[int, str, str], ...]  # address with index 0, the network, the class's prefix
    disputed: int  # the index that RFC 6164 section 6 counts to the reserved range and does not; else -1


class Place(NamedTuple):
    """Where a host is in the plan; its record is made of it only where one is wanted."""

    layout: _Layout
    identity: str
    number: int  # the index in its class
    prefix: Prefix | None
    vhosts: dict[str, str]


class Claim(NamedTuple):
    """Who has an index."""

    holder: str  # a host; of a pin its identity, for a pin holds without its host
    class_name: str
    pinned: bool


class Work:
    """Numbers hosts one by one. A host may be numbered again, after the ledger got what it was missing."""

    def __init__(self, plan: Plan, ledger: Ledger, hosts: Mapping[str, Any], today: str) -> None:
        self.plan, self.ledger, self.hosts, self.today = plan, ledger, hosts, today
        self.places: dict[str, Place] = {}
        self.missing: list[Missing] = []
        self.problems: list[str] = []
        self.warnings: list[str] = []
        self.layouts = {name: self.layout(entry) for name, entry in plan.classes.items()}
        self.claims: dict[tuple[str, int], Claim] = {}  # by ledger pool and index
        self.identities: dict[str, str] = {}
        self.known: dict[str, tuple[_Layout, str]] = {}
        self.members: dict[tuple[str, ...], str | None] = {}  # class by groups; None: not in the fleet
        self.used: set[tuple[str, str]] = set()  # ledger pool and identity of the ledger's records in use
        for entry in plan.classes.values():
            for identity, index in entry.pins.items():
                self.claims.setdefault((entry.ledger_pool, index), Claim(identity, entry.name, pinned=True))
            self.pins_against_ledger(entry)

    def layout(self, entry: HostClass) -> _Layout:
        network = self.plan.networks[entry.network]
        links = tuple(
            (prefix.value | entry.block.value, str(prefix), str(behind(prefix, entry.block)))
            for prefix in network.prefixes
        )
        gateway = network.gateway if entry.gateway else ""
        disputed = DISPUTED - (entry.block.value & IID_MASK)
        within = disputed if 0 <= disputed < 1 << entry.bits else -1
        return _Layout(entry, _validate.has_unusable(entry, network), gateway, network.on_link, links, within)

    def pins_against_ledger(self, entry: HostClass) -> None:
        if entry.track and entry.kind != "auto":
            return  # what is in a place inherits its address
        for identity, index in entry.pins.items():
            held = self.ledger.holders.get((entry.ledger_pool, index))
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

    def host(self, name: str) -> None:
        """Give a host its place, or note what is missing or wrong."""
        try:
            self.place(name)
        except (ValueError, RecursionError) as error:  # an integer too long to be shown, a list that contains itself
            self.problem("E209", f"{name}: a host variable cannot be read ({error}); correct it")

    def place(self, name: str) -> None:
        known = self.known.get(name) or self.introduce(name)
        if known is None:
            return
        layout, identity = known
        variables = self.hosts[name]
        groups = variables["groups"]
        entry = layout.entry
        index = self.index(entry, name, identity, variables)
        if index is None or not self.claim_index(layout, index, name, identity):
            return
        if layout.suspect and identity not in entry.pins:
            self.problems += _validate.unusable(entry, self.plan.networks[entry.network], index, name)
        if index == layout.disputed:
            reason = "RFC 6164 section 6 counts it to the subnet anycast addresses in one place of two"
            self.warnings.append(f"W315 {entry.name}/{name}: {text(layout.links[0][0] | index)}: {reason}; avoid it")
        if index == 0:
            self.warnings.append(f"W306 {entry.name}/{name}: index 0 is the block's own address; choose another index")
        prefix = None
        if entry.delegate and (entry.delegate.groups is None or not entry.delegate.groups.isdisjoint(groups)):
            prefix = self.delegated(entry, entry.delegate, name, identity, index)
            if prefix is None:
                return
        elif not self.plan.mail_groups.isdisjoint(groups):
            reason = "sends mail (mail_groups) and has no delegated prefix, so a blocklist would list its whole network"
            self.problem("E212", f"{name}: {reason}; give classes.{entry.name} a delegate for it")
        vhosts = self.vhosts(entry, name, identity, prefix, variables)
        self.places[name] = Place(layout, identity, index, prefix, vhosts)

    def introduce(self, name: str) -> tuple[_Layout, str] | None:
        """Return the class and the identity of a host that is in one class."""
        variables = self.hosts[name]
        groups = variables["groups"]
        key = tuple(groups)
        if key not in self.members:
            self.members[key] = self.class_of(name, groups) if self.plan.exclude.isdisjoint(groups) else None
        elif self.members[key] == "":
            self.class_of(name, groups)  # for its problem
        class_name = self.members[key]
        if class_name is None:
            return None
        identity = self.identity(name, variables)
        if class_name not in self.layouts or identity is None:
            return None
        self.known[name] = self.layouts[class_name], identity
        return self.known[name]

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

    def identity(self, name: str, variables: Mapping[str, Any]) -> str | None:
        identity = variables.get(IDENTITY, name)
        if not isinstance(identity, str) or not identity:
            self.problem("E209", f"{name}: {IDENTITY} is the {kind(identity)} {identity!r}; put it in quotes")
            return None
        if not identity.isprintable():
            self.problem("E209", f"{name!r}: {IDENTITY} {identity!r} has characters that cannot be printed; change it")
            return None
        first = self.identities.setdefault(identity, name)
        if first != name:
            self.problem("E208", f"identity {identity} is claimed by {first} and {name}; give each its own {IDENTITY}")
            return None
        return identity

    def index(self, entry: HostClass, name: str, identity: str, variables: Mapping[str, Any]) -> int | None:
        """Pins win, then the location, then the ledger."""
        if identity in entry.pins:
            return entry.pins[identity]
        if entry.kind == "location":
            return self.location(entry, name, variables)
        if entry.kind == "pinned":
            self.problem("E209", f"{entry.name}/{name}: has no pin; add classes.{entry.name}.pins.{identity}")
            return None
        return self.ledger_index(entry.bits, Missing(CLASS, entry.ledger_pool, identity, name, entry.name))

    def location(self, entry: HostClass, name: str, variables: Mapping[str, Any]) -> int | None:
        index, complete = 0, True
        for field in entry.fields:
            try:
                value = _field_value(field, variables)
            except DualStackError as error:
                self.problem("E209", f"{name}: {error}")
                complete = False
            else:
                index = index << field.bits | value
        return index if complete else None

    def ledger_index(self, bits: int, missing: Missing) -> int | None:
        """Return the index in the ledger, or None and note what is MISSING."""
        key = missing[1:3]  # pool and identity
        index = self.ledger.indices.get(key)
        if index is None:
            self.missing.append(missing)
            return None
        self.used.add(key)
        if index >> bits:
            line = self.ledger.holders[missing.pool, index].line
            place = f"{self.ledger.name}:{line}: {index:x} is not in pool {missing.pool}"
            self.problem("E308", f"{place}; restore its block")
            return None
        return index

    def claim(self, pool: str, index: int, mine: Claim) -> Claim | None:
        """Take INDEX of POOL, or return who has it."""
        first = self.claims.setdefault((pool, index), mine)
        return None if first == mine else first

    def claim_index(self, layout: _Layout, index: int, name: str, identity: str) -> bool:
        """Take INDEX of a class for a host; False (and a problem) when another has it."""
        entry = layout.entry
        mine = Claim(name, entry.name, identity in entry.pins)
        first = self.claim(entry.ledger_pool, index, mine)
        if first is None or (first.pinned and first.holder == identity):
            return True
        if not (first.pinned and mine.pinned):  # of two pins the plan's own check has told
            way, other = self.way(mine, index), self.way(first, index)
            way = "same location" if way == other else way
            advice = "add a field or pin one of them" if entry.kind == "location" else "pin one of them"
            address = text(layout.links[0][0] | index)
            self.problem("E208", f"{address} is claimed by {first.holder} ({other}) and {name} ({way}); {advice}")
        return False

    def way(self, claim: Claim, index: int) -> str:
        """Return how the holder of CLAIM came to INDEX."""
        entry = self.plan.classes[claim.class_name]
        if claim.pinned:
            return f"pin {index:x}"
        if entry.kind == "location":
            variables = self.hosts[claim.holder]
            return "location " + " ".join(f"{field.name}={variables.get(field.variable)}" for field in entry.fields)
        return f"ledger {index:x}"

    def delegated(self, entry: HostClass, rule: Delegate, name: str, identity: str, index: int) -> Prefix | None:
        pool = self.plan.pools[rule.pool]
        number: int | None = index
        if rule.index != "same":
            number = self.ledger_index(pool.bits, Missing(POOL, f"pool/{pool.name}", identity, name, entry.name))
        if number is None or number >> pool.bits:
            return None
        prefix = pool.prefix.subnet(pool.length, number)
        if number in pool.reserved:
            self.problem(
                "E208", f"{entry.name}/{name}: {prefix} is in pools.{pool.name}.reserved; choose another index"
            )
            return None
        first = self.claim(f"pool/{pool.name}", number, Claim(name, entry.name, pinned=False))
        if first:
            whose = f"{first.holder} (class {first.class_name}) and {name} (class {entry.name})"
            self.problem("E208", f"{prefix} is claimed by {whose}; give each class its own pool or change one index")
            return None
        return prefix

    def vhosts(
        self, entry: HostClass, name: str, identity: str, prefix: Prefix | None, variables: Mapping[str, Any]
    ) -> dict[str, str]:
        rule = entry.delegate.vhosts if entry.delegate else None
        names = variables.get(rule.variable) if rule else None
        if rule is None or not names:
            return {}
        if prefix is None:
            self.problem("E209", f"{name}: {rule.variable} is set, but the host has no delegated prefix; remove it")
            return {}
        if not isinstance(names, (list, tuple, Mapping)):
            reason = f"{rule.variable} is a {kind(names)}; write a list of names, or names with quoted hex strings"
            self.problem("E209", f"{name}: {reason}")
            return {}
        found: dict[int, str] = {}
        shift, pool = 128 - rule.length, f"vhost/{identity}"
        whole = Prefix(prefix.value, 64)
        for vhost in sorted(names, key=str):
            pinned = names[vhost] if isinstance(names, Mapping) else None
            index = self.vhost_index(rule, Missing(VHOST, pool, vhost, name, entry.name), pinned)
            if index is None:
                continue
            if reserved(index << shift, (index + 1 << shift) - 1):
                width = -(-(rule.length - 64) // 4)
                reason = f"contains reserved interface identifiers of {whole}, RFC 5453"
                place = f"vhost {name}/{vhost}"
                self.problem("E206", f"{place}: /{rule.length} index {index:0{width}x} is reserved ({reason})")
            elif index in found:
                block = whole.subnet(rule.length, index)
                self.problem("E208", f"{block} is claimed by vhosts {found[index]} and {vhost} of {name}; change one")
            else:
                found[index] = vhost
        return {vhost: f"{text(whole.value | index << shift)}/{rule.length}" for index, vhost in found.items()}

    def vhost_index(self, rule: Vhosts, missing: Missing, pinned: object) -> int | None:
        """Return the index of the vhost that is MISSING unless the host variable or the ledger has it."""
        _level, pool, vhost, name, class_name = missing
        bits = rule.length - 64
        place = f"{name}: {rule.variable}"
        if not isinstance(vhost, str) or not NAME.fullmatch(vhost):
            self.problem("E209", f"{place}: {vhost!r} is not a name; use letters, digits, '_', '.' and '-'")
            return None
        if pinned is None and rule.kind == "pinned":
            self.problem("E209", f"{place}.{vhost}: has no index; write {vhost}: and a quoted hex string")
            return None
        if pinned is None:
            return self.ledger_index(bits, missing)
        forced = isinstance(pinned, Mapping) and bool(pinned.get("force_reuse"))
        pin = pinned.get("index") if isinstance(pinned, Mapping) else pinned
        try:
            index = parse_index(pin, bits)
        except DualStackError as error:
            self.problem("E209", f"{place}.{vhost}: {error}")
            return None
        held = self.ledger.holders.get((pool, index))
        if held and held.identity != vhost and not self.pin_against(f"{name}/{vhost}", str(pin), held, forced):
            return None
        self.claims.setdefault((pool, index), Claim(vhost, class_name, pinned=True))
        return index

    def count(self) -> None:
        """Warn of networks and pools that get full."""
        networks = Counter(place.layout.entry.network for place in self.places.values())
        for network, hosts in sorted(networks.items()):
            if self.plan.networks[network].on_link and hosts > NEIGHBOURS:
                limit = f"more than {NEIGHBOURS}, Linux's default of net.ipv6.neigh.default.gc_thresh3"
                self.warnings.append(f"W303 networks.{network}: {hosts} hosts on link, {limit}; raise it there")
        taken = Counter(pool for pool, _index in self.claims)
        taken.update(
            key[0]
            for key, held in self.ledger.holders.items()
            if key not in self.claims and not (held.state == "q" and self.today and held.until <= self.today)
        )
        sizes = {f"pool/{pool.name}": (f"pools.{pool.name}", pool.bits) for pool in self.plan.pools.values()}
        for each in self.plan.classes.values():
            sizes[each.ledger_pool] = (f"classes.{each.name}", each.bits)
        for pool, (place, bits) in sizes.items():
            if taken[pool] * 10 > 8 << bits:
                share = f"{taken[pool]} of {1 << bits} indices are taken, more than 80 %"
                self.warnings.append(f"W313 {place}: {share}; plan a wider one before it is exhausted")


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


def records(places: Mapping[str, Place]) -> dict[str, dict[str, Any]]:
    """Return the record of every host by its name, as the host variable has it."""
    return {name: _record(place.layout, place.number, place.prefix, place.vhosts) for name, place in places.items()}


def _record(layout: _Layout, index: int, prefix: Prefix | None, vhosts: dict[str, str]) -> dict[str, Any]:
    delegated = "" if prefix is None else str(prefix)
    links = [_link(layout, index, *link) for link in layout.links]
    record = {
        "class": layout.entry.name,
        "index": f"{index:x}",
        **links[0],
        "delegated_prefix": delegated,
        "unreachable": delegated,
        "vhosts": vhosts,
    }
    return dict(record, networks=links) if len(links) > 1 else record


def _link(layout: _Layout, index: int, base: int, network: str, class_prefix: str) -> dict[str, Any]:
    address = text(base | index)
    return {
        "address": address,
        "prefix_length": 128,
        "network": network,
        "on_link": layout.on_link,
        "gateway": layout.gateway,
        "next_hop": address,
        "class_prefix": class_prefix,
        "ptr": reverse_name(base | index),
    }
