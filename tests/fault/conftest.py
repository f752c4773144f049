"""Hosts that the tests break: all daemons of the lab's image in their legacy state, and the roles' own arguments."""

import contextlib
import copy
import io
import json
import os
import pathlib
import subprocess
import sys
import tarfile
from dataclasses import dataclass, field

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "lab"))

import lab
from network_host import NETWORKS, each, network_host

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parents[1]
SUITES = ("bookworm", "trixie")
LEGACY, BOTH = ["ipv4"], ["ipv4", "ipv6"]
RESET = """
systemctl stop {units}
systemctl stop occupant
nft delete table ip fault
for place in /var/lib/dualstack {places}; do umount $place; done
rm -rf /var/lib/dualstack
rsync -a --delete --checksum --exclude=/resolv.conf /root/etc/ /etc/
systemctl daemon-reload
"""


@dataclass(frozen=True)
class Service:
    """A role under test: how its host is in its legacy state, and what of it can be broken."""

    role: str
    port: int
    unit: str
    file: str  # that the role edits first
    legacy: str  # shell commands
    sign: str  # a shell command that says whether the files are converted
    broken: str = ""  # a line that the checker refuses
    words: str = ""  # what it says then
    variables: dict = field(default_factory=dict)


SERVICES = [
    Service(
        "postfix", 25, "postfix", "/etc/postfix/main.cf",
        "postconf -e inet_protocols=ipv4 'mynetworks=127.0.0.0/8 192.0.2.0/24'",
        "grep -q '^inet_protocols = all' /etc/postfix/main.cf", "inet_interfaces = 203.0.113.99", "203.0.113.99",
    ),
    Service(
        "dovecot", 143, "dovecot", "/etc/dovecot/dovecot.conf",
        "echo 'listen = *' >> /etc/dovecot/dovecot.conf",
        "grep -q '^listen = .*::' /etc/dovecot/dovecot.conf", "nonsense = 1", "nonsense",
    ),
    Service(
        "pureftpd", 21, "pure-ftpd", "/etc/pure-ftpd/conf/IPV4Only",
        "echo yes > /etc/pure-ftpd/conf/IPV4Only",
        "! grep -qs yes /etc/pure-ftpd/conf/IPV4Only",
    ),
    Service(
        "apache", 80, "apache2", "/etc/apache2/ports.conf",
        "sed -i 's/^Listen 80/Listen 0.0.0.0:80/' /etc/apache2/ports.conf",
        "grep -q '^Listen 80' /etc/apache2/ports.conf", "Nonsense on", "Nonsense",
    ),
    Service(
        "nginx", 80, "nginx", "/etc/nginx/sites-available/default",
        "sed -i '/^\tlisten \\[::\\]:80/d' /etc/nginx/sites-available/default",
        "grep -q '^\tlisten .::.:80' /etc/nginx/sites-available/default", "nonsense on;", "nonsense",
    ),
    Service(
        "varnish", 6081, "varnish", "/etc/systemd/system/varnish.service.d/override.conf",
        "mkdir -p /etc/systemd/system/varnish.service.d; "
        "printf '[Service]\\nExecStart=\\nExecStart=/usr/sbin/varnishd -F -a 0.0.0.0:6081 -b 127.0.0.1:80\\n'"
        " > /etc/systemd/system/varnish.service.d/override.conf; systemctl daemon-reload",
        "grep -q -- '-a .::.:6081' /etc/systemd/system/varnish.service.d/override.conf",
        variables={"varnish_ipv6_port": 6081},
    ),
]  # fmt: skip
BY_ROLE = {service.role: service for service in SERVICES}


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
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            for path in (ROOT / "plugins" / "module_utils").glob("*.py"):
                archive.add(path, f"root/core/module_utils/{path.name}")
            archive.add(HERE / "agent.py", "root/core/agent.py")
        lab.podman("cp", "-", f"{scratch.container}:/", stdin=buffer.getvalue())
        self.sh("cp -a /etc /root/etc")

    def sh(self, script):
        done = self.scratch.run("sh", "-c", script, check=False)
        assert done.returncode == 0, f"{script}: {(done.stdout + done.stderr).decode()}"

    def params(self, service):
        """Return a copy of the role's last arguments: those that make it listen."""
        return copy.deepcopy(self._arguments[service.role][-1])

    def play(self, service, *steps, privileged=False):
        """Do STEPS with SERVICE running alone in its legacy state, and return what came of each; see agent.py."""
        units = " ".join(sorted({other.unit for other in SERVICES}))
        before = [
            ["sh", f"systemctl stop {units}; systemctl reset-failed; {service.legacy}; systemctl start {service.unit}"],
            ["listeners", service.port, LEGACY],
        ]
        after = [
            ["sh", RESET.format(units=units, places=" ".join(str(pathlib.Path(one.file).parent) for one in SERVICES))]
        ]
        command = ["podman", "exec", "-i", *(["--privileged"] if privileged else []), "--env", "PYTHONPATH=/root/core"]
        done = lab.podman(
            *command[1:], self.scratch.container, "python3", "/root/core/agent.py",
            stdin=json.dumps([*before, *steps, *after]).encode(), check=False,
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


@pytest.fixture
def survived():
    """Count faults that a service survived, for the table at the end."""

    def count(service, fault, number=1, injected=0):
        before = TABLE.get((service.role, fault), (0, 0))
        TABLE[service.role, fault] = before[0] + (injected or number), before[1] + number

    return count


def pytest_terminal_summary(terminalreporter):
    for (role, fault), (injected, number) in sorted(TABLE.items()):
        terminalreporter.write_line(f"{role:<18} {fault:<44} injected {injected:>3} survived {number:>3}")
    injected, number = (sum(column) for column in zip((0, 0), *TABLE.values()))
    terminalreporter.write_line(f"{injected} faults injected, {number} survived")


@pytest.fixture(scope="session")
def network_hosts():
    """A host of each release and of each network manager, whose network can be broken."""
    with contextlib.ExitStack() as stack:
        made = each(NETWORKS, lambda words: stack.enter_context(network_host(*words)))
        hosts = [host for _words, host in made]
        for host, steps in each(hosts, lambda host: host.agent("references")):
            host.steps = steps
        yield hosts
