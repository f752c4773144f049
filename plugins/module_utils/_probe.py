# SPDX-License-Identifier: GPL-3.0-or-later
"""Ask services as a client does, over each family alone, and compare the answers."""

from __future__ import annotations

import ipaddress
import re
import statistics
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta, timezone
from typing import Any

from . import _echo, _ftp, _ports, _talk
from ._errors import InputError
from ._talk import ACME, Answer, Target, at

# The registered port of each protocol; none where the caller must name it, zero where there is no single port.
PORTS = {
    "smtp": 25,
    "submission": 587,
    "submissions": 465,
    "imap": 143,
    "imaps": 993,
    "pop3": 110,
    "pop3s": 995,
    "ftp": 21,
    "http": 80,
    "acme": 80,
    "https": 443,
    "ssh": 22,
    "dns": 53,
    "tcp": None,
    "closed": 0,
    "mtu": 0,
}
PATHS = {"acme": ACME}
# What is asked when the services have been asked.
LAST = {"closed", "mtu"}
# What is asked beside the services.
CHECKS = {*LAST, "acme"}
GOOD = {"same", "absent"}
ELSEWHERE = {"ftp": _ftp.talk, "closed": _ports.talk, "mtu": _echo.talk}

WORKERS = 48
LEAST_MTU = 1280  # RFC 8200 section 5
SOON = timedelta(days=14)

# The fault in words that stay the same from one run to the next.
_FAULTS = {
    "differs": "answers differently over IPv6",
    "ipv4_failed": "does not answer over IPv4",
    "ipv6_failed": "does not answer over IPv6",
    "both_failed": "does not answer over either family",
    "path_mtu": "loses large packets over IPv6",
    "exposed": "is more open over IPv6",
    "crashed": "crashes on an IPv6 connection",
    "inconclusive": "could not be asked",
}


@dataclass(frozen=True)
class Result:
    """The verdict on one target, with the answers that it rests on."""

    target: Target
    verdict: str
    detail: str
    ipv4: Answer
    ipv6: tuple[Answer, ...]
    ipv4_again: Answer | None = None
    down_ms: int | None = None
    remarks: tuple[str, ...] = ()

    def public(self) -> dict[str, object]:
        shown: dict[str, object] = {
            "name": self.target.name,
            "protocol": self.target.protocol,
            "port": self.target.port,
            "verdict": self.verdict,
            "detail": self.detail,
            "ipv4": self.ipv4.public(),
            "ipv6": [answer.public() for answer in self.ipv6],
        }
        if self.remarks:
            shown["remarks"] = list(self.remarks)
        if self.ipv4_again is not None:
            shown["ipv4_again"] = self.ipv4_again.public()
        if self.verdict == "crashed":
            shown["down_ms"] = self.down_ms
        return shown


@dataclass
class _Trial:
    """A target on its way to a verdict."""

    target: Target
    ipv4: Answer
    ipv6: list[Answer] = field(default_factory=list)
    again: Answer | None = None
    down_ms: int | None = None
    absent: bool = False


def targets(records: Iterable[Mapping[str, Any]], accounts: Iterable[Mapping[str, Any]] = ()) -> list[Target]:
    """Return the targets of RECORDS, of FTP with the ACCOUNTS of their hosts; raise every problem of all of them."""
    problems: list[str] = []
    logins = {str(one["name"]): (str(one["account"]["user"]), str(one["account"]["password"])) for one in accounts}
    found = [_target(index, record, logins, problems) for index, record in enumerate(records)]
    for name in sorted(set(logins) - {target.name for target in found if target.protocol == "ftp"}):
        problems.append(f"accounts: {name} has no target with protocol ftp; add one, or leave the account out")
    if problems:
        raise InputError(problems)
    asked = {(target.name, target.port) for target in found}
    return [
        replace(target, ports=tuple(port for port in target.ports if (target.name, port) not in asked))
        for target in found
    ]


