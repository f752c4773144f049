"""A host's addresses and routes: what is refused, and the commands there and back."""

import socket
from dataclasses import replace

import pytest
from module_utils._errors import DualStackError, InputError
from module_utils._network import Observed, Steps, Wanted, missing, ours, parse_wanted, plan_live, to_record
from module_utils._rtnetlink import UNICAST, UNREACHABLE, KernelAddress, KernelRoute

INDEXES = {"lo": 1, "eth0": 2, "eth1": 3}
HOST = "2001:db8:100:1::c:11"
ADDRESSES = [{"address": f"{HOST}/128"}, {"address": "2001:db8:200:1011::1/128", "device": "lo"}]
ROUTES = [
    {"dest": "default", "via": "fe80::1"},
    {"dest": "2001:db8:100:1::/64"},
    {"dest": "2001:db8:200:1011::/64", "type": "unreachable", "metric": 4096},
]


def packed(text):
    return socket.inet_pton(socket.AF_INET6, text)


def wanted(addresses=ADDRESSES, routes=ROUTES):
    (only,) = parse_wanted("eth0", addresses, routes, INDEXES)
    return only


def address(text, index=2, length=128, *flags):
    return KernelAddress(index, packed(text), length, frozenset(flags or ("permanent",)))


def route(dest, length, *, via="", index=2, kind=UNICAST, metric=1024, protocol=3):
    return KernelRoute(packed(dest), length, kind, protocol, metric, ((packed(via) if via else b"", index),))


def observed(addresses=(), routes=()):
    return Observed(INDEXES, list(addresses), list(routes))


EVERYTHING = observed(
    [address(HOST), address("2001:db8:200:1011::1", 1)],
    [
        route("::", 0, via="fe80::1"),
        route("2001:db8:100:1::", 64),
        route("2001:db8:200:1011::", 64, index=1, kind=UNREACHABLE, metric=4096),
    ],
)
NOTHING = Wanted("eth0")


@pytest.mark.parametrize(
    ("addresses", "routes", "word"),
    [
        ([{"address": HOST}], [], "prefix length"),
        ([{"address": f"{HOST}/129"}], [], "prefix length"),
        ([{"address": "192.0.2.1/24"}], [], "IPv4"),
        ([{"address": f"[{HOST}]/64"}], [], "brackets"),
        ([{"address": "fe80::5/64"}], [], "unicast"),
        ([{"address": "ff02::1/64"}], [], "unicast"),
        ([{"address": "2001:db8:100:1::/64"}], [], "anycast"),
        ([{"address": f"{HOST}/128", "device": "eth9"}], [], "eth9"),
        ([{"address": f"{HOST}/128"}, {"address": f"{HOST}/64"}], [], "contradicts"),
        ([], [{"dest": "default"}], "needs a via"),
        ([], [{"dest": "2001:db8::1/64"}], "host bits"),
        ([], [{"dest": "2001:db8::/64", "via": "fe80::1", "type": "unreachable"}], "no via"),
        ([], [{"dest": "2001:db8::/64", "metric": 0}], "metric"),
        ([], [{"dest": "2001:db8::/64", "device": "eth9"}], "eth9"),
        ([], [{"dest": "default", "via": "fe80::1"}, {"dest": "::/0", "via": "fe80::2"}], "contradicts"),
        ([{"address": f"{HOST}/128"}], [{"dest": "default", "via": HOST}], "itself"),
    ],
)
def test_bad_input_is_refused_with_its_place_and_reason(addresses, routes, word):
    with pytest.raises(InputError) as caught:
        parse_wanted("eth0", addresses, routes, INDEXES)
    (problem,) = caught.value.problems
    assert problem.startswith(("addresses[", "routes["))
    assert word in problem


def test_all_problems_come_at_once():
    with pytest.raises(InputError) as caught:
        parse_wanted("eth9", [{"address": "x/64"}], [{"dest": "y/64"}], INDEXES)
    assert len(caught.value.problems) == 3


