"""A service gets an address while the kernel still asks whether anybody else has it (RFC 4862, section 5.4)."""

import dataclasses

import pytest
from conftest import SERVICES

SIX = "2001:db8:77::1"
ASKING = f"""
mount -o remount,rw /proc/sys
ip link add asking0 type veth peer name asking1
sysctl -qw net.ipv6.conf.asking0.accept_dad=1 net.ipv6.conf.asking0.dad_transmits=3 net.ipv6.ip_nonlocal_bind=0
ip link set asking1 up
ip link set asking0 up
ip address add {SIX}/64 dev asking0
ip -6 -o address show dev asking0 tentative
"""
# Neither starts on an address that it cannot bind. Dovecot's are read from its files; the role names those of Postfix.
ONE_ADDRESS = {
    "dovecot": ("echo 'listen = 192.0.2.10' >> /etc/dovecot/dovecot.conf", "listen", f"[{SIX}]", []),
    "postfix": ("postconf -e inet_protocols=ipv4 inet_interfaces=192.0.2.10", "inet_interfaces", SIX, [SIX]),
}


@pytest.mark.parametrize("role", ONE_ADDRESS)
def test_an_address_that_is_still_being_checked_is_waited_for(host, role):
    legacy, key, word, named = ONE_ADDRESS[role]
    service = next(dataclasses.replace(one, legacy=legacy) for one in SERVICES if one.role == role)
    params = host.params(service)
    params["files"] = params["files"][:1]
    params["files"][0]["set"] = {**params["files"][0]["set"], key: {"add": [word]}}
    params["verify"] = [{"bindable": named}, {"port": [service.port], "address": ["192.0.2.10", SIX]}]
    asked, run, sockets, _gone = host.play(
        service,
        ["sh", ASKING],
        ["run", params],
        ["sh", f"ss -Hltn 'sport = :{service.port}'"],
        ["sh", "ip link delete asking0"],
    )
    assert SIX in asked, asked
    assert not run["error"], run
    assert f"[{SIX}]:{service.port}" in sockets
