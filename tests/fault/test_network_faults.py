"""Whatever happens to a host during a change of its network: IPv4 answers in time, and all is old or all is new."""

from dataclasses import dataclass, field

import pytest
from network_host import each

FULL = "cp -a /etc /run/copy; mount -t tmpfs -o size=16m none /etc; cp -a /run/copy/. /etc; rm -r /run/copy"
FILL = "dd if=/dev/zero of=/etc/filler bs=1k 2>/dev/null; dd if=/dev/zero of=/etc/filler.2 bs=1 2>/dev/null"
EMPTY = "rm -f /etc/filler /etc/filler.2"
READ_ONLY = "mount -o remount,bind,ro /etc"
WRITABLE = "mount -o remount,bind,rw /etc"
DROP = (
    "nft 'add table ip fault; add chain ip fault input { type filter hook input priority 0; };"
    " add rule ip fault input tcp dport 22 drop'"
)


@dataclass(frozen=True)
class Fault:
    """What happens before a step of a run, at each step in turn from the start of the timer on."""

    name: str
    do: str
    before: str = "true"  # shell commands that make the fault possible
    after: str = "true"  # and that end it, once the rollback had its time
    ends: tuple = ("old",)  # the state that the host may be in then, when nobody has confirmed
    again: str = "true"  # what is undone when the host has been looked at
    options: dict = field(default_factory=dict)


FAULTS = [
    Fault("the run hangs", "stop"),
    Fault("the IPv4 default route goes", "ip -4 route del default"),
    Fault("the route goes, the run is killed", "kill: ip -4 route del default"),
    Fault("the IPv4 address goes, the run is killed", "kill: ip -4 address flush dev eth0"),
    Fault("SSH is dropped", DROP, after="nft delete table ip fault", options={"ssh": False}),
    Fault(
        "the interface is renamed",
        "ip link set eth0 name lan0",
        after="ip link set lan0 name eth0",
    ),
    Fault("/etc is full", FILL, before=FULL, after=EMPTY, again="umount /etc"),
    Fault(
        "/etc is read-only",
        READ_ONLY,
        before="mount --bind /etc /etc",
        after=WRITABLE,
        again="umount /etc",
        options={"retry": True},
    ),
    Fault("a second run starts", "run"),
    Fault("a router advertises itself", "advertise", options={"advertised": True}),
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name.replace(" ", "-"))
def test_a_fault_at_any_step(network_hosts, fault, survived):
    def trial(host):
        first = host.steps["applied"].index(next(name for name in host.steps["applied"] if "systemd-run" in name)) + 2
        return host.agent(
            "sweep", "applied", fault.do, first=first, may_be=fault.ends, before=fault.before, after=fault.after,
            again=fault.again, **fault.options,
        )  # fmt: skip

    for host, trials in each(network_hosts, trial):
        survived(host, fault.name, sum(not wrong for _at, _where, wrong in trials), len(trials))
        assert not trials[-1][2], (host.name, trials[-1])
        assert len(trials) > 3, "nearly nothing happened"
