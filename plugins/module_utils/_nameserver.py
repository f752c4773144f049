# SPDX-License-Identifier: GPL-3.0-or-later
"""A conversation with one name server, by dnspython, which the caller passes in."""

from __future__ import annotations

import ipaddress
from typing import Any

from ._dns import Change, Key, RRset, explain, refusal
from ._errors import DualStackError


class NameServer:
    """Reads and updates over TCP, every message signed when there is a key. DNS is the package ``dns``."""

    def __init__(
        self,
        dns: Any,
        *,
        server: str,
        port: int = 53,
        key_name: str = "",
        key_secret: str = "",
        key_algorithm: str = "hmac-sha256",
        timeout: float = 5.0,
    ) -> None:
        self.dns, self.port, self.timeout = dns, port, timeout
        try:
            self.server = str(ipaddress.ip_address(server))
        except ValueError:
            raise DualStackError(
                f"server {server!r} is not an IP address; give the literal, names are not looked up"
            ) from None
        try:
            self.key = dns.tsig.Key(key_name, key_secret, key_algorithm) if key_name else None
        except ValueError:  # the text of the error is about the secret
            raise DualStackError(
                f"key {key_name!r}: its secret is not base64; copy it from the key file again"
            ) from None

    def read(self, key: Key) -> RRset:
        """Return the set that the server holds, from its own data and never from a cache."""
        zone, name, kind = key
        reply = self._ask(self.dns.message.make_query(name, kind, flags=0), zone, ("NOERROR", "NXDOMAIN"))
        if not reply.flags & self.dns.flags.AA:
            raise refusal("NOTAUTH", self.server, zone)
        found: dict[str, tuple[list[str], int]] = {}
        for rrset in reply.answer:
            if rrset.name.to_text().lower() == name:
                texts = [value.to_text().lower() for value in rrset]
                found[self.dns.rdatatype.to_text(rrset.rdtype)] = (texts, rrset.ttl)
        values, ttl = found.get(kind, ([], 0))
        return RRset(frozenset(values), ttl, alias=found["CNAME"][0][0] if "CNAME" in found else "")

    def update(self, zone: str, changes: list[Change]) -> None:
        """Make CHANGES in ZONE, all or none."""
        message = self.dns.update.UpdateMessage(zone)
        for change in changes:
            _zone, name, kind = change.key
            before, after = change.before.values, change.after.values
            if change.guarded and before:
                message.present(name, kind, *sorted(before))
            elif change.guarded:
                message.absent(name, kind)
            if change.pair:
                message.present(name, "A", *sorted(change.pair))
            for value in sorted(before - after):
                message.delete(name, kind, value)
            for value in sorted(after):  # those that stay too: their TTL may be another one
                message.add(name, change.after.ttl, kind, value)
        self._ask(message, zone, ("NOERROR",), update=True)

    def _ask(self, message: Any, zone: str, accepted: tuple[str, ...], update: bool = False) -> Any:
        if self.key:
            message.use_tsig(self.key)
        try:
            reply = self.dns.query.tcp(message, self.server, self.timeout, self.port)
        except (OSError, EOFError, self.dns.exception.DNSException) as error:
            raise explain(error, f"{self.server}, port {self.port}", update) from error
        rcode = self.dns.rcode.to_text(reply.rcode())
        if rcode not in accepted:
            raise refusal(rcode, self.server, zone)
        return reply
