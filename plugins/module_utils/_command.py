# SPDX-License-Identifier: GPL-3.0-or-later
"""Run one program of the managed host."""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Outcome:
    """What a program left: its exit status and what it printed (both streams, in order)."""

    rc: int
    output: str


def argv(command: str | Sequence[str]) -> list[str]:
    """Return COMMAND as an argument list; a string is split by the shell's quoting rules, never run by a shell."""
    return shlex.split(command) if isinstance(command, str) else [str(word) for word in command]


def run(command: str | Sequence[str], timeout: float = 90.0) -> Outcome:
    """Run COMMAND for at most TIMEOUT seconds. A missing program is rc 127 and a late one rc 124, as in a shell."""
    words = argv(command)
    try:
        done = subprocess.run(
            words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=timeout,
            check=False,
            env=_environment(),
        )
    except FileNotFoundError:
        return Outcome(127, f"{words[0]}: program not found")
    except subprocess.TimeoutExpired:
        return Outcome(124, f"{shlex.join(words)}: no end within {timeout:g} s")
    return Outcome(done.returncode, done.stdout.strip())


def _environment() -> dict[str, str]:
    # Error texts are compared and shown: one language; daemons' tools live in sbin.
    path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    return {"LC_ALL": "C.UTF-8", "PATH": path, "HOME": "/root"}
