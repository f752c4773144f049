"""What bringing the services of one host to both families costs, beside DebOps and hand-written tasks.

All of it is measured in this run, on fresh hosts of one kind in the same legacy state. Ratios count, not seconds.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

ROOT = pathlib.Path(__file__).parents[2]
HERE = ROOT / "tests" / "bench"
PLACE = ROOT / "build" / "bench"
sys.path[:0] = [str(ROOT / "tests" / "lab")]

import lab
from table import Table

# DebOps' roles need an ansible-core before 2.19 (debops/debops#2601).
PEER = ("debops ==3.3.2", "ansible ==11.13.0", "netaddr", "dnspython", "passlib")
PEER_PACKAGES = (
    "bsd-mailx", "dirmngr", "ferm", "libapache2-mod-security2", "lsb-release", "make", "postfix-pcre", "python3-apt",
    "python3-debian", "ssl-cert",
)  # fmt: skip
PEER_PLAYBOOKS = ("core", "postfix", "dovecot", "apache")
# What DebOps has roles for; it has none for Varnish and Pure-FTPd.
COMMON = ("postfix", "dovecot", "apache")
ADDRESSES = ("192.0.2.10", "2001:db8::10")
OF_LAB = ("sshd", "resolver")  # by which the host is reached, and which it asks
UNITS = {role: unit for role, unit in lab.UNITS.items() if role not in OF_LAB}
# Who is the legacy lists' 198.51.100.0/24 over IPv6.
NETWORKS = {"dualstack_networks": {"198.51.100.0/24": ["2001:db8::/64"]}}
PORTS = {"postfix": 25, "dovecot": 143, "pureftpd": 21, "apache": 8080, "varnish": 80, "nginx": 8081}
# What the daemon itself needs to take new listeners, as facts of each daemon.
OWN = {
    "postfix": "restart",
    "dovecot": "reload",
    "pureftpd": "restart",
    "apache": "restart",
    "varnish": "restart",
    "nginx": "reload",
}
ASK = """
import socket, sys
for address in sys.argv[2:]:
    try:
        with socket.create_connection((address, int(sys.argv[1])), timeout=3) as session:
            if sys.argv[1] not in ("21", "25", "143"):
                session.sendall(b"GET / HTTP/1.0\\r\\n\\r\\n")
            print("yes" if session.recv(1) else "silent")
    except OSError as error:
        print(error.strerror or error)
"""
# A client that comes each 10 ms over IPv4, and writes down when it was served.
PROBE = """
import select, socket, sys, time
port, pause = int(sys.argv[1]), 0
while not select.select([sys.stdin], [], [], pause)[0]:
    began = time.time()
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=2) as session:
            if port not in (21, 25, 143):
                session.sendall(b"GET / HTTP/1.0\\r\\n\\r\\n")
            if session.recv(1):
                print(time.time(), flush=True)
    except OSError:
        pass
    pause = max(0, began + 0.01 - time.time())
"""
PLAN = """\
plugin: dualstack.fleet.plan
version: 1
silence: [W301, W302, W303, W304, W311, W313, W314]
networks:
  device: {prefixes: ["2001:db8::/64"], gateway: "fe80::1"}
pools:
  clients: {prefix: "2001:db8:200::/48"}
classes:
  client:
    groups: [clients]
    network: device
    block: "::0/112"
    kind: pinned
    pins: {legacy: "10"}
    delegate: {pool: clients, index: same}
