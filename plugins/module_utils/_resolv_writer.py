# SPDX-License-Identifier: GPL-3.0-or-later
"""Find out whether a program writes the host's resolv.conf: an edit would be lost at its next turn."""

from __future__ import annotations

import glob
import os
import re

# What run-parts(8) runs; dhclient-script(8) takes its hooks from it.
_HOOK = re.compile(r"[A-Za-z0-9_-]+")


def writer(path: str, root: str = "/") -> str:
    """Return what is against an edit of the file PATH (no link) and what to do, or nothing: it is the admin's."""
    if not path.startswith("/etc/"):
        return f"leads to {path}, and what lies outside /etc a program writes; name the servers in its configuration"
    # Its script leaves no header, and its configuration takes no IPv6 address for DHCPv4's servers.
    if _runs("dhclient", root) and not _hooked(root):
        return (
            "dhclient runs and writes the file anew with each lease; to keep the file as it is, write the line "
            "make_resolv_conf() { :; } to /etc/dhcp/dhclient-enter-hooks.d/keep-resolv-conf"
        )
    return ""


def _runs(program: str, root: str) -> bool:
    """Return whether PROGRAM runs with this host's files, not those of a container."""
    here = _link(os.path.join(root, "proc/self/ns/mnt"))
    return any(
        _text(comm).strip() == program and _link(os.path.join(os.path.dirname(comm), "ns/mnt")) == here
        for comm in glob.glob(os.path.join(root, "proc/[0-9]*/comm"))
    )


def _hooked(root: str) -> bool:
    """Return whether a hook replaces the function with which dhclient-script(8) writes the file."""
    directory = os.path.join(root, "etc/dhcp/dhclient-enter-hooks")
    hooks = [directory, *(path for path in glob.glob(f"{directory}.d/*") if _HOOK.fullmatch(os.path.basename(path)))]
    return any(_replaces(_text(hook), root) for hook in hooks)


def _replaces(hook: str, root: str) -> bool:
    if not re.search(r"^[^#\n]*\bmake_resolv_conf\s*\(\)", hook, re.MULTILINE):
        return False
    # Removed and not purged, resolvconf leaves its hook, which does nothing then.
    return "/sbin/resolvconf" not in hook or os.path.exists(os.path.join(root, "sbin/resolvconf"))


def _text(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as stream:
            return stream.read()
    except OSError:
        return ""


def _link(path: str) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""
