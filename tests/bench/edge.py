"""What the routes to 65,536 delegated prefixes cost an edge router, beside what else installs routes on Debian 13.

Each figure is of a whole process in a host of its own, the median of several in this run: the seconds of the process
itself and of the kernel for it, for a machine is seldom quiet; those of daemons and playbooks are the clock's. Needs
root, for the host is a container.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from typing import NamedTuple

import ansible
from plan import ROOT
from table import Table

sys.path.insert(0, str(ROOT / "tests" / "lab"))
import lab

COUNT, LARGE = 65_536, 262_144
RUNS = 5
FEW, SOME = 100, 5_000  # routes for those who would need minutes or hours for all
PACKAGES = ("bird2", "frr", "frr-pythontools", "python3-pyroute2")
FLUSH = "ip -6 route flush proto 250"
SITE = "/root/site"
MODULE = f"PYTHONPATH={SITE} python3 -m ansible_collections.dualstack.fleet.plugins.modules.edge_routes"
# Runs the commands in turn, each after another that makes its start, so that a busy moment hits all of them. Prints the
# median seconds by the wall clock and of the process itself, the kernel's for it included, and the largest memory.
CLOCK = """
import json, os, statistics, subprocess, sys, time
runs, pairs = int(sys.argv[1]), json.loads(sys.argv[2])
found = [([], [], []) for _ in pairs]
for _ in range(runs):
    for (before, command), (wall, used, memory) in zip(pairs, found):
        subprocess.run(before, shell=True, check=True, stdout=subprocess.DEVNULL)
        began = time.perf_counter()
        process = subprocess.Popen(["sh", "-c", "exec " + command], stdout=subprocess.DEVNULL)
        _pid, status, usage = os.wait4(process.pid, 0)
        wall.append(time.perf_counter() - began)
        used.append(usage.ru_utime + usage.ru_stime)
        memory.append(usage.ru_maxrss // 1024)
        if status:
            sys.exit(f"{command}: status {status}")
print(json.dumps([[statistics.median(wall), statistics.median(used), max(memory)] for wall, used, memory in found]))
"""
# The least that Python can do: the messages, and nothing else.
RAW = """
import ipaddress, sys
sys.path.insert(0, "/root/core")
from module_utils import _rtnetlink as kernel
first, hop = (int(ipaddress.IPv6Address(text)) for text in ("2001:db8:100::", "2001:db9::"))
changes = [
    kernel.Change("add", dest.to_bytes(16, "big"), 64, 1, 250, 1024, via.to_bytes(16, "big"))
    for dest, via in ((first + (n << 64), hop + 0x10000 + n) for n in range(int(sys.argv[1])))
]
assert not kernel.apply(changes)
"""
DUMP = """
import sys
sys.path.insert(0, "/root/core")
from module_utils import _rtnetlink as kernel
assert sum(route.protocol == 250 for route in kernel.routes()) == int(sys.argv[1])
"""
PYROUTE2 = """
import sys
from pyroute2 import IPBatch, IPRoute
count, size = int(sys.argv[1]), int(sys.argv[2]) if sys.argv[2:] else 1
with IPRoute() as kernel:
    for start in range(0, count, size):
        maker = IPBatch() if size > 1 else kernel
        for n in range(start, min(start + size, count)):
            maker.route("add", dst=f"2001:db8:100:{n:x}::/64", gateway=f"2001:db9::1:{n:x}", proto=250, priority=1024)
        if size > 1:
            kernel.sendto(maker.batch, (0, 0))
"""


def route(number: int) -> tuple[str, str]:
    """Return the prefix of the machine NUMBER, and its next hop."""
    high, low = divmod(number, 65_536)
    return f"2001:db8:{high + 0x100:x}:{low:x}::/64", f"2001:db9::{high + 1:x}:{low:x}"


class Router:
    """A host with an address, and files of routes in the language of each program."""

    def __init__(self, host: lab.Scratch) -> None:
        self.host = host
        host.put_core()
        host.install(*PACKAGES)
        host.run("systemctl", "stop", "bird", "frr")
        host.run("sh", "-ec", "ip link add eth0 type veth peer name other; ip link set eth0 up; ip link set other up")
        host.run("ip", "address", "add", "2001:db9::1/64", "dev", "eth0", "nodad")
        with tempfile.TemporaryDirectory() as name:
            self._write(pathlib.Path(name))

    def _write(self, place: pathlib.Path) -> None:
        core = ROOT / "plugins"
        tree = place / SITE.strip("/") / "ansible_collections" / "dualstack" / "fleet"
        tree.mkdir(parents=True)
        (tree / "plugins").symlink_to(core)
        (place / SITE.strip("/") / "ansible").symlink_to(pathlib.Path(ansible.__file__).parent)
        root = place / "root"
        for name, text in (("raw.py", RAW), ("dump.py", DUMP), ("pyroute2_.py", PYROUTE2), ("clock.py", CLOCK)):
            (root / name).write_text(text)
        for count in (COUNT, LARGE):
            routes = [route(number) for number in range(count)]
            (root / f"{count}.batch").write_text(
                "".join(f"route add {dest} via {via} proto 250 metric 1024\n" for dest, via in routes)
            )
            (root / f"{count}.json").write_text(
                "".join(json.dumps({"dest": dest, "via": via}) + "\n" for dest, via in routes)
            )
            self._arguments(root, str(count), f"/root/{count}.json")
        moved = [*((dest, via) for dest, via in map(route, range(COUNT - 1))), (route(COUNT - 1)[0], "2001:db9::ffff")]
        (root / "moved.json").write_text("".join(json.dumps({"dest": dest, "via": via}) + "\n" for dest, via in moved))
        self._arguments(root, "moved", "/root/moved.json")
        some = [route(number) for number in range(SOME)]
        (root / "frr").write_text("".join(f"ipv6 route {dest} {via}\n" for dest, via in some))
        static = "".join(f"route {dest} via {via};\n" for dest, via in map(route, range(COUNT)))
        for name, text in (("bird", static), ("bird-none", "")):
            (root / name).write_text(
                "router id 192.0.2.1;\nprotocol device {}\nprotocol kernel { ipv6 { export all; }; }\n"
                f"protocol static {{\nipv6;\n{text}}}\n"
            )
        archive = subprocess.run(["tar", "-C", place, "-ch", "root"], check=True, capture_output=True)
        self.host.run("tar", "-C", "/", "-x", stdin=archive.stdout)

    @staticmethod
    def _arguments(root: pathlib.Path, name: str, src: str) -> None:
        given = {"src": src, "state": "merged", "name": "bench"}
        (root / f"{name}.args").write_text(json.dumps({"ANSIBLE_MODULE_ARGS": given}))

    def times(self, *pairs: tuple[str, str], runs: int = RUNS) -> list[Times]:
        """Return what each command took, run in turn with the others and after what stands before it."""
        done = self.host.run("python3", "/root/clock.py", str(runs), json.dumps(pairs), check=False)
        if done.returncode:
            raise SystemExit(done.stderr.decode())
        return [Times(*found) for found in json.loads(done.stdout)]


class Times(NamedTuple):
    """Median seconds by the wall clock and of the process itself, and the most megabytes."""

    wall: float
    used: float
    memory: int

    def __str__(self) -> str:
        return f"{self.wall:.2f} s by the clock; {self.memory} MB"


def ours(table: Table, router: Router) -> None:
    """Measure the module beside the kernel's own tool and the bare messages."""
    forget = f"{FLUSH}; rm -rf /etc/dualstack/routes.d/bench.batch /run/dualstack"
    module = {name: f"env {MODULE} /root/{name}.args" for name in (COUNT, LARGE, "moved")}
    batch, raw, first = router.times(
        (FLUSH, f"ip -6 -batch /root/{COUNT}.batch"), (FLUSH, f"python3 /root/raw.py {COUNT}"), (forget, module[COUNT])
    )
    table.add(f"{COUNT:,} routes by ip -6 -batch", batch.used, "s", note=str(batch))
    table.add("... by bare netlink messages from Python", raw.used, "s", note=str(raw))
    table.add("... as a multiple of ip -6 -batch", raw.used / batch.used, "x", limit=1)
    table.add("... by edge_routes, file and checks included", first.used, "s", note=str(first))
    table.add("... as a multiple of the bare messages", first.used / raw.used, "x", limit=3)
    again, moved = module[COUNT], module["moved"]
    dump, same, one = router.times(
        ("true", f"python3 /root/dump.py {COUNT}"), (again, again), (again, moved), runs=2 * RUNS
    )
    table.add("one dump of that table, parsed", dump.used, "s", note=str(dump))
    table.add("edge_routes when nothing changes", same.used, "s", note=str(same))
    table.add("... as a multiple of the dump", same.used / dump.used, "x", limit=1.5)
    table.add("edge_routes when one next hop of them changes", one.used, "s", note=str(one))
    table.add("... as a multiple of no change", one.used / same.used, "x", limit=1.2)
    raw, large = router.times((FLUSH, f"python3 /root/raw.py {LARGE}"), (forget, module[LARGE]), runs=3)
    table.add(f"{LARGE:,} routes by bare netlink messages from Python", raw.used, "s", note=str(raw))
    table.add("... by edge_routes", large.used, "s", note=str(large))
    table.add("... as a multiple of 65,536, for each route", large.used / first.used / (LARGE / COUNT), "x", limit=1.15)
    table.add("... memory", large.memory, "MB", limit=400)


def peers(table: Table, router: Router) -> None:
    """Measure what else one would use."""
    for what, before, command, count in (
        ("pyroute2, one by one", FLUSH, f"python3 /root/pyroute2_.py {SOME}", SOME),
        ("pyroute2, in batches", FLUSH, f"python3 /root/pyroute2_.py {SOME} 256", SOME),
        ("ip -6 route add, a process each", FLUSH, f"sh -c 'head -n {FEW} /root/{COUNT}.batch | xargs -L1 ip -6'", FEW),
    ):
        (found,) = router.times((before, command), runs=3)
        table.add(f"{count:,} routes by {what}", found.wall, "s", note=_of_all(found.wall, count, found.memory))
    router.host.run("sh", "-ec", f"{FLUSH}; cp /root/bird-none /etc/bird/bird.conf; systemctl start bird")
    # Until the kernel has them: birdc returns before.
    # Whoever does not get there within five minutes ends the run.
    all_there = f"until test $(ip -6 route show proto 12 | wc -l) -eq {COUNT}; do sleep 0.01; done"
    none_there = "birdc configure; until test $(ip -6 route show proto 12 | wc -l) -eq 0; do sleep 0.01; done"
    none_there = f"timeout 300 sh -c '{none_there}'"
    add, same = router.times(
        (f"cp /root/bird-none /etc/bird/bird.conf; {none_there}; cp /root/bird /etc/bird/bird.conf",
         f"timeout 300 sh -c 'birdc configure; {all_there}'"),
        ("true", "birdc configure"),
    )  # fmt: skip
    table.add(f"{COUNT:,} routes by birdc configure, until the kernel has them", add.wall, "s")
    table.add("... when nothing changes", same.wall, "s")
    router.host.run("systemctl", "stop", "bird")
    router.host.run("systemctl", "start", "frr")
    all_there = f"until test $(ip -6 route show proto 196 | wc -l) -eq {SOME}; do sleep 0.01; done"
    (found,) = router.times(("true", f"timeout 300 sh -c 'vtysh -f /root/frr; {all_there}'"), runs=1)
    table.add(
        f"{SOME:,} routes by vtysh -f, until the kernel has them", found.wall, "s", note=_of_all(found.wall, SOME)
    )
    reload = "/usr/lib/frr/frr-reload.py --reload"
    same, gone, add = router.times(
        ("vtysh -w; cp /etc/frr/frr.conf /root/all", f"{reload} /root/all"),
        ("grep -v '^ipv6 route' /root/all > /root/none", f"{reload} /root/none"),
        ("true", f"{reload} /root/all"),
        runs=1,
    )
    table.add(f"{SOME:,} routes by frr-reload.py", add.wall, "s", note=_of_all(add.wall, SOME))
    table.add("... when nothing changes", same.wall, "s")
    table.add("... when all of them go", gone.wall, "s")


class Fleet:
    """The router as a host of an inventory, and the ways to hand its module the routes."""

    forms = ("a list of dictionaries", "JSON lines in a file", "prefix, first next hop and ranges")

    def __init__(self, router: Router, place: pathlib.Path) -> None:
        self.place, self.host = place, router.host
        hosts = {"all": {"hosts": {"edge1": router.host.variables()}}}
        (place / "hosts.json").write_text(json.dumps(hosts))
        routes = [{"dest": dest, "via": via} for dest, via in map(route, range(COUNT))]
        (place / "routes.jsonl").write_text("".join(f"{json.dumps(record)}\n" for record in routes))
        # Every second machine has its next hop elsewhere: no range is longer than one.
        numbers = ",".join(f"{n:x}" if n % 2 else f"{n:x}={n ^ 2:x}" for n in range(COUNT))
        ranges = [{"dest": "2001:db8:100::/48", "via": "2001:db9::1:0", "ranges": numbers}]
        self._play("a list of dictionaries", {"routes": routes}, {"config": "{{ routes }}"})
        self._play("JSON lines in a file", {}, {"src": "/root/routes.jsonl"}, copy=True)
        self._play("prefix, first next hop and ranges", {"routes": ranges}, {"config": "{{ routes }}"})
        command = "ip -6 route replace {{ item.dest }} via {{ item.via }} proto 250 metric 1024"
        loop = {"name": "loop", "ansible.builtin.command": command, "loop": routes[:FEW], "changed_when": True}
        (place / "loop.yml").write_text(json.dumps([{"hosts": "all", "gather_facts": False, "tasks": [loop]}]))

    def _play(self, form: str, known: dict, given: dict, copy: bool = False) -> None:
        tasks = [{"name": form, "dualstack.fleet.edge_routes": {**given, "name": "bench"}}]
        if copy:
            copied = {"src": str(self.place / "routes.jsonl"), "dest": "/root/routes.jsonl", "mode": "0644"}
            tasks.insert(0, {"name": "the file", "ansible.builtin.copy": copied})
        play = {"hosts": "all", "gather_facts": False, "vars": known, "tasks": tasks}
        (self.place / f"{form}.yml").write_text(json.dumps([play]))

    def run(self, form: str) -> tuple[float, float]:
        """Return the seconds of the whole ansible-playbook by the clock, and the controller's own."""
        command = [
            ROOT / ".venv" / "bin" / "ansible-playbook",
            "-i",
            self.place / "hosts.json",
            self.place / f"{form}.yml",
        ]
        before, began = os.times(), time.perf_counter()
        done = subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)
        seconds, after = time.perf_counter() - began, os.times()
        if done.returncode:
            sys.exit(done.stdout + done.stderr)
        used = after.children_user + after.children_system - before.children_user - before.children_system
        return seconds, used


