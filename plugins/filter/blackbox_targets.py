# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a monitoring system is to ask of published hosts."""

from __future__ import annotations

DOCUMENTATION = r"""
name: blackbox_targets
short_description: Every proven service of the published hosts as two targets of blackbox_exporter, one for each family
version_added: 0.1.0
author:
  - The dualstack.fleet developers (@dualstack)
description:
  - Returns groups for Prometheus' C(file_sd_configs), each with one target and the labels C(host), C(service),
    C(family) and C(__param_module), the module of blackbox_exporter. Hosts in any state but C(published) have none.
  - Services come of the evidence that the host keeps, by their published names, virtual hosts too.
  - A host that was not asked in this run, or not reached, keeps the groups that it has in O(before).
positional: contacts, domains, protocols
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
  domains:
    description: For each host its published name.
    type: list
    elements: str
    required: true
  protocols:
    description: Protocols for which there is a module of this name; of others only the connection is tried, by C(tcp).
    type: list
    elements: str
    required: true
  before:
    description: The JSON text of an earlier run, or nothing.
    type: str
    default: ""
"""

EXAMPLES = r"""
- name: Show what is to be asked of web1
  ansible.builtin.debug:
    msg: "{{ ['web1'] | dualstack.fleet.blackbox_targets([facts], ['web1.example.net'], ['smtp', 'http']) }}"
"""

RETURN = r"""
_value:
  description: The groups, sorted by host, service and target.
  type: list
  elements: dict
  sample:
    - targets: ["web1.example.net:25"]
      labels: {host: web1, service: smtp, family: ipv6, __param_module: smtp_ipv6}
"""

from ansible.errors import AnsibleFilterError

from ..module_utils._errors import DualStackError
from ..module_utils._monitoring import target_groups


def blackbox_targets(names, contacts, domains, protocols, before=""):
    try:
        return target_groups(names, contacts, domains, protocols, before)
    except DualStackError as error:
        raise AnsibleFilterError(f"blackbox_targets: {error}") from None


class FilterModule:
    """The filter by its name."""

    def filters(self):
        return {"blackbox_targets": blackbox_targets}
