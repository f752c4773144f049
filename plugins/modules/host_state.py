# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The state of a host on its way to dual stack."""

from __future__ import annotations

DOCUMENTATION = r"""
module: host_state
short_description: Keep the state of a host on its way to dual stack
version_added: 0.1.0
description:
  - Keeps one record on the host, where Ansible looks for custom facts, so that it is C(ansible_local.dualstack).
  - "A host goes V(audited), V(planned), V(routed), V(guarded), V(addressed), V(serving), V(verified), V(published).
    Steps only go forward: a step that the host has reached already is no change, and the file keeps every byte."
  - V(blocked) and V(rolled_back) can be entered from every state, and every step leaves them.
  - A host that cannot be converted is V(blocked) with a reason and an owner. This is a valid end.
  - The newest evidence is also kept in O(evidence_path). That file is a record of measurements, renewed whenever
    O(refresh) is true; renewing it is no change of configuration and is not reported as one.
options:
  state:
    description:
      - The state that the host has reached.
      - V(withdrawn) takes a published host back to V(verified), and changes no other host.
      - V(absent) removes the record and its evidence, as the revert of a host does.
      - V(gathered) only reads. The evidence that it returns is the newest.
    type: str
    default: gathered
    choices:
      - audited
      - planned
      - routed
      - guarded
      - addressed
      - serving
      - verified
      - published
      - blocked
      - rolled_back
      - withdrawn
      - absent
      - gathered
  reason:
    description: Why the host is in this state, in one sentence. Required when O(state=blocked).
    type: str
    default: ""
  owner:
    description: Who can do something about it. Empty keeps the owner that the record names.
    type: str
    default: ""
  evidence:
    description:
      - What proves the state. The key C(time), ISO 8601 in UTC, tells when it was measured.
      - Two pieces of evidence that differ in C(time) and C(measured) alone are the same.
    type: dict
    default: {}
  refresh:
    description:
      - Whether O(evidence) of a step that the host has reached already replaces the old one.
      - The record changes only when the evidence says something else than before.
    type: bool
    default: false
  path:
    description: File of the record. See the section on custom facts in the Ansible guide.
    type: path
    default: /etc/ansible/facts.d/dualstack.fact
  evidence_path:
    description: File of the newest evidence.
    type: path
    default: /var/lib/dualstack/evidence.json
attributes:
  check_mode:
    description: Says what would change, and changes nothing.
    support: full
  diff_mode:
    description: Shows the record before and after.
    support: full
author:
  - The dualstack.fleet developers (@dualstack)
"""

EXAMPLES = r"""
- name: Remember that the services of the host listen on both families
  dualstack.fleet.host_state:
    state: serving

- name: Remember why a host stays as it is
  dualstack.fleet.host_state:
    state: blocked
    reason: the web server crashes on an IPv6 connection
    owner: web team

- name: Read the state
  dualstack.fleet.host_state:
    state: gathered
  register: result
"""

RETURN = r"""
record:
  description: The record, with the newest evidence. C(state) is empty before the first audit.
  returned: success
  type: dict
  sample:
    state: verified
    reason: ""
    owner: ""
    time: "2026-11-23T10:00:00Z"
    evidence:
      time: "2026-11-23T10:00:00Z"
    history:
      - {state: verified, time: "2026-11-23T10:00:00Z", reason: ""}
"""

import json
import os

from ansible.module_utils.basic import AnsibleModule

from ..module_utils._errors import DualStackError
from ..module_utils._files import FileState, read_file, write_file
from ..module_utils._probe import now
from ..module_utils._state import ENDS, FACT, STEPS, WITHDRAWN, Record, advance, freshest, parse, render


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "state": {"choices": [*STEPS, *ENDS, WITHDRAWN, "absent", "gathered"], "default": "gathered"},
            "reason": {"default": ""},
            "owner": {"default": ""},
            "evidence": {"type": "dict", "default": {}},
            "refresh": {"type": "bool", "default": False},
            "path": {"type": "path", "default": FACT},
            "evidence_path": {"type": "path", "default": "/var/lib/dualstack/evidence.json"},
        },
        supports_check_mode=True,
    )
    try:
        result = _keep(module.params, module.check_mode)
    except DualStackError as error:
        module.fail_json(msg=str(error), **error.details)
    if not module._diff:
        del result["diff"]
    module.exit_json(**result)


def _keep(wanted: dict, check_mode: bool) -> dict:
    state, evidence = wanted["state"], wanted["evidence"]
    if state == "blocked" and not wanted["reason"]:
        raise DualStackError("reason is empty: a blocked host names what blocks it; give reason, and owner when known")
    file, newest = read_file(wanted["path"]), read_file(wanted["evidence_path"])
    if state == "absent":
        record, after, newest_after = Record(), None, None
    elif state == "gathered":
        record, after, newest_after = parse(file), file.content, newest.content
    else:
        before = parse(file)
        given = {key: wanted[key] for key in ("reason", "owner", "evidence", "refresh")}
        record = advance(before, state, now(), **given)
        after = file.content if record == before else render(record)
        current = bool(evidence) and (record.evidence is evidence or wanted["refresh"])
        newest_after = json.dumps(evidence).encode() if current else newest.content
    changed = after != file.content
    if not check_mode:
        if changed:
            write_file(FileState(file.path, after))
        if newest_after != newest.content:
            os.makedirs(os.path.dirname(newest.path), mode=0o700, exist_ok=True)
            write_file(FileState(newest.path, newest_after, mode=0o600))
    diff = {
        "before": (file.content or b"").decode("utf-8", "replace"),
        "after": (after or b"").decode(),
        "before_header": file.path,
        "after_header": file.path,
    }
    fresh = freshest(record, FileState(newest.path, newest_after))
    return {"changed": changed, "record": fresh.public(), "diff": diff}


if __name__ == "__main__":
    main()
