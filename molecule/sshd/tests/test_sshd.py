"""sshd greets on both families, keeps its IPv4 to the letter, and refuses what somebody may have meant."""

import contextlib
import json

import pytest

DROP_INS = "/etc/ssh/sshd_config.d"
NETWORKS = {"198.51.100.0/24": ["2001:db8:100:1::/64"]}
BOTH_PORTS = "ListenAddress 0.0.0.0\\nListenAddress 0.0.0.0:2222\\n"
PENDING = "/var/lib/dualstack/sshd/pending.json"
# No new session over the network is let in once sshd has read its configuration; the sessions that are open go on.
DEAF = """
table inet deaf {
    chain input {
        type filter hook input priority -10
        iifname eth0 tcp dport 22 tcp flags & (syn | ack) == syn drop
    }
}
"""
DEAF_UNIT = "/run/systemd/system/ssh.service.d/deaf.conf"
DEAF_NO_MORE = f"rm -f {DEAF_UNIT} && systemctl daemon-reload && nft delete table inet deaf"


def effective(lab, name):
    """Return what sshd itself reads as its listeners."""
    return set(lab(name).check_output("sshd -T | grep -E '^(listenaddress|addressfamily)'").splitlines())


@contextlib.contextmanager
def drop_in(lab, name, number, text):
    """Give the host one more drop-in for a while, in force."""
    host, path = lab(name), f"{DROP_INS}/{number}-test.conf"
    host.run_expect([0], f"printf '{text}' > {path}")
    try:
        host.run_expect([0], "sshd -t && systemctl reload ssh")
        yield path
    finally:
        host.run_expect([0], f"rm {path} && systemctl reload ssh")


@contextlib.contextmanager
def deaf_after_reload(host):
    """Let the next reload of sshd cut off whoever comes anew, until the block ends."""
    unit = "[Service]\\nExecReload=/usr/sbin/nft -f /run/deaf.nft\\n"
    write = f"printf '{DEAF}' > /run/deaf.nft && mkdir -p $(dirname {DEAF_UNIT}) && printf '{unit}' > {DEAF_UNIT}"
    host.run_expect([0], f"{write} && systemctl daemon-reload")
    try:
        yield
    finally:
        host.run_expect([0], f"if test -e {DEAF_UNIT}; then {DEAF_NO_MORE}; fi")


@pytest.fixture
def visitor(lab, machine):
    """A function that tells whether the other machine may log in at an address of this one."""
    other = "web2" if machine == "web1" else "web1"
    keys = "/root/.ssh/authorized_keys"
    lab(other).run_expect([0], "rm -f /root/visitor* && ssh-keygen -q -t ed25519 -N '' -C visitor -f /root/visitor")
    key = lab(other).file("/root/visitor.pub").content_string.strip()
    lab(machine).run_expect([0], f"echo '{key}' >> {keys}")
    options = "-i /root/visitor -o BatchMode=yes -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null"
    yield lambda address: lab(other).run(f"ssh {options} root@{address} true").rc == 0
    lab(machine).run_expect([0], f"sed -i '/ visitor$/d' {keys}")


def test_sshd_greets_on_both_families(lab, machine):
    for client, address in lab.paths(machine):
        assert lab.greeting(client, address, 22).startswith("SSH-2.0"), address


def test_sshd_itself_sees_both_families_and_nothing_else(lab, machine):
    assert effective(lab, machine) == {
        "addressfamily any",
        "listenaddress 0.0.0.0:22",
        "listenaddress [::]:22",
    }


def test_a_visitor_logs_in_over_both_families(lab, machine, visitor):
    for address in lab.addresses(machine):
        assert visitor(address), address


def test_a_boot_brings_both_families(lab, machine, reboot):
    reboot(machine)
    for client, address in lab.paths(machine)[:2]:
        assert lab.greeting(client, address, 22).startswith("SSH-2.0"), address


def test_the_way_back_is_exact(lab, reverted):
    for path, text in lab.legacy(reverted, "/etc/ssh").items():
        assert lab(reverted).file(path).content_string == text, path
    ipv4, *ipv6 = lab.addresses(reverted)
    assert lab.greeting("mx1", ipv4, 22).startswith("SSH-2.0")
    if reverted == "web1":
        assert lab.greeting("mx1", ipv6[0], 22) == ""


def test_a_family_that_somebody_chose_is_named_and_kept(lab, reverted):
    with drop_in(lab, reverted, "05", "# hardening\\nAddressFamily inet\\n") as path:
        before = lab.listeners(reverted)
        status, said = lab.role(reverted, "sshd")
        assert status != 0
        assert f"{path}: line 2: AddressFamily inet" in said
        assert lab.listeners(reverted) == before
        assert lab(reverted).file(path).content_string == "# hardening\nAddressFamily inet\n"
        for other, text in lab.legacy(reverted, "/etc/ssh").items():
            assert lab(reverted).file(other).content_string == text, other


