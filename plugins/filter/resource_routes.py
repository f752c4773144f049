# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Turn edge routes into the configuration of a network resource module."""

from __future__ import annotations

DOCUMENTATION = r"""
name: resource_routes
version_added: 0.1.0
author:
  - The dualstack.fleet developers (@dualstack)
short_description: The routes of an edge router for the static routes module of another network system
description:
  - For edge routers that are no Linux hosts, where M(dualstack.fleet.edge_routes) cannot run. The same routes become
    the O(ignore:config) of M(vyos.vyos.vyos_static_routes) or M(cisco.ios.ios_static_routes), of those collections.
  - An unreachable route becomes a V(blackhole) on VyOS and a route to C(Null0) on IOS. Metrics are not carried over;
    those systems choose among equal prefixes by an administrative distance, and a longer prefix wins on all of them.
  - On VyOS the interface of a next hop is left out, for the module would make a second next hop of it. A link-local
    next hop is therefore an error. IOS gets addresses in capitals, as it shows them, so that a second run changes
    nothing.
positional: system
options:
  _input:
    description: Routes as O(dualstack.fleet.edge_routes#module:config) takes them, C(ranges) included.
    type: list
    elements: dict
    required: true
  system:
    description: Whose module the configuration is for.
    type: str
    choices: [ios, vyos]
    required: true
seealso:
  - plugin: dualstack.fleet.delegated_routes
    plugin_type: filter
    description: Makes the routes from the plan.
"""

EXAMPLES = r"""
- name: Route each delegated prefix on a VyOS router
  vyos.vyos.vyos_static_routes:
    config: "{{ records | dualstack.fleet.delegated_routes | dualstack.fleet.resource_routes('vyos') }}"
    state: merged
  vars:
    records: "{{ groups['clients'] | map('extract', hostvars) | map(attribute='dualstack') }}"

- name: The same on a router with IOS, whose interface to the machines is GigabitEthernet0/1
  cisco.ios.ios_static_routes:
    config: "{{ routes | dualstack.fleet.resource_routes('ios') }}"
    state: merged
  vars:
    records: "{{ groups['clients'] | map('extract', hostvars) | map(attribute='dualstack') }}"
    routes: "{{ records | dualstack.fleet.delegated_routes('GigabitEthernet0/1') }}"
"""

RETURN = r"""
_value:
  description: The option O(ignore:config) of the module, sorted by destination.
  type: list
  elements: dict
  sample:
    - address_families:
        - afi: ipv6
          routes:
            - dest: 2001:db8:200:1011::/64
              next_hops: [{forward_router_address: "2001:db8:100:1::c:1011"}]
"""

from ansible.errors import AnsibleFilterError

from ..module_utils._edge_resource import resource_config
from ..module_utils._errors import DualStackError


def resource_routes(routes, system):
    """Return ROUTES as the configuration of SYSTEM's module."""
    try:
        return resource_config(routes, system)
    except DualStackError as error:
        raise AnsibleFilterError(f"resource_routes: {error}") from error


class FilterModule:
    """The filter."""

    def filters(self):
        return {"resource_routes": resource_routes}
