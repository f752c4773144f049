#!/usr/bin/python
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Ansible's side of commit-confirmed changes of the host's network."""

from __future__ import annotations

DOCUMENTATION = r"""
module: network_change
short_description: Give a host IPv6 addresses and routes, with a rollback unless a new connection confirms
version_added: 0.1.0
author: The dualstack.fleet developers (@dualstack)
description:
  - V(applied) records the way back on the host, starts a timer that takes it, and arms a guard for a restart in the
    meantime. It then adds addresses and routes with ip(8), waits for duplicate address detection (RFC 4862, 5.4),
    and writes the network manager's files last. V(confirmed), over a new connection, stops the timer.
  - Without a confirmation the host undoes exactly what was added and restores its files, byte for byte. A failure, such
    as a duplicate address, is undone at once. The time is measured by the host's monotonic clock. A run that hangs when
    it is over is ended. A file that cannot be restored, as on a file system that has become read-only, is tried again
    by the next run and by the next boot. V(reverted) that is cut off is finished by the host in the same way.
  - IPv4 addresses and routes are looked at, never changed; no interface is taken down and no network service restarted.
    Only if the host has lost all its IPv4 addresses or every IPv4 default route in the meantime, whoever took them, the
    undoing gives them back as they were before the change.
  - For ifupdown the interface gets its own file in F(/etc/network/dualstack.d), read by one line at the end of
    F(/etc/network/interfaces). There a stanza that fails at boot cannot keep IPv4 from coming up.
    An interface whose C(ifup) failed, as with a duplicate address, is known to ifupdown as not configured, though IPv4
    works. V(applied) says so and has ifupdown note it as configured; nothing else is touched.
  - ifupdown2 gets the same files. It takes all stanzas of an interface as one, so C(ifquery --check) must agree too.
  - For systemd-networkd the interface's F(.network) file gets a drop-in. Before version 257 it is not told to read it,
    which would take the interface's IPv4 addresses away for a moment; a warning says so.
  - A router that does not answer neighbour discovery (RFC 4861) is a warning.
  - For netplan above it the interface's definition gets a file of its own, F(/etc/netplan/99-dualstack-DEVICE.yaml),
    which C(netplan generate) checks together with the others before anything changes. C(netplan apply) is not used.
  - Router advertisements and the addresses made of them are switched off for the interface, in the kernel, in the
    manager's words and in F(/etc/sysctl.d).
attributes:
  check_mode:
    description: Reports what would change and changes nothing; a rollback that has fired is reported, not cleared.
    support: full
  diff_mode:
    description: Returns the kernel's addresses and routes that change, and the files.
    support: full
options:
  state:
    description:
      - V(applied) makes the addresses and routes of each interface that is named exactly the given ones, as far as they
        are ours.
      - V(confirmed) makes the last change permanent.
      - V(reverted) takes back all that was confirmed on the host, on every interface. A file that was changed since
        is named, and nothing is done.
      - V(gathered) returns what the host has.
    type: str
    choices: [applied, confirmed, reverted, gathered]
    default: applied
  device:
    description:
      - The interface, by its name or its MAC address. Empty means the one of the IPv4 default route.
      - One that no network manager knows, such as a port of its own for IPv6, goes to the manager of the IPv4 default
        route's interface and is switched on.
    type: str
    default: ""
  addresses:
    description: The addresses.
    type: list
    elements: dict
    default: []
    suboptions:
      address:
        description: The address with its prefix length.
        type: str
        required: true
      device:
        description: Its interface, O(device) if not given. The files of O(device) also hold those on V(lo).
        type: str
      deprecated:
        description: Whether the kernel takes it as the source only of what asks for it (RFC 4862 section 5.5.4).
        type: bool
        default: false
  routes:
    description: The routes.
    type: list
    elements: dict
    default: []
    suboptions:
      dest:
        description: A prefix without host bits, or V(default).
        type: str
        required: true
      via:
        description: The next hop; without it the destination is on the link.
        type: str
      type:
        description: V(unreachable) answers with an ICMPv6 error (RFC 4443 section 3.1).
        type: str
        choices: [unicast, unreachable]
        default: unicast
      metric:
        description: The metric, see ip-route(8).
        type: int
        default: 1024
      device:
        description: Its interface, O(device) if not given.
        type: str
  window:
    description: The seconds in which the confirmation must come.
    type: int
    default: 60
  backend:
    description: The network manager. V(auto) takes the one that configures the interface now, or fails.
    type: str
    choices: [auto, ifupdown, ifupdown2, networkd, netplan]
    default: auto
