# SPDX-License-Identifier: GPL-3.0-or-later
"""The address plan as values: networks, pools, classes. Reads the plan file's mapping and reports all that is wrong."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar

from ._addresses import Prefix, kind, parse_address, parse_index, parse_interface, parse_prefix, suffix_text, text
from ._errors import DualStackError
from ._ledger import Record

T = TypeVar("T")
PLUGIN = "dualstack.fleet.plan"
IDENTITY = "dualstack_id"
# The names end in host variables that Ansible may use in templates: no character of a template gets in.
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


@dataclass(frozen=True)
class Reserved:
    """Suffixes of a network that no host gets."""

    block: Prefix
    use: str
    place: str


@dataclass(frozen=True)
class Network:
    """An on-link network; each class of hosts has the same suffixes behind each of its prefixes."""

    name: str
    prefixes: tuple[Prefix, ...]
    gateway: str
    on_link: bool
    reserved: tuple[Reserved, ...]


@dataclass(frozen=True)
class Pool:
    """A prefix that is cut into delegated prefixes of one length."""

    name: str
    prefix: Prefix
    length: int
    reserved: frozenset[int]

    @cached_property
    def bits(self) -> int:
        """Width of an index."""
        return self.length - self.prefix.length

    @cached_property
    def ledger_pool(self) -> str:
        """The name under which the ledger keeps the indices that do not follow from those of the hosts."""
        return f"pool/{self.name}"

    def cut(self, index: int) -> Prefix:
        """Return the INDEXth delegated prefix."""
        return self.prefix.subnet(self.length, index)

    def shown(self, index: int) -> str:
        """Return the text of the INDEXth delegated prefix, which must be one."""
        return f"{text(self.prefix.value | index << 128 - self.length)}/{self.length}"


@dataclass(frozen=True)
class Field:
    """A bit field of a location index, filled from one host variable."""

    name: str
    bits: int
    variable: str
    values: Mapping[str, int] | None
    digits: bool


@dataclass(frozen=True)
class Vhosts:
    """How the names in a host variable get prefixes, in the host's delegated one or in PREFIX, that of a site."""

    length: int
    variable: str
    kind: str
    prefix: Prefix | None = None

    @cached_property
    def bits(self) -> int:
        """Width of an index."""
        return self.length - 64


@dataclass(frozen=True)
class Delegate:
    """Which pool gives the hosts of a class a prefix of their own, and to which of them (None: all)."""

    pool: str
    index: str
    groups: frozenset[str] | None
    vhosts: Vhosts | None


@dataclass(frozen=True)
class HostClass:
    """An aligned block of suffixes in a network and the rule that chooses a host's index in it."""

    name: str
    groups: tuple[str, ...]
    network: str
    block: Prefix
    kind: str
    pins: Mapping[str, int]
    fields: tuple[Field, ...]
    delegate: Delegate | None
    gateway: bool
    start: str = "hash"
    static_band: int = 0
    track: bool = False
    forced: Mapping[str, str] = field(default_factory=dict)
    spelled: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def bits(self) -> int:
        """Width of an index."""
        return 128 - self.block.length

    @cached_property
    def ledger_pool(self) -> str:
        """The name under which the ledger keeps this class's indices."""
        return f"{self.network}/{self.name}"

    @cached_property
    def vhosts(self) -> Vhosts | None:
        """How the names on its hosts get prefixes."""
        return self.delegate.vhosts if self.delegate else None

    def vhost_pool(self, identity: str) -> str:
        """Return the name under which the ledger keeps the indices of the vhosts of the host IDENTITY."""
        return f"site/{self.name}" if self.vhosts and self.vhosts.prefix else f"vhost/{identity}"


