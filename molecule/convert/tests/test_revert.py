"""The way back, after everything else was looked at: every byte, listener, address and route as before."""

import subprocess

import pytest

HOSTS = ["edge1", "edge2", "ns1", "bac1", "mx1", "web1", "web2", "tux"]


@pytest.fixture(scope="module")
def reverted(lab):
    """The fleet after the playbook `revert`; how often it was scanned in the meantime."""
    rounds, _found = lab.scanned()
    command = ["ansible-playbook", "-i", "inventories/lab", "dualstack.fleet.revert"]
    done = subprocess.run(command, cwd=lab.root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr
    return lab.scanned()[0] - rounds


@pytest.mark.usefixtures("reverted")
@pytest.mark.parametrize("name", HOSTS)
def test_the_host_is_what_it_was(lab, name):
    script = (lab.root / "molecule" / "convert" / "inventory-of-host").read_text()
    subprocess.run(lab.command(name, "sh", "-s", "after"), input=script, text=True, check=True)
    assert lab(name).run("diff /root/before /root/after").stdout == ""


@pytest.mark.usefixtures("reverted")
def test_the_names_are_withdrawn(lab):
    for name in [*HOSTS, "books", "music", "films"]:
        answer = lab("upstream").check_output(f"dig +short @198.51.100.53 AAAA {name}.example.net")
        assert answer == "", name


def test_at_no_instant_of_the_way_back_was_ipv6_more_open_than_ipv4(lab, reverted):
    assert reverted > 100
    assert lab.more_open() == {}


@pytest.mark.usefixtures("reverted")
def test_ipv4_never_stopped_answering(lab, machine):
    page = lab.greeting("upstream", lab.addresses(machine)[0], 80, "GET / HTTP/1.0\\r\\n\\r\\n")
    assert f"{machine} at your service" in page
