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
  - Reads and never changes anything. Mail is not sent, and nobody logs in without O(accounts).
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
          - V(smtp), V(submission) and V(submissions) compare the name in the greeting and the extensions of EHLO
            (RFC 5321), V(imap), V(imaps), V(pop3) and V(pop3s) what the server can before login. Where STARTTLS is
            offered, the connection is encrypted and the certificate compared.
          - V(ftp) compares the features (RFC 2389), the certificate where C(AUTH TLS) is offered, and with O(accounts)
            whether a listing comes over a passive data connection (EPSV over IPv6, PASV over IPv4).
          - V(http) compares status, redirection and body, V(https) the certificate too. V(acme) is V(http) at the place
            where a certificate authority looks (RFC 8555 section 8.3).
          - V(dns) compares the response code and the number of answers, V(ssh) the identification string.
          - V(closed) compares which of O(targets[].ports) take a connection. More of them over IPv6 is V(exposed).
          - V(mtu) sends an echo request of O(targets[].min_bytes) over IPv6 after a small one. It proves nothing where
            echo requests are not answered, or where the user of the vantage host may not send any; a remark tells.
        type: str
        required: true
        choices:
          - smtp
          - submission
          - submissions
          - imap
          - imaps
          - pop3
          - pop3s
          - ftp
          - http
          - acme
          - https
          - ssh
          - dns
          - tcp
          - closed
          - mtu
      port:
        description:
          - Port of the service, 1 to 65535. Defaults to the registered port of O(targets[].protocol), V(tcp) has none.
          - V(closed) and V(mtu) have no port.
        type: int
      ports:
        description:
          - The ports that V(closed) compares, each 1 to 65535. Those that other targets ask of the host are left out.
          - A port that takes no connection over IPv4 any more after the one over IPv6 is V(crashed).
        type: list
        elements: int
        default: []
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
        description:
          - The name that the client asks for, as Host header of HTTP and as server name of TLS. Defaults to
            O(targets[].name).
          - A certificate that is not for this name is a remark.
        type: str
        default: ""
      path:
        description: The path of V(http), V(https) and V(acme). Empty is C(/), for V(acme) a place that nobody uses.
        type: str
        default: ""
      min_bytes:
        description:
          - How many bytes the body of V(http) and V(https) must have at least, 0 to 8388608. A large body proves that
            full-size packets get through.
          - The size of the whole packet of V(mtu), 1280 to 65535. V(0) is 1500 there.
        type: int
        default: 0
      optional:
        description:
          - Whether the service need not be there. Where its port takes no connection over IPv4, or nothing healthy
            answers there, its verdict is V(absent), or V(exposed) when only IPv6 takes a connection.
          - Of no effect for V(closed) and V(mtu); V(dns) is V(absent) where it does not answer over IPv4.
        type: bool
        default: false
      prefix:
        description:
          - The prefix that is delegated to the host. When nothing at its addresses answers or refuses, and the host's
            other addresses do, its route is missing, and C(reason) names it.
        type: str
        default: ""
      dns_name:
        description: The name that V(dns) asks for, with a query for A records over UDP. Required for V(dns).
        type: str
        default: ""
  accounts:
    description: The FTP accounts of hosts. Without one, nobody tries to log in, as that would look like an attack.
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: The O(targets[].name) of the host.
        type: str
        required: true
      account:
        description: User and password. Where the server takes TLS, they are sent encrypted.
        type: dict
        required: true
        suboptions:
          user:
            description: Name of the user.
            type: str
            required: true
          password:
            description: Password of the user.
            type: str
            required: true
  timeout:
    description:
      - Seconds that each answer in a conversation may take. A body that keeps coming may take twelve times as long, the
        rest of a greeting that has begun three times, and V(closed) two seconds.
    type: float
    default: 5
  recovery:
    description: Seconds to wait until a service that died answers over IPv4 again.
    type: float
    default: 10
  names:
    description: Hosts as the DNS is to know them. Needs O(resolver), and decides nothing.
    type: list
    elements: dict
    default: []
    suboptions:
      name:
        description: The O(targets[].name) of the host.
        type: str
        required: true
      domain:
        description: Its name in the DNS, whole.
        type: str
        required: true
      zone:
        description: The zone whose name servers and mail exchangers are asked for.
        type: str
        required: true
      ipv4:
        description: IPv4 address of the name.
        type: str
        required: true
      ipv6:
        description: IPv6 address of the name.
        type: str
        required: true
      source:
        description: IPv6 address that the host sends mail from. Without it nobody asks for HELO and SPF.
        type: str
        default: ""
      helo:
        description:
          - The name that it says HELO with. Defaults to the one that its V(smtp) greets with, else O(names[].domain).
        type: str
        default: ""
  resolver:
    description: Address of the name server that is asked for O(names), an IPv4 or IPv6 literal. Empty asks for none.
    type: str
    default: ""
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
      - {name: web2, protocol: closed, ports: [3306, 5432], ipv4: 192.0.2.12, ipv6: "2001:db8:100:1::c:1012"}
    control: {ipv4: 198.51.100.1, ipv6: "2001:db8:ffff::1", port: 22}
  delegate_to: vantage1
  run_once: true
  register: result
