"""Services as Debian ships them: nearly all of them are dual stack already, and nothing but the rest is touched."""

import contextlib
import json
import re
import subprocess
import sys

import pytest

sys.path.append("tests/lab")

from lab import NAME, UNITS, scratch

SUITES = {"fresh12": "bookworm", "fresh13": "trixie"}
PORTS = {"postfix": 25, "dovecot": 143, "pureftpd": 21, "apache": 80, "varnish": 6081, "nginx": 8080, "sshd": 22}
WEB = {"apache", "varnish", "nginx"}
PAGE = "GET / HTTP/1.0\\r\\n\\r\\n"
# Varnish has no backend yet, and says so.
ANSWERS = r"220|\* OK|SSH-2|HTTP/1\.1 (200|503)"
PINNED = ["+  # IPv4 only until the mail gate is open (dualstack.fleet)", "+  -o inet_protocols=ipv4"]
# A name server of IPv6, Pure-FTPd's DontResolve, and mail that waits for the host's names.
LACKING = ["+nameserver 2001:db8:100:1::ad:53", "+yes", *PINNED * 2]


class Fresh:
    """The hosts of this scenario, on the lab's switch."""

    def __init__(self, lab, hosts, place):
        self.lab, self.hosts, self.inventory = lab, hosts, place / "hosts.json"
        known = {"dualstack_services": list(PORTS), "postfix_ipv6_source_address": ""}
        entries = {
            name: {
                **host.variables(),
                **known,
                "dualstack_ipv4": f"198.51.100.3{number}",
                **{"loc_building": "B", "loc_cabinet": 9, "loc_rack": 9, "loc_switch": number},
            }
            for number, (name, host) in enumerate(hosts.items(), 1)
        }
        self.inventory.write_text(json.dumps({"all": {"children": {"clients": {"hosts": entries}}}}))
        self.variables = json.loads(self.ansible("ansible-inventory", "--list"))["_meta"]["hostvars"]

    def ansible(self, command, *words):
        """Run an Ansible COMMAND on these hosts beside the lab's, and return its output."""
        argv = [command, "-i", self.inventory, "-i", "inventories/lab", *words]
        done = subprocess.run(
            argv, cwd=self.lab.root, env=self.lab.environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def services(self):
        """Run the playbook under test."""
        return self.ansible("ansible-playbook", "dualstack.fleet.services", "--limit", ",".join(self.hosts), "--diff")

    def addresses(self, name):
        """Return the host's addresses, one of each family."""
        return [self.variables[name]["dualstack_ipv4"], self.variables[name]["dualstack"]["address"]]

    def answer(self):
        """Ask each service from the other host over both families."""
        for client, name in zip(SUITES, reversed(SUITES)):
            for service, port in PORTS.items():
                for address in self.addresses(name):
                    said = self.lab.greeting(f"scratch-{client}", address, port, PAGE if service in WEB else "")
                    assert re.match(ANSWERS, said), f"{service} of {name} at {address}: {said!r}"

    def found(self):
        """Return what the services of each host have in their files, and what they listen on."""
        names = [f"scratch-{name}" for name in self.hosts]
        return [(self.lab.configuration(name), self.lab.listeners(name)) for name in names]


@pytest.fixture(scope="module")
def fresh(lab, tmp_path_factory):
    """Two hosts, their services running; an admin has given nginx another port than Apache's."""
    device = f"{NAME}-device:interface_name=eth0"
    with contextlib.ExitStack() as stack:
        hosts = {name: stack.enter_context(scratch(suite, name, device)) for name, suite in SUITES.items()}
        made = Fresh(lab, hosts, tmp_path_factory.mktemp("fresh"))
        for name, host in hosts.items():
            for address in (f"{made.addresses(name)[0]}/24", f"{made.addresses(name)[1]}/64"):
                host.run("ip", "address", "add", address, "dev", "eth0", "nodad")
            host.run("sed", "-i", "s/:80 /:8080 /; s/ 80 / 8080 /", "/etc/nginx/sites-available/default")
            host.run("systemctl", "start", *(UNITS[service] for service in PORTS if service != "sshd"))
        yield made


def changes(said):
    """Return the lines that the diffs in SAID add or take away."""
    return [line.rstrip() for line in said.splitlines() if re.match(r"[-+](?![-+]{2} )", line)]


def test_only_what_lacks_is_changed_and_the_way_back_is_exact(fresh):
    before = fresh.found()
    fresh.answer()
    said = fresh.services()
    assert sorted(changes(said)) == sorted(LACKING * len(SUITES)), said
    fresh.answer()
    again = fresh.services()
    assert changes(again) == [], again
    assert all(re.search(rf"{name} .* changed=0 ", again) for name in SUITES), again
    for service in ["resolver", *PORTS]:
        back = json.dumps({f"{service}_ipv6_state": "reverted"})
        role = ["-m", "ansible.builtin.include_role", "-a", f"name=dualstack.fleet.{service}", "-e", back]
        fresh.ansible("ansible", ",".join(SUITES), *role)
    assert fresh.found() == before
    fresh.answer()
