# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""What a host needs before it can be dual stack."""

from __future__ import annotations

DOCUMENTATION = r"""
module: readiness
short_description: Tell what a host needs before it can be dual stack
version_added: 0.1.0
description:
  - Reads distribution, kernel settings, network backend, IPv6 addresses with their flags, routes, listeners and old
    ways around IPv6, and gives a verdict with every reason. Changes nothing.
  - The verdict is V(ready), V(ready_after) (a setting or a reboot), V(work) (somebody has to look first) or V(cannot).
options:
  device:
    description: Interface that is to get the address. Defaults to the one of the IPv4 default route.
    type: str
    default: ""
  blocked:
    description: Why the host cannot be converted, in the operator's words. Makes the verdict V(cannot).
    type: str
    default: ""
attributes:
  check_mode:
    description: Reads in check mode too, since nothing is changed.
    support: full
  diff_mode:
    description: There is nothing to show a difference of.
    support: none
author:
  - The dualstack.fleet developers (@dualstack)
"""

EXAMPLES = r"""
- name: Find out what the host needs
  dualstack.fleet.readiness:
  register: result
"""

RETURN = r"""
verdict:
  description: V(ready), V(ready_after), V(work) or V(cannot).
  returned: success
  type: str
  sample: ready_after
reasons:
  description: Everything that stands against V(ready), each with the verdict that it leads to.
  returned: success
  type: list
  elements: dict
  sample:
    - code: sysctl
      verdict: ready_after
      text: net.ipv6.conf.all.disable_ipv6 is 1 (set in /etc/sysctl.d/10-no-ipv6.conf); set it to 0, no reboot is needed
facts:
  description: What was read.
  returned: success
  type: dict
  sample: {distribution: debian, release: "13", device: eth0, backend: networkd}
ipv4_only:
  description: TCP services that the network reaches over IPv4 and not over IPv6.
  returned: success
  type: list
  elements: dict
  sample:
    - {port: 25, process: master}
record:
  description: The state record of the host, as M(dualstack.fleet.host_state) keeps it.
  returned: success
  type: dict
  sample: {state: audited}
"""

from dataclasses import asdict

from ansible.module_utils.basic import AnsibleModule

from ..module_utils._errors import DualStackError
from ..module_utils._files import read_file
from ..module_utils._readiness import examine, ipv4_only, judge
from ..module_utils._state import FACT, parse


def main() -> None:
    module = AnsibleModule(
        argument_spec={"device": {"default": ""}, "blocked": {"default": ""}},
        supports_check_mode=True,
    )
    try:
        facts = examine(module.params["device"])
        verdict, reasons = judge(facts, module.params["blocked"])
        record = parse(read_file(FACT))
    except DualStackError as error:
        module.fail_json(msg=str(error), **error.details)
    module.exit_json(
        verdict=verdict,
        reasons=[asdict(reason) for reason in reasons],
        facts=facts.public(),
        ipv4_only=ipv4_only(facts.listeners),
        record=record.public(),
    )


if __name__ == "__main__":
    main()
