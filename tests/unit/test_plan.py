"""The address plan: what hosts get, that nobody moves, and one clear line for everything that is wrong."""

import copy
import ipaddress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from module_utils._errors import InputError
from module_utils._ledger import Ledger, ledger_of, read_ledger
from module_utils._numbering import allocate, frozen
from module_utils._plan import read_plan

FIELDS = [
    {"name": "building", "bits": 4, "var": "loc_building", "map": {"A": 1, "B": 2}},
    {"name": "cabinet", "bits": 4, "var": "loc_cabinet"},
    {"name": "rack", "bits": 4, "var": "loc_rack"},
    {"name": "switch", "bits": 4, "var": "loc_switch"},
]
PLAN = {
    "plugin": "dualstack.fleet.plan",
    "version": 1,
    "exclude": ["vantage"],
    "networks": {
        "device": {
            "prefixes": ["2001:db8:100:1::/64"],
            "gateway": "fe80::1",
            "reserved": [{"suffix": "::1", "for": "router"}, {"suffix": "::d:0/112", "for": "dhcpv6"}],
        }
    },
    "pools": {
        "clients": {"prefix": "2001:db8:200::/48", "length": 64},
        "mail": {"prefix": "2001:db8:201::/48", "length": 64},
    },
    "classes": {
        "router": {
            "groups": ["edge"],
            "network": "device",
            "block": "::ed:0/112",
            "kind": "pinned",
            "gateway": False,
            "pins": {"edge1": "1"},
        },
        "admin": {
            "groups": ["admin"],
            "network": "device",
            "block": "::ad:0/112",
            "kind": "pinned",
            "pins": {"bac1": "bac1", "mx1": "25", "dev": "de"},
            "delegate": {"pool": "mail", "index": "same", "groups": ["mx"]},
        },
        "client": {
            "groups": ["clients"],
            "network": "device",
            "block": "::c:0/112",
            "kind": "location",
            "fields": FIELDS,
            "delegate": {"pool": "clients", "index": "same", "vhosts": {"length": 80, "kind": "auto"}},
        },
        "build": {"groups": ["ci"], "network": "device", "block": "::b:0/112", "kind": "auto"},
    },
}
LEDGER = """\
{"dualstack":1,"site":"fra1"}
{"i":"9799","id":"ci03","p":"device/build","s":"q","t":"2026-01-02","u":"2026-05-02"}
{"i":"c6ab","id":"ci01","p":"device/build","s":"a","t":"2026-01-02"}
{"i":"91c2","id":"shop.example.com","p":"vhost/web1","s":"a","t":"2026-02-01"}
"""
HOSTS = {
    "edge1": {"groups": ["all", "edge"]},
    "bac1": {"groups": ["all", "admin"]},
    "mx1": {"groups": ["all", "admin", "mx"]},
    "web1": {
        "groups": ["all", "clients"],
        "loc_building": "B",
        "loc_cabinet": 10,
        "loc_rack": 3,
        "loc_switch": 15,
        "dualstack_vhosts": ["shop.example.com"],
    },
    "ci01": {"groups": ["all", "ci"]},
    "upstream": {"groups": ["all", "vantage"]},
}
HELD = read_ledger(LEDGER, "addresses.jsonl")


def changed(path, value, plan=PLAN):
    """Return PLAN with VALUE at PATH (dotted); None removes the key."""
    result = copy.deepcopy(plan)
    *parents, last = path.split(".")
    entry = result
    for key in parents:
        entry = entry[key] if isinstance(entry, dict) else entry[int(key)]
    if value is None:
        del entry[last]
    else:
        entry[last if isinstance(entry, dict) else int(last)] = value
    return result


def client(**changes):
    return {**HOSTS["web1"], "dualstack_vhosts": [], **changes}


def errors(plan=PLAN, hosts=HOSTS, ledger=HELD):
    with pytest.raises(InputError) as raised:
        allocate(hosts, plan, ledger)
    return raised.value.problems


def warned(plan=PLAN, hosts=HOSTS):
    return frozen(*read_plan(plan), hosts, HELD).warnings


