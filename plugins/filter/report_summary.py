# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""How far the fleet is."""

from __future__ import annotations

DOCUMENTATION = r"""
name: report_summary
short_description: How far each host and the whole fleet are on the way to dual stack
version_added: 0.1.0
author:
  - The dualstack.fleet developers (@dualstack)
description:
  - Returns counts by state, services by family and a record for every host.
  - Every host is in the total. One that is blocked, cannot be reached or was never audited counts with its reason.
positional: contacts, plans
options:
  _input:
    description: Names of the hosts.
    type: list
    elements: str
    required: true
  contacts:
    description: For each host what M(ansible.builtin.setup) returned; empty for a host that was not asked.
    type: list
    elements: dict
    required: true
  plans:
    description: For each host its record in the address plan; empty for a host without.
    type: list
    elements: dict
    required: true
"""

EXAMPLES = r"""
- name: Show how far the fleet is
  ansible.builtin.debug:
    msg: "{{ ['web1'] | dualstack.fleet.report_summary([facts], [dualstack]) }}"
"""

RETURN = r"""
_value:
  description: The report.
  type: dict
  contains:
    total:
      description: Number of hosts.
      type: int
    states:
      description: Number and percentage of the hosts in each state, the furthest first.
      type: list
      elements: dict
    services:
      description: For each protocol how many services were asked, and how many answered over each family.
      type: list
      elements: dict
    as_of:
      description: When a host last changed its state.
      type: str
    hosts:
      description: Name, class, addresses, state, reason, owner, times and services of each host.
      type: list
      elements: dict
"""

from ansible.errors import AnsibleFilterError

from ..module_utils._errors import DualStackError
from ..module_utils._report import summarise


def report_summary(names, contacts, plans):
    try:
        return summarise(names, contacts, plans)
    except DualStackError as error:
        raise AnsibleFilterError(f"report_summary: {error}") from None


class FilterModule:
    """The filter by its name."""

    def filters(self):
        return {"report_summary": report_summary}
