# SPDX-License-Identifier: GPL-3.0-or-later
"""Undo a change that nobody confirmed.

This file is copied to the host's store and runs there alone: from the timer, or at boot when the power failed in the
window. So it needs nothing but Python and its record, ``pending.json`` beside it.
"""

from __future__ import annotations

import base64
import contextlib
import errno
import fcntl
import glob
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator

# What ip(8) and nft(8) say when there is nothing left to remove.
GONE = (
    "Cannot assign requested address",
    "No such process",
    "Cannot find device",
    "does not exist",
    "Could not process rule: No such file or directory",
)
_UNKNOWN_SECONDS = 2.0
# What ip(8) shows of IPv4 that must not be lost. Leases have no place here: their client renews them.
IPV4 = [["address", "scope global permanent"], ["route", "default"]]


@contextlib.contextmanager
def locked(store: str, patience: float = 30.0, insist: bool = False) -> Iterator[None]:
    """Hold the store's lock: a confirmation and the timer must not both win.

    After PATIENCE seconds, raise TimeoutError. The timer must INSIST: its window is over, so a run that still holds the
    lock hangs. It is killed, lest it go on with its change later; nobody who cannot be found stops the way back.
    """
    name = os.path.join(store, "lock")
    try:
        lock = os.open(name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError:
        if not insist:
            raise
        yield
        return
    try:
        end = time.monotonic() + patience
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                late = time.monotonic() - end
                holder = _holder(name) if late > 0 else 0
                if late > 0 and not insist:
                    raise TimeoutError(f"process {holder} holds {name}") from None
                if late > _UNKNOWN_SECONDS:
                    break
                if holder:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(holder, signal.SIGKILL)
                time.sleep(0.05)
        # On a full disk nobody can be told who holds it, which matters less than the way back.
        with contextlib.suppress(OSError):
            os.ftruncate(lock, 0)
            os.pwrite(lock, str(os.getpid()).encode(), 0)
        yield
    finally:
        os.close(lock)


def _holder(lock: str) -> int:
    """Return the process that has written itself into the file LOCK and has it open; 0 if there is none."""
    with contextlib.suppress(OSError, ValueError), open(lock, encoding="utf-8") as stream:
        process = int(stream.read())
        held = [os.path.realpath(path) for path in glob.glob(f"/proc/{process}/fd/*")]
        return process if os.path.realpath(lock) in held else 0
    return 0


def fire(store: str, reason: str, live: bool = True) -> list[str]:
    """Undo the pending change, if there is one; say so in ``fired.json`` and return what went wrong.

    While a file cannot be put back, or one that was being written cannot be removed, the change stays pending: the next
    run, and the next boot, try again.
    """
    pending = os.path.join(store, "pending.json")
    try:
        with open(pending, encoding="utf-8") as stream:
            record = json.load(stream)
    except FileNotFoundError:
        return []
    problems = carry_out(record, live)
    fired = {
        "reason": record.get("reason") or reason,
        "time": time.time(),
        "window": record.get("window"),
        "problems": problems,
    }
    try:
        write(os.path.join(store, "fired.json"), json.dumps(fired).encode(), {"mode": 0o600})
    except OSError as error:
        problems.append(f"{store}/fired.json: {error}")
    if all(_is_back(entry) for entry in record.get("files", [])) and not _half_written(record):
        problems += _unlink_all([pending, *record.get("guard", [])])
    return problems


def carry_out(record: dict, live: bool = True) -> list[str]:
    """Run the record's commands, restore its files and settings, and return what went wrong; every step is tried.

    Not LIVE is a boot before the network: there are files to restore, and what was made of them already.
    """
    problems = []
    names = _new_names(record.get("devices", {})) if live else {}
    if live:
        problems += _restore_ipv4(record.get("ipv4", []))
        problems += _run_all(record.get("commands", []), names)
    # What is removed first makes room on a full disk for what is written.
    entries = sorted(record.get("files", []), key=lambda entry: entry["content"] is not None)
    problems += _unlink_all(_half_written(record))
    for entry in entries:
        if _is_back(entry):
            continue
        try:
            if entry["content"] is None:
                os.unlink(entry["path"])
            else:
                _put_back(entry["path"], base64.b64decode(entry["content"]), entry)
        except OSError as error:
            problems.append(f"{entry['path']}: {error}")
    for directory in record.get("directories", []):
        with contextlib.suppress(OSError):
            os.rmdir(directory)
    problems += _run_all(record.get("reload" if live else "boot", []), names)
    if live:
        for path, value in record.get("settings", []):
            now = "/".join(names.get(part, part) for part in path.split("/"))
            try:
                with open(now, "w", encoding="ascii") as stream:
                    stream.write(value)
            except OSError as error:
                problems.append(f"{path}: {error}")
    return problems


def _half_written(record: dict) -> list[str]:
    """Return what is there of the record's files under the names that they have while they are written."""
    paths = [*record.get("guard", []), *(entry["path"] for entry in record.get("files", []))]
    return [name for path in paths for name in glob.glob(f"{glob.escape(temporary(path))}*")]


def _is_back(entry: dict) -> bool:
    """Whether a file is as it was, so that it need not be written."""
    try:
        with open(entry["path"], "rb") as stream:
            content, info = stream.read(), os.fstat(stream.fileno())
    except FileNotFoundError:
        return entry["content"] is None
    except OSError:
        return False
    if entry["content"] is None or base64.b64decode(entry["content"]) != content:
        return False
    return (info.st_mode & 0o7777, info.st_uid, info.st_gid) == (entry["mode"], entry["uid"], entry["gid"])


def _put_back(path: str, content: bytes, entry: dict) -> None:
    try:
        write(path, content, entry)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        # What was there before us fits where our longer text is. Cut off here, the change stays pending.
        with open(path, "r+b") as stream:
            stream.write(content)
            stream.truncate()
            os.fsync(stream.fileno())


def _unlink_all(paths: list[str]) -> list[str]:
    problems = []
    for path in paths:
        try:
            os.unlink(path)
        except FileNotFoundError:
            continue
        except OSError as error:
            problems.append(f"{path}: {error}")
    return problems


def temporary(path: str) -> str:
    """Return how the names begin that the file PATH has while it is written."""
    directory, name = os.path.split(path)
    return os.path.join(directory, f".dualstack-{name[:200]}-")


def write(path: str, content: bytes, entry: dict) -> None:
    """Make the file PATH, atomically and durably, with the mode, owner, group and extended attributes of ENTRY."""
    directory = os.path.dirname(path)
    os.makedirs(directory, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=directory, prefix=os.path.basename(temporary(path)))
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
            os.fchown(stream.fileno(), entry.get("uid", -1), entry.get("gid", -1))
            os.fchmod(stream.fileno(), entry["mode"])
            for key, value in entry.get("attributes", ()):
                os.setxattr(stream.fileno(), key, bytes.fromhex(value))
            stream.flush()
            os.fsync(stream.fileno())
        os.rename(name, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)


def _new_names(devices: dict[str, int]) -> dict[str, str]:
    """Return {name then: name now} of the interfaces that were renamed in the meantime."""
    found = {}
    for name, index in devices.items():
        with contextlib.suppress(OSError):  # it is gone, and what it had with it
            found[name] = socket.if_indextoname(index)
    return {name: now for name, now in found.items() if now != name}


def save_ipv4() -> list[list[str]]:
    """Return for addresses and the default route of IPv4 what the host has now, and all of them as ip(8) saves them."""
    saved = []
    for words in IPV4:
        dump = subprocess.run(["ip", "-4", words[0], "save"], capture_output=True, check=False).stdout
        saved.append([*words, _show(words), base64.b64encode(dump).decode()])
    return saved


def _show(words: list[str]) -> str:
    done = subprocess.run(
        ["ip", "-4", "-o", words[0], "show", *words[1].split()], capture_output=True, text=True, check=False
    )
    return done.stdout.strip()


def _restore_ipv4(saved: list[list[str]]) -> list[str]:
    """Give the host back its IPv4 if it has lost all of its addresses or every default route; else leave it alone."""
    problems = []
    for kind, which, before, dump in saved:
        if not before or _show([kind, which]):
            continue
        # ip(8) seeks in what it reads, and the disk may be full.
        with open(os.memfd_create("ipv4"), "w+b") as stream:
            stream.write(base64.b64decode(dump))
            stream.seek(0)
            done = subprocess.run(
                ["ip", "-4", kind, "restore"], stdin=stream, capture_output=True, text=True, check=False
            )
        if not _show([kind, which]):
            problems.append(f"the IPv4 {kind} {before} is lost: {done.stderr.strip()}")
    return problems


def _run_all(commands: list[list[str]], names: dict[str, str]) -> list[str]:
    problems = []
    for command in commands:
        words = [names.get(word, word) if before == "dev" else word for before, word in zip(["", *command], command)]
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
    with locked(store, 1.0, insist=True):
        problems = fire(store, reason, live=not boot)
    print("\n".join(["unconfirmed change undone", *problems]))
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
