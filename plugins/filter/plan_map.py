# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The address plan as a picture."""

from __future__ import annotations

DOCUMENTATION = r"""
name: plan_map
short_description: A map of the address plan as SVG
version_added: 0.1.0
author:
  - The dualstack.fleet developers (@dualstack)
description:
  - Draws each class of each network and each pool of delegated prefixes as a square of at most 256 cells, whose row and
    column are the first two hexadecimal digits of an index. A cell shows how much of it is used, and whether something
    in it is in quarantine or reserved; its title names numbers and hosts.
  - The picture needs nothing from elsewhere and follows the viewer's choice of light or dark.
  - All errors of the records are reported at once.
positional: plan
options:
  _input:
    description:
      - The hosts' records, a mapping of name to the host variable C(dualstack) (what P(dualstack.fleet.allocate#filter)
        returns), or a list of records with the key C(name). An empty record is left out.
    type: raw
    required: true
  plan:
    description: The host variable C(dualstack_plan) of the plan that made the records.
    type: dict
    required: true
  title:
    description: Title of the picture, which a screen reader reads.
    type: str
    default: Address plan
"""

EXAMPLES = r"""
- name: Draw the plan
  run_once: true
  delegate_to: localhost
  ansible.builtin.copy:
    content: "{{ records | dualstack.fleet.plan_map(dualstack_plan) }}"
    dest: plan.svg
    mode: "0644"
  vars:
    names: "{{ groups['all'] }}"
    records: "{{ dict(names | zip(names | map('extract', hostvars) | map(attribute='dualstack', default={}))) }}"
"""

RETURN = r"""
_value:
  description: The text of the SVG file.
  type: str
"""

from ansible.errors import AnsibleFilterError

from ..module_utils._errors import DualStackError
from ..module_utils._plan_map import draw


def plan_map(records, plan, title="Address plan"):
    try:
        return draw(records, plan, title)
    except DualStackError as error:
        raise AnsibleFilterError(f"plan_map: {error}") from None


class FilterModule:
    """The filter by its name."""

    def filters(self):
        return {"plan_map": plan_map}