def test_a_client_gets_the_address_and_prefixes_of_its_location():
    assert allocate(HOSTS, PLAN, HELD)["web1"] == {
        "class": "client",
        "index": "2a3f",
        "address": "2001:db8:100:1::c:2a3f",
        "prefix_length": 128,
        "network": "2001:db8:100:1::/64",
        "on_link": True,
        "gateway": "fe80::1",
        "next_hop": "2001:db8:100:1::c:2a3f",
        "class_prefix": "2001:db8:100:1::c:0/112",
        "delegated_prefix": "2001:db8:200:2a3f::/64",
        "unreachable": "2001:db8:200:2a3f::/64",
        "vhosts": {"shop.example.com": "2001:db8:200:2a3f:91c2::/80"},
        "ptr": "f.3.a.2.c.0.0.0.0.0.0.0.0.0.0.0.1.0.0.0.0.0.1.0.8.b.d.0.1.0.0.2.ip6.arpa",
    }


def test_each_class_has_its_own_way():
    records = allocate(HOSTS, PLAN, HELD)
    assert {name: record["address"] for name, record in records.items()} == {
        "bac1": "2001:db8:100:1::ad:bac1",
        "ci01": "2001:db8:100:1::b:c6ab",
        "edge1": "2001:db8:100:1::ed:1",
        "mx1": "2001:db8:100:1::ad:25",
        "web1": "2001:db8:100:1::c:2a3f",
    }
    assert {name: record["delegated_prefix"] for name, record in records.items() if record["delegated_prefix"]} == {
        "mx1": "2001:db8:201:25::/64",
        "web1": "2001:db8:200:2a3f::/64",
    }
    assert records["edge1"]["gateway"] == ""


def test_access_lists_get_the_prefixes_of_networks_pools_and_classes():
    summary = read_plan(PLAN)[0].summary()
    assert summary["classes"]["admin"] == {
        "network": "device",
        "prefixes": ["2001:db8:100:1::ad:0/112"],
        "pool": "mail",
        "pins": ["25", "de", "bac1"],
    }
    assert summary["pools"]["clients"] == {"prefix": "2001:db8:200::/48", "length": 64, "reserved": []}
    assert summary["networks"]["device"]["prefixes"] == ["2001:db8:100:1::/64"]


def test_the_summary_names_what_is_kept_free_and_holds_no_template():
    plan = changed("networks.device.reserved", [{"suffix": "::d:0/112", "for": "{{ dhcp }}{% x %}"}])
    plan["pools"]["clients"] = {"prefix": "2001:db8:200::/48", "reserved": ["0a"]}
    summary = read_plan(plan)[0].summary()
    assert summary["networks"]["device"]["reserved"] == [{"suffix": "::d:0/112", "for": " dhcp }}% x %}"}]
    assert summary["pools"]["clients"]["reserved"] == ["a"]


def test_a_second_prefix_repeats_the_suffixes():
    plan = changed("networks.device.prefixes", ["2001:db8:100:1::/64", "fd5c:91be:27a4:1::/64"])
    record = allocate(HOSTS, plan, HELD)["bac1"]
    assert record["address"] == "2001:db8:100:1::ad:bac1"
    assert [each["address"] for each in record["networks"]] == ["2001:db8:100:1::ad:bac1", "fd5c:91be:27a4:1::ad:bac1"]
    assert record["networks"][1]["class_prefix"] == "fd5c:91be:27a4:1::ad:0/112"
    assert "networks" not in allocate(HOSTS, PLAN, HELD)["bac1"]


def test_a_new_prefix_keeps_every_suffix():
    old, new = (
        allocate(HOSTS, plan, HELD)
        for plan in (
            PLAN,
            changed("pools.clients.prefix", "3fff:9::/48", changed("networks.device.prefixes", ["3fff:8:0:7::/64"])),
        )
    )
    for name, record in old.items():
        low = (1 << 64) - 1
        assert (
            int(ipaddress.IPv6Address(record["address"])) & low
            == int(ipaddress.IPv6Address(new[name]["address"])) & low
        )
    assert new["web1"]["delegated_prefix"] == "3fff:9:0:2a3f::/64"
    assert new["web1"]["vhosts"] == {"shop.example.com": "3fff:9:0:2a3f:91c2::/80"}


def test_a_renamed_host_keeps_its_address_by_its_identity():
    hosts = {"backup9": {"groups": ["admin"], "dualstack_id": "bac1"}}
    assert allocate(hosts, PLAN, HELD)["backup9"]["address"] == "2001:db8:100:1::ad:bac1"
    hosts = {"ci99": {"groups": ["ci"], "dualstack_id": "ci01"}}
    assert allocate(hosts, PLAN, HELD)["ci99"]["index"] == "c6ab"


def test_a_pin_wins_over_the_location():
    plan = changed("classes.client.pins", {"web1": "7"})
    assert allocate({"web1": client()}, plan, HELD)["web1"]["address"] == "2001:db8:100:1::c:7"


