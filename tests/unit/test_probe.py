"""Answers of real servers on 127.0.0.1 and ::1: no family stands in for the other, and every failure has its name."""

import contextlib
import hashlib
import http.server
import re
import socket
import socketserver
import struct
import threading
import time

import pytest
from module_utils._errors import InputError
from module_utils._probe import Target, by_host, probe, service_addresses, targets, vhost_addresses


def ipv6_here():
    try:
        with socket.socket(socket.AF_INET6) as handle:
            handle.bind(("::1", 0))
    except OSError:
        return False
    return True


pytestmark = pytest.mark.skipif(not ipv6_here(), reason="missing capability: ::1 on this machine")


class Server4(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 64


class Server6(Server4):
    address_family = socket.AF_INET6


def free_port():
    with socket.socket() as four, socket.socket(socket.AF_INET6) as six:
        four.bind(("127.0.0.1", 0))
        six.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        six.bind(("::1", four.getsockname()[1]))
        return four.getsockname()[1]


@pytest.fixture
def serve():
    """Start handlers on one port: ``serve(v4, v6)`` returns the port; None leaves a family without a listener."""
    with contextlib.ExitStack() as running:

        def start(four, six):
            port = free_port()
            for kind, address, handler in ((Server4, "127.0.0.1", four), (Server6, "::1", six)):
                if handler is not None:
                    server = running.enter_context(kind((address, port), handler))
                    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
                    running.callback(server.shutdown)
            return port

        yield start


def greets(text):
    class Handler(socketserver.BaseRequestHandler):
        def handle(self):
            self.request.sendall(text)
            with contextlib.suppress(OSError):
                self.request.recv(100)

    return Handler


def page(body, status=200):
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            text = body(self) if callable(body) else body
            self.send_response(status)
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *_):
            pass

    return Handler


class Silent(socketserver.BaseRequestHandler):
    def handle(self):
        self.request.recv(1)  # until the client gives up


class HangsUp(socketserver.BaseRequestHandler):
    def handle(self):
        pass


class HangsUpInTheGreeting(socketserver.BaseRequestHandler):
    def handle(self):
        self.request.sendall(b"220-mx.example.net wait\r\n")


SMTP = greets(b"220 mx.example.net ESMTP\r\n")


def ask(port, protocol="smtp", **more):
    wanted = [Target("web1", protocol, port, "127.0.0.1", ("::1",), **more.pop("target", {}))]
    return probe(wanted, **{"timeout": 0.4, "recovery": 0.5, **more})[0]


@pytest.mark.parametrize(
    ("protocol", "greeting"),
    [
        ("smtp", b"220-mx.example.net hello\r\n220 ready\r\n"),
        ("submission", b"220 mx.example.net ESMTP\r\n"),
        ("imap", b"* OK [CAPABILITY IMAP4rev1] ready\r\n"),
        ("pop3", b"+OK <1.2@mx.example.net>\r\n"),
        ("ssh", b"SSH-2.0-OpenSSH_10.0\r\n"),
        ("tcp", b""),
    ],
)
def test_a_dual_stack_service_is_the_same(serve, protocol, greeting):
    result = ask(serve(greets(greeting), greets(greeting)), protocol)
    assert (result.verdict, result.ipv4.ok, result.ipv6[0].ok) == ("same", True, True)


@pytest.mark.parametrize(
    ("four", "six", "verdict", "words"),
    [
        (SMTP, None, "ipv6_failed", r"\[::1\]:\d+: Connection refused"),
        (None, SMTP, "ipv4_failed", r"127\.0\.0\.1:\d+: Connection refused"),
        (None, None, "both_failed", r"\[::1\]:\d+: Connection refused; 127\.0\.0\.1:\d+: Connection refused"),
        (SMTP, greets(b"554 go away\r\n"), "ipv6_failed", "not a healthy smtp greeting: '554 go away'"),
        (SMTP, Silent, "ipv6_failed", "no answer within 0.4 s"),
        (SMTP, HangsUp, "ipv6_failed", "closed without a greeting"),
        (SMTP, HangsUpInTheGreeting, "ipv6_failed", "closed in the middle of the greeting"),
        (SMTP, greets(b"220 \r\n"), "differs", "but .* says name ''"),
        (SMTP, greets(b"220 other.example.net ESMTP\r\n"), "differs", "but .* says name 'other.example.net'"),
    ],
)
def test_no_family_stands_in_for_the_other(serve, four, six, verdict, words):
    result = ask(serve(four, six))
    assert result.verdict == verdict
    assert re.search(words, result.detail), result.detail


