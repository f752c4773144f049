# SPDX-License-Identifier: GPL-3.0-or-later
"""The state of a host on its way to dual stack, as a record that Ansible reads as a custom fact."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace

from ._errors import DualStackError
from ._files import FileState

STEPS = ("audited", "planned", "routed", "guarded", "addressed", "serving", "verified", "published")
ENDS = ("blocked", "rolled_back")
FACT = "/etc/ansible/facts.d/dualstack.fact"
WITHDRAWN = "withdrawn"
HISTORY = 20


@dataclass(frozen=True)
class Record:
    """What is known of one host. ``state`` is empty before the first audit."""

    state: str = ""
    reason: str = ""
    owner: str = ""
    time: str = ""
    evidence: dict[str, object] = field(default_factory=dict)
    history: tuple[dict[str, str], ...] = ()

    def public(self) -> dict[str, object]:
        return {**asdict(self), "history": [dict(entry) for entry in self.history]}


def parse(file: FileState) -> Record:
    """Return the record that FILE holds; a file that does not exist is the empty record."""
    if file.content is None:
        return Record()
    try:
        data = dict(json.loads(file.content))
        known = {key: data[key] for key in ("state", "reason", "owner", "time", "evidence") if key in data}
        record = Record(**known, history=tuple(data.get("history", ())))
        if record.state not in STEPS + ENDS or not isinstance(record.evidence, dict):
            raise ValueError(f"state is {record.state!r}")
    except (ValueError, TypeError) as error:
        raise DualStackError(
            f"{file.path}: not a state record ({error}); move the file away and run the audit again, "
            "it finds the state of the host anew"
        ) from error
    return record


def render(record: Record) -> bytes:
    """Return the text of the fact file."""
    return (json.dumps(record.public(), indent=1, sort_keys=True) + "\n").encode()


def advance(
    record: Record,
    state: str,
    time: str,
    *,
    reason: str = "",
    owner: str = "",
    evidence: dict[str, object] | None = None,
    refresh: bool = False,
) -> Record:
    """Return the record after the host has reached STATE.

    Steps only go forward: one that the host has reached already changes nothing. An end (blocked, rolled back) is
    entered from everywhere and left by every step. Evidence of a step already reached replaces the old one when
    REFRESH, and only when it says something else than before, its time and its measurements apart. Withdrawing takes a
    published host one step back, and no other.
    """
    evidence = evidence or {}
    owner = owner or record.owner
    if state == WITHDRAWN:
        if record.state != "published":
            return record
        reason = reason or "withdrawn from the DNS"
        return replace(
            record, state="verified", reason=reason, time=time, history=_told(record, "verified", time, reason)
        )
    if _reached(record, state, reason):
        news = refresh and state in STEPS and bool(evidence) and _substance(evidence) != _substance(record.evidence)
        record = replace(record, evidence=evidence) if news else record
        return replace(record, owner=owner)
    kept = record.evidence if state in STEPS and record.state in STEPS else {}
    return Record(state, reason, owner, time, evidence or kept, _told(record, state, time, reason))


def _told(record: Record, state: str, time: str, reason: str) -> tuple[dict[str, str], ...]:
    return (*record.history, {"state": state, "time": time, "reason": reason})[-HISTORY:]


def _reached(record: Record, state: str, reason: str) -> bool:
    if state in ENDS:
        return (record.state, record.reason) == (state, reason)
    return record.state in STEPS and STEPS.index(record.state) >= STEPS.index(state)


def _substance(evidence: dict[str, object]) -> dict[str, object]:
    return {key: value for key, value in evidence.items() if key not in ("time", "measured")}


def freshest(record: Record, file: FileState) -> Record:
    """Return RECORD with the evidence of FILE, which is renewed by every verification."""
    if file.content is None or not record.evidence:
        return record
    try:
        evidence = json.loads(file.content)
    except ValueError:
        return record
    # A leftover of an older proof must not make the present one look younger.
    return replace(record, evidence=evidence) if _substance(evidence) == _substance(record.evidence) else record
