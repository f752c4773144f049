# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The address plan's result for other tools."""

from __future__ import annotations

DOCUMENTATION = r"""
name: plan_export
short_description: The addresses of all hosts as CSV, reverse zone or NetBox import
version_added: 0.1.0
author:
  - The dualstack.fleet developers (@dualstack)
description:
  - Writes what the address plan gives the hosts in the form that another tool reads. The result is a function of the
    input alone and sorted by address, so that it can be kept in git.
  - All errors of the records are reported at once.
positional: form
options:
  _input:
    description:
      - The hosts' records, a mapping of name to the host variable C(dualstack) (what P(dualstack.fleet.allocate#filter)
        returns), or a list of records with the key C(name). An empty record is left out.
    type: raw
    required: true
  form:
    description:
      - V(csv) has a line for each address, delegated prefix and prefix of a vhost.
      - V(bind) has a PTR line with an absolute owner below C(ip6.arpa.) for each address, for C($INCLUDE) in a zone. A
        delegated prefix and a vhost's prefix are named at their first address, C(...::1).
      - V(netbox) is JSON with the lists C(prefixes) and C(ip_addresses). Each can be pasted into NetBox's bulk import
        or posted to C(/api/ipam/prefixes/) and C(/api/ipam/ip-addresses/).
    type: str
    required: true
    choices: [csv, bind, netbox]
  plan:
    description:
      - The host variable C(dualstack_plan). V(netbox) then has the networks, pools, classes and reserved suffixes, too.
    type: dict
    default: {}
  domain:
    description: Domain of the hosts and vhosts whose name has no dot.
    type: str
    default: ""
  zone:
    description: Prefix of the reverse zone; addresses elsewhere are left out of V(bind). It ends on a nibble.
    type: str
    default: ""
  ttl:
    description: Time to live of the lines of V(bind) in seconds; 0 leaves it to the zone.
    type: int
    default: 0
"""

EXAMPLES = r"""
- name: Write the reverse zone of the devices
  run_once: true
  delegate_to: localhost
  ansible.builtin.copy:
    content: "{{ records | dualstack.fleet.plan_export('bind', domain='example.net', zone='2001:db8:100::/48') }}"
    dest: reverse.zone
    mode: "0644"
  vars:
    names: "{{ groups['all'] }}"
    records: "{{ dict(names | zip(names | map('extract', hostvars) | map(attribute='dualstack', default={}))) }}"
"""

RETURN = r"""
_value:
  description: The text of the file.
  type: str
"""

from ansible.errors import AnsibleFilterError

from ..module_utils._errors import DualStackError
from ..module_utils._plan_export import export


def plan_export(records, form, *, plan=None, domain="", zone="", ttl=0):
    try:
        return export(records, form, plan=plan, domain=domain, zone=zone, ttl=ttl)
    except DualStackError as error:
        raise AnsibleFilterError(f"plan_export: {error}") from None


class FilterModule:
    """The filter by its name."""

    def filters(self):
        return {"plan_export": plan_export}
