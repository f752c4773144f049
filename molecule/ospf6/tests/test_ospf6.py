"""OSPFv3 with real FRR: a router takes a machine's own prefix from it, nothing else, and nothing from a stranger.

From static routes to OSPFv3 and back under traffic. The tests are one journey, in their order; the hosts are their own.
"""

import concurrent.futures
import contextlib
import json
import re
import subprocess
import time

import pytest
from lab import hardware_address, scratch, switches

KEY, NEXT_KEY = "a-secret-of-the-link-4711", "the-next-secret-of-it-4712"
PREFIX = "2001:db8:200:11::/64"
ROUTE = {"dest": PREFIX, "via": "2001:db8:100:1::11", "dev": "eth0"}
BEHIND = 200 << 24
LINK = {"ospf6_ipv6_hello_interval": 1, "ospf6_ipv6_dead_interval": 4}
ROUTER = {
    "edge_router_ipv6_device": "eth0",
    "edge_router_ipv6_aggregates": ["2001:db8:200::/48"],
    "edge_router_ipv6_announced": [PREFIX],
    "ospf6_ipv6_router_id": "192.0.2.1",
    **LINK,
}
MACHINE = {
    "ospf6_ipv6_device": "eth0",
    "ospf6_ipv6_announce": [PREFIX],
    "ospf6_ipv6_router_id": "192.0.2.11",
    **LINK,
}
# Behind the router a network whose one host is in a namespace; on the machine what the role interfaces would make.
AROUND = {
    "router": """
ip address add 2001:db8:100:1::1/64 dev eth0 nodad
ip netns add outside
ip link add eth1 type veth peer name eth1 netns outside
ip address add 2001:db8:ffff::1/64 dev eth1 nodad
ip link set eth1 up
ip -n outside address add 2001:db8:ffff::10/64 dev eth1 nodad
ip -n outside link set eth1 up
ip -n outside route add default via 2001:db8:ffff::1
sysctl -qw net.ipv6.conf.all.forwarding=1
: > /etc/keepalived/keepalived.conf
sed -i s/^ospf6d=no/ospf6d=yes/ /etc/frr/daemons
systemctl restart keepalived
""",
    "machine": """
ip address add 2001:db8:100:1::11/64 dev eth0 nodad
ip -6 route add default via 2001:db8:100:1::1 dev eth0
ip address add 2001:db8:200:11::1/128 dev lo
ip -6 route add unreachable 2001:db8:200:11::/64 metric 4096
""",
    "old": "ip link add eth1 type veth",
}
SUITES = {"router": "trixie", "machine": "trixie", "old": "bookworm"}
# The fleet's own, before us: FRR routes a network already.
FOREIGN = "frr defaults traditional\nlog syslog informational\n!\nipv6 route 2001:db8:999::/48 blackhole\n!\n"
UNFIT = f"{FOREIGN}log commands\nrouter ospf6\n ospf6 router-id 192.0.2.9\nexit\n"
# By hand: everything that a machine which has the key must not do.
ROGUE = """
ipv6 route 2001:db8:200:12::/64 blackhole
ipv6 route 2001:db8:eeee::/48 blackhole
router ospf6
 redistribute static
 default-information originate always
exit
"""
FILES = """
cd /etc; find frr systemd/system $(ls -d dualstack/*ospf* 2>/dev/null) -printf '%p %y %m %u %g %l\\n' | sort
find frr systemd/system -type f -exec sha256sum {} + | sort
"""
RUNNING = "vtysh -c 'show running-config'"


