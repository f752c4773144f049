"""service_probe across a router: a hop of 1280 bytes whose Packet Too Big gets lost, and a prefix without a route."""

import json
import os
import pathlib
import re
import subprocess
import sys

import pytest
from edge_net import HERE, MACHINES, OUTSIDE, router, run

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root")

ROOT = pathlib.Path(__file__).parents[2]
MACHINE, PREFIX, INSIDE = HERE[1], "2001:db8:200:14::/64", "2001:db8:200:14::1"
SITE = """
import http.server, socket
class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(bytes(300000))
    def log_message(self, *_):
        pass
class Server(http.server.ThreadingHTTPServer):
    address_family = socket.AF_INET6
server = Server(("::", 80), Page)
print("up", flush=True)
server.serve_forever()
"""
LOST = "add rule ip6 fault {hook} icmpv6 type packet-too-big drop"
CHAIN = "add table ip6 fault; add chain ip6 fault {hook} {{ type filter hook {hook} priority 0; }}; " + LOST


@pytest.fixture
def site():
    """The machine's web server, over both families, behind hops that carry 1280 bytes of IPv6."""
    with router():
        for side, device, here, there in (
            (MACHINES, "eth0", "192.0.2.1", "192.0.2.14"),
            (OUTSIDE, "eth1", "198.51.100.1", "198.51.100.10"),
        ):
            run(f"ip address add {here}/24 dev {device}")
            run(f"ip -n {side} address add {there}/24 dev far")
            run(f"ip -n {side} route add default via {here}")
            run(f"sysctl -q -w net.ipv6.conf.{device}.mtu=1280")
        run("sysctl -q -w net.ipv4.ip_forward=1")
        run(f"ip -n {MACHINES} address add {INSIDE}/128 dev lo nodad")
        command = ["ip", "netns", "exec", MACHINES, sys.executable, "-c", SITE]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
            try:
                assert server.stdout.readline() == "up\n"
                yield
            finally:
                server.kill()


def ask(*records):
    records = [{"name": "web1", "ipv4": "192.0.2.14", "ipv6": [MACHINE], **record} for record in records]
    done = subprocess.run(
        ["ip", "netns", "exec", OUTSIDE, sys.executable, ROOT / "tests" / "fault" / "probe_agent.py"],
        input=json.dumps({"targets": records, "timeout": 1.5}),
        env={**os.environ, "PYTHONPATH": str(ROOT / "plugins")},
        check=True,
        capture_output=True,
        text=True,
    )
    told = json.loads(done.stdout)
    return told["results"], told["by_host"]["web1"]


LARGE = ({"protocol": "http", "min_bytes": 300000}, {"protocol": "mtu"})


def test_a_small_hop_that_says_so_is_no_fault(site):
    results, summary = ask(*LARGE)
    assert summary["ok"], summary["detail"]
    assert results[0]["ipv6"][0]["size"] == 300000


@pytest.mark.parametrize(
    ("side", "hook"), [("", "output"), (f"ip netns exec {MACHINES} ", "input")], ids=["hop", "host"]
)
def test_packet_too_big_that_gets_lost_is_seen(site, side, hook):
    """Lost at the hop, or at the machine, which then sends what nobody gets."""
    run(f"{side}nft -f -", CHAIN.format(hook=hook))
    results, summary = ask(*LARGE)
    assert [result["verdict"] for result in results] == ["path_mtu", "path_mtu"], results
    assert re.search(r"\[.*\]:80: the answer stops after \d+ bytes.*Packet Too Big", results[0]["detail"])
    assert "echoes 104 bytes and loses 1500" in results[1]["detail"]
    assert summary["reason"] == (
        "http on port 80 loses large packets over IPv6; the path loses large packets over IPv6"
    )


def test_a_filter_that_takes_no_echo_request_is_a_remark(site):
    run(f"ip netns exec {MACHINES} nft -f -", CHAIN.format(hook="input").replace("packet-too-big", "echo-request"))
    _results, summary = ask(*LARGE)
    assert summary["ok"], summary["detail"]
    assert summary["remarks"] == [f"web1 mtu: {MACHINE}: not measured: no answer to an echo request"]


def test_the_route_that_is_missing_is_named(site):
    both = {"protocol": "http", "ipv6": [MACHINE, INSIDE], "prefix": PREFIX}
    _results, summary = ask(both)
    line = f"ip -6 route add {PREFIX} via {MACHINE}"
    assert summary["reason"].startswith(f"{PREFIX} is not routed to web1")
    assert line in summary["reason"]
    run(line)
    _results, summary = ask(both)
    assert summary["ok"], summary["detail"]


def test_a_service_that_refuses_inside_the_prefix_has_its_route(site):
    run(f"ip -6 route add {PREFIX} via {MACHINE}")
    _results, summary = ask(
        {"protocol": "http", "ipv6": [MACHINE], "prefix": PREFIX},
        {"protocol": "smtp", "ipv6": [INSIDE], "prefix": PREFIX},
    )
    assert summary["reason"] == "smtp on port 25 does not answer over either family"
    assert "route add" not in summary["detail"]


def test_a_port_to_which_this_machine_does_not_connect_is_not_open(site):
    run(f"ip -n {OUTSIDE} -6 rule add ipproto tcp dport 7000 prohibit")
    results, _summary = ask({"protocol": "closed", "ports": [7000, 80]})
    assert results[0]["ipv6"][0]["open"] == [80]
