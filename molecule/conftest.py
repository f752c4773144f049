"""Fixtures of all scenarios: hosts by name, questions as clients ask them, the journal of a host that failed."""

import json
import os
import pathlib
import subprocess

import pytest
import testinfra

ROOT = pathlib.Path(__file__).parents[1]
PODMAN = ["podman"] if os.geteuid() == 0 else ["sudo", "podman"]
LAB = os.environ.get("DUALSTACK_LAB", "dualstack")
MACHINES = {"web1": "bookworm", "web2": "trixie"}
# A service waits for its client after the greeting; an answer ends when the service closes the connection.
ASK = """
import socket
with socket.create_connection(('{address}', {port}), timeout=3) as session:
    session.sendall(b'{say}')
    text = session.recv(4096)
    while b'{say}' and (more := session.recv(4096)):
        text += more
print(text.decode(errors='replace'))
"""


class Lab:
    """The hosts of the lab, and what the inventory knows of them."""

    root = ROOT

    def command(self, name, *words):
        """Return the command line that runs WORDS, with a standard input, on the host NAME."""
        self.used.add(name)
        return [*PODMAN, "exec", "-i", f"{LAB}-{name}", *words]

    def __init__(self):
        self.used = set()
        listing = subprocess.run(
            ["ansible-inventory", "-i", "inventories/lab", "--list"],
            cwd=ROOT,
            check=True,
            capture_output=True,
            text=True,
        )
        self.variables = json.loads(listing.stdout)["_meta"]["hostvars"]

    def __call__(self, name):
        """Return the testinfra host NAME, reached beside the networks under test."""
        self.used.add(name)
        sudo = "" if os.geteuid() == 0 else "?sudo=true"
        return testinfra.get_host(f"podman://{LAB}-{name}{sudo}")

    def addresses(self, name):
        """Return the host's IPv4 address, its IPv6 address and, where it has a delegated prefix, the one inside."""
        variables = self.variables[name]
        record = variables["dualstack"]
        inside = record["delegated_prefix"].split("/")[0]
        return [variables["dualstack_ipv4"], record["address"]] + ([f"{inside}1"] if inside else [])

    def paths(self, name):
        """Return (client, address) pairs that cover the host's loopback and its own addresses."""
        other = "web2" if name == "web1" else "web1"
        return [(name, "127.0.0.1"), (name, "::1")] + [(other, address) for address in self.addresses(name)]

    def role(self, name, role, **variables):
        """Run ROLE on the host NAME with VARIABLES; return its exit status and output."""
        command = ["ansible", "-i", "inventories/lab", name, "-m", "ansible.builtin.include_role"]
        command += ["-a", f"name=dualstack.fleet.{role}", "-e", json.dumps(variables)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout + done.stderr

    def legacy(self, name, directory):
        """Return {path: text} of what the host NAME had below DIRECTORY before any change."""
        tree = ROOT / "tests" / "lab" / "hosts" / name
        files = (path for path in sorted((tree / directory.strip("/")).rglob("*")) if path.is_file())
        return {f"/{path.relative_to(tree)}": path.read_text() for path in files}

    def listeners(self, name):
        """Return what the services of the host NAME listen on."""
        return self(name).check_output("ss -Hltn | awk '{ print $4 }' | awk -F: '$NF < 10000' | sort").split()

    def greeting(self, client, address, port, say=""):
        """Return what the service at ADDRESS and PORT says to CLIENT first, or all of its answer to SAY."""
        return self(client).run(f'python3 -c "{ASK.format(address=address, port=port, say=say)}"').stdout


@pytest.fixture(scope="session")
def lab():
    """The lab."""
    return Lab()


@pytest.fixture(params=sorted(MACHINES), ids=lambda name: f"{name}-{MACHINES[name]}")
def machine(request):
    """The name of each client machine in turn: Debian 12, Debian 13."""
    return request.param


@pytest.fixture
def reverted(lab, machine, request):
    """The machine as it was before the role under test, the scenario's name, which is applied again afterwards."""
    role = request.path.parents[1].name
    status, said = lab.role(machine, role, **{f"{role}_ipv6_state": "reverted"})
    assert status == 0, said
    yield machine
    status, said = lab.role(machine, role)
    assert status == 0, said


@pytest.fixture
def reboot(lab):
    """A function that cuts the power of a host, starts it again and returns when it has booted."""

    def boot(name):
        subprocess.run([*PODMAN, "restart", "-t", "0", f"{LAB}-{name}"], check=True, capture_output=True)
        booted = "until systemctl is-system-running --wait >/dev/null 2>&1; do sleep 0.2; done"
        lab(name).run_expect([0], f"timeout 60 sh -c '{booted}'")

    return boot


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    """A failure shows the units that failed on the hosts that the test has used, and their journal."""
    report = (yield).get_result()
    if report.failed and "lab" in item.funcargs:
        for name in sorted(item.funcargs["lab"].used):
            script = "systemctl --failed --no-legend --plain; journalctl -p warning -b -n 25 --no-pager"
            shown = subprocess.run(
                [*PODMAN, "exec", f"{LAB}-{name}", "sh", "-c", script], capture_output=True, text=True, check=False
            )
            report.sections.append((f"journal of {name}", shown.stdout + shown.stderr))