"""
# What somebody writes who needs it today: the file as it should be, and a handler.
PLAIN = [
    ("/etc/postfix/main.cf", "postfix", "inet_protocols = ipv4", "inet_protocols = all"),
    ("/etc/dovecot/dovecot.conf", "dovecot", "listen = *\n", "listen = *, ::\n"),
    ("/etc/apache2/ports.conf", "apache2", "Listen 0.0.0.0:8080", "Listen 8080"),
]


class BenchError(Exception):
    """What is in the way, in one line."""


@dataclass(frozen=True)
class Run:
    """One run of a playbook."""

    seconds: float
    tasks: list[dict]
    status: int
    said: str

    @property
    def remote(self) -> list[dict]:
        """Return the tasks that ran on the host."""
        return [task for task in self.tasks if task["remote"]]

    @property
    def changed(self) -> int:
        """Return how many tasks say that they changed something."""
        return sum(task["changed"] for task in self.tasks)

    def checked(self) -> Run:
        """Return this run, which must have succeeded."""
        if self.status:
            raise BenchError(self.said[-3000:])
        return self


def command(argv: Sequence[object], cwd: pathlib.Path, extra: Mapping[str, str]) -> Run:
    """Run the playbook that ARGV names with the environment EXTRA."""
    with tempfile.NamedTemporaryFile("r") as tasks:
        environment = {
            **os.environ,
            "ANSIBLE_CALLBACK_PLUGINS": str(HERE / "callback"),
            "ANSIBLE_CALLBACKS_ENABLED": "tasks",
            "ANSIBLE_PIPELINING": "1",
            "ANSIBLE_TIMEOUT": "60",
            "ANSIBLE_SSH_ARGS": "-o ControlMaster=auto -o ControlPersist=60s",
            "BENCH_TASKS": tasks.name,
            **extra,
        }
        began = time.monotonic()
        done = subprocess.run(
            [str(word) for word in argv], cwd=cwd, env=environment, capture_output=True, text=True, check=False
        )
        seconds = time.monotonic() - began
        return Run(seconds, [json.loads(line) for line in tasks], done.returncode, done.stdout + done.stderr)


# --- hosts ---


@contextlib.contextmanager
def hosts(*names: str) -> Iterator[dict[str, lab.Scratch]]:
    """Boot fresh hosts of one kind, on a network with a way to the package mirror."""
    with contextlib.ExitStack() as stack:
        yield {name: stack.enter_context(lab.scratch("bookworm", f"bench-{name}", "podman")) for name in names}


def make_legacy(host: lab.Scratch) -> None:
    """Put HOST into the state that the lab's web1 has before its conversion, services started."""
    with tempfile.TemporaryDirectory() as directory:
        tree = pathlib.Path(directory) / "tree"
        network = shutil.ignore_patterns("network", "lab")
        shutil.copytree(lab.HERE / "hosts" / "web1", tree, symlinks=True, ignore=network)
        lab.podman("cp", "-", f"{host.container}:/", stdin=lab.pack([(tree, {})]))
    host.run("rm", "-rf", "/var/lib/dualstack", "/etc/ansible")
    host.run("systemctl", "daemon-reload")
    # All at once would not do: one may still have the port that another one had in the legacy days.
    host.run("systemctl", "stop", *UNITS.values())
    host.run("systemctl", "start", "named", *UNITS.values())
    wait_for(host, UNITS)


def wait_for(host: lab.Scratch, services: Sequence[str]) -> None:
    """Return when each of SERVICES answers over IPv4."""
    deadline = time.monotonic() + 30
    while missing := [name for name in services if answers(host, name)[0] != "yes"]:
        if time.monotonic() > deadline:
            raise BenchError(f"{host.container}: {', '.join(missing)} did not start")


def answers(host: lab.Scratch, service: str) -> list[str]:
    """Ask SERVICE over IPv4 and IPv6, and return what came of it."""
    done = host.run("python3", "-c", ASK, str(PORTS[service]), *ADDRESSES)
    return done.stdout.decode().splitlines()


def truth(host: lab.Scratch, services: Sequence[str]) -> str:
    """Return whether SERVICES answer over both families, and which do not."""
    found = {service: answers(host, service) for service in services}
    silent = [f"{service}: {', '.join(said)}" for service, said in found.items() if set(said) != {"yes"}]
    return "answers on both" if not silent else "DOES NOT: " + "; ".join(silent)


# --- what is compared ---


class Ours:
    """This collection, by the playbook that a fleet uses."""

    def __init__(self, host: lab.Scratch) -> None:
        self.host, self.place = host, PLACE / "ours"
        self.place.mkdir(parents=True, exist_ok=True)
        (self.place / "90-plan.yml").write_text(PLAN)

    def run(self, services: Sequence[str], playbook: str = "dualstack.fleet.services", **variables: object) -> Run:
        """Run PLAYBOOK for SERVICES."""
        known = {
            **self.host.variables(),
            "dualstack_services": list(services),
            "dualstack_ipv4": ADDRESSES[0],
            **NETWORKS,
        }
        inventory = {"all": {"children": {"clients": {"hosts": {"legacy": {**known, **variables}}}}}}
        (self.place / "01-hosts.yml").write_text(json.dumps(inventory))
        argv = ("ansible-playbook", "-i", self.place, playbook, "--limit", "legacy")
        return command(argv, ROOT, {"ANSIBLE_CONFIG": str(ROOT / "ansible.cfg")}).checked()


