"""The programs that make packet filters on Debian: both families the same from outside, whatever is started again."""

import contextlib
import functools
import json
import re

import pytest
from lab import podman, wait_for_boot

PORTS = [22, 80, 443, 2222, 5666, 8000, 8080]
PEOPLE = {"stranger": ("203.0.113.66", "2001:db8:66::66"), "friend": ("198.51.100.7", "2001:db8:100:1::7")}
OPEN = {"stranger": {22, 80, 443, 2222}, "friend": {22, 80, 443, 2222, 5666}}
# A visitor in a namespace of the host's own; listeners of both families on every port but that of sshd.
WIRE = """
set -e
ip netns add visitor
ip link add eth0 type veth peer name visitors netns visitor
ip link set eth0 up
ip -n visitor link set visitors up
for own in 203.0.113.1/24 198.51.100.1/24 2001:db8:66::1/64 2001:db8:100:1::1/64; do
    ip address add $own dev eth0 $(case $own in *:*) echo nodad; esac)
done
for other in 203.0.113.66/24 198.51.100.7/24 2001:db8:66::66/64 2001:db8:100:1::7/64; do
    ip -n visitor address add $other dev visitors $(case $other in *:*) echo nodad; esac)
done
ip route add default via 203.0.113.66
systemd-run -q --unit=listeners --property=Type=notify --property=NotifyAccess=all python3 -c '
import selectors, socket, subprocess, sys
waiting = selectors.DefaultSelector()
for port in map(int, sys.argv[1:]):
    one = socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True)
    waiting.register(one, selectors.EVENT_READ)
subprocess.run(["systemd-notify", "--ready"], check=True)
while True:
    for key, _events in waiting.select():
        key.fileobj.accept()[0].close()
' PORTS
""".replace("PORTS", " ".join(str(port) for port in PORTS if port != 22))
# The kernel answers for a listener at once; a second is long.
SCAN = """
import json, select, socket, sys, time
people, ports = json.load(sys.stdin)
targets = {2: "203.0.113.1", 10: "2001:db8:66::1"}
waiting = select.poll()
tried = {}
for who, sources in people.items():
    for family, source in zip(targets, sources):
        for port in ports:
            one = socket.socket(family, socket.SOCK_STREAM)
            one.setblocking(False)
            one.bind((source, 0))
            one.connect_ex((targets[family], port))
            tried[one.fileno()] = (one, who, family, port)
            waiting.register(one, select.POLLOUT)
found = {who: {2: [], 10: []} for who in people}
end = time.monotonic() + 1
while tried and time.monotonic() < end:
    for handle, _events in waiting.poll(50):
        one, who, family, port = tried.pop(handle)
        waiting.unregister(handle)
        if not one.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            found[who][family].append(port)
print(json.dumps({who: list(families.values()) for who, families in found.items()}))
"""
UFW = """
sed -i s/^IPV6=.*/IPV6={ipv6}/ /etc/default/ufw
ufw --force reset
for rule in 22/tcp 80,443/tcp {friends}; do ufw allow $(echo $rule | tr _ ' '); done
ufw limit 2222/tcp
ufw deny 8080
ufw --force enable
"""
FERM = """
cat > /etc/ferm/ferm.conf <<END
domain ({domains}) table filter chain INPUT {{
    policy DROP;
    mod state state (ESTABLISHED RELATED) ACCEPT;
    interface lo ACCEPT;
    proto (icmp ipv6-icmp) ACCEPT;
    proto tcp dport (22 80 443 2222) ACCEPT;
}}
domain ip table filter chain INPUT saddr 198.51.100.0/24 proto tcp dport 5666 ACCEPT;
END
"""
FIREWALLD = """
firewall-offline-cmd -q --add-port=80/tcp --add-port=443/tcp --add-port=2222/tcp
for friend in 'ipv4 source address=198.51.100.0/24' 'ipv6 source address=2001:db8:100:1::/64'; do
    firewall-offline-cmd -q --add-rich-rule="rule family=$friend port port=5666 protocol=tcp accept"
done
"""
OLD, NEW = "from_198.51.100.0/24_to_any_port_5666_proto_tcp", "from_2001:db8:100:1::/64_to_any_port_5666_proto_tcp"
# Program, how its rules are made, whether both families are the same then, and whether that takes a table of ours.
CASES = {
    "ufw": ("ufw", UFW.format(ipv6="yes", friends=f"{OLD} {NEW}"), True, False),
    # With IPV6=no, ufw keeps out all of IPv6.
    "ufw-ipv4": ("ufw", UFW.format(ipv6="no", friends=OLD), False, False),
    "firewalld": ("firewalld", FIREWALLD, True, False),
    "ferm": ("ferm", FERM.format(domains="ip"), True, True),
}
FILES = "find /etc -printf '%p %y %m %u %g %l\\n' | sort; find /etc -type f -exec sha256sum {} + | sort"
FILTERS = "nft -s list ruleset; iptables-legacy-save | grep -v '^#'; ip6tables-legacy-save | grep -v '^#'; true"
# The unit of firewalld 1 is started before its rules are there; the daemon answers after that.
LOADED = {"firewalld": "firewall-cmd -q --state"}
RELEASES = {"bookworm": ["ufw", "firewalld"], "trixie": ["ufw-ipv4", "ferm", "firewalld"]}


