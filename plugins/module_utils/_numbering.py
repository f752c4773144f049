# SPDX-License-Identifier: GPL-3.0-or-later
"""From plan, hosts and ledger to every host's addresses: one pass, the same result in any order."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from . import _validate
from ._addresses import Prefix, kind, parse_index, reserved, reverse_name, text
from ._errors import DualStackError, InputError
from ._ledger import Ledger
from ._plan import IDENTITY, NAME, Delegate, Field, HostClass, Plan, Vhosts, behind, read_plan

COMMAND = "ansible-playbook dualstack.fleet.plan"
NEIGHBOURS = 1024  # Linux's default of net.ipv6.neigh.default.gc_thresh3


@dataclass(frozen=True)
class Missing:
    """An index that only a new ledger record can give: the allocating mode adds one, the frozen mode complains."""

    pool: str
    identity: str
    host: str
    what: str


@dataclass(frozen=True)
class Numbering:
    """The hosts' records, what the ledger lacks, and all errors and warnings."""

    records: Mapping[str, dict[str, Any]]
    missing: tuple[Missing, ...]
    problems: tuple[str, ...]
    warnings: tuple[str, ...]


def frozen(plan: Plan, problems: Iterable[str], hosts: Mapping[str, Any], ledger: Ledger) -> Numbering:
    """Number HOSTS by PLAN and LEDGER as they are; PROBLEMS are those of reading PLAN. Any error raises all of them."""
    found = number(plan, hosts, ledger)
    lacking = [
        f"E304 {each.what} has no allocation and mode is frozen; run: {COMMAND}, then commit {ledger.name}"
        for each in found.missing
    ]
    errors = [*problems, *_validate.problems(plan), *ledger.problems, *found.problems]
    if plan.skip_missing:
        found = Numbering(found.records, found.missing, found.problems, (*found.warnings, *lacking))
    else:
        errors += lacking
    if errors:
        raise InputError(errors)
    return Numbering(found.records, found.missing, (), (*_validate.warnings(plan), *found.warnings))


def allocate(hosts: object, config: object, ledger: Ledger) -> dict[str, dict[str, Any]]:
    """Return the record of each of HOSTS (name to {groups, variables...}) by the plan file's mapping CONFIG."""
    plan, problems = read_plan(config)
    if not isinstance(hosts, Mapping):
        raise InputError([*problems, f"E100 hosts: expected a mapping, got {kind(hosts)}; give name: {{groups: []}}"])
    for name, entry in hosts.items():
        groups = entry.get("groups") if isinstance(entry, Mapping) else None
        if not isinstance(groups, (list, tuple)):
            problems.append(
                f"E100 hosts.{name}.groups: expected a list, got {kind(groups)}; give the host's group names"
            )
    usable = {} if any(problem.startswith("E100 hosts.") for problem in problems) else hosts
    return dict(frozen(plan, problems, usable, ledger).records)


def number(plan: Plan, hosts: Mapping[str, Any], ledger: Ledger) -> Numbering:
    """Number every one of HOSTS that can be numbered and tell all that is wrong with the others."""
    work = _Work(plan, ledger, hosts)
    for name in sorted(hosts):
        work.host(name)
    work.count_neighbours()
    return Numbering(work.records, tuple(work.missing), tuple(work.problems), tuple(work.warnings))


@dataclass(frozen=True)
class _Layout:
    """What all hosts of a class share, computed once."""

    entry: HostClass
    suspect: bool
    gateway: str
    on_link: bool
    links: tuple[tuple[int, str, str], ...]  # address with index 0, the network, the class's prefix


@dataclass(frozen=True)
class _Claim:
    holder: str  # a host; of a pin its identity, for a pin holds without its host
    class_name: str
    pinned: bool


