"""Writes down each task that was carried out: where, for how long, with what result."""

from __future__ import annotations

import json
import os
import time

from ansible.plugins.callback import CallbackBase

DOCUMENTATION = """
name: tasks
type: notification
short_description: Writes each task that was carried out to the file BENCH_TASKS
description:
  - One JSON object a line, with the action, whether it ran on the host, its begin and end, and its result.
"""

# What runs on the controller; everything else is sent to the host.
LOCAL = {
    "add_host", "assert", "debug", "fail", "group_by", "import_playbook", "import_role", "import_tasks", "include_role",
    "include_tasks", "include_vars", "meta", "pause", "set_fact", "validate_argument_spec",
}  # fmt: skip


class CallbackModule(CallbackBase):
    """Each result of a loop counts by itself; what a condition left out does not count."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "notification"
    CALLBACK_NAME = "tasks"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self):
        super().__init__()
        self._began = {}
        self._stream = open(os.environ["BENCH_TASKS"], "a", buffering=1)  # noqa: SIM115 until Ansible ends

    def v2_runner_on_start(self, host, task):
        self._began[host.get_name(), task._uuid] = time.time()

    def _write(self, result):
        task, now = result._task, time.time()
        entry = {
            "task": task.get_name().strip(),
            "action": task.action,
            "remote": task.action.rpartition(".")[2] not in LOCAL and task.delegate_to != "localhost",
            "began": self._began.get((result._host.get_name(), task._uuid), now),
            "ended": now,
            "changed": bool(result._result.get("changed")),
            "failed": result.is_failed() or result.is_unreachable(),
        }
        self._stream.write(json.dumps(entry) + "\n")

    def _whole(self, result, **_options):
        if "results" not in result._result:
            self._write(result)

    def v2_runner_on_skipped(self, result):
        # A condition that does not hold sends nothing; a module that says so has run.
        if "skip_reason" not in result._result:
            self._whole(result)

    v2_runner_on_ok = v2_runner_on_failed = _whole
    v2_runner_on_unreachable = _write
    v2_runner_item_on_ok = v2_runner_item_on_failed = _write
