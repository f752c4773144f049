"""What 10,000 virtual hosts on one machine cost, beside `ip -6 -batch` with the same routes, on a host of the lab.

CPU seconds, as in plan.py. Needs root, for the host is a container.
"""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from typing import Any, NamedTuple

from plan import BIN, ROOT
from table import Table

sys.path.insert(0, str(ROOT / "tests" / "lab"))
import lab

COUNT = 10_000
PREFIX = "2001:db8:200:1011"
BATCH = "".join(
    f"route add local {PREFIX}:{number:x}::/80 dev lo proto 250 metric 1024 table 255\n"
    for number in range(1, COUNT + 1)
)
FLUSH = ["ip", "-6", "route", "flush", "table", "255", "proto", "250"]
PLAYBOOK = "- {hosts: all, gather_facts: false, roles: [dualstack.fleet.vhosts]}\n"
CLOCK = """
import os, subprocess, sys
subprocess.run(sys.argv[1:], check=True)
print(os.times().children_user + os.times().children_system)
"""
CORE = f"""
import sys, time
sys.path.insert(0, "/root")
from module_utils._edge import Request, run
from module_utils._routes import Scope
wanted = [dict(dest="{PREFIX}:%x::/80" % number, type="local") for number in range(1, {COUNT} + 1)]
request = Request("overridden", wanted, within=["::/0"], scope=Scope(table=255), name="bench", directory="/root/r")
started = time.process_time()
run(request)
print(time.process_time() - started)
"""


class Run(NamedTuple):
    """The controller's CPU seconds, the wall clock's, and how many tasks changed something."""

    used: float
    seconds: float
    changed: int


class Fleet:
    """One host and its inventory, with as many virtual hosts as a run asks for."""

    def __init__(self, host: lab.Scratch, directory: pathlib.Path) -> None:
        self.host, self.directory = host, directory
        (directory / "play.yml").write_text(PLAYBOOK)

    def apply(self, count: int) -> Run:
        """Run the role for COUNT virtual hosts."""
        vhosts = {f"site{n:05}.example.net": f"{PREFIX}:{n:x}::/80" for n in range(1, count + 1)}
        variables: dict[str, Any] = {**self.host.variables(), "dualstack": {"vhosts": vhosts}}
        (self.directory / "hosts.json").write_text(json.dumps({"all": {"hosts": {"web1": variables}}}))
        command = [BIN / "ansible-playbook", "-i", self.directory / "hosts.json", self.directory / "play.yml"]
        before, started = os.times(), time.perf_counter()
        done = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)
        after, seconds = os.times(), time.perf_counter() - started
        if done.returncode:
            sys.exit(done.stdout + done.stderr)
        used = after.children_user + after.children_system - before.children_user - before.children_system
        return Run(used, seconds, int(done.stdout.rsplit("changed=", 1)[1].split()[0]))


def main() -> int:
    """Measure on a bare host and write build/bench/vhosts.json."""
    table = Table()
    with lab.scratch("trixie", "vhosts") as host, tempfile.TemporaryDirectory() as directory:
        host.run("tee", "/root/batch", stdin=BATCH.encode())
        code = subprocess.run(["tar", "-C", ROOT / "plugins", "-c", "module_utils"], check=True, capture_output=True)
        host.run("tar", "-C", "/root", "-x", stdin=code.stdout)
        kernel = float(host.run("python3", "-c", CLOCK, "ip", "-6", "-batch", "/root/batch").stdout)
        table.add("10,000 prefixes by ip -6 -batch", kernel, "s")
        host.run(*FLUSH)
        first = float(host.run("python3", "-", stdin=CORE.encode()).stdout)
        table.add(
            "... by edge_routes, with checks and the file", first, "s", note=f"{first / kernel:.1f} times ip -batch"
        )
        again = float(host.run("python3", "-", stdin=CORE.encode()).stdout)
        table.add("... by edge_routes, when nothing changes", again, "s")
        host.run(*FLUSH)
        host.run("rm", "-r", "/root/r")
        fleet = Fleet(host, pathlib.Path(directory))
        for what, count, changes in (
            ("role vhosts: 10,000 virtual hosts on a new machine", COUNT, 2),
            ("role vhosts: nothing changes", COUNT, 0),
            ("role vhosts: one more", COUNT + 1, 1),
        ):
            run = fleet.apply(count)
            table.add(what, run.used, "s", note=f"on the controller; {run.seconds:.1f} s until the end, over SSH")
            if run.changed != changes:
                sys.exit(f"{what}: {run.changed} tasks changed something, not {changes}")
    table.save(ROOT / "build" / "bench" / "vhosts.json")
    return 1 if table.missed else 0


if __name__ == "__main__":
    sys.exit(main())