@dataclass(frozen=True)
class Plan:
    """What could be read of a plan. ``membership`` (group to class) also knows the classes that could not."""

    production: bool = False
    aggregate: tuple[Prefix, ...] = ()
    ledger: str = "addresses.jsonl"
    skip_missing: bool = False
    use_vars_plugins: bool = False
    exclude: frozenset[str] = frozenset()
    mail_groups: frozenset[str] = frozenset()
    networks: Mapping[str, Network] = field(default_factory=dict)
    pools: Mapping[str, Pool] = field(default_factory=dict)
    classes: Mapping[str, HostClass] = field(default_factory=dict)
    membership: Mapping[str, str] = field(default_factory=dict)
    quarantine_days: int = 90
    vhost_days: int = 30
    silence: frozenset[str] = frozenset()

    @property
    def variables(self) -> frozenset[str]:
        """The host variables that the numbering reads."""
        names = {IDENTITY}
        for entry in self.classes.values():
            names |= {each.variable for each in entry.fields}
            if entry.delegate and entry.delegate.vhosts:
                names.add(entry.delegate.vhosts.variable)
        return frozenset(names)

    def follower(self, pool: Pool) -> HostClass | None:
        """Return the class whose hosts' indices are those of POOL, all of them and nobody else's, if there is one."""
        users = [each for each in self.classes.values() if each.delegate and each.delegate.pool == pool.name]
        rule = users[0].delegate if len(users) == 1 else None
        return users[0] if rule and rule.index == "same" and rule.groups is None else None

    @property
    def needs_ledger(self) -> bool:
        """Tell whether any index comes from the ledger."""
        return any(
            entry.kind == "auto"
            or entry.track
            or (entry.delegate and entry.delegate.index != "same")
            or (entry.delegate and entry.delegate.vhosts and entry.delegate.vhosts.kind == "auto")
            for entry in self.classes.values()
        )

    def summary(self, held: Iterable[Record] = (), today: str = "") -> dict[str, Any]:
        """Return what access lists and maps need: prefixes of networks, pools and classes, and what is kept free.

        HELD are the ledger's records, of which those in quarantine after TODAY and those reserved are told by pool.
        """
        networks = {
            name: {
                "prefixes": [*map(str, each.prefixes)],
                "gateway": each.gateway,
                "on_link": each.on_link,
                # Host variables may be used as templates, so what people wrote freely loses the sign that begins one.
                "reserved": [
                    {"suffix": _block_text(taken.block), "for": taken.use.replace("{", "")} for taken in each.reserved
                ],
            }
            for name, each in self.networks.items()
        }
        pools = {
            name: {
                "prefix": str(each.prefix),
                "length": each.length,
                "reserved": [f"{index:x}" for index in sorted(each.reserved)],
            }
            for name, each in self.pools.items()
        }
        classes = {
            name: {
                "network": each.network,
                "prefixes": [str(behind(prefix, each.block)) for prefix in self.networks[each.network].prefixes],
                "pool": each.delegate.pool if each.delegate else "",
                "pins": [f"{index:x}" for index in sorted(each.pins.values())],
            }
            for name, each in self.classes.items()
        }
        kept: dict[str, dict[str, list[str]]] = {"quarantined": {}, "reserved": {}}
        known = {each.ledger_pool for each in self.pools.values()} | {
            each.ledger_pool for each in self.classes.values()
        }
        for record in held:
            if record.state != "a" and record.pool in known and (record.state == "r" or record.until > today):
                state = "quarantined" if record.state == "q" else "reserved"
                kept[state].setdefault(record.pool, []).append(f"{record.number:x}")
        return {"networks": networks, "pools": pools, "classes": classes, **kept}


def behind(prefix: Prefix, block: Prefix) -> Prefix:
    """Return BLOCK of suffixes as the prefix that it is behind PREFIX."""
    return Prefix(prefix.value | block.value, block.length)