def test_texts_that_change_with_each_connection_are_no_difference(serve):
    assert ask(serve(greets(b"+OK <1.1@mx>\r\n"), greets(b"+OK <2.2@mx>\r\n")), "pop3").verdict == "same"


@pytest.mark.parametrize(
    ("four", "six", "verdict"),
    [
        (page(b"site"), page(b"site"), "same"),
        (page(b"site"), page(b"It works!"), "differs"),
        (page(b"site"), page(b"site", 403), "differs"),
        (page(b"gone", 404), page(b"gone", 404), "same"),
        (page(b"site"), page(b"site", 503), "ipv6_failed"),
        (page(lambda r: r.client_address[0].encode()), page(lambda r: r.client_address[0].encode()), "same"),
        (page(lambda _: str(time.time_ns()).encode()), page(lambda _: str(time.time_ns()).encode()), "same"),
    ],
)
def test_a_site_is_compared_by_status_and_body(serve, four, six, verdict):
    result = ask(serve(four, six), "http")
    assert result.verdict == verdict, result.detail


def test_the_site_is_asked_by_its_name(serve):
    site = page(lambda r: f"{r.headers['Host']} {r.path}".encode())
    result = ask(serve(site, site), "http", target={"host_header": "www.example.net", "path": "/a"})
    expected = hashlib.sha256(b"www.example.net /a").hexdigest()
    assert result.ipv4.sha256 == result.ipv6[0].sha256 == expected


class Crashing:
    """A service that stops listening on both families at its first IPv6 connection, and may come back."""

    def __init__(self, back_after):
        self.port, self.back_after = free_port(), back_after
        self.four = self.listen(socket.AF_INET, "127.0.0.1")
        self.six = self.listen(socket.AF_INET6, "::1")
        threading.Thread(target=self.serve, daemon=True).start()
        threading.Thread(target=self.die, daemon=True).start()

    def listen(self, family, address):
        handle = socket.socket(family)
        handle.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        handle.bind((address, self.port))
        handle.listen()
        return handle

    def serve(self):
        with contextlib.suppress(OSError):
            while True:
                connection, _peer = self.four.accept()
                connection.sendall(b"220 mx.example.net\r\n")
                connection.recv(100)
                connection.close()

    def die(self):
        connection, _peer = self.six.accept()
        self.four.shutdown(socket.SHUT_RDWR)
        self.four.close()
        self.six.close()
        connection.close()
        if self.back_after is not None:
            time.sleep(self.back_after)
            self.four = self.listen(socket.AF_INET, "127.0.0.1")
            self.serve()


def test_a_service_that_dies_of_ipv6_is_seen_and_waited_for():
    begun = time.monotonic()
    result = ask(Crashing(0.2).port)
    assert result.verdict == "crashed"
    assert 150 <= result.down_ms <= 1000 * (time.monotonic() - begun)
    assert "stops answering over IPv4 after an IPv6 connection" in result.detail


def test_a_service_that_stays_dead_is_said_to_be_down():
    result = ask(Crashing(None).port, recovery=0.2)
    assert (result.verdict, result.down_ms) == ("crashed", None)
    assert "still down" in result.detail
    assert by_host([result])["web1"]["results"][0]["ipv4"] is False


def test_a_vantage_host_without_ipv6_is_not_held_against_the_target(serve):
    port = serve(SMTP, None)
    control = {"ipv4": "127.0.0.1", "ipv6": "::1", "port": port}
    result = ask(port, control=control)
    assert result.verdict == "inconclusive"
    assert "control target [::1]" in result.detail
    assert by_host([result])["web1"]["conclusive"] is False


def test_a_control_target_that_answers_leaves_the_blame_where_it_is(serve):
    control = {"ipv4": "127.0.0.1", "ipv6": "::1", "port": serve(SMTP, SMTP)}
    assert ask(serve(SMTP, None), control=control).verdict == "ipv6_failed"


