"""IPv6 is let in where IPv4 is: packets of both families sent through the kernel's filters, counted behind them."""

import ctypes
import json
import os
import pathlib
import re
import subprocess
import sys

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(pathlib.Path(__file__).parents[2] / "plugins"))

from module_utils import _firewall

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root")

CLIENT = f"dualstack-test-{os.getpid()}"
STRANGER = ("192.0.2.66", "2001:db8:66::66")
FRIEND = ("198.51.100.7", "2001:db8:100:1::7")
TWINS = {"198.51.100.0/24": "2001:db8:100:1::/64"}
SERVER = ("192.0.2.1", "2001:db8:66::1")
PORTS = [1, 22, 25, 53, 80, 443, 1022, 1023, 1024, 5666, 8000, 8005, 8010, 8011, 65535]
LAST = 60000  # sent last: when it has arrived, so has everything before it
SEND = """
import json, socket, sys
for kind, family, source, target, ports in json.load(sys.stdin):
    for port in ports:
        with socket.socket(family, kind) as one:
            one.setblocking(False)
            one.bind((source, 0))
            one.connect_ex((target, port))
            if kind == socket.SOCK_DGRAM:
                one.send(b"x")
"""
# Behind every other chain: what got here was let in. In front of them: what arrived at all.
COUNT = """
table inet counted
delete table inet counted
table inet counted {
    set arrived { type inet_service; flags dynamic; }
    set tcp4 { type ipv4_addr . inet_service; flags dynamic; }
    set udp4 { type ipv4_addr . inet_service; flags dynamic; }
    set tcp6 { type ipv6_addr . inet_service; flags dynamic; }
    set udp6 { type ipv6_addr . inet_service; flags dynamic; }
    chain before { type filter hook prerouting priority -400; udp dport 60000 add @arrived { udp dport }; }
    chain behind {
        type filter hook input priority 400;
        meta nfproto ipv4 tcp flags syn add @tcp4 { ip saddr . tcp dport }
        meta nfproto ipv4 meta l4proto udp add @udp4 { ip saddr . udp dport }
        meta nfproto ipv6 tcp flags syn add @tcp6 { ip6 saddr . tcp dport }
        meta nfproto ipv6 meta l4proto udp add @udp6 { ip6 saddr . udp dport }
    }
}
"""


def run(command, text=None):
    return subprocess.run(command.split(), input=text, check=True, capture_output=True, text=True).stdout


@pytest.fixture(autouse=True, scope="module")
def wire():
    """This process in a namespace of its own, joined to a client's."""
    libc = ctypes.CDLL(None, use_errno=True)
    home = os.open("/proc/self/ns/net", os.O_RDONLY)
    run(f"ip netns add {CLIENT}")
    try:
        assert libc.unshare(0x40000000) == 0
        run("ip link add eth0 type veth peer name visitors")
        for name in ("lo", "eth0"):
            run(f"ip link set {name} up")
        # The client's namespace has a name in the file system, which this one shares.
        run(f"ip link set visitors netns {CLIENT}")
        inside = f"ip netns exec {CLIENT} ip"
        run(f"{inside} link set visitors up")
        for source in (STRANGER, FRIEND):
            run(f"{inside} address add {source[0]}/24 dev visitors")
            run(f"{inside} -6 address add {source[1]}/64 dev visitors nodad")
        for target in (SERVER, ("198.51.100.1", "2001:db8:100:1::1")):
            run(f"ip address add {target[0]}/24 dev eth0")
            run(f"ip -6 address add {target[1]}/64 dev eth0 nodad")
        mac = json.loads(run("ip -j link show eth0"))[0]["address"]
        for target in SERVER:
            run(f"{inside} neighbour replace {target} lladdr {mac} dev visitors nud permanent")
        yield
    finally:
        assert libc.setns(home, 0) == 0
        os.close(home)
        run(f"ip netns delete {CLIENT}")


