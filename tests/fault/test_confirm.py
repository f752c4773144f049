"""A change of sshd is undone by the host itself unless somebody confirms it; each run says what became of the last."""

import pytest
from conftest import BOTH, LEGACY, SERVICES

SSHD = next(service for service in SERVICES if service.role == "sshd")
WINDOW = 5
PENDING = "/var/lib/dualstack/sshd/pending.json"
UNDONE = f"timeout 60 sh -c 'while test -e {PENDING}; do sleep 0.1; done'"
MOST_STEPS = 40


@pytest.fixture
def given(host):
    """The role's own arguments, with a window that a test can wait for."""
    return {**host.params(SSHD), "window": WINDOW}


def unconfirmed(given, state="present"):
    """Return the step that makes the change and leaves it waiting."""
    return ["run", given, state, False, 0, False]


def etc(state):
    return {path: what for path, what in state.items() if path.startswith("/etc/")}


def test_a_change_that_nobody_confirms_is_undone_and_told(host, given, survived):
    before, first, second, _waited, four, undone, late, third, both, back, after = host.play(
        SSHD,
        ["state"],
        unconfirmed(given),
        ["run", given],
        ["sh", UNDONE],
        ["families", SSHD.question, LEGACY],
        ["state"],
        ["run", given, "confirmed"],
        ["run", given],
        ["families", SSHD.question, BOTH],
        ["run", given, "reverted"],
        ["state"],
    )
    assert first["confirm_by"]
    assert "is waiting for its confirmation until" in second["error"]
    assert four == LEGACY
    assert etc(undone) == etc(before)
    assert "there is nothing to confirm: the last change was undone at" in late["error"]
    assert not third["error"]
    assert "no confirmation came" in " ".join(third["warnings"])
    assert both == BOTH
    assert not back["error"]
    assert after == before
    survived(SSHD, "not confirmed")


def test_a_way_back_that_nobody_confirms_is_undone_too(host, given, survived):
    before, there, dual, _first, _waited, both, undone, again, after = host.play(
        SSHD,
        ["state"],
        ["run", given],
        ["state"],
        unconfirmed(given, "reverted"),
        ["sh", UNDONE],
        ["families", SSHD.question, BOTH],
        ["state"],
        ["run", given, "reverted"],
        ["state"],
    )
    assert not there["error"]
    assert both == BOTH
    assert etc(undone) == etc(dual)
    assert not again["error"]
    assert "no confirmation came" in " ".join(again["warnings"])
    assert after == before
    survived(SSHD, "way back not confirmed")


@pytest.mark.parametrize("state", ["present", "reverted"])
def test_a_confirmation_that_is_cut_off_leaves_nothing_half_confirmed(host, given, survived, state):
    there = [["run", given]] if state == "reverted" else []
    for step in range(1, MOST_STEPS):
        before, *_there, waiting, cut, late, done, back, four, after = host.play(
            SSHD,
            ["state"],
            *there,
            unconfirmed(given, state),
            ["run", given, "confirmed", False, step],
            ["run", given, "confirmed"],
            ["run", given],
            ["run", given, "reverted"],
            ["families", SSHD.question, LEGACY],
            ["state"],
        )
        assert waiting["confirm_by"], (step, waiting)
        assert not late["error"], (step, late)
        assert not done["error"], (step, done)
        assert not back["error"], (step, back)
        assert four == LEGACY, step
        assert after == before, step
        if not cut["error"]:
            break
        survived(SSHD, "confirmation cut off")
    assert 5 < step < MOST_STEPS - 1
