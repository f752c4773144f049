"""A boot of an ifupdown host has IPv4 whatever is wrong with its IPv6, in every shape that interfaces(5) files have."""

import pytest
from network_host import network_host

ADDRESS = "2001:db8:100:1::c:11"
OURS = "/etc/network/dualstack.d/eth0"
STATIC = """# eth0: the uplink, by hand; do not touch!
auto eth0
iface eth0 inet static
\taddress 198.51.100.10
\tnetmask 255.255.255.0
      gateway   198.51.100.1   \n"""
LOOPBACK = "\n  auto lo\n  iface lo inet loopback   # as ever\n"
SHAPES = {
    "static": {"/etc/network/interfaces": f"source /etc/network/interfaces.d/*\n{LOOPBACK}\n{STATIC}#the end"},
    "source": {
        "/etc/network/interfaces": f"source /etc/network/interfaces.d/*\n{LOOPBACK}",
        "/etc/network/interfaces.d/uplink.cfg": STATIC,
    },
    "source-directory": {
        "/etc/network/interfaces": f"source-directory /etc/network/interfaces.d\n{LOOPBACK}",
        "/etc/network/interfaces.d/uplink": STATIC,
    },
    "dhcp": {"/etc/network/interfaces": f"{LOOPBACK}\nallow-hotplug eth9\nauto eth0\niface eth0 inet dhcp\n"},
}
# The other end leases the address that the others have by hand.
DHCP = """[Unit]
DefaultDependencies=no
After=fault-cable.service
Before=networking.service
[Service]
ExecStart=/usr/bin/nsenter --net=/run/netns/outside /usr/sbin/dnsmasq -k -p 0 -u root -i eth0 -l /run/leases \
  -F 198.51.100.10,198.51.100.10 -O option:router,198.51.100.1 -x /run/dhcp.pid --dhcp-authoritative --no-ping
"""
FAULTS = {
    "nothing": "true",
    "a duplicate on the link": f"echo address add {ADDRESS}/64 dev eth0 nodad > /etc/fault/outside",
    "a gateway off the link": f"sed -i 's/via fe80::1/via 2001:db8:ffff::1/' {OURS}",
    "an up line that fails": f"echo '    up false' >> {OURS}",
    "a pre-up line that fails": f"echo '    pre-up false' >> {OURS}",
    "a stanza with an error": f"sed -i 's/address /adress /' {OURS}",
    "a file that is no stanza": f"echo '}} nonsense {{' > {OURS}",
    "a failing hook": "printf '#!/bin/sh\\nexit 1\\n' > /etc/network/if-up.d/zz-fault;"
    " chmod 755 /etc/network/if-up.d/zz-fault",
}
MEND = f"rm -f /etc/fault/outside /etc/network/if-up.d/zz-fault; cp -a /root/ours {OURS}"


@pytest.fixture(scope="module", params=["bookworm", "trixie"])
def host(request):
    """A host of each release, with what a lease of its address takes."""
    with network_host(request.param, "ifupdown", {"/etc/systemd/system/fault-dhcp.service": DHCP}, "boot") as made:
        made.scratch.install("isc-dhcp-client", "dnsmasq-base")
        made.sh("mkdir -p /etc/fault; rm -f /etc/network/interfaces")
        yield made


@pytest.mark.parametrize("shape", SHAPES)
def test_no_boot_is_without_ipv4(host, shape, survived):
    host.sh("rm -rf /etc/network/interfaces /etc/network/interfaces.d /etc/network/dualstack.d /var/lib/dualstack")
    host.put(SHAPES[shape])
    dhcp = "sysinit.target.wants/fault-dhcp.service"
    host.sh(f"rm -f /etc/systemd/system/{dhcp}")
    if shape == "dhcp":
        host.sh(f"ln -s ../fault-dhcp.service /etc/systemd/system/{dhcp}")
    host.boot()
    host.agent("references")
    for state in ("applied", "confirmed"):
        assert host.agent("run", state)["error"] == ""
    before, now = SHAPES[shape]["/etc/network/interfaces"], host.sh("cat /etc/network/interfaces")
    assert now == before + ("" if before.endswith("\n") else "\n") + "source /etc/network/dualstack.d/*"
    host.sh(f"cp -a {OURS} /root/ours")
    for fault, action in FAULTS.items():
        host.sh(action)
        host.boot()
        assert host.agent("answers", 5.0), fault
        assert host.agent("lost_of_ipv4") == [], fault
        if fault == "nothing":
            assert host.agent("differs", "new") == []
        host.sh(MEND)
        survived(host, f"boot, {shape}: {fault}")
    host.boot()
    assert host.agent("run", "reverted")["error"] == ""
    assert host.agent("differs", "old") == []