def let_in():
    """Return {set: {(source, port)}} of what passes both the host's filter and ours."""
    run("nft -f -", COUNT)
    orders = []
    for kind in (1, 2):
        for source in (STRANGER, FRIEND):
            orders += [(kind, 2, source[0], SERVER[0], PORTS), (kind, 10, source[1], SERVER[1], PORTS)]
    orders.append((2, 2, STRANGER[0], SERVER[0], [LAST]))
    subprocess.run(
        ["ip", "netns", "exec", CLIENT, sys.executable, "-c", SEND],
        input=json.dumps(orders), check=True, capture_output=True, text=True,
    )  # fmt: skip
    while "60000" not in run("nft list set inet counted arrived"):
        pass
    found = {}
    for name in ("tcp4", "udp4", "tcp6", "udp6"):
        listed = json.loads(run(f"nft -j list set inet counted {name}"))["nftables"][1]["set"]
        found[name] = {tuple(item["concat"]) for item in listed.get("elem", [])} - {(STRANGER[0], LAST)}
    run("nft delete table inet counted")
    return found


def apply(**options):
    """Derive our table from the host's and load it, as the module does; return the policy for all devices."""
    options = {"device": "eth0", **options}
    plan = _firewall.plan(_firewall.Request(twins=TWINS, **options))
    run("nft -f -", plan.table)
    return plan


def as_ipv6(found):
    twin = {STRANGER[0]: STRANGER[1], FRIEND[0]: FRIEND[1]}
    return {(twin[source], port) for source, port in found}


def assert_parity(found):
    assert found["tcp6"] == as_ipv6(found["tcp4"])
    assert found["udp6"] == as_ipv6(found["udp4"])


@pytest.fixture(autouse=True)
def empty():
    run("nft flush ruleset")


TYPICAL = """
table ip filter {
    set ports { type inet_service; flags interval; elements = { 80, 443, 8000-8010 } }
    set banned { type ipv4_addr; elements = { 203.0.113.9 } }
    map late { type inet_service : verdict; elements = { 1022 : accept, 1023 : drop } }
    chain input {
        type filter hook input priority filter; policy drop;
        ct state vmap { established : accept, related : accept, invalid : drop }
        iifname "lo" accept
        ip saddr @banned reject
        ip saddr { 198.51.100.0/24, 203.0.113.7 } tcp dport { 22, 5666 } accept
        tcp dport @ports counter accept
        tcp dport vmap @late
        tcp dport 25 ct state new accept
        udp dport != 53 jump other
        meta l4proto { tcp, udp } th dport 53 accept
        tcp flags & (fin|syn|rst|ack) == syn tcp dport 65535 accept
        meta l4proto esp accept
    }
    chain other { udp dport 1-1022 accept; return; }
}
table ip before {
    chain early { type filter hook prerouting priority raw; policy accept; tcp dport 443 drop; }
}
"""


def test_a_typical_filter_of_nftables():
    run("nft -f -", TYPICAL)
    plan = apply()
    found = let_in()
    assert_parity(found)
    assert (STRANGER[1], 80) in found["tcp6"]
    assert (FRIEND[1], 22) in found["tcp6"]
    assert (STRANGER[1], 22) not in found["tcp6"]
    assert (STRANGER[1], 443) not in found["tcp6"]
    assert plan.notes == ()
    assert not plan.policies[-1].rest
    assert plan.policies[-1].openings[0].others == (50,)


def test_a_filter_of_both_families_stays_in_force():
    run("nft -f -", TYPICAL.replace("table ip filter", "table inet filter"))
    apply()
    found = let_in()
    # What the host's own table names by IPv4 address it lets in over IPv4 only.
    named = {(FRIEND[1], 22), (FRIEND[1], 5666)}
    assert found["tcp6"] == as_ipv6(found["tcp4"]) - named
    assert found["udp6"] == as_ipv6(found["udp4"])


BOTH = """
table inet filter {
    chain input {
        type filter hook input priority filter; policy drop;
        ct state established accept
        icmpv6 type { 133, 134, 135, 136 } accept
        ip6 saddr fe80::/10 udp dport 546 accept
        tcp dport { 22, 80, 443 } accept
        meta nfproto ipv4 udp dport 53 accept
        ip saddr 198.51.100.0/24 tcp dport 5666 accept
        %s
    }
}
"""


def test_rules_of_the_host_that_serve_both_families_need_no_table():
    run("nft -f -", BOTH % "ip6 saddr 2001:db8:100:1::/64 tcp dport 5666 accept")
    plan = apply()
    assert (plan.own_rules, plan.table) == (True, "")
    words = "the host's own rules for IPv6 keep out UDP 53 from {}; where that is not meant, open it there"
    assert plan.notes == (words.format("everybody"), words.format("2001:db8:100:1::/64"))
    found = let_in()
    assert found["tcp6"] == as_ipv6(found["tcp4"])
    assert {port for _source, port in found["udp6"]} == set()


