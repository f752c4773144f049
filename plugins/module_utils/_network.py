# SPDX-License-Identifier: GPL-3.0-or-later
"""A host's IPv6 addresses and routes as values: what is wanted, and the commands there and back."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from ._errors import DualStackError, InputError
from ._routes import address_text, parse_address, parse_prefix, prefix_text
from ._rtnetlink import UNICAST, UNREACHABLE, KernelAddress, KernelRoute

METRIC = 1024
# rtnetlink(7)'s number of router advertisements, and how long their routes last by default (RFC 4861 section 6.2.1).
_RA, ROUTER_LIFETIME = 9, 1800
_ADDRESS_KEYS, _ROUTE_KEYS = {"address", "device", "deprecated"}, {"dest", "via", "type", "metric", "device"}


@dataclass(frozen=True, order=True)
class Address:
    """One address with its prefix length, on one interface; a DEPRECATED one is no source of new connections."""

    device: str
    value: bytes
    length: int
    deprecated: bool = False

    def __str__(self) -> str:
        return f"{address_text(self.value)}/{self.length}"

    def command(self, action: str) -> list[str]:
        """Return the ip(8) command that does ACTION with the address."""
        words = ["ip", "-6", "address", action, str(self), "dev", self.device]
        return words + (["preferred_lft", "0"] if self.deprecated and action == "replace" else [])


@dataclass(frozen=True, order=True)
class HostRoute:
    """One route of a host; the device of an unreachable one is empty."""

    dest: bytes
    length: int
    via: bytes
    device: str
    type: str
    metric: int

    def __str__(self) -> str:
        return " ".join(self.words())

    def words(self) -> list[str]:
        """Return the route in ip(8)'s words."""
        words = ["unreachable"] if self.type == "unreachable" else []
        words.append(prefix_text(self.dest, self.length))
        words += ["via", address_text(self.via)] if self.via else []
        words += ["dev", self.device] if self.device else []
        return [*words, "metric", str(self.metric)]

    def command(self, action: str) -> list[str]:
        """Return the ip(8) command that does ACTION with the route."""
        return ["ip", "-6", "route", action, *self.words()]


@dataclass(frozen=True)
class Wanted:
    """What one interface shall have, including addresses that live on lo for it.

    RAISED is in the record of what is ours: the interface was down before.
    """

    device: str
    addresses: tuple[Address, ...] = ()
    routes: tuple[HostRoute, ...] = ()
    raised: bool = False


@dataclass(frozen=True)
class Observed:
    """What the host has now; DOWN are the interfaces that nobody has switched on."""

    indexes: Mapping[str, int]
    addresses: Sequence[KernelAddress]
    routes: Sequence[KernelRoute]
    down: Collection[str] = ()


@dataclass(frozen=True)
class Steps:
    """Commands in order, and those that undo them, in their order."""

    commands: tuple[list[str], ...] = ()
    undo: tuple[list[str], ...] = ()


def parse_wanted(
    device: str,
    addresses: Iterable[Mapping[str, object]],
    routes: Iterable[Mapping[str, object]],
    devices: Collection[str],
) -> list[Wanted]:
    """Return the wanted state by interface, DEVICE first, or raise InputError with every problem.

    DEVICES are the host's interfaces. Addresses on lo and unreachable routes belong to DEVICE.
    """
    problems: list[str] = []
    if device not in devices:
        problems.append(f"device {device} is not on this host: it has {', '.join(sorted(devices))}")
    found_addresses: dict[bytes, Address] = {}
    for number, record in enumerate(addresses):
        try:
            address = _parse_address_record(record, device, devices)
            earlier = found_addresses.setdefault(address.value, address)
            if earlier != address:
                raise ValueError(f"{address} on {address.device} contradicts {earlier} on {earlier.device}: keep one")
        except ValueError as error:
            problems.append(f"addresses[{number}]: {error}")
    found_routes: dict[tuple[bytes, int, int], HostRoute] = {}
    for number, record in enumerate(routes):
        try:
            route = _parse_route_record(record, device, devices)
            if route.via in found_addresses:
                raise ValueError(f"via {address_text(route.via)} is an address of this host itself: name the router")
            previous = found_routes.setdefault((route.dest, route.length, route.metric), route)
            if previous != route:
                raise ValueError(f"{route} contradicts {previous}: keep one, or give them different metrics")
        except ValueError as error:
            problems.append(f"routes[{number}]: {error}")
    if problems:
        raise InputError(problems)
    # A next hop is reachable only after the route to its link.
    ordered = sorted(found_routes.values(), key=lambda route: bool(route.via))
    named = {each.device for each in found_addresses.values()} | {each.device for each in ordered}
    names = [device, *sorted(named - {device, "lo", ""})]
    return [
        Wanted(
            name,
            tuple(each for each in found_addresses.values() if _home(each.device, device) == name),
            tuple(each for each in ordered if _home(each.device, device) == name),
        )
        for name in names
    ]


