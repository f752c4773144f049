"""The report: every host counts, nothing of a host's words becomes markup."""

import json
import pathlib
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from module_utils._errors import InputError
from module_utils._report import ORDER, summarise

jinja2 = pytest.importorskip("jinja2")
TEMPLATE = jinja2.Template(
    (pathlib.Path(__file__).parents[2] / "roles" / "report" / "templates" / "index.html.j2").read_text()
)
PLAN = {"class": "client", "address": "2001:db8:100:1::c:1", "delegated_prefix": "2001:db8:200:1::/64"}


def contact(state, results=(), **record):
    evidence = {"time": "2026-11-23T10:00:00Z", "results": list(results)} if results else {}
    time = record.pop("time", "2026-11-23T10:00:00Z")
    return {
        "ansible_facts": {
            "ansible_local": {"dualstack": {"state": state, "time": time, "evidence": evidence, **record}}
        }
    }


def answer(protocol, ipv4, ipv6):
    return {"protocol": protocol, "port": 25, "ipv4": ipv4, "ipv6": ipv6, "verdict": "same"}


def fleet(**contacts):
    return summarise(contacts, contacts.values(), [PLAN] * len(contacts))


def page(summary, title="Dual stack"):
    return TEMPLATE.render(report_title=title, __report_summary=summary)


def test_every_host_is_in_the_total():
    summary = fleet(
        a=contact("published"),
        b=contact("published"),
        c=contact("blocked", reason="crashes", owner="web team"),
        d={"unreachable": True, "msg": "no route to host:\nmore"},
        e={"ansible_facts": {"ansible_local": {}}},
        f={},
    )
    assert summary["total"] == 6
    assert [(each["state"], each["count"], each["percent"]) for each in summary["states"]] == [
        ("published", 2, 33.3),
        ("blocked", 1, 16.7),
        ("unreachable", 1, 16.7),
        ("unknown", 2, 33.3),
    ]
    hosts = {host["name"]: host for host in summary["hosts"]}
    assert (hosts["c"]["reason"], hosts["c"]["owner"]) == ("crashes", "web team")
    assert hosts["d"]["reason"] == "no route to host"
    assert hosts["e"]["reason"] == "not audited yet"
    assert "not asked" in hosts["f"]["reason"]


def test_a_host_carries_its_addresses_and_its_services():
    results = [answer("smtp", True, True), answer("http", True, False)]
    host = fleet(web1=contact("verified", results))["hosts"][0]
    assert (host["class"], host["address"], host["delegated_prefix"]) == tuple(PLAN.values())
    assert host["services"] == [
        {"protocol": "smtp", "port": 25, "ipv4": True, "ipv6": True},
        {"protocol": "http", "port": 25, "ipv4": True, "ipv6": False},
    ]
    assert host["proven"] == "2026-11-23T10:00:00Z"


def test_services_are_counted_by_family():
    summary = fleet(
        a=contact("verified", [answer("smtp", True, True), answer("http", True, True)]),
        b=contact("blocked", [answer("http", True, False)]),
    )
    assert summary["services"] == [
        {"protocol": "http", "asked": 2, "ipv4": 2, "ipv6": 1},
        {"protocol": "smtp", "asked": 1, "ipv4": 1, "ipv6": 1},
    ]


def test_the_same_states_make_the_same_report():
    contacts = {"a": contact("audited"), "b": contact("verified", time="2026-11-23T11:00:00Z")}
    summary = fleet(**contacts)
    assert summary == fleet(**dict(reversed(contacts.items())))
    assert summary["as_of"] == "2026-11-23T11:00:00Z"


def test_a_fact_file_that_is_no_record_is_unknown():
    broken = {"ansible_facts": {"ansible_local": {"dualstack": "error loading facts: bad JSON"}}}
    host = fleet(a=broken)["hosts"][0]
    assert host["state"] == "unknown"
    assert host["reason"] == "the fact file is not a state record: error loading facts: bad JSON"


def test_a_host_without_a_plan_and_an_empty_fleet_have_a_report():
    assert summarise(["a"], [contact("audited")], [{}])["hosts"][0]["address"] == ""
    assert page(summarise([], [], [])).count("<tr>") == 1


def test_columns_of_different_length_are_an_error():
    with pytest.raises(InputError, match="2 names, 1 contacts and 1 plans"):
        summarise(["a", "b"], [{}], [{}])


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=2)
            | st.dictionaries(st.sampled_from(["state", "evidence", "results", "time", "reason"]), inner, max_size=3)
        ),
        max_leaves=8,
    )
)
def test_no_fact_file_breaks_the_report(junk):
    facts = [junk, {"state": "verified", "evidence": junk}, {"state": "blocked", "evidence": {"results": junk}}]
    summary = fleet(
        **{f"h{n}": {"ansible_facts": {"ansible_local": {"dualstack": each}}} for n, each in enumerate(facts)}
    )
    assert {host["state"] for host in summary["hosts"]} <= set(ORDER)
    assert json.loads(json.dumps(summary)) == summary
    page(summary)


def test_nothing_of_a_host_becomes_markup():
    evil = "<script>alert('\"&')</script>"
    summary = summarise(
        [evil],
        [contact("blocked", [answer(evil, True, False)], reason=evil, owner=evil, time=evil)],
        [dict.fromkeys(PLAN, evil)],
    )
    text = page(summary, title=evil)
    assert "<script" not in text
    assert "&lt;script&gt;" in text


def test_the_page_needs_nothing_from_elsewhere():
    text = page(fleet(a=contact("published", [answer("smtp", True, True)])))
    assert not re.search(r"(?i)https?://|<link|<script|@import|url\(", text)
    assert 'name="viewport"' in text
    assert "prefers-color-scheme: dark" in text


def test_the_page_says_why_a_host_is_not_converted_and_whose_it_is():
    text = page(
        fleet(tux=contact("blocked", reason="dies on an IPv6 connection", owner="web team"), b=contact("blocked"))
    )
    row = re.search(r"<tr><td><b>tux</b>.*", text).group()
    assert "dies on an IPv6 connection" in row
    assert "web team" in row
    assert "nobody yet" in re.search(r"<tr><td><b>b</b>.*", text).group()
