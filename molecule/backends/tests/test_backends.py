"""Each manager of the network gives its host the planned addresses, keeps them over a boot, and puts all back.

The hosts are apart from the lab: their IPv4 is what their files give them at boot.
"""

import concurrent.futures
import contextlib
import json
import subprocess
from dataclasses import dataclass, field

import pytest
from lab import hardware_address, scratch, switches


def place(number, provider=""):
    """Return the place in the plan of host NUMBER, before or after the move to another PROVIDER."""
    network, delegated = ("2001:db8:300", "2001:db8:400") if provider else ("2001:db8:100", "2001:db8:200")
    return {
        "address": f"{network}:1::c:4{number}",
        "prefix_length": 128,
        "delegated_prefix": f"{delegated}:4{number}::/64",
        "network": f"{network}:1::/64",
        "on_link": True,
        # Of a router, or a global one as VRRP can have.
        "gateway": f"{network}:1::1" if provider else "fe80::1",
        "unreachable": f"{delegated}:4{number}::/64",
    }


SERVICE = "2001:db8:300:1::5:{}/128"
IFUPDOWN = "auto lo eth0\niface lo inet loopback\niface eth0 inet static\n\taddress @IPV4@/24\n\tgateway 198.51.100.1\n"
NETWORKD = "[Match]\nName={}\n\n[Network]\nAddress=@IPV4@/24\nGateway=198.51.100.1\n"
NETPLAN = """network:
  version: 2
  ethernets:
    eth0: {}
  bridges:
    br0:
      interfaces: [eth0]
      addresses: [@IPV4@/24]
      routes: [{to: default, via: 198.51.100.1}]
"""
NETPLAN_PLAIN = """network:
  version: 2
  ethernets:
    eth0:
      addresses: [@IPV4@/24]
      routes: [{to: default, via: 198.51.100.1}]
"""


@dataclass(frozen=True)
class Kind:
    """A host: its release, the files of its manager, and where its addresses go."""

    suite: str
    unit: str
    files: dict
    backend: str
    device: str = "eth0"
    named: str = ""
    packages: tuple = ()
    written: list = field(default_factory=list)
    given: bool = False  # whether it has had its address for years


# What the fleet of 2011 was given by hand. ifupdown has never known the last option.
SEED = """iface eth0 inet6 static
	address @IPV6@
	netmask 64
	gateway fe80::1
	endpoint any
"""
KINDS = {
    "netplan-bridge": Kind(
        "bookworm", "systemd-networkd", {"/etc/netplan/50-cloud-init.yaml": NETPLAN}, "netplan", "br0",
        packages=("netplan.io",), written=["/etc/netplan/99-dualstack-br0.yaml"],
    ),
    "netplan": Kind(
        "trixie", "systemd-networkd", {"/etc/netplan/50-cloud-init.yaml": NETPLAN_PLAIN}, "netplan",
        packages=("netplan.io",), written=["/etc/netplan/99-dualstack-eth0.yaml"],
    ),
    "ifupdown2": Kind(
        "trixie", "networking", {"/etc/network/interfaces": IFUPDOWN}, "ifupdown2", packages=("ifupdown2",),
        written=["/etc/network/dualstack.d/eth0", "/etc/network/interfaces"],
    ),
    "seed": Kind(
        "trixie", "networking", {"/etc/network/interfaces": IFUPDOWN + SEED}, "ifupdown",
        written=["/etc/network/dualstack.d/eth0", "/etc/network/interfaces"], given=True,
    ),
    "own-port-by-mac": Kind(
        "bookworm", "networking", {"/etc/network/interfaces": IFUPDOWN}, "ifupdown", "lan1",
        hardware_address("own-port-by-mac", 1), written=["/etc/network/dualstack.d/lan1", "/etc/network/interfaces"],
    ),
    "own-port": Kind(
        "trixie", "systemd-networkd", {"/etc/systemd/network/10-eth0.network": NETWORKD.format("eth0")}, "networkd",
        "lan1", "lan1", written=["/etc/systemd/network/50-dualstack-lan1.network"],
    ),
}  # fmt: skip