def test_records_are_sorted_to_their_interfaces():
    extra = [{"address": "2001:db8:ffff::2/64", "device": "eth1"}]
    first, second = parse_wanted("eth0", ADDRESSES + extra, ROUTES, INDEXES)
    assert (first.device, second.device) == ("eth0", "eth1")
    assert [each.device for each in first.addresses] == ["eth0", "lo"]
    assert len(first.routes) == 3
    assert [str(each) for each in second.addresses] == ["2001:db8:ffff::2/64"]


def test_a_bare_host_gets_addresses_then_links_then_routers():
    steps = plan_live(wanted(), observed(), NOTHING)
    assert [" ".join(words[1:]) for words in steps.commands] == [
        f"-6 address replace {HOST}/128 dev eth0",
        "-6 address replace 2001:db8:200:1011::1/128 dev lo",
        "-6 route replace 2001:db8:100:1::/64 dev eth0 metric 1024",
        "-6 route replace unreachable 2001:db8:200:1011::/64 metric 4096",
        "-6 route replace default via fe80::1 dev eth0 metric 1024",
    ]
    back = [[*words[:3], "del", *words[4:]] for words in reversed(steps.commands)]
    assert list(steps.undo) == back


def test_what_is_there_in_any_spelling_needs_nothing():
    spelled = [{"address": "2001:DB8:100:1:0:0:C:0011/128"}, ADDRESSES[1]]
    assert plan_live(wanted(spelled), EVERYTHING, NOTHING).commands == ()
    assert missing(wanted(spelled), EVERYTHING) == []


def test_only_what_is_missing_is_added_and_only_that_is_undone():
    steps = plan_live(wanted(), observed(EVERYTHING.addresses, EVERYTHING.routes[1:]), NOTHING)
    assert [words[3] for words in steps.commands] == ["replace"]
    assert steps.undo == (["ip", "-6", "route", "del", "default", "via", "fe80::1", "dev", "eth0", "metric", "1024"],)


def test_anothers_route_or_address_is_never_replaced():
    other = observed([address(HOST, 2, 56)], [route("::", 0, via="fe80::99")])
    with pytest.raises(DualStackError) as caught:
        plan_live(wanted(), other, NOTHING)
    assert len(caught.value.details["problems"]) == 2


def test_our_own_route_is_replaced_and_can_be_put_back():
    owned = wanted(ADDRESSES, [{"dest": "default", "via": "fe80::99"}])
    now = observed(EVERYTHING.addresses, [route("::", 0, via="fe80::99"), *EVERYTHING.routes[1:]])
    steps = plan_live(wanted(), now, owned)
    assert [words[3:7] for words in steps.commands] == [["replace", "default", "via", "fe80::1"]]
    assert [words[3:7] for words in steps.undo] == [["replace", "default", "via", "fe80::99"]]


def test_an_advertised_route_is_made_static_before_it_expires():
    now = observed(EVERYTHING.addresses, [route("::", 0, via="fe80::1", protocol=9), *EVERYTHING.routes[1:]])
    steps = plan_live(wanted(), now, NOTHING)
    assert [words[3:7] for words in steps.commands] == [["replace", "default", "via", "fe80::1"]]
    assert steps.undo[0][-4:] == ["proto", "ra", "expires", "1800"]
    assert missing(wanted(), now)
    assert plan_live(NOTHING, now, wanted(routes=ROUTES[:1])).commands == (
        wanted().addresses[0].command("del"),
        wanted().addresses[1].command("del"),
    )
    other = observed([], [route("::", 0, via="fe80::99", protocol=9)])
    with pytest.raises(DualStackError, match="another route"):
        plan_live(wanted(), other, NOTHING)


