"""Hosts that the tests break: all daemons of the lab's image in their legacy state, and the roles' own arguments."""

import copy
import json
import os
import pathlib
import subprocess
import sys
from dataclasses import dataclass, field

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "lab"))

import lab
from network_host import NETWORKS, network_hosts_of

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parents[1]
SUITES = ("bookworm", "trixie")
LEGACY, BOTH = ["ipv4"], ["ipv4", "ipv6"]
RESET = """
systemctl stop {units}
systemctl stop occupant 'dualstack-rollback-*'
nft delete table ip fault
nft delete table ip6 fault
for place in /var/lib/dualstack {places}; do umount --lazy $place; done
rm -rf /var/lib/dualstack
resolvconf -f -d eth0.inet
rsync -a --delete --checksum /root/etc/ /etc/
systemctl daemon-reload
"""
NAMED = 'options { directory "/var/cache/bind"; listen-on { 192.0.2.10; }; listen-on-v6 { 2001:db8::10; }; };'
# A name server has no listener of the role's own: of each family, is there one that this host asks and that answers?
ASKED = (
    "for server in $(sed -n 's/^nameserver //p' /etc/resolv.conf); do"
    " dig +time=1 +tries=1 @$server 127.in-addr.arpa SOA >/dev/null &&"
    " case $server in *:*) echo ipv6;; *) echo ipv4;; esac; done; true"
)


PACKAGES = ("openresolv",)  # of Debian, which the image lacks


@dataclass(frozen=True)
class Service:
    """A role under test: how its host is in its legacy state, and what of it can be broken."""

    role: str
    port: int  # 0 where ASKED says which families are served
    file: str  # that the role edits first
    legacy: str  # shell commands
    sign: str  # a shell command that says whether the files are converted
    broken: str = ""  # a shell command after which the checker refuses
    words: str = ""  # what it says then
    variables: dict = field(default_factory=dict)
    owner: str = ""  # the program that writes the file which the role is given

    @property
    def name(self):
        return self.owner or self.role

    @property
    def unit(self):
        return lab.UNITS[self.role]

    @property
    def question(self):
        return self.port or ASKED


def _resolver(file, legacy, owner=""):
    return Service(
        "resolver", 0, file, f"echo '{NAMED}' > /etc/bind/named.conf.options; {legacy}",
        f"grep -q 2001:db8::10 {file}", variables={"resolver_ipv6_nameservers": ["2001:db8::10"]}, owner=owner,
    )  # fmt: skip


SERVICES = [
    Service(
        "postfix", 25, "/etc/postfix/main.cf",
        "postconf -e inet_protocols=ipv4 'mynetworks=127.0.0.0/8 192.0.2.0/24'",
        "grep -q '^inet_protocols = all' /etc/postfix/main.cf",
        "echo inet_interfaces = 203.0.113.99 >> /etc/postfix/main.cf", "203.0.113.99",
    ),
    Service(
        "dovecot", 143, "/etc/dovecot/dovecot.conf",
        "echo 'listen = *' >> /etc/dovecot/dovecot.conf",
        "grep -q '^listen = .*::' /etc/dovecot/dovecot.conf",
        "echo nonsense = 1 >> /etc/dovecot/dovecot.conf", "nonsense",
    ),
    Service(
        "pureftpd", 21, "/etc/pure-ftpd/conf/IPV4Only",
        "echo yes > /etc/pure-ftpd/conf/IPV4Only",
        "! grep -qs yes /etc/pure-ftpd/conf/IPV4Only",
        "echo many > /etc/pure-ftpd/conf/MinUID", "Invalid configuration file",
    ),
    Service(
        "apache", 80, "/etc/apache2/ports.conf",
        "sed -i 's/^Listen 80/Listen 0.0.0.0:80/' /etc/apache2/ports.conf",
        "grep -q '^Listen 80' /etc/apache2/ports.conf",
        "echo Nonsense on >> /etc/apache2/ports.conf", "Nonsense",
    ),
    Service(
        "nginx", 80, "/etc/nginx/sites-available/default",
        "sed -i '/^\tlisten \\[::\\]:80/d' /etc/nginx/sites-available/default",
        "grep -q '^\tlisten .::.:80' /etc/nginx/sites-available/default",
        "echo 'nonsense on;' >> /etc/nginx/sites-available/default", "nonsense",
    ),
    Service(
        "varnish", 6081, "/etc/systemd/system/varnish.service.d/override.conf",
        "mkdir -p /etc/systemd/system/varnish.service.d; "
        "printf '[Service]\\nExecStart=\\nExecStart=/usr/sbin/varnishd -F -a 0.0.0.0:6081 "
        "-f /etc/varnish/default.vcl\\n'"
        " > /etc/systemd/system/varnish.service.d/override.conf; systemctl daemon-reload",
        "grep -q -- '-a .::.:6081' /etc/systemd/system/varnish.service.d/override.conf",
        "echo nonsense >> /etc/varnish/default.vcl", "nonsense",
    ),
    Service(
        "sshd", 22, "/etc/ssh/sshd_config",
        "echo ListenAddress 0.0.0.0 >> /etc/ssh/sshd_config",
        "grep -q '^ListenAddress .*::' /etc/ssh/sshd_config",
        "echo PermitRotLogin yes >> /etc/ssh/sshd_config", "PermitRotLogin",
    ),
    _resolver(
        "/etc/resolv.conf",
        "printf 'search example.net\\nnameserver 192.0.2.10\\noptions timeout:2\\n' > /etc/resolv.conf",
    ),
    _resolver("/etc/resolvconf.conf", "echo nameserver 192.0.2.10 | resolvconf -a eth0.inet", owner="openresolv"),
]  # fmt: skip


