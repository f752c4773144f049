#!/usr/bin/python
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Ansible's side of the route table of an edge router."""

from __future__ import annotations

DOCUMENTATION = r"""
module: edge_routes
short_description: Keep the routes of an edge router to its machines' delegated prefixes
version_added: 0.1.0
author: The dualstack.fleet developers (@dualstack)
description:
  - Adds, changes and removes IPv6 routes in the kernel of this host in bulk, over rtnetlink(7), and keeps the file that
    restores them at boot in step.
  - Only routes of one protocol number are ever changed or removed. A route of another protocol to a wanted destination,
    a multipath route, and a route that another O(name) persists are conflicts. They fail the task, all of them
    at once, and nothing is changed.
  - All or nothing. When the kernel refuses a route, what this run did is taken back, and every refusal is reported in
    the kernel's words.
  - New routes are made before old ones are removed. Addresses are compared as numbers, so spelling changes nothing.
  - What a run was asked is remembered in F(/run/dualstack/routes), with a digest of what it left. The next one that
    finds the same routes, addresses, interfaces and files looks only at what it is asked anew.
attributes:
  check_mode:
    description: Reports what would change, after the same checks, and changes nothing.
    support: full
  diff_mode:
    description: Returns the lines that differ, of the kernel's table and of the file.
    support: full
options:
  config:
    description: The routes. With O(state=deleted) only V(dest) counts.
    type: list
    elements: dict
    suboptions:
      dest:
        description:
          - The destination, a prefix without host bits of at most 64 bits; or a /128 with O(config[].dev); or one
            of at least 64 bits with O(config[].type=local); or any with O(config[].type=unreachable).
        type: str
        required: true
      via:
        description: The next hop. A link-local one (RFC 4291 section 2.5.6) needs O(config[].dev).
        type: str
      dev:
        description: The interface. Without it the kernel chooses by O(config[].via).
        type: str
      type:
        description:
          - V(unreachable) answers with an ICMPv6 error (RFC 4443 section 3.1) and stops routing loops.
          - V(local) makes every address of the prefix this host's own, without putting any on an interface. It
            belongs in the table V(255) and stands on C(lo).
        type: str
        choices: [unicast, local, unreachable]
        default: unicast
      metric:
        description: The metric of this route, where it differs from O(metric).
        type: int
      ranges:
        description:
          - Makes the record one route to each /64 prefix whose number in O(config[].dest) is listed, by the next hop
            with the same number counted from O(config[].via). For many routes in few words.
          - Hexadecimal numbers and ranges of them, separated by commas. V(=) and a number after either gives another
            number for the (first) next hop.
        type: str
  src:
    description: A file on this host with one JSON object a line, each with the keys of O(config). For large tables.
    type: path
  state:
    description:
      - V(merged) adds and changes the given routes.
      - V(overridden) also removes our other routes inside O(within), unless another O(name) persists them.
      - V(deleted) removes our routes to the given destinations; without any given, all of ours inside O(within).
      - V(gathered) returns our routes, V(rendered) the lines of the file, without a look at the kernel.
    type: str
    choices: [merged, overridden, deleted, gathered, rendered]
    default: merged
  within:
    description: The prefixes that bound the run. Required with O(state=overridden).
    type: list
    elements: str
    default: []
  max_delete:
    description:
      - How many routes V(overridden), and V(deleted) without a list, may remove. A count, or a percentage of our routes
        in the bounds, rounded up.
    type: str
    default: 10%
  protocol:
    description: The routing protocol number that marks our routes (rtm_protocol of rtnetlink(7)).
    type: int
    default: 250
  table:
    description: The number of the routing table; V(254) is main, V(255) is local.
    type: int
    default: 254
  metric:
    description:
      - The metric of routes that name none.
      - V(3355443200) or more puts a route behind that of an FRR which speaks OSPF (protocol 188) on this router, as FRR
        takes the highest byte for the administrative distance. OSPF's route to the same destination is no conflict
        then, and our own one of a lower metric is replaced without a gap. The same is true of the way back.
    type: int
    default: 1024
  persist:
    description: Whether to keep F(/etc/dualstack/routes.d/NAME.batch), which the role edge_router restores at boot.
    type: bool
    default: true
  name:
    description: The name of the set of routes, and of its file.
    type: str
    default: fleet
  own:
    description:
      - Addresses that are this router's even while it does not have them, such as those that it shares by VRRP
        (RFC 9568). Neither they nor the addresses that it has are accepted for next hops.
    type: list
    elements: str
    default: []
  provider:
    description:
      - Who keeps the routes. V(kernel) writes them to the kernel and to the file of O(persist), which a unit of the
        role edge_router restores. It suits any number of routes, also beside a routing daemon with other purposes.
      - V(bird) writes C(protocol static) to F(/etc/dualstack/routes.d/NAME.bird), has B(bird -p) read it and tells the
        running BIRD 2 by B(birdc configure). Its F(bird.conf) stays as it is; it must have the line
        C(include "/etc/dualstack/routes.d/*.bird";) and a C(protocol kernel) that exports IPv6 routes.
      - V(frr) gives FRR B(ipv6 route) lines, in F(/etc/frr/frr.conf) and by vtysh(1), and touches no other line.
        More than 5,000 routes are refused, and more than 1,000 give a warning, as FRR needs time and memory for them.
      - With V(bird) and V(frr) the daemon chooses the protocol number (12 and 196) and the metric, so O(protocol) and
        O(metric) count for nothing, O(table) is the main one and O(persist) is always true. The run waits until the
        kernel has every route, and takes everything back if it does not get them.
      - A route that is kept by another provider, or stands in the configuration of BIRD, FRR, systemd-networkd or
        ifupdown, is a conflict, reported with file and line.
      - Where systemd-networkd runs without C(ManageForeignRoutes=no) (networkd.conf(5)), routes of any provider are
        refused, since it removes them when it is restarted; in check mode that is a warning.
    type: str
    choices: [kernel, bird, frr]
    default: kernel
  return_routes:
    description: What RV(before) and RV(after) hold besides the count. V(counts) shortens RV(commands) to 100 lines.
    type: str
    choices: [counts, changed, full]
    default: counts
seealso:
  - name: ip-route(8)
    description: The words of RV(commands) and of the file.
    link: https://manpages.debian.org/trixie/iproute2/ip-route.8.en.html
"""

