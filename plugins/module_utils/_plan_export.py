# SPDX-License-Identifier: GPL-3.0-or-later
"""The numbered fleet in the words of other tools: a table, reverse zones, an IPAM's import."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ._addresses import BITS, Prefix, kind, parse_address, parse_prefix, reverse_name
from ._dns import LABEL
from ._errors import DualStackError, InputError

COLUMNS = ("kind", "prefix", "name", "host", "class", "index", "network", "gateway", "next_hop", "ptr")
DESCRIPTION = 200  # NetBox's limit


@dataclass(frozen=True)
class Assignment:
    """One prefix that somebody holds: an address (/128), a delegated prefix or that of a vhost."""

    kind: str
    prefix: Prefix
    name: str
    host: str
    host_class: str
    index: str
    network: str
    gateway: str
    next_hop: str

    @property
    def service_address(self) -> int:
        """The address that has a name: of a prefix the first behind its Subnet-Router anycast address."""
        return self.prefix.value + (self.kind != "address")


def records_by_name(records: object) -> dict[str, Mapping[str, Any]]:
    """Return name to record of the plan; RECORDS is such a mapping, or a list of records with the key name.

    A host without record (it is outside the plan) is left out.
    """
    problems = []
    pairs: list[tuple[object, object]] = []
    if isinstance(records, Mapping):
        pairs = list(records.items())
    elif isinstance(records, (list, tuple)):
        for number, record in enumerate(records):
            name = record.get("name") if isinstance(record, Mapping) else None
            if not isinstance(name, str):
                problems.append(f"E100 records[{number}]: {kind(record)} has no key name; give each record its host's")
            pairs.append((name, record))
    else:
        problems.append(f"E100 records: expected a mapping or a list, got {kind(records)}; give name: record")
    found: dict[str, Mapping[str, Any]] = {}
    for name, record in pairs:
        if isinstance(record, Mapping) and isinstance(name, str):
            if name in found:
                problems.append(f"E100 records.{name}: appears twice; give each host one record")
            elif record:
                found[name] = record
        elif record and not isinstance(record, Mapping):
            problems.append(f"E100 records.{name}: expected a record of the plan, got {kind(record)}; use dualstack")
    if problems:
        raise InputError(problems)
    return found


def assignments(records: object) -> list[Assignment]:
    """Return all that the hosts hold, by address."""
    found: list[Assignment] = []
    problems = []
    for name, record in records_by_name(records).items():
        try:
            found += _of_host(name, record)
        except DualStackError as error:
            problems.append(f"E100 records.{name}: {error}")
    if problems:
        raise InputError(problems)
    return sorted(found, key=lambda each: (each.prefix.value, each.prefix.length, each.host))


def _of_host(name: str, record: Mapping[str, Any]) -> Iterator[Assignment]:
    common = (name, str(record.get("class", "")), str(record.get("index", "")))
    links = record.get("networks", [record])
    if not isinstance(links, (list, tuple)) or not all(isinstance(link, Mapping) for link in links):
        raise DualStackError(f"networks is a {kind(links)}; it is a list of mappings where a network has prefixes")
    for link in links:
        address = Prefix(parse_address(link.get("address")), BITS)
        yield Assignment(
            "address", address, name, *common, str(link.get("network", "")), str(link.get("gateway", "")), ""
        )
    next_hop = str(record.get("next_hop") or record["address"])
    if record.get("delegated_prefix"):
        yield Assignment("delegated", parse_prefix(record["delegated_prefix"]), name, *common, "", "", next_hop)
    vhosts = record.get("vhosts") or {}
    if not isinstance(vhosts, Mapping):
        raise DualStackError(f"vhosts is a {kind(vhosts)}; it is a mapping of name to prefix")
    for vhost, prefix in vhosts.items():
        yield Assignment("vhost", parse_prefix(prefix), str(vhost), *common, "", "", next_hop)


def export(
    records: object, form: str, *, plan: Mapping[str, Any] | None = None, domain: str = "", zone: str = "", ttl: int = 0
) -> str:
    """Return RECORDS in FORM (csv, bind, netbox).

    DOMAIN completes names without a dot, ZONE (a prefix) limits the reverse zone, TTL (0: the zone's own) is that of
    its lines, PLAN is the summary (``dualstack_plan``) that adds networks, pools and classes to NetBox's prefixes.
    """
    forms: dict[str, Callable[[], str]] = {
        "csv": lambda: _csv(assignments(records)),
        "bind": lambda: _bind(assignments(records), domain, zone, ttl),
        "netbox": lambda: _netbox(assignments(records), domain, plan or {}),
    }
    if form not in forms:
        raise DualStackError(f"{form!r} is not a format; use one of {', '.join(forms)}")
    return forms[form]()


def _csv(found: Iterable[Assignment]) -> str:
    stream = io.StringIO()
    table = csv.writer(stream, lineterminator="\n")
    table.writerow(COLUMNS)
    problems = []
    for each in found:
        # A spreadsheet takes such a cell for a formula and may run it.
        problems += [
            f"E100 records.{each.host}: the name {name!r} would be a formula in a spreadsheet; rename it"
            for name in (each.name, each.host)
            if name.startswith(("=", "+", "-", "@", "\t", "\r"))
        ]
        row = (each.kind, each.prefix, each.name, each.host, each.host_class, each.index)
        ptr = reverse_name(each.service_address)
        table.writerow((*row, each.network, each.gateway, each.next_hop, ptr))
    if problems:
        raise InputError(dict.fromkeys(problems))
    return stream.getvalue()


def _bind(found: Iterable[Assignment], domain: str, zone: str, ttl: int) -> str:
    """Owners are absolute: a line means the same behind any $ORIGIN, and one address is one line of a diff."""
    within = parse_prefix(zone) if zone else Prefix(0, 0)
    reverse_name(within.value, within.length)  # a zone ends on a nibble
    time = f" {ttl}" if ttl else ""
    lines, problems = [], []
    for each in found:
        address = each.service_address
        if not within.contains(Prefix(address, BITS)):
            continue
        name = _domain_name(each.name, domain)
        if name.count(".") < 2:
            reason = f"{each.name!r} is not a whole domain name; name it so, or set domain"
            problems.append(f"E100 records.{each.host}: {reason}")
        lines.append(f"{reverse_name(address)}.{time} IN PTR {name}\n")
    if problems:
        raise InputError(dict.fromkeys(problems))
    return "".join(lines)


def _domain_name(name: str, domain: str) -> str:
    """Return NAME as a domain name with its last dot, or "" when it cannot be one."""
    whole = name if "." in name or not domain else f"{name}.{domain}"
    labels = whole.rstrip(".").lower().split(".")
    return ".".join([*labels, ""]) if len(whole) < 254 and all(map(LABEL.fullmatch, labels)) else ""


def _netbox(found: Sequence[Assignment], domain: str, plan: Mapping[str, Any]) -> str:
    addresses = []
    try:
        prefixes, kept = [*_plan_prefixes(plan)], [*_plan_reserved(plan)]
    except (AttributeError, DualStackError, KeyError, TypeError, ValueError) as error:
        raise DualStackError(f"E100 plan: is not the host variable dualstack_plan ({error!r}); pass that") from error
    for each in found:
        if each.kind == "address":
            name = _domain_name(each.name, domain).rstrip(".")
            entry = _entry("address", str(each.prefix), "active", f"{each.host}, class {each.host_class}")
            addresses.append({**entry, "dns_name": name})
        else:
            what = f"delegated to {each.host}" if each.kind == "delegated" else f"vhost {each.name} of {each.host}"
            prefixes.append(_entry("prefix", str(each.prefix), "active", f"{what}, next hop {each.next_hop}"))
    for prefix, what in kept:
        if prefix.length == BITS:
            addresses.append({**_entry("address", str(prefix), "reserved", what), "dns_name": ""})
        else:
            prefixes.append(_entry("prefix", str(prefix), "reserved", what))
    result = {"prefixes": sorted(prefixes, key=_by_address), "ip_addresses": sorted(addresses, key=_by_address)}
    return json.dumps(result, indent=1) + "\n"


def _by_address(entry: Mapping[str, str]) -> Prefix:
    return parse_prefix(entry.get("prefix") or entry["address"])


def _entry(key: str, value: str, status: str, description: str) -> dict[str, str]:
    return {key: value, "status": status, "description": description[:DESCRIPTION]}


def _plan_prefixes(plan: Mapping[str, Any]) -> Iterator[dict[str, str]]:
    for name, network in plan.get("networks", {}).items():
        for prefix in network["prefixes"]:
            yield _entry("prefix", prefix, "active", f"network {name}")
    for name, pool in plan.get("pools", {}).items():
        yield _entry("prefix", pool["prefix"], "container", f"pool {name}")
    for name, entry in plan.get("classes", {}).items():
        for prefix in entry["prefixes"]:
            yield _entry("prefix", prefix, "active", f"class {name} of network {entry['network']}")


def _plan_reserved(plan: Mapping[str, Any]) -> Iterator[tuple[Prefix, str]]:
    for network in plan.get("networks", {}).values():
        for taken in network.get("reserved", []):
            suffix = parse_prefix(taken["suffix"])
            for prefix in map(parse_prefix, network["prefixes"]):
                yield Prefix(prefix.value | suffix.value, suffix.length), str(taken.get("for") or "reserved")
    for pool in plan.get("pools", {}).values():
        for index in pool.get("reserved", []):
            yield parse_prefix(pool["prefix"]).subnet(pool["length"], int(index, 16)), "reserved"
