"""Fixtures of all scenarios: hosts by name, questions as clients ask them, the journal of a host that failed."""

import contextlib
import json
import os
import pathlib
import re
import subprocess
import sys
import time
from dataclasses import dataclass

import pytest
import testinfra

ROOT = pathlib.Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests" / "lab"))

from lab import scratch  # noqa: E402  the tools of the lab are no package

FAILURES = ROOT / "build" / "molecule-failures.txt"
PODMAN = ["podman"] if os.geteuid() == 0 else ["sudo", "podman"]
LAB = os.environ.get("DUALSTACK_LAB", "dualstack")
MACHINES = {"web1": "bookworm", "web2": "trixie"}
SERVICES = "postfix dovecot pure-ftpd apache2 varnish nginx ssh systemd/system resolv.conf"
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
TALK = (
    "import smtplib; s = smtplib.SMTP('{address}', timeout=5); s.helo('client.example');"
    " s.mail('a@example.com'); print(s.rcpt('{recipient}')[0])"
)


# Molecule asks for colours, which have no place in a text that is compared.
PLAIN = {**os.environ, "ANSIBLE_FORCE_COLOR": "0", "ANSIBLE_NOCOLOR": "1"}


class Lab:
    """The hosts of the lab, and what the inventory knows of them."""

    root, environment = ROOT, PLAIN

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
        # Nobody but a test restarts a service so often; systemd refuses the sixth start in ten seconds.
        self(name).run_expect([0], "systemctl reset-failed")
        wanted = ["-a", f"name=dualstack.fleet.{role}", "-e", json.dumps(variables)]
        return self.module(name, "ansible.builtin.include_role", *wanted)

    def module(self, name, module, *words):
        """Run MODULE on the host NAME with the WORDS of ansible(1); return its exit status and output."""
        command = ["ansible", "-i", "inventories/lab", name, "-m", module, *words]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout + done.stderr

    def legacy(self, name, directory):
        """Return {path: text} of what the host NAME had below DIRECTORY before any change."""
        tree = ROOT / "tests" / "lab" / "hosts" / name
        files = (path for path in sorted((tree / directory.strip("/")).rglob("*")) if path.is_file())
        return {f"/{path.relative_to(tree)}": path.read_text() for path in files}

    def refuses(self, name, role, path, line, words):
        """A broken LINE in the file PATH on the host NAME makes ROLE fail with WORDS, and changes nothing."""
        before = self.listeners(name)
        self(name).run_expect([0], f"echo '{line}' > {path}")
        try:
            status, said = self.role(name, role)
        finally:
            self(name).run_expect([0], f"rm {path}")
        assert status != 0
        assert words in said.replace("\\", "")
        assert self.listeners(name) == before
        self.is_legacy(name, path.rsplit("/", 2)[0])

    def refuses_taken(self, name, role, port):
        """ROLE leaves the host NAME alone, and says so, while another process listens on PORT over IPv6."""
        host, before = self(name), self.listeners(name)
        taken = f"socat TCP6-LISTEN:{port},ipv6only,fork,reuseaddr SYSTEM:cat"
        host.run_expect([0], f"systemd-run -q --unit=taken {taken}")
        try:
            status, said = self.role(name, role)
        finally:
            host.run_expect([0], "systemctl stop taken")
        assert status != 0
        assert f"listens on :: port {port}" in said
        assert self.listeners(name) == before

    def is_legacy(self, name, directory):
        """Each file below DIRECTORY on the host NAME is what it was before any change."""
        for path, text in self.legacy(name, directory).items():
            assert self(name).file(path).content_string == text, path

    def configuration(self, name):
        """Return the files of the services of the host NAME, byte by byte, with their owners and modes."""
        script = "find $files -printf '%p %y %m %u %g %l\\n' | sort; find $files -type f -exec sha256sum {} + | sort"
        return self(name).check_output(f"cd /etc && files='{SERVICES}' && {script}")

    def listeners(self, name):
        """Return what the services of the host NAME listen on."""
        return self(name).check_output("ss -Hltn | awk '{ print $4 }' | awk -F: '$NF < 10000' | sort").split()

    def scanned(self):
        """Return what the scanner on the upstream host found: its rounds, {address: ports that ever answered}."""
        self("upstream").run_expect([0], "systemctl is-active scan")
        found = json.loads(self("upstream").file("/run/scan.json").content_string)
        return found["rounds"], {address: set(ports) for address, ports in found["open"].items()}

    def more_open(self):
        """Return {address: ports} that ever answered the scanner over IPv6 and never over IPv4."""
        _rounds, found = self.scanned()
        planned = [name for name, variables in self.variables.items() if "dualstack" in variables]
        more = {
            address: found.get(address, set()) - found.get(self.addresses(name)[0], set())
            for name in planned
            for address in self.addresses(name)[1:]
        }
        return {address: ports for address, ports in more.items() if ports}

    def greeting(self, client, address, port, say=""):
        """Return what the service at ADDRESS and PORT says to CLIENT first, or all of its answer to SAY."""
        return self(client).run(f'python3 -c "{ASK.format(address=address, port=port, say=say)}"').stdout

    def mail(self, sender, recipient, machine):
        """Send a mail from the host SENDER to RECIPIENT, who is bob of MACHINE, and return it with all its headers."""
        mark = self(sender).check_output("date +%s%N")
        letter = f"printf 'Subject: {mark}\\n\\nx\\n' | sendmail -f bob@web1.example.net {recipient}"
        self(sender).run_expect([0], letter)
        found = f"grep -rl 'Subject: {mark}' /home/bob/Maildir/new"
        self(machine).run_expect([0], f'timeout 20 sh -c "until {found}; do sleep 0.1; done"')
        return self(machine).check_output(f"cat $({found})")

    @contextlib.contextmanager
    def postfix(self, name, setting):
        """Give the mail server of NAME a SETTING for a while."""
        host = self(name)
        host.run_expect([0], f"cp -a /etc/postfix/main.cf /root/main.cf && postconf -e '{setting}' && postfix reload")
        try:
            yield
        finally:
            host.run_expect([0], "mv /root/main.cf /etc/postfix/main.cf && postfix reload")

    def relay(self, client, server, family, recipient="somebody@elsewhere.example"):
        """Return the server's code for CLIENT's wish to send to RECIPIENT, over IPv4 (0) or IPv6 (1)."""
        talk = TALK.format(address=self.addresses(server)[family], recipient=recipient)
        return int(self(client).check_output(f'python3 -c "{talk}"'))


