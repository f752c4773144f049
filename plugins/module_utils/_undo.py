# SPDX-License-Identifier: GPL-3.0-or-later
"""Undo a network change that nobody confirmed.

This file is copied to the host's store and runs there alone: from the timer, or at boot when the power failed in the
window. So it needs nothing but Python and its record, ``pending.json`` beside it.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator

# What ip(8) says when there is nothing left to remove.
GONE = ("Cannot assign requested address", "No such process", "Cannot find device", "does not exist")


@contextlib.contextmanager
def locked(store: str, patience: float = 30.0) -> Iterator[None]:
    """Hold the store's lock: a confirmation and the timer must not both win. After PATIENCE seconds, go on without."""
    with open(os.path.join(store, "lock"), "a", encoding="utf-8") as stream:
        end = time.monotonic() + patience
        while True:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > end:
                    break
                time.sleep(0.05)
        yield


def fire(store: str, reason: str, live: bool = True) -> list[str]:
    """Undo the pending change, if there is one; say so in ``fired.json`` and return what went wrong."""
    pending = os.path.join(store, "pending.json")
    try:
        with open(pending, encoding="utf-8") as stream:
            record = json.load(stream)
    except FileNotFoundError:
        return []
    problems = carry_out(record, live)
    fired = {"reason": reason, "time": time.time(), "window": record.get("window"), "problems": problems}
    write(os.path.join(store, "fired.json"), json.dumps(fired).encode(), 0o600)
    for path in [pending, *record.get("guard", [])]:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
    return problems


def carry_out(record: dict, live: bool = True) -> list[str]:
    """Run the record's commands, restore its files and settings, and return what went wrong; every step is tried."""
    problems = []
    if live:
        problems += _run_all(record.get("commands", []))
    for entry in record.get("files", []):
        try:
            content = entry["content"]
            if content is None:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(entry["path"])
            else:
                write(entry["path"], base64.b64decode(content), entry["mode"], entry["uid"], entry["gid"])
        except OSError as error:
            problems.append(f"{entry['path']}: {error}")
    for directory in record.get("directories", []):
        with contextlib.suppress(OSError):
            os.rmdir(directory)
    if live:
        problems += _run_all(record.get("reload", []))
        for path, value in record.get("settings", []):
            try:
                with open(path, "w", encoding="ascii") as stream:
                    stream.write(value)
            except OSError as error:
                problems.append(f"{path}: {error}")
    return problems


def write(path: str, content: bytes, mode: int, uid: int = -1, gid: int = -1) -> None:
    """Make the file PATH, atomically and durably; owner and group -1 are whoever runs this."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=os.path.dirname(path), prefix=".dualstack-")
    with os.fdopen(handle, "wb") as stream:
        stream.write(content)
        os.fchown(stream.fileno(), uid, gid)
        os.fchmod(stream.fileno(), mode)
        stream.flush()
        os.fsync(stream.fileno())
    os.rename(temporary, path)


def _run_all(commands: list[list[str]]) -> list[str]:
    problems = []
    for words in commands:
        try:
            done = subprocess.run(words, capture_output=True, text=True, timeout=30, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            problems.append(f"{' '.join(words)}: {error}")
            continue
        if done.returncode and not any(word in done.stderr for word in GONE):
            problems.append(f"{' '.join(words)}: {done.stderr.strip()}")
    return problems


def main() -> int:
    """Undo what this file lies beside; the argument ``boot`` restores files only, the rest is not there yet."""
    store, boot = os.path.dirname(os.path.abspath(__file__)), sys.argv[1:] == ["boot"]
    os.environ["PATH"] = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    reason = "the host restarted before the confirmation" if boot else "no confirmation came"
    with locked(store):
        problems = fire(store, reason, live=not boot)
    print("\n".join(["unconfirmed network change undone", *problems]))
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
