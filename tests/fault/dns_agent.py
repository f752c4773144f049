"""Run dns_publish's core beside a name server: reads its options as JSON, prints the summary or {"error": ...}."""

import json
import os
import signal
import subprocess
import sys

import dns.flags
import dns.message
import dns.query
import dns.rcode
import dns.rdatatype
import dns.tsig
import dns.update
from module_utils._criteria import by_host, subjects
from module_utils._dns import publish, summary, wishes
from module_utils._errors import DualStackError
from module_utils._lookup import Resolver
from module_utils._nameserver import NameServer

options = json.load(sys.stdin)
if "subject" in options:
    met = by_host(subjects([options["subject"]]), Resolver("127.0.0.1", timeout=2.0), [])
    print(json.dumps(met[options["subject"]["name"]]))
    sys.exit()
records, stop = options.pop("records"), options.pop("stop", "")


class Stopping(NameServer):
    """Freezes the server before it is told of the zone ``stop``."""

    def update(self, zone, changes):
        if zone == stop:
            pid = int(subprocess.run(["pidof", "named"], check=True, capture_output=True, text=True).stdout)
            os.kill(pid, signal.SIGSTOP)
        super().update(zone, changes)


try:
    print(
        json.dumps(
            summary(publish(Stopping(dns, server="127.0.0.1", **options), wishes(records, "present"), check=False))
        )
    )
except DualStackError as error:
    print(json.dumps({"error": str(error)}))
