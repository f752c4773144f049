# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The AAAA and PTR records of a host."""

from __future__ import annotations

DOCUMENTATION = r"""
name: dns_records
short_description: The AAAA and PTR records of a host
version_added: 0.1.0
description:
  - Returns the records that M(dualstack.fleet.dns_publish) takes, so that every name has every address and every
    address leads back to the first name.
  - With C(sites), every one of these names also has its own address, and that leads back to it. A site outside of all
    zones gives no record, since its zone is somebody else's; P(dualstack.fleet.names_elsewhere#filter) returns those.
options:
  _input:
    description: The IPv6 addresses of the host.
    type: list
    elements: str
    required: true
  names:
    description: Names of the host, whole. PTR records hold the first.
    type: list
    elements: str
    required: true
  sites:
    description: Addresses of virtual hosts by their names, as P(dualstack.fleet.vhost_addresses#filter) returns them.
    type: dict
    default: {}
  zone:
    description: Zone of the names.
    type: str
    required: true
  reverse_zone:
    description: Zone of the addresses, below C(ip6.arpa).
    type: str
    required: true
  zones:
    description: More zones of the same server, forward or reverse. A name goes to the innermost one that it lies in.
    type: list
    elements: str
    default: []
  ipv4:
    description: IPv4 address that the names must have, too; see M(dualstack.fleet.dns_publish).
    type: str
    default: ""
  sites_ipv4:
    description: The IPv4 addresses of sites by their names, where they are not C(ipv4).
    type: dict
    default: {}
  ttl:
    description: Time to live of the records in seconds.
    type: int
    default: 300
  state:
    description: State of the records.
    type: str
    default: present
    choices: [present, absent, lowered]
author:
  - The dualstack.fleet developers (@dualstack)
"""

EXAMPLES = r"""
- name: Show the records of a host
  ansible.builtin.debug:
    msg: >-
      {{ ['2001:db8:100:1::c:1011'] | dualstack.fleet.dns_records(
        names=['web1.example.net'], zone='example.net', reverse_zone='8.b.d.0.1.0.0.2.ip6.arpa') }}
"""

RETURN = r"""
_value:
  description: The records.
  type: list
  elements: dict
  sample:
    - {name: web1.example.net, zone: example.net, type: AAAA, value: "2001:db8:100:1::c:1011", ttl: 300, state: present}
"""

from ansible.errors import AnsibleFilterError

from ..module_utils._dns import Zones, records_of


def _filter(
    addresses, *, names, zone, reverse_zone, zones=(), sites=None, ipv4="", sites_ipv4=None, ttl=300, state="present"
):
    known, common = Zones(zone, reverse_zone, zones), {"ttl": ttl, "state": state}
    partners = {**dict.fromkeys(sites or {}, ipv4), **(sites_ipv4 or {})} if ipv4 else dict.fromkeys(sites or {}, "")
    try:
        found = records_of(addresses, names, known, ipv4=ipv4, **common)
        for name, value in (sites or {}).items():
            if known.of(name):
                found += records_of([value], [name], known, ipv4=partners[name], **common)
    except (IndexError, ValueError) as error:
        raise AnsibleFilterError(f"dns_records: addresses {addresses!r}, names {names!r}: {error}") from error
    return found


class FilterModule:
    def filters(self):
        return {"dns_records": _filter}
