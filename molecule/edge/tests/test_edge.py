"""Both routers know every delegated prefix and one of them is the gateway; IPv4's gateway has not moved."""

import json

import pytest

EDGES = ["edge1", "edge2"]


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
