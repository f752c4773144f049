"""Dynamic updates against a name server that the test starts: our values in, our values out, nobody else's touched."""

import contextlib
import shutil
import socket
import socketserver
import struct
import subprocess
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from module_utils._dns import RRset, Wish, Zones, batches, decide, in_zone, publish, records_of, summary, wishes
from module_utils._errors import DualStackError, InputError

dns = pytest.importorskip("dns", reason="missing capability: dnspython")
for part in ("flags", "message", "query", "rcode", "rdatatype", "rrset", "tsig", "update", "zone"):
    pytest.importorskip(f"dns.{part}")

from module_utils._nameserver import NameServer  # noqa: E402 - needs dnspython, asked for above

SECRET = "b25seSBmb3IgdGVzdHM="
ZONE = "$TTL 300\n@ SOA ns hostmaster 1 3600 600 86400 300\n@ NS ns\nns A 192.0.2.53\n"
FORWARD = ZONE + "web1 A 192.0.2.11\nold AAAA 2001:db8:dead::1\nalias CNAME ns\n"
REVERSE = "8.b.d.0.1.0.0.2.ip6.arpa"
KEY = ("example.net.", "web1.example.net.", "AAAA")


def aaaa(name="web1", value="2001:db8::1", **more):
    return {"name": f"{name}.example.net", "zone": "example.net", "type": "AAAA", "value": value, "ttl": 300, **more}


def ptr(index=1, value="web1.example.net", **more):
    return {"name": f"{index}.{REVERSE}", "zone": REVERSE, "type": "PTR", "value": value, "ttl": 300, **more}


class Primary:
    """A primary name server for two zones: queries and RFC 2136 updates over TCP, signed by TSIG."""

    def __init__(self):
        self.zones = {
            f"{origin}.": dns.zone.from_text(text, f"{origin}.", relativize=False)
            for origin, text in (("example.net", FORWARD), (REVERSE, ZONE))
        }
        self.refuse, self.ignore = "", False
        primary = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self):
                (size,) = struct.unpack("!H", self.rfile.read(2))
                reply = primary.answer(self.rfile.read(size))
                self.wfile.write(struct.pack("!H", len(reply)) + reply)

        class Tcp(socketserver.ThreadingTCPServer):
            daemon_threads = True

        self.tcp = Tcp(("127.0.0.1", 0), Handler)
        self.port = self.tcp.server_address[1]
        threading.Thread(target=self.tcp.serve_forever, args=(0.01,), daemon=True).start()

    def answer(self, wire):
        query = dns.message.from_wire(
            wire, keyring={dns.name.from_text("dualstack."): dns.tsig.Key("dualstack.", SECRET)}
        )
        reply = dns.message.make_response(query)
        zone = next((z for name, z in self.zones.items() if query.question[0].name.is_subdomain(z.origin)), None)
        if zone is None:
            reply.set_rcode(dns.rcode.REFUSED)
        elif query.opcode() == dns.opcode.UPDATE:
            reply.set_rcode(self.update(zone, query))
        else:
            reply.flags |= dns.flags.AA
            question = query.question[0]
            for kind in (question.rdtype, dns.rdatatype.CNAME):
                found = zone.get_rrset(question.name, kind)
                if found is not None:
                    reply.answer.append(found)
        return reply.to_wire()

    def update(self, zone, message):
        if zone.origin.to_text() == self.refuse:
            return dns.rcode.REFUSED
        for wanted in message.prerequisite:
            held = zone.get_rdataset(wanted.name, wanted.rdtype)
            if (wanted.deleting == dns.rdataclass.NONE) != (held is None) or (held and set(held) != set(wanted)):
                return dns.rcode.NXRRSET if held is None else dns.rcode.YXRRSET
        for item in [] if self.ignore else message.update:
            held = set(zone.get_rdataset(item.name, item.rdtype) or ())
            held = held - set(item) if item.deleting else held | set(item)
            zone.delete_rdataset(item.name, item.rdtype)
            if held:
                zone.replace_rdataset(item.name, dns.rdataset.from_rdata_list(item.ttl or 300, list(held)))
        return dns.rcode.NOERROR


