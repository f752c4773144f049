# SPDX-License-Identifier: GPL-3.0-or-later
"""What a client says to one service at one address, and what it is told. Nobody logs in, no mail is sent."""

from __future__ import annotations

import contextlib
import hashlib
import ipaddress
import os
import random
import re
import socket
import ssl
import struct
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from http.client import HTTPConnection, HTTPException

from ._certificate import Certificate, parse

BODY_LIMIT = 8 * 1024 * 1024
LINE_LIMIT = 4096
LINES = 200
PATIENCE = 12  # times the time allowed, for a body that keeps coming
MARK = b"a"  # of our IMAP commands
RCODES = {0: "NOERROR", 1: "FORMERR", 2: "SERVFAIL", 3: "NXDOMAIN", 4: "NOTIMP", 5: "REFUSED"}
ACME = "/.well-known/acme-challenge/dualstack-probe"  # RFC 8555 section 8.3
LITERAL = re.compile(r"[\[(]\s*(?:IPv6:)?([0-9a-fA-F:.]{3,45})\s*[\])]")


Signature = tuple[tuple[str, str], ...]


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
    min_bytes: int = 0
    ports: tuple[int, ...] = ()
    prefix: str = ""
    optional: bool = False
    account: tuple[str, str] = ("", "")

    @property
    def site(self) -> str:
        """The name that the client asks for."""
        return self.host_header or self.name


@dataclass(frozen=True)
class Answer:
    """What one address said. ``signature`` holds what must be the same over both families, each with its label."""

    address: str
    ok: bool
    latency_ms: float = 0.0
    banner: str = ""
    error: str = ""
    status: int | None = None
    size: int | None = None
    sha256: str = ""
    signature: Signature = ()
    certificate: Certificate | None = None
    source: str = ""
    seen: str = ""
    ports: tuple[int, ...] = ()
    routed: bool = True
    reached: bool = True
    stalled: bool = False

    def public(self) -> dict[str, object]:
        shown: dict[str, object] = {"address": self.address, "ok": self.ok, "latency_ms": round(self.latency_ms, 1)}
        shown.update(
            {key: value for key in ("banner", "error", "sha256", "source", "seen") if (value := getattr(self, key))}
        )
        shown.update({key: value for key in ("status", "size") if (value := getattr(self, key)) is not None})
        if self.certificate:
            shown["certificate"] = self.certificate.public()
        if self.ports:
            shown["open"] = list(self.ports)
        return shown


class Unreached(OSError):
    """No connection, and nobody refused it: the packets do not get there or not back."""


class Stalled(OSError):
    """An answer that ends in its middle: the small packets came, the large ones do not."""


class Session:
    """A connection that is read by lines. Each answer may take ``timeout`` seconds."""

    def __init__(self, handle: socket.socket, timeout: float) -> None:
        self.handle, self.timeout, self.buffer = handle, timeout, b""

    def line(self, patience: float = 1.0) -> bytes:
        """Return the next line without its end, or nothing when the connection is closed."""
        deadline = time.monotonic() + self.timeout * patience
        while b"\n" not in self.buffer and len(self.buffer) < LINE_LIMIT:
            until(self.handle, deadline)
            piece = self.handle.recv(LINE_LIMIT)
            if not piece:
                break
            self.buffer += piece
        line, _end, self.buffer = self.buffer.partition(b"\n")
        return line.rstrip(b"\r")

    def lines(self, last: Callable[[bytes], bool], patience: float = 1.0) -> list[str]:
        """Return the lines up to one that LAST says is the last; an empty one where the connection is closed."""
        found: list[str] = []
        while len(found) < LINES:
            line = self.line(patience)
            found.append(line.decode("utf-8", "replace").strip())
            if not line or last(line):
                break
        return found

    def ask(self, command: bytes, last: Callable[[bytes], bool]) -> list[str]:
        self.handle.sendall(command + b"\r\n")
        return self.lines(last)

    def tls(self, name: str) -> Certificate:
        """Encrypt the connection and return the server's certificate."""
        self.handle, certificate = encrypt(self.handle, name, time.monotonic() + self.timeout)
        return certificate


def alike(answer: Answer, ipv4: Answer, again: Answer | None) -> bool:
    """Tell whether ANSWER says what IPV4 said. A body that changes by itself over IPv4 proves nothing."""
    if answer.signature != ipv4.signature:
        return False
    moving = again is not None and again.sha256 != ipv4.sha256
    return moving or answer.sha256 == ipv4.sha256


