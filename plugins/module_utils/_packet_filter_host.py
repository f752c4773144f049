# SPDX-License-Identifier: GPL-3.0-or-later
"""The packet filters of this host, by whatever program they were made."""

from __future__ import annotations

import glob
from collections.abc import Sequence

from . import _packet_filter_iptables, _packet_filter_nft
from ._command import run
from ._errors import DualStackError
from ._packet_filter import HOOKS, Table, restricts

NFT = "/usr/sbin/nft"
# Who makes packet filters on Debian: the unit, and where its rules are.
MAKERS = {
    "ufw": "/etc/ufw",
    "firewalld": "/etc/firewalld",
    "ferm": "/etc/ferm/ferm.conf",
    "netfilter-persistent": "/etc/iptables",
    "nftables": "/etc/nftables.conf",
}
FORWARDING = "/proc/sys/net/ipv6/conf/*/forwarding"
_PROGRAM = {4: "iptables", 6: "ip6tables"}
# The kernel's own list: asking the program where there is no such table could make the kernel load one.
_LEGACY = {4: "/proc/net/ip_tables_names", 6: "/proc/net/ip6_tables_names"}


def gather(version: int = 4, hooks: Sequence[str] = HOOKS) -> list[Table]:
    """Return the tables in which packets of IP VERSION pass HOOKS, ours left out."""
    text = _listing()
    hidden = _packet_filter_nft.opaque(text, version)
    tables = [table for table in _packet_filter_nft.tables(text, version, hooks) if table.name not in hidden]
    if hidden:
        family = _packet_filter_nft.FAMILIES[version]
        saved = _saved(f"{_PROGRAM[version]}-nft", sorted(hidden), hooks)
        tables += [table for table in saved if f"{family} {table.name.split()[-1]}" in hidden]
    legacy = _read(_LEGACY[version]).split()
    return tables + (_saved(f"{_PROGRAM[version]}-legacy", legacy, hooks) if legacy else [])


def _listing() -> str:
    listed = run([NFT, "-j", "list", "ruleset"])
    if listed.rc == 127:
        return ""
    if listed.rc:
        raise DualStackError(f"nft -j list ruleset: {listed.output}; without it nobody can say what IPv4 lets in")
    return listed.output[listed.output.index("{") :]


def _saved(program: str, tables: Sequence[str], hooks: Sequence[str]) -> list[Table]:
    """Return what PROGRAM, a variant of iptables, says of TABLES, which are known to be there."""
    saved = run([f"{program}-save"])
    if saved.rc:
        reason = "is not installed to read it; install the package iptables" if saved.rc == 127 else saved.output
        raise DualStackError(f"{', '.join(tables)}: made by {program}, and {program}-save {reason}")
    return _packet_filter_iptables.tables(saved.output, program, hooks)


def makers() -> list[str]:
    """Return the programs whose units are active and make packet filters, each with the place of its rules."""
    states = run(["systemctl", "is-active", *MAKERS]).output.splitlines()
    return [f"{name} ({place})" for (name, place), state in zip(MAKERS.items(), states) if state == "active"]


def unguarded() -> bool:
    """Whether this host forwards IPv6 and drops nothing on that way, while its filter for IPv4 does."""
    forwards = any(_read(path).strip() == "1" for path in glob.glob(FORWARDING))
    return forwards and restricts(gather(4, ("forward",))) and not restricts(gather(6, ("forward",)))


def _read(path: str) -> str:
    """Return the text of PATH, empty where the kernel has no such file."""
    try:
        with open(path, encoding="ascii") as stream:
            return stream.read()
    except FileNotFoundError:
        return ""
