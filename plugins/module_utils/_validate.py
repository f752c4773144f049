# SPDX-License-Identifier: GPL-3.0-or-later
"""What makes a readable plan wrong (errors) or unwise (warnings)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import combinations, product

from ._addresses import (
    DOCUMENTATION,
    GLOBAL_UNICAST,
    IID_MASK,
    LINK_LOCAL,
    UNIQUE_LOCAL,
    Prefix,
    parse_address,
    reserved,
    special_purpose,
    suffix_text,
    text,
)
from ._plan import HostClass, Network, Plan

WORDS = ("beef", "cafe", "babe", "c0ffee", "face", "feed", "f00d", "12345", "abcde")


def problems(plan: Plan) -> list[str]:
    """Return the errors of PLAN that do not depend on its hosts."""
    checks = (_prefixes, _links, _overlaps, _pools, _blocks, _pins, _reserved_suffixes)
    return [problem for check in checks for problem in check(plan)]


def warnings(plan: Plan) -> list[str]:
    """Return what PLAN may do, but should not."""
    checks = (_sizes, _nibbles, _unique_local, _patterns)
    return [warning for check in checks for warning in check(plan)]


def advice(plan: Plan) -> list[str]:
    """Return what to think of once, when the plan is made: it is no fault of the plan."""
    checks = (_guessable, _neighbour_exhaustion, _single_address)
    return [line for check in checks for line in check(plan)]


def heard(plan: Plan, lines: Iterable[str]) -> list[str]:
    """Return those LINES, each once, whose code the plan does not silence."""
    return [line for line in dict.fromkeys(lines) if line.partition(" ")[0] not in plan.silence]


def _places(plan: Plan) -> Iterator[tuple[str, Prefix]]:
    for number, prefix in enumerate(plan.aggregate):
        yield f"aggregate[{number}]", prefix
    yield from _network_places(plan)
    for pool in plan.pools.values():
        yield f"pools.{pool.name}.prefix", pool.prefix
    yield from _vhost_places(plan)


def _vhost_places(plan: Plan) -> Iterator[tuple[str, Prefix]]:
    for entry in plan.classes.values():
        if entry.vhosts and entry.vhosts.prefix:
            yield f"classes.{entry.name}.delegate.vhosts.prefix", entry.vhosts.prefix


def _network_places(plan: Plan) -> Iterator[tuple[str, Prefix]]:
    for network in plan.networks.values():
        for number, prefix in enumerate(network.prefixes):
            yield f"networks.{network.name}.prefixes[{number}]", prefix


def _prefixes(plan: Plan) -> Iterator[str]:
    for place, prefix in _places(plan):
        special = special_purpose(prefix)
        if special:
            yield f"E102 {place}: {prefix} overlaps {special[0]} ({special[1]}); use a prefix that was assigned to you"
        elif not (GLOBAL_UNICAST.contains(prefix) or UNIQUE_LOCAL.contains(prefix)):
            yield f"E104 {place}: {prefix} is neither in 2000::/3 nor in fd00::/8 (RFC 4291, RFC 4193); use one that is"
        elif plan.production and any(block.overlaps(prefix) for block in DOCUMENTATION):
            reason = "is a documentation prefix (RFC 9637 section 4) and production is true"
            yield f"E103 {place}: {prefix} {reason}; use a prefix that was assigned to you"


def _links(plan: Plan) -> Iterator[str]:
    for place, prefix in _network_places(plan):
        if prefix.length not in (64, 127, 128):
            yield f"E204 {place}: {prefix} is not a /64 (RFC 4291 section 2.5.1); use /64, or /127 between routers"
    for network in plan.networks.values():
        if network.gateway:
            address = Prefix(parse_address(network.gateway), 128)
            if not any(prefix.contains(address) for prefix in (LINK_LOCAL, *network.prefixes)):
                place = f"networks.{network.name}.gateway"
                yield f"E105 {place}: {network.gateway} is neither link-local nor in the network; use fe80::1"


def _overlaps(plan: Plan) -> Iterator[str]:
    networks = list(_network_places(plan))
    pools = [(f"pools.{pool.name}.prefix", pool.prefix) for pool in plan.pools.values()]
    vhosts = list(_vhost_places(plan))
    for place, prefix in networks + pools + vhosts if plan.aggregate else ():
        if not any(whole.contains(prefix) for whole in plan.aggregate):
            known = ", ".join(str(whole) for whole in plan.aggregate)
            yield f"E105 {place}: {prefix} is outside the aggregate ({known}); correct it or add to aggregate"
    for pairs in (combinations(networks, 2), combinations(pools + vhosts, 2), product(networks, vhosts)):
        for (place, prefix), (other_place, other) in pairs:
            if prefix.overlaps(other):
                yield f"E105 {other_place} {other} overlaps {place} {prefix}; make them disjoint"


def _pools(plan: Plan) -> Iterator[str]:
    for pool in plan.pools.values():
        for network in plan.networks.values():
            for prefix in network.prefixes:
                if not pool.prefix.overlaps(prefix):
                    continue
                shift = 128 - pool.length
                index = (prefix.value - pool.prefix.value) >> shift if pool.prefix.contains(prefix) else None
                if index is not None and index in pool.reserved and prefix.length >= pool.length:
                    continue
                advice = "use a disjoint pool"
                if index is not None and prefix.length >= pool.length:
                    advice = f"reserve index {index:0{-(-pool.bits // 4)}x} or {advice}"
                yield f"E106 pools.{pool.name} {pool.prefix} contains on-link network {network.name} {prefix}; {advice}"
    for entry in plan.classes.values():
        if entry.delegate and entry.delegate.index == "same":
            pool = plan.pools[entry.delegate.pool]
            if pool.bits < entry.bits:
                needs = f"index: same needs {1 << entry.bits} /{pool.length}s"
                has = f"pools.{pool.name} ({pool.prefix}) has {1 << pool.bits}"
                yield f"E211 classes.{entry.name}: {needs}, {has}; use a shorter pool prefix or a smaller block"


def _blocks(plan: Plan) -> Iterator[str]:
    for entry in plan.classes.values():
        place = f"classes.{entry.name}.block"
        for prefix in plan.networks[entry.network].prefixes:
            if prefix.length > 64 or entry.block.last > IID_MASK:
                yield f"E105 {place} {_block(entry)} does not fit behind {prefix}; use 64 bits and a /64 network"
                break
    for one, other in combinations(plan.classes.values(), 2):
        if one.network == other.network and one.block.overlaps(other.block):
            clash = f"classes.{other.name}.block {_block(other)} overlaps classes.{one.name}.block {_block(one)}"
            yield f"E105 {clash}; give each class its own block"


def _pins(plan: Plan) -> Iterator[str]:
    for entry in plan.classes.values():
        network = plan.networks[entry.network]
        holders: dict[int, str] = {}
        for identity, index in entry.pins.items():
            first = holders.setdefault(index, identity)
            if first != identity:
                address = text(network.prefixes[0].value | entry.block.value | index)
                yield f"E208 {address} is claimed by {first} (pin {index:x}) and {identity} (same pin); change one"
            yield from unusable(entry, network, index, identity)


def unusable(entry: HostClass, network: Network, index: int, who: str) -> Iterator[str]:
    """Yield why the host or pin WHO of class ENTRY cannot have INDEX."""
    suffix = entry.block.value | index
    address = text(network.prefixes[0].value | suffix)
    found = reserved(suffix & IID_MASK)
    if found:
        yield f"{found[0]} {entry.name}/{who}: {address} is {found[1]}; choose another index"
    for each in network.reserved:
        if each.block.value <= suffix <= each.block.last:
            use = f" for {each.use}" if each.use else ""
            yield f"E208 {entry.name}/{who}: {address} is reserved{use} ({each.place}); choose another index"
    if network.gateway and any(prefix.value | suffix == parse_address(network.gateway) for prefix in network.prefixes):
        yield f"E208 {entry.name}/{who}: {address} is the gateway of network {network.name}; choose another index"


def has_unusable(entry: HostClass, network: Network) -> bool:
    """Tell whether any index of ENTRY is unusable: most classes are spared the look at every host."""
    if reserved(entry.block.value & IID_MASK, entry.block.last & IID_MASK):
        return True
    taken = [each.block for each in network.reserved]
    if network.gateway:
        taken.append(Prefix(parse_address(network.gateway) & IID_MASK, 128))
    return any(block.overlaps(entry.block) for block in taken)


def _reserved_suffixes(plan: Plan) -> Iterator[str]:
    for network in plan.networks.values():
        for each in network.reserved:
            if each.block.last > IID_MASK:
                reason = f"{suffix_text(each.block.value)}/{each.block.length} is not a suffix of 64 bits"
                yield f"E105 {each.place}.suffix: {reason}; write it as ::1 or ::d:0/112"


def _sizes(plan: Plan) -> Iterator[str]:
    for number, prefix in enumerate(plan.aggregate):
        if prefix.length > 56:
            yield f"W307 aggregate[{number}]: {prefix} is smaller than a /56 (RFC 6177); ask for a /48"
    for place, prefix in _network_places(plan):
        if prefix.length == 127 and (prefix.value & IID_MASK == 0 or prefix.last & IID_MASK >= 0xFFFFFFFFFFFFFF80):
            yield f"W205 {place}: {prefix} numbers an anycast interface identifier (RFC 6164 section 6); choose another"


def _nibbles(plan: Plan) -> Iterator[str]:
    reason = "is not on a nibble, so digits and ip6.arpa zones do not follow it"
    lengths = [(place, prefix.length) for place, prefix in _places(plan) if prefix.length < 127]
    lengths += [(f"pools.{pool.name}.length", pool.length) for pool in plan.pools.values()]
    lengths += [(f"classes.{entry.name}.block", entry.block.length) for entry in plan.classes.values()]
    for place, length in lengths:
        if length % 4:
            yield f"W308 {place}: /{length} {reason}; use a multiple of 4"
    for entry in plan.classes.values():
        for each in entry.fields:
            if each.bits % 4:
                place = f"classes.{entry.name}.fields"
                yield f"W308 {place}: field {each.name} of {each.bits} bits {reason}; use a multiple of 4"


def _unique_local(plan: Plan) -> Iterator[str]:
    for place, prefix in _places(plan):
        if UNIQUE_LOCAL.contains(prefix):
            digits = f"{prefix.value >> 80:012x}"[2:]
            if len(set(digits)) < 4 or any(word in digits for word in WORDS):
                yield f"W309 {place}: the Global ID of {prefix} is not random (RFC 4193 section 3.2.1); generate one"
    for network in plan.networks.values():
        if all(UNIQUE_LOCAL.contains(prefix) for prefix in network.prefixes):
            reason = "has only unique local prefixes: dual-stack hosts prefer IPv4 (RFC 6724 section 2.1)"
            yield f"W310 networks.{network.name}: {reason}; add a global one"


def _patterns(plan: Plan) -> Iterator[str]:
    for entry in plan.classes.values():
        first = entry.block.value & IID_MASK
        eui64 = entry.bits <= 24 and (first >> 24) & 0xFFFF == 0xFFFE
        if eui64 or (entry.bits <= 32 and first >> 32 in (0x5EFE, 0x02005EFE)):
            name = "EUI-64" if eui64 else "ISATAP"
            yield f"W312 classes.{entry.name}.block: {_block(entry)} looks like {name} identifiers; choose another"


def _guessable(plan: Plan) -> Iterator[str]:
    names = [each.name for each in plan.classes.values() if each.bits <= 32 or each.kind != "auto"]
    if names:
        reason = f"a scan can guess the suffixes of {', '.join(names)} (RFC 9099 section 2.1.4)"
        yield f"W301 classes: {reason}; filter by class_prefix, then write silence: [W301]"


def _neighbour_exhaustion(plan: Plan) -> Iterator[str]:
    for network in plan.networks.values():
        blocks = [each.block for each in plan.classes.values() if each.network == network.name]
        if network.on_link and blocks:
            allowed = ", ".join(
                str(Prefix(prefix.value | block.value, block.length)) for prefix in network.prefixes for block in blocks
            )
            advice = f"on the routers allow {allowed} and drop the rest of {', '.join(map(str, network.prefixes))}"
            yield f"W302 networks.{network.name}: a scan fills the routers' neighbour caches (RFC 6583); {advice}"


def _single_address(plan: Plan) -> Iterator[str]:
    names = [each.name for each in plan.classes.values() if each.delegate is None and each.gateway]
    if names:
        reason = f"hosts of {', '.join(names)} have one address and no prefix of their own (RFC 7934 section 8)"
        yield f"W314 classes: {reason}; give the classes a delegate, or write silence: [W314]"


def _block(entry: HostClass) -> str:
    return f"{suffix_text(entry.block.value)}/{entry.block.length}"