EXAMPLES = r"""
- name: Route one /64 to each client machine, and stop loops for the rest of the pool
  dualstack.fleet.edge_routes:
    config:
      - dest: 2001:db8:200:1011::/64
        via: 2001:db8:100:1::c:11
        dev: eth0
      - dest: 2001:db8:200::/48
        type: unreachable
        metric: 4096

- name: Make the routes of the pool exactly these
  dualstack.fleet.edge_routes:
    src: /var/lib/dualstack/routes.jsonl
    state: overridden
    within: ["2001:db8:200::/48"]
    max_delete: 20

- name: Route a /64 to each of 289 machines
  dualstack.fleet.edge_routes:
    config:
      - dest: 2001:db8:200::/48
        via: 2001:db8:100:1::c:0
        dev: eth0
        ranges: 11,1100-11ff,3000-301f=4000

- name: Answer for every address of two virtual hosts' prefixes
  dualstack.fleet.edge_routes:
    name: vhosts
    table: 255
    config:
      - {dest: "2001:db8:200:1011:5409::/80", type: local}
      - {dest: "2001:db8:200:1011:b109::/80", type: local}

- name: Keep the routes in BIRD, which announces them elsewhere
  dualstack.fleet.edge_routes:
    provider: bird
    src: /var/lib/dualstack/routes.jsonl
    state: overridden
    within: ["2001:db8:200::/48"]

- name: See the routes that we made
  dualstack.fleet.edge_routes:
    state: gathered
"""

