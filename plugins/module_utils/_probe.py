# SPDX-License-Identifier: GPL-3.0-or-later
"""Ask services as a client does, over each family alone, and compare the answers."""

from __future__ import annotations

import hashlib
import ipaddress
import os
import random
import re
import socket
import ssl
import struct
import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from http.client import HTTPConnection, HTTPException
from typing import Any

from ._errors import InputError

PORTS = {
    "smtp": 25,
    "submission": 587,
    "imap": 143,
    "pop3": 110,
    "ftp": 21,
    "http": 80,
    "https": 443,
    "ssh": 22,
    "dns": 53,
    "tcp": None,
}

# Protocols in which the server speaks first: what a healthy greeting is, and how a client takes its leave.
GREETINGS = {
    "smtp": (re.compile(rb"220[ -]"), b"QUIT\r\n"),
    "submission": (re.compile(rb"220[ -]"), b"QUIT\r\n"),
    "ftp": (re.compile(rb"220[ -]"), b"QUIT\r\n"),
    "imap": (re.compile(rb"\* (OK|PREAUTH)\b"), b"a LOGOUT\r\n"),
    "pop3": (re.compile(rb"\+OK\b"), b"QUIT\r\n"),
    "ssh": (re.compile(rb"SSH-2\.0-"), b""),
}

BODY_LIMIT = 8 * 1024 * 1024
LINE_LIMIT = 4096
WORKERS = 48
RCODES = {0: "NOERROR", 1: "FORMERR", 2: "SERVFAIL", 3: "NXDOMAIN", 4: "NOTIMP", 5: "REFUSED"}


# The fault in words that stay the same from one run to the next.
_FAULTS = {
    "differs": "answers differently over IPv6",
    "ipv4_failed": "does not answer over IPv4",
    "ipv6_failed": "does not answer over IPv6",
    "both_failed": "does not answer over either family",
    "crashed": "crashes on an IPv6 connection",
    "inconclusive": "could not be asked",
}


@dataclass(frozen=True)
class Target:
    """One service of one host: the same port over IPv4 and over every IPv6 address."""

    name: str
    protocol: str
    port: int
    ipv4: str
    ipv6: tuple[str, ...]
    host_header: str = ""
    path: str = "/"
    dns_name: str = ""


@dataclass(frozen=True)
class Answer:
    """What one address said. ``signature`` is the part that must be the same over both families."""

    address: str
    ok: bool
    latency_ms: float = 0.0
    banner: str = ""
    error: str = ""
    status: int | None = None
    sha256: str = ""
    signature: tuple[str, ...] = ()
    routed: bool = True

    def public(self) -> dict[str, object]:
        shown: dict[str, object] = {"address": self.address, "ok": self.ok, "latency_ms": round(self.latency_ms, 1)}
        shown.update({key: value for key in ("banner", "error", "sha256") if (value := getattr(self, key))})
        if self.status is not None:
            shown["status"] = self.status
        return shown


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


def targets(records: Iterable[dict[str, Any]]) -> list[Target]:
    """Return the targets of RECORDS, or raise every problem of all of them."""
    problems: list[str] = []
    found = [_target(index, record, problems) for index, record in enumerate(records)]
    if problems:
        raise InputError(problems)
    return found


def _target(index: int, record: dict[str, Any], problems: list[str]) -> Target:
    place = f"targets[{index}] ({record.get('name')})"
    protocol = str(record.get("protocol"))
    if protocol not in PORTS:
        problems.append(f"{place}: protocol {protocol!r} is unknown; use one of {', '.join(PORTS)}")
    port = record.get("port") or PORTS.get(protocol) or 0
    if protocol in PORTS and not (isinstance(port, int) and 0 < port < 65536):
        reason = "protocol tcp has no default port" if not record.get("port") else "a port is 1 to 65535"
        problems.append(f"{place}: port {record.get('port')!r}: {reason}; name the port of the service")
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
    return Target(
        name=str(record.get("name")),
        protocol=protocol,
        port=port if isinstance(port, int) else 0,
        ipv4=str(record.get("ipv4")),
        ipv6=tuple(dict.fromkeys(str(literal) for literal in ipv6)),
        host_header=texts["host_header"],
        path=texts["path"] or "/",
        dns_name=texts["dns_name"],
    )


def _check_literal(place: str, literal: object, version: int, problems: list[str]) -> None:
    try:
        address = ipaddress.ip_address(str(literal))
    except ValueError:
        problems.append(f"{place} {literal!r} is not an IP address; give the literal, names are not looked up")
        return
    if address.version != version:
        problems.append(f"{place} {literal!r} is an IPv{address.version} address; move it to ipv{address.version}")