@pytest.fixture(scope="session")
def arguments(tmp_path_factory):
    """What each role hands to the module, as {role: [arguments]}; the roles run here, skipped or in check mode."""
    place = tmp_path_factory.mktemp("arguments")
    common = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
    hosts = {service.role: {**common, **service.variables, "role": service.role} for service in SERVICES}
    (place / "hosts.json").write_text(json.dumps({"all": {"hosts": hosts}}))
    tasks = [{"ansible.builtin.include_role": {"name": "dualstack.fleet.{{ role }}"}}]
    (place / "play.yml").write_text(json.dumps([{"hosts": "all", "gather_facts": False, "tasks": tasks}]))
    environment = {
        **os.environ,
        "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
        "ANSIBLE_CALLBACK_PLUGINS": str(HERE / "callback"),
        "ANSIBLE_CALLBACKS_ENABLED": "arguments",
        "FAULT_ARGUMENTS": str(place / "arguments"),
    }
    command = [pathlib.Path(sys.executable).parent / "ansible-playbook", "--check", "-i", "hosts.json", "play.yml"]
    subprocess.run(command, cwd=place, env=environment, capture_output=True, check=False)
    found = {}
    for line in (place / "arguments").read_text().splitlines():
        entry = json.loads(line)
        found.setdefault(entry["host"], []).append(entry["arguments"])
    assert set(found) == set(hosts)
    return found


class Host:
    """A scratch host with the core on it."""

    def __init__(self, scratch, arguments):
        self.scratch, self._arguments = scratch, arguments
        scratch.put_core(HERE / "agent.py")
        scratch.install(*PACKAGES)
        self.sh("cp -a /etc /root/etc")

    def sh(self, script):
        done = self.scratch.run("sh", "-c", script, check=False)
        assert done.returncode == 0, f"{script}: {(done.stdout + done.stderr).decode()}"

    def params(self, service):
        """Return a copy of the role's last arguments: those that make it listen."""
        return copy.deepcopy(self._arguments[service.role][-1])

    def play(self, service, *steps):
        """Do STEPS with SERVICE running alone in its legacy state, and return what came of each; see agent.py."""
        units = " ".join(sorted({other.unit for other in SERVICES}))
        before = [
            ["sh", f"systemctl stop {units}; systemctl reset-failed; {service.legacy}; systemctl start {service.unit}"],
            ["families", service.question, LEGACY],
        ]
        after = [
            ["sh", RESET.format(units=units, places=" ".join(str(pathlib.Path(one.file).parent) for one in SERVICES))]
        ]
        # Privileged, as root is on a host: what a file's attributes forbid is forbidden to root too.
        done = lab.podman(
            "exec", "-i", "--privileged", "--env", "PYTHONPATH=/root/core", self.scratch.container,
            "python3", "/root/core/agent.py", stdin=json.dumps([*before, *steps, *after]).encode(), check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr.decode()
        said, families, *results, _reset = json.loads(done.stdout)
        assert families == LEGACY, said
        return results


@pytest.fixture(scope="session", params=SUITES)
def host(request, arguments):
    with lab.scratch(request.param, f"fault-{request.param}") as scratch:
        yield Host(scratch, arguments)


TABLE = {}
LINES = []


@pytest.fixture(scope="session")
def table():
    """A function that keeps a line of measurements for the end."""
    return LINES.append


@pytest.fixture
def survived():
    """Count faults that a service survived, for the table at the end."""

    def count(service, fault, number=1, injected=0):
        before = TABLE.get((service.name, fault), (0, 0))
        TABLE[service.name, fault] = before[0] + (injected or number), before[1] + number

    return count


def pytest_terminal_summary(terminalreporter):
    for line in LINES:
        terminalreporter.write_line(line)
    for (name, fault), (injected, number) in sorted(TABLE.items()):
        terminalreporter.write_line(f"{name:<18} {fault:<44} injected {injected:>3} survived {number:>3}")
    injected, number = (sum(column) for column in zip((0, 0), *TABLE.values()))
    terminalreporter.write_line(f"{injected} faults injected, {number} survived")


@pytest.fixture(scope="session")
def network_hosts():
    """A host of each release and of each network manager, whose network can be broken."""
    with network_hosts_of(NETWORKS) as hosts:
        yield hosts
