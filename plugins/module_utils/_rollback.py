# SPDX-License-Identifier: GPL-3.0-or-later
"""The dead man's switch of a network change: a timer and a boot guard that undo it unless it is confirmed."""

from __future__ import annotations

import contextlib
import glob
import inspect
import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from . import _undo
from ._command import run
from ._errors import DualStackError
from ._files import STORE, FileState, Snapshots, packed, read_file, unpacked, write_file

# How many times as long as a confirmation takes the window should be.
SAFETY = 3
_GUARD_TEXT = """\
# Made by dualstack.fleet for the time between a change and its confirmation.
[Unit]
Description=Undo the {name} change that nobody confirmed before this boot
DefaultDependencies=no
RequiresMountsFor={store} /etc
After=local-fs.target
Before=sysinit.target systemd-sysctl.service network-pre.target networking.service systemd-networkd.service
Wants=network-pre.target
ConditionPathExists={store}/pending.json

[Service]
Type=oneshot
ExecStart={python} {store}/undo.py boot
"""


# A revert is a matter of moments; systemd-networkd may take some.
REVERT_SECONDS = 30
INTERRUPTED = "was interrupted before its rollback could run"


@dataclass(frozen=True)
class Leftover:
    """What an earlier run left: ``none``, ``pending`` or ``fired``, and a sentence about it."""

    state: str
    text: str = ""


@dataclass(frozen=True)
class Store:
    """The directory that holds the record of what we own, the pending change and its way back; UNIT is its timer."""

    path: str = os.path.join(STORE, "network")
    unit: str = "dualstack-rollback"
    system: str = "/etc/systemd/system"

    @property
    def name(self) -> str:
        """What the store is for, such as ``network``."""
        return os.path.basename(self.path)

    @property
    def guards(self) -> tuple[str, str]:
        """The link and the unit that undo the pending change at boot."""
        unit = f"dualstack-{self.name}-guard.service"
        return os.path.join(self.system, "sysinit.target.wants", unit), os.path.join(self.system, unit)

    def file(self, name: str) -> str:
        """Return the path of NAME in the store."""
        return os.path.join(self.path, name)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep the timer and other runs out; another run without end, or a full disk, is an error."""
        try:
            for directory in (os.path.dirname(self.path), self.path):
                os.makedirs(directory, mode=0o700, exist_ok=True)
            with self._lock():
                for left in glob.glob(os.path.join(glob.escape(self.path), ".dualstack-*")):
                    os.unlink(left)  # of a run that was killed
                yield
        except OSError as error:
            place = error.filename or self.path
            raise DualStackError(f"{place}: {error.strerror}; put that right and run again") from error

    def _lock(self) -> contextlib.ExitStack:
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(_undo.locked(self.path))
            except TimeoutError as error:
                raise DualStackError(
                    f"another run changes this host's {self.name} since {_clock(os.stat(self.file('lock')).st_mtime)} "
                    f"({error}): wait for its end, or end it, then run again",
                    rollback="pending",
                ) from error
            return stack.pop_all()

    def load(self, name: str) -> dict | None:
        """Return the JSON file NAME, or None when there is none."""
        try:
            with open(self.file(name), encoding="utf-8") as stream:
                return dict(json.load(stream))
        except FileNotFoundError:
            return None

    def save(self, name: str, value: Mapping[str, object]) -> None:
        """Write the JSON file NAME, for root only."""
        write_file(FileState(self.file(name), json.dumps(value, indent=1).encode(), 0o600))

    def remove(self, name: str) -> None:
        """Remove NAME if it is there."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.file(name))

    @property
    def originals(self) -> Snapshots:
        """The files as they were before our first confirmed change."""
        return Snapshots(self.name, os.path.dirname(self.path))


def leftover(store: Store) -> Leftover:
    """Return what an earlier run left."""
    pending, fired = store.load("pending.json"), store.load("fired.json")
    if pending is not None and is_armed(store):
        what = "is being taken back" if pending.get("reason") else "is waiting for its confirmation"
        return Leftover("pending", f"a {store.name} change {what} until {_clock(pending['deadline'])}")
    if fired is None:
        return Leftover("none") if pending is None else Leftover("fired", f"an earlier run {INTERRUPTED}")
    problems = "".join(f"; {problem}" for problem in fired["problems"])
    return Leftover("fired", f"the last change was undone at {_clock(fired['time'])}: {fired['reason']}{problems}")