def _home(name: str, device: str) -> str:
    return device if name in ("", "lo") else name


def _given(record: Mapping[str, object], known: Collection[str]) -> dict[str, object]:
    given = {name: value for name, value in record.items() if value not in (None, "")}
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise ValueError(f"unknown key {', '.join(unknown)}: known are {', '.join(sorted(known))}")
    return given


def _parse_address_record(record: Mapping[str, object], device: str, devices: Collection[str]) -> Address:
    given = _given(record, _ADDRESS_KEYS)
    text, on = str(given.get("address", "")), str(given.get("device", device))
    host, _slash, digits = text.partition("/")
    try:
        value = parse_address(host)
    except ValueError as error:
        raise ValueError(f"address {text!r} {error}") from None
    if not (digits.isascii() and digits.isdigit() and 1 <= int(digits) <= 128):
        raise ValueError(f"address {text} needs a prefix length from 1 to 128: write, for example, {host}/128")
    length = int(digits)
    if value[0] == 0xFF or value[:2] == b"\xfe\x80" or int.from_bytes(value, "big") < 2:
        raise ValueError(f"address {text} is not a unicast address of the plan: give a global one")
    if length < 127 and parse_prefix_of(value, length) == value:
        raise ValueError(
            f"address {text} is the subnet-router anycast address (RFC 4291 section 2.6.1): choose another"
        )
    if on not in devices and on != device:
        raise ValueError(f"address {text} is for device {on}, which is not on this host")
    return Address(on, value, length, given.get("deprecated") is True)


def parse_prefix_of(value: bytes, length: int) -> bytes:
    """Return the packed network of a packed address."""
    kept = int.from_bytes(value, "big") >> (128 - length) << (128 - length)
    return kept.to_bytes(16, "big")


def _parse_route_record(record: Mapping[str, object], device: str, devices: Collection[str]) -> HostRoute:
    given = _given(record, _ROUTE_KEYS)
    if "dest" not in given:
        raise ValueError("dest is missing: name a prefix, or default")
    text, kind = str(given["dest"]), str(given.get("type", "unicast"))
    try:
        dest, length = parse_prefix(text)
    except ValueError as error:
        raise ValueError(f"dest {text} {error}") from None
    via = b""
    if "via" in given:
        try:
            via = parse_address(str(given["via"]))
        except ValueError as error:
            raise ValueError(f"via {given['via']} {error}") from None
    try:
        metric = int(str(given.get("metric", METRIC)))
    except ValueError:
        metric = 0
    if not 0 < metric < 1 << 32:
        raise ValueError(f"metric {given.get('metric')!r} must be a number from 1 to 4294967295")
    if kind not in ("unicast", "unreachable"):
        raise ValueError(f"type {kind!r} is not known: use unicast or unreachable")
    if kind == "unreachable":
        if via:
            raise ValueError(f"an unreachable route ({text}) has no via: remove it")
        return HostRoute(dest, length, b"", "", kind, metric)
    if not length and not via:
        raise ValueError("the default route needs a via: name the router")
    on = str(given.get("device", device))
    if on == "lo" or (on not in devices and on != device):
        raise ValueError(f"route {text} is for device {on}, which is not an interface with a link on this host")
    return HostRoute(dest, length, via, on, kind, metric)


