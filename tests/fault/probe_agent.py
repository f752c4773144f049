"""Ask services with service_probe's core: reads its options as JSON, prints results and the summary of each host."""

import json
import sys

from module_utils._probe import by_host, probe, targets

options = json.load(sys.stdin)
results = probe(
    targets(options["targets"], options.get("accounts", [])), options.get("timeout", 5.0), 0.5, options.get("control")
)
print(json.dumps({"results": [result.public() for result in results], "by_host": by_host(results)}))
