"""What the address plan costs, against its limits and its peers, all measured in this run.

CPU seconds (user and system) are compared, for other processes of the machine disturb them least.
"""

from __future__ import annotations

import argparse
import gc
import json
import pathlib
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from typing import Any

import yaml
from ansible import context
from ansible.inventory.manager import InventoryManager
from ansible.parsing.dataloader import DataLoader
from ansible.plugins.loader import init_plugin_loader
from ansible.release import __version__ as ansible_version
from ansible.template import Templar

try:
    from ansible.template import trust_as_template
except ImportError:  # before ansible-core 2.19 a string is a template
    trust_as_template = str

ROOT = pathlib.Path(__file__).parents[2]
BIN = pathlib.Path(sys.executable).parent
sys.path.insert(0, str(ROOT / "plugins"))

from module_utils._allocation import Request, allocate, widths
from module_utils._ledger import Ledger, read_ledger, render, uncollected
from module_utils._numbering import frozen
from module_utils._plan import Plan, read_plan
from table import Table

FILTER_CALLS = 1000
PEER_PACKAGES = ROOT / "build" / "bench" / "peers"
FEW, TASKS = 10, 10  # hosts and tasks of the plays whose cost by task is measured
SMALL = 500  # hosts of the fleet in which the peers still end in reasonable time

PLAN = """\
plugin: dualstack.fleet.plan
version: 1
silence: [W301, W302, W303, W304, W311, W313, W314]
networks:
  device: {prefixes: ["2001:db8:100:1::/64"], gateway: "fe80::1"}
pools:
  clients: {prefix: "2001:db8:2000::/40"}
classes:
  client:
    groups: [clients]
    network: device
    block: "::c00:0/104"
    kind: auto
    delegate: {pool: clients, index: same, vhosts: {kind: auto}}
"""


def median(runs: int, measure: Callable[[], float]) -> float:
    """Return the median of RUNS measurements."""
    return statistics.median(measure() for _run in range(runs))


def turns(runs: int, **measures: Callable[[], float]) -> dict[str, list[float]]:
    """Return what each of MEASURES was RUNS times, taken in turns so that a slow minute meets all of them."""
    found: dict[str, list[float]] = {name: [] for name in measures}
    for _run in range(runs):
        for name, measure in measures.items():
            found[name].append(measure())
    return found


def medians(runs: int, **measures: Callable[[], float]) -> dict[str, float]:
    """Return the median of each of MEASURES, taken in turns."""
    return {name: statistics.median(values) for name, values in turns(runs, **measures).items()}


def growth(half: list[float], whole: list[float]) -> float:
    """Return the median of how many times each of WHOLE is what HALF was in the same turn."""
    return statistics.median(most / least for least, most in zip(half, whole))


def cpu(work: Callable[[], object]) -> float:
    """Return the CPU seconds of WORK in this process."""
    gc.collect()
    start = time.process_time()
    work()
    return time.process_time() - start


