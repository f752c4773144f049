"""Exports: every address is there once, each line means what it says, nothing wrong gets into a file."""

import csv
import io
import ipaddress
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from module_utils._errors import DualStackError
from module_utils._ledger import Ledger
from module_utils._numbering import allocate
from module_utils._plan import read_plan
from module_utils._plan_export import export

PLAN = {
    "version": 1,
    "networks": {
        "device": {
            "prefixes": ["2001:db8:100:1::/64", "fd5c:91be:27a4:1::/64"],
            "gateway": "fe80::1",
            "reserved": [{"suffix": "::1", "for": "router"}, {"suffix": "::d:0/112", "for": "dhcpv6"}],
        }
    },
    "pools": {"clients": {"prefix": "2001:db8:200::/48", "reserved": ["0a"]}},
    "classes": {
        "admin": {
            "groups": ["admin"], "network": "device", "block": "::ad:0/112", "kind": "pinned", "pins": {"ns1": "53"},
        },
        "client": {
            "groups": ["clients"], "network": "device", "block": "::c:0/112", "kind": "pinned",
            "pins": {"web1": "2a3f"}, "delegate": {"pool": "clients", "vhosts": {"kind": "pinned"}},
        },
    },
}  # fmt: skip
HOSTS = {
    "web1": {"groups": ["clients"], "dualstack_vhosts": {"shop.example.net": "5409"}},
    "ns1": {"groups": ["admin"]},
}
RECORDS = allocate(HOSTS, PLAN, Ledger())


def rows(text):
    return [*csv.DictReader(io.StringIO(text))]


def test_csv_has_a_line_for_each_address_and_prefix():
    found = rows(export(RECORDS, "csv"))
    assert [(row["kind"], row["prefix"], row["name"], row["host"]) for row in found] == [
        ("address", "2001:db8:100:1::c:2a3f/128", "web1", "web1"),
        ("address", "2001:db8:100:1::ad:53/128", "ns1", "ns1"),
        ("delegated", "2001:db8:200:2a3f::/64", "web1", "web1"),
        ("vhost", "2001:db8:200:2a3f:5409::/80", "shop.example.net", "web1"),
        ("address", "fd5c:91be:27a4:1::c:2a3f/128", "web1", "web1"),
        ("address", "fd5c:91be:27a4:1::ad:53/128", "ns1", "ns1"),
    ]
    assert (found[0]["class"], found[0]["index"], found[0]["gateway"]) == ("client", "2a3f", "fe80::1")
    assert found[2]["next_hop"] == "2001:db8:100:1::c:2a3f"


def test_bind_names_every_address_and_the_first_of_every_prefix():
    lines = export(RECORDS, "bind", domain="example.net", ttl=300).splitlines()
    names = {}
    for line in lines:
        owner, ttl, cls, kind, target = line.split(" ")
        assert (ttl, cls, kind) == ("300", "IN", "PTR")
        address = ipaddress.IPv6Address(int("".join(reversed(owner.removesuffix(".ip6.arpa.").split("."))), 16))
        names[str(address)] = target
    assert names == {
        "2001:db8:100:1::c:2a3f": "web1.example.net.",
        "2001:db8:100:1::ad:53": "ns1.example.net.",
        "2001:db8:200:2a3f::1": "web1.example.net.",
        "2001:db8:200:2a3f:5409::1": "shop.example.net.",
        "fd5c:91be:27a4:1::c:2a3f": "web1.example.net.",
        "fd5c:91be:27a4:1::ad:53": "ns1.example.net.",
    }


def test_a_zone_holds_its_own_addresses_only():
    lines = export(RECORDS, "bind", domain="example.net", zone="2001:db8:200::/48").splitlines()
    assert len(lines) == 2
    assert all(line.split(" ")[0].endswith(".0.0.2.0.8.b.d.0.1.0.0.2.ip6.arpa.") for line in lines)
    assert " IN PTR web1.example.net." in lines[0]
    with pytest.raises(DualStackError, match="does not end on a nibble"):
        export(RECORDS, "bind", domain="example.net", zone="2001:db8:200::/45")


@pytest.mark.parametrize("domain", ["", "exa mple.net", "-.net", "example.net; $INCLUDE /etc/shadow"])
def test_no_name_that_is_not_whole_gets_into_a_zone(domain):
    with pytest.raises(DualStackError) as raised:
        export(RECORDS, "bind", domain=domain)
    reasons = str(raised.value).splitlines()
    assert [line.split(":")[0] for line in reasons] == ["E100 records.web1", "E100 records.ns1"]
    assert "not a whole domain name" in reasons[0]


@given(st.text(max_size=12))
def test_a_zone_line_has_five_words_whatever_the_name(name):
    try:
        text = export({name: RECORDS["ns1"]}, "bind", domain="example.net")
    except DualStackError:
        return
    assert all(len(line.split(" ")) == 4 and line.endswith(".") for line in text.splitlines())
    assert text.isascii()
    assert text.count("\n") == 2