@pytest.fixture
def primary():
    server = Primary()
    yield server
    server.tcp.shutdown()
    server.tcp.server_close()


@pytest.fixture
def named(tmp_path):
    """BIND 9 with the same zones."""
    program = shutil.which("named") or shutil.which("/usr/sbin/named")
    if program is None:
        pytest.skip("missing capability: named (package bind9)")
    with socket.socket() as handle:
        handle.bind(("127.0.0.1", 0))
        port = handle.getsockname()[1]
    zones = ""
    for origin, text in (("example.net", FORWARD), (REVERSE, ZONE)):
        (tmp_path / origin).write_text(text)
        zones += (
            f'zone "{origin}" {{ type primary; file "{tmp_path}/{origin}"; allow-update {{ key "dualstack."; }}; }};\n'
        )
    (tmp_path / "named.conf").write_text(
        f'options {{ directory "{tmp_path}"; pid-file none; session-keyfile none; listen-on-v6 {{ none; }};'
        f" listen-on port {port} {{ 127.0.0.1; }}; recursion no; }};\ncontrols {{ }};\n"
        f'key "dualstack." {{ algorithm hmac-sha256; secret "{SECRET}"; }};\n{zones}'
    )
    daemon = subprocess.Popen([program, "-g", "-c", str(tmp_path / "named.conf")], stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            time.sleep(0.02)
        yield port
    finally:
        daemon.terminate()
        daemon.wait(10)


@pytest.fixture(params=["primary", "named"])
def port(request):
    server = request.getfixturevalue(request.param)
    return getattr(server, "port", server)


def connect(port, **more):
    given = {"server": "127.0.0.1", "key_name": "dualstack.", "key_secret": SECRET, "timeout": 2, **more}
    return NameServer(dns, port=port, **given)


def run(port, *records, state="present", check=False, **more):
    return publish(connect(port, **more), wishes(records, state), check=check)


def held(port, key=KEY):
    return connect(port).read(key)


def test_published_once_and_withdrawn_once(port):
    both = [aaaa(), aaaa(value="2001:db8::2"), ptr()]
    assert len(run(port, *both)) == 2
    assert held(port) == RRset(frozenset({"2001:db8::1", "2001:db8::2"}), 300)
    assert run(port, *both) == ()
    assert len(run(port, *both, state="absent")) == 2
    assert held(port).values == frozenset()
    assert run(port, *both, state="absent") == ()


def test_check_mode_only_says(port):
    changes = run(port, aaaa(), check=True)
    assert summary(changes)["added"] == ["web1.example.net. 300 IN AAAA 2001:db8::1"]
    assert held(port).values == frozenset()


def test_another_ttl_is_a_change(port):
    run(port, aaaa())
    run(port, aaaa(ttl=60))
    assert held(port) == RRset(frozenset({"2001:db8::1"}), 60)


def test_one_conflict_keeps_everything_back_and_all_are_named(port):
    with pytest.raises(DualStackError) as caught:
        run(port, aaaa(), ptr(), aaaa("old"), aaaa("alias"))
    assert "old.example.net. AAAA: found 2001:db8:dead::1, wanted 2001:db8::1" in str(caught.value)
    assert "alias.example.net. CNAME: found ns.example.net., wanted 2001:db8::1" in str(caught.value)
    assert held(port).values == frozenset()
    assert held(port, (f"{REVERSE}.", f"1.{REVERSE}.", "PTR")).values == frozenset()


def test_a_name_that_is_with_another_machine_is_a_conflict(port):
    for name, found in (("web1", "192.0.2.11"), ("web2", "none")):
        with pytest.raises(DualStackError, match=rf"{name}.example.net. A: found {found}, wanted 192.0.2.12"):
            run(port, aaaa(name, ipv4="192.0.2.12"))
    assert run(port, aaaa(ipv4="192.0.2.11"))
    assert held(port).values == {"2001:db8::1"}
    # On the way back nobody asks where the name leads by now.
    assert run(port, aaaa(ipv4="192.0.2.12"), state="absent")


def test_a_name_that_goes_to_another_machine_in_between_is_not_published(port):
    class Late(NameServer):
        def update(self, zone, changes):
            moved = dns.update.UpdateMessage("example.net.")
            moved.replace("web1.example.net.", 300, "A", "192.0.2.99")
            self._ask(moved, zone, ("NOERROR",))
            super().update(zone, changes)

    given = {"server": "127.0.0.1", "port": port, "key_name": "dualstack.", "key_secret": SECRET}
    with pytest.raises(DualStackError, match="nothing was changed, run again"):
        publish(Late(dns, **given), wishes([aaaa(ipv4="192.0.2.11")], "present"), check=False)
    assert held(port).values == frozenset()


def test_a_shorter_time_comes_first_and_adds_nothing(port):
    run(port, aaaa(ttl=3600), ptr(ttl=60))
    wanted = [aaaa(ttl=300), ptr(ttl=300), aaaa("web9", ttl=300)]
    changes = run(port, *wanted, state="lowered")
    assert (len(changes), summary(changes)["cached_seconds"]) == (1, 3600)
    assert held(port) == RRset(frozenset({"2001:db8::1"}), 300)
    assert held(port, ("example.net.", "web9.example.net.", "AAAA")).values == frozenset()
    assert run(port, *wanted, state="lowered") == ()
    assert summary(run(port, aaaa(), state="absent"))["cached_seconds"] == 300


def test_the_time_of_somebody_else_is_not_made_shorter(primary):
    both = dns.rrset.from_text("old.example.net.", 3600, "IN", "AAAA", "2001:db8:dead::1", "2001:db8::1")
    primary.zones["example.net."].replace_rdataset(both.name, both.to_rdataset())
    with pytest.raises(DualStackError, match=r"old\.example\.net\. AAAA: found 2001:db8:dead::1, wanted 2001:db8::1"):
        run(primary.port, aaaa("old", ttl=60), state="lowered")
    # Where only the other's address is, there is nothing of ours to do.
    assert run(primary.port, aaaa("old", "2001:db8::7", ttl=60), state="lowered") == ()


def test_withdrawing_leaves_the_values_of_others(port):
    run(port, aaaa("old"), state="absent")
    assert held(port, ("example.net.", "old.example.net.", "AAAA")).values == {"2001:db8:dead::1"}


def test_a_record_that_comes_in_between_is_not_overwritten(port):
    class Late(NameServer):
        def update(self, zone, changes):
            run(port, aaaa(value="2001:db8:dead::2"))
            super().update(zone, changes)

    given = {"server": "127.0.0.1", "port": port, "key_name": "dualstack.", "key_secret": SECRET}
    with pytest.raises(DualStackError, match="nothing was changed, run again"):
        publish(Late(dns, **given), wishes([aaaa()], "present"), check=False)
    assert held(port).values == {"2001:db8:dead::2"}


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"key_name": "unknown."}, "does not know this TSIG key"),
        ({"key_secret": "AAAA"}, "rejects the TSIG signature"),
        ({"key_secret": "A"}, "not base64"),
        ({"server": "ns.example.net"}, "not an IP address"),
        ({"server": "127.0.0.2"}, "Connection refused"),
    ],
)
def test_each_failure_has_its_words_and_none_the_secret(named, more, words):
    with pytest.raises(DualStackError, match=words) as caught:
        run(named, aaaa(), **more)
    assert SECRET not in str(caught.value)