class Plain:
    """Templates and handlers, by hand."""

    def __init__(self, host: lab.Scratch) -> None:
        self.place = PLACE / "plain"
        self.place.mkdir(parents=True, exist_ok=True)
        tasks, handlers = [], []
        for path, unit, before, after in PLAIN:
            legacy = (lab.HERE / "hosts" / "web1" / path.strip("/")).read_text()
            if before not in legacy:
                raise BenchError(f"{path} of web1 has no {before!r}; write PLAIN anew")
            (self.place / f"{unit}.j2").write_text(legacy.replace(before, after))
            module = {"src": f"{unit}.j2", "dest": path, "mode": "0644"}
            tasks.append({"name": path, "ansible.builtin.template": module, "notify": unit})
            handlers.append({"name": unit, "ansible.builtin.systemd_service": {"name": unit, "state": "restarted"}})
        play = {"hosts": "all", "gather_facts": False, "tasks": tasks, "handlers": handlers}
        (self.place / "site.yml").write_text(json.dumps([play]))
        (self.place / "hosts.yml").write_text(json.dumps({"all": {"hosts": {"legacy": host.variables()}}}))

    def run(self) -> Run:
        """Run it."""
        return command(("ansible-playbook", "-i", "hosts.yml", "site.yml"), self.place, {}).checked()