@pytest.fixture(scope="module")
def booted(bare):
    """A function that returns a host of a release, booted once, with the programs, none of them in use."""
    with contextlib.ExitStack() as hosts:

        @functools.cache
        def boot(suite):
            host = hosts.enter_context(bare(suite))
            host.host.install("ufw", "firewalld", "ferm", "iptables")
            host.sh("systemctl disable --now ufw firewalld ferm")
            host.sh(WIRE)
            return host

        yield boot


def restart(host):
    """Cut the power of HOST and start it again."""
    podman("restart", "-t", "0", host.host.container)
    wait_for_boot(host.host.container)
    host.sh(WIRE)


def scan(host):
    """Return {who: [open ports over IPv4, over IPv6]}."""
    order = json.dumps([PEOPLE, PORTS])
    return json.loads(host.sh(f"ip netns exec visitor python3 -c '{SCAN}'", stdin=order))


def filters(host):
    """Return the rules of HOST's own, and those of ours."""
    text = re.sub(r"(?m)^(:\S+ \S+) .*", r"\1", host.sh(FILTERS)) + "\n"
    ours = re.findall(r"(?ms)^table inet dualstack \{.*?^\}\n", text)
    return [text.replace(*ours, "") if ours else text, ours]


@pytest.mark.parametrize(("suite", "case"), [(suite, case) for suite, cases in RELEASES.items() for case in cases])
def test_both_families_let_in_the_same_whatever_is_started_again(booted, suite, case):
    host = booted(suite)
    program, rules, same, ours = CASES[case]
    expected = {who: [sorted(ports), sorted(ports) if same else []] for who, ports in OPEN.items()}
    loaded = LOADED.get(program, "true")
    host.sh(f"set -e; {rules} systemctl enable --now {program}; systemctl restart {program}; {loaded}")
    files, own = host.sh(FILES), filters(host)[0]
    done = host.apply("firewall", firewall_ipv6_twins={"198.51.100.0/24": "2001:db8:100:1::/64"})
    assert done.changed == ours
    assert ("keep out TCP 22" in " ".join(done.message.split())) != same
    assert filters(host)[0] == own
    assert bool(filters(host)[1]) == ours
    assert scan(host) == expected
    host.sh(f"systemctl restart {program}; {loaded}")
    assert scan(host) == expected
    # The distribution's unit flushes what the program has made; over IPv6 nothing may be more open then.
    for action in ("restart", "stop"):
        host.sh(f"systemctl {action} nftables")
        for who, (over_ipv4, over_ipv6) in scan(host).items():
            assert set(over_ipv6) <= set(over_ipv4), (action, who)
    restart(host)
    host.sh(loaded)
    assert scan(host) == expected
    own = filters(host)[0]
    assert host.apply("firewall", firewall_ipv6_state="reverted").changed == ours
    assert filters(host) == [own, []]
    assert host.sh(FILES) == files
    host.sh(f"systemctl disable --now {program}")
