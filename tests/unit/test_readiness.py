"""What stands between a host and dual stack is found in a tree of files and in what iproute2 says."""

import json

import pytest
from module_utils._command import Outcome
from module_utils._errors import DualStackError
from module_utils._readiness import examine, ipv4_only, judge, listeners

SOCKETS = """\
udp UNCONN 0 0 127.0.0.1:323 0.0.0.0:* users:(("chronyd",pid=9,fd=5)) ino:1 sk:1 <->
tcp LISTEN 0 128 0.0.0.0:22 0.0.0.0:* users:(("sshd",pid=57,fd=3)) ino:2 sk:2 <->
tcp LISTEN 0 128 [::]:22 [::]:* users:(("sshd",pid=57,fd=4)) ino:3 sk:3 v6only:1 <->
tcp LISTEN 0 100 0.0.0.0:25 0.0.0.0:* users:(("master",pid=80,fd=13)) ino:4 sk:4 <->
tcp LISTEN 0 511 *:80 *:* users:(("apache2",pid=90,fd=4)) ino:5 sk:5 v6only:0 <->
tcp LISTEN 0 10 127.0.0.1:6082 0.0.0.0:* users:(("varnishd",pid=91,fd=4)) ino:6 sk:6 <->
tcp LISTEN 0 10 [fe80::1]%eth0:53 [::]:* users:(("named",pid=92,fd=4)) ino:7 sk:7 v6only:1 <->
"""


class Host:
    """A healthy Debian 13 host below a directory, to be spoilt by each test."""

    def __init__(self, root):
        self.root = root
        self.answers = {
            "-4 route show default": [{"dev": "eth9", "metric": 900}, {"dev": "eth0", "metric": 100}],
            "-6 address show": [],
            "-6 route show table main": [],
        }
        self.networkd = None
        self.write("etc/os-release", 'ID=debian\nVERSION_ID="13"\n')
        self.write("proc/cmdline", "root=/dev/sda1 quiet\n")
        for name in ("all", "default", "lo", "eth0"):
            self.disable(name, 0)
        self.write("sys/class/net/eth0/ifindex", "2\n")
        self.write("etc/network/interfaces", "auto eth0\niface eth0 inet static\n  address 192.0.2.11/24\n")

    def write(self, path, text):
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def disable(self, name, value=1):
        self.write(f"proc/sys/net/ipv6/conf/{name}/disable_ipv6", f"{value}\n")

    def run(self, command):
        if command[0] == "ss":
            return Outcome(0, SOCKETS)
        if command[0] == "systemctl":
            return Outcome(0 if self.networkd else 3, "")
        if command[0] == "netplan":
            return Outcome(0, "network:\n  version: 2\n  ethernets:\n    eth0:\n      dhcp4: true\n")
        if command[0] == "networkctl":
            return Outcome(0, json.dumps({"Interfaces": self.networkd}))
        answer = self.answers[" ".join(command[2:])]
        return Outcome(0, answer if isinstance(answer, str) else json.dumps(answer))

    def facts(self):
        return examine(root=str(self.root), execute=self.run)

    def verdict(self, **more):
        verdict, reasons = judge(self.facts(), **more)
        return verdict, [reason.code for reason in reasons]


@pytest.fixture
def host(tmp_path):
    return Host(tmp_path)


def test_a_plain_host_is_ready(host):
    assert host.verdict() == ("ready", [])
    facts = host.facts()
    assert (facts.device, facts.backend, facts.release) == ("eth0", "ifupdown", "13")
    json.dumps(facts.public())


@pytest.mark.parametrize(
    ("path", "text", "verdict", "code"),
    [
        ("proc/cmdline", "quiet ipv6.disable=1", "ready_after", "boot_parameter"),
        ("etc/sysctl.d/10-old.conf", "net.ipv6.conf.all.disable_ipv6 = 1\n", "ready_after", "sysctl_at_boot"),
        ("usr/lib/sysctl.d/x.conf", "net/ipv6/conf/eth0/disable_ipv6=1\n", "ready_after", "sysctl_at_boot"),
        ("etc/os-release", "ID=ubuntu\nVERSION_ID=24.04\n", "work", "distribution"),
        ("etc/network/interfaces", "auto lo\n", "work", "backend"),
        ("etc/ssh/sshd_config.d/hard.conf", "AddressFamily inet\n", "work", "sshd"),
    ],
)
def test_each_obstacle_has_its_verdict(host, path, text, verdict, code):
    host.write(path, text)
    assert host.verdict() == (verdict, [code])


@pytest.mark.parametrize(
    ("file", "backend"),
    [
        ("/etc/systemd/network/10-eth0.network", "networkd"),
        ("/run/systemd/network/10-netplan-eth0.network", "netplan"),
    ],
)
def test_a_host_of_networkd_is_ready(host, file, backend):
    host.write("etc/network/interfaces", "auto lo\n")
    host.networkd = [{"Name": "eth0", "AdministrativeState": "configured", "NetworkFile": file}]
    assert host.verdict() == ("ready", [])
    assert host.facts().backend == backend


