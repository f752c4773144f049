# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The files in which Postfix looks up a client's address."""

from __future__ import annotations

DOCUMENTATION = r"""
module: postfix_tables
short_description: Find the files in which Postfix looks up a client's address
version_added: 0.1.0
description:
  - Asks postconf(1) for the tables in lists of client networks, such as C(mynetworks), and behind
    C(check_client_access), and returns what M(dualstack.fleet.config_files) needs to give their IPv4 networks twins.
  - Changes nothing. A table that is no file, such as C(mysql:) or C(ldap:), is an error that names it. So is a line
    of a C(pcre:) or C(regexp:) table that matches IPv4 addresses.
options:
  networks:
    description: IPv4 prefixes with the IPv6 prefixes of the same machines.
    type: dict
    required: true
  known:
    description: Tables that cannot be edited and have their twins, as they stand in Postfix' configuration, such as
      V(mysql:/etc/postfix/relays.cf).
    type: list
    elements: str
    default: []
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
- name: Find the tables of clients
  dualstack.fleet.postfix_tables:
    networks: {"192.0.2.0/24": ["2001:db8::/64"]}
  register: result
"""

RETURN = r"""
files:
  description: Entries for O(dualstack.fleet.config_files#module:files).
  returned: success
  type: list
  elements: dict
  sample:
    - {path: /etc/postfix/clients, format: postfix_cidr, set: {networks: {"192.0.2.0/24": ["2001:db8::/64"]}}}
commands:
  description: Commands that make the index files anew, for O(dualstack.fleet.config_files#module:apply).
  returned: success
  type: list
  elements: list
  sample: [[postmap, "hash:/etc/postfix/relays"]]
problems:
  description: All that stands against it.
  returned: failure
  type: list
  elements: str
"""

from ansible.module_utils.basic import AnsibleModule

from ..module_utils._command import run
from ..module_utils._edit_postfix_twins import Twins
from ..module_utils._errors import DualStackError, InputError
from ..module_utils._postfix_tables import FORMATS, find, index_commands, parameters, patterns


def _read(path):
    try:
        with open(path, encoding="utf-8", errors="replace") as stream:
            return stream.read()
    except OSError:
        return None


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "networks": {"type": "dict", "required": True},
            "known": {"type": "list", "elements": "str", "default": []},
        },
        supports_check_mode=True,
    )
    networks = module.params["networks"]
    try:
        outcomes = [run(["postconf", options]) for options in ("-nx", "-Px")]
        if outcomes[0].rc == 127:  # not installed
            module.exit_json(files=[], commands=[])
        for outcome in outcomes:
            if outcome.rc:
                raise DualStackError(f"postconf: rc {outcome.rc}: {outcome.output}")
        values, known = parameters(*(outcome.output for outcome in outcomes)), module.params["known"]
        tables = find(values, Twins(networks), known)
        problems = patterns(values, known, _read)
        if problems:
            raise InputError(problems)
    except DualStackError as error:
        module.fail_json(msg=str(error), **error.details)
    module.exit_json(
        files=[{"path": table.path, "format": FORMATS[table.type], "set": {"networks": networks}} for table in tables],
        commands=index_commands(tables),
    )


if __name__ == "__main__":
    main()
