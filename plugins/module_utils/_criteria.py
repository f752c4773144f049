# SPDX-License-Identifier: GPL-3.0-or-later
"""What the DNS says of a host, and the criteria of internet.nl and of the SIDN scorecard that it meets, by name."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

from ._errors import InputError
from ._lookup import LookupFailed, Resolver
from ._probe import WORKERS, Result
from ._talk import Target, ask

PATIENCE = 7.0  # seconds, of the SIDN scorecard
NAME_SERVERS = 2  # of both


@dataclass(frozen=True)
class Subject:
    """A host as the DNS is to know it. ``helo`` is empty where it sends no mail."""

    name: str
    domain: str
    zone: str
    ipv4: str
    ipv6: str
    source: str = ""
    helo: str = ""


@dataclass(frozen=True)
class Criterion:
    """One requirement: met, not met or, where nobody could tell, neither; and what is missing."""

    met: bool | None
    missing: str = ""

    def public(self) -> dict[str, object]:
        return {"met": self.met, **({"missing": self.missing} if self.missing else {})}


def subjects(records: Iterable[Mapping[str, Any]]) -> list[Subject]:
    """Return the subjects of RECORDS, or raise every problem of all of them."""
    problems: list[str] = []
    found = []
    for index, record in enumerate(records):
        for key, version in (("ipv4", 4), ("ipv6", 6), ("source", 6)):
            text = str(record.get(key) or "")
            try:
                right = (not text and key == "source") or ipaddress.ip_address(text).version == version
            except ValueError:
                right = False
            if not right:
                problems.append(f"names[{index}] ({record.get('name')}): {key} {text!r} is not an IPv{version} address")
        found.append(Subject(**{key: str(record.get(key) or "") for key in Subject.__dataclass_fields__}))
    if problems:
        raise InputError(problems)
    return found


def by_host(
    wanted: Sequence[Subject], resolver: Resolver | None, results: Iterable[Result]
) -> dict[str, dict[str, object]]:
    """Return the criteria of each host in WANTED as RESOLVER and RESULTS tell; none without a resolver."""
    if resolver is None:
        return {}
    found: dict[str, list[Result]] = {subject.name: [] for subject in wanted}
    for result in results:
        found.setdefault(result.target.name, []).append(result)

    def answer(subject: Subject) -> dict[str, object]:
        # A server greets as it says HELO, unless told otherwise.
        names = [dict(one.ipv4.signature).get("name") for one in found[subject.name] if one.target.protocol == "smtp"]
        known = replace(subject, helo=subject.helo or next((name for name in names if name), subject.domain))
        return {name: one.public() for name, one in criteria(known, resolver, found[subject.name]).items()}

    with ThreadPoolExecutor(max_workers=WORKERS) as pool:
        return {subject.name: told for subject, told in zip(wanted, pool.map(answer, wanted))}


def criteria(subject: Subject, resolver: Resolver, results: Iterable[Result]) -> dict[str, Criterion]:
    """Return each criterion for SUBJECT, of whose services RESULTS tell."""
    questions: dict[str, Callable[[], Criterion]] = {
        "forward": lambda: _forward(subject, resolver),
        "reverse": lambda: _reverse(subject.ipv6, subject.domain, resolver),
        "reverse_ipv4": lambda: _reverse(subject.ipv4, subject.domain, resolver),
        "web_ipv6_ns_address": lambda: _servers(subject, resolver, reached=False),
        "web_ipv6_ns_reach": lambda: _servers(subject, resolver, reached=True),
        "mail_ipv6_mx_address": lambda: _exchangers(subject, resolver, reached=False),
        "mail_ipv6_mx_reach": lambda: _exchangers(subject, resolver, reached=True),
    }
    if subject.source:
        questions["helo"] = lambda: _helo(subject, resolver)
        questions["spf"] = lambda: _spf(subject, resolver)
    web = [result for result in results if result.target.protocol in ("http", "https") and result.verdict != "absent"]
    if web:
        questions["web_ipv6_ws_address"] = lambda: _forward(subject, resolver)
        questions["web_ipv6_ws_reach"] = lambda: Criterion(all(_soon(result) for result in web))
        questions["web_ipv6_ws_similar"] = lambda: Criterion(all(result.verdict == "same" for result in web))
    met = {name: _answered(question) for name, question in questions.items()}
    met["sidn_ns"], met["sidn_mx"] = met["web_ipv6_ns_reach"], met["mail_ipv6_mx_reach"]
    if web:
        met["sidn_web"] = met["web_ipv6_ws_reach"]
    return met


def _soon(result: Result) -> bool:
    return all(answer.ok and answer.latency_ms <= 1000 * PATIENCE for answer in result.ipv6)


def _answered(question: Callable[[], Criterion]) -> Criterion:
    try:
        return question()
    except LookupFailed as error:
        return Criterion(None, str(error))


def _forward(subject: Subject, resolver: Resolver) -> Criterion:
    found = resolver.ask(subject.domain, "AAAA")
    wanted = f"{subject.domain}. IN AAAA {subject.ipv6}"
    others = [address for address in found if address != subject.ipv6]
    missing = wanted if subject.ipv6 not in found else f"only {wanted}; there are {', '.join(others)}" if others else ""
    return Criterion(not missing, missing)


def _reverse(address: str, name: str, resolver: Resolver) -> Criterion:
    pointer = ipaddress.ip_address(address).reverse_pointer
    right = resolver.ask(pointer, "PTR") == [name.lower().rstrip(".")]
    return Criterion(right, "" if right else f"{pointer}. IN PTR {name}.")


def _helo(subject: Subject, resolver: Resolver) -> Criterion:
    """HELO, its address and the name of that address agree (RFC 5321 section 4.1.4; large receivers insist)."""
    missing = []
    if subject.source not in resolver.ask(subject.helo, "AAAA"):
        missing.append(f"{subject.helo}. IN AAAA {subject.source}")
    missing += [text for text in [_reverse(subject.source, subject.helo, resolver).missing] if text]
    return Criterion(not missing, "; ".join(missing))


def _spf(subject: Subject, resolver: Resolver) -> Criterion:
    """The policy of the HELO name lets the source address send (RFC 7208 sections 2.3, 5.3, 5.4 and 5.6)."""
    policies = [text for text in resolver.ask(subject.helo, "TXT") if text.lower().split()[:1] == ["v=spf1"]]
    if not policies:
        return Criterion(False, f'{subject.helo}. IN TXT "v=spf1 ip6:{subject.source} -all"')
    right = any(_allows(term.lower().lstrip("+"), subject, resolver) for term in policies[0].split()[1:])
    return Criterion(right, "" if right else f"ip6:{subject.source} in the v=spf1 record of {subject.helo}")


def _allows(term: str, subject: Subject, resolver: Resolver) -> bool:
    kind, _colon, value = term.partition(":")
    source = ipaddress.IPv6Address(subject.source)
    if kind == "ip6":
        try:
            return source in ipaddress.IPv6Network(value, strict=False)
        except ValueError:
            return False
    names = [value or subject.helo]
    if kind == "mx":
        names = resolver.ask(names[0], "MX")
    return kind in ("a", "mx") and any(str(source) in resolver.ask(name, "AAAA") for name in names)


def _servers(subject: Subject, resolver: Resolver, reached: bool) -> Criterion:
    """Two name servers of the zone have IPv6 addresses and, when REACHED, answer there."""
    names = resolver.ask(subject.zone, "NS")
    addresses = {name: resolver.ask(name, "AAAA") for name in names}
    good = [name for name, found in addresses.items() if found and (not reached or _tells(found[0], subject, resolver))]
    lacking = ", ".join(name for name in names if name not in good) or f"a second one for {subject.zone}"
    words = "answers over IPv6" if reached else "IN AAAA"
    return Criterion(len(good) >= NAME_SERVERS, "" if len(good) >= NAME_SERVERS else f"name server {lacking}: {words}")


def _tells(address: str, subject: Subject, resolver: Resolver) -> bool:
    try:
        return bool(Resolver(address, resolver.port, resolver.timeout).ask(subject.zone, "SOA"))
    except LookupFailed:
        return False


def _exchangers(subject: Subject, resolver: Resolver, reached: bool) -> Criterion:
    """A mail exchanger of the zone has an IPv6 address and, when REACHED, answers there. None at all tells nothing."""
    names = resolver.ask(subject.zone, "MX")
    addresses = [address for name in names for address in resolver.ask(name, "AAAA")]
    target = Target(subject.name, "smtp", 25, "", ())
    good = [address for address in addresses if not reached or ask(target, address, PATIENCE).ok]
    words = "answers over IPv6" if reached else "IN AAAA"
    if not names:
        return Criterion(None, f"{subject.zone} has no mail exchanger")
    return Criterion(bool(good), "" if good else f"{', '.join(names)}: {words}")
