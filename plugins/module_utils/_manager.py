# SPDX-License-Identifier: GPL-3.0-or-later
"""Find out who runs a service: what a container or a supervisor runs does not read the files of the host's unit."""

from __future__ import annotations

import fnmatch
import glob
import os
from collections.abc import Iterable

from ._command import run
from ._listeners import sockets

_OWN = "init.scope"  # systemd itself, which listens for the units that it starts on demand


def foreign(ports: Iterable[int], unit: str, root: str = "/") -> list[str]:
    """Return, for each of PORTS on which others than the units that match UNIT listen alone, who that is."""
    wanted = {port: sockets(port, root) for port in dict.fromkeys(ports)}
    wanted = {port: found for port, found in wanted.items() if found}
    if not wanted:
        return []
    units = {process: unit_of(process, root) for process in map(os.path.dirname, glob.glob(f"{root}proc/[0-9]*/fd"))}
    ours = set().union(*(_held(process) for process, name in units.items() if fnmatch.fnmatch(name, unit)))
    left = {port: found for port, found in wanted.items() if not found.keys() & ours}
    if not left:
        return []
    held = {process: _held(process) for process in units}
    problems = []
    for port, found in left.items():
        owners = [process for process in units if held[process] & found.keys()]
        if owners and _OWN not in {units[process] for process in owners}:
            names = ", ".join(dict.fromkeys(f"{_name(process)} in {units[process] or 'no unit'}" for process in owners))
            problems.append(f"port {port}: {names} listens there (process {os.path.basename(owners[0])})")
    return problems


def strangers(port: int, unit: str, root: str = "/") -> dict[str, str]:
    """Return {address: process} of what listens on PORT and is no process of the units that match UNIT."""
    wanted = sockets(port, root)
    found: dict[str, str] = {}
    for process in map(os.path.dirname, glob.glob(f"{root}proc/[0-9]*/fd")) if wanted else ():
        name = unit_of(process, root)
        if name != _OWN and not fnmatch.fnmatch(name, unit):
            who = f"{_name(process)} in {name or 'no unit'} (process {os.path.basename(process)})"
            found.update((wanted[inode], who) for inode in _held(process) & wanted.keys())
    return found


def asleep(unit: str) -> str:
    """Return ``enabled`` or ``disabled`` where no unit that matches UNIT runs, nor its socket; else nothing."""
    names = [unit, unit.replace(".service", ".socket")]
    states = run(["systemctl", "is-active", *names])
    # Without systemd nobody can tell; a pattern that matches no loaded unit is answered with nothing.
    if states.rc == 0 or not set(states.output.split()) <= {"inactive", "failed", "unknown"}:
        return ""
    listing = run(["systemctl", "list-unit-files", "--no-legend", "--plain", *names]).output
    files = [line.split()[0] for line in listing.splitlines()]
    enabled = run(["systemctl", "is-enabled", *files]).output.split() if files else []
    return "enabled" if {"enabled", "enabled-runtime"} & set(enabled) else "disabled"


def running(programs: Iterable[str], root: str = "/") -> bool:
    """Return whether a process has the name of one of PROGRAMS, wherever it runs."""
    names = {os.path.basename(program)[:15] for program in programs}  # TASK_COMM_LEN
    return any(_name(os.path.dirname(comm)) in names for comm in glob.glob(f"{root}proc/[0-9]*/comm"))


def unit_of(process: str, root: str = "/") -> str:
    """Return the systemd unit that the directory PROCESS of /proc belongs to, or nothing."""
    top = _group(f"{root}proc/1")
    top = top[: -len(_OWN)] if top.endswith("/" + _OWN) else top + "/"
    path = _group(process) + "/"
    names = (path[len(top) :] if path.startswith(top) else path).split("/")
    return next((name for name in names if name and not name.endswith(".slice")), "")


def _group(process: str) -> str:
    """Return the control group in which systemd put PROCESS; the named hierarchy where there are two."""
    try:
        with open(f"{process}/cgroup", encoding="utf-8", errors="replace") as stream:
            groups = dict(line.rstrip("\n").split(":", 2)[1:] for line in stream)
    except OSError:  # it has ended
        return ""
    return groups.get("name=systemd", groups.get("", ""))


def _held(process: str) -> set[str]:
    """Return the inodes of the sockets that PROCESS has open."""
    held = set()
    for link in glob.glob(f"{process}/fd/*"):
        try:
            target = os.readlink(link)
        except OSError:
            continue
        if target.startswith("socket:["):
            held.add(target[8:-1])
    return held


def _name(process: str) -> str:
    try:
        with open(f"{process}/comm", encoding="utf-8", errors="replace") as stream:
            return stream.read().strip()
    except OSError:
        return "a process"
