# SPDX-License-Identifier: GPL-3.0-or-later
"""The ledger's file: one writer at a time, all or nothing."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from ._allocation import EVENTS, Allocation, Request, allocate, parse_day, widths
from ._errors import DualStackError
from ._files import FileState, read_file, write_file
from ._ledger import public, read_ledger, render
from ._numbering import frozen, readable_hosts, records
from ._plan import Plan, read_plan

POLL = 0.02  # flock(2) has no time limit of its own


@contextlib.contextmanager
def locked(path: str, timeout: float) -> Iterator[None]:
    """Hold the lock of the ledger at PATH; give up after TIMEOUT seconds.

    The file goes away with the lock, so that no inventory directory keeps it. Hence the look whether what was locked is
    still what the next one will find.
    """
    lock, end = os.path.realpath(path) + ".lock", time.monotonic() + timeout
    while True:
        try:
            handle = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise DualStackError(f"E307 could not open {lock} ({error.strerror}); nothing written") from error
        try:
            _acquire(handle, lock, timeout, end)
            if not _is_at(handle, lock):
                continue
            os.ftruncate(handle, 0)
            os.write(handle, f"{os.getpid()}\n".encode())
            try:
                yield
            finally:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(lock)
            return
        finally:
            os.close(handle)


@dataclass(frozen=True)
class Update:
    """What a run made of the ledger, and its text before and after."""

    allocation: Allocation
    before: str
    after: str

    def result(self, path: str, plan: Plan, today: str) -> dict[str, Any]:
        """Return what the caller of the module sees."""
        held = [*self.allocation.ledger.records]
        return {
            "changed": self.before != self.after,
            "addresses": records(self.allocation.places),
            "suggested_pins": dict(self.allocation.pins),
            "plan": plan.summary(held, today),
            "quarantined": sum(record.state == "q" for record in held),
            "diff": {"before": self.before, "after": self.after, "before_header": path, "after_header": path},
            **{name: [public(record) for record in found] for name, found in self.allocation.events.items()},
        }


def apply(wanted: Mapping[str, Any], config: object, check: bool) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Do what the module's options WANTED say by the plan file's mapping CONFIG; return the result and the warnings."""
    plan, problems = read_plan(config)
    path = wanted["ledger"] or os.path.join(os.path.dirname(os.path.abspath(wanted["plan"])), plan.ledger)
    hosts, wrong = readable_hosts(wanted["hosts"])
    empty = [] if wanted["hosts"] else ["E401 hosts: is empty; pass all hosts of the inventory"]
    source = plan, [*problems, *wrong, *empty]
    chosen = {each.name: wanted[each.name] for each in fields(Request)}
    request = Request(**{**chosen, "today": parse_day(wanted["today"])})
    if wanted["state"] == "validated":
        found = validate(path, source, hosts, request.today)
    else:
        found = update(path, source, hosts, request, timeout=wanted["lock_timeout"], check=check)
    return {"ledger": path, **found.result(path, plan, request.today)}, found.allocation.warnings


def update(
    path: str,
    plan: tuple[Plan, list[str]],
    hosts: Mapping[str, Any],
    request: Request,
    *,
    timeout: float,
    check: bool,
) -> Update:
    """Allocate for HOSTS by PLAN (with the problems of reading it) in the ledger at PATH; with CHECK write nothing."""
    with contextlib.nullcontext() if check else locked(path, timeout):
        state, before = read_text(path)
        ledger = read_ledger(before, os.path.basename(path))
        allocation = allocate(*plan, hosts, ledger, request)
        after = before
        if before.strip() or any(allocation.ledger.holders.values()):
            after = render(allocation.ledger, widths(plan[0], allocation.ledger))
        if after != before and not check:
            replace_text(path, state, after)
    return Update(allocation, before, after)


def validate(path: str, plan: tuple[Plan, list[str]], hosts: Mapping[str, Any], today: str) -> Update:
    """Check HOSTS, PLAN and the ledger at PATH as every play does."""
    _state, before = read_text(path)
    ledger = read_ledger(before, os.path.basename(path))
    found = frozen(*plan, hosts, ledger, today)
    return Update(Allocation(ledger, found.places, dict.fromkeys(EVENTS, ()), {}, found.warnings), before, before)


def read_text(path: str) -> tuple[FileState, str]:
    """Return the ledger at PATH as it is now."""
    try:
        state = read_file(path)
        return state, (state.content or b"").decode()
    except (OSError, UnicodeDecodeError) as error:
        raise DualStackError(f"E308 {path}: cannot be read ({error}); restore it from git") from error


def replace_text(path: str, before: FileState, text: str) -> None:
    """Replace BEFORE, which was read under the lock, by TEXT, unless somebody without the lock was faster."""
    name = os.path.basename(path)
    try:
        found = read_file(path)
        if found.digest != before.digest:
            change = f"expected sha256 {before.digest[:4]}..., found {found.digest[:4]}..."
            raise DualStackError(f"E306 {name} changed while allocating ({change}); nothing written, run again")
        owner, group = (before.uid, before.gid) if before.content is not None else (os.geteuid(), os.getegid())
        if os.geteuid() != 0 and owner != os.geteuid():
            owner, group = os.geteuid(), os.getegid()  # only root can give a file away
        write_file(replace(before, content=text.encode(), uid=owner, gid=group))
    except OSError as error:
        raise DualStackError(f"E308 {path}: cannot be written ({error}); nothing written, correct that") from error


def _acquire(handle: int, lock: str, timeout: float, end: float) -> None:
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() >= end:
                name = os.path.basename(lock)
                who = f"could not lock {name} within {timeout:g} s (held by pid {_holder(handle)})"
                raise DualStackError(f"E307 {who}; nothing written") from None
            time.sleep(POLL)


def _is_at(handle: int, path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), os.stat(path))
    except FileNotFoundError:
        return False


def _holder(handle: int) -> str:
    """Return the process that has the lock: what the kernel says, else what the file says."""
    inode = str(os.fstat(handle).st_ino)
    with contextlib.suppress(OSError), open("/proc/locks", encoding="ascii", errors="replace") as stream:
        for line in stream:
            parts = line.split()  # 1: FLOCK ADVISORY WRITE 4711 08:01:1234 0 EOF
            if len(parts) > 5 and parts[1] == "FLOCK" and parts[5].rpartition(":")[2] == inode and int(parts[4]) > 0:
                return parts[4]
    return os.pread(handle, 20, 0).decode("ascii", "replace").strip() or "unknown"
