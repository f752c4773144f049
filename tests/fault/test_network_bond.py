"""A VLAN on a bond of two ports: a machine with a kernel of its own, as the containers' kernel may have neither.

The kernel is User-mode Linux: a program that boots a Debian host from a directory. Each start of it is a real boot.
"""

import contextlib
import io
import json
import os
import pathlib
import subprocess
import tarfile
import tempfile

import pytest
from lab import BUILD, LABEL, ROOT, build_images, image_name, packages, podman, privileged

UML = ("user-mode-linux", "bookworm")
# networkd waits for udev to know an interface, except in a container.
PACKAGES = ("kmod", "udev", "ifenslave", "vlan")
WIRES = """[Unit]
Description=Two network ports, each with a cable to a switch
DefaultDependencies=no
Wants=network-pre.target
Before=network-pre.target networking.service systemd-networkd.service

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/sh -ec 'modprobe -a veth bridge 8021q; modprobe bonding max_bonds=0; \
ip link add sw address 02:00:00:00:02:00 type bridge; ip link set sw up; \
for n in 0 1; do ip link add eth$n address 02:00:00:00:00:0$n type veth peer name sw$n address 02:00:00:00:01:0$n; \
ip link set sw$n up master sw; done'
"""
STEPS = """[Unit]
After=networking.service systemd-networkd-wait-online.service

[Service]
Type=oneshot
StandardOutput=file:/test/said
StandardError=file:/test/said
ExecStart=/usr/bin/python3 /test/steps.py
ExecStopPost=/bin/systemctl --no-block poweroff
"""
# Runs in the machine, at each of its boots.
STEPS_PROGRAM = """
import json, pathlib, subprocess, sys, time
sys.path.insert(0, "/test")
from module_utils._network_change import Request, run

def sh(script):
    return subprocess.run(["sh", "-ec", script], check=True, capture_output=True, text=True).stdout

def state():
    kernel = []
    for what in ("-4 address", "-6 address", "-4 route", "-6 route show table all"):
        kernel += [json.dumps(entry, sort_keys=True) for entry in json.loads(sh(f"ip -j {what}") or "[]")]
    files = sh("cd /etc; find network systemd/network sysctl.d systemd/system -printf '%p %y %m %u %g %l\\\\n' | sort;"
               " find network systemd/network sysctl.d systemd/system -type f -exec sha256sum {} + | sort")
    return {"kernel": sorted(kernel), "files": files, "ipv4": sh("ip -4 address show bond0.100; ip -4 route")}

def settle():
    end = time.monotonic() + 20
    # networkd makes a VLAN when the interface below is up, which a service's order does not know.
    while "bond0.100" not in sh("ip -4 address") and time.monotonic() < end:
        time.sleep(0.1)
    while "tentative" in sh("ip -6 address") and time.monotonic() < end:
        time.sleep(0.1)

wanted = json.loads(pathlib.Path("/test/wanted.json").read_text())
told = pathlib.Path("/test/told.json")
settle()
if not told.exists():
    story = {"before": state(), "check": run(Request(**wanted), check=True), "unchanged": state()}
    story["applied"] = run(Request(**wanted))
    story["confirmed"] = run(Request(state="confirmed"))
    story["after"] = state()
else:
    story = json.loads(told.read_text())
    story["booted"] = state()
    story["again"] = run(Request(**wanted))
    story["reverted"] = run(Request(state="reverted"))
    settle()
    story["end"] = state()
told.write_text(json.dumps(story))
"""
WANTED = {
    "addresses": [
        {"address": "2001:db8:100:1::c:40/128"},
        {"address": "2001:db8:200:40::1/128", "device": "lo"},
    ],
    "routes": [
        {"dest": "2001:db8:100:1::/64"},
        {"dest": "default", "via": "fe80::1"},
        {"dest": "2001:db8:200:40::/64", "type": "unreachable", "metric": 4096},
    ],
}
IFUPDOWN = {
    "/etc/network/interfaces": "auto lo\niface lo inet loopback\n\n"
    "auto bond0\niface bond0 inet manual\n\tbond-slaves eth0 eth1\n\tbond-mode active-backup\n\tbond-miimon 100\n\n"
    "auto bond0.100\niface bond0.100 inet static\n\taddress 198.51.100.40/24\n\tgateway 198.51.100.1\n"
    "\tvlan-raw-device bond0\n"
}
NETWORKD = {
    "/etc/systemd/network/10-bond0.netdev": "[NetDev]\nName=bond0\nKind=bond\nMACAddress=02:00:00:00:00:00\n\n"
    "[Bond]\nMode=active-backup\nMIIMonitorSec=100ms\n",
    "/etc/systemd/network/10-vlan.netdev": "[NetDev]\nName=bond0.100\nKind=vlan\n\n[VLAN]\nId=100\n",
    "/etc/systemd/network/20-ports.network": "[Match]\nName=eth0 eth1\n\n[Network]\nBond=bond0\n",
    "/etc/systemd/network/20-bond0.network": "[Match]\nName=bond0\n\n[Network]\nVLAN=bond0.100\n"
    "LinkLocalAddressing=no\n",
    "/etc/systemd/network/20-vlan.network": "[Match]\nName=bond0.100\n\n[Network]\nAddress=198.51.100.40/24\n"
    "Gateway=198.51.100.1\n",
}
MACHINES = {
    "ifupdown": ("bookworm", "networking", IFUPDOWN, "/etc/network/dualstack.d/bond0.100"),
    "networkd": ("trixie", "systemd-networkd", NETWORKD, "/etc/systemd/network/20-vlan.network.d/50-dualstack.conf"),
}


