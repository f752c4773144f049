"""dns_publish against a BIND that is broken in the middle: one clear error each, no half set, and all well again."""

import ipaddress
import json

import lab
import pytest
from conftest import HERE

SECRET = "b25seSBmb3IgdGVzdHM="
REVERSE = "8.b.d.0.1.0.0.2.ip6.arpa"
CONFIGURATION = f"""
key "dualstack." {{ algorithm hmac-sha256; secret "{SECRET}"; }};
key "reader." {{ algorithm hmac-sha256; secret "{SECRET}"; }};
options {{ directory "/var/cache/bind"; recursion no; listen-on {{ 127.0.0.1; }}; listen-on-v6 {{ none; }}; }};
zone "{REVERSE}" {{
    type primary; file "/var/lib/bind/reverse/zone"; update-policy {{ grant dualstack. zonesub ANY; }};
}};
zone "example.net" {{
    type primary; file "/var/lib/bind/forward/zone"; update-policy {{ grant dualstack. zonesub ANY; }};
}};
"""
ZONE = "$TTL 300\n@ SOA ns.example.net. hostmaster.example.net. 1 3600 600 86400 300\n@ NS ns.example.net.\n"
FORWARD = ZONE + "ns A 127.0.0.1\nweb1 A 192.0.2.11\nold A 192.0.2.12\nold AAAA 2001:db8:dead::1\n"
WEB1 = {
    "name": "web1.example.net",
    "zone": "example.net",
    "type": "AAAA",
    "value": "2001:db8::11",
    "ipv4": "192.0.2.11",
}
POINTER = {"name": f"1.{REVERSE}", "zone": REVERSE, "type": "PTR", "value": "web1.example.net"}


@pytest.fixture(scope="module")
def host():
    with lab.scratch("trixie", "dns") as scratch:
        scratch.put_core(HERE / "dns_agent.py")
        yield scratch


@pytest.fixture(autouse=True)
def served(host):
    """BIND as it was before the test: two zones in folders of their own."""
    host.run(
        "sh",
        "-ec",
        "systemctl stop named; rm -rf /var/lib/bind/*; mkdir -p /var/lib/bind/forward /var/lib/bind/reverse",
    )
    for path, text in (
        ("/etc/bind/named.conf", CONFIGURATION),
        ("/var/lib/bind/forward/zone", FORWARD),
        ("/var/lib/bind/reverse/zone", ZONE),
    ):
        host.run("tee", path, stdin=text.encode())
    host.run("sh", "-ec", "chown -R bind: /var/lib/bind; systemctl start named")


def publish(host, *records, **options):
    """Return what came of the module's core on the host itself."""
    records = [{"ttl": 300, **record} for record in records or (WEB1, POINTER)]
    order = {"records": records, "key_name": "dualstack.", "key_secret": SECRET, **options}
    done = lab.podman(
        "exec", "-i", "--env", "PYTHONPATH=/root/core", host.container, "python3", "/root/core/dns_agent.py",
        stdin=json.dumps(order).encode(),
    )  # fmt: skip
    assert SECRET not in done.stdout.decode()
    return json.loads(done.stdout)


def held(host, name, kind):
    return host.run("dig", "+short", "+norecurse", "@127.0.0.1", name, kind).stdout.decode().split()


def everything(host):
    return held(host, WEB1["name"], "AAAA"), held(host, POINTER["name"], "PTR")


PUBLISHED, NOTHING = ([WEB1["value"]], [f"{POINTER['value']}."]), ([], [])


def publishes_again(host):
    assert publish(host)["changed"]
    assert everything(host) == PUBLISHED
    assert not publish(host)["changed"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"key_name": "nobody."}, "does not know this TSIG key"),
        ({"key_secret": "d3Jvbmc="}, "rejects the TSIG signature"),
        ({"key_algorithm": "hmac-sha512"}, "does not know this TSIG key|rejects the TSIG signature"),
        # It may ask, and not change.
        ({"key_name": "reader."}, "refuses; allow this key"),
        ({"key_name": ""}, "refuses; allow this key"),
    ],
)
def test_a_key_that_is_wrong_is_named(host, options, words):
    error = publish(host, **options)["error"]
    assert any(part in error for part in words.split("|")), error
    assert everything(host) == NOTHING
    publishes_again(host)


def test_a_server_that_hangs_is_named_and_nothing_is_half_done(host):
    host.run("pkill", "-STOP", "named")
    error = publish(host, timeout=0.5)["error"]
    host.run("pkill", "-CONT", "named")
    assert "no answer within the time allowed" in error
    assert everything(host) == NOTHING
    publishes_again(host)