def _target(
    index: int, record: Mapping[str, Any], logins: Mapping[str, tuple[str, str]], problems: list[str]
) -> Target:
    place = f"targets[{index}] ({record.get('name')})"
    protocol, name = str(record.get("protocol")), str(record.get("name"))
    listed = record.get("ipv6") or []
    ipv6 = [listed] if isinstance(listed, str) else list(listed)
    if not ipv6:
        problems.append(f"{place}: no ipv6 address; give at least one, or leave the target out")
    for literal, version in [(record.get("ipv4"), 4), *((literal, 6) for literal in ipv6)]:
        _check_literal(f"{place}: ipv{version}", literal, version, problems)
    if protocol == "dns" and not record.get("dns_name"):
        problems.append(f"{place}: protocol dns needs dns_name, a name that the server answers for")
    texts = {key: str(record.get(key) or "") for key in ("host_header", "path", "dns_name")}
    for key, text in texts.items():
        if re.search(r"[\x00-\x20\x7f]", text):
            problems.append(f"{place}: {key} {text!r} holds white space or a control character; remove it")
    if texts["path"] and not texts["path"].startswith("/"):
        problems.append(
            f"{place}: path {texts['path']!r} does not begin with a slash; write it as a client asks for it"
        )
    return Target(
        name=name,
        protocol=protocol,
        port=_port(place, protocol, record, problems),
        ipv4=str(record.get("ipv4")),
        ipv6=tuple(dict.fromkeys(str(literal) for literal in ipv6)),
        host_header=texts["host_header"],
        path=texts["path"] or PATHS.get(protocol, "/"),
        dns_name=texts["dns_name"],
        min_bytes=_least(place, protocol, record, problems),
        ports=_ports_of(place, protocol, record, problems),
        optional=bool(record.get("optional")),
        prefix=_prefix(place, str(record.get("prefix") or ""), problems),
        account=logins.get(name, ("", "")) if protocol == "ftp" else ("", ""),
    )


def _port(place: str, protocol: str, record: Mapping[str, Any], problems: list[str]) -> int:
    if protocol not in PORTS:
        problems.append(f"{place}: protocol {protocol!r} is unknown; use one of {', '.join(PORTS)}")
        return 0
    port = record.get("port") or PORTS[protocol]
    if protocol in LAST:
        return 0
    if not isinstance(port, int) or not _is_port(port):
        reason = "protocol tcp has no default port" if not record.get("port") else "a port is 1 to 65535"
        problems.append(f"{place}: port {record.get('port')!r}: {reason}; name the port of the service")
        return 0
    return port


def _is_port(port: object) -> bool:
    return isinstance(port, int) and 0 < port < 65536


def _ports_of(place: str, protocol: str, record: Mapping[str, Any], problems: list[str]) -> tuple[int, ...]:
    ports = list(record.get("ports") or [])
    if protocol != "closed":
        return ()
    if not ports:
        problems.append(f"{place}: protocol closed needs ports, those that are to be compared")
    wrong = [port for port in ports if not _is_port(port)]
    if wrong:
        problems.append(f"{place}: ports {', '.join(map(repr, wrong))}: a port is 1 to 65535; correct them")
    return () if wrong else tuple(sorted(set(ports)))


def _least(place: str, protocol: str, record: Mapping[str, Any], problems: list[str]) -> int:
    """Return how large an answer must be: of mtu the whole packet, of HTTP the body."""
    size = record.get("min_bytes") or (1500 if protocol == "mtu" else 0)
    least = LEAST_MTU if protocol == "mtu" else 0
    most = 65535 if protocol == "mtu" else _talk.BODY_LIMIT
    if not isinstance(size, int) or not least <= size <= most:
        problems.append(f"{place}: min_bytes {size!r} is not in {least} to {most} for protocol {protocol}; correct it")
        return 0
    return size


def _prefix(place: str, text: str, problems: list[str]) -> str:
    try:
        return str(ipaddress.IPv6Network(text)) if text else ""
    except ValueError:
        problems.append(f"{place}: prefix {text!r} is not an IPv6 prefix; write it as 2001:db8:200:1011::/64")
        return ""


def _check_literal(place: str, literal: object, version: int, problems: list[str]) -> None:
    try:
        address = ipaddress.ip_address(str(literal))
    except ValueError:
        problems.append(f"{place} {literal!r} is not an IP address; give the literal, names are not looked up")
        return
    if address.version != version:
        problems.append(f"{place} {literal!r} is an IPv{address.version} address; move it to ipv{address.version}")


