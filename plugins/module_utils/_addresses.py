# SPDX-License-Identifier: GPL-3.0-or-later
"""IPv6 addresses as integers: read, join, cut, name and judge them."""

from __future__ import annotations

import ipaddress
import re
import socket
from dataclasses import dataclass

from ._errors import DualStackError

BITS = 128
IID_MASK = (1 << 64) - 1


@dataclass(frozen=True, order=True)
class Prefix:
    """A prefix or an aligned block of suffixes; ``value`` has no bit set behind ``length``."""

    value: int
    length: int

    def __str__(self) -> str:
        return f"{text(self.value)}/{self.length}"

    @property
    def last(self) -> int:
        """The highest address."""
        return self.value | (1 << (BITS - self.length)) - 1

    def overlaps(self, other: Prefix) -> bool:
        """Tell whether any address is in both."""
        return self.value <= other.last and other.value <= self.last

    def contains(self, other: Prefix) -> bool:
        """Tell whether OTHER lies wholly in this prefix."""
        return self.value <= other.value and other.last <= self.last

    def subnet(self, length: int, index: int) -> Prefix:
        """Return the INDEXth prefix of LENGTH in this prefix."""
        if not self.length <= length <= BITS:
            raise DualStackError(f"a prefix of length {length} does not fit into {self}; use {self.length} to {BITS}")
        count = 1 << (length - self.length)
        if not 0 <= index < count:
            raise DualStackError(f"{self} has {count} prefixes of length {length}; index {index:x} (hex) is not one")
        return Prefix(self.value | index << (BITS - length), length)

    def join(self, suffix: int) -> int:
        """Return the address with this prefix and SUFFIX."""
        if suffix >> (BITS - self.length):
            raise DualStackError(
                f"suffix {suffix_text(suffix)} does not fit behind {self}; it has {BITS - self.length} bits"
            )
        return self.value | suffix


def text(value: int) -> str:
    """Return the address VALUE as RFC 5952 writes it."""
    if value >> 32 in (0, 0xFFFF):
        return suffix_text(value)
    return socket.inet_ntop(socket.AF_INET6, value.to_bytes(16, "big"))


def suffix_text(value: int) -> str:
    """Return VALUE in hexadecimal even where inet_ntop would write an IPv4 address into it (``::ad:bac1``)."""
    return str(ipaddress.IPv6Address(value))


def parse_address(value: object) -> int:
    """Return the integer of an IPv6 address without zone and length."""
    if not isinstance(value, str):
        raise DualStackError(f"expected an IPv6 address in quotes, got {kind(value)} {value!r}")
    if "%" in value:
        raise DualStackError(f"{value} has a zone; write the address without what follows '%'")
    try:
        return int.from_bytes(socket.inet_pton(socket.AF_INET6, value), "big")
    except (OSError, ValueError):
        raise DualStackError(f"{value!r} is not an IPv6 address; write one such as 2001:db8::1") from None


def parse_prefix(value: object) -> Prefix:
    """Return the prefix ADDRESS/LENGTH; host bits are an error, for they are mostly a slip of the pen."""
    address, length = parse_interface(value)
    found = Prefix(address >> (BITS - length) << (BITS - length), length)
    if found.value != address:
        raise DualStackError(f"{value} has host bits set; did you mean {found}?")
    return found


def parse_interface(value: object) -> tuple[int, int]:
    """Return (address, length) of ADDRESS/LENGTH."""
    if not isinstance(value, str) or "/" not in value:
        raise DualStackError(f"expected an IPv6 prefix such as 2001:db8::/48, got {kind(value)} {value!r}")
    address, _slash, length = value.partition("/")
    if not re.fullmatch(r"[0-9]{1,3}", length) or int(length) > BITS:
        raise DualStackError(f"{value} has the length {length!r}; write 0 to {BITS} behind '/'")
    return parse_address(address), int(length)


def parse_index(value: object, bits: int) -> int:
    """Return the number of a quoted hexadecimal string that fits in BITS bits."""
    if not isinstance(value, str):
        raise DualStackError(f"expected a quoted hex string, got {kind(value)} {value!r}{_hint(value)}")
    if not re.fullmatch(r"[0-9a-fA-F]{1,32}", value):
        raise DualStackError(f"{value!r} is not hexadecimal; use the digits 0-9 and a-f in quotes")
    number = int(value, 16)
    if number >> bits:
        raise DualStackError(f"{value} does not fit in {bits} bits (0..{(1 << bits) - 1:x}); choose a lower one")
    return number


