"""Whoever keeps a router's routes: they come back after whatever takes them, the site's stay, and ours go again."""

import pytest
from edge_host import ADDRESS, FOREIGN, Kind, edge_host

KINDS = [
    Kind("trixie", "ifupdown", "kernel"),
    Kind("bookworm", "ifupdown", "kernel"),
    Kind("trixie", "networkd", "kernel"),
    Kind("bookworm", "networkd", "kernel"),
    Kind("trixie", "ifupdown", "bird"),
    Kind("bookworm", "ifupdown", "bird"),
    Kind("trixie", "networkd", "bird"),
    Kind("trixie", "ifupdown", "frr"),
    Kind("bookworm", "ifupdown", "frr"),
]
CONFIG = [
    {"dest": "2001:db8:200:11::/64", "via": "2001:db8:100:1::11"},
    {"dest": "2001:db8:200:12::/64", "via": "fe80::12", "dev": "eth0"},
    {"dest": "2001:db8:100:1::14/128", "dev": "eth0"},
    {"dest": "2001:db8:210::/48", "type": "unreachable"},
]
CHANGED = {**CONFIG[0], "via": "2001:db8:100:1::21"}
# More than systemd-networkd takes of its own.
MANY = {"dest": "2001:db8:220::/48", "via": "2001:db8:100:1::", "ranges": "100-2fff"}
RESTART = {"ifupdown": "systemctl restart networking", "networkd": "systemctl restart systemd-networkd"}
FLAP = "ip link set eth0 down; ip link set eth0 up"
# The kernel keeps such addresses over a flap, though not the routes.
KEPT = "sysctl -qw net.ipv6.conf.eth0.keep_addr_on_down=1"
EVENTS = {
    "a link flap": FLAP,
    "a flap that keeps the addresses": f"{KEPT}; {FLAP}",
    "a restart of the network": "@RESTART@",
    "another name for a moment": "ip link set eth0 down; ip link set eth0 name else0; ip link set else0 up;"
    " ip link set else0 down; ip link set else0 name eth0; ip link set eth0 up",
}
MANAGER = {"networkd": {"the network configured anew": "networkctl reconfigure eth0"}}
# The running systemd-networkd does not know yet that it shall leave routes alone.
FIRST = {"networkd": {"the network configured anew before its restart": "networkctl reconfigure eth0"}}
DAEMON = {
    "kernel": {
        "a route of ours removed by hand": "ip -6 route del 2001:db8:200:11::/64",
        "all of ours flushed": "ip -6 route flush proto 250",
        "the watch killed, then a flap": f"systemctl kill -s KILL dualstack-routes-watch; {FLAP}",
    },
    "bird": {
        "BIRD started again": "systemctl restart bird",
        "BIRD killed": "systemctl kill -s KILL bird; systemctl start bird",
    },
    "frr": {"FRR started again": "systemctl restart frr"},
}


def only(*words):
    """Run a test for the routers with one of WORDS, a provider or who configures the network, alone."""
    kinds = [kind for kind in KINDS if {kind.provider, kind.network} & {*words}]
    return pytest.mark.parametrize("router", kinds, indirect=True, ids=lambda kind: kind.name, scope="module")


@pytest.fixture(scope="module", params=KINDS, ids=lambda kind: kind.name)
def router(request):
    with edge_host(request.param) as host:
        host.before = host.tree()
        yield host


def wanted_of(router):
    return [*CONFIG, {"dest": "2001:db8:200::/48", "type": "unreachable"}] if not router.is_gateway else CONFIG


@pytest.fixture(scope="module")
def installed(router):
    """The routes of the provider in the kernel, those of the site among them where the same program makes both."""
    if router.is_gateway:
        router.role("--check")
        assert router.tree() == router.before
        router.role()
    config = wanted_of(router)
    told = router.routes(*config, check=True)
    done = router.routes(*config)
    assert told == done
    assert done["stats"]["added"] == len(config), done
    again = router.routes(*config)
    assert not again["changed"], again
    return router.present()


def foreign(router):
    return FOREIGN.partition(" ")[0] in router.sh("ip -6 route show")