def test_digits_read_in_the_address_as_they_are_written():
    plan = changed("classes.client.fields", [{"name": "unit", "bits": 16, "var": "unit", "encode": "digits"}])
    assert allocate({"web1": client(unit=42)}, plan, HELD)["web1"]["address"] == "2001:db8:100:1::c:42"


def test_vhosts_may_be_pinned_in_the_host_variable():
    hosts = {"web1": client(dualstack_vhosts={"blog": "b109"})}
    for how in ("auto", "pinned"):
        plan = changed("classes.client.delegate.vhosts.kind", how)
        assert allocate(hosts, plan, HELD)["web1"]["vhosts"] == {"blog": "2001:db8:200:2a3f:b109::/80"}


def test_delegated_prefixes_may_come_from_the_ledger():
    plan = changed("classes.build.delegate", {"pool": "mail", "index": "ledger"})
    held = '{"i":"0007","id":"ci01","p":"pool/mail","s":"a","t":"2026-01-02"}\n'
    ledger = read_ledger(LEDGER + held, "addresses.jsonl")
    assert allocate(HOSTS, plan, ledger)["ci01"]["delegated_prefix"] == "2001:db8:201:7::/64"
    assert errors(plan) == [
        "E304 ci01 (delegated prefix of pool mail) has no allocation and mode is frozen; "
        "run: ansible-playbook dualstack.fleet.plan, then commit addresses.jsonl"
    ]


many = st.dictionaries(
    st.text("abcdefgh0123456789", min_size=1, max_size=6), st.integers(1, 0xFFFF), min_size=1, max_size=30
).filter(lambda found: len(set(found.values())) == len(found))


def located(index):
    return {
        "groups": ["clients"],
        "loc_building": "B",
        "loc_cabinet": index >> 8 & 15,
        "loc_rack": index >> 4 & 15,
        "loc_switch": index & 15,
    }


