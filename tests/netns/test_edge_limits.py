"""What an edge router spends on packets to nobody: neighbor cache entries (RFC 6583) and ICMPv6 errors (RFC 4443)."""

import json
import os
import pathlib
import subprocess
import sys
import time

import pytest
import yaml
from edge_net import HERE, MACHINES, OUTSIDE, THERE, router, run

sys.path.insert(0, str(pathlib.Path(__file__).parents[2] / "plugins"))

from module_utils import _edge

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root")

ROLE = pathlib.Path(__file__).parents[2] / "roles" / "edge_router"
DEFAULTS = yaml.safe_load((ROLE / "defaults" / "main.yml").read_text())
HALVES = [{"dest": f"2001:db8:100:1:{half}/65", "type": "unreachable"} for half in (":", "8000::")]
MACHINE = {"dest": f"{HERE[1]}/128", "dev": "eth0"}
CLIENT = {"dest": "2001:db8:200:14::/64", "via": HERE[1], "dev": "eth0"}
# Packets of SIZE octets from this side to each of the addresses, and a question to the last one.
SEND = """
import json, socket, sys
size, addresses, asked = json.load(sys.stdin)
with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as one:
    # IPV6_PMTUDISC_PROBE: whatever is known of the path.
    one.setsockopt(socket.IPPROTO_IPV6, 23, 3)
    for address in addresses:
        one.sendto(bytes(size), (address, 9))
if asked:
    try:
        socket.create_connection((asked, 9), timeout=10)
    except ConnectionRefusedError:
        print("refused")
"""


@pytest.fixture(autouse=True)
def routed():
    with router():
        for name in ("ratelimit", "ratemask"):
            run(f"sysctl -q -w net.ipv6.icmp.{name}={DEFAULTS[f'edge_router_ipv6_icmp_{name}']}")
        yield


@pytest.fixture
def change(tmp_path):
    def call(*config, **options):
        places = {"directory": str(tmp_path / "routes.d"), "seals": str(tmp_path / "seals")}
        return _edge.run(_edge.Request(config=list(config), **{"name": "addresses", **places, **options}))

    return call


def send(addresses, asked="", size=8, side=OUTSIDE):
    command = ["ip", "netns", "exec", side, sys.executable, "-c", SEND]
    order = json.dumps([size, addresses, asked])
    return subprocess.run(command, input=order, check=True, capture_output=True, text=True).stdout


def entries():
    """Return how many neighbors on the machines' side the router has looked for, or found."""
    return len(json.loads(run("ip -6 -j neighbor show dev eth0 to 2001:db8:100:1::/64 nud all")))


def errors(name):
    """Return how many errors the router has sent, as RFC 4293 counts them; the kernel has no line before the first."""
    lines = dict(line.split() for line in pathlib.Path("/proc/thread-self/net/snmp6").read_text().splitlines())
    return int(lines[f"Icmp6Out{name}"])


UNASSIGNED = [f"2001:db8:100:1::dead:{number:x}" for number in range(1, 51)]


def test_nobody_is_looked_for_but_the_machines(change):
    run(f"ip -n {MACHINES} address add 2001:db8:200:14::1/128 dev lo")
    change(MACHINE, *HALVES)
    # Each by its own route: the addresses first, then what lies behind them.
    change(CLIENT, name="fleet")
    assert send(UNASSIGNED, asked=HERE[1]) == "refused\n"
    assert entries() == 1
    assert send([], asked="2001:db8:200:14::1") == "refused\n"


def test_without_the_guard_each_address_costs_an_entry():
    assert send(UNASSIGNED, asked=HERE[1]) == "refused\n"
    assert entries() == len(UNASSIGNED) + 1


def test_the_network_on_the_link_stays_behind_the_guard_and_comes_back(change):
    before = run("ip -6 route show")
    change(MACHINE, *HALVES)
    assert not change(MACHINE, *HALVES)["changed"]
    assert all(line in run("ip -6 route show") for line in before.splitlines())
    change(MACHINE, *HALVES, state="deleted")
    assert run("ip -6 route show") == before
    assert send([], asked=HERE[1]) == "refused\n"


def test_errors_to_one_destination_are_few():
    run("ip route add unreachable 2001:db8:200::/48 metric 4096")
    began = time.monotonic()
    send([f"2001:db8:200:99::{number:x}" for number in range(1, 1001)])
    tenths = int((time.monotonic() - began) * 10) + 1
    # Six at once (the kernel's burst), then ten a second.
    assert 1 <= errors("DestUnreachs") <= 6 + tenths


def test_packet_too_big_is_always_told():
    run("ip link set eth0 mtu 1280")
    send([HERE[1]] * 100, size=1400)
    assert errors("PktTooBigs") == 100
    assert THERE[1] in run("ip -6 neighbor show dev eth1")