def plan_live(wanted: Wanted, observed: Observed, owned: Wanted) -> Steps:
    """Return what makes WANTED true in the kernel and removes what only OWNED, our last change, had; or raise."""
    commands, undo, problems = _plan_addresses(wanted, observed, owned)
    for route in wanted.routes:
        same = _find_routes(route, observed)
        if len(same) == 1 and _is(route, same[0], observed):
            continue
        advertised = len(same) == 1 and _is_advertised(route, same[0], observed)
        old = [each for each in owned.routes if _key(each) == _key(route) and any(_is(each, s, observed) for s in same)]
        if same and not advertised and not (old and len(same) == 1):
            rogue = [address_text(hop[0]) for each in same if each.protocol == _RA for hop in each.gateways]
            from_ra = f" (from the router advertisements of {', '.join(rogue)})" if rogue else ""
            problems.append(
                f"another route to {prefix_text(route.dest, route.length)} of metric {route.metric} exists{from_ra}: "
                "remove it, or correct the plan"
            )
            continue
        commands.append(route.command("replace"))
        # ip(8) puts a reject route beside a unicast one; so the old one goes by name.
        commands += [old[0].command("del")] if old and old[0].type != route.type else []
        undo += _way_back(route, old, advertised)
    if problems:
        raise DualStackError("\n".join(problems), problems=problems)
    gone, back = _plan_removal(wanted, observed, owned)
    return Steps((*commands, *gone), tuple(reversed([*undo, *back])))


def _plan_removal(wanted: Wanted, observed: Observed, owned: Wanted) -> tuple[list[list[str]], list[list[str]]]:
    """Return the commands that remove what of OWNED is not WANTED any more, and those that undo them."""
    commands: list[list[str]] = []
    undo: list[list[str]] = []
    keep_keys, keep = {_key(route) for route in wanted.routes}, {(a.device, a.value) for a in wanted.addresses}
    for route in owned.routes:
        if _key(route) not in keep_keys and any(_is(route, here, observed) for here in _find_routes(route, observed)):
            commands.append(route.command("del"))
            undo.append(route.command("replace"))
    for address in owned.addresses:
        if (address.device, address.value) not in keep and _find_address(address, observed):
            commands.append(address.command("del"))
            undo.append(address.command("replace"))
    if owned.raised and not (wanted.addresses or wanted.routes):
        commands.append(link_command(owned.device, "down"))
        undo.append(link_command(owned.device, "up"))
    return commands, undo


def _plan_addresses(
    wanted: Wanted, observed: Observed, owned: Wanted
) -> tuple[list[list[str]], list[list[str]], list[str]]:
    """Return the commands for a link that is up and has the addresses, those that undo them, and what is in the way."""
    commands: list[list[str]] = []
    undo: list[list[str]] = []
    problems: list[str] = []
    if wanted.device in observed.down and (wanted.addresses or wanted.routes):
        commands.append(link_command(wanted.device, "up"))
        undo.append(link_command(wanted.device, "down"))
    for address in wanted.addresses:
        here = _find_address(address, observed)
        if here is None:
            commands.append(address.command("replace"))
            undo.append(address.command("del"))
        elif here.length != address.length and not _fits(address, here.length, wanted, owned):
            problems.append(
                f"{address_text(address.value)} is on {address.device} with /{here.length}, wanted is /"
                f"{address.length}: remove it, or correct the plan"
            )
        elif "dadfailed" in here.flags:
            # Of an earlier start: the other host may be gone by now, and the kernel asks only once.
            commands += [address.command("del"), address.command("replace")]
        elif address.deprecated != ("deprecated" in here.flags):
            commands.append(address.command("replace"))
            undo.append(replace(address, deprecated=not address.deprecated).command("replace"))
    return commands, undo, problems


def _fits(address: Address, length: int, wanted: Wanted, owned: Wanted) -> bool:
    """Whether a /LENGTH of somebody else's is what is wanted: the address, and a route to its network on the link."""
    network = parse_prefix_of(address.value, length)
    on_link = any((route.dest, route.length, route.via) == (network, length, b"") for route in wanted.routes)
    return on_link and address.value not in {each.value for each in owned.addresses}


def link_command(device: str, state: str) -> list[str]:
    """Return the ip(8) command that switches DEVICE ``up`` or ``down``."""
    return ["ip", "link", "set", "dev", device, state]