def test_what_was_there_before_us_never_becomes_ours():
    now = observed(EVERYTHING.addresses[:1], EVERYTHING.routes[:1])
    first = ours(wanted(), NOTHING, plan_live(wanted(), now, NOTHING))
    assert [each.device for each in first.addresses] == ["lo"]
    assert [each.length for each in first.routes] == [64, 64]
    assert ours(wanted(), first, plan_live(wanted(), EVERYTHING, first)) == first
    assert {words[4] for words in plan_live(NOTHING, EVERYTHING, first).commands}.isdisjoint({"default", f"{HOST}/128"})
    assert ours(wanted(), NOTHING, plan_live(wanted(), EVERYTHING, NOTHING)) == NOTHING


def test_what_left_the_plan_is_removed_last():
    steps = plan_live(NOTHING, EVERYTHING, wanted())
    assert {words[3] for words in steps.commands} == {"del"}
    assert len(steps.commands) == 5
    assert {words[3] for words in steps.undo} == {"replace"}
    new = wanted([{"address": "2001:db8:100:1::c:12/128"}])
    assert [words[3] for words in plan_live(new, EVERYTHING, wanted()).commands] == ["replace", "del", "del"]


def test_a_duplicate_address_is_an_error_with_its_name():
    now = observed([address(HOST, 2, 128, "dadfailed", "tentative"), EVERYTHING.addresses[1]], EVERYTHING.routes)
    with pytest.raises(DualStackError, match=f"{HOST} on eth0 is a duplicate"):
        missing(wanted(), now)
    steps = plan_live(wanted(), now, NOTHING)
    assert [words[3] for words in steps.commands if HOST in words[4]] == ["del", "replace"], "the kernel asks only once"
    assert not steps.undo, "it was there before"


def test_a_tentative_address_is_not_there_yet():
    now = observed([address(HOST, 2, 128, "tentative"), EVERYTHING.addresses[1]], EVERYTHING.routes)
    assert missing(wanted(), now) == [f"{HOST}/128 on eth0 is still tentative"]
    assert len(missing(wanted(), observed())) == 5


def test_the_record_reads_back_as_it_was_written():
    record = to_record(wanted())
    assert wanted(record["addresses"], record["routes"]) == wanted()


def test_a_stanza_of_former_days_is_what_is_wanted_if_the_plan_has_its_network_on_the_link():
    former = observed([address(HOST, 2, 64)])
    assert not [words for words in plan_live(wanted(), former, NOTHING).commands if HOST in words[4]]
    assert ours(wanted(), NOTHING, plan_live(wanted(), former, NOTHING)).addresses != wanted().addresses
    with pytest.raises(DualStackError, match=f"{HOST} is on eth0 with /64"):
        plan_live(wanted(routes=[]), former, NOTHING)
    with pytest.raises(DualStackError, match=f"{HOST} is on eth0 with /64"):
        plan_live(wanted(), former, wanted([{"address": f"{HOST}/64"}]))


def test_an_interface_that_was_down_is_switched_on_first_and_off_again():
    down = replace(observed(), down=("eth0",))
    steps = plan_live(wanted(), down, NOTHING)
    assert steps.commands[0] == ["ip", "link", "set", "dev", "eth0", "up"]
    assert steps.undo[-1] == ["ip", "link", "set", "dev", "eth0", "down"]
    mine = ours(wanted(), NOTHING, steps)
    assert to_record(mine)["raised"]
    assert plan_live(NOTHING, EVERYTHING, mine).commands[-1] == ["ip", "link", "set", "dev", "eth0", "down"]


def test_a_deprecated_address_is_made_and_told_from_a_preferred_one():
    service = [{"address": "2001:db8:100:1::5:1/128", "deprecated": True}]
    (command,) = plan_live(wanted(service, []), observed(), NOTHING).commands
    assert command[-2:] == ["preferred_lft", "0"]
    there = address("2001:db8:100:1::5:1", 2)
    steps = plan_live(wanted(service, []), observed([there]), NOTHING)
    assert steps.commands == (command,)
    assert steps.undo == (command[:-2],)
    there = replace(there, flags=frozenset({"deprecated"}))
    assert plan_live(wanted(service, []), observed([there]), NOTHING) == Steps()
