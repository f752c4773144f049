"""Allocation: nobody moves, whatever happens to the fleet, the plan, the file or the other writers."""

import datetime
import fcntl
import hashlib
import ipaddress
import json
import multiprocessing
import os
import pathlib
import signal
import subprocess
import sys
import uuid

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from module_utils import _ledger_file
from module_utils._addresses import IID_MASK, parse_address, reserved, text
from module_utils._allocation import Request, parse_day
from module_utils._errors import DualStackError, InputError
from module_utils._ledger import _read, _read_canonical, read_ledger, render
from module_utils._ledger_file import locked, update
from module_utils._numbering import frozen, readable_hosts, records
from module_utils._plan import read_plan

PLUGINS = str(pathlib.Path(__file__).parents[2] / "plugins")
CASES = int(os.environ.get("DUALSTACK_FUZZ_CASES", "500"))
DAY = "2026-01-02"
PLAN = {
    "version": 1,
    "silence": ["W301", "W302", "W314"],
    "networks": {"device": {"prefixes": ["2001:db8:100:1::/64"], "gateway": "fe80::1"}},
    "pools": {"clients": {"prefix": "2001:db8:200::/48"}},
    "classes": {
        "build": {"groups": ["ci"], "network": "device", "block": "::b:0/112", "kind": "auto"},
        "client": {
            "groups": ["clients"],
            "network": "device",
            "block": "::c:0/112",
            "kind": "auto",
            "delegate": {"pool": "clients", "index": "sparse", "vhosts": {"kind": "auto"}},
        },
        "admin": {"groups": ["admin"], "network": "device", "block": "::ad:0/112", "kind": "pinned", "track": True},
        "located": {
            "groups": ["rack"],
            "network": "device",
            "block": "::4:0/112",
            "kind": "location",
            "fields": [{"name": "unit", "bits": 16, "var": "unit"}],
            "track": True,
        },
    },
}


names = st.sampled_from([f"h{number}" for number in range(12)])


def plan_with(class_name, **changes):
    classes = {**PLAN["classes"], class_name: {**PLAN["classes"][class_name], **changes}}
    return {**PLAN, "classes": classes}


def fleet(*names, group="ci"):
    return {name: {"groups": [group]} for name in names}


@pytest.fixture
def ledger(tmp_path):
    return str(tmp_path / "addresses.jsonl")


def run(path, hosts, plan=PLAN, today=DAY, check=False, **options):
    return update(str(path), read_plan(plan), hosts, Request(today, **options), timeout=5, check=check)


def problems(path, hosts, plan=PLAN, today=DAY, **options):
    before = content(path)
    with pytest.raises(InputError) as raised:
        run(path, hosts, plan, today, **options)
    assert content(path) == before
    return raised.value.problems


def content(path):
    return pathlib.Path(path).read_text() if os.path.exists(path) else None


def index_of(path, identity, pool="device/build"):
    return read_ledger(content(path), "x").active(pool, identity)


def record(index, identity, state="a", until="", pool="device/build"):
    end = f',"u":"{until}"' if until else ""
    return f'{{"i":"{index}","id":"{identity}","p":"{pool}","s":"{state}","t":"2026-01-02"{end}}}\n'


def start_of(pool, identity, low=256, size=65536):
    digest = hashlib.sha256(b"dualstack/1\0" + pool.encode() + b"\0" + identity.encode()).digest()
    return low + int.from_bytes(digest[:8], "big") % (size - low)


def test_a_new_host_is_one_new_line(ledger):
    run(ledger, fleet("ci1", "ci2"))
    before = content(ledger).splitlines()
    run(ledger, fleet("ci1", "ci2", "ci3"), today="2026-02-01")
    after = content(ledger).splitlines()
    assert [line for line in after if line not in before] == [
        f'{{"i":"{start_of("device/build", "ci3"):04x}","id":"ci3","p":"device/build","s":"a","t":"2026-02-01"}}'
    ]
    assert len(after) == len(before) + 1
    assert after[0] == '{"dualstack":1}'
    assert after[1:] == sorted(after[1:], key=lambda line: line[5:])


def test_check_mode_says_the_same_and_writes_nothing(ledger):
    found = run(ledger, fleet("ci1"), check=True)
    assert not os.listdir(os.path.dirname(ledger))
    assert run(ledger, fleet("ci1")).after == found.after == content(ledger)


def test_a_second_run_leaves_every_byte_and_the_file_itself(ledger):
    hosts = {**fleet("ci1"), "web1": {"groups": ["clients"], "dualstack_vhosts": ["shop", "blog"]}}
    run(ledger, hosts)
    before = os.stat(ledger).st_ino
    assert run(ledger, hosts, today="2026-12-31").after == content(ledger)
    assert os.stat(ledger).st_ino == before
    assert os.listdir(os.path.dirname(ledger)) == ["addresses.jsonl"]


def test_a_plan_without_ledger_classes_makes_no_file(ledger):
    plan = {**plan_with("admin", pins={"dev": "de"}, track=False)}
    run(ledger, fleet("dev", group="admin"), plan)
    assert not os.path.exists(ledger)