def command(*argv: object) -> float:
    """Run ARGV and return the CPU seconds of it and its children."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    _output(*argv)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def fleet(count: int) -> dict[str, dict[str, Any]]:
    """Return COUNT hosts as the numbering takes them."""
    return {f"web{number:05}": {"groups": ["all", "clients"]} for number in range(count)}


def plan_of(text: str) -> Plan:
    """Return the plan in TEXT, a mapping in YAML."""
    plan, problems = read_plan(yaml.safe_load(text))
    if problems:
        sys.exit("\n".join(problems))
    return plan


def allocated(plan: Plan, hosts: Mapping[str, Any]) -> str:
    """Return the ledger that HOSTS get from an empty one, as text."""
    result = allocate(plan, [], hosts, Ledger(), Request("2026-01-02"))
    return render(result.ledger, widths(plan, result.ledger))


def bare(hosts: Mapping[str, Any]) -> list[int]:
    """Do the least that can be done for each of HOSTS: remember an index by name, the name by index, and a place."""
    active, holders, places = {}, {}, {}
    with uncollected():
        for number, name in enumerate(hosts):
            index = number * 0x9E3779B1 & 0xFFFFFF
            active[name], holders[index], places[name] = index, name, (name, index)
    return sorted(holders)


def core(table: Table, hosts: int, runs: int) -> None:
    """Measure the numbering alone."""
    plan, whole, half = plan_of(PLAN), fleet(hosts), fleet(hosts // 2)
    found = turns(
        3 * runs,
        half=lambda: cpu(lambda: allocated(plan, half)),
        whole=lambda: cpu(lambda: allocated(plan, whole)),
        bare_half=lambda: cpu(lambda: bare(half)),
        bare_whole=lambda: cpu(lambda: bare(whole)),
    )
    floor = statistics.median(found["bare_whole"])
    note = f"{floor:.2g} s for a loop that only fills three dictionaries"
    table.add(
        f"allocate {hosts:,} hosts from an empty ledger", statistics.median(found["whole"]), "s", limit=1, note=note
    )
    note = f"{growth(found['bare_half'], found['bare_whole']):.3g} x for that loop, for the processor's caches get full"
    table.add(f"doubling {hosts // 2:,} hosts", growth(found["half"], found["whole"]), "x", limit=2.2, note=note)
    text = allocated(plan, whole)
    again = median(runs, lambda: cpu(lambda: frozen(plan, [], whole, read_ledger(text, "addresses.jsonl"))))
    table.add(f"read that ledger and number {hosts:,} hosts by it", again, "s")
    # A /64 has 65,536 /80s less the three with reserved interface identifiers.
    names = {"web1": {"groups": ["clients"], "dualstack_vhosts": [f"v{number:05}" for number in range(65533)]}}
    held = read_ledger(allocated(plan, names), "addresses.jsonl")
    known = median(runs, lambda: cpu(lambda: frozen(plan, [], names, held)))
    table.add("65,533 vhost /80s in one /64, by the ledger", known, "s", limit=0.3)
    new = median(runs, lambda: cpu(lambda: allocated(plan, names)))
    table.add("65,533 vhost /80s in one /64, from an empty ledger", new, "s", limit=0.3)


def inventory(place: pathlib.Path, hosts: int) -> tuple[list[object], list[object]]:
    """Write an inventory of HOSTS and return the options that load it without and with the plan.

    The format of the hosts is the one that Ansible reads quickest, beside which the plan costs most.
    """
    place.mkdir()
    lines = [f"web{number:05} ansible_host=192.0.2.{number % 254 + 1}\n" for number in range(hosts)]
    (place / "01-hosts.ini").write_text(f"[clients]\n{''.join(lines)}")
    (place / "90-plan.yml").write_text(PLAN)
    (place / "addresses.jsonl").write_text(allocated(plan_of(PLAN), fleet(hosts)))
    without: list[object] = ["-i", place / "01-hosts.ini"]
    return without, [*without, "-i", place / "90-plan.yml"]


def play(place: pathlib.Path, name: str, message: str, tasks: int) -> pathlib.Path:
    """Write a play of TASKS debug tasks and return its path."""
    task = {"name": "Show", "ansible.builtin.debug": {"msg": message}}
    content = [{"name": "Measure", "hosts": "all", "gather_facts": False, "tasks": [task] * tasks}]
    path = place / f"{name}.yml"
    path.write_text(json.dumps(content))
    return path


def large(table: Table, place: pathlib.Path, hosts: int, runs: int) -> None:
    """Measure what the inventory plugin adds to a large inventory."""
    without, with_plan = inventory(place / "large", hosts)
    load = (sys.executable, __file__, "--load")
    found = medians(
        runs,
        bare=lambda: float(_output(*load, *without[1::2])),
        plan=lambda: float(_output(*load, *with_plan[1::2])),
        export=lambda: float(_output(*load, *with_plan[1::2], "--export")),
    )
    for name, limit, what in (
        ("plan", 1.25, "for a play"),
        ("export", None, "for an export, with every string marked"),
    ):
        note = f"{found[name]:.2f} s against {found['bare']:.2f} s"
        table.add(
            f"load {hosts:,} hosts with the plan {what}", found[name] / found["bare"], "x", limit=limit, note=note
        )
    show = play(place, "one", "{{ inventory_hostname }}", 1)
    run = (BIN / "ansible-playbook", "--limit", "web00001", show)
    found = medians(runs, bare=lambda: command(*run, *without), plan=lambda: command(*run, *with_plan))
    note = f"{found['plan']:.2f} s against {found['bare']:.2f} s"
    table.add(
        "what a play limited to one of them pays for the plan", found["plan"] - found["bare"], "s", limit=2, note=note
    )


def tasks(table: Table, place: pathlib.Path, runs: int) -> None:
    """Measure what a host pays in each task, by the plan and by the filter that people write first."""
    without, with_plan = inventory(place / "small", SMALL)
    filters = place / "filter_plugins"
    filters.mkdir()
    (filters / "naive.py").write_text(NAIVE)
    naive = "{{ hostvars | naive(inventory_hostname, '2001:db8:100:1::c0:0') }}"
    plays = {
        "plain": (play(place, "plain", "{{ ansible_host }}", TASKS), without),
        "plain_once": (play(place, "plain_once", "{{ ansible_host }}", 1), without),
        "plan": (play(place, "plan", "{{ dualstack.address }}", TASKS), with_plan),
        "plan_once": (play(place, "plan_once", "{{ dualstack.address }}", 1), with_plan),
        "naive": (play(place, "naive", naive, 1), without),
    }
    some = ",".join(f"web{number:05}" for number in range(FEW))

    def measure(name: str) -> Callable[[], float]:
        path, sources = plays[name]
        run = (BIN / "ansible-playbook", "--limit", some, path, *sources)
        return lambda: command(*run)

    found = medians(runs, **{name: measure(name) for name in plays})
    steps = (TASKS - 1) * FEW / 1000
    plain, plan = ((found[name] - found[f"{name}_once"]) / steps for name in ("plain", "plan"))
    table.add("a task with a variable of the inventory, each host", plain, "ms")
    table.add("a task with an address of the plan, each host", plan, "ms", note=f"{plan - plain:+.1f} ms")
    slow = plain + (found["naive"] - found["plain_once"]) / FEW * 1000
    note = f"{slow / plan:.0f} x ours; {slow * SMALL / 1000:.0f} s of CPU for a task on all of them"
    table.add(f"a task with a filter over the hostvars of {SMALL} hosts", slow, "ms", note=note)


NAIVE = '''
import ipaddress


def naive(hostvars, name, base):
    """The address by the place of the host's name among those of its class."""
    members = sorted(host for host in hostvars if "clients" in hostvars[host]["group_names"])
    return str(ipaddress.IPv6Address(base) + members.index(name))