@pytest.mark.parametrize(
    "more",
    [
        "meta nfproto ipv6 tcp dport 8000 accept",
        "ip6 saddr 2000::/3 tcp dport 8000 accept",
        "ip6 saddr 2001:db8:100:1::/64 tcp dport 8000 accept",
        "ip6 daddr 2001:db8:66::1 tcp dport 8000 accept",
        "ip6 saddr != ::1 meta mark 0 tcp dport 8000 accept",
        "meta nfproto ipv6 meta mark != 0 drop; meta nfproto ipv6 accept",
    ],
)
def test_rules_of_the_host_that_may_open_more_over_ipv6_get_a_table(more):
    run("nft -f -", BOTH % more)
    before = let_in()["tcp6"]
    assert any(port == 8000 for _source, port in before)
    apply()
    found = let_in()
    assert found["tcp6"] <= as_ipv6(found["tcp4"])


def test_a_limit_of_the_rate_is_named():
    rules = "tcp dport 22 limit rate 5/minute accept; tcp dport 25 accept; limit rate 9/second log"
    run("nft -f -", f"table ip f {{ chain input {{ type filter hook input priority 0; policy drop; {rules}; }}; }}")
    notes = apply().notes
    assert len(notes) == 1
    assert notes[0].startswith("its limit of the rate is not carried over")
    assert '"right":22' in notes[0]


FORWARD = "table {family} forwarded {{ chain f {{ type filter hook forward priority 0; policy {policy}; }}; }}"


@pytest.mark.parametrize(
    ("rules", "forwards", "told"),
    [
        ([("ip", "drop")], "1", True),
        ([("ip", "drop")], "0", False),
        ([("ip", "accept")], "1", False),
        ([("inet", "drop")], "1", False),
        ([("ip", "drop"), ("ip6", "drop")], "1", False),
    ],
)
def test_a_router_that_is_less_guarded_over_ipv6_is_told_of(rules, forwards, told):
    for family, policy in rules:
        run("nft -f -", FORWARD.format(family=family, policy=policy))
    run(f"sysctl -q -w net.ipv6.conf.eth0.forwarding={forwards}")
    try:
        assert (_firewall.UNGUARDED in apply().warnings) == told
    finally:
        run("sysctl -q -w net.ipv6.conf.eth0.forwarding=0")


def test_reading_makes_no_legacy_table():
    names = pathlib.Path("/proc/net/ip_tables_names")
    before = names.read_text()
    apply()
    assert names.read_text() == before


def test_no_filter_is_parity_with_none():
    plan = apply()
    assert plan.policies[-1].open
    assert plan.warnings == (_firewall.UNFILTERED,)


def test_a_denial_on_request_lets_in_what_is_accepted():
    apply(policy="deny", accept=[{"port": "25", "protocol": "tcp"}, {"port": "8000-8010", "protocol": "udp"}])
    found = let_in()
    assert {port for _source, port in found["tcp6"]} == {25}
    assert {port for _source, port in found["udp6"]} == {8000, 8005, 8010}
    assert len(found["tcp4"]) == 2 * len(PORTS)


def test_a_rule_that_cannot_be_read_lets_nobody_in_and_is_named():
    run(
        "nft -f -",
        "table inet filter { chain input { type filter hook input priority 0; policy drop;"
        " meta mark 7 tcp dport 80 accept; tcp dport 443 accept; }; }",
    )
    plan = apply()
    assert plan.policies[-1].openings[0].tcp == ((443, 443),)
    assert "mark" in plan.notes[0]


def test_a_drop_of_one_protocol_among_all_is_kept():
    run("nft -f -", "table ip f { chain input { type filter hook input priority 0; meta l4proto { gre, 50 } drop; }; }")
    plan = apply()
    policy = plan.policies[-1]
    assert not policy.open
    assert policy.rest
    assert policy.closed == (47, 50)


