"""Over IPv6 a machine lets in what it lets in over IPv4; the table is there after a boot and after a flush."""

import pytest

FILTERED = ["web1"]


def reaches(lab, client, address, port):
    """Whether a packet of CLIENT gets through to ADDRESS and PORT; where nobody listens, a refusal is an answer."""
    command = f"timeout 2 bash -c 'exec 3<>/dev/tcp/{address}/{port}'"
    return lab(client).run_expect([0, 1, 124], command).rc != 124


def table(lab, name):
    return lab(name).run_expect([0, 1], "nft list table inet dualstack").stdout


@pytest.mark.parametrize(
    ("name", "port", "client", "open_"),
    [
        ("web1", 80, "upstream", True),
        ("web1", 8080, "upstream", False),
        ("web1", 8080, "web2", True),
        ("mx1", 25, "web2", True),
        ("mx1", 111, "web2", False),
    ],
)
def test_both_families_let_in_the_same(lab, name, port, client, open_):
    for address in lab.addresses(name):
        assert reaches(lab, client, address, port) == open_, address


@pytest.mark.parametrize("name", ["web2", "mx1"], ids=["no filter", "a filter of both families"])
def test_a_machine_that_needs_no_table_gets_none(lab, name):
    assert table(lab, name) == ""
    assert not lab(name).file("/etc/dualstack/firewall.nft").exists


@pytest.mark.parametrize("name", FILTERED)
def test_the_table_survives_the_flush_of_the_distribution_s_unit(lab, name):
    before = table(lab, name)
    assert "hook input" in before
    for action in ("reload", "restart"):
        lab(name).run_expect([0], f"systemctl {action} nftables")
        assert table(lab, name) == before, action


@pytest.mark.parametrize("name", FILTERED)
def test_the_table_is_there_after_a_boot(lab, name, reboot):
    before = table(lab, name)
    reboot(name)
    assert table(lab, name) == before
    assert lab(name).run_expect([0], "nft list ruleset").stdout.count("table") > 1