def test_a_probe_goes_upward_and_pins_and_the_static_band_stay_free(ledger):
    taken = start_of("device/build", "ci1")
    plan = plan_with("build", pins={"other": f"{taken:x}"})
    run(ledger, fleet("ci1"), plan)
    assert index_of(ledger, "ci1") == taken + 1


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"start": "sequential"}, [256, 257, 258]),
        ({"start": "sequential", "static_band": 0}, [1, 2, 3]),
        ({"start": "sparse"}, [0x8000, 0x4000, 0xC000]),
    ],
)
def test_ways_to_start(ledger, options, expected):
    run(ledger, fleet("a", "b", "c"), plan_with("build", **options))
    assert [index_of(ledger, name) for name in "abc"] == expected


def test_the_static_band_is_used_last_and_then_the_pool_is_exhausted(ledger):
    plan = plan_with("build", block="::b:0/122", static_band=16)  # 64 indices, 0 belongs to nobody
    names = [f"ci{number:02}" for number in range(48)]
    run(ledger, fleet(*names), plan)
    assert min(index_of(ledger, name) for name in names) == 16
    more = [*names, *(f"x{number:02}" for number in range(15))]
    run(ledger, fleet(*more), plan)
    assert sorted(index_of(ledger, name) for name in more) == list(range(1, 64))
    run(ledger, fleet(*more[1:]), plan, today="2026-02-01", prune=True)
    assert problems(ledger, fleet(*more[1:], "y"), plan, today="2026-02-02") == [
        "E301 pool device/build is exhausted: 64 indices, 62 active, 1 quarantined (next free on 2026-05-02), "
        "1 reserved; widen classes.build.block or shorten quarantine"
    ]


def test_quarantine_holds_until_its_day(ledger):
    plan = plan_with("build", start="sequential")
    run(ledger, fleet("a", "b"), plan)
    found = run(ledger, fleet("b"), plan, today="2026-02-01", prune=True)
    assert [(each.identity, each.until) for each in found.allocation.events["released"]] == [("a", "2026-05-02")]
    run(ledger, fleet("b", "c"), plan, today="2026-05-01")
    assert index_of(ledger, "c") == 258
    run(ledger, fleet("b", "c", "d"), plan, today="2026-05-02")
    assert index_of(ledger, "d") == 256


def test_who_comes_back_gets_the_old_index(ledger):
    run(ledger, fleet("a", "b"))
    before = content(ledger)
    run(ledger, fleet("b"), today="2026-02-01", prune=True)
    assert content(ledger) != before
    run(ledger, fleet("a", "b"), today="2026-03-01")
    assert content(ledger) == before


def test_nobody_is_released_without_prune(ledger):
    run(ledger, fleet("a", "b"))
    before = content(ledger)
    run(ledger, fleet("b"), today="2027-01-01", gc=True)
    assert content(ledger) == before


def test_expired_records_are_collected_on_request(ledger):
    run(ledger, fleet("a", "b"))
    run(ledger, fleet("b"), today="2026-02-01", prune=True)
    run(ledger, fleet("b"), today="2026-05-01", gc=True)
    assert '"id":"a"' in content(ledger)
    run(ledger, fleet("b"), today="2026-05-02", gc=True)
    assert '"id":"a"' not in content(ledger)


def test_a_truncated_inventory_releases_nobody(ledger):
    names = [f"ci{number}" for number in range(400)]
    run(ledger, fleet(*names))
    assert problems(ledger, fleet(*names[41:]), prune=True) == [
        "E305 refusing to release 41 of 400 records (limit 40); the inventory may be incomplete. "
        "Use --prune-max 41 to proceed (of the playbook: -e plan_prune_max=41)"
    ]
    run(ledger, fleet(*names[40:]), prune=True)
    run(ledger, fleet(*names[90:]), prune=True, prune_max=50)
    assert content(ledger).count('"s":"q"') == 90


def test_a_rename_keeps_index_prefix_and_vhosts(ledger):
    hosts = {"web1": {"groups": ["clients"], "dualstack_vhosts": ["shop"]}}
    old = records(run(ledger, hosts).allocation.places)["web1"]
    new = records(run(ledger, {"web9": hosts["web1"]}, rename={"web1": "web9"}).allocation.places)["web9"]
    assert new == old
    assert "web1" not in content(ledger)
    assert problems(ledger, {"web9": hosts["web1"]}, rename={"nobody": "x"}) == [
        "E309 rename nobody: the ledger has no record of it; correct the name"
    ]
    run(ledger, {**fleet("a", "b"), "web9": hosts["web1"]})
    assert problems(ledger, {**fleet("b"), "web9": hosts["web1"]}, rename={"a": "b"})[0].startswith(
        "E309 rename a: b has records of pool device/build already"
    )


def test_a_move_leaves_the_old_index_in_quarantine(ledger):
    run(ledger, fleet("a", "b"), plan_with("build", start="sequential"))
    move = [{"pool": "device/build", "identity": "a", "index": "00ff"}]
    run(ledger, fleet("a", "b"), move=move)
    assert index_of(ledger, "a") == 0xFF
    assert read_ledger(content(ledger), "x").holders["device/build"][256].state == "q"
    taken = [{"pool": "device/build", "identity": "a", "index": "0101"}, {"pool": "x", "identity": "a", "index": "1"}]
    assert problems(ledger, fleet("a", "b"), move=taken) == [
        "E309 move[0]: index 0101 of pool device/build is held (b); choose another index",
        "E309 move[1]: a has no index of pool x; it holds one of device/build",
    ]