def tasks(table: Table, router: Router) -> None:
    """Measure what it costs to hand over the routes, as a playbook with one task."""
    with tempfile.TemporaryDirectory() as name:
        fleet = Fleet(router, pathlib.Path(name))
        for form in fleet.forms:
            router.host.run("sh", "-c", f"{FLUSH}; rm -rf /etc/dualstack/routes.d /run/dualstack")
            first = fleet.run(form)
            again = [fleet.run(form) for _time in range(3)]
            what = f"{COUNT:,} routes handed over as {form}"
            limit = 5 if form == fleet.forms[-1] else None
            table.add(what, first[0], "s", limit=limit, note=f"the whole playbook; {first[1]:.1f} s on the controller")
            same = statistics.median(seconds for seconds, _used in again)
            table.add("... when nothing changes", same, "s", limit=limit)
        seconds, _used = fleet.run("loop")
        table.add(f"{FEW:,} routes by ansible.builtin.command in a loop", seconds, "s", note=_of_all(seconds, FEW))


def _of_all(seconds: float, count: int, memory: int = 0) -> str:
    text = f"{seconds * COUNT / count:,.0f} s for {COUNT:,}, extrapolated"
    return f"{text}; {memory} MB" if memory else text


def main() -> int:
    """Measure, and write build/bench/edge.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ours", action="store_true", help="leave the peers out")
    table = Table()
    alone = parser.parse_args().ours
    with lab.scratch("trixie", "edge-bench") as host:
        router = Router(host)
        ours(table, router)
        tasks(table, router)
        if not alone:
            peers(table, router)
    table.save(ROOT / "build" / "bench" / "edge.json")
    return 1 if table.missed else 0


if __name__ == "__main__":
    sys.exit(main())