def test_a_stanza_in_any_sourced_file_counts(host):
    host.write("etc/network/interfaces", "source /etc/network/more/*.cfg\n")
    host.write("etc/network/more/a.cfg", "iface eth0 inet dhcp\n")
    assert host.verdict() == ("ready", [])


def test_a_backend_that_does_not_fit_is_named(host):
    host.networkd = [{"Name": "eth0", "AdministrativeState": "configured", "NetworkFile": "/etc/10-eth0.network"}]
    _verdict, (reason,) = judge(host.facts())
    assert (reason.code, host.facts().backend) == ("backend", "networkd and ifupdown")
    assert "eth0 is configured by networkd and ifupdown" in reason.text
    host.networkd = None
    host.write("etc/network/interfaces", "auto lo\n")
    host.write("run/NetworkManager/devices/2", "[device]\nmanaged=true\n")
    assert host.verdict() == ("work", ["backend"])
    assert host.facts().backend == "NetworkManager"


@pytest.mark.parametrize("name", ["all", "lo", "eth0"])
def test_a_switch_of_the_kernel_needs_no_reboot(host, name):
    host.disable(name)
    assert host.verdict() == ("ready_after", ["sysctl"])


def test_a_kernel_without_ipv6_cannot(host, tmp_path):
    (tmp_path / "proc/sys/net/ipv6/conf").rename(tmp_path / "proc/sys/net/gone")
    assert host.verdict() == ("cannot", ["kernel"])


def test_a_parameter_given_twice_counts_as_given_last(host):
    host.write("proc/cmdline", "ipv6.disable=1 ipv6.disable=0")
    assert host.verdict() == ("ready", [])


def test_a_masked_file_does_not_count(host):
    host.write("usr/lib/sysctl.d/x.conf", "net.ipv6.conf.all.disable_ipv6 = 1\n")
    host.write("etc/sysctl.d/x.conf", "")
    assert host.verdict() == ("ready", [])


def test_sysctl_conf_counts_where_something_reads_it(host, tmp_path):
    host.write("etc/sysctl.conf", "net.ipv6.conf.all.disable_ipv6 = 1\n")
    assert host.verdict() == ("ready", [])
    assert [entry["file"] for entry in host.facts().leftovers] == ["/etc/sysctl.conf"]
    (tmp_path / "etc/sysctl.d").mkdir()
    (tmp_path / "etc/sysctl.d/99-sysctl.conf").symlink_to("../sysctl.conf")
    assert host.verdict() == ("ready_after", ["sysctl_at_boot"])
    assert host.facts().leftovers == ()


def test_what_the_network_does_by_itself_is_found(host):
    host.answers["-6 address show"] = [
        {
            "ifname": "eth0",
            "addr_info": [
                {"local": "2001:db8::1", "prefixlen": 64, "scope": "global", "dadfailed": True, "tentative": True}
            ],
        }
    ]
    host.answers["-6 route show table main"] = [
        {"dst": "default", "gateway": "fe80::2", "dev": "eth0", "protocol": "ra"}
    ]
    assert host.verdict() == ("work", ["duplicate", "router_advertisement"])
    assert host.facts().addresses[0]["flags"] == ["tentative", "dadfailed"]


def test_the_operator_has_the_last_word_and_the_other_reasons_stay(host):
    host.disable("all")
    assert host.verdict(blocked="the appliance has no IPv6") == ("cannot", ["blocked", "sysctl"])


def test_a_host_without_a_default_route_needs_a_name(host):
    host.answers["-4 route show default"] = []
    assert host.verdict() == ("work", ["device"])


def test_old_ways_around_ipv6_are_listed(host):
    host.write("etc/postfix/main.cf", "myhostname = a\ninet_protocols = ipv4\n")
    host.write("etc/apt/apt.conf.d/99force", 'Acquire::ForceIPv4 "true";\n')
    host.write("etc/gai.conf", "#precedence ::ffff:0:0/96  10\nprecedence ::ffff:0:0/96  100\n")
    assert [entry["what"] for entry in host.facts().leftovers] == ["postfix", "apt", "gai"]
    assert host.verdict() == ("ready", [])


def test_a_missing_program_is_named(host):
    host.answers["-6 address show"] = "ip: program not found"
    with pytest.raises(DualStackError, match="ip -j -6 address show: ip: program not found"):
        host.facts()


def test_services_that_lack_ipv6_are_told_from_local_ones():
    found = list(listeners(SOCKETS))
    assert ipv4_only(found) == [{"port": 25, "process": "master"}]
    assert [entry["families"] for entry in found if entry["port"] == 80] == [["ipv4", "ipv6"]]
    assert found[-1]["address"] == "fe80::1"
