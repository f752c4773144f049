# SPDX-License-Identifier: GPL-3.0-or-later
"""What to tell a name server so that it holds our addresses and everybody else's stay (RFC 2136)."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Protocol

from ._errors import DualStackError, InputError

# A message over TCP is at most 64 KiB; 200 sets with names of full length and their prerequisites stay below it.
SETS_IN_A_MESSAGE = 200
TTL_LIMIT = 2**31 - 1  # RFC 2181 section 8
LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9])?|\*")

ADVICE = "Remove these records if they are wrong, or take their names out of the call."

Key = tuple[str, str, str]  # zone, name, type; names absolute and in lower case


@dataclass(frozen=True)
class RRset:
    """The values of one name and type. ``ttl`` counts only where there are values; ``alias`` is the CNAME found."""

    values: frozenset[str] = frozenset()
    ttl: int = 0
    alias: str = ""


@dataclass(frozen=True)
class Wish:
    """What one name shall hold, what not any more, and what only for a shorter time; PAIR is in the name's A set."""

    present: frozenset[str] = frozenset()
    absent: frozenset[str] = frozenset()
    lowered: frozenset[str] = frozenset()
    ttl: int = 300
    pair: str = ""


@dataclass(frozen=True)
class Change:
    """One set before and after. A server refuses it when the set is not as it was found, if ``guarded``.

    It refuses, too, when the A set of the name is not ``pair`` any more, if there is one.
    """

    key: Key
    before: RRset
    after: RRset
    guarded: bool
    pair: frozenset[str] = frozenset()

    def reverse(self) -> Change:
        return Change(self.key, self.after, self.before, guarded=True)


@dataclass(frozen=True)
class Conflict:
    """A set that is not ours to change."""

    name: str
    type: str
    found: list[str]
    wanted: list[str]

    def __str__(self) -> str:
        return f"{self.name} {self.type}: found {', '.join(self.found) or 'none'}, wanted {', '.join(self.wanted)}"


class Server(Protocol):
    """The conversation with one name server."""

    def read(self, key: Key) -> RRset:
        """Return the set that the server holds."""

    def update(self, zone: str, changes: list[Change]) -> None:
        """Make CHANGES in ZONE, all or none, or raise DualStackError."""


def wishes(records: Iterable[Mapping[str, object]], state: str) -> dict[Key, Wish]:
    """Return what RECORDS ask for, by set; raise every problem of all of them."""
    problems: list[str] = []
    found: dict[Key, Wish] = {}
    for index, record in enumerate(records):
        place = f"records[{index}]"
        kind, ttl = str(record["type"]), int(str(record["ttl"]))
        zone = _name(f"{place}: zone", record["zone"], problems)
        name = _name(f"{place}: name", record["name"], problems)
        value = _value(place, kind, record["value"], problems)
        if name and zone and name != zone and not name.endswith("." + zone):
            problems.append(f"{place}: name {name!r} is outside of zone {zone!r}; correct one of them")
        if not 0 <= ttl <= TTL_LIMIT:
            problems.append(f"{place}: ttl {ttl} is not in 0 to {TTL_LIMIT} (RFC 2181 section 8); correct it")
        old = found.get((zone, name, kind), Wish())
        how = str(record.get("state") or state)
        if how != "absent" and old.present | old.lowered and old.ttl != ttl:
            problems.append(f"{place}: ttl {ttl}, but {old.ttl} elsewhere for {name} {kind}; a set has one TTL")
        values = {**vars(old), how: getattr(old, how) | {value}, "ttl": old.ttl if how == "absent" else ttl}
        new = Wish(**{**values, "pair": _pair(place, record, old, problems)})
        for both in sorted((new.present | new.lowered) & new.absent | new.present & new.lowered):
            problems.append(f"{place}: {name} {kind} {both} is asked for and asked away in one call; keep one of them")
        found[zone, name, kind] = new
    if problems:
        raise InputError(problems)
    return found


def _pair(place: str, record: Mapping[str, object], old: Wish, problems: list[str]) -> str:
    """Return the IPv4 address that the name must have, too."""
    text = str(record.get("ipv4") or "")
    try:
        pair = str(ipaddress.IPv4Address(text)) if text else ""
    except ValueError:
        problems.append(f"{place}: ipv4 {text!r} is not an IPv4 address; give the one that the name has")
        return ""
    if pair and record["type"] != "AAAA":
        problems.append(f"{place}: ipv4 is for AAAA records; leave it out of {record['type']}")
    if pair and old.pair and pair != old.pair:
        problems.append(f"{place}: ipv4 {pair}, but {old.pair} elsewhere for {record['name']}; keep one of them")
    return pair or old.pair