seealso:
  - name: interfaces(5)
    description: The files of ifupdown.
    link: https://manpages.debian.org/trixie/ifupdown/interfaces.5.en.html
  - name: systemd.network(5)
    description: The files of systemd-networkd.
    link: https://manpages.debian.org/trixie/systemd/systemd.network.5.en.html
"""

EXAMPLES = r"""
- name: Give the machine its address and its routes
  dualstack.fleet.network_change:
    addresses:
      - address: 2001:db8:100:1::c:11/128
      - address: 2001:db8:200:1011::1/128
        device: lo
    routes:
      - dest: 2001:db8:100:1::/64
      - dest: default
        via: fe80::1
      - dest: 2001:db8:200:1011::/64
        type: unreachable
        metric: 4096

- name: Come back over a new connection
  ansible.builtin.meta: reset_connection

- name: Keep the change
  dualstack.fleet.network_change:
    state: confirmed
"""

RETURN = r"""
rollback:
  description: What an earlier run left. With V(fired) its change was undone; a new V(applied) clears that.
  returned: success
  type: str
  sample: none
rollback_detail:
  description: A sentence about RV(rollback), empty for V(none).
  returned: O(state) is not V(confirmed)
  type: str
device:
  description: The interface.
  returned: O(state) is V(applied) or V(gathered)
  type: str
  sample: eth0
backend:
  description: The network manager, V(unknown) if V(gathered) finds none that is supported.
  returned: O(state) is V(applied) or V(gathered)
  type: str
  sample: ifupdown
commands:
  description: What was run, in order.
  returned: O(state) is V(applied) or V(reverted)
  type: list
  elements: str
  sample: ["ip -6 address replace 2001:db8:100:1::c:11/128 dev eth0"]
files:
  description: The files that were written or restored.
  returned: O(state) is V(applied) or V(reverted)
  type: list
  elements: str
confirm_by:
  description: When the rollback fires, in UTC.
  returned: changed by O(state=applied)
  type: str
  sample: "2026-01-02T03:04:05Z"
addresses:
  description: All IPv6 addresses with C(address), C(device) and C(flags).
  returned: O(state=gathered)
  type: list
  elements: dict
routes:
  description: The routes of the main table with C(dest), C(via), C(device), C(type), C(metric) and C(protocol).
  returned: O(state=gathered)
  type: list
  elements: dict
"""

from ansible.module_utils.basic import AnsibleModule

from ..module_utils._errors import DualStackError
from ..module_utils._network_change import Request, run

ADDRESS = {
    "address": {"type": "str", "required": True},
    "device": {"type": "str"},
    "deprecated": {"type": "bool", "default": False},
}
ROUTE = {
    "dest": {"type": "str", "required": True},
    "via": {"type": "str"},
    "type": {"type": "str", "choices": ["unicast", "unreachable"], "default": "unicast"},
    "metric": {"type": "int", "default": 1024},
    "device": {"type": "str"},
}


def main():
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "state": {
                "type": "str",
                "choices": ["applied", "confirmed", "reverted", "gathered"],
                "default": "applied",
            },
            "device": {"type": "str", "default": ""},
            "addresses": {"type": "list", "elements": "dict", "options": ADDRESS, "default": []},
            "routes": {"type": "list", "elements": "dict", "options": ROUTE, "default": []},
            "window": {"type": "int", "default": 60},
            "backend": {
                "type": "str",
                "choices": ["auto", "ifupdown", "ifupdown2", "networkd", "netplan"],
                "default": "auto",
            },
        },
        supports_check_mode=True,
    )
    try:
        result = run(Request(**module.params), module.check_mode)
    except DualStackError as error:
        module.fail_json(msg=str(error), **error.details)
    for text in result.pop("warnings", []):
        module.warn(text)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
