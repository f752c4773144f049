# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Ask services from outside, over IPv4 and over IPv6, and compare."""

from __future__ import annotations

DOCUMENTATION = r"""
module: service_probe
short_description: Prove from another host that services answer the same over IPv4 and IPv6
version_added: 0.1.0
description:
  - Runs on a vantage host, outside of the network of the targets, and asks every service over IPv4, then over each of
    its IPv6 addresses, then over IPv4 again. No family ever stands in for the other.
  - The last question finds a service that dies of an IPv6 connection. The module then waits until it answers again.
  - All targets are asked at the same time, so that one call serves a whole wave. Needs Python's standard library only.
  - Reads and never changes anything. Mail is not sent and nobody logs in.
options:
  targets:
    description: The services to ask.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: Host that the service belongs to. Results are grouped by it.
        type: str
        required: true
      protocol:
        description:
          - What the client says. V(tcp) only connects.
          - V(http) compares status and body, V(https) the certificate too, V(dns) the response code and the number of
            answers, V(smtp) and V(submission) the name in the greeting, V(ssh) the identification string.
        type: str
        required: true
        choices: [smtp, submission, imap, pop3, ftp, http, https, ssh, dns, tcp]
      port:
        description: Port of the service, 1 to 65535. Defaults to the registered port of O(targets[].protocol).
        type: int
      ipv4:
        description: IPv4 address, a literal. Names are not looked up.
        type: str
        required: true
      ipv6:
        description: IPv6 addresses, literals. Each must give the same answer as O(targets[].ipv4).
        type: list
        elements: str
        required: true
      host_header:
        description: The Host header of V(http). Defaults to O(targets[].name).
        type: str
        default: ""
      path:
        description: The path of V(http).
        type: str
        default: /
      dns_name:
        description: The name that V(dns) asks for, with a query for A records over UDP. Required for V(dns).
        type: str
        default: ""
  timeout:
    description: Seconds that one answer may take.
    type: float
    default: 5
  recovery:
    description: Seconds to wait until a service that died answers over IPv4 again.
    type: float
    default: 10
  control:
    description:
      - A host that surely answers over both families. When it does not answer over IPv6 either, the vantage host is
        at fault, and a failure is V(inconclusive).
    type: dict
    suboptions:
      ipv4:
        description: IPv4 address of the control host.
        type: str
        default: ""
      ipv6:
        description: IPv6 address of the control host.
        type: str
        default: ""
      port:
        description: A TCP port that is open on the control host, 1 to 65535.
        type: int
        default: 22
attributes:
  check_mode:
    description: Asks in check mode too, since nothing is changed.
    support: full
  diff_mode:
    description: There is nothing to show a difference of.
    support: none
author:
  - The dualstack.fleet developers (@dualstack)
"""

EXAMPLES = r"""
- name: Ask the mail and web service of two hosts
  dualstack.fleet.service_probe:
    targets:
      - {name: web1, protocol: smtp, ipv4: 192.0.2.11, ipv6: "2001:db8:100:1::c:1011"}
      - {name: web1, protocol: http, ipv4: 192.0.2.11, ipv6: ["2001:db8:100:1::c:1011", "2001:db8:200:1011::1"]}
      - {name: web2, protocol: http, port: 8080, ipv4: 192.0.2.12, ipv6: "2001:db8:100:1::c:1012"}
    control: {ipv4: 198.51.100.1, ipv6: "2001:db8:ffff::1", port: 22}
  delegate_to: vantage1
  run_once: true
  register: result
"""

RETURN = r"""
results:
  description:
    - One entry for each target, in order.
    - C(verdict) is V(same), V(differs), V(ipv4_failed), V(ipv6_failed), V(both_failed), V(crashed) or V(inconclusive).
    - C(detail) names address, port and error. C(down_ms) tells how long a crashed service was away, in milliseconds,
      and is null when it did not come back.
  returned: success
  type: list
  elements: dict
  sample:
    - name: web1
      protocol: smtp
      port: 25
      verdict: ipv6_failed
      detail: "web1 smtp: [2001:db8:100:1::c:1011]:25: Connection refused"
      ipv4: {address: 192.0.2.11, ok: true, latency_ms: 1.2, banner: 220 web1.example.net ESMTP Postfix}
      ipv6:
        - {address: "2001:db8:100:1::c:1011", ok: false, latency_ms: 0.4, error: Connection refused}
by_host:
  description:
    - For each name, C(ok) tells whether all its services are the same over both families, and C(conclusive) whether
      every failure counts against the host.
    - C(reason) says what is wrong in words that stay the same, C(detail) with addresses and errors.
    - C(results) is a short list to keep as evidence.
  returned: success
  type: dict
  sample:
    web1:
      ok: false
      conclusive: true
      verdicts: [ipv6_failed]
      reason: smtp on port 25 does not answer over IPv6
      detail: "web1 smtp: [2001:db8:100:1::c:1011]:25: Connection refused"
      results:
        - {protocol: smtp, port: 25, ipv4: true, ipv6: false, verdict: ipv6_failed}
time:
  description: When the answers were read, ISO 8601 in UTC.
  returned: success
  type: str
  sample: "2026-11-23T10:00:00Z"
"""

from ansible.module_utils.basic import AnsibleModule

from ..module_utils._errors import DualStackError
from ..module_utils._probe import PORTS, by_host, now, probe, targets

TARGET = {
    "name": {"required": True},
    "protocol": {"required": True, "choices": list(PORTS)},
    "port": {"type": "int"},
    "ipv4": {"required": True},
    "ipv6": {"type": "list", "elements": "str", "required": True},
    "host_header": {"default": ""},
    "path": {"default": "/"},
    "dns_name": {"default": ""},
}
CONTROL = {"ipv4": {"default": ""}, "ipv6": {"default": ""}, "port": {"type": "int", "default": 22}}


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "targets": {"type": "list", "elements": "dict", "required": True, "options": TARGET},
            "timeout": {"type": "float", "default": 5},
            "recovery": {"type": "float", "default": 10},
            "control": {"type": "dict", "options": CONTROL},
        },
        supports_check_mode=True,
    )
    given = module.params
    try:
        results = probe(targets(given["targets"]), given["timeout"], given["recovery"], given["control"])
    except DualStackError as error:
        module.fail_json(msg=str(error), **error.details)
    module.exit_json(results=[result.public() for result in results], by_host=by_host(results), time=now())


if __name__ == "__main__":
    main()
