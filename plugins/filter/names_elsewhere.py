# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The names whose DNS is somebody else's."""

from __future__ import annotations

DOCUMENTATION = r"""
name: names_elsewhere
short_description: The names that lie in none of our zones
version_added: 0.1.0
description:
  - Returns those of the names that P(dualstack.fleet.dns_records#filter) makes no record for. Whoever holds their zone
    has to add the record.
options:
  _input:
    description: Addresses by names, as P(dualstack.fleet.vhost_addresses#filter) returns them.
    type: dict
    required: true
  zones:
    description: The zones of our own name server.
    type: list
    elements: str
    required: true
author:
  - The dualstack.fleet developers (@dualstack)
"""

EXAMPLES = r"""
- name: Show whose owners have to add a record
  ansible.builtin.debug:
    msg: "{{ {'www.example.com': '2001:db8:200:11::1'} | dualstack.fleet.names_elsewhere(['example.net']) }}"
"""

RETURN = r"""
_value:
  description: Addresses by names.
  type: dict
  sample: {www.example.com: "2001:db8:200:11::1"}
"""

from ..module_utils._dns import in_zone


def _filter(sites, zones):
    return {name: address for name, address in sites.items() if not any(in_zone(name, zone) for zone in zones)}


class FilterModule:
    def filters(self):
        return {"names_elsewhere": _filter}
