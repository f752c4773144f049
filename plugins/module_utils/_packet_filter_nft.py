# SPDX-License-Identifier: GPL-3.0-or-later
"""Read a packet filter of nftables, as ``nft -j list ruleset`` shows it (libnftables-json(5))."""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from ._packet_filter import ACCEPT, DROP, HOOKS, NO, PROTOCOLS, Match, Network, Rule, Table, says

# What the roles firewall and edge_router make.
OWN_TABLES = (("inet", "dualstack"), ("ip6", "dualstack_edge"))
FAMILIES = {4: "ip", 6: "ip6"}
UNKNOWN = Match("unknown")
_SERVICES = {"ssh": 22, "smtp": 25, "domain": 53, "http": 80, "https": 443}
_HEADERS = ("tcp", "udp", "icmp", "icmpv6", "sctp")
_STRANGE = ("queue", "xt", "tproxy", "synproxy")
_VERDICTS = {"accept": ACCEPT, "drop": DROP, "reject": DROP, "return": "return", "jump": "jump", "goto": "goto"}


def tables(text: str, version: int = 4, hooks: Sequence[str] = HOOKS) -> list[Table]:
    """Return the tables in which packets of IP VERSION pass HOOKS, ours left out."""
    items = _items(text)
    sets = {
        (body["family"], body["table"], body["name"]): body.get("elem", [])
        for item in items
        for kind, body in item.items()
        if kind in ("set", "map")
    }
    found: dict[tuple[str, str], Table] = {}
    for item in items:
        kind, body = next(iter(item.items()))
        if kind not in ("table", "chain", "rule") or body["family"] not in (FAMILIES[version], "inet"):
            continue
        key = (body["family"], body["name"] if kind == "table" else body["table"])
        if key in OWN_TABLES:
            continue
        table = found.setdefault(key, Table(" ".join(key)))
        if kind == "chain":
            table.chains[body["name"]] = []
            if body.get("hook") in hooks and body.get("type") == "filter":
                table.bases.append((body["name"], body.get("policy", ACCEPT)))
        elif kind == "rule":
            table.chains[body["chain"]] += _rules(body, _Sets(key, sets, version))
    return [table for table in found.values() if table.bases]


def opaque(text: str, version: int = 4) -> set[str]:
    """Return the tables of IP VERSION in which nft shows extensions of iptables instead of their meaning."""
    rules = [item["rule"] for item in _items(text) if "rule" in item]
    family = FAMILIES[version]
    return {
        f"{family} {rule['table']}"
        for rule in rules
        if rule["family"] == family and any("xt" in part for part in rule["expr"])
    }


def _items(text: str) -> list[dict[str, Any]]:
    return list(json.loads(text)["nftables"]) if text.strip() else []


class _Sets:
    """The named sets of one table, and how its fields are read for packets of IP VERSION."""

    def __init__(self, key: tuple[str, str], sets: Mapping[tuple[str, str, str], Any], version: int) -> None:
        self.key, self.sets, self.readers = key, sets, _READERS[version]

    def values(self, right: Any) -> Iterator[Any]:
        """Return the single values that RIGHT, a value, a set or the name of a set, stands for."""
        if isinstance(right, dict) and "set" in right:
            right = right["set"]
        if isinstance(right, str) and right.startswith("@"):
            right = self.sets.get((*self.key, right[1:]), [])
        for value in right if isinstance(right, list) else [right]:
            yield value["elem"]["val"] if isinstance(value, dict) and "elem" in value else value


def _rules(body: Mapping[str, Any], sets: _Sets) -> list[Rule]:
    """Return the rule, as several where a verdict map decides."""
    matches: list[Match] = []
    action = target = ""
    words = json.dumps(body["expr"], separators=(",", ":"))[:160]
    text = f"{' '.join(sets.key)} {body['chain']}: {words}"
    for part in body["expr"]:
        kind, value = next(iter(part.items()))
        if kind == "match":
            matches += _matches(value, sets)
        elif kind in _VERDICTS:
            action, target = _verdict(part)
        elif kind in ("limit", "ct count"):
            matches.append(Match("rate", negated=bool(dict(value or {}).get("inv", False))))
        elif kind == "vmap":
            return [Rule((*matches, *more), *verdict, text) for more, verdict in _choices(value, sets)]
        elif kind in _STRANGE:
            matches.append(UNKNOWN)
            action = action or DROP
    return [Rule(tuple(matches), action, target, text)]


def _verdict(part: Mapping[str, Any]) -> tuple[str, str]:
    """Return action and target of a statement."""
    kind, value = next(iter(part.items()))
    return _VERDICTS.get(kind, ""), str(value["target"]) if kind in ("jump", "goto") else ""


def _choices(body: Mapping[str, Any], sets: _Sets) -> Iterator[tuple[list[Match], tuple[str, str]]]:
    """Return (conditions, verdict) of each entry of a verdict map."""
    for entry in sets.values(body["data"]):
        value, verdict = entry
        value = value["elem"]["val"] if isinstance(value, dict) and "elem" in value else value
        yield _matches({"op": "==", "left": body["key"], "right": value}, sets), _verdict(verdict)


