# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Turn the plan's records into the routes of an edge router."""

from __future__ import annotations

DOCUMENTATION = r"""
name: delegated_routes
version_added: 0.1.0
author:
  - The dualstack.fleet developers (@dualstack)
short_description: The static routes that an edge router needs for the plan's delegated prefixes
description:
  - Takes the C(dualstack) records of hosts, as the inventory plugin P(dualstack.fleet.plan#inventory) makes them, and
    returns one route for each delegated prefix, by the host's own address as next hop, and one for each prefix of a
    vhost that is not in the host's own (C(routed_vhosts)).
  - Hosts without a delegated prefix give no route.
positional: device, compact, routing
options:
  _input:
    description: Records with C(delegated_prefix) and C(next_hop).
    type: list
    elements: dict
    required: true
  device:
    description: The router's interface on the hosts' network. Empty leaves the choice to the kernel.
    type: str
    default: ""
  compact:
    description:
      - Put many routes into few records, each with the C(ranges) of O(dualstack.fleet.edge_routes#module:config). For
        fleets of thousands, whose routes as single records would cost each task seconds and megabytes.
    type: bool
    default: false
  routing:
    description:
      - What routes on this router. V(static) is these routes. V(ospf6) puts them behind those that FRR has from OSPFv3
        (O(dualstack.fleet.edge_routes#module:metric)); where OSPFv3 has none, they count.
    type: str
    choices: [static, ospf6]
    default: static
"""

EXAMPLES = r"""
- name: The routes of two hosts
  ansible.builtin.debug:
    msg: "{{ [hostvars.web1.dualstack, hostvars.web2.dualstack] | dualstack.fleet.delegated_routes('eth0') }}"
"""

RETURN = r"""
_value:
  description: Routes as O(dualstack.fleet.edge_routes#module:config) takes them, in the order of the records.
  type: list
  elements: dict
  sample: [{dest: "2001:db8:200:1011::/64", via: "2001:db8:100:1::c:1011", dev: eth0}]
"""

from ansible.errors import AnsibleFilterError

from ..module_utils._routes import BEHIND_OSPF, compacted

METRIC = {"static": {}, "ospf6": {"metric": BEHIND_OSPF}}


def delegated_routes(records, device="", compact=False, routing="static"):
    """Return the routes of RECORDS for a router whose interface on their network is DEVICE, in few words if COMPACT."""
    if routing not in METRIC:
        raise AnsibleFilterError(f"delegated_routes: routing {routing!r} is not known: write static or ospf6")
    try:
        routes = [
            {"dest": prefix, "via": record["next_hop"]}
            for record in records
            for prefix in (record["delegated_prefix"], *record.get("routed_vhosts", ()))
            if prefix
        ]
    except (KeyError, TypeError) as error:
        raise AnsibleFilterError(
            f"delegated_routes: not a record of the plan: {error}; pass hostvars' `dualstack`"
        ) from error
    routes = [{**route, "dev": device} for route in routes] if device else routes
    try:
        return [{**route, **METRIC[routing]} for route in (compacted(routes) if compact else routes)]
    except ValueError as error:
        raise AnsibleFilterError(f"delegated_routes: {error}: pass hostvars' `dualstack`") from error


class FilterModule:
    """The filter."""

    def filters(self):
        return {"delegated_routes": delegated_routes}
