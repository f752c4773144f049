"""Each editor over generated configurations: the daemon's own parser sees exactly what the edit is to bring.

DUALSTACK_PARSER_CASES=NUMBER of cases for each format and release, 12 otherwise.
"""

import dataclasses
import difflib
import inspect
import os
import re
import traceback

import expected
import pytest
from generated import KINDS, Chance

CASES = int(os.environ.get("DUALSTACK_PARSER_CASES", "12"))
SLOW = {"varnish": 4}  # one of so many cases: systemd reads all units anew for each


def shown(case, outcome):
    """Return the whole example, as one can put it back together by hand."""
    changed = outcome.get("texts", {})
    parts = [f"settings: {[edit[1:] for edit in case.edits]}"]
    parts += [f"--- {path}\n{text}" for path, text in case.files.items()]
    for path, text in changed.items():
        lines = (one.splitlines(keepends=True) for one in (case.files.get(path, ""), text))
        parts.append("".join(difflib.unified_diff(*lines, path, f"{path}, edited")))
    parts += [
        f"--- {name}\n{outcome[name]}" for name in ("before", "after", "again", "refused", "failed") if name in outcome
    ]
    return "\n".join(parts).encode("utf-8", "replace").decode()


def problem(case, outcome):
    """Return what is wrong with the OUTCOME of CASE, or nothing."""
    if "failed" in outcome:
        return outcome["failed"]
    if case.refused or "refused" in outcome:
        told = outcome.get("refused", [])
        return "" if case.refused and any(re.search(case.refused, text) for text in told) else f"refused: {told}"
    if outcome["again"]:
        return "a second edit changes something"
    settings = {key: value for _path, _form, each in case.edits for key, value in each.items()}
    check = getattr(expected, case.reader)
    ask = [case.ask] if "ask" in inspect.signature(check).parameters else []
    try:
        check(outcome["before"], outcome["after"], settings, *ask)
        expected.listens_as_we_think(case.reader, outcome)
    except AssertionError as error:
        return "".join(traceback.format_exception(error)[-2:])
    return ""


@pytest.mark.parametrize("kind", KINDS)
def test_the_daemon_sees_exactly_the_intended_difference(host, kind):
    options = {"release": host.dovecot} if kind == "dovecot" else {}
    cases = [KINDS[kind](Chance(f"{kind} {number}"), **options) for number in range(-(-CASES // SLOW.get(kind, 1)))]
    outcomes = host.compare([dataclasses.asdict(case) for case in cases])
    for number, (case, outcome) in enumerate(zip(cases, outcomes)):
        wrong = problem(case, outcome)
        assert not wrong, f"{kind} {number}: {wrong}\n{shown(case, outcome)}"
    assert sum("texts" in outcome for outcome in outcomes) > len(cases) / 2