def control_problems(control: dict[str, object] | None) -> None:
    """Raise what is wrong with the CONTROL target."""
    problems: list[str] = []
    for version in (4, 6):
        if control and control.get(f"ipv{version}"):
            _check_literal(f"control: ipv{version}", control[f"ipv{version}"], version, problems)
    if problems:
        raise InputError(problems)


def probe(
    wanted: list[Target], timeout: float = 5.0, recovery: float = 10.0, control: dict[str, object] | None = None
) -> list[Result]:
    """Probe all targets at once: IPv4, then every IPv6 address, then IPv4 again; return one result each, in order."""
    control_problems(control)
    with ThreadPoolExecutor(max_workers=max(1, min(WORKERS, len(wanted)))) as pool:
        lame = _lame_families(control, timeout)
        trials = list(pool.map(lambda target: _first_pass(target, timeout, recovery), wanted))
        list(pool.map(lambda trial: _second_pass(trial, timeout, recovery), trials))
    return [_judge(trial, lame) for trial in trials]


def _lame_families(control: dict[str, object] | None, timeout: float) -> dict[int, str]:
    """Return {version: why} for each family in which the vantage host does not even reach the control target."""
    lame = {}
    for version in (4, 6):
        address = str((control or {}).get(f"ipv{version}") or "")
        if address:
            port = int(str((control or {}).get("port") or 22))
            answer = ask(Target("control", "tcp", port, "", ()), address, timeout)
            if not answer.ok:
                lame[version] = f"the control target {_at(address, port)} does not answer either: {answer.error}"
    return lame


def _first_pass(target: Target, timeout: float, recovery: float) -> _Trial:
    trial = _Trial(target, ask(target, target.ipv4, timeout))
    for address in target.ipv6:
        begun = time.monotonic()
        trial.ipv6.append(ask(target, address, timeout))
        # A supervisor may start a dead service again before the second pass: look at once.
        if not trial.ipv6[-1].ok and trial.ipv4.ok and not _lives(trial, timeout, recovery, begun):
            break
    return trial


def _second_pass(trial: _Trial, timeout: float, recovery: float) -> None:
    if trial.ipv4.ok and (trial.again is None or trial.again.ok):
        _lives(trial, timeout, recovery, time.monotonic())


def _lives(trial: _Trial, timeout: float, recovery: float, begun: float) -> bool:
    """Ask over IPv4 again; when there is no answer, wait for it and keep the time since BEGUN."""
    trial.again = ask(trial.target, trial.target.ipv4, timeout)
    deadline = time.monotonic() + recovery
    while not trial.again.ok and trial.down_ms is None and time.monotonic() < deadline:
        if ask(trial.target, trial.target.ipv4, min(timeout, 1.0)).ok:
            trial.down_ms = round((time.monotonic() - begun) * 1000)
        else:
            time.sleep(0.05)
    return trial.again.ok


def _judge(trial: _Trial, lame: dict[int, str]) -> Result:
    target, ipv4, ipv6 = trial.target, trial.ipv4, tuple(trial.ipv6)
    service = f"{target.name} {target.protocol}" + (f" ({target.host_header})" if target.host_header else "")
    failed = [answer for answer in ipv6 if not answer.ok]
    verdict, detail = "same", f"{service}: the same answer over IPv4 and over {len(ipv6)} IPv6 address(es)"
    if trial.again is not None and not trial.again.ok:
        verdict = "crashed"
        after = f"back after {trial.down_ms} ms" if trial.down_ms is not None else "still down"
        detail = (
            f"{service}: stops answering over IPv4 after an IPv6 connection "
            f"({_at(ipv4.address, target.port)}: {trial.again.error}; {after})"
        )
    elif (not ipv4.ok and 4 in lame) or (failed and 6 in lame) or any(not answer.routed for answer in failed):
        verdict = "inconclusive"
        unrouted = [f"the vantage host has no route to {answer.address}" for answer in failed if not answer.routed]
        reason = lame.get(6) if failed and 6 in lame else lame.get(4) if not ipv4.ok and 4 in lame else None
        detail = f"{service}: no verdict, {reason or unrouted[0]}"
    elif failed or not ipv4.ok:
        verdict = "both_failed" if failed and not ipv4.ok else "ipv6_failed" if failed else "ipv4_failed"
        broken = [*failed, *([] if ipv4.ok else [ipv4])]
        detail = f"{service}: " + "; ".join(f"{_at(a.address, target.port)}: {a.error}" for a in broken)
    else:
        other = next((answer for answer in ipv6 if not alike(answer, ipv4, trial.again)), None)
        if other is not None:
            verdict = "differs"
            detail = (
                f"{service}: {_at(ipv4.address, target.port)} says {said(ipv4)}, "
                f"but {_at(other.address, target.port)} says {said(other)}"
            )
    return Result(target, verdict, detail, ipv4, ipv6, trial.again, trial.down_ms)


