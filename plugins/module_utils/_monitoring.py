# SPDX-License-Identifier: GPL-3.0-or-later
"""What a monitoring system is to ask of published hosts: each service that was proven, once over each family."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from ._errors import InputError
from ._report import FAMILIES, UNKNOWN, UNREACHABLE, record_of, rows

WEB = {"http": 80, "https": 443}
ACME = "acme"  # a path of a web site, which is asked itself


def target_groups(
    names: Iterable[str], contacts: Iterable[Any], domains: Iterable[str], protocols: Iterable[str], before: str = ""
) -> list[dict[str, Any]]:
    """Return the groups for Prometheus' file_sd_config: two for each service of the published hosts NAMES.

    CONTACTS are what reading each host's facts returned, DOMAINS the published name of each. PROTOCOLS have a module of
    their own; of others only the connection is tried. A host that was not asked or not reached keeps what it has in
    BEFORE, the JSON text of an earlier run: it is the one that has to be watched.
    """
    known, kept, found = set(protocols), _kept(before), []
    for name, contact, domain in rows("domains", names, contacts, domains):
        record = record_of(contact if isinstance(contact, Mapping) else {})[0]
        if record["state"] in (UNKNOWN, UNREACHABLE):
            found += kept.get(str(name), [])
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


def _kept(text: str) -> dict[str, list[dict[str, Any]]]:
    """Return the groups of each host in the JSON TEXT of an earlier run."""
    found: dict[str, list[dict[str, Any]]] = {}
    try:
        for group in json.loads(text or "[]"):
            found.setdefault(group["labels"]["host"], []).append(group)
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(
            [f"targets.json is not what this role wrote ({error}); move it away and run it again"]
        ) from error
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
