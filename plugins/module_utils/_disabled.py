# SPDX-License-Identifier: GPL-3.0-or-later
"""Where a host has IPv6 switched off, and what switches it on: the kernel's parameter, its settings, its module."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterable, Iterator

from ._files import text_below

CONF = "proc/sys/net/ipv6/conf"
SYSCTL_DIRECTORIES = ("etc/sysctl.d", "run/sysctl.d", "usr/local/lib/sysctl.d", "usr/lib/sysctl.d")  # sysctl.d(5)
MODULE_DIRECTORIES = ("etc/modprobe.d", "run/modprobe.d", "usr/local/lib/modprobe.d", "usr/lib/modprobe.d")
ASSIGNMENT = re.compile(r"^\s*-?net[./]ipv6[./]conf[./](\S+?)[./]disable_ipv6\s*=\s*([01])\s*$", re.M)
# modprobe.d(5)
_MODULE = re.compile(
    r"^\s*(?:options\s+ipv6\s.*\bdisable(?:_ipv6)?=1\b|(?:install\s+ipv6|blacklist\s+ipv6|alias\s+net-pf-10\s+off)\b).*$",
    re.M,
)
_LOADER = "take it out of the boot loader's configuration (for GRUB /etc/default/grub, then update-grub)"


def parameter(root: str = "/") -> str:
    """Return the parameter of the running kernel that switches IPv6 off: ``disable``, ``disable_ipv6`` or nothing."""
    given = dict(
        word[5:].split("=", 1) for word in text_below(root, "proc/cmdline").split() if re.match(r"ipv6\.\w+=", word)
    )
    return next((name for name in ("disable", "disable_ipv6") if given.get(name) == "1"), "")


def setting(root: str, devices: Iterable[str]) -> Iterator[dict[str, str]]:
    """Yield the sysctl files, and the names in them, that switch IPv6 off on one of DEVICES at boot.

    Files count in the order of their names, and the last word counts. /etc/sysctl.conf is one of them only by a link.
    """
    last: dict[str, tuple[str, str, str]] = {}
    for path in _files(root, SYSCTL_DIRECTORIES):
        for name, value in ASSIGNMENT.findall(text_below(root, path)):
            for device in devices:
                if name in ("all", "default", "*", device):
                    last[device] = (f"/{path}", name, value)
    yield from (
        {"file": path, "name": name} for path, name in dict.fromkeys(e[:2] for e in last.values() if e[2] == "1")
    )


def module_lines(root: str = "/") -> Iterator[tuple[str, str]]:
    """Yield the files, and the lines in them, that keep the module ipv6 out or switch it off."""
    for path in _files(root, MODULE_DIRECTORIES):
        for match in _MODULE.finditer(text_below(root, path)):
            yield f"/{path}", match.group().strip()


def is_built_in(root: str = "/") -> bool:
    """Whether the kernel has IPv6 without a module, as Debian's has: then modprobe.d(5) says nothing about it."""
    loaded = os.path.exists(os.path.join(root, "sys/module/ipv6/initstate"))
    return os.path.isdir(os.path.join(root, CONF)) and not loaded


def diagnose(devices: Iterable[str], root: str = "/") -> tuple[list[str], list[str]]:
    """Return what keeps IPv6 off DEVICES, each with its next action, and what looks so and has no effect."""
    modules = list(module_lines(root))
    lines = [f"{path} says {line!r}" for path, line in modules]
    found = parameter(root)
    if found == "disable":
        return [f"the kernel was started with ipv6.disable=1: {_LOADER} and restart the host"], []
    if not os.path.isdir(os.path.join(root, CONF)):
        why = f"{'; '.join(lines)}: take that out and restart the host" if lines else "boot one that has it"
        return [f"the kernel runs without IPv6: {why}"], []
    problems = []
    if found:
        problems.append(
            f"the kernel was started with ipv6.disable_ipv6=1, so each interface has IPv6 off: {_LOADER} and, for now, "
            "run sysctl -w net.ipv6.conf.all.disable_ipv6=0; no restart is needed"
        )
    elif not is_built_in(root):
        problems += [f"{each}, which counts from the next boot: take that out; no restart is needed" for each in lines]
    files = list(setting(root, devices))
    for entry in files:
        problems.append(
            f"{entry['file']} switches IPv6 off at boot (net.ipv6.conf.{entry['name']}.disable_ipv6 = 1): take that out"
        )
    for device in devices:
        if text_below(root, f"{CONF}/{device}/disable_ipv6").strip() == "1" and not found:
            problems.append(
                f"IPv6 is switched off on {device}: run sysctl -w net/ipv6/conf/{device}/disable_ipv6=0"
                + ("" if files else "; no file sets it, so whoever did may do it again")
            )
    idle = [f"{each}, without effect: the kernel has IPv6 built in" for each in lines] if is_built_in(root) else []
    return problems, idle


def _files(root: str, directories: Iterable[str]) -> list[str]:
    """Return the files of DIRECTORIES in the order of their names; one in an earlier directory hides its namesakes."""
    found: dict[str, str] = {}
    for directory in directories:
        for path in glob.glob(os.path.join(root, directory, "*.conf")):
            found.setdefault(os.path.basename(path), os.path.relpath(path, root))
    return [found[name] for name in sorted(found)]