@pytest.mark.parametrize("device", ["eth0", "eth9", ""])
def test_each_device_has_its_own_rules(device):
    run("ip link add eth9 type veth peer name eth8")
    try:
        rules = "iifname eth9 accept; iifname eth0 tcp dport 80 accept; iifname eth0 udp dport != 53 accept"
        run("nft -f -", f"table ip f {{ chain input {{ type filter hook input priority 0; policy drop; {rules}; }}; }}")
        apply(device=device)
        found = let_in()
    finally:
        run("ip link delete eth9")
    assert_parity(found)
    assert {port for _source, port in found["tcp6"]} == {80}


IPTABLES = """*filter
:INPUT {policy} [0:0]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:users - [0:0]
-A INPUT -i lo -j ACCEPT
-A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A INPUT -p tcp -m tcp ! --tcp-flags FIN,SYN,RST,ACK SYN -m conntrack --ctstate NEW -j DROP
-A INPUT -p tcp -m tcp --dport 22 -m recent --set --name ssh
-A INPUT -p tcp -m tcp --dport 22 -m recent --update --seconds 60 --hitcount 9 --name ssh -j DROP
-A INPUT -s 198.51.100.0/24 -p tcp -m multiport --dports 22,5666 -m comment --comment "our own" -j ACCEPT
-A INPUT -p tcp -m multiport --dports 80,8000:8010 -j ACCEPT
-A INPUT -d 192.0.2.1/32 -d 192.0.2.1/32 -p udp -m udp --dport 53 -j ACCEPT
-A INPUT ! -s 198.51.100.0/24 -p udp -m udp --dport 1024:65535 -g users
-A INPUT -p udp -m udp --dport 25 -j REJECT --reject-with icmp-port-unreachable
-A INPUT -m addrtype --dst-type LOCAL -p tcp -m tcp --dport 443 -j ACCEPT
-A users -p udp -m udp --dport 8005 -j DROP
-A users -j RETURN
COMMIT
"""


@pytest.mark.parametrize("policy", ["DROP", "ACCEPT"])
@pytest.mark.parametrize("program", ["iptables-nft", "iptables-legacy"])
def test_a_typical_filter_of_iptables(program, policy):
    # -d stands once: iptables takes one network, and the two addresses of the host make it a question of which.
    rules = IPTABLES.replace("{policy}", policy).replace("-d 192.0.2.1/32 -d 192.0.2.1/32 ", "")
    run(f"{program}-restore", rules)
    try:
        apply()
        found = let_in()
    finally:
        run(f"{program}-restore", "*filter\n:INPUT ACCEPT [0:0]\nCOMMIT\n")
    assert_parity(found)
    assert (FRIEND[1], 5666) in found["tcp6"]
    assert ((STRANGER[1], 5666) in found["tcp6"]) == (policy == "ACCEPT")


PING = """
import socket, sys
with socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6) as one:
    for kind, hops in [(int(word.split("/")[0]), int(word.split("/")[1])) for word in sys.argv[2:]]:
        one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, hops)
        one.sendto(bytes([kind]) + bytes(23), (sys.argv[1], 0))
"""
ICMP = """
table inet counted
delete table inet counted
table inet counted {
    set kinds { type icmpv6_type; flags dynamic; }
    set arrived { type icmpv6_type; flags dynamic; }
    chain before { type filter hook prerouting priority -400; icmpv6 type 200 add @arrived { icmpv6 type }; }
    chain behind { type filter hook input priority 400; icmpv6 type 0-255 add @kinds { icmpv6 type }; }
}
"""
# RFC 4890, section 4.4.1 and 4.4.2, with the hop limits of RFC 4861, RFC 2710 and RFC 4286.
KINDS = {**dict.fromkeys((1, 2, 3, 4, 128, 129), 64), **dict.fromkeys((133, 134, 135, 136, 141, 142, 148, 149), 255)}
KINDS.update(dict.fromkeys((130, 131, 132, 143, 151, 152, 153), 1))


def icmp_let_in(kinds):
    """Return which of KINDS, ICMPv6 types with hop limits, pass when a stranger sends them."""
    run("nft -f -", ICMP)
    words = [f"{kind}/{hops}" for kind, hops in kinds.items()]
    command = ["ip", "netns", "exec", CLIENT, sys.executable, "-c", PING, SERVER[1], *words, "200/64"]
    subprocess.run(command, check=True)
    while "elements" not in run("nft list set inet counted arrived"):
        pass
    listed = run("nft -n list set inet counted kinds").partition("elements = {")[2]
    run("nft delete table inet counted")
    return {int(number) for number in re.findall("[0-9]+", listed)}


