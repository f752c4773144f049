"""Each machine answers for its virtual hosts' prefixes and for nothing else of its /64, also after a boot."""

import json
import subprocess

SITES = {"web1": ["books.example.net", "music.example.net"], "web2": ["films.example.net"]}
FILES = [
    "/etc/systemd/networkd.conf.d/60-dualstack-vhosts.conf",
    "/etc/systemd/system/dualstack-vhosts.service",
    "/etc/systemd/system/multi-user.target.d/60-dualstack-vhosts.conf",
    "/etc/dualstack/routes.d/vhosts.batch",
]


def local(host):
    """Return the prefixes that our local routes make the own ones of HOST."""
    return sorted(route["dst"] for route in json.loads(host.check_output("ip -N -j -6 route show table 255 proto 250")))


def assert_answers(lab, machine):
    host, vhosts = lab(machine), lab.variables[machine]["dualstack"]["vhosts"]
    assert sorted(vhosts) == SITES[machine]
    assert local(host) == sorted(vhosts.values())
    other = "web2" if machine == "web1" else "web1"
    for prefix in vhosts.values():
        inside = prefix.split("::/")[0]
        for address in (f"{inside}::1", f"{inside}:ffff:ffff:ffff"):
            host.run_expect([0], f"ping -6 -c 1 -W 3 {address}")
        # Until the first answer: after a boot, the machine's own address may still be tentative.
        lab(other).run_expect([0], f"ping -6 -c 1 -w 20 {inside}::1")


def outgoing(host):
    """Return the source address of HOST's own connections."""
    return host.check_output("ip -6 route get 2001:db8:ffff::10").split(" src ")[1].split()[0]


def play(lab, machine, state):
    """Apply the role in STATE to one machine."""
    command = ["ansible", machine, "-i", "inventories/lab", "-m", "include_role", "-a", "name=dualstack.fleet.vhosts"]
    command += ["-e", f"vhosts_ipv6_state={state}"]
    done = subprocess.run(command, cwd=lab.root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_machine_answers_at_every_address_of_each_prefix(lab, machine):
    assert_answers(lab, machine)


def test_what_is_not_assigned_stays_unreachable(lab, machine):
    inside = lab.variables[machine]["dualstack"]["delegated_prefix"].split("::/")[0]
    answer = lab(machine).run(f"ip -6 route get {inside}:7777::1")
    assert "No route to host" in answer.stderr


def test_no_interface_has_an_address_more_and_outgoing_connections_their_source(lab, machine):
    host = lab(machine)
    shown = host.check_output("ip -6 address show")
    for prefix in lab.variables[machine]["dualstack"]["vhosts"].values():
        assert prefix.split("::/")[0] not in shown
    before = outgoing(host)
    play(lab, machine, "reverted")
    assert outgoing(host) == before
    play(lab, machine, "present")
    assert outgoing(host) == before


def test_the_prefixes_are_back_after_a_boot_before_any_service_starts(lab, machine, reboot):
    reboot(machine)
    assert_answers(lab, machine)
    host = lab(machine)

    def when(unit, what):
        return int(host.check_output(f"systemctl show -P {what}TimestampMonotonic {unit}"))

    assert 0 < when("dualstack-vhosts", "ActiveEnter") <= when("network.target", "ActiveEnter")
    assert when("dualstack-vhosts", "ActiveEnter") < when("apache2", "InactiveExit")


def test_a_restart_of_networkd_leaves_the_prefixes(lab):
    web2 = lab("web2")
    web2.run_expect([0], "systemctl restart systemd-networkd")
    web2.run_expect([0], "/usr/lib/systemd/systemd-networkd-wait-online --timeout 20")
    assert_answers(lab, "web2")


def test_the_way_back_leaves_nothing(lab, machine):
    host = lab(machine)
    play(lab, machine, "reverted")
    assert local(host) == []
    assert [path for path in FILES if host.file(path).exists] == []
    unit = host.check_output("systemctl show -P LoadState dualstack-vhosts")
    assert unit == "not-found"
    play(lab, machine, "present")
    assert_answers(lab, machine)
