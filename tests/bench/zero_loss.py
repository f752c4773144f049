"""What a conversion of the lab and the whole way back cost its customers over IPv4: mail, and the longest waits.

The waits stand beside those for a bare restart of the same daemons, in the same run, by the same customers. Needs root.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time

from plan import ROOT
from table import Table

sys.path.insert(0, str(ROOT / "tests" / "lab"))
import demo
import lab

PLACE = ROOT / "build" / "bench"
MAILS = 2000
MAIL_PAUSE = 0.1
RESTARTS = 5
# Who stands behind what a customer asks for; the web sites of web1 are Apache's behind Varnish.
DAEMONS = {
    ("smtp", "mx1"): ["postfix"],
    **{("imap", name): ["dovecot"] for name in ("web1", "web2")},
    **{("ftp", name): ["pure-ftpd"] for name in ("web1", "web2")},
    ("http", "web1"): ["varnish", "apache2"],
    ("http", "web2"): ["apache2", "nginx"],
}


def playbook(name: str) -> None:
    """Run a playbook on the lab, or end with what it said."""
    command = [str(ROOT / ".venv/bin/ansible-playbook"), "-i", "inventories/lab", f"dualstack.fleet.{name}"]
    command += ["-e", json.dumps({"report_directory": str(PLACE / "report")})]
    with open(PLACE / f"{name}.log", "w", encoding="utf-8") as log:
        done = subprocess.run(command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT, check=False)
    if done.returncode:
        sys.exit(f"{name} failed; see {log.name}, and report.json for the state of each host")


def restart() -> None:
    """Restart every daemon, one after another."""
    for (_protocol, host), units in DAEMONS.items():
        for unit in units:
            lab.podman("exec", f"{lab.PREFIX}{host}", "systemctl", "restart", unit)
            time.sleep(1)  # each restart is a gap of its own


def main() -> int:
    """Measure, and write build/bench/zero_loss.json."""
    table = Table()
    PLACE.mkdir(parents=True, exist_ok=True)
    if lab.main(["up"]):
        return 1
    try:
        traffic = demo.Traffic(demo.plan(), smtp=MAIL_PAUSE)
        began = time.monotonic()
        for name in ("convert", "revert"):
            playbook(name)
            table.add(f"{name}, ten hosts", time.monotonic() - began, "s", note="customers going on")
            began = time.monotonic()
        changed = traffic.count_anew()
        for _time in range(RESTARTS):
            restart()
        told = traffic.stop()
    finally:
        lab.main(["down"])
    mail = told["mail"]
    table.add("mails sent", mail["sent"], "", note=f"{mail['delivered_over_ipv6']} of them went over IPv6")
    for what in ("lost", "duplicated", "refused"):
        table.add(f"mails {what}", mail[what], "", limit=0)
    bare = {(item["protocol"], item["target"]): item for item in told["requests"]}
    for item in changed:
        who = (item["protocol"], item["target"])
        note = f"{item['requests']:,} requests, {item['failed']} failed, {item['retried']} answered at a second try"
        limit = 1000 * bare[who]["longest_gap_s"] if who in DAEMONS else None
        table.add(f"longest wait for {who[0]} on {who[1]}", 1000 * item["longest_gap_s"], "ms", limit=limit, note=note)
    table.add("requests over IPv4 that failed", sum(item["failed"] for item in changed), "", limit=0)
    table.save(PLACE / "zero_loss.json")
    if mail["sent"] < MAILS:
        print(f"fewer than {MAILS} mails: this says too little")
    return 1 if table.missed or mail["sent"] < MAILS else 0


if __name__ == "__main__":
    sys.exit(main())
