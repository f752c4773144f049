"""Answers of a name server that the test makes up: read as they are, or refused, and not waited for again and again."""

import socket
import struct
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st
from module_utils._criteria import Subject, criteria, subjects
from module_utils._errors import InputError
from module_utils._lookup import LookupFailed, Resolver, _answers

dns = pytest.importorskip("dns", reason="missing capability: dnspython")
for part in ("message", "query", "rrset", "flags"):
    pytest.importorskip(f"dns.{part}")

VALUES = {
    "A": ["192.0.2.1"],
    "AAAA": ["2001:db8::1", "2001:db8::2"],
    "PTR": ["web1.example.net"],
    "NS": ["ns1.example.net", "ns2.example.net"],
}


def reply(name, kind, *values):
    message = dns.message.make_response(dns.message.make_query(name, kind))
    message.answer.append(dns.rrset.from_text(f"{name}.", 60, "IN", "CNAME", f"alias.{name}."))
    if values:
        message.answer.append(dns.rrset.from_text(f"alias.{name}.", 60, "IN", kind, *values))
    return message


@pytest.mark.parametrize(("kind", "values"), VALUES.items())
def test_values_are_read_behind_an_alias(kind, values):
    written = [value if kind in ("A", "AAAA") else f"{value}." for value in values]
    assert sorted(_answers(reply("www.example.net", kind, *written).to_wire(), kind)) == values


def test_an_exchanger_is_its_name_and_a_text_is_one():
    assert _answers(reply("a.example", "MX", "10 MX.a.example.").to_wire(), "MX") == ["mx.a.example"]
    assert _answers(reply("a.example", "TXT", '"v=spf1 ip6:" "2001:db8::1"').to_wire(), "TXT") == [
        "v=spf1 ip6:2001:db8::1"
    ]
    assert _answers(reply("a.example", "TXT").to_wire(), "TXT") == []


@given(st.binary(max_size=80), st.integers(0, 200))
def test_a_damaged_answer_ends(noise, place):
    wire = reply("www.example.net", "MX", "10 mx.example.net.", "20 mx2.example.net.").to_wire()
    server = Answering(wire[:place] + noise + wire[place + len(noise) :])
    try:
        Resolver("127.0.0.1", server.port, 0.3).ask("www.example.net", "MX")
    except LookupFailed:
        pass
    finally:
        server.close()


def same_port():
    """Return a socket of UDP and one of TCP with one port, which another program may have for one of them."""
    while True:
        handle = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        handle.bind(("127.0.0.1", 0))
        try:
            return handle, socket.create_server(("127.0.0.1", handle.getsockname()[1]))
        except OSError:
            handle.close()


class Answering:
    """A server that answers every question with WIRE, but for its number; with none, never."""

    def __init__(self, wire, truncated=False):
        self.handle, self.tcp = same_port()
        self.port, self.asked, self.wire, self.truncated = self.handle.getsockname()[1], 0, wire, truncated
        for work in (self.udp_side, self.tcp_side):
            threading.Thread(target=work, daemon=True).start()

    def udp_side(self):
        while True:
            query, peer = self.handle.recvfrom(512)
            if not query:
                return
            self.asked += 1
            flags = struct.pack("!H", 0x8200) if self.truncated else self.wire[2:4]
            if self.wire:
                self.handle.sendto(query[:2] + flags + self.wire[4:], peer)

    def tcp_side(self):
        while True:
            try:
                session, _peer = self.tcp.accept()
            except OSError:
                return
            with session:
                query = session.recv(512)
                session.sendall(struct.pack("!H", len(self.wire)) + query[2:4] + self.wire[2:])

    def close(self):
        self.handle.sendto(b"", ("127.0.0.1", self.port))
        self.tcp.shutdown(socket.SHUT_RDWR)
        self.tcp.close()


def test_an_answer_that_does_not_fit_is_fetched_over_tcp():
    server = Answering(reply("a.example", "AAAA", "2001:db8::1").to_wire(), truncated=True)
    assert Resolver("127.0.0.1", server.port, 2).ask("a.example", "AAAA") == ["2001:db8::1"]


def test_a_silent_server_is_waited_for_twice():
    server = Answering(b"")
    resolver = Resolver("127.0.0.1", server.port, 0.1)
    met = criteria(Subject("a", "a.example", "example", "192.0.2.1", "2001:db8::1", "2001:db8::1"), resolver, [])
    assert {one.met for one in met.values()} == {None}
    assert server.asked == 2


def test_all_addresses_that_are_none_are_named_at_once():
    right = {"name": "a", "domain": "a.example", "zone": "example", "ipv4": "192.0.2.1", "ipv6": "2001:db8::1"}
    with pytest.raises(InputError) as caught:
        subjects([right, {**right, "ipv4": "2001:db8::1"}, {**right, "ipv6": "", "source": "192.0.2.1"}])
    assert [problem.split()[0] + problem.split()[2] for problem in caught.value.problems] == [
        "names[1]ipv4",
        "names[2]ipv6",
        "names[2]source",
    ]