class Machine:
    """A host of one kind, and the role under test."""

    def __init__(self, name, bare):
        self.kind, self.bare, self.sh = KINDS[name], bare, bare.sh
        self.number = list(KINDS).index(name)
        self.plan, self.moved = place(self.number), place(self.number, "another")
        self.ipv4 = f"198.51.100.4{self.number}"

    def boot(self):
        """Cut the power, start again, and wait until the host has booted and no address is tentative."""
        subprocess.run(
            [*self.bare.command()[:-3], "restart", "-t", "0", self.bare.host.container], check=True, capture_output=True
        )
        self.sh("timeout 90 sh -c 'until systemctl is-system-running --wait >/dev/null 2>&1; do sleep 0.2; done'")
        self.sh("timeout 20 sh -c 'until ip -4 route show default | grep -q .; do sleep 0.1; done'")
        self.sh("timeout 10 sh -c 'while ip -6 address show tentative | grep -q .; do sleep 0.1; done'")

    def role(self, *options, plan=None, **variables):
        """Apply the role with PLAN for the host's place in the address plan."""
        known = {"dualstack": plan or self.plan, "interfaces_ipv6_device": self.kind.named}
        return self.bare.apply("interfaces", *options, **{**known, **variables})

    def ours(self):
        """Return the text of the files that are the collection's alone."""
        return self.sh("cat " + " ".join(path for path in self.kind.written if path != "/etc/network/interfaces"))

    def state(self):
        """Return the files of all managers, byte by byte, and what the kernel has, as lines."""
        names = "network netplan systemd/network sysctl.d systemd/system"
        files = f"mkdir -p /etc/netplan; cd /etc && find {names} -printf '%p %y %m %u %g %l\\n'"
        sums = f"cd /etc && find {names} -type f -exec sha256sum {{}} +"
        settings = "grep . /proc/sys/net/ipv6/conf/*/accept_ra /proc/sys/net/ipv6/conf/*/autoconf"
        return {*self.kernel(), *"\n".join(map(self.sh, (files, sums, settings))).splitlines()}

    def kernel(self):
        """Return addresses, links and routes of both families, without what a restart numbers anew."""
        found = []
        for what in ("-4 address", "-6 address", "-4 route", "-6 route show table all"):
            for entry in json.loads(self.sh(f"ip -j {what}") or "[]"):
                for passing in ("ifindex", "link", "link_index", "link_netnsid"):
                    entry.pop(passing, None)
                found.append(json.dumps(entry, sort_keys=True))
        return found

    def has(self, plan):
        """See that the host has what PLAN says, and IPv4 as before."""
        there = {
            entry["local"]: (link["ifname"], entry)
            for link in json.loads(self.sh("ip -j address"))
            for entry in link["addr_info"]
        }
        assert there[plan["address"]][0] == self.kind.device
        assert there[plan["delegated_prefix"].split("/")[0] + "1"][0] == "lo"
        assert not [entry for _link, entry in there.values() if entry.get("tentative") or entry.get("dadfailed")]
        assert self.ipv4 in there
        assert self.sh("ip -4 route show default").startswith("default via 198.51.100.1 dev")
        assert f"default via {plan['gateway']} dev {self.kind.device}" in self.sh("ip -6 route show default")
        assert self.sh(f"ip -6 route show {plan['network']}").startswith(f"{plan['network']} dev {self.kind.device}")
        assert plan["delegated_prefix"] in self.sh("ip -6 route show type unreachable")
        # What leaves the host by itself comes from its own address.
        assert f" src {plan['address']} " in self.sh("ip -6 route get 2001:db8:ffff::1") + " "
        assert self.sh(f"cat /proc/sys/net/ipv6/conf/{self.kind.device}/accept_ra") == "0"


