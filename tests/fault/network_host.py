"""Hosts whose network the tests break: each has a cable of its own, and both of its ends in one container."""

import concurrent.futures
import contextlib
import io
import json
import pathlib
import subprocess
import sys
import tarfile
import time

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(HERE.parent / "lab"))

import lab  # noqa: E402  the tools of the lab are no package

# The other end is a router with an IPv4 network behind it, and the place of whoever else is on the link.
CABLE = """#!/bin/sh
set -eu
ip netns add outside
ip link add eth0 type veth peer name eth0 netns outside
ip link set eth0 address 02:00:00:00:00:0a
cat /etc/fault/outside 2>/dev/null | ip -n outside -force -batch -
ip -n outside address add 198.51.100.1/24 dev eth0
ip -n outside address add 203.0.113.1/32 dev lo
ip -n outside address add fe80::1/64 dev eth0 nodad
ip -n outside address add 2001:db8:100:1::1/64 dev eth0 nodad
ip -n outside link set lo up
ip -n outside link set eth0 up
"""
UNIT = """[Unit]
DefaultDependencies=no
Wants=network-pre.target
Before=systemd-sysctl.service network-pre.target dualstack-lab-cable.service networking.service systemd-networkd.service
[Service]
Type=oneshot
RemainAfterExit=yes
# As on a machine that is no container: what is mounted here is mounted for units with a namespace of their own, too.
ExecStart=/usr/bin/mount --make-rshared /
ExecStart=/usr/local/sbin/fault-cable
"""
BACKENDS = {
    "ifupdown": {
        "/etc/network/interfaces": "source /etc/network/interfaces.d/*\n\nauto lo\niface lo inet loopback\n\n"
        "# the uplink, by hand\nauto eth0\niface eth0 inet static\n\taddress 198.51.100.10/24\n"
        "\tgateway 198.51.100.1\n"
    },
    "networkd": {
        "/etc/systemd/network/10-eth0.network": "[Match]\nName=eth0\n\n[Network]\nAddress=198.51.100.10/24\n"
        "Gateway=198.51.100.1\n",
        "/etc/network/interfaces": "auto lo\niface lo inet loopback\n",
    },
}
NETWORKS = [(suite, backend) for suite in lab.SUITES for backend in BACKENDS]
UNITS = {"ifupdown": "networking", "networkd": "networking systemd-networkd"}
BOOT_SECONDS = 40
# What a router advertisement has left. A default route of systemd-networkd 257 goes with its next hop only.
FORGET = "ip -6 route flush proto ra; ip -6 nexthop flush; ip -6 address flush dev eth0 dynamic"


class NetworkHost:
    """A host that boots with IPv4 on its cable, and the core on it."""

    def __init__(self, scratch, suite, backend, files):
        self.scratch, self.name = scratch, f"{suite}-{backend}"
        tree = {
            "/usr/local/sbin/fault-cable": CABLE,
            "/etc/systemd/system/fault-cable.service": UNIT,
            **BACKENDS[backend],
            **files,
        }
        scratch.put_core(HERE / "network_agent.py")
        self.put(tree)
        self.sh(
            "mkdir -p /etc/systemd/system/sysinit.target.wants; chmod 755 /usr/local/sbin/fault-cable;"
            " ln -s ../fault-cable.service /etc/systemd/system/sysinit.target.wants/;"
            f" systemctl -q enable {UNITS[backend]}; systemctl -q mask systemd-networkd-wait-online"
        )
        self.boot()

    def put(self, tree):
        """Write {path: content} on the host."""
        with lab.files_for(self.scratch.container) as archive:
            for path, content in tree.items():
                data = content if isinstance(content, bytes) else content.encode()
                info = tarfile.TarInfo(path.lstrip("/"))
                info.size, info.mode = len(data), 0o644
                archive.addfile(info, io.BytesIO(data))

    def sh(self, script):
        done = self.scratch.run("sh", "-c", script, check=False)
        assert done.returncode == 0, f"{self.name}: {script}: {(done.stdout + done.stderr).decode()}"
        return done.stdout.decode().rstrip("\n")

    def agent(self, action, *arguments, **options):
        """Do one ACTION of network_agent.py and return what it came to."""
        done = subprocess.run(
            self.command(), input=json.dumps([action, *arguments, options]), capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{self.name}: {action} {arguments}: {done.stderr}"
        return json.loads(done.stdout)

    def run(self, *states, **options):
        """Run STATES in turn, in a window for a busy machine, and return their errors."""
        options = {"window": 60, **options}
        done = [(state, self.agent("run", state, **options)["error"]) for state in states]
        return [f"{state}: {error}" for state, error in done if error]

    def command(self):
        words = lab.privileged("podman", "exec", "-i", "--env", "PYTHONPATH=/root/core", self.scratch.container)
        return [*words, "python3", "/root/core/network_agent.py"]

    def boot(self):
        """Cut the power and start the host again; return once its boot has come to an end."""
        lab.podman("kill", "-s", "KILL", self.scratch.container)
        lab.podman("wait", self.scratch.container)
        lab.podman("start", self.scratch.container)
        end = time.monotonic() + BOOT_SECONDS
        while True:
            done = self.scratch.run("systemctl", "is-system-running", "--wait", check=False)
            state = done.stdout.decode().strip()
            if state in ("running", "degraded"):
                return state
            assert time.monotonic() < end, f"{self.name} is '{state}' {BOOT_SECONDS} s after its start"
            time.sleep(0.1)

    def cut_power(self, state, step):
        """Cut the power before STEP of a run of STATE; return whether the run came so far."""
        with subprocess.Popen(self.command(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as running:
            running.stdin.write(json.dumps(["run", state, step, "power", {"window": 60}]))
            running.stdin.close()
            reached = running.stdout.readline() == "now\n"
            self.boot()
        return reached


def timer(host):
    """Return the step of a change with which the timer is started."""
    return next(at for at, name in enumerate(host.steps["applied"], 1) if "systemd-run" in name)


def each(hosts, action):
    """Return (host, what ACTION comes to) of all HOSTS, which work at the same time: they mostly wait."""
    with concurrent.futures.ThreadPoolExecutor(len(hosts)) as pool:
        return list(zip(hosts, pool.map(action, hosts)))


@contextlib.contextmanager
def network_host(suite, backend, files=None, name="net"):
    """Boot a host of SUITE whose network BACKEND configures, with FILES of its own, as {path: text}."""
    with lab.scratch(suite, f"{name}-{suite}-{backend}") as scratch:
        yield NetworkHost(scratch, suite, backend, files or {})


@contextlib.contextmanager
def network_hosts_of(networks, name="net"):
    """Boot a host for each (suite, backend) of NETWORKS and have it learn its steps."""
    with contextlib.ExitStack() as stack:
        made = each(networks, lambda words: stack.enter_context(network_host(*words, name=name)))
        hosts = [host for _words, host in made]
        for host, steps in each(hosts, lambda host: host.agent("references")):
            host.steps = steps
        yield hosts
