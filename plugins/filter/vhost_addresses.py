# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The addresses at which the virtual hosts of a host answer."""

from __future__ import annotations

DOCUMENTATION = r"""
name: vhost_addresses
short_description: The IPv6 address of each virtual host of a host
version_added: 0.1.0
description:
  - Returns the first address, C(::1), of the prefix of each virtual host. It is the one that is probed and published.
options:
  _input:
    description: The host variable C(dualstack) that the inventory plugin P(dualstack.fleet.plan#inventory) sets.
    type: dict
    required: true
author:
  - The dualstack.fleet developers (@dualstack)
"""

EXAMPLES = r"""
- name: Give each site of Apache the address of its own
  ansible.builtin.include_role:
    name: dualstack.fleet.apache
  vars:
    apache_ipv6_site_addresses: "{{ dualstack | dualstack.fleet.vhost_addresses }}"
"""

RETURN = r"""
_value:
  description: The addresses by the names of the virtual hosts.
  type: dict
  sample: {shop.example.net: "2001:db8:200:1011:5409::1"}
"""

from ansible.errors import AnsibleFilterError

from ..module_utils._probe import vhost_addresses


def _filter(record):
    try:
        return vhost_addresses(record)
    except (AttributeError, ValueError) as error:
        raise AnsibleFilterError(f"vhost_addresses: {record!r} is not a record of the address plan: {error}") from error


class FilterModule:
    def filters(self):
        return {"vhost_addresses": _filter}
