"""Edge routers that fail under traffic: how long the machines' delegated prefixes are not reached, and who is master.

The gap is the time from the sending of the last question that was answered to that of the next one that was, less the
pause between two. Limits are what a good setup has been measured to do and a fifth, and one question.
"""

import itertools
import json
import re
import time

import pytest
from vrrp_site import (
    ADVERT_SECONDS,
    AGENT,
    EVERY,
    GATEWAY,
    GUEST,
    MACHINE,
    MACHINE_V4,
    MANY,
    ROLE_TASKS,
    ROUTES,
    UNASSIGNED,
    site,
    until,
)

NONE = EVERY
# Neither a lost cable nor a dead router is told to the twin: it waits for three advertisements.
THREE_ADVERTS = 3 * ADVERT_SECONDS * 1.2 + EVERY
SHORT = 0.2 * 1.2 + EVERY
SHORTEST_ADVERT = 0.07
FOREIGN = "2001:db8:200:fff0::/64"
ADVERTISED = {"edge_router_ipv6_advertisements": True, "edge_router_ipv6_network": "2001:db8:100:1::/64"}
# From the first moment of a boot.
LOOKS = """[Unit]
DefaultDependencies=no
[Service]
ExecStart=python3 /root/core/vrrp_agent.py boot /root/looks
[Install]
WantedBy=sysinit.target
"""
PENALTY = "cat /run/dualstack-vrrp-penalty"
DEFAULT = "ip -6 route show default"


@pytest.fixture(scope="module", params=["trixie", "bookworm"])
def pair(request, tmp_path_factory, table):
    """Two routers of a release, the first of which is master."""
    with site(request.param, tmp_path_factory.mktemp("edge")) as made:
        made.told = table
        yield made


@pytest.fixture(scope="module")
def short(tmp_path_factory, table):
    """The same of one release only."""
    with site("trixie", tmp_path_factory.mktemp("edge")) as made:
        made.told = table
        yield made


def measured(pair, fault, limit, found, note=""):
    """Keep a row of the table, and see that the gap is within the LIMIT and IPv4 was not interrupted by us."""
    six, four = found[MACHINE], found[MACHINE_V4]
    counts = f"{six['sent']:>5} asked {six['lost']:>4} lost, gap {six['gap']:.2f} s of {limit:.2f} s"
    pair.told(f"{pair.suite:<9} {fault:<52} {counts}, IPv4 gap {four['gap']:.2f} s{note and ', '}{note}")
    assert six["gap"] <= limit, (fault, found)
    if limit == NONE:
        assert four["gap"] <= limit, (fault, found)


def fails_over(pair, fault, action, wait, limit=NONE):
    """Do ACTION under traffic, and WAIT for what it leads to."""
    with pair.traffic() as found:
        time.sleep(0.5)  # of traffic as it was before
        action()
        note = wait()
        pair.rests()
        time.sleep(1)  # and as it is afterwards
    measured(pair, fault, limit, found, note if isinstance(note, str) else "")


def kill(router):
    router.sh("systemctl kill --signal=KILL keepalived")


def dual_master_ends(pair):
    until(lambda: pair.masters() == ["r1", "r2"], 10, "both are master")
    return f"both are master for {pair.settled('r1'):.1f} s"


def stop_and_return(pair):
    stop, start = (lambda word=word: pair.r1.sh(f"systemctl {word} keepalived") for word in ("stop", "start"))
    fails_over(pair, "keepalived of the master is stopped", stop, lambda: pair.settled("r2"))
    fails_over(pair, "and returns", start, lambda: pair.settled("r1"))


def keepalived_is_killed(pair):
    fails_over(pair, "keepalived of the master is killed", lambda: kill(pair.r1), lambda: dual_master_ends(pair))


def cables_are_cut(pair, *cables, limit=THREE_ADVERTS, note=""):
    name = f"the master's {' and '.join(cables)} {'are' if len(cables) > 1 else 'is'} cut{note}"
    try:
        fails_over(pair, name, lambda: pair.r1.plug("down", *cables), lambda: pair.settled("r2"), limit)
    except AssertionError:
        pair.r1.plug("up", *cables)  # for the tests that follow
        raise
    fails_over(pair, "and plugged in again", lambda: pair.r1.plug("up", *cables), lambda: pair.settled("r1"))