def _way_back(route: HostRoute, old: Sequence[HostRoute], advertised: bool) -> list[list[str]]:
    """Return the commands that put back what ROUTE replaces, the last first."""
    if advertised:
        return [[*route.command("replace"), "proto", "ra", "expires", str(ROUTER_LIFETIME)]]
    if not old:
        return [route.command("del")]
    mixed = old[0].type != route.type
    return [*([route.command("del")] if mixed else []), old[0].command("replace")]


def missing(wanted: Wanted, observed: Observed) -> list[str]:
    """Return what of WANTED the kernel lacks or has not finished checking; a duplicate raises at once."""
    problems = []
    for address in wanted.addresses:
        here = _find_address(address, observed)
        if here is None:
            problems.append(f"{address} is not on {address.device}")
        elif "dadfailed" in here.flags:
            raise DualStackError(_duplicate(address), address=address_text(address.value))
        elif "tentative" in here.flags:
            problems.append(f"{address} on {address.device} is still tentative")
    for route in wanted.routes:
        if not any(_is(route, here, observed) for here in _find_routes(route, observed)):
            problems.append(f"the route {route} is not there")
    return problems


def _duplicate(address: Address) -> str:
    return (
        f"{address_text(address.value)} on {address.device} is a duplicate: another host on the link answers for it "
        "(duplicate address detection, RFC 4862 section 5.4): find that host, or change the plan"
    )


def _find_address(address: Address, observed: Observed) -> KernelAddress | None:
    index = observed.indexes.get(address.device)
    return next((a for a in observed.addresses if a.index == index and a.address == address.value), None)


def _key(route: HostRoute) -> tuple[bytes, int, int]:
    return route.dest, route.length, route.metric


def _find_routes(route: HostRoute, observed: Observed) -> list[KernelRoute]:
    """Routes that the kernel would replace: same destination and metric, as far as the interface goes."""
    index = observed.indexes.get(route.device)
    return [
        here
        for here in observed.routes
        if (here.dest, here.length, here.metric) == _key(route)
        # A device route beside those of other interfaces is no contradiction: each link has its own.
        and (route.via or not index or here.kind != UNICAST or any(hop[1] == index for hop in here.gateways))
    ]


def _is(route: HostRoute, here: KernelRoute, observed: Observed) -> bool:
    return here.protocol != _RA and _leads_alike(route, here, observed)


def _is_advertised(route: HostRoute, here: KernelRoute, observed: Observed) -> bool:
    return here.protocol == _RA and _leads_alike(route, here, observed)


def _leads_alike(route: HostRoute, here: KernelRoute, observed: Observed) -> bool:
    if route.type == "unreachable":
        return here.kind == UNREACHABLE
    return here.kind == UNICAST and here.gateways == ((route.via, observed.indexes.get(route.device, 0)),)


def ours(wanted: Wanted, owned: Wanted, steps: Steps) -> Wanted:
    """Return what of WANTED is ours once STEPS are done: what they make, and what OWNED has. The rest was there."""
    made = [tuple(words) for words in steps.commands]

    def is_ours(each: Address | HostRoute) -> bool:
        return each in owned.addresses or each in owned.routes or tuple(each.command("replace")) in made

    raised = owned.raised or tuple(link_command(wanted.device, "up")) in made
    addresses, routes = tuple(filter(is_ours, wanted.addresses)), tuple(filter(is_ours, wanted.routes))
    return Wanted(wanted.device, addresses, routes, raised)


def to_record(wanted: Wanted) -> dict[str, object]:
    """Return WANTED in the form of the module's options, for the host's record."""
    addresses = [
        {"address": str(each), "device": each.device, **({"deprecated": True} if each.deprecated else {})}
        for each in wanted.addresses
    ]
    record: dict[str, object] = {"addresses": addresses, "routes": [route_record(route) for route in wanted.routes]}
    return {**record, "raised": True} if wanted.raised else record


def route_record(route: HostRoute) -> dict[str, object]:
    """Return a route in the form of the module's option."""
    record: dict[str, object] = {
        "dest": prefix_text(route.dest, route.length),
        "type": route.type,
        "metric": route.metric,
    }
    record.update({"via": address_text(route.via)} if route.via else {})
    record.update({"device": route.device} if route.device else {})
    return record