def contrast(first: Answer, second: Answer) -> tuple[str, str]:
    """Return what FIRST and SECOND say, each in words that show the difference."""
    left, right = dict(first.signature), dict(second.signature)
    labels = [label for label in {**left, **right} if left.get(label) != right.get(label)]
    if not labels or {"status", "greeting"} & set(labels):
        return said(first), said(second)
    return _labelled(left, labels), _labelled(right, labels)


def _labelled(part: Mapping[str, str], labels: Iterable[str]) -> str:
    return ", ".join(f"{label} {part.get(label, 'none')!r}" for label in labels)


def said(answer: Answer) -> str:
    return f"{answer.banner!r}" + (f" (body {answer.sha256[:12]})" if answer.sha256 else "")


def until(handle: socket.socket, deadline: float) -> None:
    left = deadline - time.monotonic()
    if left <= 0:
        raise socket.timeout
    handle.settimeout(left)


def family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def at(address: str, port: int) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def ask(target: Target, address: str, timeout: float, dialogue: Dialogue | None = None) -> Answer:
    """Ask the service of TARGET at ADDRESS, and only there; each step may take TIMEOUT seconds."""
    begun = time.monotonic()
    try:
        answer = (dialogue or DIALOGUES[target.protocol])(target, address, timeout)
    except (OSError, HTTPException, ValueError) as error:
        answer = Answer(
            address,
            False,
            error=words(error, timeout),
            routed=is_routed(address),
            reached=not isinstance(error, Unreached),
            stalled=isinstance(error, Stalled),
        )
    return replace(answer, latency_ms=(time.monotonic() - begun) * 1000)


def words(error: Exception, timeout: float) -> str:
    number = getattr(error, "errno", None)
    if isinstance(error, (socket.timeout, TimeoutError)) and not number:
        return f"no answer within {timeout:g} s"
    # Of ssl, errno is a number of OpenSSL's.
    return (
        os.strerror(number) if number and not isinstance(error, ssl.SSLError) else (str(error) or type(error).__name__)
    )


def is_routed(address: str) -> bool:
    """Tell whether this machine has a route to ADDRESS; connecting a UDP socket asks the kernel and sends nothing."""
    with socket.socket(family(address), socket.SOCK_DGRAM) as handle:
        try:
            handle.connect((address, 9))
        except OSError:
            return False
    return True


def endpoint(address: str, port: int, kind: socket.SocketKind) -> tuple:
    return socket.getaddrinfo(address, port, type=kind, flags=socket.AI_NUMERICHOST)[0][4]


@contextlib.contextmanager
def connected(address: str, port: int, timeout: float) -> Iterator[socket.socket]:
    """Yield a connection to PORT at ADDRESS."""
    with socket.socket(family(address), socket.SOCK_STREAM) as handle:
        handle.settimeout(timeout)
        try:
            handle.connect(endpoint(address, port, socket.SOCK_STREAM))
        except ConnectionRefusedError:
            raise
        except OSError as error:
            raise Unreached(*(error.args if error.errno else [words(error, timeout)])) from error
        yield handle


