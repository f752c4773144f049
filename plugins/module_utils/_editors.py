# SPDX-License-Identifier: GPL-3.0-or-later
"""Edit keys of a file that the host owns: text in, text out, nothing else touched, twice the same as once."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from dataclasses import dataclass

from . import (
    _edit_apache,
    _edit_dovecot,
    _edit_nginx,
    _edit_postfix,
    _edit_postfix_master,
    _edit_postfix_twins,
    _edit_pureftpd,
    _edit_sshd,
    _edit_varnish,
)
from ._edit_text import (
    Settings,
    additions,
    append,
    body,
    end,
    is_ipv4,
    literal,
    only_keys,
    scalar,
    split_lines,
)
from ._edit_web import Read, Site, Socket
from ._errors import InputError
from ._resolv_writer import MAX_NAMESERVERS


@dataclass(frozen=True)
class Tree:
    """A format whose files include each other: each function takes the first one, and reads the others itself."""

    edit: Callable[[str, Read, Settings], dict[str, str]]
    sockets: Callable[[str, Read], set[Socket]]
    sites: Callable[[str, Read], list[Site]] = lambda _root, _read: []
    notes: Callable[[str, Read, Settings], list[str]] = lambda _root, _read, _settings: []
    checks: Callable[[str, Read], list[tuple[str, ...]]] = lambda _root, _read: []
    early: bool = True  # whether the service itself refuses an address that this host lacks, and lives on


def edit(form: str, text: str, settings: Settings) -> str:
    """Return TEXT of format FORM with SETTINGS; raise InputError with all problems."""
    if form in TREES:  # the text alone
        return TREES[form].edit("", {"": text}.get, settings).get("", text)
    return FILES[form](text, settings)


def _lines(text: str, settings: Settings) -> str:
    only_keys(settings, "add")
    lines = split_lines(text)
    have = {body(line) for line in lines}
    missing = [line for line in additions("add", settings) if line not in have]
    return "".join(append(lines, missing)) if missing else text


def _key_value(text: str, settings: Settings) -> str:
    lines = split_lines(text)
    problems: list[str] = []
    for key, value in settings.items():
        try:
            new = scalar(key, value)
        except InputError as error:
            problems += error.problems
            continue
        places = [
            (index, match)
            for index, line in enumerate(lines)
            if (match := re.match(rf"(\s*(?:export\s+)?{re.escape(key)}\s*=[ \t]*)", body(line)))
        ]
        if not places:
            lines = append(lines, [f"{key}={new}"])
            continue
        index, match = places[-1]  # the last one is in force
        if body(lines[index])[match.end() :].rstrip() != new:
            lines[index] = match[1] + new + end(lines[index])
    if problems:
        raise InputError(problems)
    return "".join(lines)


def _resolv(text: str, settings: Settings) -> str:
    only_keys(settings, "nameserver")
    wanted = additions("nameserver", settings["nameserver"])
    problems = [
        f"nameserver: {word!r} is not an address without brackets, such as 2001:db8::53"
        for word in wanted
        if _server(word) is None or word.startswith("[")
    ]
    if len(wanted) > MAX_NAMESERVERS:
        problems.append(f"nameserver: {len(wanted)} servers; the resolver asks the first {MAX_NAMESERVERS} only")
    lines = split_lines(text)
    places = [index for index, line in enumerate(lines) if re.match(r"nameserver\s+\S", body(line))]
    # Without an entry the resolver asks this host (resolv.conf(5)), and must go on to.
    present = [body(lines[index]).split()[1] for index in places] or [_HERE]
    servers = _nameservers(present, wanted)
    if not wanted or (servers == present and not problems):
        return text
    owner = re.search(
        r"^[#;].*\b(?:(?:generated|managed) by (?!(?:hand|our|the)\b)|belongs to (?=man:))(?:man:)?([\w./@-]*\w)",
        text,
        re.IGNORECASE | re.MULTILINE,
    )
    if owner:
        problems.append(f"the file says that {owner[1]} writes it, so an edit would be lost; name the servers there")
    if problems:
        raise InputError(problems)
    texts = {_server(word) or word: body(lines[index]) for word, index in zip(reversed(present), reversed(places))}
    new = [texts.get(_server(word) or word, f"nameserver {word}") for word in servers]
    if not places:
        return "".join(append(lines, new))
    return "".join(_refill(lines, places, new))


def _refill(lines: list[str], places: list[int], new: list[str]) -> list[str]:
    """Put the NEW bodies at PLACES, what does not fit behind the last one; places left over vanish."""
    style = end(lines[places[0]]) or "\n"
    changed: list[str] = []
    for index, line in enumerate(lines):
        if index not in places:
            changed.append(line)
            continue
        slot = places.index(index)
        group = new[slot:] if index == places[-1] else new[slot : slot + 1]
        changed += [text + style for text in group[:-1]] + [text + end(line) for text in group[-1:]]
    return changed


_HERE = "127.0.0.1"


def _server(word: str) -> str | None:
    try:
        return str(ipaddress.ip_address(word))  # a zone such as fe80::1%eth0 belongs to the address
    except ValueError:
        if "%" not in word:
            return None
    address, _percent, zone = word.partition("%")
    known = literal(address)
    return f"{known}%{zone}" if known and zone and not address.startswith("[") else None


def _nameservers(present: list[str], wanted: list[str]) -> list[str]:
    """Return at most three servers: the first stays first, both families are among them when either list has them.

    The second place is a wanted one's: each dead server in front of it costs the client five seconds a look-up.
    """
    have = list(dict.fromkeys(_server(word) or word for word in present))
    want = [_server(word) or word for word in wanted]
    if set(want) <= set(have) and len(present) <= MAX_NAMESERVERS and len(have) == len(present):
        return present
    spelling = {_server(word) or word: word for word in [*wanted, *present]}
    chosen = have[:1]
    chosen += [word for word in want if word not in chosen][: 1 if chosen else MAX_NAMESERVERS]
    others = [word for word in have if word not in chosen and word not in want]
    pool = [*others, *(word for word in want if word not in chosen)]
    families = {is_ipv4(word) for word in chosen}
    pool.sort(key=lambda word: is_ipv4(word) in families)  # stable: a family that is still missing comes first
    return [spelling[word] for word in [*chosen, *pool][:MAX_NAMESERVERS]]


FILES: dict[str, Callable[[str, Settings], str]] = {
    "key_value": _key_value,
    "lines": _lines,
    "postfix": _edit_postfix.edit,
    "postfix_cidr": _edit_postfix_twins.cidr,
    "postfix_indexed": _edit_postfix_twins.indexed,
    "postfix_list": _edit_postfix_twins.word_list,
    "postfix_lists": _edit_postfix_twins.lists,
    "postfix_master": _edit_postfix_master.edit,
    "resolv": _resolv,
}
TREES = {
    "apache": Tree(_edit_apache.edit, _edit_apache.sockets, _edit_apache.sites),
    "dovecot": Tree(_edit_dovecot.edit, _edit_dovecot.sockets, _edit_dovecot.sites, early=False),
    "nginx": Tree(_edit_nginx.edit, _edit_nginx.sockets, _edit_nginx.sites, _edit_nginx.notes),
    "pureftpd": Tree(_edit_pureftpd.edit, _edit_pureftpd.sockets),
    "sshd": Tree(_edit_sshd.edit, _edit_sshd.sockets, notes=_edit_sshd.notes),
    "varnish": Tree(_edit_varnish.edit, _edit_varnish.sockets, notes=_edit_varnish.notes, checks=_edit_varnish.checks),
}
POSTFIX_TABLES = "postfix_tables"  # stands for the files that postconf(1) finds, each of a format of its own
FORMATS = (*FILES, *TREES, POSTFIX_TABLES)