@dataclass(frozen=True)
class Zones:
    """The zones that records go to: ``forward`` and ``reverse``, and MORE of both kinds."""

    forward: str
    reverse: str
    more: Sequence[str] = ()

    def of(self, name: str, default: str = "") -> str:
        """Return the innermost zone that NAME lies in, or DEFAULT."""
        fitting = [zone for zone in (self.forward, self.reverse, *self.more) if in_zone(name, zone)]
        return max(fitting, key=len, default=default)


def records_of(
    addresses: Iterable[str], names: Sequence[str], zones: Zones, *, ttl: int, state: str, ipv4: str = ""
) -> list[dict[str, object]]:
    """Return the records of one host: every name at every address, and every address back to the first name."""
    common = {"ttl": ttl, "state": state}
    back = [(ipaddress.IPv6Address(address).reverse_pointer, address) for address in addresses]
    return [
        record
        for pointer, address in back
        for record in (
            *(
                {"type": "AAAA", "name": name, "zone": zones.of(name, zones.forward), "value": address}
                | ({"ipv4": ipv4} if ipv4 else {})
                | common
                for name in names
            ),
            {"type": "PTR", "name": pointer, "zone": zones.of(pointer, zones.reverse), "value": names[0], **common},
        )
    ]


def in_zone(name: str, zone: str) -> bool:
    """Tell whether the whole NAME lies in ZONE or is it."""
    return f".{name.lower().rstrip('.')}".endswith(f".{zone.lower().rstrip('.')}")


def _name(place: str, text: object, problems: list[str]) -> str:
    name = str(text).lower().rstrip(".") + "."
    labels = name[:-1].split(".")
    if len(name) > 254 or not all(LABEL.fullmatch(label) for label in labels):
        problems.append(f"{place} {text!r} is not a domain name; write it whole, such as web1.example.net")
        return ""
    return name


def _value(place: str, kind: str, text: object, problems: list[str]) -> str:
    if kind == "PTR":
        return _name(f"{place}: value", text, problems)
    try:
        return str(ipaddress.IPv6Address(str(text)))
    except ValueError:
        problems.append(f"{place}: value {text!r} is not an IPv6 address; AAAA needs one, without prefix length")
        return ""


def partner(key: Key) -> Key:
    """Return where the IPv4 addresses of KEY's name are."""
    return key[0], key[1], "A"


def decide(wanted: Mapping[Key, Wish], found: Mapping[Key, RRset]) -> tuple[tuple[Change, ...], tuple[Conflict, ...]]:
    """Return what to change so that FOUND grants WANTED, and where somebody else's values are in the way."""
    changes: list[Change] = []
    conflicts: list[Conflict] = []
    for key, wish in sorted(wanted.items(), key=lambda item: item[0]):
        before = found[key]
        kept = wish.present | (wish.lowered & before.values)
        foreign = before.values - kept - wish.absent
        ipv4 = found[partner(key)].values if wish.present and wish.pair else frozenset()
        if wish.present and before.alias:
            conflicts.append(Conflict(key[1], "CNAME", [before.alias], sorted(wish.present)))
        elif kept and foreign:
            conflicts.append(Conflict(key[1], key[2], sorted(foreign), sorted(kept)))
        elif wish.present and wish.pair and wish.pair not in ipv4:
            conflicts.append(Conflict(key[1], "A", sorted(ipv4), [wish.pair]))
        else:
            values = (before.values - wish.absent) | wish.present
            ttl = wish.ttl if wish.present else min(wish.ttl, before.ttl) if kept else before.ttl
            if values != before.values or (values and ttl != before.ttl):
                after = RRset(values, ttl if values else 0)
                changes.append(Change(key, before, after, guarded=bool(kept), pair=ipv4))
    return tuple(changes), tuple(conflicts)


def publish(server: Server, wanted: Mapping[Key, Wish], *, check: bool) -> tuple[Change, ...]:
    """Make SERVER grant WANTED, whole or not at all, and return the changes; with CHECK only say them."""
    paired = {partner(key) for key, wish in wanted.items() if wish.present and wish.pair}
    changes, conflicts = decide(wanted, {key: server.read(key) for key in sorted({*wanted, *paired})})
    if conflicts:
        raise DualStackError(
            "\n".join(["records of somebody else are in the way, nothing was changed:", *map(str, conflicts), ADVICE]),
            conflicts=[asdict(conflict) for conflict in conflicts],
        )
    if not check:
        _carry_out(server, changes)
        for change in changes:
            # An update may be acknowledged and yet ignored (RFC 2136 section 3.4.2.2).
            held = server.read(change.key).values
            if held != change.after.values:
                raise DualStackError(
                    f"{change.key[1]} {change.key[2]}: the server took the update but holds {sorted(held)}, "
                    f"not {sorted(change.after.values)}; ask the primary of zone {change.key[0]}"
                )
    return changes