def parse_number(value: object) -> int:
    """Return VALUE if it is an integer."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise DualStackError(f"expected an integer, got {kind(value)} {value!r}; write it without quotes")
    return value


def _hint(value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        return "; put it in quotes"
    if value < 10:
        return f'; write "{value}"'
    ten = "ten" if value == 10 else str(value)
    return f'; write "{value}" for hex {value} or "{value:x}" for decimal {ten}'


def kind(value: object) -> str:
    """Return the name of VALUE's type as a writer of YAML knows it."""
    names = ((bool, "boolean"), (int, "integer"), (float, "number"), (str, "string"), (dict, "mapping"), (list, "list"))
    return next((name for known, name in names if isinstance(value, known)), "nothing" if value is None else "value")


def reverse_name(value: int, length: int = BITS) -> str:
    """Return the name below ip6.arpa of an address or of a prefix that ends on a nibble."""
    if length % 4:
        raise DualStackError(
            f"{Prefix(value, length)} does not end on a nibble and so has no one ip6.arpa name; use /{length // 4 * 4}"
        )
    return ".".join(f"{value:032x}"[: length // 4][::-1]) + (".ip6.arpa" if length else "ip6.arpa")


# First and last interface identifier, the number of the rule in the plan's error list, what it is.
RESERVED = (
    (0, 0, "E201", "the Subnet-Router anycast address (RFC 4291 section 2.6.1)"),
    (0x02005EFFFE000000, 0x02005EFFFEFFFFFF, "E202", "in IANA's reserved interface identifiers (RFC 5453, RFC 6543)"),
    (0xFDFFFFFFFFFFFF80, 0xFDFFFFFFFFFFFFFF, "E203", "a reserved subnet anycast address (RFC 2526)"),
)


def reserved(first: int, last: int | None = None) -> tuple[str, str] | None:
    """Return (code, what it is) of the first reserved interface identifier in the range of 64-bit values, or None."""
    end = first if last is None else last
    for low, high, code, name in RESERVED:
        if first <= high and low <= end:
            return code, name
    return None


def _special(prefix: str, name: str) -> tuple[Prefix, str]:
    return parse_prefix(prefix), name


# The library's own table differs between Python releases, so that a plan would be right on one controller only.
SPECIAL = (
    _special("::/96", "unspecified, loopback and IPv4-compatible, RFC 4291 sections 2.5.2 to 2.5.5"),
    _special("::ffff:0:0/96", "IPv4-mapped, RFC 4291 section 2.5.5.2"),
    _special("64:ff9b::/96", "IPv4/IPv6 translation, RFC 6052"),
    _special("64:ff9b:1::/48", "local IPv4/IPv6 translation, RFC 8215"),
    _special("100::/64", "discard-only, RFC 6666"),
    _special("100:0:0:1::/64", "dummy prefix, RFC 9780"),
    _special("2001::/23", "IETF protocol assignments, RFC 2928"),
    _special("2002::/16", "6to4, RFC 3056 and RFC 7526"),
    _special("5f00::/16", "segment routing SIDs, RFC 9602"),
    _special("fe80::/10", "link-local, RFC 4291 section 2.5.6"),
    _special("fec0::/10", "deprecated site-local, RFC 3879"),
    _special("ff00::/8", "multicast, RFC 4291 section 2.7"),
)
DOCUMENTATION = (parse_prefix("2001:db8::/32"), parse_prefix("3fff::/20"))  # RFC 3849, RFC 9637
GLOBAL_UNICAST = parse_prefix("2000::/3")
UNIQUE_LOCAL = parse_prefix("fd00::/8")
LINK_LOCAL = parse_prefix("fe80::/10")


def special_purpose(prefix: Prefix) -> tuple[Prefix, str] | None:
    """Return the special-purpose block (and its name) that overlaps PREFIX, or None."""
    return next((entry for entry in SPECIAL if entry[0].overlaps(prefix)), None)


def assignable(address: int) -> bool:
    """Tell whether a host may have ADDRESS: global or unique local, of no special purpose, identifier not reserved."""
    host = Prefix(address, BITS)
    unicast = GLOBAL_UNICAST.contains(host) or UNIQUE_LOCAL.contains(host)
    return unicast and special_purpose(host) is None and reserved(address & IID_MASK) is None