def _matches(body: Mapping[str, Any], sets: _Sets) -> list[Match]:
    """Return the conditions in one match; one on a port is one on the protocol as well."""
    left, mask = body["left"], None
    if isinstance(left, dict) and "&" in left:
        left, mask = left["&"]
    if not isinstance(left, dict) or body["op"] not in ("==", "!=", "in"):
        return [UNKNOWN]
    kind, inner = next(iter(left.items()))
    inner = inner if isinstance(inner, dict) else {}
    base, name = inner.get("protocol", kind), inner.get("field") or inner.get("key")
    values = list(sets.values(body["right"]))
    negated = body["op"] == "!="
    first = [Match("protocol", (PROTOCOLS[base],))] if base in _HEADERS else []
    if (base, name) == ("tcp", "flags"):
        return [*first, Match("flags", tuple(_flags(body["op"], values, mask)), negated)]
    if base in ("icmp", "icmpv6"):
        return first
    if mask is not None:
        return [UNKNOWN]
    read = sets.readers.get((base, name))
    if not read:
        return [*first, UNKNOWN]
    sort, found = read[0], [each for value in values for each in read[1](value)]
    return [*first, UNKNOWN if None in found else Match(sort, tuple(found), negated)]


def _flags(operator: str, values: Sequence[Any], mask: Any) -> list[tuple[frozenset[str], frozenset[str]]]:
    words = [str(value) for value in values]
    if operator == "in":  # any of them
        return [(frozenset([word]), frozenset([word])) for word in words]
    wanted = frozenset() if words == ["0"] else frozenset(words)
    return [(frozenset(_listed(mask)) if mask is not None else wanted, wanted)]


def _listed(value: Any) -> list[str]:
    """Return the flags in ``fin | syn``, which nft writes as a list or as nested pairs."""
    if isinstance(value, dict) and "|" in value:
        value = value["|"]
    return [flag for item in value for flag in _listed(item)] if isinstance(value, list) else [str(value)]


def _protocol(value: Any) -> list[int | None]:
    return [value if isinstance(value, int) else PROTOCOLS.get(str(value))]


def _port(value: Any) -> list[tuple[int, int] | None]:
    if isinstance(value, dict) and "range" in value:
        low, high = value["range"]
        return [(int(low), int(high))]
    number = _SERVICES.get(value) if isinstance(value, str) else value
    return [(number, number) if isinstance(number, int) else None]


def _networks(value: Any) -> list[Network | None]:
    try:
        if isinstance(value, dict) and "prefix" in value:
            return [ipaddress.ip_network(f"{value['prefix']['addr']}/{value['prefix']['len']}", strict=False)]
        if isinstance(value, dict) and "range" in value:
            first, last = (ipaddress.ip_address(end) for end in value["range"])
            return list(ipaddress.summarize_address_range(first, last))
        return [ipaddress.ip_network(value)]
    except (ValueError, TypeError):
        return [None]


def _word(value: Any) -> list[str]:
    return [str(value)]


def _is_ipv4(value: Any) -> list[str]:
    return [says(value in ("ipv4", "ip"))]


def _is_ipv6(value: Any) -> list[str]:
    return [says(value in ("ipv6", "ip6"))]


def _never(_value: Any) -> list[str]:
    return [NO]


_Readers = dict[tuple[Any, Any], tuple[str, Callable[[Any], Sequence[Any]]]]
_BOTH: _Readers = {
    ("meta", "l4proto"): ("protocol", _protocol),
    ("tcp", "dport"): ("port", _port),
    ("udp", "dport"): ("port", _port),
    ("sctp", "dport"): ("port", _port),
    ("th", "dport"): ("port", _port),
    ("meta", "iifname"): ("device", _word),
    ("meta", "iif"): ("device", _word),
    ("ct", "state"): ("state", _word),
    # No first packet has one, unless NAT redirects it, which is not looked at.
    ("ct", "status"): ("constant", _never),
}
_READERS: dict[int, _Readers] = {
    4: {
        **_BOTH,
        ("ip", "protocol"): ("protocol", _protocol),
        ("ip", "saddr"): ("source", _networks),
        ("ip", "daddr"): ("destination", _networks),
        ("meta", "nfproto"): ("constant", _is_ipv4),
        ("meta", "protocol"): ("constant", _is_ipv4),
        **{("ip6", name): ("constant", _never) for name in ("saddr", "daddr", "nexthdr", "hoplimit")},
    },
    6: {
        **_BOTH,
        ("ip6", "nexthdr"): ("protocol", _protocol),
        ("ip6", "saddr"): ("source", _networks),
        ("ip6", "daddr"): ("destination", _networks),
        ("meta", "nfproto"): ("constant", _is_ipv6),
        ("meta", "protocol"): ("constant", _is_ipv6),
        **{("ip", name): ("constant", _never) for name in ("saddr", "daddr", "protocol", "ttl")},
    },
}
