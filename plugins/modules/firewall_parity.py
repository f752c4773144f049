#!/usr/bin/python
# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Ansible's side of the packet filter for IPv6."""

from __future__ import annotations

DOCUMENTATION = r"""
module: firewall_parity
short_description: Let in over IPv6 what the host's packet filter lets in over IPv4, and nothing more
version_added: 0.2.0
author: The dualstack.fleet developers (@dualstack)
description:
  - Reads the rules that IPv4 packets pass on their way into the host, from nftables, iptables-nft and iptables-legacy,
    which are also what ufw, firewalld and ferm make. It asks them port by port what a stranger may reach, and what each
    network of O(twins) may reach, and puts the same into a table of its own, C(inet dualstack), for IPv6 alone.
  - No other table is touched and nothing is flushed. A packet passes only if every table lets it pass, so the host's
    own rules for IPv6 stay in force; this table can only close.
  - Where the host's own rules for IPv6, such as those of ufw or firewalld, let in no more than its rules for IPv4,
    there is no table, so that whoever opens a port with that program opens it for both families. What may come in over
    IPv6 counts as coming in, what only may come in over IPv4 does not. What those rules keep out although IPv4 lets it
    in is named in RV(notes).
  - ICMPv6 passes as RFC 4890, section 4.4, asks for a host; neighbour discovery only with hop limit 255.
  - The change is commit-confirmed as in M(dualstack.fleet.network_change). The table comes back at boot, and after
    Debian's C(nftables.service) has flushed all tables, also when that unit is stopped.
  - A rule that cannot be read, such as one that asks an ipset, lets nobody in, and is named in RV(notes). So is one
    that limits the rate, which is not carried over. What NAT redirects is not looked at. An IPv4 network that
    rules shut out has no counterpart in IPv6 unless O(twins) gives it one.
  - Forwarded packets get no rules. A host that forwards IPv6 and guards only IPv4 on that way is told so by a warning.
attributes:
  check_mode:
    description: Reports what would change and changes nothing.
    support: full
  diff_mode:
    description: Returns the files that change.
    support: full
options:
  state:
    description:
      - V(applied) makes the table what O(policy) says and starts the timer that takes it back.
      - V(confirmed), over a new connection, makes the last change permanent.
      - V(reverted) removes the table and the files, and restores what was there before.
      - V(gathered) returns what IPv4 lets in, and what would be let in over IPv6.
    type: str
    choices: [applied, confirmed, reverted, gathered]
    default: applied
  policy:
    description:
      - V(parity) lets in what IPv4 lets in. Where no filter is loaded for IPv4 there is none for IPv6, and a warning.
      - V(deny) lets in O(accept) only, and answers to what the host has asked.
      - V(none) has no table.
    type: str
    choices: [parity, deny, none]
    default: parity
  device:
    description:
      - The interface that visitors come in on; its rules are those of every interface that no rule names. Empty means
        the one of the IPv4 default route, or no particular one where there is no such route.
    type: str
    default: ""
  twins:
    description:
      - IPv4 networks, each with its IPv6 network or a list of them. What a rule lets in from the first may come from
        the others.
    type: dict
    default: {}
  accept:
    description: Ports that everybody may reach, whatever IPv4 does.
    type: list
    elements: dict
    default: []
    suboptions:
      port:
        description: A port, or a range such as V(30000-30100).
        type: str
        required: true
      protocol:
        description: The transport protocol.
        type: str
        choices: [tcp, udp]
        default: tcp
  window:
    description: Seconds that the host waits for the confirmation, at least 5.
    type: int
    default: 60
"""

EXAMPLES = r"""
- name: Close over IPv6 what is closed over IPv4
  dualstack.fleet.firewall_parity:
    twins: {192.0.2.0/24: "2001:db8:100:1::/64"}

- name: Come back over a new connection
  ansible.builtin.meta: reset_connection

- name: Keep the rules
  dualstack.fleet.firewall_parity:
    state: confirmed
"""

RETURN = r"""
rollback:
  description: What an earlier run left, V(none), V(pending) or V(fired); RV(rollback_detail) is a sentence about it.
  returned: always
  type: str
rollback_detail:
  description: A sentence about RV(rollback).
  returned: O(state) is V(applied) or V(gathered)
  type: str
filtered:
  description: Whether there is a table of ours. There is none where IPv4 lets everything in, or with RV(own_rules).
  returned: O(state) is V(applied) or V(gathered)
  type: bool
openings:
  description:
    - What is let in, with C(device), C(source), C(tcp), C(udp) and C(protocols). No device stands for all others.
  returned: O(state) is V(applied) or V(gathered)
  type: list
  elements: dict
  sample: [{device: "", source: "::/0", tcp: ["22", "80"], udp: [], protocols: []}]
own_rules:
  description:
    - Whether the host's own rules for IPv6 let in no more than those for IPv4, so that there is no table of ours.
  returned: O(state) is V(applied) or V(gathered)
  type: bool
makers:
  description: The programs that make the host's own rules, each with the place of its files. They are left alone.
  returned: O(state) is V(applied) or V(gathered)
  type: list
  elements: str
  sample: [ferm (/etc/ferm/ferm.conf)]
notes:
  description:
    - Rules that could not be read to the end or that limit the rate; what the host's own rules for IPv6 keep out; TCP
      ports that listen on IPv6 only. With O(state=applied) they are warnings, too.
  returned: O(state) is V(applied) or V(gathered)
  type: list
  elements: str
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
"""

from ansible.module_utils.basic import AnsibleModule

from ..module_utils._errors import DualStackError
from ..module_utils._firewall import Request, run

ACCEPT = {
    "port": {"type": "str", "required": True},
    "protocol": {"type": "str", "choices": ["tcp", "udp"], "default": "tcp"},
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
            "policy": {"type": "str", "choices": ["parity", "deny", "none"], "default": "parity"},
            "device": {"type": "str", "default": ""},
            "twins": {"type": "dict", "default": {}},
            "accept": {"type": "list", "elements": "dict", "options": ACCEPT, "default": []},
            "window": {"type": "int", "default": 60},
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