def test_the_family_is_changed_on_request_and_comes_back(lab, reverted):
    with drop_in(lab, reverted, "05", "# hardening\\nAddressFamily inet\\n") as path:
        status, said = lab.role(reverted, "sshd", sshd_ipv6_address_family="any")
        assert status == 0, said
        assert lab(reverted).file(path).content_string == "# hardening\nAddressFamily any\n"
        assert {"[::]:22", "0.0.0.0:22"} <= set(lab.listeners(reverted))
        status, said = lab.role(reverted, "sshd", sshd_ipv6_state="reverted")
        assert status == 0, said
        assert lab(reverted).file(path).content_string == "# hardening\nAddressFamily inet\n"
        assert "[::]:22" not in lab.listeners(reverted)


def test_a_configuration_that_sshd_refuses_changes_nothing(lab, reverted):
    host, broken = lab(reverted), f"{DROP_INS}/99-broken.conf"
    before = lab.listeners(reverted)
    # Something to change on the host in its default state too.
    with drop_in(lab, reverted, "20", "ListenAddress 0.0.0.0:2222\\n") as path:
        during = lab.listeners(reverted)
        host.run_expect([0], f"echo 'PermitRotLogin yes' > {broken}")
        try:
            status, said = lab.role(reverted, "sshd")
        finally:
            host.run_expect([0], f"rm {broken}")
        assert status != 0
        assert "Bad configuration option: PermitRotLogin" in said
        assert host.file(path).content_string == "ListenAddress 0.0.0.0:2222\n"
        assert lab.listeners(reverted) == during
    assert lab.listeners(reverted) == before


def test_a_port_that_another_process_has_changes_nothing(lab, reverted):
    with drop_in(lab, reverted, "20", BOTH_PORTS) as path:
        text = lab(reverted).file(path).content_string
        lab.refuses_taken(reverted, "sshd", 2222)
        assert lab(reverted).file(path).content_string == text


def test_lists_that_know_ipv4_only_are_told_and_completed_on_request(lab, reverted, visitor):
    ipv4, ipv6, _inside = lab.addresses(reverted)
    with drop_in(lab, reverted, "20", "AllowUsers root@198.51.100.*\\n") as path:
        status, said = lab.role(reverted, "sshd")
        assert status == 0, said
        assert f"{path}: line 1: root@198.51.100.* lets nobody in over IPv6" in said
        assert (visitor(ipv4), visitor(ipv6)) == (True, False)
        status, said = lab.role(reverted, "sshd", sshd_ipv6_networks=NETWORKS)
        assert status == 0, said
        assert lab(reverted).file(path).content_string == ("AllowUsers root@198.51.100.* root@2001:db8:100:1::/64\n")
        assert (visitor(ipv4), visitor(ipv6)) == (True, True)
        status, said = lab.role(reverted, "sshd", sshd_ipv6_state="reverted")
        assert status == 0, said


def test_a_change_after_which_nobody_comes_in_is_undone_by_the_host(lab, reverted):
    host = lab(reverted)
    with drop_in(lab, reverted, "20", BOTH_PORTS) as path, deaf_after_reload(host):
        legacy, during = lab(reverted).file(path).content_string, lab.listeners(reverted)
        status, said = lab.role(reverted, "sshd", sshd_ipv6_window=20)
        assert status != 0
        assert "UNREACHABLE" in said
        assert set(lab.listeners(reverted)) > set(during)
        host.run_expect([0], f"timeout 60 sh -c 'while test -e {PENDING}; do sleep 0.1; done'")
        assert host.file(path).content_string == legacy
        assert lab.listeners(reverted) == during
        host.run_expect([0], DEAF_NO_MORE)
        status, said = lab.role(reverted, "sshd")
        assert status == 0, said
        assert "no confirmation came" in said
        assert "[::]:2222" in lab.listeners(reverted)
        status, said = lab.role(reverted, "sshd", sshd_ipv6_state="reverted")
        assert status == 0, said


def test_a_boot_before_the_confirmation_brings_the_old_configuration(lab, reverted, reboot):
    with drop_in(lab, reverted, "20", BOTH_PORTS) as path:
        legacy, during = lab(reverted).file(path).content_string, lab.listeners(reverted)
        request = {
            "name": "sshd",
            "files": [{"path": "/etc/ssh/sshd_config", "format": "sshd", "set": {"ListenAddress": {"add": []}}}],
            "apply": ["systemctl reload ssh"],
            "unit": "ssh.service",
            "window": 60,
        }
        status, said = lab.module(reverted, "dualstack.fleet.config_files", "-a", json.dumps(request))
        assert status == 0, said
        assert "confirm_by" in said
        assert "[::]:2222" in lab.listeners(reverted)
        reboot(reverted, during)
        assert lab(reverted).file(path).content_string == legacy
        assert lab.listeners(reverted) == during
        status, said = lab.role(reverted, "sshd")
        assert status == 0, said
        assert "the host restarted before the confirmation" in said
        assert "[::]:2222" in lab.listeners(reverted)
        status, said = lab.role(reverted, "sshd", sshd_ipv6_state="reverted")
        assert status == 0, said
