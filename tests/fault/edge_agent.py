"""Run edge_routes' core on a router: reads [options, check] as JSON and prints its result, or {"error": ...}."""

import json
import os
import signal
import sys

from module_utils._edge import Request
from module_utils._edge_providers import PROVIDERS, run
from module_utils._errors import DualStackError

options, check = json.load(sys.stdin)
if options.pop("die", False):
    # A SIGKILL when the files are written, before the daemon is told of them.
    type(PROVIDERS[options["provider"]]).apply = lambda *words: os.kill(os.getpid(), signal.SIGKILL)
try:
    print(json.dumps(run(Request(**options), check)))
except DualStackError as error:
    print(json.dumps({"error": str(error), **error.details}))
