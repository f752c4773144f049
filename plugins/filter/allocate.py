# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The addresses of all hosts at once."""

from __future__ import annotations

DOCUMENTATION = r"""
name: allocate
short_description: IPv6 addresses of all hosts by an address plan
version_added: 0.1.0
author:
  - The dualstack.fleet developers (@dualstack)
description:
  - Returns the same record for each host as the inventory plugin P(dualstack.fleet.plan#inventory) sets in the host
    variable C(dualstack).
  - The result is a function of the input alone. Call it once for all hosts (C(run_once)), not once per host.
  - All errors of plan, hosts and ledger are reported at once.
positional: plan, ledger
options:
  _input:
    description:
      - The hosts, a mapping of name to C(groups) (list) and the variables that the plan reads, which are
        C(dualstack_id), the location fields and the names of vhosts.
    type: dict
    required: true
  plan:
    description: The plan, as P(dualstack.fleet.plan#inventory) documents it.
    type: dict
    required: true
  ledger:
    description: The records of the ledger.
    type: list
    elements: dict
    default: []
"""

EXAMPLES = r"""
- name: Show the address that a new host will have
  run_once: true
  delegate_to: localhost
  ansible.builtin.debug:
    msg: "{{ ({'web4': {'groups': ['clients'], 'loc_rack': 4}} | dualstack.fleet.allocate(plan)).web4.address }}"
  vars:
    plan: "{{ lookup('ansible.builtin.file', 'plan.yml') | from_yaml }}"
"""

RETURN = r"""
_value:
  description: A mapping of host name to record.
  type: dict
"""

from ansible.errors import AnsibleFilterError

from ..module_utils._errors import DualStackError
from ..module_utils._ledger import ledger_of
from ..module_utils._numbering import allocate as number


def allocate(hosts, plan, ledger=()):
    try:
        return number(hosts, plan, ledger_of(ledger, "ledger"))
    except DualStackError as error:
        raise AnsibleFilterError(f"allocate: {error}") from None


class FilterModule:
    """The filter by its name."""

    def filters(self):
        return {"allocate": allocate}
