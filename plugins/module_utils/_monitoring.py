# SPDX-License-Identifier: GPL-3.0-or-later
"""What a monitoring system is to ask of published hosts: each service that was proven, once over each family."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ._errors import InputError
from ._report import record_of

FAMILIES = ("ipv4", "ipv6")
WEB = {"http": 80, "https": 443}
ACME = "acme"  # a path of a web site, which is asked itself


def target_groups(
    names: Iterable[str], contacts: Iterable[Any], domains: Iterable[str], protocols: Iterable[str]
) -> list[dict[str, Any]]:
    """Return the groups for Prometheus' file_sd_config: two for each service of the published hosts NAMES.

    CONTACTS are what reading each host's facts returned, DOMAINS the published name of each. PROTOCOLS have a module of
    their own; of others only the connection is tried.
    """
    columns = [list(column) for column in (names, contacts, domains)]
    if len({len(column) for column in columns}) > 1:
        lengths = " names, ".join(str(len(column)) for column in columns[:2])
        raise InputError([f"{lengths} contacts and {len(columns[2])} domains; give one of each for every host"])
    known, found = set(protocols), []
    for name, contact, domain in sorted(zip(*columns), key=lambda row: str(row[0])):
        record = record_of(contact if isinstance(contact, Mapping) else {})[0]
        if record["state"] != "published":
            continue
        for service, target in sorted(_services(record, str(domain))):
            module = service if service in known else "tcp"
            found += [
                {
                    "targets": [target],
                    "labels": {
                        "host": str(name), "service": service, "family": family, "__param_module": f"{module}_{family}",
                    },
                }
                for family in FAMILIES
            ]  # fmt: skip
    return found


def _services(record: Mapping[str, Any], domain: str) -> set[tuple[str, str]]:
    """Return (protocol, target) of everything that the evidence of RECORD proves."""
    evidence = record.get("evidence")
    results = evidence.get("results") if isinstance(evidence, Mapping) else None
    found = set()
    for result in results if isinstance(results, list) else []:
        protocol, port, name = str(result.get("protocol")), result.get("port"), str(result.get("site") or domain)
        if protocol == ACME:
            continue
        if protocol in WEB:
            place = name if port in (None, WEB[protocol]) else f"{name}:{port}"
            found.add((protocol, f"{protocol}://{place}/"))
        else:
            found.add((protocol, f"{name}:{port}"))
    return found
