# SPDX-License-Identifier: GPL-3.0-or-later
"""The routes of an edge router that is no Linux host, in the form that its network resource module takes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ._errors import InputError
from ._routes import Route, address_text, is_link_local, parse_routes, prefix_text

Config = list[dict[str, object]]


def resource_config(records: Iterable[Mapping[str, object]], system: str) -> Config:
    """Return RECORDS, as edge_routes takes them, as the ``config`` of SYSTEM's module, or raise InputError."""
    if system not in SYSTEMS:
        raise InputError([f"system {system!r} is not known: use {' or '.join(sorted(SYSTEMS))}"])
    routes = parse_routes((f"route {number}", record) for number, record in enumerate(records, 1))
    problems, found = [], []
    for route in sorted(routes):
        try:
            found.append(SYSTEMS[system](route))
        except ValueError as error:
            problems.append(f"{route}: {error}")
    if problems:
        raise InputError(problems)
    return [{"address_families": [{"afi": "ipv6", "routes": found}]}]


def _vyos(route: Route) -> dict[str, object]:
    dest = prefix_text(route.dest, route.length) if route.length else "::/0"
    if route.type == "unreachable":
        return {"dest": dest, "blackhole_config": {"type": "blackhole"}}
    _check(route)
    if not route.via:
        return {"dest": dest, "next_hops": [{"interface": route.dev}]}
    # With an interface beside it the module makes two next hops of one.
    if is_link_local(route.via):
        raise ValueError("vyos_static_routes binds no next hop to an interface: name the machine's global address")
    return {"dest": dest, "next_hops": [{"forward_router_address": address_text(route.via)}]}


def _ios(route: Route) -> dict[str, object]:
    # IOS shows addresses in capitals, and its module compares letters.
    dest = (prefix_text(route.dest, route.length) if route.length else "::/0").upper()
    if route.type == "unreachable":
        return {"dest": dest, "next_hops": [{"interface": "Null0"}]}
    _check(route)
    hop = {"interface": route.dev} if route.dev else {}
    return {"dest": dest, "next_hops": [{**hop, **_address(route)}]}


def _address(route: Route) -> dict[str, str]:
    return {"forward_router_address": address_text(route.via).upper()} if route.via else {}


def _check(route: Route) -> None:
    if route.type != "unicast":
        raise ValueError(f"a {route.type} route is for a Linux host only: leave it out")


SYSTEMS = {"vyos": _vyos, "ios": _ios}
