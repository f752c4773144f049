"""Keep what each role hands to config_files: the tests call the core with it, on hosts that they break."""

import json
import os
import pathlib

from ansible.plugins.callback import CallbackBase

DOCUMENTATION = r"""
name: arguments
type: aggregate
short_description: Write the arguments of each config_files task to the file FAULT_ARGUMENTS
description: One JSON object a line, with host and arguments.
"""


class CallbackModule(CallbackBase):
    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "arguments"

    def _keep(self, result, **_more):
        arguments = result._result.get("invocation", {}).get("module_args")
        if result._task.action == "dualstack.fleet.config_files" and arguments:
            with pathlib.Path(os.environ["FAULT_ARGUMENTS"]).open("a", encoding="utf-8") as stream:
                stream.write(json.dumps({"host": result._host.get_name(), "arguments": arguments}) + "\n")

    v2_runner_on_ok = v2_runner_on_failed = v2_runner_on_skipped = _keep