def test_a_zone_that_is_not_there_is_named(port):
    with pytest.raises(DualStackError, match=r"zone example\.org\..*(REFUSED|NOTAUTH)"):
        run(port, {**aaaa(), "name": "a.example.org", "zone": "example.org"})


def test_a_server_that_is_silent_is_named():
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen()
        with pytest.raises(DualStackError, match="no answer within the time allowed"):
            run(deaf.getsockname()[1], aaaa(), timeout=0.1)


def test_a_zone_that_fails_takes_back_the_zones_before(primary):
    primary.refuse = "example.net."
    with pytest.raises(DualStackError, match="REFUSED"):
        run(primary.port, aaaa(), ptr())
    assert held(primary.port, (f"{REVERSE}.", f"1.{REVERSE}.", "PTR")).values == frozenset()


def test_an_update_that_is_acknowledged_and_ignored_is_an_error(primary):
    primary.ignore = True
    with pytest.raises(DualStackError, match="the server took the update but holds"):
        run(primary.port, aaaa())


def test_all_that_is_wrong_with_the_input_is_said_at_once():
    records = [
        aaaa(value="192.0.2.1"),
        {**aaaa(), "zone": "example.org"},
        aaaa("z", ttl=-1),
        aaaa("a b"),
        aaaa("x", ttl=1),
        aaaa("x", value="2001:db8::2", ttl=2),
        aaaa("y"),
        aaaa("y", state="absent"),
        ptr(value="-.example.net"),
        aaaa("v", ipv4="2001:db8::1"),
        ptr(2, ipv4="192.0.2.1"),
    ]
    with pytest.raises(InputError) as caught:
        wishes(records, "present")
    assert [problem.partition(":")[0] for problem in caught.value.problems] == [
        f"records[{index}]" for index in (0, 1, 2, 3, 5, 7, 8, 9, 10)
    ]


