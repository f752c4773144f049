# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Say which machine may send from which prefix."""

from __future__ import annotations

DOCUMENTATION = r"""
name: source_owners
version_added: 0.1.0
author:
  - The dualstack.fleet developers (@dualstack)
short_description: The owners of source addresses, for the ingress filter of an edge router
description:
  - Takes the host variables of machines and returns, for each that has C(dualstack_mac), which source addresses it may
    use, which are its own address, its delegated prefix, and the prefixes of virtual hosts that are routed to it.
  - A machine without C(dualstack_mac), or without a record of the plan, has no entry.
options:
  _input:
    description: >-
      The host variables. C(dualstack) is the record that the inventory plugin P(dualstack.fleet.plan#inventory) makes,
      C(dualstack_mac) a hardware address, or a list of all that the machine sends from.
    type: list
    elements: dict
    required: true
"""

EXAMPLES = r"""
- name: Who may send from where
  ansible.builtin.debug:
    msg: "{{ groups['all'] | map('extract', hostvars) | dualstack.fleet.source_owners }}"
"""

RETURN = r"""
_value:
  description: Entries as the role edge_router takes them in C(edge_router_ipv6_owners).
  type: list
  elements: dict
  sample: [{prefix: "2001:db8:200:1011::/64", mac: ["02:00:5e:10:00:01"]}]
"""

from ansible.errors import AnsibleFilterError

from ..module_utils._edge_filter import owners_of
from ..module_utils._errors import DualStackError


def _filter(machines):
    try:
        return owners_of(machines)
    except DualStackError as error:
        raise AnsibleFilterError(f"source_owners: {error}") from error


class FilterModule:
    def filters(self):
        return {"source_owners": _filter}