def encrypt(handle: socket.socket, name: str, deadline: float) -> tuple[ssl.SSLSocket, Certificate]:
    """Return HANDLE encrypted, and the certificate. Nobody asks whether that is trusted or the cipher a good one."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    context.set_ciphers("DEFAULT:@SECLEVEL=0")
    until(handle, deadline)
    try:
        session = context.wrap_socket(handle, server_hostname=name)
    except (socket.timeout, TimeoutError):
        raise Stalled("connects, but the TLS handshake does not come to its end") from None
    return session, parse(session.getpeercert(binary_form=True) or b"")


def _identity(certificate: Certificate) -> Signature:
    return (("certificate", str(certificate)),)


def _upgraded(session: Session, target: Target) -> tuple[Certificate | None, Signature]:
    """Encrypt SESSION after STARTTLS. A server that cannot do what it offers is the same over both families."""
    try:
        certificate = session.tls(target.site)
    except (ssl.SSLError, ConnectionError, ValueError):
        return None, (("TLS", "fails"),)
    return certificate, _identity(certificate)


def _leave(session: Session, command: bytes) -> None:
    """Take leave; all that matters has been said."""
    with contextlib.suppress(OSError):
        session.handle.sendall(command + b"\r\n")


def _tcp(target: Target, address: str, timeout: float) -> Answer:
    with connected(address, target.port, timeout) as handle:
        return Answer(address, True, source=handle.getsockname()[0])


# --- services that speak first ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Greeter:
    """A protocol in which the server speaks first: a healthy greeting, its last line, how a client takes its leave."""

    healthy: re.Pattern[bytes]
    conversation: Callable[[Session, Target, str], Answer] | None = None
    tls: bool = False


def _greeting(target: Target, address: str, timeout: float) -> Answer:
    protocol = GREETERS[target.protocol]
    with connected(address, target.port, timeout) as handle:
        session, source = Session(handle, timeout), handle.getsockname()[0]
        try:
            certificate = session.tls(target.site) if protocol.tls else None
            answer = _greeted(session, protocol, target)
        finally:
            session.handle.close()
    if certificate:
        answer = replace(answer, certificate=certificate, signature=answer.signature + _identity(certificate))
    return replace(answer, address=address, source=source)


def _greeted(session: Session, protocol: Greeter, target: Target) -> Answer:
    line = session.line()
    banner = line.decode("utf-8", "replace").strip()
    if not line:
        return Answer("", False, error="the connection was closed without a greeting")
    if not protocol.healthy.match(line):
        return Answer("", False, banner=banner, error=f"not a healthy {target.protocol} greeting: {banner!r}")
    if not protocol.conversation:
        return Answer("", True, banner=banner, signature=(("greeting", banner),))
    return replace(protocol.conversation(session, target, banner), banner=banner)


def _code_ends(line: bytes) -> bool:
    """Tell whether LINE is the last of a reply (RFC 5321 section 4.2, RFC 959 section 4.2)."""
    return re.match(rb"[0-9]{3}(?!-)", line) is not None


def _smtp(session: Session, target: Target, banner: str) -> Answer:
    """The server's name, its extensions and, where it offers STARTTLS, its certificate (RFC 5321, RFC 3207)."""
    name = banner[4:].split()[:1]  # RFC 5321 section 4.2: 220, the name, free text
    # Between the lines postscreen(8) keeps strangers waiting for six seconds.
    if not _code_ends(banner.encode()) and not _code_ends(session.lines(_code_ends, 3)[-1].encode()):
        raise OSError("the connection was closed in the middle of the greeting")
    own = session.handle.getsockname()[0]
    literal = f"[IPv6:{own}]" if ":" in own else f"[{own}]"  # RFC 5321 section 4.1.3
    hello, *extensions = session.ask(b"EHLO " + literal.encode(), _code_ends)
    offered = sorted({_keyword(line[4:]) for line in extensions})
    signature: Signature = (
        ("name", " ".join(name)),
        ("reply to EHLO", hello[:3]),
        ("extensions", " ".join(offered)),
    )
    certificate: Certificate | None = None
    secured: Signature = ()
    if "STARTTLS" in offered:
        (reply, *_rest) = session.ask(b"STARTTLS", _code_ends)
        secured = (("reply to STARTTLS", reply[:3]),)
        if reply.startswith("220"):
            certificate, secured = _upgraded(session, target)
    _leave(session, b"QUIT")
    return Answer("", True, seen=_named_address(hello), signature=signature + secured, certificate=certificate)


def _keyword(line: str) -> str:
    """Return a line of EHLO's answer without sizes, which may follow the free space of a disk."""
    word, *values = line.upper().split() or [""]
    return " ".join([word, *sorted(values)]) if word.startswith("AUTH") else word


def _named_address(text: str) -> str:
    """Return the address in TEXT that the server sees its client at, where it tells (Exim and Sendmail do)."""
    for found in LITERAL.findall(text):
        with contextlib.suppress(ValueError):
            return str(ipaddress.ip_address(found))
    return ""


def _imap(session: Session, target: Target, _banner: str) -> Answer:
    """What the server can before login and, where it offers STARTTLS, its certificate (RFC 9051)."""

    def ends(line: bytes) -> bool:
        return line.startswith(MARK + b" ")

    lines = session.ask(MARK + b" CAPABILITY", ends)
    offered = sorted(
        {word for line in lines if line.upper().startswith("* CAPABILITY") for word in line.upper().split()[2:]}
    )
    certificate: Certificate | None = None
    secured: Signature = ()
    if "STARTTLS" in offered and session.ask(MARK + b" STARTTLS", ends)[-1].upper().startswith("A OK"):
        certificate, secured = _upgraded(session, target)
    _leave(session, MARK + b" LOGOUT")
    return Answer("", True, signature=(("capabilities", " ".join(offered)), *secured), certificate=certificate)


