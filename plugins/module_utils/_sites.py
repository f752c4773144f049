# SPDX-License-Identifier: GPL-3.0-or-later
"""Ask this host's own web sites whether each answers over IPv6 as itself, not as the default site."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from ._edit_web import Site
from ._listeners import Listener
from ._talk import Answer, Target, alike, ask, said

TIMEOUT = 5.0
FORBIDDEN = 403
CLOSED = "closed connection without response"  # http.client's words; a site may be set to do that
NOBODY = "nobody.invalid"  # RFC 6761, section 6.4: what no site is called


@dataclass(frozen=True)
class SiteCheck:
    """A site that must say the same at each of its addresses."""

    site: Site

    def problem(self) -> str:
        """Return what is wrong, or nothing."""
        site = self.site
        for address in (*site.ipv4[:1], *site.ipv6):
            reason = Listener(site.port, ("ipv6",) if ":" in address else ("ipv4",), address, site.greeting).problem()
            if reason:
                return f"{self._title()}: {reason}"
        if not (site.plain and site.ipv4 and site.ipv6):
            return ""
        target = Target(site.name or NOBODY, "https" if site.tls else "http", site.port, "", ())
        ipv4 = ask(target, site.ipv4[0], TIMEOUT)
        for address in site.ipv6:
            answer = ask(target, address, TIMEOUT)
            if not self._same(target, ipv4, answer):
                return (
                    f"{self._title()}: {site.ipv4[0]} port {site.port} says {_words(ipv4)}, "
                    f"but {address} says {_words(answer)}"
                )
        return ""

    def _same(self, target: Target, ipv4: Answer, answer: Answer) -> bool:
        if ipv4.status is None or answer.status is None:
            return CLOSED in ipv4.error and CLOSED in answer.error
        if self.site.listed and FORBIDDEN in (ipv4.status, answer.status):
            return True
        return alike(answer, ipv4, None) or alike(answer, ipv4, ask(target, ipv4.address, TIMEOUT))

    def _title(self) -> str:
        return f"site {self.site.name or '(default)'} of {self.site.place}"

    def only_ipv4(self) -> SiteCheck:
        """Return the check for a host that may have nothing but IPv4."""
        return SiteCheck(replace(self.site, ipv6=()))


def checks(sites: Iterable[Site], thorough: bool) -> list[SiteCheck]:
    """Return a check for each of SITES; when nothing was changed, for the first one at each address is enough."""
    found = [SiteCheck(site) for site in sites]
    if thorough:
        return found
    return list({(check.site.port, check.site.ipv4, check.site.ipv6): check for check in reversed(found)}.values())


def _words(answer: Answer) -> str:
    return said(answer) if answer.banner else answer.error
