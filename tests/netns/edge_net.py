"""A router between machines and the outside: this process, in a namespace of its own between two others."""

import contextlib
import ctypes
import json
import os
import subprocess

MACHINES, OUTSIDE = (f"dualstack-{side}-{os.getpid()}" for side in ("machines", "outside"))
KERNEL = "02:00:00:00:00:14"  # the other ends' own
HERE, THERE = ("2001:db8:100:1::1", "2001:db8:100:1::14"), ("2001:db8:ffff::1", "2001:db8:ffff::10")
AT_ONCE = "sysctl -q -w net.ipv6.conf.default.accept_dad=0"
CLONE_NEWNET = 0x40000000


def run(command, text=None):
    return subprocess.run(command.split(), input=text, check=True, capture_output=True, text=True).stdout


def mac_of(device):
    return json.loads(run(f"ip -j link show {device}"))[0]["address"]


@contextlib.contextmanager
def router():
    """Make this process the router: eth0 towards the machines, eth1 towards the outside."""
    libc = ctypes.CDLL(None, use_errno=True)
    home = os.open("/proc/self/ns/net", os.O_RDONLY)
    sides = [(MACHINES, "eth0", *HERE), (OUTSIDE, "eth1", *THERE)]
    for name, *_rest in sides:
        run(f"ip netns add {name}")
    try:
        assert libc.unshare(CLONE_NEWNET) == 0
        run("ip link set lo up")
        # A link that looks for duplicates of its own address first finds no neighbor for a second.
        run(AT_ONCE)
        for name, device, here, there in sides:
            run(f"ip netns exec {name} {AT_ONCE}")
            run(f"ip link add {device} type veth peer name far netns {name}")
            run(f"ip -n {name} link set far address {KERNEL}")
            for words in (f"ip link set {device}", f"ip -n {name} link set far"):
                run(f"{words} up")
            run(f"ip address add {here}/64 dev {device} nodad")
            run(f"ip -n {name} address add {there}/64 dev far nodad")
            run(f"ip -n {name} route add default via {here}")
        run("sysctl -q -w net.ipv6.conf.all.forwarding=1")
        yield
    finally:
        assert libc.setns(home, 0) == 0
        os.close(home)
        for name, *_rest in sides:
            run(f"ip netns delete {name}")
