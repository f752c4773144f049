# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Publish and withdraw AAAA and PTR records by dynamic update."""

from __future__ import annotations

DOCUMENTATION = r"""
module: dns_publish
short_description: Publish and withdraw AAAA and PTR records without touching anybody else's
version_added: 0.1.0
description:
  - Reads what the name server holds, decides for all records of the call, and sends one dynamic update for each zone
    (RFC 2136), signed with a TSIG key (RFC 8945).
  - A name that holds a value which this call does not name is a conflict. Nothing of the call is published then.
    The update carries the sets that were read as prerequisites, so that a change in between is refused by the server.
  - When the update of a later zone fails, the zones before it are taken back.
  - A name that must have an IPv4 address, too, is a conflict while its A set lacks that one. The server refuses the
    update when the A set changes in between.
  - PTR records are published before AAAA records and withdrawn after them.
requirements:
  - dnspython 2.0 or later, on the host that runs the module
options:
  server:
    description: Address of the zones' primary name server, an IPv4 or IPv6 literal. Names are not looked up.
    type: str
    required: true
  port:
    description: TCP port of the name server, 1 to 65535.
    type: int
    default: 53
  key_name:
    description: Name of the TSIG key. Without it, messages are not signed.
    type: str
    default: ""
  key_secret:
    description: Secret of the TSIG key, in base64.
    type: str
    default: ""
  key_algorithm:
    description: Algorithm of the TSIG key, RFC 8945 section 6.
    type: str
    default: hmac-sha256
    choices: [hmac-sha256, hmac-sha384, hmac-sha512]
  records:
    description: The records. All values of one name and type together are the wanted set.
    type: list
    elements: dict
    required: true
    suboptions:
      name:
        description: Owner name, whole. For a PTR record the name below C(ip6.arpa).
        type: str
        required: true
      zone:
        description: Zone that holds the name.
        type: str
        required: true
      type:
        description: Type of the record.
        type: str
        required: true
        choices: [AAAA, PTR]
      value:
        description: The address of AAAA, the host name of PTR.
        type: str
        required: true
      ttl:
        description: Time to live in seconds, 0 to 2147483647 (RFC 2181 section 8).
        type: int
        default: 300
      ipv4:
        description:
          - For AAAA, an IPv4 address that the name must have in the same zone, so that a name which has gone to another
            machine does not lead half there and half here. Empty asks for none.
        type: str
        default: ""
      state:
        description: State of this record alone. Defaults to O(state).
        type: str
        choices: [present, absent, lowered]
  state:
    description:
      - V(absent) removes exactly the values of the records, and leaves others of the same name.
      - V(lowered) gives the records that are there O(records[].ttl) where theirs is longer, and adds none. After
        C(cached_seconds) no resolver holds them for longer than that, so that a change or a removal is seen soon.
    type: str
    default: present
    choices: [present, absent, lowered]
  timeout:
    description: Seconds that one answer of the name server may take.
    type: float
    default: 5
attributes:
  check_mode:
    description: Reads the zones, finds conflicts and says what would change.
    support: full
  diff_mode:
    description: Shows the changed sets before and after, as lines of a zone file.
    support: full
author:
  - The dualstack.fleet developers (@dualstack)
"""

EXAMPLES = r"""
- name: Publish the address of a host, both ways
  dualstack.fleet.dns_publish:
    server: 192.0.2.53
    key_name: dualstack.
    key_secret: "{{ vault_dualstack_tsig }}"
    records:
      - name: web1.example.net
        zone: example.net
        type: AAAA
        value: 2001:db8:100:1::c:1011
      - name: 1.1.0.1.c.0.0.0.0.0.0.0.0.0.0.0.1.0.0.0.0.0.1.0.8.b.d.0.1.0.0.2.ip6.arpa
        zone: 8.b.d.0.1.0.0.2.ip6.arpa
        type: PTR
        value: web1.example.net
  delegate_to: localhost
  run_once: true
"""

RETURN = r"""
added:
  description: The records that were added, as lines of a zone file.
  returned: success
  type: list
  elements: str
  sample: [web1.example.net. 300 IN AAAA 2001:db8:100:1::c:1011]
removed:
  description: The records that were removed, as lines of a zone file.
  returned: success
  type: list
  elements: str
  sample: []
cached_seconds:
  description: For how many seconds resolvers may still hold what was removed, or what had a longer time to live.
  returned: success
  type: int
  sample: 0
seconds:
  description: How many seconds the whole call took.
  returned: success
  type: float
  sample: 0.08
conflicts:
  description: The sets that hold somebody else's values.
  returned: when there are conflicts
  type: list
  elements: dict
  sample:
    - {name: web1.example.net., type: AAAA, found: ["2001:db8::1"], wanted: ["2001:db8:100:1::c:1011"]}
"""

import time
import traceback

from ansible.module_utils.basic import AnsibleModule, missing_required_lib

from ..module_utils._dns import publish, summary, wishes
from ..module_utils._errors import DualStackError
from ..module_utils._nameserver import NameServer

try:
    import dns.flags
    import dns.message
    import dns.query
    import dns.rcode
    import dns.rdatatype
    import dns.tsig
    import dns.update
except ImportError:
    MISSING = traceback.format_exc()
else:
    MISSING = None

SERVER = {
    "server": {"required": True},
    "port": {"type": "int", "default": 53},
    "key_name": {"default": "", "no_log": False},
    "key_secret": {"default": "", "no_log": True},
    "key_algorithm": {"choices": ["hmac-sha256", "hmac-sha384", "hmac-sha512"], "default": "hmac-sha256"},
    "timeout": {"type": "float", "default": 5},
}
STATES = ["present", "absent", "lowered"]
RECORD = {
    "name": {"required": True},
    "zone": {"required": True},
    "type": {"required": True, "choices": ["AAAA", "PTR"]},
    "value": {"required": True},
    "ttl": {"type": "int", "default": 300},
    "ipv4": {"default": ""},
    "state": {"choices": STATES},
}


def main():
    module = AnsibleModule(
        argument_spec={
            **SERVER,
            "records": {"type": "list", "elements": "dict", "required": True, "options": RECORD},
            "state": {"choices": STATES, "default": "present"},
        },
        supports_check_mode=True,
    )
    if MISSING:
        module.fail_json(msg=missing_required_lib("dnspython"), exception=MISSING)
    begun = time.monotonic()
    try:
        given = module.params
        server = NameServer(dns, **{key: given[key] for key in SERVER})
        changes = publish(server, wishes(given["records"], given["state"]), check=module.check_mode)
    except DualStackError as error:
        module.fail_json(msg=str(error), **error.details)
    module.exit_json(**summary(changes), seconds=round(time.monotonic() - begun, 2))


if __name__ == "__main__":
    main()