def test_pins_against_the_ledger(ledger):
    pathlib.Path(ledger).write_text(
        record("00c0", "web12") + record("00c1", "db03", "q", "2026-05-02") + record("00c2", "spare", "r")
    )
    pins = {"mon01": "0c0", "mon02": "0c1", "mon03": "c2"}
    plan = plan_with("build", pins=pins)
    assert problems(ledger, fleet("mon01"), plan) == [
        "E302 build/mon01: pin 0c0 is held by web12 since 2026-01-02; choose another pin or move web12",
        "E303 build/mon02: pin 0c1 is in quarantine until 2026-05-02 (was db03); "
        "set force_reuse with a reason to override",
        "E302 build/mon03: pin c2 is held by spare since 2026-01-02; choose another pin or move spare",
    ]
    plan = plan_with("build", pins={"mon02": {"index": "0c1", "force_reuse": "db03 was never in DNS"}})
    assert records(run(ledger, fleet("mon02"), plan).allocation.places)["mon02"]["index"] == "c1"
    plan = plan_with("build", pins={"mon02": "0c1"})
    assert run(ledger, fleet("mon02"), plan, today="2026-05-02")
    # Its old owner is back, and another has the index: a new one.
    run(ledger, fleet("mon02", "db03"), plan, today="2026-05-02")
    assert index_of(ledger, "db03") == start_of("device/build", "db03")


def test_a_pin_moves_its_identity_and_nobody_else(ledger):
    run(ledger, fleet("a", "b"))
    old = index_of(ledger, "b")
    plan = plan_with("build", pins={"a": "7"})
    found = run(ledger, fleet("a", "b"), plan, today="2026-02-01")
    assert records(found.allocation.places)["a"]["index"] == "7"
    assert index_of(ledger, "b") == old
    assert index_of(ledger, "a") is None
    assert '"u":"2026-05-02"' in content(ledger)


@pytest.mark.parametrize("track", [False, True])
def test_what_a_pin_gave_rests_where_it_is_tracked(ledger, track):
    run(ledger, fleet("a"), plan_with("build", pins={"a": "100"}, start="sequential", track=track))
    run(ledger, fleet("a", "b"), plan_with("build", pins={"a": "101"}, start="sequential", track=track))
    assert index_of(ledger, "b") == (0x102 if track else 0x100)


def test_a_tracked_place_tells_who_had_it(ledger):
    def at(name, unit):
        return {name: {"groups": ["rack"], "unit": unit}}

    run(ledger, at("web01", 0x2A3F))
    run(ledger, at("other", 1), today="2026-02-01", prune=True)
    found = run(ledger, {**at("web07", 0x2A3F), **at("other", 1)}, today="2026-03-01")
    assert found.allocation.warnings == (
        "W316 web07 takes over 2001:db8:100:1::4:2a3f from web01 (released 2026-02-01)",
    )
    assert index_of(ledger, "web07", "device/located") == 0x2A3F
    # Two that change places.
    found = run(ledger, {**at("web07", 1), **at("other", 0x2A3F)}, today="2026-03-02")
    assert len(found.allocation.warnings) == 2
    assert index_of(ledger, "other", "device/located") == 0x2A3F
    assert index_of(ledger, "web07", "device/located") == 1
    assert run(ledger, {**at("web07", 1), **at("other", 0x2A3F)}).before == content(ledger)


def test_vhosts_and_prefixes_follow_their_host(ledger):
    hosts = {"web1": {"groups": ["clients"], "dualstack_vhosts": ["a", "b"]}}
    first = records(run(ledger, hosts).allocation.places)["web1"]
    hosts["web1"]["dualstack_vhosts"] = ["b", "c"]
    second = records(run(ledger, hosts, today="2026-02-01", prune=True).allocation.places)["web1"]
    assert second["delegated_prefix"] == first["delegated_prefix"] == "2001:db8:200:8000::/64"
    assert second["vhosts"]["b"] == first["vhosts"]["b"]
    assert '"s":"q","t":"2026-01-02","u":"2026-03-03"' in content(ledger)  # 30 days


fleets = st.dictionaries(
    st.sampled_from([f"h{number}" for number in range(12)]),
    st.tuples(st.sampled_from(["ci", "clients"]), st.lists(names, unique=True, max_size=4)),
    min_size=1,
)