def test_a_missing_route_of_the_vantage_host_is_inconclusive(serve):
    port = serve(SMTP, None)
    # A zone that does not exist is refused by this machine's own kernel.
    wanted = [Target("web1", "smtp", port, "127.0.0.1", ("fe80::1",))]
    result = probe(wanted, timeout=0.4)[0]
    assert result.verdict == "inconclusive"
    assert "no route to fe80::1" in result.detail


class Dns(threading.Thread):
    def __init__(self, family, address, port, rcode):
        super().__init__(daemon=True)
        self.handle, self.rcode = socket.socket(family, socket.SOCK_DGRAM), rcode
        self.handle.bind((address, port))

    def run(self):
        with contextlib.suppress(OSError):
            while True:
                query, peer = self.handle.recvfrom(512)
                self.handle.sendto(query[:2] + struct.pack("!5H", 0x8000 | self.rcode, 1, 0, 0, 0) + query[12:], peer)


@pytest.mark.parametrize(("rcode", "verdict"), [(0, "same"), (5, "ipv6_failed")])
def test_a_name_server_answers_over_both(rcode, verdict):
    port = free_port()
    for family, address, code in ((socket.AF_INET, "127.0.0.1", 0), (socket.AF_INET6, "::1", rcode)):
        Dns(family, address, port, code).start()
    result = ask(port, "dns", target={"dns_name": "www.example.net"})
    assert result.verdict == verdict
    assert rcode == 0 or "DNS REFUSED" in result.detail


def test_targets_are_asked_at_the_same_time(serve):
    together = threading.Barrier(20)

    class Together(socketserver.BaseRequestHandler):
        """Greets when all twenty are here: one after the other would wait for ever."""

        def handle(self):
            with contextlib.suppress(threading.BrokenBarrierError, OSError):
                together.wait(10)
                self.request.sendall(b"220 mx.example.net\r\n")
                self.request.recv(100)

    port = serve(Together, SMTP)
    results = probe([Target(f"h{n}", "smtp", port, "127.0.0.1", ("::1",)) for n in range(20)], timeout=10)
    assert [result.target.name for result in results] == [f"h{n}" for n in range(20)]
    assert {result.ipv4.ok for result in results} == {True}


def test_a_body_that_is_not_large_proves_no_path(serve):
    result = ask(serve(page(b"site"), page(b"site")), "http", target={"min_bytes": 5})
    assert result.verdict == "both_failed"
    assert "a body of 4 bytes, 5 are wanted" in result.detail


@pytest.mark.parametrize(
    ("four", "six", "verdict", "listed"),
    [
        (None, None, "absent", False),
        (None, SMTP, "exposed", True),
        (SMTP, SMTP, "same", True),
        (SMTP, None, "ipv6_failed", True),
    ],
)
def test_what_need_not_be_there_must_be_closed_over_both(serve, four, six, verdict, listed):
    result = ask(serve(four, six), target={"optional": True})
    host = by_host([result])["web1"]
    assert (result.verdict, len(host["results"])) == (verdict, listed), result.detail
    assert host["ok"] is (verdict in ("same", "absent"))
    assert ("smtp on port" in host["reason"]) is not host["ok"]


class Named(socketserver.BaseRequestHandler):
    """Tells a client its address, as Exim and Sendmail do; behind a translator that is another one."""

    seen = ""

    def handle(self):
        self.request.sendall(b"220 mx.example.net\r\n")
        self.request.recv(100)
        self.request.sendall(f"250 mx.example.net Hello probe [{self.seen or self.client_address[0]}]\r\n".encode())
        self.request.recv(100)


def test_the_address_that_the_server_sees_is_told_and_compared(serve):
    class Translated(Named):
        seen = "IPv6:2001:db8::99"

    result = ask(serve(Named, Named))
    assert (result.ipv6[0].source, result.ipv6[0].seen, result.remarks) == ("::1", "::1", ())
    result = ask(serve(Named, Translated))
    assert result.verdict == "same"
    assert result.remarks == ("web1 smtp: ::1 sees 2001:db8::99, the vantage host sent from ::1",)


class Slow(socketserver.BaseRequestHandler):
    """Keeps a stranger waiting in the middle of the greeting, as postscreen does."""

    def handle(self):
        self.request.sendall(b"220-mx.example.net wait\r\n")
        time.sleep(0.6)
        self.request.sendall(b"220 mx.example.net ready\r\n")
        assert self.request.recv(100).startswith(b"EHLO")
        self.request.sendall(b"250-mx.example.net\r\n250 STARTTLS\r\n")
        self.request.recv(100)