@pytest.fixture(scope="session")
def lab():
    """The lab."""
    return Lab()


@pytest.fixture(params=sorted(MACHINES), ids=lambda name: f"{name}-{MACHINES[name]}")
def machine(request):
    """The name of each client machine in turn: Debian 12, Debian 13."""
    return request.param


@dataclass(frozen=True)
class Applied:
    """What the application of a role did, and all that was said."""

    changed: bool
    message: str


class Bare:
    """A host apart from the lab, which roles are applied to."""

    def __init__(self, host, directory):
        self.host, self.directory = host, directory

    def command(self, *words):
        """Return the command line that runs WORDS, with a standard input."""
        return [*PODMAN, "exec", "-i", self.host.container, *words]

    def sh(self, script, stdin=""):
        """Run SCRIPT and return what it prints."""
        done = subprocess.run(
            self.command("sh", "-c", script), input=stdin, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{script}: rc {done.returncode}: {done.stdout}{done.stderr}"
        return done.stdout.rstrip("\n")

    def apply(self, role, *options, tasks_from="main", fails=False, **variables):
        """Apply ROLE by ansible-playbook and see that it FAILS or does not."""
        task = {"ansible.builtin.include_role": {"name": f"dualstack.fleet.{role}", "tasks_from": tasks_from}}
        return self.play({"tasks": [task], "vars": variables}, options, fails)

    def module(self, name, **arguments):
        """Run the module NAME with ARGUMENTS."""
        return self.play({"tasks": [{f"dualstack.fleet.{name}": arguments}]})

    def play(self, play, options=(), fails=False):
        """Run PLAY by ansible-playbook with OPTIONS and see that it FAILS or does not."""
        play = [{"hosts": "all", "gather_facts": False, **play}]
        inventory = {"all": {"hosts": {"bare": self.host.variables()}}}
        for name, content in (("play.yml", play), ("hosts.yml", inventory)):
            (self.directory / name).write_text(json.dumps(content))
        done = subprocess.run(
            ["ansible-playbook", "-i", self.directory / "hosts.yml", *options, self.directory / "play.yml"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        told = done.stdout + done.stderr
        assert (done.returncode != 0) is fails, told
        return Applied(not re.search(r"changed=0\b", told), told)


@pytest.fixture(scope="session")
def bare(tmp_path_factory):
    """A function that boots a host of a release, apart from the lab, with no daemon started."""

    @contextlib.contextmanager
    def boot(suite):
        with scratch(suite, f"bare-{suite}") as host:
            host.run("systemctl", "start", "ssh")
            yield Bare(host, tmp_path_factory.mktemp("bare"))

    return boot


@pytest.fixture(scope="session")
def on():
    """The class of a host apart from the lab, for tests that boot it themselves."""
    return Bare


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
    """A function that cuts the power of a host, starts it again and returns when it serves as before, or as AWAITED."""

    def boot(name, awaited=None):
        before = set(lab.listeners(name) if awaited is None else awaited)
        subprocess.run([*PODMAN, "restart", "-t", "0", f"{LAB}-{name}"], check=True, capture_output=True)
        booted = "until systemctl is-system-running --wait >/dev/null 2>&1; do sleep 0.2; done"
        lab(name).run_expect([0], f"timeout 60 sh -c '{booted}'")
        # Its network card is a new one: the relay, which the next task comes through, must have noticed.
        address = lab.addresses(name)[0]
        lab("ns1").run_expect([0], f"timeout 60 sh -c 'until ping -c 1 -W 1 {address} >/dev/null; do :; done'")
        # A unit of the type simple counts as started before it listens.
        end = time.monotonic() + 30
        while gone := before - set(lab.listeners(name)):
            assert time.monotonic() < end, f"{name} booted, and nothing listens on {gone}"
            time.sleep(0.1)

    return boot


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    """A failure shows the failed units of the hosts that the test has used, and their journal; FAILURES keeps it."""
    report = (yield).get_result()
    if not report.failed:
        return
    for name in sorted(item.funcargs["lab"].used if "lab" in item.funcargs else ()):
        script = "systemctl --failed --no-legend --plain; journalctl -p warning -b -n 25 --no-pager"
        shown = subprocess.run(
            [*PODMAN, "exec", f"{LAB}-{name}", "sh", "-c", script], capture_output=True, text=True, check=False
        )
        report.sections.append((f"journal of {name}", shown.stdout + shown.stderr))
    with FAILURES.open("a", encoding="utf-8") as stream:
        print(
            item.nodeid,
            report.longreprtext,
            *(f"{head}:\n{text}" for head, text in report.sections),
            sep="\n",
            file=stream,
        )