def returns_without_routes(pair):
    """The link was down, and the address below the routes is not back."""
    pair.r1.sh("systemctl stop keepalived")
    pair.settled("r2")
    address = "2001:db8:100:1::ed:2/64"
    with pair.traffic() as found:
        pair.r1.sh("ip link set eth0 down; ip link set eth0 up")
        until(lambda: pair.r1.routes() <= 1, 5, "the routes are gone")
        pair.r1.sh("systemctl start keepalived")
        seen = set()
        end = time.monotonic() + 4 * ADVERT_SECONDS + 12  # longer than it waits before it serves as a last resort
        while time.monotonic() < end:
            seen.add(tuple(pair.masters()))
        assert seen == {("r2",)}
        assert "RTNETLINK answers: No route to host" in pair.r1.sh("journalctl -u dualstack-routes-watch --since -30s")
        pair.r1.sh(f"ip address add {address} dev eth0")
        pair.settled("r1")
        assert pair.r1.routes() == MANY + 2
        time.sleep(1)
    measured(pair, "the master returns without its routes", NONE, found)


def loses_its_routes(pair):
    def restored():
        until(lambda: pair.r1.routes() == MANY + 2, 5, "they are back")

    # More at once than the kernel can tell of, and one that it does tell of.
    flush, delete = "ip -6 route flush proto 250", f"ip -6 route del {ROUTES[0]['dest']}"
    fails_over(pair, "the master's routes are flushed", lambda: pair.r1.sh(flush), restored, 1.0)
    fails_over(pair, "the machine's route is deleted", lambda: pair.r1.sh(delete), restored, 1.0)
    assert pair.masters() == ["r1"]


def test_short_the_twin_takes_over(short):
    stop_and_return(short)
    keepalived_is_killed(short)
    cables_are_cut(short, "eth0", "eth1")
    loses_its_routes(short)


def refused_advertisements(pair):
    """Without radvd, and where the fleet's own radvd is at the machines' side already; that file stays."""
    told = pair.play(ROLE_TASKS[2:], "r1", fails=True, **ADVERTISED)
    assert "edge_router_ipv6_advertisements needs radvd; install the package radvd" in told
    for router in (pair.r1, pair.r2):
        router.scratch.install("radvd")
    pair.r1.sh("touch /root/before")
    own = "interface eth0 {\n    AdvSendAdvert off;\n};"
    pair.r1.put({"/etc/radvd.conf": own})
    assert "in /etc/radvd.conf: advertises on eth0 already" in pair.play(ROLE_TASKS[2:], "r1", fails=True, **ADVERTISED)
    assert pair.r1.sh("find /etc -type f -newer /root/before; cat /etc/radvd.conf") == own
    pair.r1.sh("rm /etc/radvd.conf")


def advertises(pair, guest):
    """The guest has the gateway, and keeps it while the routers take turns; who is not master is silent."""
    macs = [router.sh("cat /sys/class/net/eth0/address") for router in (pair.r1, pair.r2)]
    with pair.advertised(guest) as found:
        until(lambda: guest.sh(DEFAULT), 5, "the guest has a default route")
        addresses = json.loads(guest.sh("ip -6 -j address show dev eth0"))[0]["addr_info"]
        assert [one["local"] for one in addresses if one["scope"] == "global"] == [GUEST]
        answering = guest.agent("answer", GUEST)
        try:
            with pair.traffic(GUEST) as asked:
                # At once, as when the router is shut down.
                pair.r1.sh("systemctl stop dualstack-advertisements keepalived")
                until(lambda: found[-1]["mac"] == macs[1], 10, "the twin advertises", found)
                pair.r1.sh("systemctl start keepalived")
                until(lambda: found[-1]["mac"] == macs[0], 10, "the router advertises again", found)
        finally:
            answering.kill()
        pair.settled("r1")
        assert guest.sh(DEFAULT).startswith(f"default via {GATEWAY} dev eth0 proto ra ")
    measured(pair, "the master, which is advertised, is stopped and returns", NONE, {**asked, MACHINE: asked[GUEST]})
    prefix = {"prefix": "2001:db8:100:1::/64", "on_link": True, "autonomous": False}
    said = {"source": GATEWAY, "lifetime": 1800, "prefixes": [prefix]}
    assert [{**said, "mac": one["mac"]} for one in found] == found
    assert [mac for mac, _same in itertools.groupby(one["mac"] for one in found)] == [macs[0], macs[1], macs[0]]