def test_netbox_gets_its_own_words():
    found = json.loads(export(RECORDS, "netbox", domain="example.net", plan=read_plan(PLAN)[0].summary()))
    assert {tuple(entry) for entry in found["ip_addresses"]} == {("address", "status", "description", "dns_name")}
    assert {tuple(entry) for entry in found["prefixes"]} == {("prefix", "status", "description")}
    addresses = {entry["address"]: entry for entry in found["ip_addresses"]}
    assert addresses["2001:db8:100:1::c:2a3f/128"]["dns_name"] == "web1.example.net"
    assert addresses["2001:db8:100:1::1/128"]["status"] == "reserved"
    prefixes = {entry["prefix"]: (entry["status"], entry["description"]) for entry in found["prefixes"]}
    assert prefixes["2001:db8:100:1::/64"] == ("active", "network device")
    assert prefixes["2001:db8:200::/48"] == ("container", "pool clients")
    assert prefixes["2001:db8:100:1::ad:0/112"] == ("active", "class admin of network device")
    assert prefixes["2001:db8:100:1::d:0/112"] == ("reserved", "dhcpv6")
    assert prefixes["fd5c:91be:27a4:1::d:0/112"] == ("reserved", "dhcpv6")
    assert prefixes["2001:db8:200:a::/64"] == ("reserved", "reserved")
    assert prefixes["2001:db8:200:2a3f::/64"] == ("active", "delegated to web1, next hop 2001:db8:100:1::c:2a3f")
    assert prefixes["2001:db8:200:2a3f:5409::/80"][1].startswith("vhost shop.example.net of web1")
    for entry in (*addresses, *prefixes):
        ipaddress.IPv6Network(entry)


def test_netbox_without_the_plan_has_the_hosts_alone():
    found = json.loads(export(RECORDS, "netbox"))
    assert len(found["prefixes"]) == 2
    assert found["ip_addresses"][0]["dns_name"] == "web1"


@pytest.mark.parametrize("form", ["csv", "bind", "netbox"])
def test_a_list_and_another_order_give_the_same_text(form):
    listed = [{"name": name, **record} for name, record in reversed(RECORDS.items())]
    assert export(listed, form, domain="example.net") == export(RECORDS, form, domain="example.net")
    assert export({**RECORDS, "outside": {}}, form, domain="example.net") == export(listed, form, domain="example.net")


@pytest.mark.parametrize(
    ("records", "reason"),
    [
        (None, "expected a mapping or a list, got nothing"),
        ("web1", "expected a mapping or a list, got string"),
        ({"web1": "x"}, "records.web1: expected a record of the plan, got string"),
        ([{"address": "2001:db8::1"}], "records[0]: mapping has no key name"),
        ([{"name": "a"}, {"name": "a"}], "records.a: appears twice"),
        ({"a": {"class": "x"}}, "records.a: expected an IPv6 address in quotes, got nothing"),
        ({"a": {"address": "192.0.2.1"}}, "'192.0.2.1' is not an IPv6 address"),
        ({"a": {"address": "2001:db8::1", "delegated_prefix": "2001:db8:1::1/64"}}, "has host bits set"),
        ({"a": {"address": "2001:db8::1", "vhosts": ["x"]}}, "vhosts is a list"),
        ({"a": {"address": "2001:db8::1", "networks": ["x"]}}, "networks is a list"),
        ({"=cmd()": RECORDS["ns1"]}, "would be a formula in a spreadsheet"),
    ],
)
def test_what_is_wrong_is_named(records, reason):
    with pytest.raises(DualStackError) as raised:
        export(records, "csv")
    assert reason in str(raised.value)


def test_all_that_is_wrong_is_told_at_once():
    with pytest.raises(DualStackError) as raised:
        export({"a": {"address": "x"}, "b": {"address": 1}, "c": RECORDS["ns1"]}, "csv")
    assert [line.split(":")[0] for line in str(raised.value).splitlines()] == ["E100 records.a", "E100 records.b"]


def test_an_unknown_format_and_a_strange_plan_are_errors():
    with pytest.raises(DualStackError, match="'xml' is not a format; use one of csv, bind, netbox"):
        export(RECORDS, "xml")
    with pytest.raises(DualStackError, match="E100 plan: is not the host variable dualstack_plan"):
        export(RECORDS, "netbox", plan={"networks": {"device": {}}})


def test_the_filter_raises_ansibles_error():
    errors = pytest.importorskip("ansible.errors")
    filters = pytest.importorskip("ansible_collections.dualstack.fleet.plugins.filter.plan_export")
    call = filters.FilterModule().filters()["plan_export"]
    assert call(RECORDS, "csv") == export(RECORDS, "csv")
    with pytest.raises(errors.AnsibleFilterError, match="plan_export: E100 records"):
        call(None, "csv")
