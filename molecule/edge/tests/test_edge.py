"""Both routers know every delegated prefix and one of them is the gateway; IPv4's gateway has not moved."""

import json
import subprocess

import pytest

EDGES = ["edge1", "edge2"]
GONE, STRANGER = "2001:db8:200:9999::/64", "2001:db8:100:1::c:9999"


@pytest.mark.parametrize("edge", EDGES)
def test_each_router_has_each_delegated_prefix(lab, edge):
    routes = json.loads(lab(edge).check_output("ip -N -j -6 route show proto 250"))
    present = {route["dst"]: route.get("gateway") for route in routes}
    wanted = {
        record["delegated_prefix"]: record["address"]
        for variables in lab.variables.values()
        if (record := variables.get("dualstack")) and record["delegated_prefix"]
    }
    assert len(wanted) == 4
    assert {prefix: present.get(prefix) for prefix in wanted} == wanted


@pytest.mark.parametrize("edge", EDGES)
def test_the_routes_are_kept_for_the_next_boot(lab, edge):
    assert "2001:db8:200:1121::/64" in lab(edge).check_output("cat /etc/dualstack/routes.d/fleet.batch")
    assert lab(edge).service("dualstack-routes").is_enabled


@pytest.mark.parametrize(
    "device,gateways", [("eth0", ["fe80::1", "2001:db8:100:1::1"]), ("eth1", ["2001:db8:ffff::1"])]
)
def test_exactly_one_router_holds_each_gateway_address(lab, device, gateways):
    for gateway in gateways:
        holders = [
            edge for edge in EDGES if f"{gateway}/" in lab(edge).check_output(f"ip -6 address show dev {device}")
        ]
        assert len(holders) == 1, gateway


def test_the_ipv4_gateway_is_where_it_was(lab):
    assert "198.51.100.1/24" in lab("edge1").check_output("ip -4 address show dev eth0")
    assert "198.51.100.1/24" not in lab("edge2").check_output("ip -4 address show dev eth0")


def test_the_outside_reaches_both_routers_over_ipv6(lab):
    for edge in EDGES:
        lab("upstream").run_expect([0], f"ping -6 -c 1 -W 3 {lab.addresses(edge)[1]}")


# A UDP packet from the interface eth0 to the gateway, whose source is SOURCE.
FORGE = """
import socket, struct
wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x86DD))
wire.bind(("eth0", 0))
own = wire.getsockname()[4]
packed = [socket.inet_pton(socket.AF_INET6, address) for address in ("{source}", "2001:db8:ffff::10")]
wire.send(bytes.fromhex("{gateway}") + own + bytes.fromhex("86dd6000000000081140") + b"".join(packed) + bytes(8))
"""


def dropped(lab, edge):
    listed = json.loads(lab(edge).check_output("nft -j list counters table ip6 dualstack_edge"))["nftables"]
    return {item["counter"]["name"]: item["counter"]["packets"] for item in listed if "counter" in item}


@pytest.mark.parametrize("edge", EDGES)
@pytest.mark.parametrize(
    "source,more",
    [
        ("2001:db8:200:1121::1", {}),
        ("2001:db8:100:1::c:1121", {}),
        ("2001:db8:200:1122::1", {"not_the_owner": 1}),
        ("2001:db8:200:dead::1", {"no_route_back": 1}),
    ],
)
def test_a_machine_sends_from_its_own_addresses_only(lab, edge, source, more):
    before = dropped(lab, edge)
    gateway = lab(edge).check_output("cat /sys/class/net/eth0/address").replace(":", "")
    lab("web1").run_expect([0], f"python3 -c '{FORGE.format(source=source, gateway=gateway)}'")
    wanted = {name: number + more.get(name, 0) for name, number in before.items()}
    assert dropped(lab, edge) == wanted


@pytest.mark.parametrize("edge", EDGES)
def test_the_filter_is_loaded_before_the_network_and_after_a_flush(lab, edge):
    before = "network-pre.target systemd-sysctl.service"
    order = lab(edge).check_output("systemctl show -p Before --value dualstack-edge-filter.service").split()
    assert set(before.split()) <= set(order)
    wants = lab(edge).check_output("systemctl show -p Wants --value sysinit.target").split()
    assert "dualstack-edge-filter.service" in wants
    for action in ("restart", "stop"):
        lab(edge).run_expect([0], f"systemctl {action} nftables")
        assert "not_the_owner" in dropped(lab, edge)