def test_a_server_that_hangs_after_the_first_zone_keeps_both_or_says_so(host):
    """The second update is read by nobody: the error says that it may still come, and the next run puts it right."""
    error = publish(host, timeout=0.5, stop="example.net.")["error"]
    host.run("pkill", "-CONT", "named")
    assert "no answer within the time allowed" in error
    assert "may still carry out the update, so run again" in error
    assert f"zone {REVERSE}. keeps the new values of {POINTER['name']}." in error
    publish(host)
    assert everything(host) == PUBLISHED


def test_half_an_answer_takes_back_the_zone_before(host):
    """BIND cannot write the journal of the second zone, and answers SERVFAIL."""
    host.run("sh", "-ec", "chown root: /var/lib/bind/forward; chmod 755 /var/lib/bind/forward")
    error = publish(host)["error"]
    host.run("chown", "bind:", "/var/lib/bind/forward")
    assert "zone example.net.: failed; see its log" in error
    assert "SERVFAIL" in error
    assert everything(host) == NOTHING
    publishes_again(host)


def test_a_zone_that_cannot_be_read_stops_all(host):
    host.run("sh", "-ec", "echo nonsense >> /var/lib/bind/forward/zone; systemctl restart named")
    error = publish(host, POINTER, WEB1)["error"]
    assert "zone example.net." in error
    assert "SERVFAIL" in error
    assert held(host, POINTER["name"], "PTR") == []


def test_what_is_somebody_elses_stays(host):
    foreign = {**WEB1, "name": "old.example.net", "ipv4": "192.0.2.12"}
    moved = {**WEB1, "ipv4": "192.0.2.99"}
    error = publish(host, foreign, POINTER, moved)["error"]
    assert "old.example.net. AAAA: found 2001:db8:dead::1, wanted 2001:db8::11" in error
    assert "web1.example.net. A: found 192.0.2.11, wanted 192.0.2.99" in error
    assert everything(host) == NOTHING
    assert held(host, "old.example.net", "AAAA") == ["2001:db8:dead::1"]


SUBJECT = {
    "name": "web1", "domain": "web1.example.net", "zone": "example.net", "ipv4": "192.0.2.11", "ipv6": "2001:db8::1",
    "source": "2001:db8::25", "helo": "web1.example.net",
}  # fmt: skip
# The addresses of the test's own machine, where BIND and Postfix listen.
COMPLETE = """
web1 AAAA 2001:db8::1
web1 AAAA 2001:db8::25
web1 TXT "v=spf1 " "a:mail.example.net -all"
mail AAAA 2001:db8::25
@ NS ns2
@ MX 10 ns
ns AAAA 2001:db8::10
ns2 AAAA 2001:db8::10
"""


def criteria(host):
    done = lab.podman(
        "exec", "-i", "--env", "PYTHONPATH=/root/core", host.container, "python3", "/root/core/dns_agent.py",
        stdin=json.dumps({"subject": SUBJECT}).encode(),
    )  # fmt: skip
    return json.loads(done.stdout)


def pointer(address, name):
    return f"{ipaddress.ip_address(address).reverse_pointer}. PTR {name}.\n"


def test_each_criterion_names_the_record_that_is_missing(host):
    met = criteria(host)
    assert {name for name, one in met.items() if one["met"]} == set()
    assert met["forward"]["missing"] == "web1.example.net. IN AAAA 2001:db8::1"
    assert met["reverse"]["missing"].endswith("ip6.arpa. IN PTR web1.example.net.")
    assert met["spf"]["missing"] == 'web1.example.net. IN TXT "v=spf1 ip6:2001:db8::25 -all"'
    assert met["mail_ipv6_mx_address"] == {"met": None, "missing": "example.net has no mail exchanger"}
    assert "name server ns.example.net" in met["web_ipv6_ns_address"]["missing"]


def test_each_criterion_is_met_by_its_record(host):
    text = CONFIGURATION.replace("listen-on-v6 { none; }", "listen-on-v6 { any; }")
    host.run("tee", "/etc/bind/named.conf", stdin=text.encode())
    back = pointer("2001:db8::1", "web1.example.net") + pointer("2001:db8::25", "web1.example.net")
    host.run("tee", "-a", "/var/lib/bind/forward/zone", stdin=COMPLETE.encode())
    host.run("tee", "-a", "/var/lib/bind/reverse/zone", stdin=back.encode())
    host.run("sh", "-ec", "postconf -e inet_protocols=all; systemctl restart named postfix")
    met = criteria(host)
    # The server has no zone for the IPv4 address; the name has one IPv6 address too many.
    assert {name for name, one in met.items() if not one["met"]} == {"forward", "reverse_ipv4"}, met
    assert met["forward"]["missing"] == "only web1.example.net. IN AAAA 2001:db8::1; there are 2001:db8::25"
    host.run("systemctl", "stop", "postfix")
    assert criteria(host)["mail_ipv6_mx_reach"] == {"met": False, "missing": "ns.example.net: answers over IPv6"}
    host.run("systemctl", "stop", "named")
    assert {one["met"] for one in criteria(host).values()} == {None}
