"""The programs that write resolv.conf keep their say: name servers go through their own files, and back."""

import importlib.util
import json
import subprocess

import pytest

NEW = "2001:db8::10"
NAMED = 'options { directory "/var/cache/bind"; listen-on { 192.0.2.10; }; listen-on-v6 { 2001:db8::10; }; };'
# Each begins with the one server that the interface brought.
OWNERS = {
    "resolvconf": ("echo nameserver 192.0.2.10 | resolvconf -a eth0.inet", "/etc/resolvconf/resolv.conf.d/base"),
    "openresolv": ("echo nameserver 192.0.2.10 | resolvconf -a eth0.inet", "/etc/resolvconf.conf"),
    "systemd-resolved": (
        "mkdir -p /etc/systemd/resolved.conf.d; cd /etc/systemd/resolved.conf.d;"
        " printf '[Resolve]\nDNS=192.0.2.10\n' > site.conf; systemctl restart systemd-resolved",
        "/etc/systemd/resolved.conf.d/zz-dualstack.conf",
    ),
}
SERVERS = {
    "systemd-resolved": "resolvectl dns | sed -n 's/^Global: //p'",
    "": "sed -n 's/^nameserver //p' /etc/resolv.conf | paste -sd ' '",
}


@pytest.fixture(scope="module", params=["bookworm", "trixie"])
def bare(lab, request):
    """A host of its own, with a name server on each family, and the packages that exclude each other."""
    spec = importlib.util.spec_from_file_location("lab", lab.root / "tests" / "lab" / "lab.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    archive = module.packages(request.param, *OWNERS)
    with module.scratch(request.param, f"owners-{request.param}") as host:
        host.run("mkdir", "/root/debs")
        host.run("tar", "-C", "/root/debs", "-x", stdin=archive)
        host.run("sh", "-c", f"echo '{NAMED}' > /etc/bind/named.conf.options && systemctl start named")
        yield host


def role(lab, host, **variables):
    """Run the role on HOST; return whether it changed something, and what it said."""
    words = {"resolver_ipv6_nameservers": [NEW], **host.variables(), **variables}
    command = ["ansible", "-i", "bare,", "bare", "-m", "ansible.builtin.include_role", "-e", json.dumps(words)]
    command += ["-a", "name=dualstack.fleet.resolver"]
    done = subprocess.run(command, cwd=lab.root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return "| CHANGED" in done.stdout or '"changed": true' in done.stdout


@pytest.mark.parametrize("owner", OWNERS)
def test_the_owner_of_the_file_is_given_the_server_and_loses_it_again(lab, bare, owner):
    begin, path = OWNERS[owner]

    def servers():
        return bare.run("sh", "-c", SERVERS.get(owner, SERVERS[""])).stdout.decode().split()

    def text():
        return bare.run("cat", path, check=False).stdout

    others = " ".join(name for name in OWNERS if name != owner)
    bare.run("sh", "-c", f"dpkg --purge {others}; rm -f /etc/resolv.conf; touch /etc/resolv.conf")
    bare.run("sh", "-c", f"dpkg -i /root/debs/{owner}_*.deb && {begin}")
    before, first = text(), servers()
    assert first == ["192.0.2.10"]
    assert role(lab, bare)
    assert servers() == ["192.0.2.10", NEW]
    assert not role(lab, bare)
    assert role(lab, bare, resolver_ipv6_state="reverted")
    assert (text(), servers()) == (before, first)
