# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The only writer of the ledger of an address plan."""

from __future__ import annotations

DOCUMENTATION = r"""
module: address_ledger
short_description: Give hosts their places in the ledger of an address plan
version_added: 0.1.0
description:
  - Gives every host and vhost of kind C(auto) an index in the ledger beside the plan, and never changes one that is
    there. The ledger is a file of JSON Lines for version control.
  - Runs on the controller. The playbook C(dualstack.fleet.plan) calls it, with the options O(rename), O(move),
    O(adopt), O(prune), O(prune_max) and O(gc) in the variables C(plan_rename) and so on.
  - All errors of plan, hosts and ledger are reported at once. Nothing is written when there is any.
  - The ledger is read again under a lock (C(flock) on a file beside it, named like it with C(.lock) behind), written
    to a temporary file, flushed to disk and renamed. A ledger that somebody changes meanwhile is not overwritten.
options:
  plan:
    description: The plan file, as P(dualstack.fleet.plan#inventory) documents it.
    type: path
    required: true
  hosts:
    description:
      - All hosts of the inventory, a mapping of name to C(groups) (list) and the variables that the plan reads.
    type: dict
    required: true
  ledger:
    description: The ledger. Defaults to the file that the plan names, beside the plan.
    type: path
  state:
    description:
      - V(allocated) gives whoever lacks an index one, and applies the options O(rename), O(move), O(adopt), O(prune)
        and O(gc), in this order of the first three and before and behind the allocation.
      - V(validated) checks plan, hosts and ledger as every play does, and changes nothing. A host without its record
        is an error.
    type: str
    choices: [allocated, validated]
    default: allocated
  rename:
    description: Identities that have changed, a mapping of old to new. Their indices stay.
    type: dict
    default: {}
  move:
    description: Identities that get another index. What they had goes into quarantine.
    type: list
    elements: dict
    default: []
    suboptions:
      pool:
        description: Pool in the ledger, as its key C(p) has it.
        type: str
        required: true
      identity:
        description: Identity in the ledger, as its key C(id) has it.
        type: str
        required: true
      index:
        description: The new index, a quoted hex string.
        type: str
        required: true
  adopt:
    description:
      - Addresses that hosts carry already, a mapping of name to a list of addresses, with or without their lengths.
      - An address in the block of the host's class becomes a record of the ledger, or one of RV(suggested_pins) when
        the plan decides, not the ledger. Other addresses are not looked at.
      - All conflicts are reported at once, and nothing is adopted then.
    type: dict
    default: {}
  prune:
    description: Whether to release the records of hosts and vhosts that are gone. They go into quarantine.
    type: bool
    default: false
  prune_max:
    description:
      - How many records O(prune) may release. More than a tenth of the ledger, and more than 20, are refused otherwise,
        because an inventory of which a part could not be read looks the same.
    type: int
    default: 0
  gc:
    description: Whether to forget the records whose quarantine is over.
    type: bool
    default: false
  today:
    description: The date of new records, in ISO 8601. Defaults to the date of the controller.
    type: str
    default: ""
  lock_timeout:
    description: How long to wait for another run that has the lock, in seconds.
    type: float
    default: 30
requirements:
  - PyYAML
attributes:
  check_mode:
    description: Shows what would be written, and writes nothing.
    support: full
  diff_mode:
    description: Shows the ledger before and after.
    support: full
seealso:
  - plugin: dualstack.fleet.plan
    plugin_type: inventory
author:
  - The dualstack.fleet developers (@dualstack)
"""

EXAMPLES = r"""
- name: Give a new host its place in the ledger
  delegate_to: localhost
  dualstack.fleet.address_ledger:
    plan: inventories/example/90-plan.yml
    hosts:
      ci3: {groups: [build]}

- name: Rename a host, and let go of those that are gone
  delegate_to: localhost
  dualstack.fleet.address_ledger:
    plan: "{{ dualstack_plan_input.plan }}"
    hosts: "{{ dualstack_plan_input.hosts }}"
    rename: {ci1: build1}
    prune: true
"""

RETURN = r"""
added:
  description: New records.
  returned: success
  type: list
  elements: dict
  sample: [{"i": "c6ab", "id": "ci1", "p": "device/build"}]
restored:
  description: Records of identities that have come back, with the index that they had.
  returned: success
  type: list
  elements: dict
released:
  description: Records that have gone into quarantine.
  returned: success
  type: list
  elements: dict
renamed:
  description: Records that have another identity.
  returned: success
  type: list
  elements: dict
collected:
  description: Records whose quarantine is over and which are forgotten.
  returned: success
  type: list
  elements: dict
quarantined:
  description: Number of records in quarantine.
  returned: success
  type: int
suggested_pins:
  description: Pins to add to the plan by class, so that hosts keep the addresses that they carry.
  returned: success
  type: dict
  sample: {"admin": {"backup1": "bac1"}}
addresses:
  description: The record of every host by its name, as the host variable C(dualstack) has it in the next play.
  returned: success
  type: dict
plan:
  description: Networks, pools and classes with their prefixes, as in the variable C(dualstack_plan) of the next play.
  returned: success
  type: dict
ledger:
  description: The file.
  returned: success
  type: str
"""

import traceback

from ansible.module_utils.basic import AnsibleModule, missing_required_lib

from ..module_utils._errors import DualStackError
from ..module_utils._ledger_file import apply

try:
    import yaml
except ImportError:
    yaml = None
    MISSING = traceback.format_exc()


SWITCH = {"type": "bool", "default": False}
TEXT = {"required": True}
MOVE = {"type": "list", "elements": "dict", "default": [], "options": {"pool": TEXT, "identity": TEXT, "index": TEXT}}
CHANGES = {
    "rename": {"type": "dict", "default": {}},
    "move": MOVE,
    "adopt": {"type": "dict", "default": {}},
    "prune": SWITCH,
    "prune_max": {"type": "int", "default": 0},
    "gc": SWITCH,
}


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "plan": {"type": "path", "required": True},
            "hosts": {"type": "dict", "required": True},
            "ledger": {"type": "path"},
            "state": {"choices": ["allocated", "validated"], "default": "allocated"},
            "today": {"default": ""},
            "lock_timeout": {"type": "float", "default": 30},
            **CHANGES,
        },
        supports_check_mode=True,
    )
    if yaml is None:
        module.fail_json(msg=missing_required_lib("PyYAML"), exception=MISSING)
    try:
        result, warnings = apply(module.params, _load(module.params["plan"]), module.check_mode)
    except DualStackError as error:
        module.fail_json(msg=str(error), **error.details)
    for warning in warnings:
        module.warn(warning)
    module.exit_json(**result)


def _load(path: str) -> object:
    try:
        with open(path, encoding="utf-8") as stream:
            return yaml.safe_load(stream)
    # What PyYAML lets through when a tag does not fit its value, too.
    except (OSError, yaml.YAMLError, ValueError, LookupError, ArithmeticError, AttributeError, RecursionError) as error:
        raise DualStackError(f"E100 {path}: cannot be read ({error}); correct the file") from error


if __name__ == "__main__":
    main()
