# SPDX-License-Identifier: GPL-3.0-or-later
"""Edit the options of pure-ftpd-wrapper(8): a directory with one file for each, in which the first value counts.

One instance binds one address or, without any, all of both families. Passive transfers need no setting: EPSV has no
address in it (RFC 2428), and PASV stays what it was.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass

from ._edit_text import Settings, body, only_keys, split_lines
from ._edit_web import Read, Socket, at
from ._errors import InputError

_YES, _NO = ("yes", "1", "on"), ("no", "0", "off")
_DIRECTORY = "pure-ftpd/conf"  # beside the directory of the file that says how the daemon is started


@dataclass(frozen=True)
class _Value:
    """A line that is neither empty nor a comment, without the white space around it."""

    index: int
    text: str


class _Options:
    """The files of the options; ``texts`` are those that were changed."""

    def __init__(self, root: str, read: Read) -> None:
        self.directory = os.path.join(os.path.dirname(os.path.dirname(root)), _DIRECTORY)
        self.texts: dict[str, str] = {}
        self._read = read

    def path(self, option: str) -> str:
        return os.path.join(self.directory, option)

    def values(self, option: str) -> Iterator[_Value]:
        for index, line in enumerate(split_lines(self._read(self.path(option)) or "")):
            text = body(line).strip()
            if text and not text.startswith("#"):
                yield _Value(index, text)

    def first(self, option: str) -> _Value | None:
        """Return the value of OPTION that counts."""
        return next(self.values(option), None)

    def switched_on(self, option: str) -> bool:
        """Return whether a line says yes: a no before it does not count."""
        return any(value.text.lower() in _YES for value in self.values(option))

    def replace(self, option: str, old: _Value, new: str) -> None:
        path = self.path(option)
        lines = split_lines(self.texts.get(path) or self._read(path) or "")
        lines[old.index] = lines[old.index].replace(old.text, new, 1)
        self.texts[path] = "".join(lines)

    def switch(self, option: str, on: bool) -> None:
        """Make OPTION say ON, where it does not, in the words that are there."""
        if self.switched_on(option) is on:
            return
        old, new = (_NO, "yes") if on else (_YES, "no")
        found = [value for value in self.values(option) if value.text.lower() in old]
        for value in found:
            self.replace(option, value, new)
        if not found:
            self.texts[self.path(option)] = f"{new}\n"

    def place(self, option: str, value: _Value) -> str:
        return at(self.path(option), value.index + 1)


def edit(root: str, read: Read, settings: Settings) -> dict[str, str]:
    """Return the changed options of the daemon that the file ROOT (pure-ftpd-common) starts.

    ``IPV4Only`` goes to no and a ``Bind`` on all of IPv4 to all of both. SETTINGS: ``DontResolve``, whether names are
    not looked up; each connection waits for a look-up that nobody answers.
    """
    only_keys(settings, "DontResolve")
    options = _Options(root, read)
    problems = [*_started(root, read), *_in_the_way(options)]
    problems += _bind(options)
    if problems:
        raise InputError(problems)
    options.switch("IPV4Only", False)
    if settings.get("DontResolve"):
        options.switch("DontResolve", True)
    return options.texts


def sockets(root: str, read: Read) -> set[Socket]:
    """Return what the daemon listens on."""
    options = _Options(root, read)
    bind = options.first("Bind")
    address, _comma, port = (bind.text if bind else ",ftp").rpartition(",")
    families = {(True, False): "0.0.0.0", (False, True): "::"}
    only = (options.switched_on("IPV4Only"), options.switched_on("IPV6Only"))
    return {(families.get(only, "") if address in ("", "*") else address, "21" if port == "ftp" else port)}


def _started(root: str, read: Read) -> list[str]:
    for index, line in enumerate(split_lines(read(root) or "")):
        if re.match(r"\s*STANDALONE_OR_INETD=[\"']?inetd\b", line):
            return [
                f"{at(root, index + 1)}: inetd listens for Pure-FTPd, so nothing here has an effect; let inetd "
                "listen on both families, or let the daemon stand alone"
            ]
    return []


def _in_the_way(options: _Options) -> list[str]:
    """Return what would send IPv6 clients away at their login, or everybody."""
    problems = []
    trusted, forced = options.first("TrustedIP"), options.first("ForcePassiveIP")
    if trusted:
        problems.append(
            f"{options.place('TrustedIP', trusted)}: only sessions to {trusted.text} may log in, and this option "
            "takes no IPv6 address; take it out, or leave this host's FTP on IPv4"
        )
    if forced and ":" in forced.text:
        problems.append(
            f"{options.place('ForcePassiveIP', forced)}: {forced.text} makes Pure-FTPd refuse every session; only IPv4 "
            "needs an address there, write that"
        )
    return problems


def _bind(options: _Options) -> list[str]:
    """Pure-FTPd's Bind takes one address and one port; only no address at all is both families."""
    bind = options.first("Bind")
    address, comma, port = bind.text.rpartition(",") if bind else ("", "", "")
    if not bind or not comma or address in ("", "*"):
        return []
    if address == "0.0.0.0":
        options.replace("Bind", bind, f",{port}")
        return []
    return [
        f"{options.place('Bind', bind)}: Pure-FTPd binds one address or all, and {address} is one; with both families "
        f"it would be all. If that is right, write ,{port} there; otherwise this host cannot be converted"
    ]