class Net:
    """The router, the machine that announces its prefix, and a host with an old FRR."""

    def __init__(self, router, machine, old):
        self.router, self.machine, self.old = router, machine, old

    def routes(self, protocol):
        """Return {prefix: metric} of the router's kernel routes of PROTOCOL that are no aggregates."""
        shown = json.loads(self.router.sh(f"ip -N -6 -j route show proto {protocol} type unicast"))
        return {route["dst"]: route["metric"] for route in shown}

    def edge(self, routing, *options, **variables):
        """Do with the router what the playbook edge does: its routes, then the role."""
        metric = {"metric": BEHIND} if routing == "ospf6" else {}
        tasks = [
            {"dualstack.fleet.edge_routes": {"config": [{**ROUTE, **metric}]}},
            {"ansible.builtin.include_role": {"name": "dualstack.fleet.edge_router"}},
        ]
        variables = {**ROUTER, **variables, "edge_router_ipv6_routing": routing}
        return self.router.play({"tasks": tasks, "vars": variables}, options)

    def speaks(self):
        """See that the router has the machine's prefix from OSPFv3, before that of the plan."""
        eventually(lambda: self.routes(188), {PREFIX: 20})
        assert self.routes(250) == {PREFIX: BEHIND}

    @contextlib.contextmanager
    def traffic(self):
        """Send the machine a packet each 20 ms meanwhile; none of them gets lost."""
        words = "ip netns exec outside ping -6 -n -i 0.02 -W 1 2001:db8:200:11::1"
        with running(self.router, words) as sent:
            yield
        told = "".join(sent)
        counts = re.search(r"(\d+) packets transmitted, (\d+) received", told)
        assert int(counts[1]) > 50
        assert counts[1] == counts[2], told[-2000:]


@contextlib.contextmanager
def running(host, words):
    """Run WORDS on HOST meanwhile, from their first line on, and give their lines afterwards."""
    command = host.command("sh", "-c", f"echo $$; exec {words}")
    lines = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        number = process.stdout.readline().strip()
        try:
            yield lines
        finally:
            host.sh(f"kill -INT {number}")
            lines += process.stdout.readlines()


def eventually(question, wanted, seconds=30):
    """See that QUESTION comes to WANTED in time."""
    end = time.monotonic() + seconds
    while (answer := question()) != wanted:
        assert time.monotonic() < end, f"{answer} instead of {wanted}"
        time.sleep(0.1)


@pytest.fixture(scope="module")
def net(tmp_path_factory, on):
    with contextlib.ExitStack() as stack:
        cable = stack.enter_context(switches("ospf6"))[0]

        def boot(name, directory):
            port = f"{cable}:interface_name=eth0,mac={hardware_address(name, 0)}"
            host = stack.enter_context(scratch(SUITES[name], f"ospf-{name}", port))
            host.install("frr", "frr-pythontools")
            bare = on(host, directory)
            bare.sh(AROUND[name])
            bare.sh("cat > /etc/frr/frr.conf", {"router": FOREIGN, "old": UNFIT}.get(name, ""))
            bare.sh("systemctl restart frr; systemctl start ssh")
            return bare

        # Made here: the factory is not safe for threads, its first call picks the parent of all.
        directories = {name: tmp_path_factory.mktemp(name) for name in SUITES}
        with concurrent.futures.ThreadPoolExecutor() as pool:
            hosts = {name: pool.submit(boot, name, directories[name]) for name in SUITES}
        yield Net(**{name: host.result() for name, host in hosts.items()})


@pytest.fixture(scope="module")
def before(net):
    """What the files of the router and of the machine were."""
    return {host: host.sh(FILES) for host in (net.router, net.machine)}


def test_what_speaks_against_it_is_told_at_once_and_nothing_changes(net):
    files, configuration = net.old.sh(FILES), net.old.sh(RUNNING)
    said = net.old.apply("ospf6", fails=True, ospf6_ipv6_key=KEY, **MACHINE).message
    for words in (
        "9.1 or later is needed",
        "has OSPFv3 already",
        "'log commands'",
        "FRR has routes in use, and does not run ospf6d",
    ):
        assert words in said.replace("\\", "")
    assert (net.old.sh(FILES), net.old.sh(RUNNING)) == (files, configuration)
    assert "16 to 64 letters" in net.old.apply("ospf6", fails=True, ospf6_ipv6_key="short", **MACHINE).message