@given(many, st.randoms())
@settings(max_examples=40, deadline=None)
def test_nobody_moves_whatever_the_order_and_whoever_leaves(found, shuffle):
    plan = changed("classes.client.fields.0", {"name": "building", "bits": 4, "var": "b"})
    hosts = {name: {**located(index), "b": index >> 12} for name, index in found.items()}
    whole = allocate(hosts, plan, Ledger())
    names = list(hosts)
    shuffle.shuffle(names)
    assert allocate({name: hosts[name] for name in names}, plan, Ledger()) == whole
    some = names[: len(names) // 2]
    assert allocate({name: hosts[name] for name in some}, plan, Ledger()) == {name: whole[name] for name in some}


@given(st.integers(1, 0xFFFF))
def test_an_address_tells_the_location_again(index):
    plan = changed("classes.client.fields.0", {"name": "building", "bits": 4, "var": "b"})
    record = allocate({"w": {**located(index), "b": index >> 12}}, plan, Ledger())["w"]
    assert ipaddress.ip_address(record["address"]) == ipaddress.ip_address("2001:db8:100:1::c:0") + index
    assert int(record["index"], 16) == index
    assert record["delegated_prefix"] == str(ipaddress.ip_network(f"2001:db8:200:{index:x}::/64"))


@given(many)
@settings(max_examples=40, deadline=None)
def test_whatever_is_given_out_is_disjoint_and_not_reserved(found):
    plan = changed("classes.client.fields.0", {"name": "building", "bits": 4, "var": "b"})
    hosts = {name: {**located(index), "b": index >> 12} for name, index in found.items()}
    records = allocate(hosts, plan, Ledger()).values()
    assert len({record["address"] for record in records}) == len(records)
    assert len({record["delegated_prefix"] for record in records}) == len(records)
    for record in records:
        assert ipaddress.ip_address(record["address"]) in ipaddress.ip_network(record["class_prefix"])
        assert ipaddress.ip_network(record["delegated_prefix"]).subnet_of(ipaddress.ip_network("2001:db8:200::/48"))
        assert record["ptr"] == ipaddress.ip_address(record["address"]).reverse_pointer


PLAN_ERRORS = [
    (
        "networks.device.prefixes",
        ["2001:db8:100:1::1/64"],
        "E101 networks.device.prefixes[0]: 2001:db8:100:1::1/64 has host bits set; did you mean 2001:db8:100:1::/64?",
    ),
    (
        "networks.device.gateway",
        "fe80::1%eth0",
        "E101 networks.device.gateway: fe80::1%eth0 has a zone; write the address without what follows '%'",
    ),
    (
        "classes.client.block",
        "::c:1/112",
        "E101 classes.client.block: ::c:1/112 has host bits set; did you mean ::c:0/112?",
    ),
    (
        "pools.clients.prefix",
        "fec0::/48",
        "E102 pools.clients.prefix: fec0::/48 overlaps fec0::/10 (deprecated site-local, RFC 3879)",
    ),
    (
        "pools.clients.prefix",
        "fc00::/48",
        "E104 pools.clients.prefix: fc00::/48 is neither in 2000::/3 nor in fd00::/8",
    ),
    (
        "pools.mail.prefix",
        "2001:db8:200:8000::/49",
        "E105 pools.mail.prefix 2001:db8:200:8000::/49 overlaps pools.clients.prefix 2001:db8:200::/48",
    ),
    (
        "classes.build.block",
        "::c:8000/113",
        "E105 classes.build.block ::c:8000/113 overlaps classes.client.block ::c:0/112",
    ),
    ("aggregate", ["2001:db8:100::/48", "2001:db8:200::/47"], None),
    (
        "aggregate",
        ["2001:db8:100::/48", "2001:db8:200::/48"],
        "E105 pools.mail.prefix: 2001:db8:201::/48 is outside the aggregate (2001:db8:100::/48, 2001:db8:200::/48)",
    ),
    (
        "networks.device.gateway",
        "2001:db8:9::1",
        "E105 networks.device.gateway: 2001:db8:9::1 is neither link-local nor in the network",
    ),
    (
        "networks.device.prefixes",
        ["2001:db8:100:1::/72"],
        "E204 networks.device.prefixes[0]: 2001:db8:100:1::/72 is not a /64",
    ),
    ("pools.clients.length", 80, "E207 pools.clients.length: /80 is longer than /64 (RFC 7934 section 8)"),
    (
        "classes.admin.pins.dev",
        10,
        "E209 classes.admin.pins.dev: expected a quoted hex string, got integer 10; write "
        '"10" for hex 10 or "a" for decimal ten',
    ),
    ("classes.admin.pins.dev", "bac10", "E209 classes.admin.pins.dev: bac10 does not fit in 16 bits (0..ffff)"),
    ("classes.client.fields", FIELDS[:3], "E209 classes.client.fields: 12 bits do not fill ::c:0/112 (16 bits)"),
    ("classes.build.groups", ["ci", "admin"], "E210 classes.build.groups: group admin is in class admin too"),
    (
        "pools.clients.prefix",
        "2001:db8:200::/49",
        "E211 classes.client: index: same needs 65536 /64s, pools.clients (2001:db8:200::/49) has 32768",
    ),
    ("classes.admin.pins.dev", "bac1", "E208 2001:db8:100:1::ad:bac1 is claimed by bac1 (pin bac1) and dev (same pin)"),
    ("version", 2, "E100 version: 2 is not a known version of the plan; write 1"),
    ("netwroks", {}, "E100 plan.netwroks: unknown key; known are aggregate, classes,"),
    (
        "classes.client.kind",
        "hash",
        "E100 classes.client.kind: 'hash' is not one of pinned, auto, location; write one of them",
    ),
    (
        "classes.client.network",
        "dev",
        "E100 classes.client.network: 'dev' is not one of networks (device); name one of them or add it there",
    ),
    ("classes.client.delegate.pool", "c", "E100 classes.client.delegate.pool: 'c' is not one of pools (clients, mail)"),
    ("networks.device.on_link", "yes", "E100 networks.device.on_link: expected true or false, got string 'yes'"),
    ("pools", [], "E100 pools: expected a mapping, got list"),
    (
        "classes.client.fields.1.bits",
        True,
        "E100 classes.client.fields[1].bits: expected an integer 1 to 64, got boolean True",
    ),
    (
        "networks.device.reserved",
        [{"suffix": "::1:0:0:0:0"}],
        "E105 networks.device.reserved[0].suffix: 0:0:0:1::/128 is not a suffix of 64 bits",
    ),
]


@pytest.mark.parametrize(("path", "value", "problem"), PLAN_ERRORS, ids=lambda value: str(value)[:40])
def test_a_wrong_plan_names_value_place_and_reason(path, value, problem):
    if problem is None:
        assert allocate(HOSTS, changed(path, value), HELD)
    else:
        assert [line for line in errors(changed(path, value)) if line.startswith(problem)]


def test_a_documentation_prefix_is_an_error_in_production():
    assert errors(changed("production", True))[0].startswith(
        "E103 networks.device.prefixes[0]: 2001:db8:100:1::/64 is a documentation prefix (RFC 9637 section 4) "
        "and production is true"
    )


def test_a_pool_around_a_network_must_reserve_it():
    plan = changed("pools.clients.prefix", "2001:db8:100::/48")
    assert errors(plan) == [
        "E106 pools.clients 2001:db8:100::/48 contains on-link network device 2001:db8:100:1::/64; "
        "reserve index 0001 or use a disjoint pool"
    ]
    plan = changed("pools.clients.reserved", ["0001"], plan)
    assert allocate(HOSTS, plan, HELD)
    hosts = {"web1": client(loc_building="0", loc_cabinet=0, loc_rack=0, loc_switch=1)}
    plan = changed("classes.client.fields.0", {"name": "building", "bits": 4, "var": "loc_building"}, plan)
    assert errors(plan, hosts) == [
        "E208 client/web1: 2001:db8:100:1::/64 is in pools.clients.reserved; choose another index"
    ]


@pytest.mark.parametrize(
    ("block", "pin", "problem"),
    [
        (
            "::/112",
            "0",
            "E201 admin/dev: 2001:db8:100:1:: is the Subnet-Router anycast address (RFC 4291 section 2.6.1)",
        ),
        ("::200:5eff:fe00:0/112", "9", "E202 admin/dev: 2001:db8:100:1:200:5eff:fe00:9 is in IANA's reserved"),
        ("::fdff:ffff:ffff:0/112", "ff80", "E203 admin/dev: 2001:db8:100:1:fdff:ffff:ffff:ff80 is a reserved subnet"),
        ("::/112", "1", "E208 admin/dev: 2001:db8:100:1::1 is reserved for router (networks.device.reserved[0])"),
    ],
)
def test_reserved_suffixes_are_given_to_nobody(block, pin, problem):
    plan = changed("classes.admin.block", block, changed("classes.admin.pins", {"dev": pin}))
    hosts = {"dev": {"groups": ["admin"]}}
    assert [line for line in errors(plan, hosts) if line.startswith(problem)]
    # The same by location, where only a host's variables lead to the suffix.
    entry = {"groups": ["clients"], "network": "device", "block": block, "kind": "location"}
    entry["fields"] = [{"name": "unit", "bits": 16, "var": "unit"}]
    plan = {**PLAN, "classes": {"admin": entry}}
    hosts = {"dev": {"groups": ["clients"], "unit": int(pin, 16)}}
    assert [line for line in errors(plan, hosts) if line.startswith(problem)]


def test_the_gateway_is_given_to_nobody():
    plan = changed("networks.device.gateway", "2001:db8:100:1::ad:de")
    assert errors(plan) == [
        "E208 admin/dev: 2001:db8:100:1::ad:de is the gateway of network device; choose another index"
    ]

    fields = [{"name": "unit", "bits": 16, "var": "unit"}]
    plan = changed("networks.device.gateway", "2001:db8:100:1::c:7", changed("classes.client.fields", fields))
    assert errors(plan, {"web1": {"groups": ["clients"], "unit": 7}}) == [
        "E208 client/web1: 2001:db8:100:1::c:7 is the gateway of network device; choose another index"
    ]


HOST_ERRORS = [
    ({"web1": client(loc_rack=16)}, "E209 web1: field rack=16 does not fit in 4 bits (0..15)"),
    ({"web1": client(loc_rack=-1)}, "E209 web1: field rack=-1 is not a whole number"),
    ({"web1": client(loc_rack=None)}, "E209 web1: host variable loc_rack (field rack) is not set"),
    ({"web1": client(loc_rack=True)}, "E209 web1: field rack=True is a boolean"),
    ({"web1": client(loc_rack="{{ x }}")}, "E209 web1: field rack={{ x }} is not a whole number"),
    ({"web1": client(loc_building="C")}, "E209 web1: field building=C is not in its map (A, B)"),
    ({"web1": client(dualstack_id=1234)}, "E209 web1: dualstack_id is the integer 1234; put it in quotes"),
    ({"x": {"groups": ["admin"]}}, "E209 admin/x: has no pin; add classes.admin.pins.x"),
    (
        {"web1": {"groups": ["admin", "clients"]}},
        "E210 web1 is in classes admin (group admin) and client (group clients); a host must be in exactly one",
    ),
    ({"x": {"groups": ["all", "new"]}}, "E210 x is in no class (its groups: all, new)"),
    (
        {"web01": client(), "web07": client()},
        "E208 2001:db8:100:1::c:2a3f is claimed by web01 (location building=B cabinet=10 rack=3 switch=15) "
        "and web07 (same location); add a field or pin one of them",
    ),
    (
        {"a": {"groups": ["admin"], "dualstack_id": "dev"}, "dev": {"groups": ["admin"]}},
        "E208 identity dev is claimed by a and dev",
    ),
    (
        {"web99": {"groups": ["ci"]}},
        "E304 web99 (class build) has no allocation and mode is frozen; "
        "run: ansible-playbook dualstack.fleet.plan, then commit addresses.jsonl",
    ),
    (
        {"web1": client(dualstack_vhosts=["new.example.com"])},
        "E304 new.example.com (vhost of web1) has no allocation and mode is frozen;",
    ),
    (
        {"web1": client(dualstack_vhosts={"shop": "0200"})},
        "E206 vhost web1/shop: /80 index 0200 is reserved (contains reserved interface identifiers of "
        "2001:db8:200:2a3f::/64, RFC 5453)",
    ),
    ({"web1": client(dualstack_vhosts={"shop": "0"})}, "E206 vhost web1/shop: /80 index 0000 is reserved"),
    ({"web1": client(dualstack_vhosts={"shop": "fdff"})}, "E206 vhost web1/shop: /80 index fdff is reserved"),
    (
        {"web1": client(dualstack_vhosts={"a": "7", "b": "7"})},
        "E208 2001:db8:200:2a3f:7::/80 is claimed by vhosts a and b of web1",
    ),
    ({"web1": client(dualstack_vhosts=["{{ evil }}"])}, "E209 web1: dualstack_vhosts: '{{ evil }}' is not a name"),
    ({"web1": client(dualstack_vhosts="shop")}, "E209 web1: dualstack_vhosts is a string; write a list of names"),
    ({"web1": client(dualstack_vhosts={"shop": 10})}, "E209 web1: dualstack_vhosts.shop: expected a quoted hex string"),
]


@pytest.mark.parametrize(("hosts", "problem"), HOST_ERRORS, ids=lambda value: str(value)[:40])
def test_a_wrong_host_names_value_place_and_reason(hosts, problem):
    found = errors(hosts=hosts)
    assert len(found) == 1
    assert found[0].startswith(problem)


def test_an_absent_host_keeps_its_pin():
    plan = changed("classes.client.pins", {"retired": "2a3f"})
    assert errors(plan, {"web1": client()}) == [
        "E208 2001:db8:100:1::c:2a3f is claimed by retired (pin 2a3f) and web1 "
        "(location building=B cabinet=10 rack=3 switch=15); add a field or pin one of them"
    ]


def test_two_classes_of_one_pool_do_not_share_a_delegated_prefix():
    plan = changed("classes.admin.delegate.pool", "clients", changed("classes.admin.pins.mx1", "2a3f"))
    assert errors(plan) == [
        "E208 2001:db8:200:2a3f::/64 is claimed by mx1 (class admin) and web1 (class client); "
        "give each class its own pool or change one index"
    ]


def test_a_host_that_sends_mail_has_a_prefix_of_its_own():
    assert allocate(HOSTS, changed("mail_groups", ["mx", "clients"]), HELD)
    assert errors(changed("mail_groups", ["admin"])) == [
        "E212 bac1: sends mail (mail_groups) and has no delegated prefix, so a blocklist would list its whole network; "
        "give classes.admin a delegate for it"
    ]


def test_a_pin_does_not_take_a_ledger_record_away():
    plan = changed("classes.build.pins", {"mon01": "c6ab"})
    assert errors(plan, {}) == [
        "E302 build/mon01: pin c6ab is held by ci01 since 2026-01-02; choose another pin or move ci01"
    ]
    assert allocate({}, changed("classes.build.pins", {"mon01": "c6ab", "ci01": "7"}), HELD) == {}


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (
            '{"i":"c6ab","id":"ci09","p":"device/build","s":"a","t":"2026-01-02"}',
            "E308 addresses.jsonl:5: index c6ab of pool device/build appears twice (ci01 line 3, ci09 line 5)",
        ),
        (
            '{"i":"0007","id":"ci01","p":"device/build","s":"a","t":"2026-01-02"}',
            "E308 addresses.jsonl:5: ci01 holds two indices of pool device/build (lines 3 and 5)",
        ),
        ("<<<<<<< HEAD", "E308 addresses.jsonl:5: '<<<<<<< HEAD' is a conflict marker; resolve the merge"),
        ("=======", "E308 addresses.jsonl:5: '=======' is a conflict marker"),
        ('{"i":"c6', "E308 addresses.jsonl:5: is not a JSON record"),
        ("[]", "E308 addresses.jsonl:5: [] is not a record"),
        ('{"i":7,"id":"a","p":"b","s":"a","t":"2026-01-02"}', "E308 addresses.jsonl:5: 'i' is 7"),
        ('{"dualstack":2}', "E308 addresses.jsonl:5: version 2 is not known"),
    ],
)
def test_a_damaged_ledger_is_an_error_with_its_line(line, problem):
    found = errors(ledger=read_ledger(LEDGER + line + "\n", "addresses.jsonl"))
    assert len(found) == 1
    assert found[0].startswith(problem)


