"""A change of the network that is cut off before any of its steps ends all old or all new, and the next run says so."""

import pytest
from network_host import each

ADDRESS = "2001:db8:100:1::c:11"
STATES = ("applied", "confirmed", "reverted")
MOST_STEPS = 80
PLACES = ("network", "systemd/network", "sysctl.d")
NEEDS = {"applied": [], "confirmed": ["applied"], "reverted": ["applied", "confirmed"]}
AFTER_THE_TIMER = ("open /proc", "subprocess.Popen ip -6", *(f"os.rename /etc/{place}" for place in PLACES))


@pytest.mark.parametrize("state", STATES)
def test_the_run_is_killed(network_hosts, state, survived):
    def kill(host):
        return host.agent("sweep", state, "kill")

    for host, trials in each(network_hosts, kill):
        survived(host, f"{state}, the run is killed", sum(not wrong for _at, _where, wrong in trials), len(trials))
        assert not trials[-1][2], (host.name, trials[-1])
        assert len(trials) > 8, "nearly nothing was killed"


@pytest.mark.parametrize("state", STATES)
def test_the_power_fails(network_hosts, state, survived):
    for host, (trials, wrong) in each(network_hosts, lambda host: power_failures(host, state)):
        survived(host, f"{state}, the power fails", trials - bool(wrong), trials)
        assert not wrong, (host.name, trials, wrong)
        assert trials > 8, "nearly no power was cut"


def power_failures(host, state):
    """Cut the power before each step of a run of STATE in turn; return how often, and the first thing that is wrong."""
    for step in range(1, MOST_STEPS):
        wrong = host.run(*NEEDS[state])
        if wrong or not host.cut_power(state, step):
            return step - 1, wrong or host.run("reverted")
        where = host.sh("cat /root/fault-step")
        # The run that was cut off would have come to its own timer, which is gone: the boot has done its work.
        wrong = host.agent("judge", told=state == "applied" and where.startswith(AFTER_THE_TIMER))
        if wrong:
            return step, [where, *wrong]
    return MOST_STEPS, ["there is no end of steps"]


def test_the_power_fails_around_the_confirmation(network_hosts, survived):
    for host, wrong in each(network_hosts, power_fails_around_the_confirmation):
        assert not wrong, (host.name, wrong)
        survived(host, "the power fails before, after the confirmation", 2)


def cycles(host):
    """Return the ordering cycles of the next boot: systemd breaks one before there is a journal to tell of it."""
    said = host.sh("systemd-analyze verify default.target 2>&1; true")
    return [line for line in said.splitlines() if "cycle" in line]


def power_fails_around_the_confirmation(host):
    """Cut the power in the window, which brings back the old state, and after it, which brings the new one."""
    wrong = []
    for state, after in (("applied", "old"), ("confirmed", "new")):
        wrong += host.run("applied") + (host.run("confirmed") if after == "new" else [])
        wrong += cycles(host)
        host.boot()
        wrong += [] if host.agent("answers", 5.0) else ["IPv4 does not answer"]
        if after == "new" and not host.agent("answers", 5.0, ADDRESS, "2001:db8:100:1::1"):
            wrong.append("nobody listens on the new address")
        wrong += [f"after {state}: {line}" for line in host.agent("differs", after)]
        said = host.agent("run", check=True)
        wrong += [] if said["rollback"] == {"old": "fired", "new": "none"}[after] else [said]
    return wrong + host.run("reverted") + host.agent("epilogue")
