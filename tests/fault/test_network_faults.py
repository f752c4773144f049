"""Whatever happens to a host during a change of its network: IPv4 answers in time, and all is old or all is new."""

import pytest
from network_host import FORGET, each, timer

FULL = "cp -a /etc /run/copy; mount -t tmpfs -o size=16m none /etc; cp -a /run/copy/. /etc; rm -r /run/copy"
FILL = "dd if=/dev/zero of=/etc/filler bs=1k 2>/dev/null"
EMPTY = "rm /etc/filler"
READ_ONLY = "mount -o remount,bind,ro /etc"
WRITABLE = "mount -o remount,bind,rw /etc"
DROP = (
    "nft 'add table ip fault; add chain ip fault input { type filter hook input priority 0; };"
    " add rule ip fault input tcp dport 22 drop'"
)


SECOND = 'echo \'["run", "applied", {}]\' | python3 /root/core/network_agent.py > /run/fault-second 2>&1 &'
# What a run suffers at one of its steps, and the options of network_agent.disturb.
FAULTS = {
    "the run hangs": ("stop", {}),
    "the IPv4 default route goes": ("ip -4 route del default", {}),
    "the route goes and the run is killed": ("kill: ip -4 route del default", {}),
    "the address goes and the run is killed": ("kill: ip -4 address flush dev eth0", {}),
    "SSH is dropped": (DROP, {"after": "nft delete table ip fault", "ssh": False}),
    "the interface is renamed": ("ip link set eth0 name lan0", {"after": "ip link set lan0 name eth0"}),
    "/etc is full": (FILL, {"before": FULL, "after": EMPTY, "again": "umount /etc"}),
    "/etc is read-only": (
        READ_ONLY,
        {"before": "mount --bind /etc /etc", "after": WRITABLE, "again": "umount /etc", "retry": True},
    ),
    "a second run starts": (SECOND, {"second": True}),
    "a router advertises itself": ("advertise", {"after": FORGET}),
}
EVERY = 3


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.replace(" ", "-"))
def test_a_fault_at_any_step_is_undone_in_time(network_hosts, fault, survived):
    do, options = FAULTS[fault]

    def disturb(host):
        # The hosts take turns with the steps that follow the start of the timer.
        first = timer(host) + 1 + network_hosts.index(host) % EVERY
        return host.agent("sweep", "applied", do, first=first, every=EVERY, may_be=["old"], **options)

    for host, trials in each(network_hosts, disturb):
        survived(host, fault, sum(not wrong for _at, _where, wrong in trials), len(trials))
        assert len(trials) > 1, (host.name, "nearly nothing happened", trials)
        assert not trials[-1][2], (host.name, trials[-1])
