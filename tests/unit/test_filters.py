"""The filters: one value in, one value out, and an error instead of a wrong word in a configuration file."""

import importlib

import pytest

pytest.importorskip("ansible", minversion="2.17")

from ansible.errors import AnsibleFilterError

NAMES = ["allocate", "v6_join", "v6_suffix", "v6_subnet", "v6_bracket", "v6_reverse", "v6_reserved"]


def call(name, *arguments):
    module = importlib.import_module(f"ansible_collections.dualstack.fleet.plugins.filter.{name}")
    return module.FilterModule().filters()[name](*arguments)


@pytest.mark.parametrize(
    ("name", "arguments", "result"),
    [
        ("v6_join", ("2001:db8:100:1::/64", "::ad:bac1"), "2001:db8:100:1::ad:bac1"),
        ("v6_join", ("2001:db8:100:1::c:0/112", "::2a3f"), "2001:db8:100:1::c:2a3f"),
        ("v6_suffix", ("2001:db8:100:1::ad:bac1",), "::ad:bac1"),
        ("v6_suffix", ("2001:db8:100:1:dead::1",), "::dead:0:0:1"),
        ("v6_suffix", ("2001:db8:100:1::c:2a3f/112",), "::2a3f"),
        ("v6_subnet", ("2001:db8:200::/48", 64, "2a3f"), "2001:db8:200:2a3f::/64"),
        ("v6_subnet", ("2001:db8:200::/48", 64, 10), "2001:db8:200:a::/64"),
        ("v6_subnet", ("2001:db8:200::/48", 64, 64), "2001:db8:200:40::/64"),
        ("v6_bracket", ("2001:DB8::80",), "[2001:db8::80]"),
        ("v6_bracket", ("2001:db8:200:2a3f::/64",), "[2001:db8:200:2a3f::]/64"),
        ("v6_reverse", ("2001:db8::/32",), "8.b.d.0.1.0.0.2.ip6.arpa"),
        ("v6_reverse", ("2001:db8::1",), "1" + 23 * ".0" + ".8.b.d.0.1.0.0.2.ip6.arpa"),
        ("v6_reserved", ("2001:db8:100:1::",), True),
        ("v6_reserved", ("2001:db8:100:1:fdff:ffff:ffff:ff80",), True),
        ("v6_reserved", ("2001:db8:100:1::ad:de",), False),
        ("v6_reserved", ("::ad:de",), False),
    ],
)
def test_results(name, arguments, result):
    assert call(name, *arguments) == result


@pytest.mark.parametrize(
    ("name", "arguments", "reason"),
    [
        ("v6_join", ("2001:db8::/64", "::1:0:0:0:1"), "does not fit behind 2001:db8::/64"),
        ("v6_join", ("2001:db8::1/64", "::1"), "has host bits set; did you mean 2001:db8::/64?"),
        ("v6_join", ("2001:db8::/64", 173), "expected an IPv6 address in quotes, got integer 173"),
        ("v6_suffix", (False,), "expected an IPv6 address in quotes, got boolean False"),
        ("v6_suffix", ("192.0.2.1",), "'192.0.2.1' is not an IPv6 address"),
        ("v6_subnet", ("2001:db8:200::/48", 64, 65536), "index 10000 (hex) is not one"),
        ("v6_subnet", ("2001:db8:200::/48", 64, -1), "index -1 (hex) is not one"),
        ("v6_subnet", ("2001:db8:200::/48", 32, 0), "a prefix of length 32 does not fit into 2001:db8:200::/48"),
        ("v6_subnet", ("2001:db8:200::/48", "64", 0), "expected an integer, got string '64'"),
        ("v6_subnet", ("2001:db8:200::/48", 64, True), "expected an integer, got boolean True"),
        ("v6_subnet", ("2001:db8:200::/48", 64, "x"), "'x' is not hexadecimal"),
        ("v6_bracket", ("192.0.2.1",), "is not an IPv6 address"),
        ("v6_bracket", ("example.net",), "is not an IPv6 address"),
        ("v6_reverse", ("2001:db8::/33",), "does not end on a nibble"),
        ("v6_reverse", ("",), "'' is not an IPv6 address"),
        ("v6_reserved", (None,), "got nothing None"),
    ],
)
def test_what_is_wrong_raises(name, arguments, reason):
    with pytest.raises(AnsibleFilterError) as raised:
        call(name, *arguments)
    assert str(raised.value).startswith(f"{name}: ")
    assert reason in str(raised.value)