def test_icmpv6_passes_as_rfc_4890_asks_and_nothing_else_does():
    apply(policy="deny")
    assert icmp_let_in(KINDS) == set(KINDS)
    # Neighbour discovery from beyond the link, a redirect, a node information query, an experiment.
    far = dict.fromkeys([kind for kind, hops in KINDS.items() if hops != 64], 64)
    assert icmp_let_in({**far, 137: 255, 139: 64, 100: 64}) == set()


@pytest.mark.parametrize(
    "line", [line for line in _firewall.render([_firewall.Policy()]).splitlines() if "type {" in line]
)
def test_each_line_for_icmpv6_is_needed(line):
    table = _firewall.render([_firewall.Policy()])
    assert line in table
    run("nft -f -", table.replace(f"{line}\n", ""))
    assert icmp_let_in(KINDS) < set(KINDS)


SPANS = st.sampled_from(["22", "80", "1-1023", "{ 25, 53, 8000-8010 }", "8005", "1024-65535"])
SOURCES = st.sampled_from(["", "ip saddr 198.51.100.0/24", "ip saddr != 198.51.100.0/24", "ip saddr 0.0.0.0/1"])
RULES = st.builds(
    "{} {} {} {} {}".format,
    SOURCES,
    st.sampled_from(["tcp dport", "udp dport", "tcp dport !=", "meta l4proto { tcp, udp } th dport"]),
    SPANS,
    st.sampled_from(["", "ct state new", "counter", 'iifname "eth*"', 'iifname != "eth0"', "ct state established"]),
    st.sampled_from(["accept", "drop", "jump inner", "goto inner", "return", "reject"]),
)


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(RULES, max_size=7), st.lists(RULES, max_size=4), st.sampled_from(["accept", "drop"]))
def test_whatever_the_rules_are(outer, inner, policy):
    run("nft flush ruleset")
    inner = [rule.replace("jump inner", "accept").replace("goto inner", "drop") for rule in inner]
    lines = ["table ip filter {", "chain inner {", *inner, "}", "chain input {"]
    lines += [f"type filter hook input priority 0; policy {policy};", *outer, "}", "}"]
    run("nft -f -", "\n".join(lines) + "\n")
    apply()
    assert_parity(let_in())


OWN = st.lists(
    st.builds(
        "{} {} {} {} {}".format,
        st.sampled_from(
            ["", "", "ip6 saddr 2001:db8:100:1::/64", "ip6 saddr != 2001:db8:100:1::/64", "ip6 saddr 2000::/4"]
        ),
        st.sampled_from(["tcp dport", "udp dport", "tcp dport !="]),
        SPANS,
        st.sampled_from(["", "ct state new", "meta mark 0", "meta mark 1", "ip6 daddr 2001:db8:66::1"]),
        st.sampled_from(["accept", "drop", "jump inner", "goto inner", "return"]),
    ),
    max_size=5,
)


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(OWN, OWN, OWN, st.sampled_from(["accept", "drop"]), st.sampled_from(["accept", "drop"]))
def test_whatever_the_rules_of_both_families_are(four, six, inner, policy4, policy6):
    run("nft flush ruleset")
    inner = [rule.replace("jump inner", "accept").replace("goto inner", "drop") for rule in inner]
    for family, rules, policy in (("ip", four, policy4), ("ip6", six, policy6)):
        lines = [f"table {family} own {{", "chain inner {", *inner, "}", "chain input {"]
        lines += [f"type filter hook input priority 0; policy {policy};", *rules, "}", "}"]
        text = "\n".join(lines) + "\n"
        if family == "ip":
            # The stranger is nobody whom a rule for IPv4 names; one for IPv6 may.
            for new, old in (
                ("2001:db8:100:1::/64", "198.51.100.0/24"),
                ("2000::/4", "0.0.0.0/1"),
                ("2001:db8:66::1", "192.0.2.1"),
            ):
                text = text.replace(new, old)
            text = text.replace("ip6 ", "ip ")
        run("nft -f -", text)
    apply()
    found = let_in()
    assert found["tcp6"] <= as_ipv6(found["tcp4"])
    assert found["udp6"] <= as_ipv6(found["udp4"])
