"""Two edge routers between a machine with a delegated prefix and the outside: real Keepalived, set up by the role."""

import concurrent.futures
import contextlib
import io
import json
import os
import pathlib
import subprocess
import sys
import tarfile
import threading
import time

HERE = pathlib.Path(__file__).parent
AGENT = HERE / "vrrp_agent.py"
ROOT = HERE.parents[1]
sys.path.insert(0, str(HERE.parent / "lab"))

import lab  # noqa: E402  the tools of the lab are no package

ADVERT_SECONDS = 0.5
EVERY = 0.01  # seconds between two questions
MACHINE, MACHINE_V4 = "2001:db8:200:20::1", "198.51.100.20"
MACHINE_HOP = "2001:db8:100:1::c:20"
GUEST = "2001:db8:100:1::c:30"
UNASSIGNED = "2001:db8:200:ffff::1"
GATEWAY, GATEWAY_V4 = "fe80::1", "198.51.100.1"
PRIORITIES = {"r1": 250, "r2": 200}
INTERFACES = """auto lo
iface lo inet loopback

auto eth0
iface eth0 inet static
	address 198.51.100.{number}/24
iface eth0 inet6 static
	address 2001:db8:100:1::ed:{number}/64
	accept_ra 0

auto eth1
iface eth1 inet static
	address 203.0.113.{number}/24
iface eth1 inet6 static
	address 2001:db8:ffff::{number}/64
	accept_ra 0
"""
KEEPALIVED = """vrrp_sync_group both_sides {{
    group {{
        machines
        uplink
    }}
}}
vrrp_instance machines {{
    interface eth0
    virtual_router_id 50
    priority {priority}
    virtual_ipaddress {{
        198.51.100.1/24
    }}
}}
vrrp_instance uplink {{
    interface eth1
    virtual_router_id 51
    priority {priority}
    virtual_ipaddress {{
        203.0.113.1/24
    }}
}}
"""
AROUND = {
    "machine": f"ip address add 198.51.100.20/24 dev eth0; ip route add default via {GATEWAY_V4};"
    f" ip address add {MACHINE_HOP}/64 dev eth0 nodad; ip -6 route add default via {GATEWAY} dev eth0;"
    f" ip address add {MACHINE}/128 dev lo; ip -6 route add unreachable 2001:db8:200:20::/64 metric 4096",
    "upstream": "ip address add 203.0.113.10/24 dev eth0; ip route add 198.51.100.0/24 via 203.0.113.1;"
    " ip address add 2001:db8:ffff::10/64 dev eth0 nodad;"
    " ip -6 route add 2001:db8:100::/40 via 2001:db8:ffff::1; ip -6 route add 2001:db8:200::/40 via 2001:db8:ffff::1",
}
MANY = 1000
ROUTES = [
    {"dest": "2001:db8:200:20::/64", "via": MACHINE_HOP, "dev": "eth0"},
    *(
        {"dest": f"2001:db8:200:{number:x}::/64", "via": MACHINE_HOP, "dev": "eth0"}
        for number in range(4096, 4096 + MANY)
    ),
]
ROLE = {
    "edge_router_ipv6_device": "eth0",
    "edge_router_ipv6_gateway": [GATEWAY, "2001:db8:100:1::1"],
    "edge_router_ipv6_uplink_device": "eth1",
    "edge_router_ipv6_uplink_gateway": ["fe80::2:1", "2001:db8:ffff::1"],
    "edge_router_ipv6_uplink_next_hop": "2001:db8:ffff::10",
    "edge_router_ipv6_aggregates": ["2001:db8:200::/40"],
    "edge_router_ipv6_advert_interval": ADVERT_SECONDS,
}
# What keeps the routes, the routes, and the gateway: a router that is added to a pair must have its routes first.
ROLE_TASKS = [
    {"ansible.builtin.include_role": {"name": "dualstack.fleet.edge_router", "tasks_from": "routes"}},
    {"dualstack.fleet.edge_routes": {"config": ROUTES}},
    {"ansible.builtin.include_role": {"name": "dualstack.fleet.edge_router"}},
]


