"""A client logs in over either family; what is refused leaves the running Dovecot as it was."""

import json
import subprocess

import pytest

PORTS = {143: "* OK", 110: "+OK"}
LOGIN = """
import imaplib, sys
with imaplib.IMAP4(sys.argv[1], timeout=5) as session:
    session.login("bob", sys.stdin.read())
    print(session.select("INBOX")[0])
"""
PINNED = "/etc/dovecot/conf.d/99-pinned.conf"
KEY = {"web1": "address", "web2": "listen"}  # the name in 2.3, and in 2.4


def login(lab, client, address):
    secret = json.loads((lab.root / "build" / "lab" / "secrets.json").read_text())["password"]
    command = lab.command(client, "python3", "-c", LOGIN, address)
    done = subprocess.run(command, input=secret, capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


def state(lab, name):
    """Return what must not differ after a refusal: files, listeners, and the process that clients talk to."""
    files = lab(name).check_output("find /etc/dovecot -type f -exec sha256sum {} + | sort")
    return files, lab.listeners(name), lab(name).check_output("systemctl show -P MainPID dovecot")


@pytest.fixture
def pinned(lab, reverted):
    """The machine with a file in which IMAP is pinned to its IPv4 address."""
    address = lab.addresses(reverted)[0]
    block = (
        f"service imap-login {{\n  inet_listener imap {{\n    {KEY[reverted]} = {address}  # the webmail\n  }}\n}}\n"
    )
    lab(reverted).run_expect([0], f"printf '{block}' > {PINNED} && systemctl restart dovecot")
    yield reverted
    status, said = lab.role(reverted, "dovecot", dovecot_ipv6_state="reverted")
    assert status == 0, said
    assert lab(reverted).file(PINNED).content_string == block
    lab(reverted).run_expect([0], f"rm {PINNED} && systemctl restart dovecot")


def test_a_client_logs_in_on_each_address(lab, machine):
    for client, address in lab.paths(machine):
        assert "OK" in login(lab, client, address), address


def test_each_service_greets_on_each_address(lab, machine):
    for client, address in lab.paths(machine):
        for port, greeting in PORTS.items():
            assert lab.greeting(client, address, port).startswith(greeting), (address, port)


def test_dovecot_itself_sees_both_families(lab, machine):
    assert lab(machine).check_output("doveconf -h listen").replace(",", "").split() == ["*", "::"]


def test_the_way_back_is_exact(lab, reverted):
    for path, text in lab.legacy(reverted, "/etc/dovecot").items():
        assert lab(reverted).file(path).content_string == text, path
    assert "OK" in login(lab, reverted, lab.addresses(reverted)[0])
    assert not {f"[::]:{port}" for port in PORTS} & set(lab.listeners(reverted))


def test_a_pinned_listener_gets_its_twin(lab, pinned):
    ipv6 = lab.addresses(pinned)[1]
    status, said = lab.role(pinned, "dovecot", dovecot_ipv6_addresses=[ipv6])
    assert status == 0, said
    other = "web2" if pinned == "web1" else "web1"
    for address in lab.addresses(pinned)[:2]:
        assert "OK" in login(lab, other, address), address
    assert f"[{ipv6}]:143" in lab.listeners(pinned)


def test_an_address_that_the_host_lacks_is_refused_before_dovecot_dies_of_it(lab, pinned):
    lab(pinned).run_expect([0], "sysctl -q net.ipv6.ip_nonlocal_bind=0")
    before = state(lab, pinned)
    status, said = lab.role(pinned, "dovecot", dovecot_ipv6_addresses=["2001:db8::dead"])
    assert status != 0
    assert "2001:db8::dead is not an address of this host" in said
    assert state(lab, pinned) == before


def test_a_configuration_that_dovecot_refuses_changes_nothing(lab, reverted):
    broken = "/etc/dovecot/conf.d/98-broken.conf"
    lab(reverted).run_expect([0], f"echo 'no_such_setting = 1' > {broken}")
    try:
        before = state(lab, reverted)
        status, said = lab.role(reverted, "dovecot")
        assert status != 0
        assert "no_such_setting" in said
        assert state(lab, reverted) == before
    finally:
        lab(reverted).run_expect([0], f"rm {broken}")
