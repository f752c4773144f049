"""The map: every index counted once, as readable with ten hosts as with all, nothing in it is markup but ours."""

import pathlib
import re
import time
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from module_utils._addresses import parse_prefix
from module_utils._errors import DualStackError
from module_utils._ledger import Ledger, ledger_of
from module_utils._numbering import allocate
from module_utils._plan import read_plan
from module_utils._plan_map import Block, draw
from module_utils._report import summarise

TEMPLATE = pathlib.Path(__file__).parents[2] / "roles" / "report" / "templates" / "index.html.j2"

PLAN = {
    "version": 1,
    "networks": {
        "device": {
            "prefixes": ["2001:db8:100:1::/64"],
            "gateway": "fe80::1",
            "reserved": [{"suffix": "::1", "for": "router"}, {"suffix": "::c:ff00/120", "for": "dhcpv6 <b>"}],
        }
    },
    "pools": {"clients": {"prefix": "2001:db8:200::/48", "reserved": ["0a"]}},
    "classes": {
        "admin": {
            "groups": ["admin"], "network": "device", "block": "::ad:0/112", "kind": "pinned",
            "pins": {"ns1": "53", "gone": "ab01"},
        },
        "client": {
            "groups": ["clients"], "network": "device", "block": "::c:0/112", "kind": "pinned",
            "pins": {"web1": "2a3f", "web2": "2a3e"}, "delegate": {"pool": "clients", "vhosts": {"kind": "pinned"}},
        },
    },
}  # fmt: skip
HOSTS = {
    "web1": {"groups": ["clients"], "dualstack_vhosts": {"shop": "5409"}},
    "web2": {"groups": ["clients"]},
    "ns1": {"groups": ["admin"]},
}
RECORDS = allocate(HOSTS, PLAN, Ledger())
HELD = ledger_of(
    [
        {"p": pool, "i": index, "id": f"old{index}", "s": state, "t": "2026-01-02", **({"u": until} if until else {})}
        for pool, index, state, until in (
            ("device/client", "2a00", "q", "2026-05-02"),
            ("device/client", "3b00", "q", "2026-05-02"),
            ("device/client", "4c00", "q", "2026-03-01"),
            ("pool/clients", "3b00", "q", "2026-05-02"),
            ("pool/clients", "000b", "r", ""),
            ("vhost/web1", "3b00", "q", "2026-05-02"),
        )
    ],
    "x",
)
SUMMARY = read_plan(PLAN)[0].summary(HELD.records, "2026-03-01")


def titles(svg):
    return [element.text for element in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}title")]