def clear(store: Store) -> None:
    """Finish what an interrupted run left, and forget a rollback that has been reported."""
    problems = _undo.fire(store.path, f"an earlier run {INTERRUPTED}")
    if store.load("pending.json") is not None:
        raise DualStackError(
            f"the last change cannot be undone: {'; '.join(problems)}. Put that right and run again", rollback="fired"
        )
    store.remove("fired.json")


def settle(store: Store, check: bool) -> Leftover:
    """Return what an earlier run left once it is out of the way; a change that is still pending is refused."""
    left = leftover(store)
    if left.state == "pending":
        raise DualStackError(f"{left.text}: confirm it, or wait for its rollback", rollback="pending")
    if left.state == "fired" and not check:
        clear(store)
    if not check and any(os.path.lexists(path) for path in store.guards):
        disarm(store)  # a run was killed when its change was over
    return left


def refuse_edited(store: Store, ours: str) -> None:
    """Refuse to go back over files that somebody changed after our last write; OURS is what is in them."""
    edited = edited_files(store)
    if edited:
        raise DualStackError(
            f"{', '.join(edited)} changed after our last write: take those changes out, or remove {ours} by hand",
            edited=edited,
        )


def confirmed(store: Store, check: bool, keep: Callable[[Store], None] | None = None) -> dict[str, object]:
    """KEEP the pending change, if there is one, and return the result of a module in state ``confirmed``."""
    left = leftover(store)
    if left.state == "fired":
        raise DualStackError(f"there is nothing to confirm: {left.text}. Run state applied again", rollback="fired")
    if left.state == "pending" and (store.load("pending.json") or {}).get("reason"):
        raise DualStackError(f"there is nothing to confirm: {left.text}", rollback="pending")
    result: dict[str, object] = {"changed": left.state == "pending", "rollback": left.state}
    if not check and left.state == "pending":
        took, window = _took(store)
        (keep or confirm)(store)
        if took * SAFETY > window:
            result["warnings"] = [
                f"the confirmation came after {took:.0f} s of {window} s: a window of {math.ceil(took * SAFETY)} s "
                "leaves room for a slow day"
            ]
    elif not check:
        settle(store, check)
    return result


def _took(store: Store) -> tuple[float, int]:
    """Return the seconds since the pending change was armed, and those that it has."""
    pending = store.load("pending.json") or {}
    return time.time() - pending["deadline"] + pending["window"], pending["window"]


def arm(
    store: Store,
    window: int,
    *,
    commands: Sequence[Sequence[str]],
    reload: Sequence[Sequence[str]],
    changes: Sequence[tuple[FileState, FileState]],
    settings: Sequence[tuple[str, str]],
    owned: Mapping[str, object],
    more: Mapping[str, object] | None = None,
) -> float:
    """Prepare the way back and start the timer; return when it fires. OWNED becomes the record when confirmed.

    MORE is what else the way back needs, see ``_undo.carry_out``. With a ``reason`` in it there is nothing to confirm.
    """
    deadline = time.time() + window
    pending = {
        "deadline": deadline,
        "window": window,
        "commands": commands,
        "reload": reload if changes else [],
        "files": [packed(before) for before, _after in changes],
        "after": [packed(after) for _before, after in changes],
        "directories": _new_directories(after.path for _before, after in changes if after.content is not None),
        "settings": settings,
        "guard": store.guards,
        "owned": owned,
        **(more or {}),
    }
    try:
        _prepare(store, pending)
        problem = _start_timer(store, window)
    except OSError as error:
        problem = f"{error.filename or store.path}: {error.strerror}"
    if problem:
        disarm(store)
        raise DualStackError(f"the rollback timer cannot be started, nothing was changed: {problem}")
    return deadline


def _prepare(store: Store, pending: Mapping[str, object]) -> None:
    write_file(FileState(store.file("undo.py"), inspect.getsource(_undo).encode(), 0o700))
    store.save("pending.json", pending)
    link, guard = store.guards
    text = _GUARD_TEXT.format(name=store.name, store=store.path, python=sys.executable)
    write_file(FileState(guard, text.encode(), 0o644))
    os.makedirs(os.path.dirname(link), exist_ok=True)
    with contextlib.suppress(FileExistsError):
        os.symlink(guard, link)


