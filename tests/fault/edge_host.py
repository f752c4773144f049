"""Edge routers on a cable of their own, whose routes one of the providers keeps."""

import contextlib
import json
import os
import select
import subprocess
import tempfile
from dataclasses import dataclass

import lab
from network_host import HERE, ROOT, network_host

ADDRESS = "2001:db8:100:1::2/64"
# Of the site, not ours; each is back by whoever made it.
FOREIGN = "2001:db8:300::/48 via 2001:db8:100:1::1"
NETWORKS = {
    "ifupdown": {
        "/etc/network/interfaces": "auto lo\niface lo inet loopback\n\nauto eth0\niface eth0 inet static\n"
        "\taddress 198.51.100.10/24\n\tgateway 198.51.100.1\n"
        f"iface eth0 inet6 static\n\taddress {ADDRESS}\n\taccept_ra 0\n@UP@"
    },
    "networkd": {
        "/etc/systemd/network/10-eth0.network": "[Match]\nName=eth0\n\n[Network]\nAddress=198.51.100.10/24\n"
        f"Gateway=198.51.100.1\nAddress={ADDRESS}\nIPv6AcceptRA=no\n@UP@",
        "/etc/network/interfaces": "auto lo\niface lo inet loopback\n",
    },
}
UP = {
    "ifupdown": f"\tup ip -6 route add {FOREIGN} proto 4\n",
    "networkd": "\n[Route]\nDestination=2001:db8:300::/48\nGateway=2001:db8:100:1::1\n",
}
ROLE = {
    "edge_router_ipv6_device": "eth0",
    "edge_router_ipv6_gateway": ["fe80::2", "2001:db8:100:1::fe"],
    "edge_router_ipv6_aggregates": ["2001:db8:200::/48"],
}
PROTOCOLS = {"kernel": 250, "bird": 12, "frr": 196}
PACKAGES = {"kernel": [], "bird": ["bird2"], "frr": ["frr"]}
# The role wants the Keepalived of the IPv4 gateway.
KEEPALIVED = (
    "printf 'vrrp_instance site {\\n interface eth0\\n virtual_router_id 5\\n"
    " virtual_ipaddress {\\n  198.51.100.20\\n }\\n"
    "}\\n' > /etc/keepalived/keepalived.conf; systemctl -q enable --now keepalived"
)
SETUP = {
    "kernel": KEEPALIVED,
    "bird": f"{KEEPALIVED}; printf 'protocol static site {{\\n\\tipv6;\\n\\troute {FOREIGN};\\n}}\\n'"
    " >> /etc/bird/bird.conf; birdc configure",
    # This router has no other routing program.
    "frr": "dpkg --purge keepalived; vtysh -c conf -c 'ipv6 route 2001:db8:300::/48 2001:db8:100:1::1' -c end -c write",
}
TREE = (
    "cd /etc && find . -path ./dualstack -prune -o -printf '%p %y %m %u %g %l\\n' | sort;"
    " find . -type f | sort | xargs sha256sum"
)


FLAG = "ip -6 route add unreachable {0}; ip -6 route del {0}"


@dataclass(frozen=True)
class Kind:
    """A router: its release, who configures its network, and who keeps its routes."""

    suite: str
    network: str
    provider: str

    @property
    def name(self):
        return f"{self.provider}-{self.suite}-{self.network}"


class EdgeHost:
    """A router, and what its provider is asked for."""

    def __init__(self, host, kind):
        self.host, self.kind, self.sh = host, kind, host.sh

    @property
    def is_gateway(self):
        """Whether the role edge_router makes it one; a router with FRR alone has its routes only."""
        return self.kind.provider != "frr"

    def routes(self, *config, check=False, **options):
        """Run edge_routes on the router and return its result."""
        options = {"provider": self.kind.provider, "config": list(config) or None, **options}
        command = ["env", "PYTHONPATH=/root/core", "python3", "/root/core/edge_agent.py"]
        done = self.host.scratch.run(*command, stdin=json.dumps([options, check]).encode(), check=False)
        assert done.returncode == (137 if options.get("die") else 0), done.stderr.decode()
        return json.loads(done.stdout or "null")

    def role(self, *options, **variables):
        """Apply the role edge_router by ansible-playbook and return what was said."""
        self.sh("systemctl start ssh")
        role = {"ansible.builtin.include_role": {"name": "dualstack.fleet.edge_router"}}
        given = {**ROLE, "edge_router_ipv6_provider": self.kind.provider, **variables}
        play = [{"hosts": "all", "gather_facts": False, "vars": given, "tasks": [role]}]
        inventory = {"all": {"hosts": {"router": self.host.scratch.variables()}}}
        with tempfile.TemporaryDirectory() as place:
            for name, content in (("play.yml", play), ("hosts.yml", inventory)):
                with open(f"{place}/{name}", "w", encoding="utf-8") as stream:
                    json.dump(content, stream)
            done = subprocess.run(
                ["ansible-playbook", "-i", f"{place}/hosts.yml", *options, f"{place}/play.yml"],
                cwd=ROOT, env={**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg")},
                capture_output=True, text=True, check=False,
            )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    @contextlib.contextmanager
    def events(self, dest):
        """Collect what ip(8) says of the routes to DEST inside the block."""
        found = []
        words = ["podman", "exec", self.host.scratch.container, "ip", "-N", "-6", "-o", "monitor", "route"]
        with subprocess.Popen(lab.privileged(*words), stdout=subprocess.PIPE, text=True) as monitor:
            try:
                # It hears nothing until it says so.
                while not select.select([monitor.stdout], [], [], 0.1)[0]:
                    self.sh(FLAG.format("2001:db8:3ff::/64"))
                yield found
                self.sh(FLAG.format("2001:db8:3fe::/64"))
                for line in monitor.stdout:
                    if line.startswith("Deleted") and "2001:db8:3fe::/64" in line:
                        break
                    found += [line] if dest in line else []
            finally:
                self.sh("pkill -x ip")

    def present(self, protocol=None):
        """Return the routes of the provider in the kernel, and the site's, as ip(8) tells them."""
        number = protocol or PROTOCOLS[self.kind.provider]
        return self.sh(f"ip -N -6 route show proto {number} | sed 's/ nhid [0-9]*//' | sort")

    def tree(self):
        """Return every file of /etc: names, modes, owners, contents."""
        return self.sh(TREE)

    def wait(self, wanted, seconds=30):
        """Wait until the kernel has exactly the routes WANTED, and return what it has then or at the end."""
        number = PROTOCOLS[self.kind.provider]
        ask = f"ip -N -6 route show proto {number} | sed 's/ nhid [0-9]*//' | sort"
        self.host.put({"/root/wanted": f"{wanted}\n" if wanted else ""})
        self.host.scratch.run(
            "timeout", str(seconds), "sh", "-c", f"until {ask} | cmp -s - /root/wanted; do :; done", check=False
        )
        return self.present()


@contextlib.contextmanager
def edge_host(kind):
    """Boot a router of KIND with its provider's program, and one route that is the site's own."""
    foreign = UP[kind.network] if kind.provider == "kernel" else ""
    files = {path: text.replace("@UP@", foreign) for path, text in NETWORKS[kind.network].items()}
    with network_host(kind.suite, kind.network, files, name=f"edge-{kind.provider}") as host:
        host.scratch.put_core(HERE / "edge_agent.py")
        if PACKAGES[kind.provider]:
            host.scratch.install(*PACKAGES[kind.provider])
        host.sh(SETUP[kind.provider])
        yield EdgeHost(host, kind)