@given(st.text(max_size=80))
def test_no_text_of_a_ledger_breaks_the_reader(text):
    assert isinstance(read_ledger(text, "addresses.jsonl"), Ledger)


def test_line_ends_of_another_system_change_nothing():
    assert read_ledger(LEDGER.replace("\n", "\r\n"), "addresses.jsonl") == HELD
    assert not HELD.problems


def test_a_list_of_records_is_a_ledger():
    record = {"i": "c6ab", "id": "ci01", "p": "device/build", "s": "a", "t": "2026-01-02"}
    assert allocate({"ci01": HOSTS["ci01"]}, PLAN, ledger_of([record], "ledger"))["ci01"]["index"] == "c6ab"


def test_all_errors_of_plan_hosts_and_ledger_come_at_once():
    plan = changed("classes.admin.pins.dev", 10, changed("pools.mail.prefix", "2001:db8:201::1/48"))
    hosts = {"web1": client(loc_rack=16, loc_switch=99), "x": {"groups": []}, "ci9": {"groups": ["ci"]}}
    found = errors(plan, hosts, read_ledger(LEDGER + "oops", "addresses.jsonl"))
    codes = [(line.split()[0], line.split()[1]) for line in found]
    assert sorted(codes) == [
        ("E101", "pools.mail.prefix:"),
        ("E209", "classes.admin.pins.dev:"),
        ("E209", "web1:"),
        ("E209", "web1:"),
        ("E210", "x"),
        ("E304", "ci9"),
        ("E308", "addresses.jsonl:5:"),
    ]