def _pop3(session: Session, target: Target, _banner: str) -> Answer:
    """What the server can before login and, where it offers STLS, its certificate (RFC 1939, RFC 2449, RFC 2595)."""
    offered: list[str] = []
    session.handle.sendall(b"CAPA\r\n")
    if session.line().startswith(b"+OK"):
        offered = sorted(line.upper() for line in session.lines(lambda line: line == b".") if line != ".")
    certificate: Certificate | None = None
    secured: Signature = ()
    if "STLS" in offered:
        session.handle.sendall(b"STLS\r\n")
        if session.line().startswith(b"+OK"):
            certificate, secured = _upgraded(session, target)
    _leave(session, b"QUIT")
    return Answer("", True, signature=(("capabilities", ", ".join(offered)), *secured), certificate=certificate)


SMTP, IMAP, POP3 = re.compile(rb"220[ -]"), re.compile(rb"\* (OK|PREAUTH)\b"), re.compile(rb"\+OK\b")
GREETERS = {
    "smtp": Greeter(SMTP, _smtp),
    "submission": Greeter(SMTP, _smtp),
    "submissions": Greeter(SMTP, _smtp, tls=True),
    "imap": Greeter(IMAP, _imap),
    "imaps": Greeter(IMAP, _imap, tls=True),
    "pop3": Greeter(POP3, _pop3),
    "pop3s": Greeter(POP3, _pop3, tls=True),
    "ssh": Greeter(re.compile(rb"SSH-2\.0-")),
}


# --- HTTP -------------------------------------------------------------------------------------------------------------


def _http(target: Target, address: str, timeout: float) -> Answer:
    with connected(address, target.port, timeout) as handle:
        return _page(handle, target, address, timeout)


def _https(target: Target, address: str, timeout: float) -> Answer:
    with connected(address, target.port, timeout) as handle:
        session, certificate = encrypt(handle, target.site, time.monotonic() + timeout)
        with session:
            answer = _page(session, target, address, timeout)
    return replace(answer, certificate=certificate, signature=answer.signature + _identity(certificate))


def _page(handle: socket.socket, target: Target, address: str, timeout: float) -> Answer:
    connection = HTTPConnection(address, target.port)
    connection.sock = handle
    own = handle.getsockname()[0]
    handle.settimeout(timeout)
    connection.putrequest("GET", target.path, skip_host=True, skip_accept_encoding=True)
    connection.putheader("Host", target.site)
    connection.putheader("User-Agent", "dualstack-probe")
    connection.putheader("Connection", "close")
    connection.endheaders()
    response = connection.getresponse()
    body, deadline = b"", time.monotonic() + PATIENCE * timeout
    while len(body) < BODY_LIMIT:
        try:
            if not response.isclosed():
                until(handle, min(deadline, time.monotonic() + timeout))
            piece = response.read1(65536)
        except (socket.timeout, TimeoutError):
            raise Stalled(f"the answer stops after {len(body)} bytes") from None
        if not piece:
            break
        body += piece
    size = len(body)
    # A page that shows the addresses of the connection is still the same page.
    for text in (own, address):
        body = body.replace(text.encode(), b"ADDRESS")
    place = response.getheader("Location") or ""
    banner = f"HTTP {response.status} {response.reason}".strip() + (f" to {place}" if place else "")
    error = banner if response.status >= 500 else ""
    if not error and size < target.min_bytes:
        error = f"a body of {size} bytes, {target.min_bytes} are wanted"
    place = place.replace(f"[{address}]", "ADDRESS").replace(address, "ADDRESS")
    return Answer(
        address,
        not error,
        banner=banner,
        error=error,
        status=response.status,
        size=size,
        sha256=hashlib.sha256(body).hexdigest(),
        signature=(("status", str(response.status)), *([("redirection", place)] if place else [])),
        source=own,
    )


# --- DNS --------------------------------------------------------------------------------------------------------------


def _dns(target: Target, address: str, timeout: float) -> Answer:
    query, deadline = _dns_query(target.dns_name), time.monotonic() + timeout
    with socket.socket(family(address), socket.SOCK_DGRAM) as handle:
        handle.connect(endpoint(address, target.port, socket.SOCK_DGRAM))
        while True:
            handle.send(query)  # UDP may lose it: three tries within the time allowed
            again = min(time.monotonic() + max(0.2, timeout / 3), deadline)
            while time.monotonic() < again:
                until(handle, again)
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
    error = "" if rcode == "NOERROR" else f"DNS {rcode}"
    return Answer(
        address, not error, banner=banner, error=error, signature=(("response", rcode), ("answers", str(answers)))
    )


Dialogue = Callable[[Target, str, float], Answer]
DIALOGUES: dict[str, Dialogue] = {
    **dict.fromkeys(GREETERS, _greeting),
    "http": _http,
    "acme": _http,
    "https": _https,
    "dns": _dns,
    "tcp": _tcp,
}
