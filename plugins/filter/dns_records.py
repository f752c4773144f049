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
  - With C(sites), every one of these names also has its own address, and that leads back to it. A site outside of the
    zone gives no record, since its zone is somebody else's.
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
  ttl:
    description: Time to live of the records in seconds.
    type: int
    default: 300
  state:
    description: State of the records.
    type: str
    default: present
    choices: [present, absent]
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

from ..module_utils._dns import in_zone, records_of


def _filter(addresses, *, names, zone, reverse_zone, sites=None, ttl=300, state="present"):
    common = {"zone": zone, "reverse_zone": reverse_zone, "ttl": ttl, "state": state}
    try:
        own = [records_of([value], [name], **common) for name, value in (sites or {}).items() if in_zone(name, zone)]
        return sum(own, records_of(addresses, names, **common))
    except (IndexError, ValueError) as error:
        raise AnsibleFilterError(f"dns_records: addresses {addresses!r}, names {names!r}: {error}") from error


class FilterModule:
    def filters(self):
        return {"dns_records": _filter}
