# SPDX-License-Identifier: GPL-3.0-or-later
"""How far the fleet is: every host counts, those that cannot be converted or reached too."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ._errors import InputError
from ._state import ENDS, STEPS

UNREACHABLE, UNKNOWN = "unreachable", "unknown"
ORDER = (*reversed(STEPS), *reversed(ENDS), UNREACHABLE, UNKNOWN)
FAMILIES = ("ipv4", "ipv6")


def summarise(names: Iterable[str], contacts: Iterable[Any], plans: Iterable[Any]) -> dict[str, Any]:
    """Return the report on the hosts NAMES.

    CONTACTS are what reading each host's facts returned (empty: it was not asked), PLANS their records of the plan.
    """
    hosts = [_host(*row) for row in rows("plans", names, contacts, plans)]
    counts = {state: sum(host["state"] == state for host in hosts) for state in ORDER}
    return {
        "total": len(hosts),
        "states": [
            {"state": state, "count": count, "percent": round(100 * count / len(hosts), 1)}
            for state, count in counts.items()
            if count
        ],
        "services": _services(hosts),
        "as_of": max((host["time"] for host in hosts), default=""),
        "hosts": hosts,
    }


def rows(third: str, *columns: Iterable[Any]) -> list[tuple[Any, ...]]:
    """Return one row for each host, by name, of three COLUMNS: names, contacts and what THIRD says it is."""
    listed = [list(column) for column in columns]
    if len({len(column) for column in listed}) > 1:
        names, contacts, others = map(len, listed)
        message = f"{names} names, {contacts} contacts and {others} {third}; give one of each for every host"
        raise InputError([message])
    return sorted(zip(*listed), key=lambda row: str(row[0]))


def _host(name: object, contact: object, plan: object) -> dict[str, Any]:
    plan = plan if isinstance(plan, Mapping) else {}
    record, reason = record_of(contact if isinstance(contact, Mapping) else {})
    evidence = record.get("evidence")
    evidence = evidence if isinstance(evidence, Mapping) else {}
    results = evidence.get("results")
    results = results if isinstance(results, list) else []
    return {
        "name": str(name),
        "class": str(plan.get("class", "")),
        "address": str(plan.get("address", "")),
        "delegated_prefix": str(plan.get("delegated_prefix", "")),
        "state": str(record["state"]),
        "reason": str(record.get("reason") or reason),
        "owner": str(record.get("owner") or ""),
        "time": str(record.get("time") or ""),
        "proven": str(evidence.get("time") or ""),
        "services": [_service(result) for result in results if isinstance(result, Mapping)],
    }


def record_of(contact: Mapping[str, Any]) -> tuple[Mapping[str, Any], str]:
    """Return the state record in CONTACT, and the reason where there is none."""
    if not contact:
        return {"state": UNKNOWN}, "not asked in this run: outside its limit, or lost before the end"
    if contact.get("unreachable"):
        return {"state": UNREACHABLE}, _first_line(contact.get("msg", ""))
    facts = contact.get("ansible_facts", {})
    record = (facts.get("ansible_local") or {}).get("dualstack")
    if isinstance(record, Mapping) and record.get("state") in ORDER:
        return record, ""
    if record:
        return {"state": UNKNOWN}, f"the fact file is not a state record: {_first_line(record)}"
    return {"state": UNKNOWN}, _first_line(contact.get("msg") or "not audited yet")


def _first_line(message: object) -> str:
    return (str(message).splitlines() or [""])[0].rstrip(": ")


def _service(result: Mapping[str, Any]) -> dict[str, Any]:
    port = result.get("port")
    return {
        "protocol": str(result.get("protocol", "")),
        "port": port if isinstance(port, int) else None,
        **{family: bool(result.get(family)) for family in FAMILIES},
    }


def _services(hosts: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return for each protocol how many services answered over each family, of how many that were asked."""
    totals: dict[str, dict[str, Any]] = {}
    for host in hosts:
        for service in host["services"]:
            name = service["protocol"]
            total = totals.setdefault(name, {"protocol": name, "asked": 0, **dict.fromkeys(FAMILIES, 0)})
            total["asked"] += 1
            for family in FAMILIES:
                total[family] += service[family]
    return [totals[name] for name in sorted(totals)]