def control_problems(control: Mapping[str, object] | None) -> None:
    """Raise what is wrong with the CONTROL target."""
    problems: list[str] = []
    for version in (4, 6):
        if control and control.get(f"ipv{version}"):
            _check_literal(f"control: ipv{version}", control[f"ipv{version}"], version, problems)
    if control and control.get("port") and not _is_port(control["port"]):
        problems.append(f"control: port {control['port']!r}: a port is 1 to 65535; name one that is open there")
    if problems:
        raise InputError(problems)


def probe(
    wanted: list[Target], timeout: float = 5.0, recovery: float = 10.0, control: Mapping[str, object] | None = None
) -> list[Result]:
    """Probe all targets at once: IPv4, then every IPv6 address, then IPv4 again; return one result each, in order."""
    control_problems(control)
    with ThreadPoolExecutor(max_workers=max(1, min(WORKERS, len(wanted)))) as pool:
        lame = _lame_families(control, timeout)
        trials: dict[int, _Trial] = {}
        # What a large echo teaches the vantage host of the path would help the transfers over it.
        # Nor may the look for open ports be what a service dies of that is asked by its own name.
        for last in (False, True):
            chosen = [number for number, target in enumerate(wanted) if (target.protocol in LAST) == last]
            made = pool.map(lambda number: _first_pass(wanted[number], timeout, recovery), chosen)
            trials.update(zip(chosen, made))
        list(pool.map(lambda trial: _second_pass(trial, timeout, recovery), trials.values()))
    return [_judge(trials[number], lame) for number in range(len(wanted))]


def _lame_families(control: Mapping[str, object] | None, timeout: float) -> dict[int, str]:
    """Return {version: why} for each family in which the vantage host does not even reach the control target."""
    lame = {}
    for version in (4, 6):
        address = str((control or {}).get(f"ipv{version}") or "")
        if address:
            port = int(str((control or {}).get("port") or 22))
            answer = _ask(Target("control", "tcp", port, "", ()), address, timeout)
            if not answer.ok:
                lame[version] = f"the control target {at(address, port)} does not answer either: {answer.error}"
    return lame


def _ask(target: Target, address: str, timeout: float) -> Answer:
    return _talk.ask(target, address, timeout, ELSEWHERE.get(target.protocol))


def _first_pass(target: Target, timeout: float, recovery: float) -> _Trial:
    if target.optional and target.protocol not in LAST | {"dns"} and not _is_there(target, timeout):
        closed = replace(target, protocol="closed", ports=(target.port,))
        answers = [_ask(closed, address, timeout) for address in (target.ipv4, *target.ipv6)]
        return _Trial(target, answers[0], answers[1:], absent=True)
    trial = _Trial(target, _ask(target, target.ipv4, timeout))
    for address in target.ipv6:
        begun = time.monotonic()
        trial.ipv6.append(_ask(target, address, timeout))
        # A supervisor may start a dead service again before the second pass: look at once.
        if not trial.ipv6[-1].ok and trial.ipv4.ok and not _lives(trial, timeout, recovery, begun):
            break
    return trial


def _is_there(target: Target, timeout: float) -> bool:
    """Tell whether the service takes a connection over IPv4."""
    answer = _ask(replace(target, protocol="closed", ports=(target.port,)), target.ipv4, timeout)
    return bool(answer.ports) or not answer.ok


def _second_pass(trial: _Trial, timeout: float, recovery: float) -> None:
    if trial.ipv4.ok and not trial.absent and (trial.again is None or trial.again.ok):
        _lives(trial, timeout, recovery, time.monotonic())


def _lives(trial: _Trial, timeout: float, recovery: float, begun: float) -> bool:
    """Ask over IPv4 again; when there is no answer, wait for it and keep the time since BEGUN."""
    if trial.target.protocol == "mtu":
        return True
    trial.again = _ask(trial.target, trial.target.ipv4, timeout)
    deadline = time.monotonic() + recovery
    while not trial.again.ok and trial.down_ms is None and time.monotonic() < deadline:
        if _ask(trial.target, trial.target.ipv4, min(timeout, 1.0)).ok:
            trial.down_ms = round((time.monotonic() - begun) * 1000)
        else:
            time.sleep(0.05)
    return trial.again.ok


