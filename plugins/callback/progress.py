# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""A run told in few lines: the step, the host, the state it has reached."""

from __future__ import annotations

DOCUMENTATION = r"""
name: progress
type: stdout
version_added: 0.1.0
author:
  - The dualstack.fleet developers (@dualstack)
short_description: One line for each state that a host reaches
description:
  - Prints a line for each play (with the number of the wave where a play runs in several), a line for each state that a
    host reaches, the full text of each failure, what a module skipped and why, and one line of totals at the end.
  - Enable it with C(ANSIBLE_STDOUT_CALLBACK=dualstack.fleet.progress).
"""

from ansible import constants as C
from ansible.plugins.callback import CallbackBase


def _messages(result):
    """Return what each failed item of a loop says, or what the one result says."""
    items = [item for item in result.get("results", []) if item.get("failed") or item.get("unreachable")]
    if items:
        return [f"{_item_place(item)}{message}" for item in items for message in _messages(item)]
    return [str(result[key]) for key in ("msg", "stderr") if result.get(key)][:1]


def _item_place(item):
    host = (item.get("_ansible_delegated_vars") or {}).get("ansible_delegated_host")
    return f"{host}: " if host else ""


def _place(result):
    """Return the host that the task ran on: a delegated one is not the host of the play."""
    host = (result._result.get("_ansible_delegated_vars") or {}).get("ansible_delegated_host")
    return host or result._host.get_name()


class CallbackModule(CallbackBase):
    """Stdout callback; the states are the results of M(dualstack.fleet.host_state)."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "stdout"
    CALLBACK_NAME = "dualstack.fleet.progress"

    def __init__(self):
        super().__init__()
        self._waves = {}
        self._shown = {}

    def v2_playbook_on_play_start(self, play):
        name = play.get_name().strip()
        self._waves[name] = self._waves.get(name, 0) + 1
        wave = f", wave {self._waves[name]}" if play.serial else ""
        self._display.display(f"{name}{wave}", color=C.COLOR_HIGHLIGHT)

    def v2_runner_on_ok(self, result):
        record = result._result.get("record") if result._task.action == "dualstack.fleet.host_state" else None
        stopped = bool(record) and record["state"] in ("blocked", "rolled_back")
        name = result._host.get_name()
        if record and (stopped or result._result.get("changed")) and self._shown.get(name) != record["state"]:
            self._shown[name] = record["state"]
            reason = f": {record['reason']}" if record["reason"] else ""
            color = C.COLOR_ERROR if stopped else C.COLOR_OK
            self._display.display(f"  {name:<12} {record['state']}{reason}", color=color)

    def v2_runner_on_failed(self, result, ignore_errors=False):
        if not ignore_errors:
            task = result._task.get_name().strip()
            lines = "\n".join(_messages(result._result)) or "failed without a word"
            self._display.display(f"  {_place(result):<12} failed: {task}\n{lines}", color=C.COLOR_ERROR)

    def v2_runner_on_skipped(self, result):
        # A module's own words: a condition that does not hold has none, and those of a loop are Ansible's.
        if result._result.get("msg") and "results" not in result._result:
            self._display.display(f"  {_place(result):<12} skipped: {result._result['msg']}", color=C.COLOR_SKIP)

    def v2_runner_on_unreachable(self, result):
        lines = "\n".join(_messages(result._result))
        self._display.display(f"  {_place(result):<12} unreachable: {lines}", color=C.COLOR_UNREACHABLE)

    def v2_playbook_on_no_hosts_matched(self):
        self._display.display("no host matched: check the inventory (-i) and --limit", color=C.COLOR_ERROR)

    def v2_playbook_on_stats(self, stats):
        totals = [stats.summarize(host) for host in sorted(stats.processed)]
        count = {key: sum(total[key] for total in totals) for key in ("changed", "failures", "unreachable", "rescued")}
        self._display.display(
            f"done: hosts={len(totals)} changed={count['changed']} failed={count['failures']}"
            f" unreachable={count['unreachable']} rescued={count['rescued']}"
        )
