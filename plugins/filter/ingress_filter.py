# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Turn the owners of source addresses into a packet filter."""

from __future__ import annotations

DOCUMENTATION = r"""
name: ingress_filter
version_added: 0.1.0
author:
  - The dualstack.fleet developers (@dualstack)
short_description: The ingress filter of an edge router (RFC 2827), as a file for nft(8)
description:
  - From the machines' side, a source that has an owner is let in from its owner's hardware address only. One without
    an owner is let in when the router would send the answer back over the same interface (RFC 3704, strict reverse
    path). Link-local and unspecified sources are let in; no router forwards them.
  - From the uplink, no source of O(inside) is let in.
  - What is dropped is counted, in the counters C(not_the_owner), C(no_route_back) and C(own_prefix_outside) of the
    table C(ip6 dualstack_edge). Loading the file replaces the rules in one step and keeps the counters.
positional: device
options:
  _input:
    description: Entries with C(prefix) and C(mac), as P(dualstack.fleet.source_owners#filter) makes them.
    type: list
    elements: dict
    required: true
  device:
    description: The interface towards the machines.
    type: str
    required: true
  uplink:
    description: The interface towards the outside. Empty means that nothing is dropped there.
    type: str
    default: ""
  inside:
    description: The prefixes that are ours.
    type: list
    elements: str
    default: []
  routers:
    description: Hardware addresses of our own routers, which forward the packets of others.
    type: list
    elements: str
    default: []
"""

EXAMPLES = r"""
- name: Show the filter
  ansible.builtin.debug:
    msg: "{{ owners | dualstack.fleet.ingress_filter('eth0', uplink='eth1', inside=['2001:db8:200::/48']) }}"
  vars:
    owners: [{prefix: "2001:db8:200:1011::/64", mac: ["02:00:5e:10:00:01"]}]
"""

RETURN = r"""
_value:
  description: The text of the file.
  type: str
"""

from ansible.errors import AnsibleFilterError

from ..module_utils._edge_filter import render
from ..module_utils._errors import DualStackError


def _filter(owners, device, uplink="", inside=(), routers=()):
    try:
        return render(owners, device, uplink, inside, routers)
    except DualStackError as error:
        raise AnsibleFilterError(f"ingress_filter: {error}") from error


class FilterModule:
    def filters(self):
        return {"ingress_filter": _filter}