class Peer:
    """DebOps, with the variables that its documentation has for dual stack."""

    def __init__(self, host: lab.Scratch) -> None:
        self.bin, self.place = PLACE / "debops" / "bin", PLACE / "peer"
        # Whatever is pinned above is installed; a version that is there already costs a second.
        if not (self.bin / "pip").exists():
            venv.create(PLACE / "debops", with_pip=True)
        self._said(self.bin / "pip", "install", "--quiet", *PEER)
        if not (self.place / "ansible.cfg").exists():
            self._said(self.bin / "debops", "project", "init", "--no-git", "--no-requirements", self.place)
        settings = [
            {"name": "inet_protocols", "value": "all", "section": "base"},
            {"name": "mynetworks", "value": ["192.0.2.0/24", "2001:db8::/64"], "section": "base"},
        ]
        known = {**host.variables(), "postfix__host_maincf": settings, "dovecot__features": ["imap"]}
        groups = ["debops_all_hosts", *(f"debops_service_{name}" for name in COMMON)]
        inventory = {"all": {"children": {group: {"hosts": {"legacy": known}} for group in groups}}}
        (self.place / "hosts.yml").write_text(json.dumps(inventory))
        host.run("apt-get", "-q", "update")
        host.run("env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-qy", "install", *PEER_PACKAGES)

    def run(self) -> Run:
        """Run its playbooks, and let it fail."""
        playbooks = [f"debops.debops.service.{name}" for name in PEER_PLAYBOOKS]
        argv = (self.bin / "ansible-playbook", "-i", "hosts.yml", *playbooks)
        collections = next((PLACE / "debops" / "lib").glob("python3*/site-packages/debops/_data/ansible/collections"))
        environment = {
            "ANSIBLE_COLLECTIONS_PATH": str(collections),
            "ANSIBLE_CONFIG": str(self.place / "ansible.cfg"),
            "ANSIBLE_HOME": str(PLACE / "ansible"),
            "HOME": str(PLACE),
            "USER": "root",
        }
        return command(argv, self.place, environment)

    @staticmethod
    def _said(*argv: object) -> None:
        # Without what tells Ansible of this checkout: DebOps writes to the configuration that it finds.
        environment = {name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")}
        done = subprocess.run(
            [str(word) for word in argv],
            capture_output=True,
            text=True,
            check=False,
            cwd=PLACE,
            env={**environment, "HOME": str(PLACE)},
        )
        if done.returncode:
            raise BenchError(f"{' '.join(map(str, argv))}: {(done.stderr or done.stdout).strip()[-300:]}")


def measure(runs: int, host: lab.Scratch, run: Callable[[], Run]) -> tuple[list[Run], list[Run]]:
    """Return RUNS first runs, each from the legacy state, and as many second ones."""
    first, second = [], []
    for _run in range(runs):
        make_legacy(host)
        first.append(run())
        second.append(run())
    return first, second


def middle(found: Sequence[Run]) -> float:
    """Return the median of the seconds."""
    return statistics.median(run.seconds for run in found)


def told(run: Run) -> str:
    """Return what RUN says of itself."""
    return f"{len(run.remote)} remote tasks, {run.changed} changed" + (", FAILED" if run.status else "")


def conversion(table: Table, ours: Ours, others: dict[str, lab.Scratch], options: argparse.Namespace) -> None:
    """Measure the first run and the one with nothing to do."""
    first, second = measure(options.runs, ours.host, lambda: ours.run(COMMON))
    known = truth(ours.host, COMMON)
    table.add("first run, ours", middle(first), "s", note=f"{told(first[-1])}; {known}")
    table.add("run with nothing to do, ours", middle(second), "s", note=told(second[-1]))
    table.add("services that do not answer on both families, ours", known.count(":"), "", limit=0)
    table.add("changes in the run with nothing to do, ours", second[-1].changed, "", limit=0)
    plain = Plain(others["plain"])
    by_hand = measure(options.runs, others["plain"], plain.run)
    for what, mine, theirs in (("first run", first, by_hand[0]), ("run with nothing to do", second, by_hand[1])):
        note = f"{told(theirs[-1])}; {truth(others['plain'], COMMON)}; ours is {middle(mine) / middle(theirs):.2f} x"
        table.add(f"{what}, templates and handlers", middle(theirs), "s", note=note)
    if options.no_peer:
        return
    try:
        peer = Peer(others["debops"])
    except (BenchError, lab.LabError) as error:
        table.say("DebOps", f"missing: {error}")
        return
    once, again = measure(options.peer_runs, others["debops"], peer.run)
    # Ours once more: DebOps takes minutes, in which this machine may have become faster or slower.
    later = measure(options.runs, ours.host, lambda: ours.run(COMMON))
    first, second = [*first, *later[0]], [*second, *later[1]]
    limits = (("first run", first, once, 1 / 5), ("run with nothing to do", second, again, 1 / 15))
    for what, mine, theirs, limit in limits:
        (PLACE / f"debops-{'first' if theirs is once else 'second'}.log").write_text(theirs[-1].said)
        seen = truth(others["debops"], COMMON)
        note = f"{told(theirs[-1])}, run {'once' if len(theirs) == 1 else f'{len(theirs)} times'}; {seen}"
        table.add(f"{what}, DebOps", middle(theirs), "s", note=note)
        table.add(f"{what}, ours against DebOps", middle(mine) / middle(theirs), "x", limit=round(limit, 4))


def counts(table: Table, ours: Ours) -> None:
    """Count what runs on the host when there is nothing to do."""
    host = ours.host
    every = [*UNITS, *(["sshd"] if (ROOT / "roles" / "sshd").exists() else [])]
    servers = {"resolver_ipv6_nameservers": ["2001:db8::10"]}
    make_legacy(host)
    first = ours.run(every, **servers)
    table.add(f"first run, all {len(every) + 1} roles", first.seconds, "s", note=f"{told(first)}; {truth(host, PORTS)}")
    run = ours.run(every, **servers)
    table.add(f"nothing to do, all {len(every) + 1} roles: time", run.seconds, "s", note=told(run))
    table.add(f"nothing to do, all {len(every) + 1} roles: remote tasks", len(run.remote), "", limit=10)
    for name in every:
        alone = ours.run([], str(role_play(name)))
        table.add(f"nothing to do, {name}: remote tasks", len(alone.remote), "", limit=2 if name == "postfix" else 1)


def role_play(name: str, times: int = 0) -> pathlib.Path:
    """Write a play of the role NAME: applied once, or TIMES there and back, each after a bare restart or reload."""
    include = {"name": f"dualstack.fleet.{name}"}
    there = {"name": "There", "ansible.builtin.include_role": include}
    back = {"name": "Back", "ansible.builtin.include_role": include, "vars": {f"{name}_ipv6_state": "reverted"}}
    # The counter of starts is set back, for systemd refuses too many of them in a row.
    line = f"systemctl reset-failed {UNITS.get(name)} && systemctl {OWN.get(name)} {UNITS.get(name)}"
    bare = {"name": "Bare", "ansible.builtin.shell": line}
    path = PLACE / f"role-{name}.yml"
    tasks = [bare, there, bare, back] * times or [there]
    path.write_text(json.dumps([{"hosts": "legacy", "gather_facts": False, "tasks": tasks}]))
    return path


# --- interruption ---


@contextlib.contextmanager
def probe(host: lab.Scratch, service: str) -> Iterator[list[float]]:
    """Ask SERVICE each 10 ms; the list has the times it answered once the context has ended."""
    served: list[float] = []
    argv = lab.privileged("podman", "exec", "-i", host.container, "python3", "-u", "-c", PROBE, str(PORTS[service]))
    with tempfile.TemporaryFile("w+") as found:
        with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=found) as process:
            while os.fstat(found.fileno()).st_size < 100:  # it is being served
                time.sleep(0.01)
            yield served
            process.communicate()  # the end of its input ends it
        found.seek(0)
        served += [float(line) for line in found.read().splitlines()]


