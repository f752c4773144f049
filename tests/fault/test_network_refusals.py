"""What cannot end well is refused or undone at once, with words; and what nothing can be done about is told."""

import re

import pytest
from network_host import FORGET, each

DUPLICATE = "ip -n outside address replace 2001:db8:100:1::c:11/64 dev eth0 nodad"
UNIQUE = "ip -n outside address del 2001:db8:100:1::c:11/64 dev eth0"
STORE = "/var/lib/dualstack"
WATCH = "ip -4 monitor address route > /run/touched 2>&1 & echo $! > /run/pid"
GATEWAY = {"dest": "default", "via": "2001:db8:ffff::1"}
REFUSED = {
    "a duplicate address": (DUPLICATE, UNIQUE, {}, "2001:db8:100:1::c:11 on eth0 is a duplicate"),
    "a gateway off the link": ("true", "true", {"routes": [GATEWAY]}, "2001:db8:ffff::1.*No route to host"),
    "the timer is masked": (
        "systemctl -q mask dualstack-rollback.timer",
        "systemctl -q unmask dualstack-rollback.timer",
        {},
        "nothing was changed: .*dualstack-rollback.timer was already loaded or has a fragment file",
    ),
    "the service is masked": (
        "systemctl -q mask dualstack-rollback.service",
        "systemctl -q unmask dualstack-rollback.service",
        {},
        "nothing was changed: .*dualstack-rollback.service was already loaded or has a fragment file",
    ),
    "the store is full": (
        f"mkdir -p {STORE}; mount -t tmpfs -o size=8k none {STORE}; dd if=/dev/zero of={STORE}/filler 2>&1; true",
        f"umount {STORE}",
        {},
        f"{STORE}.*No space left on device",
    ),
    "the store is read-only": (
        f"mkdir -p {STORE}; mount --bind {STORE} {STORE}; mount -o remount,bind,ro {STORE}",
        f"umount {STORE}",
        {},
        f"{STORE}.*Read-only file system",
    ),
}


@pytest.mark.parametrize("fault", REFUSED, ids=lambda fault: fault.replace(" ", "-"))
def test_it_is_refused_and_all_is_as_it_was(network_hosts, fault, survived):
    before, after, changed, words = REFUSED[fault]

    def refuse(host):
        host.sh(before)
        done = host.agent("run", **changed)
        host.sh(after)
        wrong = [] if re.search(words, done["error"], re.DOTALL) else [done]
        if "nothing was changed" in words:
            wrong += [step for step in done["steps"] if " ip -6 " in f"{step} "]
        return wrong + host.agent("differs", "old") + host.agent("leftovers") or host.agent("epilogue")

    for host, wrong in each(network_hosts, refuse):
        assert not wrong, (host.name, wrong)
        survived(host, fault)


def test_the_window_is_no_matter_of_the_clock(network_hosts, survived):
    def jump(host):
        wrong = []
        # A day back, a day on, and years: what the change writes is told by another clock than what ends it.
        for shift in (-86400, 86400, 10**9):
            done = host.agent("run", "applied", shift=shift)
            timer = host.sh("systemctl show dualstack-rollback.timer -P TimersMonotonic -P TimersCalendar")
            wrong += [] if "OnActiveUSec=5s" in timer and "OnCalendar" not in timer else [timer]
            wrong += [done["error"]] * bool(done["error"]) + host.agent("judge", ["old"])
        for shift in (-86400, 86400):
            wrong += host.run("applied") + host.run("confirmed", shift=shift)
            wrong += host.agent("differs", "new") + host.run("reverted")
        return wrong

    for host, wrong in each(network_hosts, jump):
        assert not wrong, (host.name, wrong)
        survived(host, "the clock jumps", 5)


def test_a_router_that_does_not_answer_is_told(network_hosts, survived):
    silent = {"routes": [{"dest": "2001:db8:100:1::/64"}, {"dest": "default", "via": "fe80::dead"}]}

    def look(host):
        done, right = host.agent("run", **silent), host.agent("judge", ["old"])
        if "fe80::dead does not answer on eth0" not in str(done.get("warnings")):
            right.append(done)
        answered = host.agent("run")
        return right + [line for line in answered["warnings"] if "does not answer" in line] + host.agent("judge")

    for host, wrong in each(network_hosts, look):
        assert not wrong, (host.name, wrong)
        survived(host, "the router does not answer")


def test_a_rogue_router_is_named_before_and_ignored_after(network_hosts, survived):
    def advertise(host):
        host.agent("advertise")
        seconds = host.agent("wait_for_autoconf", 10.0)
        refused = host.agent("run")
        host.sh(FORGET)
        wrong = [] if seconds is not None else ["the advertisement had no effect: this test proves nothing"]
        wrong += [] if "router advertisements of fe80::bad" in refused["error"] else [refused]
        wrong += host.agent("differs", "old")
        wrong += host.run("applied", "confirmed")
        if host.name == "bookworm-networkd":
            host.boot()  # as the warning says
            host.agent("answers", 5.0)
        host.agent("advertise")
        if seconds is not None and host.agent("wait_for_autoconf", 3 * seconds + 0.5) is not None:
            wrong.append("an advertisement was heeded after the change")
        return [*wrong, host.agent("verdict"), *host.run("reverted")]

    for host, wrong in each(network_hosts, advertise):
        assert wrong == ["new"], (host.name, wrong)
        survived(host, "a rogue router before and after", 2)


def test_what_a_failed_boot_leaves_of_ifupdown_is_mended(network_hosts, survived):
    def mend(host):
        wrong = host.run("applied", "confirmed")
        host.sh("mkdir -p /etc/fault; echo address add 2001:db8:100:1::c:11/64 dev eth0 nodad > /etc/fault/outside")
        host.boot()
        wrong += [] if host.sh("ifquery --state eth0; true") == "" else ["ifupdown is not wedged: this proves nothing"]
        refused = host.agent("run")
        wrong += [] if "is a duplicate" in refused["error"] else [refused]
        host.sh(
            f"{UNIQUE}; rm /etc/fault/outside; ip -4 monitor address route > /run/touched 2>&1 & echo $! > /run/pid"
        )
        done = host.agent("run")
        wrong += [done["error"]] * bool(done["error"]) + host.run("confirmed")
        wrong += [] if "counts eth0 as not configured" in str(done.get("warnings")) else [done]
        host.sh("kill $(cat /run/pid)")
        wrong += [host.sh("cat /run/touched; ifquery --state eth0; ifup eth0 2>&1"), *host.agent("differs", "new")]
        return wrong, host.run("reverted"), host.agent("differs", "old")

    hosts = [host for host in network_hosts if "ifupdown" in host.name]
    for host, (found, *back) in each(hosts, mend):
        assert found == ["eth0=eth0\nifup: interface eth0 already configured"], (host.name, found)
        assert back == [[], []], (host.name, back)
        survived(host, "ifupdown is wedged by a duplicate")