RETURN = r"""
before:
  description: Our routes before the run, C(count) and by O(return_routes) C(routes).
  returned: O(state) is V(merged), V(overridden) or V(deleted)
  type: dict
  sample: {count: 2}
after:
  description: Our routes after the run, computed from RV(before) and RV(commands); the same in check mode.
  returned: as RV(before)
  type: dict
  sample: {count: 3}
commands:
  description: What the run did, in ip(8)'s words, or in those of the daemon that O(provider) names.
  returned: as RV(before)
  type: list
  elements: str
  sample: ["ip -6 route add 2001:db8:200:1011::/64 via 2001:db8:100:1::c:11 proto 250 metric 1024 table 254"]
stats:
  description: Counts. C(present) are our routes before the run (inside O(within), where it bounds the run).
  returned: as RV(before), and with conflicts
  type: dict
  sample: {wanted: 3, present: 2, added: 1, replaced: 0, deleted: 0, unchanged: 2, conflicts: 0}
conflicts:
  description: Wanted destinations whose routes are not ours to change.
  returned: failed by a conflict
  type: list
  elements: str
failed_routes:
  description: The first 20 routes that the kernel refused, with C(route), C(action) and C(reason).
  returned: refused by the kernel
  type: list
  elements: dict
refused:
  description: How many routes the kernel refused.
  returned: refused by the kernel
  type: int
  sample: 1
gathered:
  description: Our routes, in the form of O(config).
  returned: O(state=gathered)
  type: list
  elements: dict
  sample: [{dest: "2001:db8:200::/48", type: unreachable, metric: 4096}]
rendered:
  description: The lines for C(ip -6 -batch), or those of the daemon that O(provider) names.
  returned: O(state=rendered)
  type: list
  elements: str
"""

import gc

from ansible.module_utils.basic import AnsibleModule

from ..module_utils._edge import Request
from ..module_utils._edge_providers import run
from ..module_utils._errors import DualStackError
from ..module_utils._routes import Scope

ROUTE = {
    "dest": {"type": "str", "required": True},
    "via": {"type": "str"},
    "dev": {"type": "str"},
    "type": {"type": "str", "choices": ["unicast", "local", "unreachable"], "default": "unicast"},
    "metric": {"type": "int"},
    "ranges": {"type": "str"},
}


def main():
    """Run the module."""
    gc.disable()  # a short life with a million small values, none of which refers to itself
    module = AnsibleModule(
        argument_spec={
            "config": {"type": "list", "elements": "dict", "options": ROUTE},
            "src": {"type": "path"},
            "state": {
                "type": "str",
                "choices": ["merged", "overridden", "deleted", "gathered", "rendered"],
                "default": "merged",
            },
            "within": {"type": "list", "elements": "str", "default": []},
            "max_delete": {"type": "str", "default": "10%"},
            "protocol": {"type": "int", "default": 250},
            "table": {"type": "int", "default": 254},
            "metric": {"type": "int", "default": 1024},
            "persist": {"type": "bool", "default": True},
            "name": {"type": "str", "default": "fleet"},
            "own": {"type": "list", "elements": "str", "default": []},
            "provider": {"type": "str", "choices": ["kernel", "bird", "frr"], "default": "kernel"},
            "return_routes": {"type": "str", "choices": ["counts", "changed", "full"], "default": "counts"},
        },
        mutually_exclusive=[("config", "src")],
        required_if=[
            ("state", "merged", ["config", "src"], True),
            ("state", "overridden", ["config", "src"], True),
            ("state", "overridden", ["within"]),
            ("state", "rendered", ["config", "src"], True),
        ],
        supports_check_mode=True,
    )
    options = dict(module.params)
    scope = Scope(options.pop("protocol"), options.pop("table"))
    try:
        request = Request(scope=scope, diff=module._diff, **{**options, "src": options["src"] or ""})
        result = run(request, module.check_mode)
    except DualStackError as error:
        module.fail_json(msg=str(error), **error.details)
    for text in result.pop("warnings"):
        module.warn(text)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
