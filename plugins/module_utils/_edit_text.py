# SPDX-License-Identifier: GPL-3.0-or-later
"""What every editor of configuration text stands on: lines with their ends, requested settings, IPv6 literals.

A line feed is the only line separator: ``str.splitlines`` would also split at form feeds and Unicode separators.
"""

from __future__ import annotations

import functools
import ipaddress
import re
from collections.abc import Iterable, Mapping, Sequence

from ._errors import InputError

Settings = Mapping[str, object]


def split_lines(text: str) -> list[str]:
    """Return the lines of TEXT with their ends; joined again they are TEXT."""
    return re.findall(r"[^\n]*\n|[^\n]+", text)


def body(line: str) -> str:
    """Return LINE without its end."""
    return line[:-2] if line.endswith("\r\n") else line[:-1] if line.endswith("\n") else line


def end(line: str) -> str:
    """Return the end of LINE: CR LF, LF or nothing."""
    return line[len(body(line)) :]


def append(lines: Sequence[str], new: Iterable[str]) -> list[str]:
    """Return LINES followed by the NEW bodies, with the line end that the text uses."""
    style = (end(lines[0]) or "\n") if lines else "\n"
    closed = [*lines[:-1], body(lines[-1]) + (end(lines[-1]) or style)] if lines else []
    return closed + [text + style for text in new]


def scalar(key: str, value: object) -> str:
    """Return the one-line text of VALUE."""
    if isinstance(value, (bool, Mapping, list, tuple)) or value is None:
        raise InputError([f"{key}: {value!r} is not a text; write the value in quotes"])
    if "\n" in str(value) or "\r" in str(value):
        raise InputError([f"{key}: {str(value)!r} has a line break; write it as one line"])
    return str(value)


def additions(key: str, value: object) -> list[str]:
    """Return the words of ``{add: [...]}`` without repetitions."""
    words = value.get("add") if isinstance(value, Mapping) and set(value) == {"add"} else None
    if not isinstance(words, (list, tuple)):
        raise InputError([f"{key}: {value!r} is not understood; write {{add: [WORD, ...]}}"])
    return list(dict.fromkeys(scalar(key, word) for word in words))


def is_addition(value: object) -> bool:
    """Return whether VALUE has the form ``{add: ...}``."""
    return isinstance(value, Mapping)


def only_keys(settings: Settings, *known: str) -> None:
    """Refuse settings that the editor has not got."""
    unknown = [
        f"{key}: not a setting of this format; it has {', '.join(known)}" for key in settings if key not in known
    ]
    if unknown:
        raise InputError(unknown)


@functools.lru_cache(maxsize=65536)
def literal(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Return the address that TEXT names, with or without brackets, or None."""
    inner = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    try:
        return ipaddress.ip_address(inner)
    except ValueError:
        return None


def is_ipv4(text: str) -> bool:
    """Return whether TEXT is an IPv4 literal."""
    return isinstance(literal(text), ipaddress.IPv4Address)


def is_loopback(text: str) -> bool:
    """Return whether TEXT is a loopback literal."""
    address = literal(text)
    return address is not None and address.is_loopback


def bracketed(key: str, words: Iterable[str]) -> list[tuple[str, str]]:
    """Return (``[address]``, port or empty) for each ``[address]`` or ``[address]:port``; all problems at once."""
    found, problems = [], []
    for word in words:
        match = re.fullmatch(r"(\[([^]]*)\])(?::(\d{1,5}))?", word)
        if not match or not isinstance(literal(match[2]), ipaddress.IPv6Address):
            problems.append(f"{key}: {word!r} is not an IPv6 endpoint; write [2001:db8::1] or [2001:db8::1]:80")
        else:
            found.append((match[1], match[3] or ""))
    if problems:
        raise InputError(problems)
    return found