@only("networkd")
def test_a_networkd_that_would_remove_the_routes_is_refused(router):
    dest, before = CONFIG[0]["dest"], router.present()
    router.sh(f"ip -6 route add {dest} via {CONFIG[0]['via']} proto 250; networkctl reconfigure eth0")
    router.sh(f"timeout 30 sh -c 'while ip -6 route show {dest} | grep -q .; do :; done'")
    told = router.routes(*CONFIG)
    assert "systemd-networkd runs here and removes routes that it did not make" in told["error"]
    assert "[Network] and ManageForeignRoutes=no to /etc/systemd/networkd.conf.d/60-dualstack.conf" in told["error"]
    assert router.wait(before) == before
    assert router.tree() == router.before


def test_the_routes_are_installed_beside_those_of_the_site(router, installed):
    assert len(installed.splitlines()) == 5 + (router.kind.provider != "kernel")
    assert foreign(router)


def test_another_provider_is_refused_with_the_place_of_each_route(router, installed):
    other = "bird" if router.kind.provider == "kernel" else "kernel"
    told = router.routes(*CONFIG, provider=other)
    place = {"kernel": "BIRD does not answer", "bird": "fleet.bird, line 4", "frr": "/etc/frr/frr.conf, line "}
    assert place[router.kind.provider] in told["error"], told
    assert router.present() == installed


def test_a_route_of_the_site_is_not_taken_over(router, installed):
    told = router.routes({"dest": "2001:db8:300::/48", "via": "2001:db8:100:1::99"}, check=True)
    place = {
        "kernel": {"ifupdown": "/etc/network/interfaces, line 11", "networkd": "10-eth0.network, line 11"}.get(
            router.kind.network
        ),
        "bird": "/etc/bird/bird.conf, line ",
        "frr": "/etc/frr/frr.conf, line ",
    }
    assert place[router.kind.provider] in told["error"], told


def test_what_the_kernel_does_not_take_is_taken_back_altogether(router, installed):
    router.sh("ip link add down0 type veth peer name down1")
    before = router.tree()
    new = {"dest": "2001:db8:200:13::/64", "via": "2001:db8:100:1::13"}
    told = router.routes(new, {"dest": "2001:db8:200:17::/64", "via": "fe80::17", "dev": "down0"})
    router.sh("ip link del down0")
    assert "2001:db8:200:17::/64" in told["error"], told
    assert "no route was changed" in told["error"]
    assert router.present() == installed
    assert router.tree() == before


# zebra deletes and adds again, unless it is run with --v6-rr-semantics.
@only("kernel", "bird")
def test_a_next_hop_changes_without_a_gap(router, installed):
    with router.events("2001:db8:200:11::/64") as events:
        assert router.routes(CHANGED)["stats"]["replaced"] == 1
        assert router.routes(CONFIG[0])["stats"]["replaced"] == 1
    assert router.present() == installed
    assert "via 2001:db8:100:1::21" in "\n".join(events)
    assert not any(line.startswith("Deleted") for line in events), events


@only("bird", "frr")
def test_overridden_leaves_exactly_what_is_wanted_within_its_bounds(router, installed):
    exact = {"state": "overridden", "within": ["2001:db8:200::/44", "2001:db8:210::/48"]}
    told = router.routes(CONFIG[0], **exact)
    assert "would be deleted, max_delete 10% allows 1" in told["error"], told
    assert router.present() == installed
    done = router.routes(CONFIG[0], **exact, max_delete="100%")
    assert done["stats"]["unchanged"] == 1
    left = [line for line in installed.splitlines() if "2001:db8:200:11::/64" in line or "2001:db8:100:1::14" in line]
    assert all(line in router.present().splitlines() for line in left)
    assert "2001:db8:210::/48" not in router.present()
    assert "2001:db8:200:12::/64" not in router.present()
    assert router.routes(*wanted_of(router))["changed"]
    assert router.present() == installed


@only("bird")
def test_bird_is_not_made_to_read_what_others_left_half_done(router, installed):
    router.sh("cp -a /etc/bird/bird.conf /root; echo '# half done' >> /etc/bird/bird.conf")
    told = router.routes(CHANGED)
    assert "/etc/bird/bird.conf was changed after BIRD last read it" in told["error"]
    router.sh("cp -a /root/bird.conf /etc/bird/bird.conf; birdc configure")
    assert router.wait(installed) == installed


