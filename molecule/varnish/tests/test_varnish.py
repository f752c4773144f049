"""The cache answers with the site of the host on each of its addresses, of either family, and goes back exactly."""

import contextlib
import json

import pytest

PAGE = "GET / HTTP/1.0\\r\\n\\r\\n"
UNIT = "/etc/systemd/system/varnish.service.d"
LISTENS = "timeout 10 sh -c 'until ss -Hltn sport = :80 | grep -q .; do sleep 0.1; done'"
RESTART = f"systemctl reset-failed varnish && systemctl restart varnish && {LISTENS}"


@contextlib.contextmanager
def drop_in(lab, options, start=True):
    """Give web1's Varnish other options for a while."""
    host, path = lab("web1"), f"{UNIT}/zz-test.conf"
    command = f"ExecStart=/usr/sbin/varnishd -F -f /etc/varnish/default.vcl -s malloc,32m {options}"
    host.run_expect([0], f"printf '[Service]\\nExecStart=\\n{command}\\n' > {path} && systemctl daemon-reload")
    try:
        if start:
            host.run_expect([0], RESTART)
        yield path
    finally:
        host.run_expect([0], f"rm {path} && systemctl daemon-reload && {RESTART}")


@pytest.fixture
def legacy(lab):
    """web1's Varnish as it was before the role, which is applied again afterwards."""
    status, said = lab.role("web1", "varnish", varnish_ipv6_state="reverted")
    assert status == 0, said
    yield lab("web1")
    status, said = lab.role("web1", "varnish")
    assert status == 0, said


def test_the_site_is_served_on_both_families(lab):
    for client, address in lab.paths("web1"):
        assert "web1 at your service" in lab.greeting(client, address, 80, PAGE), address


@contextlib.contextmanager
def late_network(lab):
    """Let the host's addresses come late in each boot, as those of a slow switch port do, until the block ends."""
    directory = "/etc/systemd/system/networking.service.d"
    unit = "[Service]\\nExecStartPre=/usr/bin/sleep 3\\n"
    lab("web1").run_expect([0], f"mkdir -p {directory} && printf '{unit}' > {directory}/late.conf")
    try:
        yield
    finally:
        lab("web1").run_expect([0], f"rm -r {directory} && systemctl daemon-reload")


def test_the_unit_keeps_what_the_host_has_set(lab):
    unit = lab("web1").check_output("systemctl show -p ExecStart varnish")
    assert "-a 0.0.0.0:80" in unit
    assert "malloc,64m" in unit


def test_a_boot_brings_both_families(lab, reboot):
    reboot("web1")
    for client, address in lab.paths("web1")[:2]:
        assert "web1 at your service" in lab.greeting(client, address, 80, PAGE), address


def test_the_way_back_is_exact(lab, legacy):
    for path, text in lab.legacy("web1", UNIT).items():
        assert legacy.file(path).content_string == text, path
    ipv4, ipv6, _inside = lab.addresses("web1")
    assert "web1 at your service" in lab.greeting("web2", ipv4, 80, PAGE)
    assert lab.greeting("web2", ipv6, 80, PAGE) == ""


def test_listeners_of_one_address_get_the_addresses_named_and_find_them_at_boot(lab, legacy, reboot):
    ipv4, ipv6, _inside = lab.addresses("web1")
    with late_network(lab), drop_in(lab, f"-a http={ipv4}:80,HTTP -a 127.0.0.1:81,PROXY") as path:
        status, said = lab.role("web1", "varnish")
        assert status != 0
        assert f"-a http={ipv4}:80,HTTP names one IPv4 address" in said
        status, said = lab.role("web1", "varnish", varnish_ipv6_addresses=[ipv6])
        assert status == 0, said
        assert (
            f"-a http={ipv4}:80,HTTP -a http=[{ipv6}]:80,HTTP -a 127.0.0.1:81,PROXY\n"
            in legacy.file(path).content_string
        )
        reboot("web1")
        for address in (ipv4, ipv6):
            assert "web1 at your service" in lab.greeting("web2", address, 80, PAGE), address
        status, said = lab.role("web1", "varnish", varnish_ipv6_state="reverted")
        assert status == 0, said


def test_a_dead_cache_is_seen_and_the_old_one_put_back(lab, legacy):
    """The restart says that all is well, whatever happens."""
    before = lab.listeners("web1")
    text = {path: legacy.file(path).content_string for path in lab.legacy("web1", UNIT)}
    legacy.run_expect([0], "systemd-run -q --unit=taken socat TCP6-LISTEN:80,ipv6only,fork,reuseaddr SYSTEM:cat")
    try:
        status, said = lab.role("web1", "varnish")
    finally:
        legacy.run_expect([0], "systemctl stop taken")
    assert status != 0
    assert "listens on :: port 80" in said
    assert {path: legacy.file(path).content_string for path in text} == text
    assert lab.listeners("web1") == before
    assert "web1 at your service" in lab.greeting("web2", lab.addresses("web1")[0], 80, PAGE)


def test_access_lists_that_know_ipv4_only_are_told(lab):
    vcl = "/etc/varnish/default.vcl"
    lab("web1").run_expect([0], f"cp -p {vcl} /root/vcl && printf 'acl purge {{ \"198.51.100.0\"/24; }}\\n' >> {vcl}")
    try:
        status, said = lab.role("web1", "varnish")
    finally:
        lab("web1").run_expect([0], f"cp -p /root/vcl {vcl} && rm /root/vcl")
    assert status == 0, said
    assert "acl purge names 198.51.100.0 and no client of IPv6" in json.dumps(said)