@given(fleets, st.randoms())
@settings(max_examples=max(40, CASES // 20), deadline=None)
def test_all_that_is_given_out_is_disjoint_and_in_its_place_in_any_order(found, shuffle):
    hosts = {
        name: {"groups": [group], **({"dualstack_vhosts": vhosts} if group == "clients" else {})}
        for name, (group, vhosts) in found.items()
    }
    path = f"{SCRATCH}/{uuid.uuid4()}.jsonl"
    shown = records(run(path, hosts).allocation.places)
    whole = ipaddress.ip_network("2001:db8:100:1::/64")
    addresses = [ipaddress.ip_network(each["address"]) for each in shown.values()]
    prefixes = [ipaddress.ip_network(each["delegated_prefix"]) for each in shown.values() if each["delegated_prefix"]]
    blocks = [(each, vhost) for each in shown.values() for vhost in map(ipaddress.ip_network, each["vhosts"].values())]
    assert all(address.subnet_of(whole) for address in addresses) and len(set(addresses)) == len(addresses)
    assert len({*prefixes, whole}) == len(prefixes) + 1
    assert all(vhost.subnet_of(ipaddress.ip_network(each["delegated_prefix"])) for each, vhost in blocks)
    assert len({vhost for _each, vhost in blocks}) == len(blocks)
    assert len(blocks) == sum(len(vhosts) for group, vhosts in found.values() if group == "clients")
    for network in (*addresses, *(vhost for _each, vhost in blocks)):
        assert not reserved(int(network[0]) & IID_MASK, int(network[-1]) & IID_MASK)
    text = content(path)
    classes, order = list(PLAN["classes"].items()), list(hosts.items())
    for each in (classes, order):
        shuffle.shuffle(each)
    other = {**dict(reversed(PLAN.items())), "classes": dict(classes)}
    os.unlink(path)
    assert records(run(path, dict(order), other).allocation.places) == shown
    assert content(path) == text


def test_the_seed_of_pythons_hashes_does_not_matter(tmp_path):
    hosts = {**fleet(*(f"ci{number}" for number in range(30))), **webs(web1=["a", "b", "c"], web2=["d"])}
    shown = set()
    for seed in ("0", "1", "4711"):
        path = tmp_path / seed
        code = SHOWN.format(plugins=PLUGINS, path=str(path))
        given = json.dumps([PLAN, hosts])
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        done = subprocess.run(
            [sys.executable, "-c", code], input=given, env=environment, capture_output=True, text=True, check=True
        )
        shown.add(done.stdout + content(path))
    assert len(shown) == 1


def test_a_chosen_prefix_is_not_one_that_follows_from_an_index(ledger):
    """Host z gets its prefix from the ledger, host a one after its index, which is chosen in the same run."""
    first = start_of("pool/clients", "z", low=1)
    shared = {
        "build": {"start": "sequential", "static_band": first, "delegate": {"pool": "clients"}},
        "located": {"delegate": {"pool": "clients", "index": "ledger"}},
    }
    plan = {**PLAN, "classes": {name: {**PLAN["classes"][name], **entry} for name, entry in shared.items()}}
    found = records(run(ledger, {**fleet("a"), "z": {"groups": ["rack"], "unit": 1}}, plan).allocation.places)
    assert found["a"]["delegated_prefix"] == f"2001:db8:200:{first:x}::/64"
    assert found["z"]["delegated_prefix"] == f"2001:db8:200:{first + 1:x}::/64"


def test_a_vhost_pool_gives_all_but_three_indices(ledger):
    names = [f"v{number}" for number in range(65533)]
    web = {"groups": ["clients"], "dualstack_vhosts": names}
    found = run(ledger, {"web1": web}, check=True)
    indices = {*found.allocation.ledger.holders["vhost/web1"]}
    assert set(range(65536)) - indices == {0, 0x200, 0xFDFF}


SITE = plan_with(
    "client",
    delegate={"pool": "clients", "index": "sparse", "vhosts": {"scope": "site", "prefix": "2001:db8:300:1::/64"}},
)


def webs(**vhosts):
    return {name: {"groups": ["clients"], "dualstack_vhosts": names} for name, names in vhosts.items()}


def test_a_vhost_of_the_site_keeps_its_prefix_on_another_host(ledger):
    first = records(run(ledger, webs(web1=["shop", "blog"], web2=["wiki"]), SITE).allocation.places)
    before = content(ledger)
    assert first["web1"]["routed_vhosts"] == [*first["web1"]["vhosts"].values()]
    found = {**first["web1"]["vhosts"], **first["web2"]["vhosts"]}
    assert len({*found.values()}) == 3
    assert all(prefix.startswith("2001:db8:300:1:") and prefix.endswith("/80") for prefix in found.values())
    second = records(run(ledger, webs(web1=["blog"], web2=["wiki", "shop"]), SITE, prune=True).allocation.places)
    assert {**second["web1"]["vhosts"], **second["web2"]["vhosts"]} == found
    assert second["web2"]["routed_vhosts"] == [found["shop"], found["wiki"]]
    assert content(ledger) == before
    assert [line for line in before.splitlines() if "site/client" in line and '"id":"shop"' in line]


def test_a_vhost_of_the_site_is_on_one_host_only(ledger):
    (problem,) = problems(ledger, webs(web1=["shop"], web2=["shop"]), SITE)
    assert problem.startswith("E208 2001:db8:300:1:")
    assert "is claimed by web1 and web2 (vhost shop); name each vhost on one host only" in problem
    (problem,) = problems(ledger, webs(web1={"shop": "7"}, web2={"blog": "7"}), SITE)
    assert problem.startswith("E208 2001:db8:300:1:7::/80 is claimed by web1 and web2 (vhost blog)")


def test_a_renamed_host_leaves_the_site_its_vhost_of_that_name(ledger):
    run(ledger, webs(web1=["web1", "web9"]), SITE)
    run(ledger, webs(web9=["web1", "web9"]), SITE, rename={"web1": "web9"})
    pools = [(record["p"], record["id"]) for record in map(json.loads, content(ledger).splitlines()[1:])]
    assert sorted(pools) == [
        ("device/client", "web9"),
        ("pool/clients", "web9"),
        ("site/client", "web1"),
        ("site/client", "web9"),
    ]


def test_reserved_suffixes_and_the_gateway_are_never_chosen(ledger):
    device = {
        "prefixes": ["2001:db8:100:1::/64"],
        "gateway": "2001:db8:100:1::b:5",
        "reserved": [{"suffix": "::b:8/125"}],
    }
    plan = {**plan_with("build", block="::b:0/124", start="sequential"), "networks": {"device": device}}
    run(ledger, fleet("a", "b", "c", "d", "e", "f"), plan)
    assert sorted(index_of(ledger, name) for name in "abcdef") == [1, 2, 3, 4, 6, 7]
    assert problems(ledger, fleet(*"abcdefg"), plan)[0].startswith("E301 pool device/build is exhausted")


def test_addresses_that_hosts_carry_are_adopted(ledger):
    hosts = {**fleet("ci1", "ci2"), **fleet("mon01", group="admin"), "db1": {"groups": ["rack"], "unit": 5}}
    carried = {
        "ci1": ["192.0.2.1", "2001:db8:100:1::b:77/64"],
        "ci2": [],
        "mon01": ["2001:db8:100:1::ad:bac1"],
        "db1": ["2001:db8:100:1::4:5", "2001:db8:100:1:21a:4aff:fe00:1"],
    }
    assert problems(ledger, hosts, adopt=carried)[0].startswith("E309 adopt ci1: '192.0.2.1' is not an IPv6 address")
    carried["ci1"] = carried["ci1"][1:]
    found = run(ledger, hosts, adopt=carried)
    assert index_of(ledger, "ci1") == 0x77
    assert index_of(ledger, "ci2") == start_of("device/build", "ci2")
    assert found.allocation.pins == {"admin": {"mon01": "bac1"}}
    assert [line.split()[0] for line in found.allocation.warnings] == ["W311"]
    again = {"ci1": "2001:db8:100:1::b:78", "ci2": "2001:db8:100:1::b:77", "x": []}
    pinned = {**plan_with("admin", pins={"mon01": "bac1"})}
    assert [line.split(";")[0] for line in problems(ledger, hosts, pinned, adopt=again)] == [
        "E309 adopt ci1: 2001:db8:100:1::b:78 is not 77, which the ledger has for ci1",
        f"E309 adopt ci2: 2001:db8:100:1::b:77 is not {index_of(ledger, 'ci2'):x}, which the ledger has for ci2",
        "E309 adopt x: is not a host of the inventory",
    ]


def test_a_prefix_on_an_interface_is_a_warning_when_it_is_adopted(ledger):
    found = run(ledger, fleet("ci1"), adopt={"ci1": ["2001:db8:100:1::b:77", "2001:db8:200:8000:7::1/80"]})
    assert [line.split(",")[0] for line in found.allocation.warnings] == [
        "W305 adopt ci1: 2001:db8:200:8000:7::1/80 is configured as a /80"
    ]


def test_two_hosts_that_carry_one_address_are_a_conflict(ledger):
    carried = {"ci1": "2001:db8:100:1::b:77", "ci2": "2001:db8:100:1::b:77"}
    assert problems(ledger, fleet("ci1", "ci2"), adopt=carried) == [
        "E309 adopt ci2: 2001:db8:100:1::b:77 is held by ci1; give one of them another address"
    ]


def test_a_pool_that_gets_full_is_a_warning(ledger):
    plan = plan_with("build", block="::b:0/124")
    names = [f"ci{number}" for number in range(13)]
    assert run(ledger, fleet(*names[:12]), plan).allocation.warnings == ()
    assert run(ledger, fleet(*names), plan).allocation.warnings == (
        "W313 classes.build: 13 of 16 indices are taken, more than 80 %; plan a wider one before it is exhausted",
    )


def test_advice_is_given_once_and_can_be_silenced(ledger):
    found = run(ledger, fleet("a"), {**PLAN, "silence": []})
    assert [line.split()[0] for line in found.allocation.warnings] == ["W301", "W302", "W314"]
    assert run(ledger, fleet("a")).allocation.warnings == ()


def test_nothing_is_written_when_anything_is_wrong(ledger):
    assert [line.split()[0] for line in problems(ledger, {**fleet("a"), "b": {"groups": []}})] == ["E210"]
    run(ledger, fleet("a"))
    pathlib.Path(ledger).write_text(content(ledger) + record("0001", "a"))
    assert problems(ledger, fleet("a", "b"))[0].startswith("E308 addresses.jsonl:3: a holds two indices")


def test_a_ledger_that_another_changes_is_left_alone(ledger, monkeypatch):
    run(ledger, fleet("a"))
    other = content(ledger) + record("0001", "z")

    def interfere(*arguments):
        pathlib.Path(ledger).write_text(other)
        return render(*arguments)

    render = _ledger_file.render
    monkeypatch.setattr(_ledger_file, "render", interfere)
    with pytest.raises(DualStackError, match=r"E306 addresses.jsonl changed while allocating \(expected sha256 "):
        run(ledger, fleet("a", "b"))
    assert content(ledger) == other


def test_a_lock_that_another_holds_names_its_holder(ledger):
    with open(f"{ledger}.lock", "w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        with pytest.raises(DualStackError) as raised, locked(ledger, 0.05):
            pass
    assert str(raised.value) == (
        f"E307 could not lock addresses.jsonl.lock within 0.05 s (held by pid {os.getpid()}); nothing written"
    )
    with locked(ledger, 0.05):  # a lock file that a killed run left is no lock
        assert os.path.exists(f"{ledger}.lock")
    assert not os.path.exists(f"{ledger}.lock")


WRITER = """\
import json, os, signal, sys
sys.path.insert(0, {plugins!r})
from module_utils import _files
from module_utils._allocation import Request
from module_utils._ledger_file import update
from module_utils._plan import read_plan
os.rename = lambda *names: os.kill(os.getpid(), signal.SIGKILL)
plan, hosts = json.load(sys.stdin)
update({path!r}, read_plan(plan), hosts, Request("2026-01-02"), timeout=30, check=False)
"""


SHOWN = """
import json, sys
sys.path.insert(0, {plugins!r})
from module_utils._allocation import Request
from module_utils._ledger_file import update
from module_utils._numbering import records
from module_utils._plan import read_plan
plan, hosts = json.load(sys.stdin)
found = update({path!r}, read_plan(plan), hosts, Request("2026-01-02"), timeout=5, check=False)
print(json.dumps(records(found.allocation.places)))
"""


def killed_writer(path, hosts):
    code = WRITER.format(plugins=PLUGINS, path=str(path))
    process = subprocess.Popen([sys.executable, "-S", "-c", code], stdin=subprocess.PIPE, text=True)
    process.stdin.write(json.dumps([plan_with("build", start="sequential"), hosts]))
    process.stdin.close()
    return process


def test_a_writer_that_is_killed_before_the_rename_loses_nothing(ledger):
    plan = plan_with("build", start="sequential")
    run(ledger, fleet("a"), plan)
    before = content(ledger)
    process = killed_writer(ledger, fleet("a", "b"))
    assert process.wait() == -signal.SIGKILL
    assert content(ledger) == before
    assert os.path.exists(f"{ledger}.lock")
    run(ledger, fleet("a", "b"), plan)
    assert index_of(ledger, "b") == 257


def test_24_writers_at_once_get_24_indices(ledger):
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(24)

    def work(name):
        barrier.wait()
        run(ledger, fleet(name), plan_with("build", start="sequential"))

    processes = [context.Process(target=work, args=(f"ci{number}",)) for number in range(24)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 24
    found = read_ledger(content(ledger), "x")
    assert not found.problems
    assert sorted(found.holders["device/build"]) == list(range(256, 280))
    assert len(found.indices["device/build"]) == 24


def test_two_branches_with_one_index_are_a_conflict_or_an_error(tmp_path, ledger):
    def git(*arguments):
        identity = ("-c", "user.name=x", "-c", "user.email=x@example.net", "-c", "init.defaultBranch=main")
        return subprocess.run(["git", *identity, *arguments], cwd=tmp_path, capture_output=True, text=True, check=False)

    plan = plan_with("build", start="sequential")
    git("init")
    run(ledger, fleet("a"), plan)
    git("add", "addresses.jsonl")
    git("commit", "-m", "base")
    for branch, name in (("one", "b"), ("two", "c")):
        git("checkout", "-b", branch, "main")
        run(ledger, fleet("a", name), plan)
        git("commit", "-a", "-m", branch)
    assert git("merge", "one").returncode == 1
    assert {line.split()[0] for line in problems(ledger, fleet("a", "b", "c"), plan)} == {"E308"}
    # Resolved by keeping both lines: still not silent.
    lines = [line for line in content(ledger).splitlines(True) if line.startswith("{")]
    pathlib.Path(ledger).write_text("".join(lines))
    assert "index 0101 of pool device/build appears twice (c line 3, b line 4)" in "".join(
        problems(ledger, fleet("a", "b", "c"), plan)
    )


@pytest.mark.parametrize("day", ["yesterday", "2026-02-30", "02/01/2026", "2026-1-2"])
def test_a_date_that_is_none(day):
    with pytest.raises(DualStackError, match=r"^today: "):
        parse_day(day)


def test_the_cost_grows_with_the_fleet_and_no_faster(ledger):
    def cost(count):
        calls = 0

        def called(_frame, event, _argument):
            nonlocal calls
            calls += event in ("call", "c_call")

        names = [f"v{number}" for number in range(count)]
        sys.setprofile(called)
        try:
            run(ledger, {**fleet(*names), **webs(web1=names)}, check=True)
        finally:
            sys.setprofile(None)
        return calls

    cost(10)
    assert cost(2000) <= 2.05 * cost(1000)


class Fleet(RuleBasedStateMachine):
    """Hosts come, go, are renamed and pinned, and days pass."""

    @initialize(start=st.sampled_from(["hash", "sequential", "sparse"]))
    def begin(self, start):
        self.path = f"{SCRATCH}/{uuid.uuid4()}.jsonl"  # a history that is told again begins with nothing again
        self.hosts, self.pins, self.start = {}, {}, start
        self.day = datetime.date(2026, 1, 2)
        self.given, self.held = {}, {}

    def plan(self, prefix="2001:db8:100:1::/64"):
        # Seven dynamic indices for twelve hosts, so that the band, the end of the pool and the quarantine are met.
        build = {"start": self.start, "block": "::b:0/124", "static_band": 8, "pins": self.pins}
        return {**plan_with("build", **build), "networks": {"device": {"prefixes": [prefix]}}}

    def sync(self, hosts, **options):
        """Run; return False if it was refused, with nothing written."""
        before = content(self.path)
        try:
            found = run(self.path, hosts, self.plan(), today=self.day.isoformat(), **options)
        except InputError as error:
            assert content(self.path) == before
            assert {line.split()[0] for line in error.problems} <= {"E301", "E302", "E303", "E309", "E208"}
            return False
        assert found.after == (content(self.path) or "")
        self.hosts = hosts
        self.given = {name: each["address"] for name, each in records(found.allocation.places).items()}
        return True

    @rule(name=names)
    def add(self, name):
        before = dict(self.given)
        if name not in self.hosts and self.sync({**self.hosts, **fleet(name)}):
            assert {each: self.given[each] for each in before} == before
            ended = self.held.get(self.given[name])
            assert name in self.pins or ended is None or ended[0] == name or ended[1] <= self.day

    @rule(name=names)
    def remove(self, name):
        before = dict(self.given)
        if name in self.hosts:
            assert self.sync({each: entry for each, entry in self.hosts.items() if each != name}, prune=True)
            assert self.given == {each: address for each, address in before.items() if each != name}
            self.let_go(name, before[name], self.pins)

    def let_go(self, name, address, pins):
        """Note until when nobody else gets ADDRESS, which NAME had. What one of PINS gave, the plan may give on."""
        if name not in pins:
            self.held[address] = (name, self.day + datetime.timedelta(days=90))

    @rule(old=names, new=names)
    def rename(self, old, new):
        if old not in self.hosts or new in self.hosts or {old, new} & self.pins.keys():
            return
        before = dict(self.given)
        renamed = {new if each == old else each: entry for each, entry in self.hosts.items()}
        if self.sync(renamed, rename={old: new}):
            assert self.given == {new if each == old else each: address for each, address in before.items()}

    @rule(name=names, index=st.integers(1, 15))
    def pin(self, name, index):
        before, pins = dict(self.given), dict(self.pins)
        self.pins = {**self.pins, name: f"{index:x}"}
        if len(set(self.pins.values())) < len(self.pins) or not self.sync(self.hosts):
            self.pins = pins
            return
        moved = {each for each in before if self.given[each] != before[each]}
        assert moved <= {name}
        for each in moved:
            self.let_go(each, before[each], pins)

    @rule(days=st.integers(1, 60), gc=st.booleans())
    def pass_time(self, days, gc):
        before = dict(self.given)
        self.day += datetime.timedelta(days=days)
        assert self.sync(self.hosts, gc=gc)
        assert self.given == before

    @precondition(lambda self: self.hosts)
    @rule()
    def change_prefix(self):
        plan, wrong = read_plan(self.plan("2001:db8:9:9::/64"))
        ledger = read_ledger(content(self.path) or "", "x")
        found = frozen(plan, wrong, self.hosts, ledger).records
        for name, address in self.given.items():
            assert parse_address(found[name]["address"]) & IID_MASK == parse_address(address) & IID_MASK

    @precondition(lambda self: self.hosts)
    @rule(shuffle=st.randoms())
    def reorder_and_limit(self, shuffle):
        order = list(self.hosts)
        shuffle.shuffle(order)
        plan, wrong = read_plan(self.plan())
        ledger = read_ledger(content(self.path) or "", "x")
        some = {name: self.hosts[name] for name in order[: len(order) // 2 + 1]}
        assert {name: each["address"] for name, each in frozen(plan, wrong, some, ledger).records.items()} == {
            name: self.given[name] for name in some
        }

    @invariant()
    def all_is_well(self):
        assert len(set(self.given.values())) == len(self.given)
        for address in self.given.values():
            suffix = parse_address(address) & IID_MASK
            assert 0xB0000 < suffix < 0xB0010
            assert not reserved(suffix)
            assert text(parse_address(address)) == address
        before = content(self.path) if self.given else None
        if self.given:
            assert self.sync(self.hosts)
            assert content(self.path) == before


SCRATCH = ""


@pytest.fixture(autouse=True)
def _scratch(tmp_path):
    globals()["SCRATCH"] = str(tmp_path)


def test_survivors_never_move():
    run_state_machine_as_test(
        Fleet, settings=settings(max_examples=max(15, CASES // 20), stateful_step_count=20, deadline=None)
    )


GOOD = '{"dualstack":1,"site":"x"}\n' + "".join(record(f"{4000 + number}", f"ci{number}") for number in range(6))
DAMAGE = st.sampled_from(["truncate", "repeat", "swap", "marker", "replace", "insert", "crlf", "bytes"])


@given(st.lists(st.tuples(DAMAGE, st.integers(0, 500), st.integers(0, 500)), max_size=3), st.binary(max_size=6))
@settings(max_examples=CASES, deadline=None, suppress_health_check=list(HealthCheck))
def test_a_damaged_ledger_is_an_error_or_loads(damage, extra):
    data = GOOD.encode()
    values = (b"9" * 5000, b"null", b'{"p":', b"[" * 3000, b'"\\ud800"', b"\xe2\x80\xa8", b"1e999")
    for how, one, two in damage:
        lines = data.splitlines(True) or [b""]
        first, second = one % len(lines), two % len(lines)
        at = one % (len(data) + 1)
        if how == "truncate":
            data = data[:at]
        elif how in ("repeat", "swap"):
            lines[first], lines[second] = lines[second], lines[first] if how == "swap" else lines[second]
            data = b"".join(lines)
        elif how == "marker":
            data = b"".join([*lines[:first], b"<<<<<<< HEAD\n", *lines[first:]])
        elif how == "crlf":
            data = data.replace(b"\n", b"\r\n")
        elif how == "bytes":
            data = data[:at] + extra + data[at:]
        else:
            data = data[:at] + values[two % len(values)] + data[at + (how == "replace") :]
    path = pathlib.Path(f"{SCRATCH}/fuzzed.jsonl")
    path.write_bytes(data)
    quick = _read_canonical(data.decode(errors="replace"), "x")
    assert quick in (None, _read(data.decode(errors="replace"), "x"))
    try:
        found = run(path, fleet("new"), check=True)
    except DualStackError:
        return
    # Every record that could be read is still there, and one is new.
    before, after = read_ledger(data.decode(), "x"), read_ledger(found.after, "x")
    kept, found_after = ({each._replace(line=0) for each in ledger.records} for ledger in (before, after))
    assert kept <= found_after
    assert not after.problems
    assert len(found.allocation.events["added"]) + len(found.allocation.events["restored"]) <= 1


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.sampled_from(["::/0", "auto", "0", "ci"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=5,
)


def places(value, path=()):
    yield path
    for key, entry in value.items() if isinstance(value, dict) else ():
        yield from places(entry, (*path, key))


@given(st.sampled_from(list(places(PLAN))), values)
@settings(max_examples=CASES, deadline=None)
def test_any_plan_is_refused_or_allocates(path, value):
    def put(entry, keys):
        return {**entry, keys[0]: put(entry[keys[0]], keys[1:])} if keys else value

    hosts = {**fleet("a", "b"), "web1": {"groups": ["clients"], "dualstack_vhosts": ["x"]}}
    try:
        found = run(f"{SCRATCH}/none.jsonl", hosts, put(PLAN, path), check=True)
    except DualStackError as error:
        assert str(error)
        return
    for each in records(found.allocation.places).values():
        assert not reserved(parse_address(each["address"]) & IID_MASK)


@given(st.sampled_from(["dualstack_id", "dualstack_vhosts", "unit", "groups"]), values)
@settings(max_examples=CASES // 5, deadline=None)
def test_any_host_is_refused_or_allocates(key, value):
    hosts = {"web1": {"groups": ["clients"], key: value}, "rack1": {"groups": ["rack"], "unit": 5, key: value}}
    usable, wrong = readable_hosts(hosts)
    plan, lines = read_plan(PLAN)
    try:
        update(f"{SCRATCH}/none.jsonl", (plan, [*lines, *wrong]), usable, Request(DAY), timeout=5, check=True)
    except DualStackError as error:
        assert str(error)


def test_integers_too_long_to_be_shown_are_errors(ledger):
    huge, endless = 1 << 20000, []
    endless.append(endless)
    assert problems(ledger, fleet("a"), {**PLAN, "production": huge})[0].startswith("E100 plan: cannot be read")
    assert problems(ledger, fleet("a"), {**PLAN, "aggregate": endless})
    hosts = {"r": {"groups": ["rack"], "unit": huge}, "w": {"groups": ["clients"], "dualstack_id": huge}}
    assert {line.split("(")[0] for line in problems(ledger, hosts)} == {
        "E209 r: a host variable cannot be read ",
        "E209 w: a host variable cannot be read ",
    }
    assert problems(ledger, {"r": hosts["r"]}, adopt={"r": ["2001:db8:100:1::4:5"]})[0].startswith("E209 r: a host")


def test_hosts_that_were_given_out_are_what_every_play_sees(ledger):
    hosts = {**fleet("a"), "web1": {"groups": ["clients"], "dualstack_vhosts": ["x"]}}
    found = run(ledger, hosts)
    plan, wrong = read_plan(PLAN)
    held = read_ledger(content(ledger), "addresses.jsonl")
    assert frozen(plan, wrong, hosts, held).records == records(found.allocation.places)


DAYS = st.dates(datetime.date(2020, 1, 1), datetime.date(2030, 1, 1)).map(str)


@given(
    st.dictionaries(st.tuples(st.sampled_from(["device/ci", "pool/é x", "vhost/w"]), st.integers(0, 65535)), DAYS), DAYS
)
@settings(max_examples=CASES // 5, deadline=None)
def test_what_was_written_is_read_at_once_and_as_line_by_line(held, until):
    lines = [
        json.dumps(
            {
                "p": pool,
                "i": f"{index:x}",
                "id": f"h {index}",
                "s": "arq"[index % 3],
                "t": day,
                **({"u": until} if index % 3 == 2 else {}),
            }
        )
        for (pool, index), day in held.items()
    ]
    written = render(read_ledger("\n".join(lines), "x"), {})
    assert (_read_canonical(written, "x") or read_ledger("", "x")) == _read(written, "x")
    assert render(read_ledger(written, "x"), {}) == written


@pytest.mark.parametrize(
    "change",
    [
        lambda line: line.replace('"s":"a"', '"s":"q"'),
        lambda line: line.replace('"}', '","u":"2026-02-02"}'),
        lambda line: line.replace("2026-01-02", "2026-02-30"),
        lambda line: line.replace("ci0", "ci\u0085"),
        lambda line: line.replace("ci0", "ci1"),
        lambda line: line.replace("4000", "4001"),
        lambda line: line[:-1] + ' ,"t":"2026-01-02"}',
    ],
)
def test_no_mistake_is_read_at_once(change):
    first, *lines = GOOD.splitlines()
    text = "\n".join([first, change(lines[0]), *lines[1:], ""])
    assert _read_canonical(GOOD, "x") is not None
    assert _read_canonical(text, "x") is None
    assert read_ledger(text, "x").problems