PLAN = {
    "version": 1,
    "networks": {"device": {"prefixes": ["2001:db8:100:1::/64"]}},
    "classes": {"admin": {"groups": ["admin"], "network": "device", "block": "::ad:0/112", "kind": "auto"}},
}
RECORD = {"i": "00de", "id": "dev", "p": "device/admin", "s": "a", "t": "2026-01-02"}


def test_allocate_returns_the_record_of_every_host():
    found = call("allocate", {"dev": {"groups": ["admin"]}}, PLAN, [RECORD])
    assert {name: record["address"] for name, record in found.items()} == {"dev": "2001:db8:100:1::ad:de"}
    pinned = {**PLAN["classes"]["admin"], "pins": {"dev": "de"}}
    assert call("allocate", {"dev": {"groups": ["admin"]}}, {**PLAN, "classes": {"admin": pinned}}) == found


def test_allocate_raises_all_errors():
    with pytest.raises(AnsibleFilterError) as raised:
        call("allocate", {"dev": {"groups": ["admin"]}, "x": {"groups": []}}, {**PLAN, "version": 2})
    assert [line.split()[0] for line in str(raised.value).splitlines()] == ["allocate:", "E210", "E304"]


@pytest.mark.parametrize("hosts", [None, [], {"dev": None}, {"dev": {"groups": "admin"}}])
def test_allocate_wants_hosts_with_groups(hosts):
    with pytest.raises(AnsibleFilterError, match="E100 hosts"):
        call("allocate", hosts, PLAN)


def test_allocate_changes_nothing_that_it_is_given():
    hosts, plan, ledger = {"dev": {"groups": ["admin"]}}, dict(PLAN), [dict(RECORD)]
    before = repr((hosts, plan, ledger))
    call("allocate", hosts, plan, ledger)
    assert repr((hosts, plan, ledger)) == before


@pytest.mark.parametrize("name", NAMES)
def test_each_filter_has_its_own_file(name):
    module = importlib.import_module(f"ansible_collections.dualstack.fleet.plugins.filter.{name}")
    assert list(module.FilterModule().filters()) == [name]


def test_routes_lead_to_delegated_prefixes_and_to_the_vhosts_of_a_site():
    host = {"delegated_prefix": "2001:db8:200:7::/64", "next_hop": "2001:db8:100:1::c:7"}
    site = {**host, "routed_vhosts": ["2001:db8:300:1:7::/80"]}
    assert call("delegated_routes", [host, {"delegated_prefix": "", "next_hop": "2001:db8:100:1::b:1"}]) == [
        {"dest": "2001:db8:200:7::/64", "via": "2001:db8:100:1::c:7"}
    ]
    assert call("delegated_routes", [site], "eth0")[1] == {
        "dest": "2001:db8:300:1:7::/80",
        "via": "2001:db8:100:1::c:7",
        "dev": "eth0",
    }


def test_routes_are_put_in_few_words():
    hosts = [
        {"delegated_prefix": f"2001:db8:200:{n:x}::/64", "next_hop": f"2001:db8:100:1::c:{n:x}"} for n in range(16, 48)
    ]
    hosts[3]["routed_vhosts"] = ["2001:db8:300:1:7::/80"]
    assert call("delegated_routes", hosts, "eth0", True) == [
        {"dest": "2001:db8:300:1:7::/80", "via": "2001:db8:100:1::c:13", "dev": "eth0"},
        {"dest": "2001:db8:200::/48", "via": "2001:db8:100:1::c:0", "dev": "eth0", "ranges": "10-2f"},
    ]
    assert [route["metric"] for route in call("delegated_routes", hosts, "eth0", True, "ospf6")] == [200 << 24] * 2
    with pytest.raises(AnsibleFilterError, match="2001:db8::x"):
        call("delegated_routes", [{**hosts[0], "next_hop": "2001:db8::x"}], "", True)
    with pytest.raises(AnsibleFilterError, match="'rip'"):
        call("delegated_routes", hosts, "eth0", True, "rip")


def test_the_routes_of_a_plan_become_the_configuration_of_another_system():
    hosts = [{"delegated_prefix": f"2001:db8:200:{n}::/64", "next_hop": f"2001:db8:100:1::c:{n}"} for n in (7, 8)]
    expected = [
        {"dest": f"2001:db8:200:{n}::/64", "next_hops": [{"forward_router_address": f"2001:db8:100:1::c:{n}"}]}
        for n in (7, 8)
    ]
    for compact in (False, True):
        (config,) = call("resource_routes", call("delegated_routes", hosts, "", compact), "vyos")
        assert config == {"address_families": [{"afi": "ipv6", "routes": expected}]}
    with pytest.raises(AnsibleFilterError, match=r"resource_routes: .*'junos' is not known"):
        call("resource_routes", [], "junos")