def until(true, seconds, what, found=""):
    """Return the seconds after which TRUE() holds, or tell WHAT it is and what was FOUND at last."""
    start = time.monotonic()
    while not true():
        assert time.monotonic() < start + seconds, f"not after {seconds} s: {what}; {found}"
        time.sleep(0.02)
    return time.monotonic() - start


class Host:
    """A host of the site."""

    def __init__(self, scratch, name):
        self.scratch, self.name = scratch, name

    def sh(self, script, check=True):
        done = self.scratch.run("sh", "-c", script, check=False)
        assert not check or done.returncode == 0, f"{self.name}: {script}: {(done.stdout + done.stderr).decode()}"
        return done.stdout.decode().rstrip("\n")

    def put(self, tree):
        """Write {path: text} on the host."""
        with lab.files_for(self.scratch.container) as archive:
            for path, text in tree.items():
                info = tarfile.TarInfo(path.lstrip("/"))
                info.size, info.mode = len(text.encode()), 0o644
                archive.addfile(info, io.BytesIO(text.encode()))

    def ask(self, *words):
        """Run vrrp_agent.py with WORDS, and return what it prints."""
        return self.sh("python3 /root/core/vrrp_agent.py " + " ".join(words))

    def agent(self, *words):
        """Start vrrp_agent.py with WORDS, and return the process when it is ready."""
        command = lab.privileged("podman", "exec", "-i", self.scratch.container, "python3", "/root/core/vrrp_agent.py")
        process = subprocess.Popen([*command, *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert process.stdout.readline() == "ready\n", (self.name, words)
        return process

    def plug(self, state, *devices):
        """Pull (STATE down) or plug in (up) the cables of DEVICES, at the switch's end."""
        for device in devices:
            index = self.sh(f"cat /sys/class/net/{device}/iflink")
            links = json.loads(subprocess.run(["ip", "-j", "link"], capture_output=True, check=True).stdout)
            port = next(link["ifname"] for link in links if link["ifindex"] == int(index))
            subprocess.run(lab.privileged("ip", "link", "set", port, state), check=True)

    def holds(self, address=GATEWAY):
        """Return whether the host holds the machines' gateway ADDRESS."""
        return f" {address}/" in self.sh("ip -o address show dev eth0")

    def routes(self):
        """Return how many of our routes the kernel has."""
        return int(self.sh("ip -N -6 route show proto 250 | grep -c 2001:db8:200 || test $? = 1"))

    def boot(self):
        """Cut the power, start the host again, and return when its boot is over."""
        lab.podman("kill", "-s", "KILL", self.scratch.container)
        lab.podman("wait", self.scratch.container)
        lab.podman("start", self.scratch.container)
        lab.wait_for_boot(self.scratch.container)


class Site:
    """The hosts, by name."""

    def __init__(self, suite, hosts, directory, inside):
        self.suite, self.hosts, self.directory, self.inside = suite, hosts, directory, inside
        self.r1, self.r2, self.machine, self.upstream = (hosts[name] for name in ("r1", "r2", "machine", "upstream"))

    def play(self, tasks, *names, options=(), fails=False, **variables):
        """Run TASKS on the routers NAMES by ansible-playbook, and return what it told."""
        common = {**ROLE, **variables}
        routers = {
            name: {**self.hosts[name].scratch.variables(), **common, "edge_router_ipv6_priority": PRIORITIES[name]}
            for name in names
        }
        (self.directory / "hosts.json").write_text(json.dumps({"all": {"hosts": routers}}))
        play = [{"hosts": "all", "gather_facts": False, "tasks": tasks}]
        (self.directory / "play.json").write_text(json.dumps(play))
        program = pathlib.Path(sys.executable).parent / "ansible-playbook"
        done = subprocess.run(
            [program, "-i", self.directory / "hosts.json", *options, self.directory / "play.json"],
            cwd=ROOT,
            env={**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        told = done.stdout + done.stderr
        assert (done.returncode != 0) is fails, told
        return told

    @contextlib.contextmanager
    def traffic(self, *others):
        """Ask the machine and OTHERS from upstream without pause; yield {address: what came of it}, full at the end."""
        process = self.upstream.agent("probe", str(EVERY), MACHINE, MACHINE_V4, *others)
        found = {}
        try:
            yield found
        finally:
            told, _errors = process.communicate(timeout=30)
        found.update(json.loads(told))

    @contextlib.contextmanager
    def advertising(self, seconds):
        """Have the routers advertise themselves every SECONDS for a while."""
        try:
            self.play(ROLE_TASKS[2:], "r1", "r2", edge_router_ipv6_advert_interval=seconds)
            self.settled()
            yield
        finally:
            self.play(ROLE_TASKS[2:], "r1", "r2")
            self.settled()

    @contextlib.contextmanager
    def guest(self):
        """Boot a host among the machines that has an address, and takes the gateway from whoever advertises it."""
        with lab.scratch(self.suite, f"edge-{self.suite}-guest", f"{self.inside}:interface_name=eth0") as scratch:
            scratch.put_core(AGENT)
            host = Host(scratch, "guest")
            host.sh("sysctl -qw net.ipv6.conf.eth0.accept_ra=1 net.ipv6.conf.eth0.autoconf=1")
            host.sh(f"ip address add {GUEST}/64 dev eth0 nodad")
            yield host

    @contextlib.contextmanager
    def advertised(self, host):
        """Ask for router advertisements as HOST without pause; yield a list of what has come so far."""
        process = host.agent("advertised", "eth0")
        found = []

        def hear():
            for line in process.stdout:
                found.append(json.loads(line))

        hearing = threading.Thread(target=hear)
        hearing.start()
        try:
            yield found
        finally:
            process.stdin.close()
            hearing.join()
            process.wait()

    def masters(self, address=GATEWAY):
        """Return the names of the routers that hold the gateway ADDRESS."""
        return [router.name for router in (self.r1, self.r2) if router.holds(address)]

    def rests(self):
        """Wait until the gateways of IPv4, whose advertisements are rarer, have followed."""
        until(lambda: self.masters(GATEWAY_V4) == self.masters(), 30, "the same router is the gateway of both families")

    @contextlib.contextmanager
    def alone(self):
        """Have r1 without its twin for a while."""
        self.r2.sh("systemctl stop keepalived")
        try:
            yield
        finally:
            self.r2.sh("systemctl start keepalived")

    def settled(self, name="r1"):
        """Wait until the router NAME alone is the gateway, and tell how long it took."""
        masters = []

        def alone():
            masters[:] = self.masters()
            return masters == [name]

        return until(alone, 30, f"{name} alone is the gateway", masters)


@contextlib.contextmanager
def site(suite, directory):
    """Boot the hosts of SUITE and make the routers a pair by the role."""
    with contextlib.ExitStack() as stack:
        inside, outside = stack.enter_context(lab.switches(f"edge-{suite}-in", f"edge-{suite}-out"))
        cables = {"r1": [inside, outside], "r2": [inside, outside], "machine": [inside], "upstream": [outside]}

        def boot(name):
            nets = [f"{net}:interface_name=eth{number}" for number, net in enumerate(cables[name])]
            return name, Host(stack.enter_context(lab.scratch(suite, f"edge-{suite}-{name}", *nets)), name)

        with concurrent.futures.ThreadPoolExecutor(len(cables)) as pool:
            made = Site(suite, dict(pool.map(boot, cables)), directory, inside)
        for name, script in AROUND.items():
            made.hosts[name].scratch.put_core(AGENT)
            made.hosts[name].sh(script)
        for number, (name, priority) in enumerate(PRIORITIES.items(), 2):
            router = made.hosts[name]
            router.put(
                {
                    "/etc/network/interfaces": INTERFACES.format(number=number),
                    "/etc/keepalived/keepalived.conf": KEEPALIVED.format(priority=priority),
                    "/etc/sysctl.d/10-router.conf": "net.ipv4.ip_forward = 1\n",
                }
            )
            router.sh("sysctl -q -p /etc/sysctl.d/10-router.conf; systemctl start ssh; systemctl -q enable ssh")
            router.sh("systemctl -q enable --now networking keepalived")
        made.play(ROLE_TASKS, "r1", "r2")
        answering = made.machine.agent("answer", MACHINE, MACHINE_V4)
        stack.callback(answering.kill)
        made.settled()
        yield made