def gap(served: Sequence[float], began: float, ended: float) -> float:
    """Return the longest time without an answer that touches the span from BEGAN to ENDED."""
    pairs = zip(served, served[1:])
    return max(after - before for before, after in pairs if after >= began and before <= ended) * 1000


def interruption(table: Table, ours: Ours, runs: int) -> None:
    """Measure the longest gap of each service by our change and by a bare restart or reload."""
    host = ours.host
    for service in UNITS:
        make_legacy(host)
        with probe(host, service) as served:
            run = ours.run([], str(role_play(service, runs)))
            time.sleep(1)  # the way back into service belongs to the gap
        spans: dict[str, list[tuple[float, float]]] = {"bare": [], "ours": []}
        for task in run.remote:
            if task["action"].endswith("shell"):
                spans["bare"].append((task["began"], task["ended"]))
                spans["ours"].append((math.inf, 0.0))
            else:  # the tasks of a role are one change
                began, ended = spans["ours"][-1]
                spans["ours"][-1] = (min(began, task["began"]), max(ended, task["ended"]))
        own, our = ([gap(served, *span) for span in spans[whose]] for whose in ("bare", "ours"))
        note = f"bare {OWN[service]}: {statistics.median(own):.0f} ms, at most {max(own):.0f} ms"
        table.add(f"longest gap of {service}, our change", statistics.median(our), "ms", limit=max(own), note=note)


def main() -> None:
    """Measure, print, write; fail when a limit is missed."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--runs", type=int, default=5, help="of what is short; medians are shown")
    options.add_argument("--peer-runs", type=int, default=1, help="of DebOps, which takes minutes")
    options.add_argument("--no-peer", action="store_true", help="leave DebOps out")
    options.add_argument("--part", choices=["conversion", "counts", "interruption"], action="append")
    chosen = options.parse_args()
    parts = chosen.part or ["conversion", "counts", "interruption"]
    PLACE.mkdir(parents=True, exist_ok=True)
    lab.BUILD.mkdir(parents=True, exist_ok=True)
    table = Table()
    print(f"Wall time, median of {chosen.runs} runs; one Debian 12 host each\n")
    compared = "conversion" in parts
    names = ["ours", *(["plain"] if compared else []), *(["debops"] if compared and not chosen.no_peer else [])]
    with hosts(*names) as found:
        ours = Ours(found["ours"])
        if compared:
            conversion(table, ours, found, chosen)
        if "counts" in parts:
            counts(table, ours)
        if "interruption" in parts:
            interruption(table, ours, chosen.runs)
    (PLACE / "services.json").write_text(json.dumps({"runs": chosen.runs, "results": table.rows}, indent=1) + "\n")
    (PLACE / "services.md").write_text(table.markdown())
    print(f"\n{PLACE / 'services.json'}")
    sys.exit(table.missed)


if __name__ == "__main__":
    try:
        main()
    except (BenchError, lab.LabError) as error:
        sys.exit(f"services: {error}")