def test_a_broken_class_does_not_make_its_hosts_look_classless():
    assert len(errors(changed("classes.admin.pins.dev", 10))) == 1


@pytest.mark.parametrize(
    "junk", [None, [], "plan", 1, {"classes": {"a": None}}, {"networks": {"n": []}, "version": True}]
)
def test_no_junk_breaks_the_reader(junk):
    assert errors(junk)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=8),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
        max_leaves=6,
    ),
    st.sampled_from([path for path, _value, _problem in PLAN_ERRORS]),
)
@settings(max_examples=150, deadline=None)
def test_no_value_at_any_place_breaks_the_reader(value, path):
    try:
        allocate(HOSTS, changed(path, {} if value is None else value), HELD)
    except InputError as error:
        assert error.problems


def test_an_index_in_quarantine_is_nobodys():
    assert errors(hosts={"ci03": {"groups": ["ci"]}})[0].startswith("E304 ci03 (class build) has no allocation")


def test_errors_do_not_depend_on_the_order_of_hosts():
    hosts = {"web07": client(), "web01": client(), "x": {"groups": []}, "ci9": {"groups": ["ci"]}}
    assert errors(hosts=hosts) == errors(hosts=dict(reversed(hosts.items())))


def test_a_host_without_a_record_may_be_skipped():
    plan = changed("on_missing", "skip")
    hosts = {**HOSTS, "ci99": {"groups": ["ci"]}}
    assert set(allocate(hosts, plan, HELD)) == {"edge1", "bac1", "mx1", "web1", "ci01"}
    assert [line.split()[:2] for line in warned(plan, hosts)] == [["E304", "ci99"]]