def _carry_out(server: Server, changes: Iterable[Change]) -> None:
    done: list[tuple[str, list[Change]]] = []
    for zone, part in batches(changes):
        try:
            server.update(zone, part)
        except DualStackError as error:
            _take_back(server, done, error)
            raise
        done.append((zone, part))


def _take_back(server: Server, done: list[tuple[str, list[Change]]], error: DualStackError) -> None:
    for zone, part in reversed(done):
        try:
            server.update(zone, [change.reverse() for change in part])
        except DualStackError as second:
            names = ", ".join(change.key[1] for change in part)
            raise DualStackError(f"{error}\nAnd zone {zone} keeps the new values of {names}: {second}") from error


def batches(changes: Iterable[Change]) -> list[tuple[str, list[Change]]]:
    """Return CHANGES by zone in messages of bounded size.

    Clients follow AAAA records: they come last when something is published, and first when it is withdrawn.
    """
    zones: dict[tuple[bool, str], list[Change]] = {}
    for change in changes:
        growing = bool(change.after.values - change.before.values)
        zones.setdefault(((change.key[2] == "AAAA") == growing, change.key[0]), []).append(change)
    return [
        (zone, part[start : start + SETS_IN_A_MESSAGE])
        for (_rank, zone), part in sorted(zones.items(), key=lambda item: item[0])
        for start in range(0, len(part), SETS_IN_A_MESSAGE)
    ]


def summary(changes: Iterable[Change]) -> dict[str, object]:
    """Return the changes as a module reports them, in the form of lines of a zone file."""
    found = sorted(changes, key=lambda change: change.key)
    before = [line for change in found for line in _lines(change.key, change.before)]
    after = [line for change in found for line in _lines(change.key, change.after)]
    return {
        "changed": bool(found),
        "added": [line for line in after if line not in set(before)],
        "removed": [line for line in before if line not in set(after)],
        "cached_seconds": max((change.before.ttl for change in found if change.before.values), default=0),
        "diff": {"before": "".join(f"{line}\n" for line in before), "after": "".join(f"{line}\n" for line in after)},
    }


def _lines(key: Key, rrset: RRset) -> list[str]:
    return [f"{key[1]} {rrset.ttl} IN {key[2]} {value}" for value in sorted(rrset.values)]


def explain(error: Exception, server: str, update: bool = False) -> DualStackError:
    """Return what went wrong on the way to SERVER, in the operator's words. ERROR never holds the key's secret."""
    kind = type(error).__name__
    reasons = {
        "Timeout": "no answer within the time allowed; is it the right address, and does a filter drop TCP?",
        "PeerBadKey": "the server does not know this TSIG key; compare key_name and key_algorithm with its own",
        "PeerBadSignature": "the server rejects the TSIG signature; the secret or key_algorithm differs from its own",
        "BadSignature": "the answer's TSIG signature is wrong; the secret or key_algorithm differs from the server's",
        "PeerBadTime": "the clocks differ by more than 300 seconds (RFC 8945 section 5.2.3); set them right",
        "BadTime": "the clocks differ by more than 300 seconds (RFC 8945 section 5.2.3); set them right",
        "EOFError": "the connection was closed in the middle of the answer; see the server's log",
    }
    text = str(error) or kind
    # The server may have read the question and not told the answer.
    late = "; it may still carry out the update, so run again" if update and kind in ("Timeout", "EOFError") else ""
    return DualStackError(f"name server {server}: {reasons.get(kind, f'{text} ({kind})')}{late}")


def refusal(rcode: str, server: str, zone: str) -> DualStackError:
    """Return what the response code RCODE of SERVER means for ZONE (RFC 1035 section 4.1.1, RFC 2136 section 2.2)."""
    reasons = {
        "REFUSED": "refuses; allow this key to query and to update the zone, if the server has it at all",
        "NOTAUTH": "is not the primary of the zone, or does not know the TSIG key",
        "NOTZONE": "says that a name is outside of the zone",
        "NXRRSET": "holds other records than a moment ago; nothing was changed, run again",
        "YXRRSET": "holds records that were not there a moment ago; nothing was changed, run again",
        "SERVFAIL": "failed; see its log (a zone file or journal that it cannot write is the usual reason)",
    }
    return DualStackError(f"name server {server}, zone {zone}: {reasons.get(rcode, 'answers')} ({rcode})")
