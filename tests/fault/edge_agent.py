"""Run edge_routes' core on a router: reads [options, check] as JSON and prints its result, or {"error": ...}."""

import json
import sys

from module_utils._edge import Request
from module_utils._edge_providers import run
from module_utils._errors import DualStackError

options, check = json.load(sys.stdin)
try:
    print(json.dumps(run(Request(**options), check)))
except DualStackError as error:
    print(json.dumps({"error": str(error), **error.details}))