names = st.sampled_from(["a", "b", "c"])
values = st.frozensets(st.sampled_from(["2001:db8::1", "2001:db8::2", "2001:db8::3"]))
worlds = st.dictionaries(names.map(lambda name: ("example.net.", f"{name}.example.net.", "AAAA")), values)


@given(worlds, worlds, worlds)
def test_what_is_decided_grants_the_wish_and_keeps_the_rest(here, wanted, unwanted):
    keys = set(wanted) | set(unwanted)
    plan = {
        key: Wish(wanted.get(key, frozenset()), unwanted.get(key, frozenset()) - wanted.get(key, frozenset()))
        for key in keys
    }
    found = {key: RRset(here.get(key, frozenset()), 300) for key in keys}
    changes, conflicts = decide(plan, found)
    for change in changes:
        wish = plan[change.key]
        assert wish.present <= change.after.values
        assert not wish.absent & change.after.values
        assert change.before.values - change.after.values <= wish.absent
    after = {**found, **{change.key: change.after for change in changes}}
    assert decide(plan, after) == ((), conflicts)


def test_every_name_has_every_address_and_each_leads_back_to_the_first_name():
    records = records_of(
        ["2001:db8::1", "2001:db8::2"],
        ["web1.example.net", "www.example.net"],
        Zones("example.net", REVERSE),
        ttl=60,
        state="present",
    )
    wanted = wishes(records, "absent")
    both = frozenset({"2001:db8::1", "2001:db8::2"})
    assert {key[1]: wish.present for key, wish in wanted.items() if key[2] == "AAAA"} == {
        "web1.example.net.": both,
        "www.example.net.": both,
    }
    assert {wish.present for key, wish in wanted.items() if key[2] == "PTR"} == {frozenset({"web1.example.net."})}


@pytest.mark.parametrize(
    ("name", "inside"),
    [("shop.example.net", True), ("Shop.Example.NET.", True), ("example.net", True), ("notexample.net", False)],
)
def test_a_name_lies_in_a_zone_by_whole_labels(name, inside):
    assert in_zone(name, "example.net.") is inside


def test_a_record_goes_to_the_innermost_zone():
    inner = "1.0.0.0." + REVERSE
    zones = Zones("example.net", REVERSE, ["shop.example.net", inner])
    records = records_of(["2001:db8:1::1"], ["a.shop.example.net", "b.example.net"], zones, ttl=60, state="present")
    assert [record["zone"] for record in records] == ["shop.example.net", "example.net", inner]
    assert zones.of("www.example.com") == ""


def test_addresses_come_last_and_go_first():
    empty = {key: RRset() for key in wishes([aaaa(), ptr()], "present")}
    coming, _ = decide(wishes([aaaa(), ptr()], "present"), empty)
    assert [zone for zone, _part in batches(coming)] == [f"{REVERSE}.", "example.net."]
    assert [zone for zone, _part in batches(change.reverse() for change in coming)] == ["example.net.", f"{REVERSE}."]