class FilterModule:
    def filters(self):
        return {"naive": naive}
'''

PEERS = {
    "v6_subnet": "{{ '2001:db8:200::/48' | dualstack.fleet.v6_subnet(64, number) }}",
    "ipsubnet": "{{ '2001:db8:200::/48' | ansible.utils.ipsubnet(64, number) }}",
    "v6_join": "{{ '2001:db8:100:1::c:0/112' | dualstack.fleet.v6_join('::%x' % number) }}",
    "ipmath": "{{ '2001:db8:100:1::c:0' | ansible.utils.ipmath(number) }}",
}


def peers(table: Table, runs: int) -> None:
    """Measure the filters beside those of ansible.utils, called as templates call them."""
    missing = _install_peers()
    for ours, theirs in (("v6_subnet", "ipsubnet"), ("v6_join", "ipmath")):
        names = (ours,) if missing else (ours, theirs)
        values: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
        for _run in range(runs):
            for name in names:
                values[name].append(json.loads(_output(sys.executable, __file__, "--filter", name)))
        speed = {name: statistics.median(each["us"] for each in found) for name, found in values.items()}
        table.add(f"dualstack.fleet.{ours}, each value", speed[ours], "us")
        if missing:
            table.say(f"ansible.utils.{theirs}, each value", missing)
            continue
        note = f"{speed[theirs] / speed[ours]:.1f} x ours"
        if values[ours][0]["values"] != values[theirs][0]["values"]:
            note += ", OTHER VALUES"
        table.add(f"ansible.utils.{theirs}, each value", speed[theirs], "us", note=note)


def _install_peers() -> str:
    """Install the ansible.utils of this ansible-core's generation beside the results; return why it is missing."""
    if not (PEER_PACKAGES / "ansible_collections" / "ansible" / "utils").is_dir():
        generation = int(ansible_version.split(".")[1]) - 7  # ansible 12 has the collections for ansible-core 2.19
        install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(PEER_PACKAGES)]
        done = subprocess.run(
            [*install, f"ansible=={generation}.*", "netaddr"], capture_output=True, text=True, check=False
        )
        if done.returncode:
            return f"could not be installed: {done.stderr.strip().splitlines()[-1]}"
    return ""


def _output(*argv: object) -> str:
    done = subprocess.run([str(word) for word in argv], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(str(word) for word in argv)}:\n{done.stdout}{done.stderr}")
    return done.stdout.splitlines()[-1]


def load(sources: list[str], export: bool) -> None:
    """Print the CPU seconds that Ansible's inventory manager needs for SOURCES, in a play or in an EXPORT."""
    context.CLIARGS = {"export": True} if export else {"args": ("site.yml",)}
    init_plugin_loader([str(ROOT / ".ansible" / "collections")])
    found = []
    seconds = cpu(lambda: found.append(InventoryManager(loader=DataLoader(), sources=sources)))
    host = next(iter(found[0].hosts.values()))
    assert ("dualstack" in host.vars) == any(source.endswith("plan.yml") for source in sources)
    print(seconds)


def templates(name: str) -> None:
    """Print the microseconds that a filter takes for each value, and the values."""
    sys.path.append(str(PEER_PACKAGES))  # netaddr
    init_plugin_loader([str(ROOT / ".ansible" / "collections"), str(PEER_PACKAGES)])
    templar = Templar(loader=DataLoader())
    once, many = (
        trust_as_template(f"{{% for number in range({count}) %}}{PEERS[name]} {{% endfor %}}")
        for count in (1, FILTER_CALLS)
    )
    templar.template(once)  # loads the plugin
    found = []
    seconds = cpu(lambda: found.append(templar.template(many)))
    print(json.dumps({"us": seconds / FILTER_CALLS * 1e6, "values": [each.split("/")[0] for each in found[0].split()]}))


def main() -> None:
    """Measure, print, write; fail when a limit is missed."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--hosts", type=int, default=65536)
    options.add_argument("--runs", type=int, default=5)
    options.add_argument("--output", type=pathlib.Path, default=ROOT / "build" / "bench" / "plan.json")
    options.add_argument("--load", nargs="+", help=argparse.SUPPRESS)
    options.add_argument("--export", action="store_true", help=argparse.SUPPRESS)
    options.add_argument("--filter", help=argparse.SUPPRESS)
    chosen = options.parse_args()
    if chosen.load:
        return load(chosen.load, chosen.export)
    if chosen.filter:
        return templates(chosen.filter)
    table = Table()
    print(f"CPU, median of {chosen.runs} runs\n")
    with tempfile.TemporaryDirectory() as name:
        place = pathlib.Path(name)
        core(table, chosen.hosts, chosen.runs)
        large(table, place, chosen.hosts, chosen.runs)
        tasks(table, place, chosen.runs)
        peers(table, chosen.runs)
    chosen.output.parent.mkdir(parents=True, exist_ok=True)
    chosen.output.write_text(
        json.dumps({"hosts": chosen.hosts, "runs": chosen.runs, "results": table.rows}, indent=1) + "\n"
    )
    print(f"\n{chosen.output}")
    return sys.exit(table.missed)


if __name__ == "__main__":
    main()