def words(svg):
    return [element.text for element in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")]


def test_a_cell_tells_what_is_in_it():
    told = titles(draw(RECORDS, SUMMARY))
    assert told[0] == "Address plan, 3 hosts"
    assert "::c:2a00 to ::c:2aff: 2 used, 1 in quarantine, 253 free (web2, web1)" in told
    assert "::c:3b00 to ::c:3bff: 1 in quarantine, 255 free" in told
    assert "::c:ff00 to ::c:ffff: 256 reserved" in told
    assert "::ad:0 to ::ad:ff: 1 used, 1 reserved, 254 free (ns1)" in told
    assert "::ad:ab00 to ::ad:abff: 1 reserved, 255 free" in told  # the pin of a host that is not there
    assert "2001:db8:200:2a00::/64 to 2001:db8:200:2aff::/64: 2 used, 254 free (web2, web1)" in told
    assert "2001:db8:200::/64 to 2001:db8:200:ff::/64: 3 reserved, 253 free" in told
    assert not any(title.startswith("::c:4c00") for title in told)  # its quarantine is over


def test_the_ledger_is_told_by_pool():
    assert HELD.problems == ()
    assert SUMMARY["quarantined"] == {"device/client": ["2a00", "3b00"], "pool/clients": ["3b00"]}
    assert SUMMARY["reserved"] == {"pool/clients": ["b"]}


def test_every_block_is_counted():
    told = words(draw(RECORDS, SUMMARY))
    assert "2 used, 2 in quarantine, 257 reserved, 65,275 free" in told
    assert "1 used, 2 reserved, 65,533 free" in told
    assert "2 used, 1 in quarantine, 3 reserved, 65,530 free" in told
    assert "2001:db8:200::/48 in /64s, 1 vhost" in told
    assert {"2a3f", "web1", "0053", "ns1"} <= set(told)


indices = st.sets(st.integers(0, 1023), max_size=40)
ranges = st.lists(st.tuples(st.integers(0, 1023), st.integers(0, 300)), max_size=4)


@given(indices, indices, indices, ranges)
def test_every_index_has_one_state(used, waiting, kept, ranges):
    block = Block("x", parse_prefix("2001:db8::/118"), 128, dict.fromkeys(used, "h"), set(waiting), set(kept))
    block.ranges = [(low, min(low + more, 1023)) for low, more in ranges]
    reserved = kept.union(*(range(low, high + 1) for low, high in block.ranges))
    block.settle()
    cells = block.cells()
    for number in range(256):
        here = set(range(number * 4, number * 4 + 4))
        expected = (len(here & used), len(here & waiting - used - reserved), len(here & reserved - used))
        cell = cells.get(number)
        assert ((len(cell.names), cell.waiting, cell.kept) if cell else (0, 0, 0)) == expected
        assert not cell or cell.free == 4 - sum(expected)


def test_a_full_class_is_as_readable_and_small_and_quick_to_draw():
    records = {
        f"host{n}": {
            "class": "client",
            "index": f"{n:x}",
            "delegated_prefix": f"2001:db8:200:{n:x}::/64",
        }
        for n in range(65536)
    }
    start = time.process_time()
    svg = draw(records, SUMMARY)
    assert time.process_time() - start < 3
    assert len(svg) < 200_000
    assert "65,536 used, 0 free" in words(svg)
    assert (
        "::c:2a00 to ::c:2aff: 256 used (host10752, host10753, host10754, host10755, host10756, host10757, …)"
        in titles(svg)
    )


@pytest.mark.parametrize("length", [64, 96, 111, 117, 121, 124, 126, 127])
def test_blocks_of_every_size_are_drawn(length):
    config = {**PLAN, "classes": {"a": {"groups": ["g"], "network": "device", "block": f"::1:0:0:0/{length}"}}}
    config["classes"]["a"].update(kind="pinned", pins={"h": "1"})
    config["networks"] = {"device": {"prefixes": ["2001:db8:100:1::/64"]}}
    if length == 64:
        config["classes"]["a"]["block"] = "::/64"
    plan, problems = read_plan(config)
    assert not problems
    svg = draw(allocate({"h": {"groups": ["g"]}}, config, Ledger()), plan.summary())
    ElementTree.fromstring(svg)
    assert any("(h)" in title for title in titles(svg))
    assert len(svg) < 100_000


def test_a_plan_without_hosts_and_pools_has_a_map():
    summary = read_plan({**PLAN, "pools": {}, "classes": {}})[0].summary()
    assert titles(draw({}, summary)) == ["Address plan, 0 hosts"]


@settings(max_examples=50)
@given(st.text(max_size=30))
def test_nothing_but_ours_is_markup(evil):
    summary = {**SUMMARY, "classes": {evil: SUMMARY["classes"]["client"]}}
    summary["networks"] = {
        "device": {**SUMMARY["networks"]["device"], "reserved": [{"suffix": "::1/128", "for": evil}]}
    }
    svg = draw({evil: {**RECORDS["web1"], "class": evil}}, summary, evil)
    tags = {element.tag.split("}")[1] for element in ElementTree.fromstring(svg).iter()}
    assert tags <= {"svg", "title", "style", "rect", "text", "tspan", "g", "path"}


def test_it_needs_nothing_from_elsewhere_and_follows_the_reader():
    evil = "</text><script>alert(1)</script>\"'&\x00\ud800"
    svg = draw({evil: RECORDS["web1"]}, SUMMARY, evil)
    assert "<script" not in svg
    assert "prefers-color-scheme:dark" in svg
    assert not re.search(r"(?i)<script|href|@import|url\(|https?://(?!www\.w3\.org/2000/svg)", svg)
    svg.encode()


def test_the_order_of_hosts_does_not_matter():
    assert draw(dict(reversed(RECORDS.items())), SUMMARY) == draw(RECORDS, SUMMARY)


@pytest.mark.parametrize(
    ("records", "plan", "reason"),
    [
        ({"a": {"class": "x", "index": "1"}}, SUMMARY, "records.a: class 'x' is not in the plan"),
        ({"a": {"class": "client", "index": "10000"}}, SUMMARY, "records.a: 10000 does not fit in 16 bits"),
        ({"a": {"class": "client"}}, SUMMARY, "records.a: expected a quoted hex string, got nothing"),
        (
            {"a": {"class": "client", "index": "1", "delegated_prefix": "2001:db8:300::/64"}},
            SUMMARY,
            "2001:db8:300::/64 is in no pool of class client",
        ),
        ({}, {}, "plan: is not the host variable dualstack_plan"),
        ({}, None, "plan: is not the host variable dualstack_plan"),
        (None, SUMMARY, "records: expected a mapping or a list"),
    ],
)
def test_what_is_wrong_is_named(records, plan, reason):
    with pytest.raises(DualStackError) as raised:
        draw(records, plan)
    assert reason in str(raised.value)


def test_the_filter_raises_ansibles_error():
    errors = pytest.importorskip("ansible.errors")
    filters = pytest.importorskip("ansible_collections.dualstack.fleet.plugins.filter.plan_map")
    call = filters.FilterModule().filters()["plan_map"]
    assert call(RECORDS, SUMMARY) == draw(RECORDS, SUMMARY)
    with pytest.raises(errors.AnsibleFilterError, match="plan_map: E100 plan"):
        call(RECORDS, {})


def test_the_report_holds_the_map_of_a_known_plan():
    template = pytest.importorskip("jinja2").Template(TEMPLATE.read_text())
    page = template.render(
        report_title="x", __report_summary=summarise([], [], []), __report_map=draw(RECORDS, SUMMARY)
    )
    assert "<h2>Address plan</h2>" in page
    assert page.count("<svg ") == 1
    assert not re.search(r"(?i)https?://|url\(|<script", page)
    page = template.render(report_title="x", __report_summary=summarise([], [], []), __report_map="")
    assert "<svg" not in page
    assert "Address plan" not in page
