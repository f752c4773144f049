# SPDX-License-Identifier: GPL-3.0-or-later
"""The names in a certificate and the end of its time (RFC 5280), which Python tells of trusted certificates only."""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timezone

UTC_TIME, VERSION, EXTENSIONS = 0x17, 0xA0, 0xA3
COMMON_NAME, ALTERNATIVE_NAMES = b"\x55\x04\x03", b"\x55\x1d\x11"  # 2.5.4.3 and 2.5.29.17
DNS_NAME, ADDRESS = 0x82, 0x87  # RFC 5280 section 4.2.1.6

Element = tuple[int, bytes]  # tag and content


@dataclass(frozen=True)
class Certificate:
    """What a client compares. ``names`` are those of the extension, or the common name where there is none."""

    names: tuple[str, ...]
    expires: datetime
    sha256: str

    def covers(self, name: str) -> bool:
        """Tell whether it is for NAME: one label of a wildcard stands for one label (RFC 6125 section 6.4.3)."""
        name = name.lower().rstrip(".")
        rest = name.partition(".")[2]
        return any(known in (name, f"*.{rest}" if rest else name) for known in self.names)

    def public(self) -> dict[str, object]:
        return {
            "names": list(self.names),
            "expires": self.expires.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "sha256": self.sha256,
        }

    def __str__(self) -> str:
        return f"for {', '.join(self.names) or 'nobody'} until {self.expires:%Y-%m-%d} ({self.sha256[:12]})"


def parse(encoded: bytes) -> Certificate:
    """Return what the DER text of a certificate says, or raise ValueError."""
    try:
        (_tag, whole), *_rest = _elements(encoded)
        (_tag, signed), *_rest = _elements(whole)
        fields = [field for field in _elements(signed) if field[0] != VERSION]
        # RFC 5280 section 4.1: number, algorithm, issuer, times, subject, key.
        times, subject = fields[3][1], fields[4][1]
        named = _alternative_names(next((content for tag, content in fields if tag == EXTENSIONS), b""))
        common = [] if named else list(_common_names(subject))
        return Certificate(
            tuple(dict.fromkeys((*named, *common))),
            _time(*list(_elements(times))[1]),
            hashlib.sha256(encoded).hexdigest(),
        )
    except (IndexError, UnicodeDecodeError) as error:
        raise ValueError("the certificate cannot be read") from error


def _elements(text: bytes) -> Iterator[Element]:
    """Yield the elements of TEXT, which follow each other (X.690 section 8.1)."""
    while text:
        tag, size, start = text[0], text[1], 2
        if size & 0x80:
            start += size & 0x7F
            size = int.from_bytes(text[2:start], "big")
        if len(text) < start + size:
            raise ValueError("the certificate is cut off")
        yield tag, text[start : start + size]
        text = text[start + size :]


def _common_names(subject: bytes) -> Iterator[str]:
    for _set, attributes in _elements(subject):
        for _sequence, attribute in _elements(attributes):
            (_tag, kind), (_text, value) = _elements(attribute)
            if kind == COMMON_NAME:
                yield value.decode("utf-8").lower()


def _alternative_names(extensions: bytes) -> list[str]:
    for _list, listed in _elements(extensions):
        for _sequence, extension in _elements(listed):
            (_tag, kind), *_critical, (_octets, value) = _elements(extension)
            if kind == ALTERNATIVE_NAMES:
                ((_tag, names),) = _elements(value)
                return [_general_name(tag, name) for tag, name in _elements(names) if tag in (DNS_NAME, ADDRESS)]
    return []


def _general_name(tag: int, value: bytes) -> str:
    return str(ipaddress.ip_address(value)) if tag == ADDRESS else value.decode("ascii").lower()


def _time(tag: int, value: bytes) -> datetime:
    """Return the time of VALUE; years of two digits are those of RFC 5280 section 4.1.2.5.1."""
    text = value.decode("ascii")
    if tag == UTC_TIME:
        text = ("19" if int(text[:2]) >= 50 else "20") + text
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=timezone.utc)