def test_a_greeting_that_has_begun_is_waited_for(serve):
    result = ask(serve(Slow, Slow))
    assert result.verdict == "same", result.detail
    assert ("extensions", "STARTTLS") in result.ipv6[0].signature


def test_results_are_grouped_by_host(serve):
    good, bad = serve(SMTP, SMTP), serve(SMTP, None)
    wanted = [
        Target(name, "smtp", port, "127.0.0.1", ("::1",)) for name, port in [("a", good), ("a", bad), ("b", good)]
    ]
    hosts = by_host(probe(wanted, timeout=0.4))
    assert (hosts["a"]["ok"], hosts["b"]["ok"]) == (False, True)
    assert hosts["a"]["results"][1] == {
        "protocol": "smtp",
        "port": bad,
        "ipv4": True,
        "ipv6": False,
        "verdict": "ipv6_failed",
    }


def test_a_site_that_fails_is_told_by_its_name(serve):
    port = serve(SMTP, None)
    sites = [Target("a", "smtp", port, "127.0.0.1", ("::1",), host_header=name) for name in ("shop", "blog")]
    host = by_host(probe(sites, timeout=0.4))["a"]
    assert host["reason"] == f"smtp of shop on port {port} does not answer over IPv6; " + (
        f"smtp of blog on port {port} does not answer over IPv6"
    )
    assert [result["site"] for result in host["results"]] == ["shop", "blog"]


def test_what_a_protocol_needs_is_said_at_once():
    common = {"name": "a", "ipv4": "192.0.2.1", "ipv6": "2001:db8::1"}
    records = [
        {**common, "protocol": "closed"},
        {**common, "protocol": "closed", "ports": [0, 80]},
        {**common, "protocol": "mtu", "min_bytes": 1279},
        {**common, "protocol": "http", "path": "large"},
        {**common, "protocol": "ssh", "prefix": "2001:db8::1/64"},
    ]
    account = {"name": "b", "account": {"user": "bob", "password": "not-a-secret"}}
    with pytest.raises(InputError) as caught:
        targets(records, [account])
    assert [re.split("[ :]", problem)[0] for problem in caught.value.problems] == [
        *(f"targets[{index}]" for index in range(5)),
        "accounts",
    ]
    assert "not-a-secret" not in str(caught.value)


def test_all_that_is_wrong_with_the_input_is_said_at_once():
    with pytest.raises(InputError) as caught:
        targets(
            [
                {"name": "a", "protocol": "gopher", "ipv4": "192.0.2.1", "ipv6": "2001:db8::1"},
                {"name": "b", "protocol": "tcp", "ipv4": "2001:db8::1", "ipv6": ["192.0.2.1"]},
                {"name": "c", "protocol": "dns", "ipv4": "www.example.net", "ipv6": []},
                {
                    "name": "d",
                    "protocol": "http",
                    "port": 70000,
                    "path": "/a b",
                    "ipv4": "192.0.2.1",
                    "ipv6": "2001:db8::1",
                },
            ]
        )
    text = "\n".join(caught.value.problems)
    assert len(caught.value.problems) == 9
    for words in (
        "'gopher'",
        "tcp has no default port",
        "'192.0.2.1' is an IPv4 address",
        "'www.example.net' is not",
        "70000",
    ):
        assert words in text


def test_services_answer_at_the_host_and_at_the_first_address_of_its_prefix():
    assert service_addresses({"address": "2001:db8::1", "delegated_prefix": ""}) == ["2001:db8::1"]
    both = service_addresses({"address": "2001:db8::1", "delegated_prefix": "2001:db8:200:1011::/64"})
    assert both == ["2001:db8::1", "2001:db8:200:1011::1"]


def test_a_virtual_host_answers_at_the_first_address_of_its_prefix():
    assert vhost_addresses({"vhosts": {"shop": "2001:db8:200:11:5409::/80"}}) == {"shop": "2001:db8:200:11:5409::1"}
    assert vhost_addresses({"vhosts": {}}) == {}
    with pytest.raises(ValueError, match="vhosts is not a mapping"):
        vhost_addresses({"vhosts": ["shop"]})