@pytest.fixture(scope="module")
def kernel():
    """The directory with User-mode Linux and its modules; unpacked once."""
    place = BUILD / "user-mode-linux"
    if not place.exists():
        with tempfile.TemporaryDirectory(dir=BUILD) as directory:
            archive = io.BytesIO(packages(UML[1], UML[0]))
            with tarfile.open(fileobj=archive) as files:
                files.extractall(directory, filter="data")
            for file in pathlib.Path(directory).glob("user-mode-linux_*.deb"):
                subprocess.run(["dpkg", "-x", file, f"{directory}/tree"], check=True)
            os.rename(f"{directory}/tree", place)
    return place


class Uml:
    """A host in a directory that User-mode Linux boots."""

    def __init__(self, kernel, root):
        self.kernel, self.root = kernel, root

    def boot(self):
        """Start the machine, and return when it has done its steps and switched itself off."""
        command = [
            self.kernel / "usr/bin/linux.uml", "mem=512M", "root=/dev/root", "rootfstype=hostfs",
            f"rootflags={self.root}", "rw", "con=null", "con0=null,fd:1",
        ]  # fmt: skip
        done = subprocess.run(
            privileged(*map(str, command)),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        said = (self.root / "test/said").read_text() if (self.root / "test/said").exists() else ""
        assert not said, f"{said}\n{done.stdout[-2000:]}"
        return json.loads((self.root / "test/told.json").read_text())


@contextlib.contextmanager
def installed(kernel, suite, name):
    """A host of SUITE that has never booted, with the packages of bonds and VLANs."""
    build_images()
    container = f"{LABEL.split('.')[0]}-scratch-bond-{name}"
    podman("rm", "-f", "-v", "-t", "0", "--ignore", container)
    podman("create", "--name", container, "--label", f"{LABEL}.scratch={ROOT}", image_name(suite))
    try:
        root = pathlib.Path(podman("mount", container).stdout.decode().strip())
        with tarfile.open(fileobj=io.BytesIO(packages(suite, *PACKAGES))) as files:
            files.extractall(root / "root", filter="data")
        subprocess.run(
            privileged("chroot", str(root), "sh", "-ec", "dpkg -i /root/*.deb"), check=True, capture_output=True
        )
        modules = next((kernel / "usr/lib/uml/modules").iterdir())
        (root / "usr/lib/modules").mkdir(exist_ok=True)
        subprocess.run(["cp", "-r", modules, root / "usr/lib/modules/"], check=True)
        subprocess.run(privileged("chroot", str(root), "depmod", modules.name), check=True)
        yield Uml(kernel, root)
    finally:
        podman("rm", "-f", "-v", "-t", "0", container)


def differs(one, other):
    """Return the lines of two states that only one of them has."""
    lines = ({*state["kernel"], *state["files"].splitlines()} for state in (one, other))
    return sorted(next(lines) ^ next(lines))


@pytest.mark.parametrize("manager", MACHINES)
def test_a_vlan_on_a_bond_there_over_a_boot_and_back(kernel, manager):
    suite, unit, files, ours = MACHINES[manager]
    with installed(kernel, suite, manager) as machine:
        files = {
            **files,
            "/etc/systemd/system/wires.service": WIRES,
            "/etc/systemd/system/steps.service": STEPS,
            "/test/steps.py": STEPS_PROGRAM,
            "/test/wanted.json": json.dumps(WANTED),
        }
        for path, text in files.items():
            file = machine.root / path.lstrip("/")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        subprocess.run(["cp", "-r", ROOT / "plugins/module_utils", machine.root / "test/"], check=True)
        system = machine.root / "etc/systemd/system"
        for target, name in (("sysinit", "wires"), ("multi-user", "steps")):
            (system / f"{target}.target.wants").mkdir(exist_ok=True)
            (system / f"{target}.target.wants" / f"{name}.service").symlink_to(f"../{name}.service")
        subprocess.run(privileged("chroot", str(machine.root), "systemctl", "-q", "enable", unit), check=True)

        story = machine.boot()
        before = story["before"]
        assert "198.51.100.40/24" in before["ipv4"]
        assert differs(story["unchanged"], before) == []
        assert story["applied"]["device"] == "bond0.100"
        assert ours in story["applied"]["files"]
        assert "2001:db8:100:1::c:40" in "".join(story["after"]["kernel"])

        story = machine.boot()
        assert differs(story["booted"], story["after"]) == []
        assert story["booted"]["ipv4"] == before["ipv4"]
        assert not story["again"]["changed"]
        assert differs(story["end"], before) == []