def _start_timer(store: Store, window: int) -> str:
    """Start the timer, whose clock is monotonic (systemd.timer(5), OnActiveSec), and return why it cannot be."""
    # A timer or service of an earlier run that failed would keep the name; nothing to reset is no error.
    run(["systemctl", "reset-failed", f"{store.unit}.timer", f"{store.unit}.service"])
    armed = run(
        [
            "systemd-run",
            f"--unit={store.unit}",
            f"--on-active={window}",
            "--timer-property=AccuracySec=1s",
            # Killed half way, it begins again.
            "--property=Restart=on-abnormal",
            "--description=Undo the change that nobody confirmed",
            sys.executable,
            store.file("undo.py"),
        ]
    )
    return armed.output if armed.rc else ""


def undo_now(store: Store) -> list[str]:
    """Undo the pending change at once and return what went wrong."""
    problems = _undo.fire(store.path, "the change failed")
    if store.load("pending.json") is None:
        store.remove("fired.json")
        disarm(store)
    return problems


def confirm(store: Store) -> None:
    """Make the pending change permanent: record it, then remove the way back."""
    pending = store.load("pending.json") or {}
    changes = [(unpacked(a), unpacked(b)) for a, b in zip(pending["files"], pending["after"])]
    if changes:
        store.originals.keep(changes)
    own(store, pending["owned"], pending["directories"], pending["settings"])
    disarm(store)


def own(
    store: Store,
    owned: Mapping[str, object],
    directories: Sequence[str] = (),
    settings: Sequence[tuple[str, str]] = (),
) -> None:
    """Add to the record what we own by interface, and the directories and settings that a revert has to see to."""
    record = store.load("record.json") or {}
    store.save(
        "record.json",
        {
            "owned": {**record.get("owned", {}), **owned},
            "directories": sorted({*record.get("directories", []), *directories}, reverse=True),
            # The first value is the host's own.
            "settings": {**dict(settings), **record.get("settings", {})},
        },
    )


def disarm(store: Store) -> None:
    """Remove the pending change, the timer and the guard, in this order: without the first the others do nothing."""
    store.remove("pending.json")
    if is_armed(store):
        run(["systemctl", "stop", f"{store.unit}.timer"])
    for path in store.guards:
        with contextlib.suppress(OSError):  # the next run tries again
            os.unlink(path)


def revert(
    store: Store,
    commands: Sequence[Sequence[str]],
    reload: Sequence[Sequence[str]],
    more: Mapping[str, object] | None = None,
) -> None:
    """Put back the originals and run COMMANDS; forget everything when that went well.

    Cut off half way, the host goes on by itself: the timer and the guard know no difference.
    """
    record = store.load("record.json") or {}
    originals = [original for original, _ours in store.originals.load().values()]
    back = {"reason": "the revert was cut off", "directories": record.get("directories", []), **(more or {})}
    arm(
        store,
        REVERT_SECONDS,
        commands=commands,
        reload=reload,
        changes=[(original, original) for original in originals],
        settings=list(record.get("settings", {}).items()),
        owned={},
        more=back,
    )
    problems = undo_now(store)
    if problems:
        raise DualStackError("the revert is not complete, run it again: " + "; ".join(problems), problems=problems)
    store.originals.forget()
    store.remove("record.json")
    store.remove("undo.py")


def edited_files(store: Store) -> list[str]:
    """Return the files that somebody changed after our last write."""
    # The original is what a revert wants: put back by hand, or by the rollback of a confirmation that was cut off.
    return [
        path
        for path, (original, ours) in store.originals.load().items()
        if read_file(path).digest not in (ours, original.digest)
    ]


def is_armed(store: Store) -> bool:
    """Whether the timer is running, or its service at work."""
    states = run(["systemctl", "is-active", f"{store.unit}.timer", f"{store.unit}.service"]).output.split()
    return "active" in states or "activating" in states


def _new_directories(paths: Iterator[str]) -> list[str]:
    found = []
    for path in paths:
        directory = os.path.dirname(path)
        while not os.path.isdir(directory):
            found.append(directory)
            directory = os.path.dirname(directory)
    return sorted(set(found), reverse=True)


def _clock(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