class TestEach:
    """Every fault, on both releases."""

    def test_keepalived_stops_and_returns(self, pair):
        stop_and_return(pair)

    def test_keepalived_is_killed(self, pair):
        keepalived_is_killed(pair)

    def test_keepalived_is_killed_and_knows_its_addresses_no_more(self, pair):
        pair.r1.sh("mv /etc/keepalived/keepalived.conf /root/; echo '! nothing' > /etc/keepalived/keepalived.conf")
        try:
            with pair.traffic() as found:
                kill(pair.r1)
                pair.settled("r2")
        finally:
            # Without an instance it does not answer a reload.
            pair.r1.sh("mv /root/keepalived.conf /etc/keepalived/; systemctl restart keepalived")
        measured(pair, "the same, and its configuration is gone", NONE, found)
        pair.settled("r1")
        pair.rests()

    @pytest.mark.parametrize("cables", [["eth0"], ["eth1"], ["eth0", "eth1"]], ids="-".join)
    def test_cables_are_cut(self, pair, cables):
        cables_are_cut(pair, *cables)

    def test_a_cable_is_cut_with_brief_intervals(self, pair):
        with pair.advertising(SHORTEST_ADVERT):
            cables_are_cut(pair, "eth0", limit=SHORT, note=f", {SHORTEST_ADVERT} s")

    def test_the_master_returns_without_its_routes(self, pair):
        returns_without_routes(pair)

    def test_the_master_loses_its_routes(self, pair):
        loses_its_routes(pair)

    def test_a_router_without_a_route_serves_if_there_is_no_other(self, pair):
        line = f"route replace {FOREIGN} via 2001:db8:dead::1 dev eth0 proto 250 metric 1024 table 254"
        pair.r1.sh(f"echo '{line}' > /etc/dualstack/routes.d/later.batch; ip -6 route del {ROUTES[5]['dest']}")
        try:
            pair.settled("r2")
            until(lambda: pair.r1.sh(PENALTY) == "253", 15, "the router gives the route up")
            assert pair.masters() == ["r2"]
            with pair.alone():
                pair.settled("r1")
                assert pair.r1.sh(PENALTY) == "253"
            pair.settled("r2")
        finally:
            pair.r1.sh("rm /etc/dualstack/routes.d/later.batch; /etc/dualstack/restore-routes")
        pair.settled("r1")
        pair.rests()

    def test_a_router_that_is_alone_and_has_lost_its_address_heals(self, pair):
        with pair.alone():
            pair.r1.sh("ip link set eth0 down; ip link set eth0 up")
            pair.settled("r1")
            # The gateway address makes the network of the next hops be on the link again.
            until(lambda: pair.r1.routes() == MANY + 2, 5, "the routes are back")
            until(lambda: pair.r1.sh(PENALTY) == "0", 5, "and it tells so")
        assert pair.masters() == ["r1"]
        pair.r1.sh("ip address add 2001:db8:100:1::ed:2/64 dev eth0")
        pair.rests()

    def test_a_router_boots(self, pair):
        name = "the power of the master fails, and it boots"
        pair.r1.scratch.put_core(AGENT)
        pair.r1.put({"/etc/systemd/system/boot-looks.service": LOOKS})
        pair.r1.sh("systemctl daemon-reload; systemctl -q enable boot-looks")
        fails_over(pair, name, pair.r1.boot, lambda: pair.settled("r1"), THREE_ADVERTS)
        assert pair.r1.routes() == MANY + 2
        told = pair.r1.sh("journalctl -b -o short-monotonic -u dualstack-routes -u keepalived")
        order = [
            re.search(pattern, told) for pattern in ("Finished dualstack-routes", "Starting keepalived", "MASTER STATE")
        ]
        assert [bool(found) for found in order] == [True] * 3, told
        assert [found.start() for found in order] == sorted(found.start() for found in order)
        found = json.loads(pair.r1.sh("cat /root/looks"))
        assert found["looks"] > 0
        assert found["routes"] == MANY + 2
        pair.r1.sh("systemctl -q disable boot-looks; rm /etc/systemd/system/boot-looks.service /root/looks")

    def test_a_foreign_route_in_the_pool_is_kept_and_told(self, pair):
        foreign = f"ip -6 route add {FOREIGN} via 2001:db8:100:1::c:21 dev eth0 proto static"
        pair.r1.sh(foreign)
        before = pair.r1.sh(f"ip -6 route show {FOREIGN}")
        told = pair.play(
            [{"dualstack.fleet.edge_routes": {"config": [*ROUTES, {**ROUTES[0], "dest": FOREIGN}]}}], "r1", fails=True
        )
        assert f"{FOREIGN} has a route of protocol static" in told
        assert pair.r1.routes() == MANY + 2
        # The same when it came after ours, and what restores our routes runs.
        pair.r1.sh(f"echo 'route replace {FOREIGN} via 2001:db8:100:1::c:20 dev eth0 proto 250 metric 1024 table 254'"
                   " > /etc/dualstack/routes.d/later.batch; ! /etc/dualstack/restore-routes 2> /root/told")  # fmt: skip
        assert f"{FOREIGN} via 2001:db8:100:1::c:20" in pair.r1.sh("grep 'another protocol' /root/told")
        assert pair.r1.sh(f"ip -6 route show {FOREIGN}") == before
        pair.r1.sh(f"rm /etc/dualstack/routes.d/later.batch; ip -6 route del {FOREIGN}; /etc/dualstack/restore-routes")
        pair.settled("r1")

    def test_a_foreign_route_is_taken_over_without_losing_a_packet(self, pair):
        wanted = f"{ROUTES[0]['dest']} via {ROUTES[0]['via']} dev eth0"
        tasks = [{"dualstack.fleet.edge_routes": {"config": ROUTES}}]
        with pair.traffic() as found:
            pair.r1.sh(f"ip -6 route replace {wanted} proto static metric 1024")
            assert f"{ROUTES[0]['dest']} has a route of protocol static" in pair.play(tasks, "r1", fails=True)
            # As the guide says.
            pair.r1.sh(f"ip -6 route replace {wanted} proto 250 metric 1024")
            assert "changed=0 " in pair.play(tasks, "r1")
        measured(pair, "a foreign route is taken over", NONE, found)
        assert pair.masters() == ["r1"]
        assert pair.r1.routes() == MANY + 2

    def test_no_packet_to_an_unassigned_prefix_is_seen_twice(self, pair):
        found = json.loads(pair.upstream.ask("seen", "eth0", UNASSIGNED))
        assert found["questions"] == 20
        assert found["most"] == 1
        assert found["refusals"] > 0

    def test_no_router_advertises_itself(self, pair):
        count = "awk '$1 == \"Icmp6InRouterAdvertisements\" {print $2}' /proc/net/snmp6"
        assert [host.sh(count) for host in (pair.machine, pair.upstream)] == ["0", "0"]
        with pair.advertised(pair.machine) as found:
            time.sleep(4)  # as often is it asked; radvd answers within half a second
        assert found == []

    def test_the_gateway_is_advertised_on_request(self, pair):
        refused_advertisements(pair)
        with pair.guest() as guest:
            pair.play(ROLE_TASKS[2:], "r1", "r2", **ADVERTISED)
            assert "changed=0 " in pair.play(ROLE_TASKS[2:], "r1", **ADVERTISED)
            advertises(pair, guest)
            with pair.advertised(guest) as found:
                pair.play(ROLE_TASKS[2:], "r1", "r2")
                until(lambda: guest.sh(DEFAULT) == "", 5, "the guest knows that the gateway is gone")
            assert found[-1]["lifetime"] == 0
            for router in (pair.r1, pair.r2):
                assert router.sh("ls /etc/radvd.conf /etc/dualstack/radvd.conf 2> /dev/null || test $? = 2") == ""
                assert router.sh("pidof radvd || test $? = 1") == ""

    def test_routers_that_disagree_are_named_and_healed(self, pair):
        gone = ROUTES[5]
        pair.play([{"dualstack.fleet.edge_routes": {"config": [gone], "state": "deleted"}}], "r2")
        told = pair.play(ROLE_TASKS[1:2], "r1", "r2", options=["--check", "--diff"])
        assert [line for line in told.splitlines() if gone["dest"] in line and line.startswith("+")], told
        assert re.search(r"^r1 .*changed=0 ", told, re.MULTILINE)
        assert re.search(r"^r2 .*changed=1 ", told, re.MULTILINE)
        pair.play(ROLE_TASKS[1:2], "r1", "r2")
        assert pair.r1.routes() == pair.r2.routes() == MANY + 2
