"""The part of the network's faults that runs each time: a host of each release, one network manager each."""

import pytest
from network_host import each, network_hosts_of, timer
from test_network_boot import FAULTS as AT_BOOT
from test_network_boot import MEND, OURS
from test_network_kill import power_fails_around_the_confirmation

# What a run suffers, how many steps before or after the start of the timer, and how many steps on again.
FAULTS = {
    "the run is killed": ("kill", -6, 9),
    "the run hangs": ("stop", 4, 40),
    "the route goes and the run is killed": ("kill: ip -4 route del default", 4, 40),
}


@pytest.fixture(scope="module")
def hosts():
    with network_hosts_of([("bookworm", "ifupdown"), ("trixie", "networkd")], "short") as made:
        yield made


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.replace(" ", "-"))
def test_short_a_fault_is_undone_in_time(hosts, fault, survived):
    do, distance, every = FAULTS[fault]

    def disturb(host):
        return host.agent("sweep", "applied", do, first=timer(host) + distance, every=every)

    for host, trials in each(hosts, disturb):
        assert trials, "nothing happened"
        assert not trials[-1][2], (host.name, trials[-1])
        survived(host, fault, len(trials))


def test_short_the_power_fails_before_and_after_the_confirmation(hosts, survived):
    for host, wrong in each(hosts, power_fails_around_the_confirmation):
        assert not wrong, (host.name, wrong)
        survived(host, "the power fails before, after the confirmation", 2)


def test_short_a_boot_with_a_duplicate_has_ipv4(hosts, survived):
    host = hosts[0]
    assert host.run("applied", "confirmed") == []
    host.sh(f"mkdir -p /etc/fault; cp -a {OURS} /root/ours; {AT_BOOT['a duplicate on the link']}")
    host.boot()
    assert host.agent("answers", 5.0)
    assert host.agent("lost_of_ipv4") == []
    host.sh(MEND)
    survived(host, "boot: a duplicate on the link")