@only("frr")
def test_what_others_have_set_in_frr_and_not_written_stays(router, installed):
    unsaved = "ipv6 route 2001:db8:310::/48 2001:db8:100:1::1"
    router.sh(f"vtysh -c conf -c '{unsaved}'")
    assert router.routes(CHANGED)["changed"]
    assert router.routes(CONFIG[0])["changed"]
    assert unsaved in router.sh("vtysh -c 'show running-config'")
    told = router.routes({"dest": "2001:db8:310::/48", "via": "2001:db8:100:1::11"})
    assert "protocol 196 (metric 20) that is not ours" in told["error"]
    router.sh(f"vtysh -c conf -c 'no {unsaved}'")
    assert router.wait(installed) == installed


@only("frr")
def test_more_routes_than_frr_bears_are_refused(router, installed):
    many = [{"dest": f"2001:db8:201:{i:x}::/64", "via": "2001:db8:100:1::11"} for i in range(4997)]
    told = router.routes(*many[:1000], check=True)
    assert (told["stats"]["added"], len(told["warnings"])) == (1000, 1)
    told = router.routes(*many, check=True)
    assert "5002 routes are too many for FRR" in told["error"]
    assert router.present() == installed


@only("bird", "frr")
def test_a_run_killed_before_its_daemon_knows_is_taken_up_by_the_next(router, installed, survived):
    before = router.tree()
    new = {"dest": "2001:db8:200:13::/64", "via": "2001:db8:100:1::13"}
    for asked in ({"config": [new]}, {"config": [CHANGED]}, {"config": [new], "state": "deleted"}):
        config = asked.pop("config")
        router.routes(*config, die=True, **asked)
        done = router.routes(*config, **asked)
        assert done["changed"], done
        assert not router.routes(*config, **asked)["changed"]
        shown = router.present()
        assert (new["dest"] in shown) is ("state" not in asked), shown
        survived(router.kind, "routes: run killed before the daemon is told")
    assert CHANGED["via"] in shown
    assert router.routes(CONFIG[0])["changed"]
    assert router.present() == installed
    assert router.tree() == before


def test_the_routes_are_back_after_each_event(router, installed, survived):
    events = {
        **FIRST.get(router.kind.network, {}),
        **EVENTS,
        **DAEMON[router.kind.provider],
        **MANAGER.get(router.kind.network, {}),
    }
    for name, script in events.items():
        router.sh(script.replace("@RESTART@", RESTART[router.kind.network]))
        if not router.is_gateway:  # which would still have the gateway's address on that network
            router.sh(f"ip -6 address replace {ADDRESS} dev eth0")
        assert router.wait(installed) == installed, name
        if router.kind.provider != "kernel":
            assert foreign(router), name
        survived(router.kind, f"routes: {name}")


def test_the_routes_are_back_after_a_boot(router, installed, survived):
    router.host.boot()
    assert router.wait(installed) == installed
    assert foreign(router)
    if router.is_gateway:
        show = "systemctl show --value -p"
        loaded = int(router.sh(f"{show} ActiveEnterTimestampMonotonic dualstack-routes"))
        assert 0 < loaded < int(router.sh(f"{show} ExecMainStartTimestampMonotonic keepalived"))
    survived(router.kind, "routes: power cut")


@only("networkd")
def test_more_routes_than_networkd_takes_are_kept(router, installed, survived):
    before = router.tree()
    assert router.routes(MANY)["stats"]["added"] == 12_032
    many = router.present()
    for name, script in {"a restart of the network": RESTART["networkd"], **MANAGER["networkd"]}.items():
        router.sh(script)
        assert router.wait(many) == many, name
        survived(router.kind, f"twelve thousand routes: {name}")
    router.host.boot()
    assert router.wait(many) == many
    survived(router.kind, "twelve thousand routes: power cut")
    assert router.routes(MANY, state="deleted")["stats"]["deleted"] == 12_032
    assert router.present() == installed
    assert router.tree() == before


def test_the_way_back_leaves_the_host_byte_for_byte(router, installed):
    done = router.routes(state="deleted", max_delete="100%")
    assert done["after"]["count"] == (1 if router.kind.provider == "kernel" else 0), done
    if router.is_gateway:
        router.role(edge_router_ipv6_state="reverted")
    assert router.tree() == router.before
    assert foreign(router)
    left = [line for line in router.present().splitlines() if not line.startswith("2001:db8:300::/48")]
    assert left == []
