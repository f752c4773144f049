"""Mail arrives and leaves over both families; strangers relay over neither."""

import subprocess

import pytest

GREETING = "220 {name}.example.net"


@pytest.mark.parametrize("name", ["mx1", "web1", "web2"])
def test_the_server_greets_on_both_families(lab, name):
    for client, address in lab.paths(name):
        assert lab.greeting(client, address, 25).startswith(GREETING.format(name=name))


@pytest.fixture(scope="module")
def gate(lab):
    """A function that opens the gate for outbound mail of all servers, or pins it to IPv4; at the end it is pinned."""

    def move(outbound):
        role = ["-m", "include_role", "-a", "name=dualstack.fleet.postfix tasks_from=policy"]
        command = [
            "ansible",
            "-i",
            "inventories/lab",
            "mx:clients:!tux",
            *role,
            "-e",
            f"postfix_ipv6_outbound={outbound}",
        ]
        subprocess.run(command, cwd=lab.root, check=True, capture_output=True)

    yield move
    move("pinned")


@pytest.mark.parametrize("family", [0, 1])
def test_the_relay_knows_its_machines_by_both_addresses(lab, machine, family):
    assert lab.relay(machine, "mx1", family) == 250


@pytest.mark.parametrize("family", [0, 1])
def test_a_machine_relays_for_nobody(lab, family):
    assert lab.relay("web2", "web1", family) == 554


def test_mail_leaves_over_ipv6_from_inside_the_machines_own_prefix_once_its_gate_is_open(lab, machine, gate):
    gate("open")
    other = "web2" if machine == "web1" else "web1"
    # The name server has no AAAA yet: the address says which family is meant.
    with lab.postfix(machine, f"relayhost = [{lab.addresses('mx1')[1]}]"):
        letter = lab.mail(machine, f"bob@int.{other}.example.net", other)
    assert f"[IPv6:{lab.addresses(machine)[2]}]" in letter


def test_mail_leaves_over_ipv4_while_the_gate_is_shut(lab, machine, gate):
    gate("pinned")
    other = "web2" if machine == "web1" else "web1"
    with lab.postfix(machine, "smtp_address_preference = ipv6"):
        letter = lab.mail(machine, f"bob@int.{other}.example.net", other)
    assert f"[{lab.addresses(machine)[0]}]" in letter
    assert "IPv6:" not in letter


@pytest.mark.parametrize("name", ["web1", "web2", "mx1"])
def test_only_the_lines_in_question_have_changed(lab, name):
    with open(f"{lab.root}/tests/lab/hosts/{name}/etc/postfix/main.cf", encoding="utf-8") as stream:
        legacy = stream.read().splitlines()
    now = lab(name).file("/etc/postfix/main.cf").content_string.splitlines()
    changed = {line.split("=")[0].strip() for line in set(now) - set(legacy)}
    assert (
        changed <= {"inet_protocols", "mynetworks", "smtp_bind_address6", "198.51.100.0/24 [::1]/128"} or name == "mx1"
    )
    assert [line for line in legacy if line.startswith("#")] == [line for line in now if line.startswith("#")]