def static_band(bits: int) -> int:
    """Return how many of the lowest indices are kept for pins, as Kubernetes does for service addresses (KEP-3070)."""
    size = 1 << bits
    return 0 if size <= 32 else min(max(16, size // 16), 256)


def read_plan(config: object) -> tuple[Plan, list[str]]:
    """Return what could be read of a plan file's mapping, and all problems with the rest."""
    try:
        return _Reader().plan(config)
    except (ValueError, RecursionError) as error:  # an integer too long to be shown, a list that contains itself
        return Plan(), [f"E100 plan: cannot be read ({error}); correct the file"]


class _Reader:
    """Collects problems instead of stopping at the first; what cannot be read is left out of the plan."""

    def __init__(self) -> None:
        self.problems: list[str] = []

    def plan(self, config: object) -> tuple[Plan, list[str]]:
        keys = """plugin version production aggregate ledger on_missing use_vars_plugins exclude mail_groups
            networks pools classes quarantine silence"""
        top = self.mapping(config, "plan", keys)
        if top.get("plugin", PLUGIN) != PLUGIN:
            self.problem("E100", "plugin", f"{top['plugin']!r} is not this plugin; write {PLUGIN}")
        if top.get("version") != 1:
            self.problem("E100", "version", f"{top.get('version')!r} is not a known version of the plan; write 1")
        days = self.quarantine(top.get("quarantine", {}))
        networks = self.each(top.get("networks"), "networks", self.network)
        pools = self.each(top.get("pools", {}), "pools", self.pool)
        names = {place: set(self.mapping(top.get(place, {}), "", None)) for place in ("networks", "pools")}
        membership: dict[str, str] = {}
        classes = self.each(
            top.get("classes"),
            "classes",
            lambda name, value, place: self.host_class(name, value, place, names, membership),
        )
        usable = {
            name: entry
            for name, entry in classes.items()
            if entry.network in networks and (not entry.delegate or entry.delegate.pool in pools)
        }
        plan = Plan(
            production=self.flag(top, "production", "", False),
            aggregate=self.prefixes(top.get("aggregate", []), "aggregate"),
            ledger=self.text(top.get("ledger", "addresses.jsonl"), "ledger") or "addresses.jsonl",
            skip_missing=self.choice(top, "on_missing", "", "error skip") == "skip",
            use_vars_plugins=self.flag(top, "use_vars_plugins", "", False),
            exclude=frozenset(self.texts(top.get("exclude", []), "exclude")),
            mail_groups=frozenset(self.texts(top.get("mail_groups", []), "mail_groups")),
            networks=networks,
            pools=pools,
            classes=usable,
            membership=membership,
            quarantine_days=days["days"],
            vhost_days=days["vhost_days"],
            silence=self.silence(top.get("silence", [])),
        )
        return plan, self.problems

    def network(self, name: str, value: object, place: str) -> Network | None:
        before = len(self.problems)
        if name in ("pool", "vhost", "site"):
            self.problem("E100", place, f"{name} begins other names in the ledger; give the network another name")
        entry = self.mapping(value, place, "prefixes gateway on_link reserved")
        prefixes = self.prefixes(entry.get("prefixes"), f"{place}.prefixes")
        if not entry.get("prefixes"):
            self.problem("E100", f"{place}.prefixes", "is empty; give the network's /64")
        gateway = entry.get("gateway", "")
        if gateway != "":
            number = self.guard("E101", f"{place}.gateway", parse_address, gateway)
            gateway = "" if number is None else text(number)
        reserved = [
            self.reserved_suffixes(each, f"{place}.reserved[{number}]")
            for number, each in enumerate(self.items(entry.get("reserved", []), f"{place}.reserved"))
        ]
        on_link = self.flag(entry, "on_link", place, True)
        if len(self.problems) > before:
            return None
        return Network(name, prefixes, gateway, on_link, tuple(each for each in reserved if each))

    def reserved_suffixes(self, value: object, place: str) -> Reserved | None:
        entry = self.mapping(value, place, "suffix for")
        suffix = entry.get("suffix")
        if isinstance(suffix, str) and "/" not in suffix:
            suffix = f"{suffix}/128"
        block = self.guard("E101", f"{place}.suffix", _parse_block, suffix)
        return None if block is None else Reserved(block, str(entry.get("for", "")), place)

    def pool(self, name: str, value: object, place: str) -> Pool | None:
        entry = self.mapping(value, place, "prefix length reserved")
        prefix = self.guard("E101", f"{place}.prefix", parse_prefix, entry.get("prefix"))
        length = self.number(entry.get("length", 64), f"{place}.length", 1, 128)
        if prefix is None or length is None:
            return None
        if length > 64:
            self.problem("E207", f"{place}.length", f"/{length} is longer than /64 (RFC 7934 section 8); use 64")
            return None
        if length < prefix.length:
            self.problem("E211", f"{place}.length", f"/{length} is not in {prefix}; use {prefix.length} to 64")
            return None
        bits = length - prefix.length
        reserved = [
            self.guard("E209", f"{place}.reserved[{number}]", parse_index, each, bits)
            for number, each in enumerate(self.items(entry.get("reserved", []), f"{place}.reserved"))
        ]
        return Pool(name, prefix, length, frozenset(each for each in reserved if each is not None))

    def host_class(
        self, name: str, value: object, place: str, names: Mapping[str, set[str]], membership: dict[str, str]
    ) -> HostClass | None:
        before = len(self.problems)
        keys = "groups network block kind pins fields delegate gateway start static_band track"
        entry = self.mapping(value, place, keys)
        groups = self.texts(entry.get("groups", []), f"{place}.groups")
        if not groups:
            self.problem("E100", f"{place}.groups", "is empty; name the Ansible groups of this class")
        for group in groups:
            if membership.setdefault(group, name) != name:
                self.problem(
                    "E210", f"{place}.groups", f"group {group} is in class {membership[group]} too; remove one"
                )
        network = self.reference(entry.get("network"), f"{place}.network", names["networks"], "networks")
        block = self.guard("E101", f"{place}.block", _parse_block, entry.get("block"))
        if block and not 64 <= block.length < 128:
            reason = f"{_block_text(block)} does not leave 1 to 64 bits for an index; use /64 to /127"
            self.problem("E209", f"{place}.block", reason)
            block = None
        how = self.choice(entry, "kind", place, "pinned auto location", required=True)
        start = self.choice(entry, "start", place, "hash sequential sparse")
        track = self.flag(entry, "track", place, False)
        bits = 128 - block.length if block else 64
        band: int | None = static_band(bits)
        if entry.get("static_band", "auto") != "auto":
            band = self.number(entry["static_band"], f"{place}.static_band", 0, 1 << bits)
        pins, forced, spelled = self.pins(entry.get("pins", {}), f"{place}.pins", bits)
        fields = self.fields(entry, place, block, how)
        delegate = None
        if "delegate" in entry:
            delegate = self.delegate(entry["delegate"], f"{place}.delegate", names["pools"])
        gateway = self.flag(entry, "gateway", place, True)
        if len(self.problems) > before or block is None:
            return None
        return HostClass(
            name, groups, network, block, how, pins, fields, delegate, gateway, start, band or 0, track, forced, spelled
        )

    def pins(self, value: object, place: str, bits: int) -> tuple[dict[str, int], dict[str, str], dict[str, str]]:
        """Return the pins, the reasons of those that may take an index out of quarantine, and how they are written."""
        found, forced, spelled = {}, {}, {}
        for name, given in self.mapping(value, place, None).items():
            index = given
            if not name or not name.isprintable():
                self.problem("E209", f"{place}.{name!r}", "is not a name; write what can be printed")
            if isinstance(given, Mapping):
                entry = self.mapping(given, f"{place}.{name}", "index force_reuse")
                index = entry.get("index")
                forced[name] = self.text(entry.get("force_reuse"), f"{place}.{name}.force_reuse")
            number = self.guard("E209", f"{place}.{name}", parse_index, index, bits)
            if number is not None:
                found[name], spelled[name] = number, str(index)
        return found, forced, spelled

    def fields(self, entry: Mapping[str, Any], place: str, block: Prefix | None, how: str) -> tuple[Field, ...]:
        if how != "location":
            if "fields" in entry:
                self.problem("E100", f"{place}.fields", "belongs to kind: location; remove it or change kind")
            return ()
        values = self.items(entry.get("fields", []), f"{place}.fields")
        found = [self.location_field(value, f"{place}.fields[{number}]") for number, value in enumerate(values)]
        fields = tuple(each for each in found if each)
        width = sum(each.bits for each in fields)
        if block and len(fields) == len(values) and width != 128 - block.length:
            reason = f"{width} bits do not fill {_block_text(block)} ({128 - block.length} bits); change bits or block"
            self.problem("E209", f"{place}.fields", reason)
        names = [each.name for each in fields]
        for name in sorted({name for name in names if names.count(name) > 1}):
            self.problem("E209", f"{place}.fields", f"field {name} appears twice; give each its own name")
        return fields

    def location_field(self, value: object, place: str) -> Field | None:
        before = len(self.problems)
        entry = self.mapping(value, place, "name bits var map encode")
        name = self.text(entry.get("name"), f"{place}.name")
        bits = self.number(entry.get("bits"), f"{place}.bits", 1, 64)
        variable = self.text(entry.get("var"), f"{place}.var")
        digits = self.choice(entry, "encode", place, "number digits") == "digits"
        values = None
        if "map" in entry:
            numbers = {
                key: self.number(number, f"{place}.map.{key}", 0, (1 << (bits or 64)) - 1)
                for key, number in self.mapping(entry["map"], f"{place}.map", None).items()
            }
            values = {key: number for key, number in numbers.items() if number is not None}
        return None if len(self.problems) > before or bits is None else Field(name, bits, variable, values, digits)

    def delegate(self, value: object, place: str, pools: set[str]) -> Delegate | None:
        entry = self.mapping(value, place, "pool index groups vhosts")
        pool = self.reference(entry.get("pool"), f"{place}.pool", pools, "pools")
        index = self.choice(entry, "index", place, "same ledger sparse")
        groups = frozenset(self.texts(entry["groups"], f"{place}.groups")) if "groups" in entry else None
        vhosts = self.vhosts(entry["vhosts"], f"{place}.vhosts") if "vhosts" in entry else None
        return Delegate(pool, index, groups, vhosts)

    def vhosts(self, value: object, place: str) -> Vhosts:
        entry = self.mapping(value, place, "length var kind scope prefix")
        length = self.number(entry.get("length", 80), f"{place}.length", 65, 124)
        variable = self.text(entry.get("var", "dualstack_vhosts"), f"{place}.var")
        prefix = None
        scope = self.choice(entry, "scope", place, "host site")
        if scope == "site":
            prefix = self.guard("E101", f"{place}.prefix", parse_prefix, entry.get("prefix"))
            if prefix and prefix.length != 64:
                self.problem("E209", f"{place}.prefix", f"{prefix} is not a /64; give the /64 that the vhosts share")
        elif scope and "prefix" in entry:
            self.problem("E100", f"{place}.prefix", "belongs to scope: site; remove it or change scope")
        return Vhosts(length or 80, variable, self.choice(entry, "kind", place, "auto pinned"), prefix)

    def quarantine(self, value: object) -> dict[str, int]:
        entry = self.mapping(value, "quarantine", "days vhost_days")
        defaults = {"days": 90, "vhost_days": 30}
        return {
            name: self.number(entry.get(name, default), f"quarantine.{name}", 0, 36500) or 0
            for name, default in defaults.items()
        }

    def silence(self, value: object) -> frozenset[str]:
        codes = self.texts(value, "silence")
        for number, code in enumerate(codes):
            if not re.fullmatch(r"W[0-9]{3}", code):
                self.problem("E100", f"silence[{number}]", f"{code!r} is not a warning; write one such as W301")
        return frozenset(codes)

    def problem(self, code: str, place: str, reason: str) -> None:
        self.problems.append(f"{code} {place}: {reason}")

    def guard(self, code: str, place: str, function: Callable[..., T], *values: object) -> T | None:
        """Return what FUNCTION makes of VALUES; its error becomes a problem of PLACE."""
        try:
            return function(*values)
        except DualStackError as error:
            self.problem(code, place, str(error))
            return None

    def mapping(self, value: object, place: str, keys: str | None) -> Mapping[str, Any]:
        """Return VALUE as a mapping of names; PLACE "" reports nothing, for it is a second look."""
        if not isinstance(value, Mapping):
            if place:
                self.problem("E100", place, f"expected a mapping, got {kind(value)}{_shown(value)}; write key: value")
            return {}
        for key in value if place else ():
            if not isinstance(key, str):
                self.problem("E100", place, f"key {key!r} is a {kind(key)}; put it in quotes")
            elif keys is not None and key not in keys.split():
                self.problem("E100", f"{place}.{key}", f"unknown key; known are {', '.join(sorted(keys.split()))}")
        return {key: entry for key, entry in value.items() if isinstance(key, str)}

    def each(self, value: object, place: str, read: Callable[[str, object, str], T | None]) -> dict[str, T]:
        found = {}
        for name, entry in self.mapping(value, place, None).items():
            if not NAME.fullmatch(name):
                self.problem("E100", f"{place}.{name}", "is not a name; use letters, digits, '_', '.' and '-'")
            found[name] = read(name, entry, f"{place}.{name}")
        return {name: entry for name, entry in found.items() if entry is not None}

    def items(self, value: object, place: str) -> Sequence[object]:
        if isinstance(value, (list, tuple)):
            return value
        self.problem("E100", place, f"expected a list, got {kind(value)}{_shown(value)}; write it as [a, b]")
        return []

    def text(self, value: object, place: str) -> str:
        if isinstance(value, str) and value:
            return value
        self.problem("E100", place, f"expected a string, got {kind(value)}{_shown(value)}; set it, in quotes")
        return ""

    def texts(self, value: object, place: str) -> tuple[str, ...]:
        values = [value] if isinstance(value, str) else self.items(value, place)
        return tuple(self.text(each, f"{place}[{number}]") for number, each in enumerate(values))

    def prefixes(self, value: object, place: str) -> tuple[Prefix, ...]:
        values = [value] if isinstance(value, str) else self.items(value, place)
        found = [self.guard("E101", f"{place}[{number}]", parse_prefix, each) for number, each in enumerate(values)]
        return tuple(prefix for prefix in found if prefix)

    def flag(self, entry: Mapping[str, Any], key: str, place: str, default: bool) -> bool:
        value = entry.get(key, default)
        if not isinstance(value, bool):
            self.problem("E100", _at(place, key), f"expected true or false, got {kind(value)}{_shown(value)}; use one")
        return bool(value)

    def choice(self, entry: Mapping[str, Any], key: str, place: str, words: str, required: bool = False) -> str:
        """Return the word at KEY; the first of WORDS is the default unless it is REQUIRED."""
        known = words.split()
        value = entry.get(key, None if required else known[0])
        if not isinstance(value, str) or value not in known:
            self.problem("E100", _at(place, key), f"{value!r} is not one of {', '.join(known)}; write one of them")
            return ""
        return value

    def number(self, value: object, place: str, low: int, high: int) -> int | None:
        if isinstance(value, int) and not isinstance(value, bool) and low <= value <= high:
            return value
        self.problem("E100", place, f"expected an integer {low} to {high}, got {kind(value)}{_shown(value)}; write one")
        return None

    def reference(self, value: object, place: str, names: set[str], where: str) -> str:
        if isinstance(value, str) and value in names:
            return value
        known = ", ".join(sorted(names)) or "none"
        self.problem("E100", place, f"{value!r} is not one of {where} ({known}); name one of them or add it there")
        return ""


def _parse_block(value: object) -> Prefix:
    """Return a block of suffixes such as ::ad:0/112."""
    try:
        return parse_prefix(value)
    except DualStackError as error:
        try:
            address, length = parse_interface(value)
        except DualStackError:
            raise error from None
        block = Prefix(address >> (128 - length) << (128 - length), length)
        raise DualStackError(f"{value} has host bits set; did you mean {_block_text(block)}?") from None


def _block_text(block: Prefix) -> str:
    return f"{suffix_text(block.value)}/{block.length}"


def _at(place: str, key: str) -> str:
    return f"{place}.{key}" if place else key


def _shown(value: object) -> str:
    return "" if value is None or isinstance(value, (Mapping, list)) else f" {value!r}"