def _judge(trial: _Trial, lame: Mapping[int, str]) -> Result:
    target, ipv4, ipv6 = trial.target, trial.ipv4, tuple(trial.ipv6)
    service = f"{target.name} {target.protocol}" + (f" ({target.host_header})" if target.host_header else "")
    verdict, detail = _crash(trial) or _doubt(trial, lame) or _failure(trial) or _difference(trial) or ("same", "")
    if target.optional and verdict in ("both_failed", "ipv4_failed"):
        verdict, detail = "absent", f"no healthy service over IPv4, so there is nothing to compare: {detail}"
    elif trial.absent and verdict == "same":
        verdict, detail = "absent", "takes no connection over either family"
    detail = detail or f"the same answer over IPv4 and over {len(ipv6)} IPv6 address(es)"
    remarks = tuple(f"{service}: {remark}" for remark in _remarks(trial))
    return Result(target, verdict, f"{service}: {detail}", ipv4, ipv6, trial.again, trial.down_ms, remarks)


_Verdict = tuple[str, str]


def _crash(trial: _Trial) -> _Verdict | None:
    if trial.again is None:
        return None
    if gone := sorted(set(trial.ipv4.ports) - set(trial.again.ports)):
        return "crashed", f"what listens on {_listed(gone)} of {trial.ipv4.address} is gone after an IPv6 connection"
    if trial.again.ok:
        return None
    after = f"back after {trial.down_ms} ms" if trial.down_ms is not None else "still down"
    place = at(trial.ipv4.address, trial.target.port)
    return "crashed", f"stops answering over IPv4 after an IPv6 connection ({place}: {trial.again.error}; {after})"


def _doubt(trial: _Trial, lame: Mapping[int, str]) -> _Verdict | None:
    """Return why a failure counts against the vantage host. Over a lame family ports seem closed, and packets lost."""
    failed = [answer for answer in trial.ipv6 if not answer.ok]
    doubtful = bool(failed) or trial.absent or trial.target.protocol in LAST
    unrouted = [f"the vantage host has no route to {answer.address}" for answer in failed if not answer.routed]
    reasons = [
        *([lame[6]] if doubtful and 6 in lame else []),
        *([lame[4]] if not trial.ipv4.ok and 4 in lame else []),
        *unrouted,
    ]
    return ("inconclusive", f"no verdict, {reasons[0]}") if reasons else None


def _failure(trial: _Trial) -> _Verdict | None:
    ipv4, failed, port = trial.ipv4, [answer for answer in trial.ipv6 if not answer.ok], trial.target.port
    if ipv4.ok and not failed:
        return None
    broken = [*failed, *([] if ipv4.ok else [ipv4])]
    detail = "; ".join(f"{at(one.address, port) if port else one.address}: {one.error}" for one in broken)
    if ipv4.ok and all(answer.stalled for answer in failed):
        return "path_mtu", f"{detail}. Who on the way drops ICMPv6 Packet Too Big (RFC 8201)? Let type 2 pass there"
    return ("ipv6_failed" if ipv4.ok else "both_failed" if failed else "ipv4_failed"), detail


def _difference(trial: _Trial) -> _Verdict | None:
    ipv4, port = trial.ipv4, trial.target.port
    for answer in trial.ipv6:
        if more := sorted(set(answer.ports) - set(ipv4.ports)):
            words = f"{_listed(more)} open at {answer.address}, and not at {ipv4.address}; close what IPv4 closes"
            return "exposed", words
        if not _talk.alike(answer, ipv4, trial.again):
            first, second = _talk.contrast(ipv4, answer)
            return "differs", f"{at(ipv4.address, port)} says {first}, but {at(answer.address, port)} says {second}"
    return None


def _listed(ports: list[int]) -> str:
    return f"port{'s' if ports[1:] else ''} {', '.join(map(str, ports))}"


def _remarks(trial: _Trial) -> list[str]:
    """Return what is worth a look and has nothing to do with the family."""
    target, found = trial.target, []
    if certificate := trial.ipv4.certificate:
        if target.host_header and not certificate.covers(target.host_header):
            found.append(f"the certificate is {certificate}, not for {target.host_header}")
        if certificate.expires < datetime.now(timezone.utc) + SOON:
            found.append(f"the certificate ends at {certificate.expires:%Y-%m-%d %H:%M} UTC")
    for answer in trial.ipv6:
        if answer.seen and answer.source and ipaddress.ip_address(answer.seen) != ipaddress.ip_address(answer.source):
            found.append(f"{answer.address} sees {answer.seen}, the vantage host sent from {answer.source}")
    if target.protocol == "mtu":
        found += [f"{answer.address}: {answer.banner}" for answer in trial.ipv6 if answer.banner.startswith("not")]
    return found


