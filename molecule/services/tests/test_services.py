"""The playbook `services` on a legacy host shows what an expert would change, and does just that or nothing at all."""

import json
import re
import subprocess

import pytest

OVERRIDE = "/etc/systemd/system/varnish.service.d/override.conf"
PINNED = ["+  # IPv4 only until the mail gate is open (dualstack.fleet)", "+  -o inet_protocols=ipv4"]
# The lines that an expert would change by hand, in the order of the run; nothing else may be among them.
EXPERT = [
    ("/etc/postfix/main.cf", "-mynetworks = 127.0.0.0/8"),
    ("/etc/postfix/main.cf", "+mynetworks = 127.0.0.0/8 [::1]/128"),
    *[("/etc/postfix/master.cf", line) for line in PINNED * 2],  # smtp, relay
    ("/etc/resolv.conf", "+nameserver 2001:db8:100:1::ad:53"),
    ("/etc/postfix/main.cf", "-inet_protocols = ipv4"),
    ("/etc/postfix/main.cf", "+inet_protocols = all"),
    ("/etc/dovecot/dovecot.conf", "-listen = *"),
    ("/etc/dovecot/dovecot.conf", "+listen = *, ::"),
    ("/etc/pure-ftpd/conf/IPV4Only", "-yes"),
    ("/etc/pure-ftpd/conf/IPV4Only", "+no"),
    ("/etc/pure-ftpd/conf/DontResolve", "+yes"),
    ("/etc/apache2/ports.conf", "-Listen 0.0.0.0:8080"),
    ("/etc/apache2/ports.conf", "+Listen 8080"),
    (OVERRIDE, "-ExecStart=/usr/sbin/varnishd -j unix,user=vcache -F -a 0.0.0.0:80 \\"),
    (OVERRIDE, "+ExecStart=/usr/sbin/varnishd -j unix,user=vcache -F -a 0.0.0.0:80 -a [::]:80 \\"),
    ("/etc/nginx/conf.d/tools.conf", "+    listen [::]:8081;"),
    ("/etc/nginx/conf.d/tools.conf", "+    allow 2001:db8:100:1::/64;"),
    ("/etc/nginx/conf.d/tools.conf", "+    allow 2001:db8:200::/48;"),
    ("/etc/nginx/conf.d/tools.conf", "+    allow ::1;"),
    ("/etc/nginx/sites-available/default", "+    listen [::]:8081 default_server;"),
    ("/etc/ssh/sshd_config.d/10-listen.conf", "+ListenAddress ::"),
]
BROKEN = {
    "postfix": ("/etc/postfix/main.cf", "inet_interfaces = 203.0.113.99", "203.0.113.99"),
    "dovecot": ("/etc/dovecot/conf.d/99-broken.conf", "nonsense = yes", "nonsense"),
    "apache": ("/etc/apache2/conf-enabled/broken.conf", "Lisen 9999", "Invalid command 'Lisen'"),
    "varnish": ("/etc/varnish/default.vcl", "bakend other {}", "bakend"),
    "nginx": ("/etc/nginx/conf.d/broken.conf", "lisen 9999;", 'unknown directive "lisen"'),
}


def services(lab, *options):
    """Run the playbook on web1; return its exit status and output."""
    command = ["ansible-playbook", "-i", "inventories/lab", "dualstack.fleet.services", "--limit", "web1", *options]
    done = subprocess.run(command, cwd=lab.root, env=lab.environment, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def lines(said):
    """Return the changed lines of the diffs in SAID with their files."""
    path, found = "", []
    for line in said.splitlines():
        header = re.match(r"(?:---|\+\+\+) (?:before: |after: )?(\S+)", line)
        if header:
            path = header.group(1)
        elif re.match(r"[-+]", line):
            found.append((path, line.rstrip()))
    return found


def found(lab):
    """Return what web1's services have in their files, and what they listen on."""
    return lab.configuration("web1"), lab.listeners("web1")


def test_the_difference_is_what_an_expert_would_write(lab):
    before = found(lab)
    status, said = services(lab, "--check", "--diff")
    assert status == 0, said
    assert lines(said) == EXPERT, said
    assert found(lab) == before


@pytest.mark.parametrize("service", BROKEN)
def test_a_broken_configuration_is_refused_and_changes_nothing(lab, service):
    path, text, reason = BROKEN[service]
    web1 = lab("web1")
    web1.run(f"cp -a {path} /root/whole")
    web1.run_expect([0], f"echo '{text}' >> {path}")
    try:
        before = found(lab)
        status, said = services(
            lab, "-e", json.dumps({"dualstack_services": [service], "resolver_ipv6_nameservers": []})
        )
        assert status != 0
        assert reason in said, said
        assert found(lab) == before
    finally:
        web1.run_expect([0], f"rm {path}; if [ -e /root/whole ]; then mv /root/whole {path}; fi")


def test_one_run_does_it_and_the_next_does_nothing(lab):
    status, said = services(lab, "--diff")
    assert status == 0, said
    assert lines(said) == EXPERT, said
    for service, port in {
        "postfix": 25,
        "dovecot": 143,
        "pureftpd": 21,
        "apache": 8080,
        "varnish": 80,
        "nginx": 8081,
    }.items():
        say = "GET / HTTP/1.0\\r\\n\\r\\n" if port in (80, 8080, 8081) else ""
        for address in lab.addresses("web1"):
            assert lab.greeting("web2", address, port, say), f"{service} {address}"
    status, said = services(lab, "--diff")
    assert status == 0, said
    assert lines(said) == []
    assert re.search(r"web1 .* changed=0 ", said), said