@pytest.fixture(scope="module")
def cables():
    """Two switches that nothing else is on."""
    with switches("backends-0", "backends-1") as names:
        yield names


@contextlib.contextmanager
def booted(bare_of, name, cables):
    """Boot the host NAME of KINDS, that got its IPv4 from its own files at boot."""
    kind = KINDS[name]
    ports = [
        f"{cable}:interface_name={port},mac={hardware_address(name, number)}"
        for number, (cable, port) in enumerate(zip(cables, ("eth0", "lan1")))
    ]
    with scratch(kind.suite, name, *ports) as host:
        machine = Machine(name, bare_of(host))
        if kind.packages:
            host.install(*kind.packages)
        mode = "600" if kind.backend == "netplan" else "644"
        for path, template in kind.files.items():
            text = template.replace("@IPV4@", machine.ipv4).replace("@IPV6@", machine.plan["address"])
            machine.sh(f"mkdir -p $(dirname {path}) && cat > {path} && chmod {mode} {path}", text)
        machine.sh(f"systemctl -q enable {kind.unit}")
        machine.boot()
        yield machine


def move(machine):
    """Give the machine the prefixes of another provider, and an address for a service."""
    service = SERVICE.format(machine.number)
    extra = [{"address": service, "deprecated": True}]
    machine.role(plan=machine.moved, interfaces_ipv6_extra_addresses=extra)
    machine.has(machine.moved)
    assert machine.plan["address"] not in machine.ours()
    assert "deprecated" in machine.sh(f"ip -6 address show to {service}")
    again = machine.role(plan=machine.moved, interfaces_ipv6_extra_addresses=extra)
    assert not again.changed, again.message


def lose_power(machine, before):
    """Cut the power before anybody confirms: what netplan has made of our file at boot must go as well."""
    given = {
        "addresses": [{"address": f"{machine.plan['address']}/128"}],
        "routes": [{"dest": machine.plan["network"]}],
        "window": 600,
    }
    machine.bare.module("network_change", **given)
    assert machine.plan["address"] in machine.sh("cat /run/systemd/network/10-netplan-*.network")
    machine.boot()
    assert machine.state() ^ before == set()
    assert "restarted before the confirmation" in machine.sh("cat /var/lib/dualstack/network/fired.json")


def there_and_back(machine):
    """Give the machine its addresses, boot it, move it to another provider, and take all back."""
    before = machine.state()
    told = machine.role("--check", "--diff")
    assert told.changed, told.message
    assert machine.state() ^ before == set()
    assert all(f"+++ after: {path}" in told.message for path in machine.kind.written), told.message

    if machine.kind.backend == "netplan":
        lose_power(machine, before)
    assert machine.role().changed
    machine.has(machine.plan)
    machine.boot()
    machine.has(machine.plan)
    again = machine.role()
    assert not again.changed, again.message
    unfinished = machine.sh("systemctl --failed --plain --no-legend; ls /var/lib/dualstack/network")
    assert unfinished.split() == ["lock", "originals.json", "record.json", "undo.py"], unfinished

    if machine.kind.given:
        assert f"address {machine.plan['address']}" not in machine.ours()
    else:
        move(machine)
    machine.role(interfaces_ipv6_state="reverted")
    assert machine.state() ^ before == set()


@pytest.fixture(scope="module")
def journeys(tmp_path_factory, cables, on):
    """What becomes of each kind of host, all of them under way at once."""

    def travel(name, directory):
        with booted(lambda host: on(host, directory), name, cables) as machine:
            there_and_back(machine)

    # Made here: the factory is not safe for threads, its first call picks the parent of all.
    directories = {name: tmp_path_factory.mktemp(name) for name in KINDS}
    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        yield {name: pool.submit(travel, name, directories[name]) for name in KINDS}


@pytest.mark.parametrize("name", KINDS)
def test_there_and_back(journeys, name):
    journeys[name].result()