@pytest.mark.parametrize(
    ("path", "value", "warning"),
    [
        ("pools.mail.prefix", "2001:db8:210::/47", "W308 pools.mail.prefix: /47 is not on a nibble"),
        (
            "networks.link",
            {"prefixes": ["2001:db8:100:2::/127"]},
            "W205 networks.link.prefixes[0]: 2001:db8:100:2::/127 numbers an anycast interface identifier (RFC 6164",
        ),
        ("networks.device.prefixes", ["fdde:adbe:ef00:1::/64"], "W309 networks.device.prefixes[0]: the Global ID"),
        ("networks.device.prefixes", ["fd5c:91be:27a4:1::/64"], "W310 networks.device: has only unique local prefixes"),
        ("classes.build.block", "::2ff:fe00:0/112", "W312 classes.build.block: ::2ff:fe00:0/112 looks like EUI-64"),
        (
            "aggregate",
            ["2001:db8::/32", "2001:db8:9:9::/64"],
            "W307 aggregate[1]: 2001:db8:9:9::/64 is smaller than a /56",
        ),
    ],
)
def test_what_is_unwise_is_a_warning(path, value, warning):
    assert [line for line in warned(changed(path, value)) if line.startswith(warning)]


def test_a_sound_plan_has_no_warnings():
    assert warned() == ()