def alike(answer: Answer, ipv4: Answer, again: Answer | None) -> bool:
    """Tell whether ANSWER says what IPV4 said. A body that changes by itself over IPv4 proves nothing."""
    if answer.signature != ipv4.signature:
        return False
    moving = again is not None and again.sha256 != ipv4.sha256
    return moving or answer.sha256 == ipv4.sha256


def said(answer: Answer) -> str:
    return f"{answer.banner!r}" + (f" (body {answer.sha256[:12]})" if answer.sha256 else "")


def _at(address: str, port: int) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def ask(target: Target, address: str, timeout: float) -> Answer:
    """Ask the service of TARGET at ADDRESS, and only there, for at most TIMEOUT seconds."""
    begun = time.monotonic()
    try:
        answer = _dialogue(target, address, begun + timeout)
    except (OSError, HTTPException, ValueError) as error:
        answer = Answer(address, False, error=_words(error, timeout), routed=_routed(address))
    return replace(answer, latency_ms=(time.monotonic() - begun) * 1000)


def _words(error: Exception, timeout: float) -> str:
    if isinstance(error, (socket.timeout, TimeoutError)) and not getattr(error, "errno", None):
        return f"no answer within {timeout:g} s"
    number = getattr(error, "errno", None)
    return os.strerror(number) if number else (str(error) or type(error).__name__)


def _routed(address: str) -> bool:
    """Tell whether this machine has a route to ADDRESS; connecting a UDP socket asks the kernel and sends nothing."""
    with socket.socket(_family(address), socket.SOCK_DGRAM) as handle:
        try:
            handle.connect((address, 9))
        except OSError:
            return False
    return True


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def _dialogue(target: Target, address: str, deadline: float) -> Answer:
    if target.protocol == "dns":
        return _dns(target, address, deadline)
    with socket.socket(_family(address), socket.SOCK_STREAM) as handle:
        _until(handle, deadline)
        handle.connect(
            socket.getaddrinfo(address, target.port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)[0][4]
        )
        if target.protocol == "tcp":
            return Answer(address, True)
        if target.protocol == "http":
            return _http(handle, target, address, deadline)
        if target.protocol == "https":
            return _https(handle, target, address, deadline)
        return _greeting(handle, target, address, deadline)


def _until(handle: socket.socket, deadline: float) -> None:
    left = deadline - time.monotonic()
    if left <= 0:
        raise socket.timeout
    handle.settimeout(left)


def _greeting(handle: socket.socket, target: Target, address: str, deadline: float) -> Answer:
    healthy, leave = GREETINGS[target.protocol]
    line = b""
    while b"\n" not in line and len(line) < LINE_LIMIT:
        _until(handle, deadline)
        piece = handle.recv(LINE_LIMIT)
        if not piece:
            break
        line += piece
    banner = line.split(b"\n")[0].decode("utf-8", "replace").strip()
    if not line:
        return Answer(address, False, error="the connection was closed without a greeting")
    if not healthy.match(line):
        return Answer(address, False, banner=banner, error=f"not a healthy {target.protocol} greeting: {banner!r}")
    if leave:
        handle.sendall(leave)
    return Answer(address, True, banner=banner, signature=_constant(target.protocol, banner))


def _constant(protocol: str, banner: str) -> tuple[str, ...]:
    """Return the words of BANNER that do not change from one connection to the next."""
    if protocol in {"smtp", "submission"}:  # RFC 5321 section 4.2: 220, the name of the server, free text
        return tuple(re.split(r"[ -]", banner, maxsplit=1)[1].split()[:1])
    return (banner,) if protocol == "ssh" else ()