class _Work:
    def __init__(self, plan: Plan, ledger: Ledger, hosts: Mapping[str, Any]) -> None:
        self.plan, self.ledger, self.hosts = plan, ledger, hosts
        self.records: dict[str, dict[str, Any]] = {}
        self.missing: list[Missing] = []
        self.problems: list[str] = []
        self.warnings: list[str] = []
        self.layouts = {name: self.layout(entry) for name, entry in plan.classes.items()}
        self.claims: dict[tuple[str, int], _Claim] = {}  # by ledger pool and index
        self.identities: dict[str, str] = {}
        for entry in plan.classes.values():
            for identity, index in entry.pins.items():
                self.claims.setdefault((entry.ledger_pool, index), _Claim(identity, entry.name, pinned=True))
            self.pins_against_ledger(entry)

    def layout(self, entry: HostClass) -> _Layout:
        network = self.plan.networks[entry.network]
        links = tuple(
            (prefix.value | entry.block.value, str(prefix), str(behind(prefix, entry.block)))
            for prefix in network.prefixes
        )
        gateway = network.gateway if entry.gateway else ""
        return _Layout(entry, _validate.has_unusable(entry, network), gateway, network.on_link, links)

    def pins_against_ledger(self, entry: HostClass) -> None:
        for identity, index in entry.pins.items():
            held = self.ledger.holders.get((entry.ledger_pool, index))
            if held and held.state == "a" and held.identity != identity and held.identity not in entry.pins:
                pin = f"pin {index:0{-(-entry.bits // 4)}x} is held by {held.identity} since {held.since}"
                self.problem("E302", f"{entry.name}/{identity}: {pin}; choose another pin or move {held.identity}")

    def problem(self, code: str, message: str) -> None:
        self.problems.append(f"{code} {message}")

    def host(self, name: str) -> None:
        variables = self.hosts[name]
        groups = variables["groups"]
        if not self.plan.exclude.isdisjoint(groups):
            return
        class_name, identity = self.class_of(name, groups), self.identity(name, variables)
        if class_name not in self.layouts or identity is None:
            return
        layout = self.layouts[class_name]
        entry = layout.entry
        index = self.index(entry, name, identity, variables)
        if index is None or not self.claim_index(layout, index, name, identity):
            return
        if layout.suspect and identity not in entry.pins:
            self.problems += _validate.unusable(entry, self.plan.networks[entry.network], index, name)
        if index == 0:
            self.warnings.append(f"W306 {class_name}/{name}: index 0 is the block's own address; choose another index")
        prefix = None
        if entry.delegate and (entry.delegate.groups is None or not entry.delegate.groups.isdisjoint(groups)):
            prefix = self.delegated(entry, entry.delegate, name, identity, index)
            if prefix is None:
                return
        elif not self.plan.mail_groups.isdisjoint(groups):
            reason = "sends mail (mail_groups) and has no delegated prefix, so a blocklist would list its whole network"
            self.problem("E212", f"{name}: {reason}; give classes.{class_name} a delegate for it")
        vhosts = self.vhosts(entry, name, identity, prefix, variables)
        self.records[name] = _record(layout, index, prefix, vhosts)

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
        return self.ledger_index(entry.ledger_pool, entry.bits, name, identity, f"{name} (class {entry.name})")

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

    def ledger_index(self, pool: str, bits: int, name: str, identity: str, what: str) -> int | None:
        index = self.ledger.active(pool, identity)
        if index is None:
            self.missing.append(Missing(pool, identity, name, what))
        elif index >> bits:
            line = self.ledger.holders[pool, index].line
            self.problem("E308", f"{self.ledger.name}:{line}: {index:x} is not in pool {pool}; restore its block")
            return None
        return index

    def claim_index(self, layout: _Layout, index: int, name: str, identity: str) -> bool:
        """Take INDEX of a class for a host; False (and a problem) when another has it."""
        entry = layout.entry
        mine = _Claim(name, entry.name, identity in entry.pins)
        first = self.claims.setdefault((entry.ledger_pool, index), mine)
        if first is mine or (first.pinned and first.holder == identity):
            return True
        if not (first.pinned and mine.pinned):  # of two pins the plan's own check has told
            way, other = self.way(mine, index), self.way(first, index)
            way = "same location" if way == other else way
            advice = "add a field or pin one of them" if entry.kind == "location" else "pin one of them"
            address = text(layout.links[0][0] | index)
            self.problem("E208", f"{address} is claimed by {first.holder} ({other}) and {name} ({way}); {advice}")
        return False

    def way(self, claim: _Claim, index: int) -> str:
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
            what = f"{name} (delegated prefix of pool {pool.name})"
            number = self.ledger_index(f"pool/{pool.name}", pool.bits, name, identity, what)
        if number is None or number >> pool.bits:
            return None
        prefix = pool.prefix.subnet(pool.length, number)
        if number in pool.reserved:
            self.problem(
                "E208", f"{entry.name}/{name}: {prefix} is in pools.{pool.name}.reserved; choose another index"
            )
            return None
        mine = _Claim(name, entry.name, pinned=False)
        first = self.claims.setdefault((f"pool/{pool.name}", number), mine)
        if first is not mine:
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
        for vhost in sorted(names, key=str):
            pinned = names[vhost] if isinstance(names, Mapping) else None
            index = self.vhost_index(rule, name, identity, vhost, pinned)
            if index is None:
                continue
            block = Prefix(prefix.value, 64).subnet(rule.length, index)
            if reserved(block.value & (1 << 64) - 1, block.last & (1 << 64) - 1):
                width = -(-(rule.length - 64) // 4)
                reason = f"contains reserved interface identifiers of {Prefix(prefix.value, 64)}, RFC 5453"
                place = f"vhost {name}/{vhost}"
                self.problem("E206", f"{place}: /{rule.length} index {index:0{width}x} is reserved ({reason})")
            elif index in found:
                self.problem("E208", f"{block} is claimed by vhosts {found[index]} and {vhost} of {name}; change one")
            else:
                found[index] = vhost
        subnets = {vhost: str(Prefix(prefix.value, 64).subnet(rule.length, index)) for index, vhost in found.items()}
        return {vhost: subnets[vhost] for vhost in sorted(subnets)}

    def vhost_index(self, rule: Vhosts, name: str, identity: str, vhost: object, pinned: object) -> int | None:
        place = f"{name}: {rule.variable}"
        if not isinstance(vhost, str) or not NAME.fullmatch(vhost):
            self.problem("E209", f"{place}: {vhost!r} is not a name; use letters, digits, '_', '.' and '-'")
            return None
        bits = rule.length - 64
        if pinned is not None:
            try:
                return parse_index(pinned, bits)
            except DualStackError as error:
                self.problem("E209", f"{place}.{vhost}: {error}")
                return None
        if rule.kind == "pinned":
            self.problem("E209", f"{place}.{vhost}: has no index; write {vhost}: and a quoted hex string")
            return None
        return self.ledger_index(f"vhost/{identity}", bits, name, vhost, f"{vhost} (vhost of {name})")

    def count_neighbours(self) -> None:
        networks = Counter(self.plan.classes[record["class"]].network for record in self.records.values())
        for network, hosts in sorted(networks.items()):
            if self.plan.networks[network].on_link and hosts > NEIGHBOURS:
                limit = f"more than {NEIGHBOURS}, Linux's default of net.ipv6.neigh.default.gc_thresh3"
                self.warnings.append(f"W303 networks.{network}: {hosts} hosts on link, {limit}; raise it there")


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