def by_host(results: Iterable[Result]) -> dict[str, dict[str, object]]:
    """Return for each host: ``ok``, ``conclusive``, ``reason``, ``detail`` and a short, stable list of its services."""
    hosts: dict[str, list[Result]] = {}
    for result in results:
        hosts.setdefault(result.target.name, []).append(result)
    return {name: _summary(found) for name, found in hosts.items()}


def _summary(results: list[Result]) -> dict[str, object]:
    bad = [result for result in results if result.verdict not in GOOD]
    unrouted = _unrouted(results)
    reasons = [f"{_service(result.target)} {_FAULTS[result.verdict]}" for result in bad]
    return {
        "ok": not bad,
        "conclusive": all(result.verdict != "inconclusive" for result in bad),
        "verdicts": sorted({result.verdict for result in results}),
        "checks": sorted({result.target.protocol for result in results if result.target.protocol in CHECKS}),
        # One route that is missing fails every service: it is the reason of all.
        "reason": "; ".join(unrouted or reasons),
        "detail": "; ".join([*unrouted, *(result.detail for result in bad)]),
        "remarks": [remark for result in results for remark in result.remarks],
        "latency_ms": {
            "ipv4": _median(result.ipv4 for result in results),
            "ipv6": _median(answer for result in results for answer in result.ipv6),
        },
        # Of services that are not there, and of checks that found nothing, there is nothing to keep.
        "results": [
            _short(result)
            for result in results
            if result.verdict not in GOOD or not (result.verdict == "absent" or result.target.protocol in CHECKS)
        ],
    }


def _median(answers: Iterable[Answer]) -> float | None:
    """Return the median time of the services that answered, in milliseconds."""
    times = [answer.latency_ms for answer in answers if answer.ok and answer.signature]
    return round(statistics.median(times), 1) if times else None


def _short(result: Result) -> dict[str, object]:
    return {
        "protocol": result.target.protocol,
        "port": result.target.port,
        **({"site": result.target.host_header} if result.target.host_header else {}),
        "ipv4": result.ipv4.ok and result.verdict not in ("crashed", "exposed"),
        "ipv6": bool(result.ipv6) and all(answer.ok for answer in result.ipv6) and result.verdict != "exposed",
        "verdict": result.verdict,
    }


def _unrouted(results: list[Result]) -> list[str]:
    """Return the delegated prefixes from which nothing comes back although the host itself answers, with the remedy."""
    found = []
    for text in dict.fromkeys(result.target.prefix for result in results if result.target.prefix):
        prefix = ipaddress.IPv6Network(text)
        answers = [answer for result in results for answer in result.ipv6 if result.target.protocol not in LAST]
        inside = [answer for answer in answers if ipaddress.ip_address(answer.address) in prefix]
        hops = [answer.address for answer in answers if answer not in inside and answer.ok]
        if inside and hops and not any(answer.ok or answer.reached for answer in inside):
            found.append(
                f"{text} is not routed to {results[0].target.name}: no edge router sends it to {hops[0]}; "
                f"on each of them: ip -6 route add {text} via {hops[0]} (dualstack.fleet.edge does it)"
            )
    return found


def _service(target: Target) -> str:
    if target.protocol in LAST:
        return "the path" if target.protocol == "mtu" else "the packet filter"
    site = f" of {target.host_header}" if target.host_header else ""
    return f"{target.protocol}{site} on port {target.port}"


def now() -> str:
    """Return the time in UTC, as ISO 8601 to the second."""
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def vhost_addresses(record: Mapping[str, object]) -> dict[str, str]:
    """Return the first address of each virtual host's prefix, by its name."""
    vhosts = record.get("vhosts") or {}
    if not isinstance(vhosts, Mapping):
        raise ValueError("vhosts is not a mapping of name to prefix")
    return {str(name): str(ipaddress.IPv6Network(str(prefix))[1]) for name, prefix in vhosts.items()}


def service_addresses(record: Mapping[str, object]) -> list[str]:
    """Return the addresses at which a host's services answer: its own, and the first of its delegated prefix."""
    addresses = [str(record.get("address") or "")]
    if record.get("delegated_prefix"):
        addresses.append(str(ipaddress.IPv6Network(str(record["delegated_prefix"]))[1]))
    return [address for address in addresses if address]