"""

RETURN = r"""
results:
  description:
    - One entry for each target, in order.
    - C(verdict) is V(same), V(differs), V(ipv4_failed), V(ipv6_failed), V(both_failed), V(path_mtu), V(exposed),
      V(crashed), V(absent) or V(inconclusive).
    - C(detail) names address, port and error. C(down_ms) tells how long a crashed service was away, in milliseconds,
      and is null when it did not come back.
    - An answer has C(latency_ms) of the whole conversation, C(source) the vantage host's own address, C(seen) the
      address that the server names where it does (EHLO of Exim and Sendmail), C(certificate) with names, end and
      SHA-256, C(size) the bytes of a body, C(open) the ports of V(closed).
    - C(remarks), where there are any, tell what has nothing to do with the family, such as a certificate that ends
      soon.
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
    - For each name, C(ok) tells whether all its services are the same over both families, or absent, and
      C(conclusive) whether every failure counts against the host.
    - C(reason) says what is wrong in words that stay the same, C(detail) with addresses and errors.
    - C(results) is a short list to keep as evidence. Left out are services that are V(absent), and what V(closed),
      V(mtu) and V(acme) found in order; C(checks) tells which of these three were asked.
    - C(criteria), for O(names), tells of each criterion whether it is C(met), true, false or null where nobody could
      tell, and what is C(missing). C(forward), C(reverse), C(reverse_ipv4), C(helo) and C(spf) are the records of the
      host, C(web_ipv6_*) and C(mail_ipv6_*) what internet.nl asks for, C(sidn_*) the scorecard of SIDN.
    - C(latency_ms) is the median of each family in milliseconds, null where nothing answered.
  returned: success
  type: dict
  sample:
    web1:
      ok: false
      conclusive: true
      verdicts: [ipv6_failed]
      checks: []
      reason: smtp on port 25 does not answer over IPv6
      detail: "web1 smtp: [2001:db8:100:1::c:1011]:25: Connection refused"
      remarks: []
      latency_ms: {ipv4: 1.2, ipv6: null}
      criteria: {}
      results:
        - {protocol: smtp, port: 25, ipv4: true, ipv6: false, verdict: ipv6_failed}
time:
  description: When the answers were read, ISO 8601 in UTC.
  returned: success
  type: str
  sample: "2026-11-23T10:00:00Z"
"""

from ansible.module_utils.basic import AnsibleModule

from ..module_utils import _criteria
from ..module_utils._errors import DualStackError
from ..module_utils._lookup import Resolver
from ..module_utils._probe import PORTS, by_host, now, probe, targets

TARGET = {
    "name": {"required": True},
    "protocol": {"required": True, "choices": list(PORTS)},
    "port": {"type": "int"},
    "ipv4": {"required": True},
    "ipv6": {"type": "list", "elements": "str", "required": True},
    "host_header": {"default": ""},
    "path": {"default": ""},
    "dns_name": {"default": ""},
    "min_bytes": {"type": "int", "default": 0},
    "ports": {"type": "list", "elements": "int", "default": []},
    "prefix": {"default": ""},
    "optional": {"type": "bool", "default": False},
}
LOGIN = {"user": {"required": True}, "password": {"required": True, "no_log": True}}
ACCOUNT = {"name": {"required": True}, "account": {"type": "dict", "required": True, "options": LOGIN}}
NAME = {
    **{key: {"required": True} for key in ("name", "domain", "zone", "ipv4", "ipv6")},
    **{key: {"default": ""} for key in ("source", "helo")},
}
CONTROL = {"ipv4": {"default": ""}, "ipv6": {"default": ""}, "port": {"type": "int", "default": 22}}


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "targets": {"type": "list", "elements": "dict", "required": True, "options": TARGET},
            "accounts": {"type": "list", "elements": "dict", "default": [], "options": ACCOUNT},
            "names": {"type": "list", "elements": "dict", "default": [], "options": NAME},
            "resolver": {"default": ""},
            "timeout": {"type": "float", "default": 5},
            "recovery": {"type": "float", "default": 10},
            "control": {"type": "dict", "options": CONTROL},
        },
        supports_check_mode=True,
    )
    given = module.params
    try:
        wanted, names = targets(given["targets"], given["accounts"]), _criteria.subjects(given["names"])
        resolver = Resolver(given["resolver"], timeout=given["timeout"]) if given["resolver"] else None
        results = probe(wanted, given["timeout"], given["recovery"], given["control"])
        met = _criteria.by_host(names, resolver, results)
    except DualStackError as error:
        module.fail_json(msg=str(error), **error.details)
    hosts = {name: {**told, "criteria": met.get(name, {})} for name, told in by_host(results).items()}
    module.exit_json(results=[result.public() for result in results], by_host=hosts, time=now())


if __name__ == "__main__":
    main()