def test_more_neighbours_than_the_kernel_keeps_are_a_warning():
    fields = [{"name": "unit", "bits": 16, "var": "unit"}]
    plan = changed("classes.client.fields", fields)
    hosts = {f"w{number}": {"groups": ["clients"], "unit": number} for number in range(1, 1026)}
    assert [line.split(";")[0] for line in warned(plan, hosts)] == [
        "W303 networks.device: 1025 hosts on link, more than 1024, Linux's default of net.ipv6.neigh.default.gc_thresh3"
    ]


def test_the_first_address_of_a_block_is_a_warning():
    plan = changed("classes.client.fields", [{"name": "unit", "bits": 16, "var": "unit"}])
    assert warned(plan, {"w": {"groups": ["clients"], "unit": 0}}) == (
        "W306 client/w: index 0 is the block's own address; choose another index",
    )


SITE = {"scope": "site", "prefix": "2001:db8:300:1::/64", "kind": "pinned"}
RULE = "classes.client.delegate.vhosts"


def test_the_vhosts_of_a_site_share_a_prefix():
    found = allocate({"web1": client(dualstack_vhosts={"shop": "7"})}, changed(RULE, SITE), HELD)["web1"]
    assert found["vhosts"] == {"shop": "2001:db8:300:1:7::/80"}
    assert found["routed_vhosts"] == ["2001:db8:300:1:7::/80"]
    assert found["unreachable"] == "2001:db8:200:2a3f::/64"
    assert "routed_vhosts" not in allocate(HOSTS, PLAN, HELD)["web1"]


@pytest.mark.parametrize(
    ("rule", "problem"),
    [
        ({"scope": "site"}, f"E101 {RULE}.prefix: expected an IPv6 prefix"),
        ({**SITE, "prefix": "2001:db8:300::/48"}, f"E209 {RULE}.prefix: 2001:db8:300::/48 is not"),
        ({"prefix": "2001:db8:300:1::/64"}, f"E100 {RULE}.prefix: belongs to scope: site"),
        ({**SITE, "scope": "rack"}, f"E100 {RULE}.scope: 'rack' is not one of host, site"),
        ({**SITE, "prefix": "2001:db8:200:1::/64"}, f"E105 {RULE}.prefix 2001:db8:200:1::/64 overlaps pools.clients"),
        ({**SITE, "prefix": "2001:db8:100:1::/64"}, f"E105 {RULE}.prefix 2001:db8:100:1::/64 overlaps networks.device"),
        ({**SITE, "prefix": "fec0:0:0:1::/64"}, f"E102 {RULE}.prefix: fec0:0:0:1::/64 overlaps fec0::/10"),
    ],
)
def test_the_prefix_of_a_site_is_checked(rule, problem):
    found = errors(changed(RULE, rule), {"web1": client()})
    assert len(found) == 1
    assert found[0].startswith(problem)


def test_a_reserved_index_of_a_site_is_refused():
    found = errors(changed(RULE, SITE), {"web1": client(dualstack_vhosts={"shop": "200"})})
    assert found[0].startswith("E206 vhost web1/shop: /80 index 0200 is reserved")
    assert "of 2001:db8:300:1::/64" in found[0]


def test_the_disputed_anycast_identifier_is_a_warning():
    plan = changed("classes.client.block", "::ffff:ffff:ffff:0/112")
    plan["classes"]["client"]["fields"] = [{"name": "unit", "bits": 16, "var": "unit"}]
    assert warned(plan, {"w": {"groups": ["clients"], "unit": 0xFF7E}}) == ()
    assert warned(plan, {"w": {"groups": ["clients"], "unit": 0xFF7F}}) == (
        "W315 client/w: 2001:db8:100:1:ffff:ffff:ffff:ff7f: RFC 6164 section 6 counts it to the subnet anycast "
        "addresses in one place of two; avoid it",
    )
