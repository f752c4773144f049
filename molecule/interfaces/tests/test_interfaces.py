"""The machines have their planned addresses, live and after a boot; IPv4 is as it was."""

import json
import subprocess

BACKENDS = {"web1": "/etc/network/dualstack.d/eth0", "web2": "/etc/systemd/network/10-eth0.network.d/50-dualstack.conf"}


def addresses(host):
    """Return {address: flags} of all global IPv6 addresses of HOST."""
    links = json.loads(host.check_output("ip -j -6 address show scope global"))
    return {entry["local"]: entry for link in links for entry in link.get("addr_info", []) if entry.get("local")}


def wait_until_settled(host):
    """Wait, as a bounded poll of the kernel's state, until no address is tentative."""
    host.run_expect([0], "timeout 10 sh -c 'while ip -6 address show tentative | grep -q .; do sleep 0.1; done'")


def assert_is_dual_stack(lab, machine):
    host = lab(machine)
    ipv4, *planned = lab.addresses(machine)
    present = addresses(host)
    assert set(planned) <= set(present)
    assert not [entry for entry in present.values() if entry.get("tentative") or entry.get("dadfailed")]
    assert ipv4 in host.check_output("ip -4 address show dev eth0")
    assert host.check_output("ip -4 route show default").startswith("default via 198.51.100.1 dev eth0")
    assert "via fe80::1 dev eth0" in host.check_output("ip -6 route show default")
    delegated = lab.variables[machine]["dualstack"]["delegated_prefix"]
    assert f"unreachable {delegated}" in host.check_output("ip -6 route show type unreachable")


def test_the_addresses_are_live_and_ipv4_is_as_it_was(lab, machine):
    assert_is_dual_stack(lab, machine)


def test_the_backend_of_the_host_owns_the_addresses(lab, machine):
    assert lab.variables[machine]["dualstack"]["address"] in lab(machine).file(BACKENDS[machine]).content_string


def test_no_rollback_is_left_armed(lab, machine):
    host = lab(machine)
    assert "dualstack-rollback" not in host.check_output("systemctl list-timers --all --no-legend")
    assert not host.file("/var/lib/dualstack/network/pending.json").exists


def test_machines_reach_each_other_over_ipv6(lab):
    _ipv4, *planned = lab.addresses("web2")
    for address in planned[:1]:
        lab("web1").run_expect([0], f"ping -6 -c 1 -W 3 {address}")


def test_a_boot_brings_the_same_addresses(lab, machine, reboot):
    reboot(machine)
    wait_until_settled(lab(machine))
    assert_is_dual_stack(lab, machine)


def test_no_machine_gets_an_address_before_each_router_knows_the_way_back(lab):
    record = lab.variables["web1"]["dualstack"]
    route = {"dest": record["delegated_prefix"], "via": record["next_hop"]}
    # Or what watches the routes would give it back.
    gone = f"systemctl stop dualstack-routes-watch && ip -6 route del {route['dest']} proto 250"
    lab("edge2").run_expect([0], gone)
    play = ["ansible-playbook", "-i", "inventories/lab", "dualstack.fleet.interfaces", "--limit", "web1"]
    try:
        done = subprocess.run(play, cwd=lab.root, env=lab.environment, capture_output=True, text=True, check=False)
    finally:
        lab("edge2").run_expect([0], "/etc/dualstack/restore-routes && systemctl start dualstack-routes-watch")
    said = done.stdout + done.stderr  # where a failure is told is a setting of Ansible's
    assert done.returncode != 0
    assert f"edge2 has no route to {route['dest']} by {route['via']}" in said
    assert "edge1 has no" not in said
    assert "Run the playbook dualstack.fleet.edge" in said
    done = subprocess.run(play, cwd=lab.root, env=lab.environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