@pytest.mark.parametrize("edge", EDGES)
def test_unassigned_addresses_cost_no_neighbor_entry(lab, edge):
    unassigned = [f"2001:db8:100:1::dead:{number:x}" for number in range(1, 51)]
    gateway = lab.addresses(edge)[1]
    probe = (
        "import socket, sys; one = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM);"
        ' [one.sendto(b"x", (address, 9)) for address in sys.argv[1:]]'
    )
    uplink = lab.variables[edge]["lab_uplink_address"].partition("/")[0]
    lab("upstream").run_expect([0], f"ip -6 route replace 2001:db8:100:1::dead:0/112 via {uplink}")
    try:
        lab("upstream").run_expect([0], f"python3 -c '{probe}' {' '.join(unassigned)}")
        # The last packet's answer, from behind the same router, comes after all of the others.
        lab("upstream").run_expect([0], f"ping -6 -c 1 -W 3 {gateway}")
    finally:
        lab("upstream").run_expect([0], "ip -6 route del 2001:db8:100:1::dead:0/112")
    assert "dead" not in lab(edge).check_output("ip -6 neighbor show dev eth0 nud all")


@pytest.mark.parametrize("edge", EDGES)
def test_errors_are_limited_from_the_next_boot_on_too(lab, edge):
    for name, value in (("ratelimit", "100"), ("ratemask", "0-1,3-127")):
        assert lab(edge).check_output(f"sysctl -n net.ipv6.icmp.{name}") == value
        assert f"net.ipv6.icmp.{name} = {value}" in lab(edge).check_output("cat /etc/sysctl.d/60-dualstack-router.conf")


@pytest.fixture
def stranger(lab):
    """A host on the machines' network that the plan does not know, and edge1 all the same."""
    known = f"route add {STRANGER}/128 dev eth0"
    lab("web1").run_expect([0], f"ip -6 address add {STRANGER}/64 dev eth0 nodad")
    lab("edge1").run_expect([0], f"ip -6 {known}")
    yield
    lab("edge1").run_expect([0], f"ip -6 {known.replace('add', 'del')}")
    lab("web1").run_expect([0], f"ip -6 address flush dev eth0 to {STRANGER}")


def play(lab, *options):
    """Run the playbook on the edge routers; return its exit status and what it told."""
    command = ["ansible-playbook", "-i", "inventories/lab", "dualstack.fleet.edge", *options]
    done = subprocess.run(command, cwd=lab.root, env=lab.environment, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def test_the_second_router_is_not_touched_unless_the_first_forwards(lab):
    machine = lab.addresses("web1")[1:]
    status, told = lab.role("edge1", "edge_router", edge_router_ipv6_priority=50)
    assert status == 0, told
    awaited = "until ip -6 address show dev eth0 | grep -q ' fe80::1/'; do sleep 0.1; done"
    lab("edge2").run_expect([0], f'timeout 15 sh -c "{awaited}"')
    block = "table ip6 test { chain forward { type filter hook forward priority 0; policy drop; }; }"
    lab("edge1").run_expect([0], f"nft '{block}'")
    try:
        # By its priority it becomes master again, and nothing comes through.
        status, told = play(lab)
        assert status != 0
        assert "edge1 does not forward: upstream does not reach" in told
        assert all(address in told for address in machine)
        assert "edge2" not in told.partition("PLAY RECAP")[0].replace("edge1 -> edge2", "")
    finally:
        lab("edge1").run_expect([0], "nft delete table ip6 test")
    for address in machine:
        lab("upstream").run_expect([0], f"ping -6 -c 1 -W 3 {address}")


@pytest.mark.usefixtures("stranger")
def test_a_route_stays_until_its_machine_has_no_address_and_goes_on_request_only(lab):
    routes = "ip -N -6 route show proto 250 | sort"
    kept = lab("edge1").check_output(routes)
    route = {"dest": GONE, "via": STRANGER, "dev": "eth0"}
    status, told = lab.module("edge1", "dualstack.fleet.edge_routes", "-a", json.dumps({"config": [route]}))
    assert status == 0, told

    prune = ("--limit", "edge1", "-e", "edge_prune=true")
    status, told = play(lab, *prune)
    assert status != 0
    assert f"{STRANGER}: not in the plan, and still in use" in told
    assert GONE in lab("edge1").check_output(routes)

    lab("web1").run_expect([0], f"ip -6 address del {STRANGER}/64 dev eth0")
    status, told = play(lab, *prune)
    assert status == 0, told
    assert lab("edge1").check_output(routes) == kept
    assert GONE not in lab("edge1").check_output("cat /etc/dualstack/routes.d/*.batch")