def test_to_ospfv3_under_traffic(net, before):
    net.router.module("edge_routes", config=[ROUTE])
    assert net.routes(250) == {PREFIX: 1024}
    with net.traffic():
        told = net.machine.apply("ospf6", "-vvv", "--diff", ospf6_ipv6_key=KEY, **MACHINE)
        assert KEY not in told.message
        assert KEY not in net.edge("ospf6", "-vvv", "--diff", ospf6_ipv6_key=KEY).message
        net.speaks()
    assert not net.edge("ospf6", ospf6_ipv6_key=KEY).changed
    assert not net.machine.apply("ospf6", ospf6_ipv6_key=KEY, **MACHINE).changed
    # The fleet's own.
    assert net.router.sh("cat /etc/frr/frr.conf") + "\n" == FOREIGN
    assert "2001:db8:999::/48" in net.router.sh("ip -6 route show type blackhole")


def test_the_key_is_in_one_file(net):
    for host in (net.router, net.machine):
        places = "/etc /var/lib/dualstack /var/log /run/systemd /run/dualstack /tmp"
        assert host.sh(f"grep -rls {KEY} {places}; true") == "/etc/frr/dualstack-ospf6-key.conf"
        assert host.sh("stat -c '%a %U' /etc/frr/dualstack-ospf6-key.conf") == "600 root"
        assert KEY not in host.sh("journalctl --no-pager -b")


def test_a_router_takes_the_planned_prefix_only_whatever_happens_to_frr(net):
    net.machine.sh("cat > /tmp/rogue && vtysh -f /tmp/rogue", ROGUE)
    known = "vtysh -c 'show ipv6 route ospf6 json'"
    eventually(
        lambda: {"::/0", "2001:db8:eeee::/48", "2001:db8:200:12::/64"} <= json.loads(net.router.sh(known)).keys(), True
    )
    with running(net.router, "stdbuf -oL ip -N -6 monitor route") as changes, net.traffic():
        for event in ("systemctl reload frr", "systemctl restart frr"):
            net.router.sh(event)
            net.speaks()
    taken = [line for line in changes if " proto 188 " in line]
    assert any(line.startswith(PREFIX) for line in taken)
    assert not [line for line in taken if not line.removeprefix("Deleted ").startswith(PREFIX)]
    assert "proto 188" not in net.machine.sh("ip -N -6 route show")
    # What was said by hand is not in its file.
    net.machine.sh("systemctl reset-failed frr; systemctl restart frr")


def dropped(host):
    """Return how many packets HOST has dropped because they are not signed with its key."""
    return int(re.search(r"Packet drop Rx (\d+)", host.sh("vtysh -c 'show ipv6 ospf6 interface eth0'"))[1])


def test_whoever_has_another_key_is_not_listened_to(net):
    count = dropped(net.router)
    with net.traffic():
        assert net.machine.apply("ospf6", ospf6_ipv6_key=NEXT_KEY, **MACHINE).changed
        eventually(lambda: dropped(net.router) > count + 2, True)
        eventually(lambda: net.routes(188), {})
        assert net.edge("ospf6", ospf6_ipv6_key=NEXT_KEY).changed
        net.speaks()


def test_a_daemon_that_its_watchdog_started_again_gets_our_lines_by_the_next_run(net):
    with net.traffic():
        net.machine.sh("kill -9 $(pidof ospf6d)")
        eventually(lambda: "ospf6d" in net.machine.sh("vtysh -c 'show daemons'"), True)
        assert net.machine.apply("ospf6", ospf6_ipv6_key=NEXT_KEY, **MACHINE).changed
        net.speaks()


def test_back_to_static_routes_under_traffic(net, before):
    with net.traffic():
        net.edge("static")
        assert (net.routes(250), net.routes(188)) == ({PREFIX: 1024}, {})
        net.machine.apply("ospf6", ospf6_ipv6_state="reverted", **MACHINE)
    net.router.apply("edge_router", edge_router_ipv6_state="reverted", **ROUTER)
    for host in (net.router, net.machine):
        assert not re.search("ospf6|DUALSTACK", host.sh(RUNNING).replace("2001:db8:200", ""))
    assert {host: host.sh(FILES) for host in before} == before