def _http(handle: socket.socket, target: Target, address: str, deadline: float) -> Answer:
    connection = HTTPConnection(address, target.port)
    connection.sock = handle
    own = handle.getsockname()[0]
    connection.putrequest("GET", target.path, skip_host=True, skip_accept_encoding=True)
    connection.putheader("Host", target.host_header or target.name)
    connection.putheader("User-Agent", "dualstack-probe")
    connection.putheader("Connection", "close")
    connection.endheaders()
    response = connection.getresponse()
    body = b""
    while len(body) < BODY_LIMIT:
        if not response.isclosed():
            _until(handle, deadline)
        piece = response.read1(65536)
        if not piece:
            break
        body += piece
    # A page that shows the addresses of the connection is still the same page.
    for text in (own, address):
        body = body.replace(text.encode(), b"ADDRESS")
    place = response.getheader("Location") or ""
    banner = f"HTTP {response.status} {response.reason}".strip() + (f" to {place}" if place else "")
    ok = response.status < 500
    return Answer(
        address,
        ok,
        banner=banner,
        error="" if ok else banner,
        status=response.status,
        sha256=hashlib.sha256(body).hexdigest(),
        signature=(str(response.status), place.replace(f"[{address}]", "ADDRESS").replace(address, "ADDRESS")),
    )


def _https(handle: socket.socket, target: Target, address: str, deadline: float) -> Answer:
    """The certificate is part of what must be the same; whether it is valid is not asked."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with context.wrap_socket(handle, server_hostname=target.host_header or target.name) as session:
        certificate = session.getpeercert(binary_form=True) or b""
        answer = _http(session, target, address, deadline)
    return replace(answer, signature=(*answer.signature, hashlib.sha256(certificate).hexdigest()))


def _dns(target: Target, address: str, deadline: float) -> Answer:
    query = _dns_query(target.dns_name)
    pause = max(0.2, (deadline - time.monotonic()) / 3)
    with socket.socket(_family(address), socket.SOCK_DGRAM) as handle:
        handle.connect(
            socket.getaddrinfo(address, target.port, type=socket.SOCK_DGRAM, flags=socket.AI_NUMERICHOST)[0][4]
        )
        while True:
            handle.send(query)  # UDP may lose it: three tries within the time allowed
            again = min(time.monotonic() + pause, deadline)
            while time.monotonic() < again:
                _until(handle, again)
                try:
                    reply = handle.recv(4096)
                except socket.timeout:
                    break
                if len(reply) >= 12 and reply[:2] == query[:2] and reply[2] & 0x80:
                    return _dns_answer(address, reply)
            if time.monotonic() >= deadline:
                raise socket.timeout


def _dns_query(name: str) -> bytes:
    """Return a query for the A records of NAME, recursion desired (RFC 1035 section 4.1)."""
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.rstrip(".").split(".") if label)
    return struct.pack("!6H", random.getrandbits(16), 0x0100, 1, 0, 0, 0) + labels + b"\0" + struct.pack("!2H", 1, 1)


def _dns_answer(address: str, reply: bytes) -> Answer:
    _ident, flags, _questions, answers, _authority, _additional = struct.unpack("!6H", reply[:12])
    rcode = RCODES.get(flags & 15, str(flags & 15))
    banner = f"{rcode}, {answers} answer(s)"
    ok = rcode == "NOERROR"
    return Answer(address, ok, banner=banner, error="" if ok else f"DNS {rcode}", signature=(rcode, str(answers)))


def by_host(results: Iterable[Result]) -> dict[str, dict[str, object]]:
    """Return for each host: ``ok``, ``conclusive``, ``reason``, ``detail`` and a short, stable list of its services."""
    hosts: dict[str, list[Result]] = {}
    for result in results:
        hosts.setdefault(result.target.name, []).append(result)
    return {name: _summary(found) for name, found in hosts.items()}


def _summary(results: list[Result]) -> dict[str, object]:
    bad = [result for result in results if result.verdict != "same"]
    return {
        "ok": not bad,
        "conclusive": all(result.verdict != "inconclusive" for result in bad),
        "verdicts": sorted({result.verdict for result in results}),
        "reason": "; ".join(f"{_service(result.target)} {_FAULTS[result.verdict]}" for result in bad),
        "detail": "; ".join(result.detail for result in bad),
        "results": [
            {
                "protocol": result.target.protocol,
                "port": result.target.port,
                **({"site": result.target.host_header} if result.target.host_header else {}),
                "ipv4": result.ipv4.ok and result.verdict != "crashed",
                "ipv6": bool(result.ipv6) and all(answer.ok for answer in result.ipv6),
                "verdict": result.verdict,
            }
            for result in results
        ],
    }


def _service(target: Target) -> str:
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
