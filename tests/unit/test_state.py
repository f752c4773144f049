"""A host's state only goes forward, is the same file after the second run, and says why a host stays behind."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from module_utils._errors import DualStackError
from module_utils._files import FileState
from module_utils._state import ENDS, HISTORY, STEPS, WITHDRAWN, Record, advance, freshest, parse, render

TIME = "2026-11-23T10:00:00Z"
LATER = "2026-11-24T10:00:00Z"
states = st.sampled_from(STEPS + ENDS)


def walk(*path, record=None):
    record = record or Record()
    for state in path:
        record = advance(record, state, TIME, reason="because" if state in ENDS else "")
    return record


def file(content):
    return FileState("/x", content)


@given(st.lists(states), states)
def test_the_second_run_keeps_every_byte(path, state):
    once = advance(walk(*path), state, TIME, reason="r")
    assert render(advance(once, state, LATER, reason="r")) == render(once)


@given(st.lists(st.sampled_from(STEPS), min_size=1))
def test_steps_only_go_forward(path):
    assert walk(*path).state == max(path, key=STEPS.index)


@given(st.lists(states), st.sampled_from(ENDS), st.sampled_from(STEPS))
def test_every_state_leads_to_an_end_and_every_step_out_of_it(path, end, step):
    ended = walk(*path, end)
    assert ended.state == end
    assert advance(ended, step, TIME).state == step


@given(st.lists(states))
def test_what_is_written_is_read(path):
    record = walk(*path)
    if path:
        assert parse(file(render(record))) == record


def test_a_reason_that_changes_is_news():
    record = walk("blocked")
    assert advance(record, "blocked", LATER, reason="another").history[-1]["reason"] == "another"


def test_the_owner_stays_until_another_is_named():
    record = advance(Record(), "blocked", TIME, reason="old", owner="web team")
    assert advance(record, "audited", TIME).owner == "web team"
    assert advance(record, "blocked", TIME, reason="old", owner="mail team").owner == "mail team"


def test_history_is_bounded():
    record = walk(*["blocked", "audited"] * HISTORY)
    assert len(record.history) == HISTORY


def test_the_proof_stays_with_the_published_host_and_goes_with_the_end():
    proof = {"time": TIME, "results": []}
    record = advance(walk("serving"), "verified", TIME, evidence=proof)
    assert advance(record, "published", TIME).evidence == proof
    assert walk("rolled_back", record=record).evidence == {}


@pytest.mark.parametrize("state", STEPS + ENDS)
def test_withdrawing_takes_the_published_host_one_step_back_and_no_other(state):
    record = walk(state)
    after = advance(record, WITHDRAWN, LATER)
    assert (after.state, after == record) == (("verified", False) if state == "published" else (state, True))
    assert advance(after, WITHDRAWN, LATER) == after


def test_newer_proof_of_the_same_is_no_change_and_still_the_newest():
    record = advance(walk("serving"), "verified", TIME, evidence={"time": TIME, "ok": 1})
    newer = {"time": LATER, "ok": 1, "measured": {"latency_ms": 3}}
    again = advance(record, "verified", LATER, evidence=newer, refresh=True)
    assert again == record
    assert freshest(again, file(json.dumps(newer).encode())).evidence["time"] == LATER


def test_proof_of_something_else_is_a_change_when_asked_for():
    record = advance(walk("serving"), "verified", TIME, evidence={"ok": 1})
    assert advance(record, "verified", LATER, evidence={"ok": 2}) == record
    assert advance(record, "verified", LATER, evidence={"ok": 2}, refresh=True).evidence == {"ok": 2}


def test_a_left_over_proof_does_not_make_another_look_younger():
    record = advance(walk("serving"), "verified", TIME, evidence={"time": TIME, "ok": 1})
    left = json.dumps({"time": LATER, "ok": 2}).encode()
    assert freshest(record, file(left)).evidence["time"] == TIME


@pytest.mark.parametrize(
    "content", [b"", b"[]", b'{"state": "perfect"}', b'{"state": "audited", "evidence": 3}', b"\xff"]
)
def test_a_damaged_record_is_named(content):
    with pytest.raises(DualStackError, match=r"^/x: not a state record"):
        parse(file(content))
