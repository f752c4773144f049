# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The addresses at which the services of a host answer."""

from __future__ import annotations

DOCUMENTATION = r"""
name: service_addresses
short_description: The IPv6 addresses at which the services of a host answer
version_added: 0.1.0
description:
  - Returns the address of the host and, when a prefix is delegated to it, the first address of that prefix.
options:
  _input:
    description: The host variable C(dualstack) that the inventory plugin P(dualstack.fleet.plan#inventory) sets.
    type: dict
    required: true
author:
  - The dualstack.fleet developers (@dualstack)
"""

EXAMPLES = r"""
- name: Show the addresses
  ansible.builtin.debug:
    msg: "{{ dualstack | dualstack.fleet.service_addresses }}"
"""

RETURN = r"""
_value:
  description: The addresses.
  type: list
  elements: str
  sample: ["2001:db8:100:1::c:1011", "2001:db8:200:1011::1"]
"""

from ansible.errors import AnsibleFilterError

from ..module_utils._probe import service_addresses


def _filter(record):
    try:
        return service_addresses(record)
    except (AttributeError, ValueError) as error:
        raise AnsibleFilterError(
            f"service_addresses: {record!r} is not a record of the address plan: {error}"
        ) from error


class FilterModule:
    def filters(self):
        return {"service_addresses": _filter}
