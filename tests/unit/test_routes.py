"""Routes as values: what is accepted, what is refused, what would be done."""

import ipaddress
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st
from module_utils._edge_seal import only_in
from module_utils._errors import DualStackError, InputError
from module_utils._routes import (
    BEHIND_OSPF,
    OSPF,
    Batch,
    Plan,
    Scope,
    Supernets,
    address_text,
    batch_line,
    check_deletions,
    commands,
    compacted,
    edited,
    inverse,
    kernel_changes,
    outside,
    parse_json_lines,
    parse_prefix,
    parse_ranges,
    parse_routes,
    plan_delete,
    plan_merge,
    prefix_text,
    write_ranges,
)
from module_utils._rtnetlink import UNICAST, UNREACHABLE, KernelRoute

SCOPE = Scope()
INDEXES = {"lo": 1, "eth0": 2}
NAMES = {1: "lo", 2: "eth0"}


def packed(text):
    return socket.inet_pton(socket.AF_INET6, text)


def wanted(*records, **options):
    return parse_routes([(f"config[{i}]", record) for i, record in enumerate(records)], **options)


def kernel(dest, via="", *, protocol=250, metric=1024, kind=UNICAST, more=()):
    value, length = parse_prefix(dest)
    hops = tuple((packed(hop) if hop else b"", 2) for hop in (via, *more))
    return KernelRoute(value, length, kind, protocol, metric, hops)


def merge(want, have, others=None, within=None):
    return plan_merge(want, have, SCOPE, indexes=INDEXES, others=others or {}, within=within)


CLIENT = {"dest": "2001:db8:200:11::/64", "via": "2001:db8:100:1::c:11"}
HAVE = kernel("2001:db8:200:11::/64", "2001:db8:100:1::c:11")


@pytest.mark.parametrize(
    ("record", "word"),
    [
        ({"dest": "2001:db8:200:11::1/64", "via": "2001:db8::1"}, "2001:db8:200:11::/64"),
        ({"dest": "2001:db8:200:11::/96", "via": "2001:db8::1"}, "longer than /64"),
        ({"dest": "2001:db8:200:11::1/128", "via": "2001:db8::1", "dev": "eth0"}, "longer than /64"),
        ({"dest": "2001:db8:200:11::/64", "via": "fe80::1"}, "link-local"),
        ({"dest": "2001:db8:200:11::/64"}, "no next hop"),
        ({"dest": "2001:db8:200:11::/64", "via": "192.0.2.1"}, "IPv4"),
        ({"dest": "2001:db8:200:11::/64", "via": "[2001:db8::1]"}, "brackets"),
        ({"dest": "2001:db8:200:11::/64", "via": "2001:db8::7"}, "own address"),
        ({"dest": "2001:db8:200:11::/64", "dev": "eth9"}, "eth9"),
        ({"dest": "2001:db8:200:11::/64", "via": "2001:db8::1", "type": "unreachable"}, "remove"),
        ({"dest": "2001:db8:200:11::/64", "type": "blackhole"}, "blackhole"),
        ({"dest": "2001:db8:200:11::", "via": "2001:db8::1"}, "prefix length"),
        ({"dest": "2001:db8:200:11::/129", "via": "2001:db8::1"}, "129"),
        ({"dest": "ff02::/16", "via": "2001:db8::1"}, "unicast"),
        ({"dest": "fe80::/64", "dev": "eth0"}, "unicast"),
        ({"dest": "2001:db8:200:11::/64", "via": "2001:db8::1", "metric": "low"}, "low"),
        ({"dest": "2001:db8:200:11::/64", "via": "2001:db8::1", "gateway": "x"}, "gateway"),
        ({"via": "2001:db8::1"}, "dest is missing"),
        ({"dest": "2001:db8:200::/48", "type": "local"}, "shorter than /64"),
        ({"dest": "2001:db8:200:11:1::/80", "type": "local", "via": "2001:db8::1"}, "remove via"),
        ({"dest": "2001:db8:200:11:1::/80", "type": "local", "dev": "eth0"}, "stands on lo"),
    ],
)
def test_a_bad_route_is_refused_with_its_place_and_reason(record, word):
    with pytest.raises(InputError) as caught:
        wanted(CLIENT, record, own={packed("2001:db8::7")}, devices={"eth0"})
    (problem,) = caught.value.problems
    assert problem.startswith("config[1]: ")
    assert word in problem


def test_all_bad_routes_are_reported_at_once():
    with pytest.raises(InputError) as caught:
        wanted({"dest": "x/64", "via": "2001:db8::1"}, CLIENT, {**CLIENT, "via": "2001:db8::2"}, {"dest": "::/0"})
    assert len(caught.value.problems) == 3
    assert "config[1]" in caught.value.problems[1]


def test_the_same_route_twice_is_one_route():
    assert len(wanted(CLIENT, {**CLIENT, "dest": "2001:DB8:0200:0011:0::/64"})) == 1


@given(st.integers(0, 2**128 - 1), st.integers(0, 128))
def test_a_prefix_is_read_as_the_standard_library_reads_it(value, length):
    network = ipaddress.IPv6Network((value, length), strict=False)
    for spelling in (str(network), network.exploded, str(network).upper()):
        assert parse_prefix(spelling) == (network.network_address.packed, length)
    packed_network = (network.network_address.packed, length)
    assert parse_prefix(prefix_text(*packed_network)) == packed_network


def test_json_lines_are_read_with_their_places():
    assert list(parse_json_lines([b'{"dest": "::/0"}\n', b"\n", b'{"dest": "x"}\n'], "f"))[1] == (
        "f, line 3",
        {"dest": "x"},
    )
    with pytest.raises(InputError) as caught:
        parse_routes(parse_json_lines([b"[1]\n", b"{\n", b"\xff\n"], "f"))
    assert [problem.split(":")[0] for problem in caught.value.problems] == ["f, line 1", "f, line 2", "f, line 3"]


def test_an_equal_route_in_any_spelling_is_unchanged():
    spelled = {"dest": "2001:0DB8:0200:0011::/64", "via": "2001:db8:100:1:0:0:000C:11", "dev": "eth0"}
    plan = merge(wanted(spelled), [HAVE])
    assert not plan.changes_kernel
    assert plan.unchanged == 1


@pytest.mark.parametrize(
    "record",
    [
        {**CLIENT, "via": "2001:db8:100:1::c:12"},
        {**CLIENT, "dev": "lo"},
        {"dest": CLIENT["dest"], "type": "unreachable"},
        {"dest": CLIENT["dest"], "dev": "eth0"},
    ],
)
def test_a_different_next_hop_replaces_our_route(record):
    plan = merge(wanted(record), [HAVE])
    assert [here for _route, here in plan.replace] == [HAVE]
    assert not plan.add


@pytest.mark.parametrize(
    ("have", "word"),
    [
        (kernel(CLIENT["dest"], CLIENT["via"], protocol=4), "static"),
        (kernel(CLIENT["dest"], CLIENT["via"], protocol=4, metric=10), "metric 10"),
        (kernel(CLIENT["dest"], CLIENT["via"], more=["2001:db8::9"]), "multipath"),
        (kernel(CLIENT["dest"], CLIENT["via"], metric=10), "metric 10"),
    ],
)
def test_a_route_that_is_not_ours_to_change_is_a_conflict(have, word):
    plan = merge(wanted(CLIENT), [have])
    assert word in plan.conflicts[0]
    assert not plan.changes_kernel


def test_overridden_removes_only_our_other_routes_inside():
    stale = kernel("2001:db8:200:99::/64", "2001:db8::1")
    outside = kernel("2001:db8:300::/64", "2001:db8::1")
    foreign = kernel("2001:db8:200:98::/64", "2001:db8::1", protocol=4)
    aggregate = kernel("2001:db8:200::/48", kind=UNREACHABLE, metric=4096)
    others = {(254, *parse_prefix("2001:db8:200::/48")): ("other.batch", "line")}
    within = Supernets.parse(["2001:db8:200::/48"])
    plan = merge(wanted(CLIENT), [HAVE, stale, outside, foreign, aggregate], others, within)
    assert plan.delete == (stale,)
    assert plan.present == 3


def test_overridden_moves_our_route_to_the_wanted_metric():
    within = Supernets.parse(["2001:db8:200::/48"])
    old = kernel(CLIENT["dest"], CLIENT["via"], metric=10)
    plan = merge(wanted(CLIENT), [old], within=within)
    assert (len(plan.add), plan.delete, plan.conflicts) == (1, (old,), ())


def test_our_route_goes_behind_ospf_and_comes_back():
    (front,), (behind,) = wanted(CLIENT), wanted({**CLIENT, "metric": BEHIND_OSPF})
    far = kernel(CLIENT["dest"], CLIENT["via"], metric=BEHIND_OSPF)
    ospf = kernel(CLIENT["dest"], "fe80::11", protocol=OSPF, metric=20, more=["fe80::12"])
    for route, old in ((behind, HAVE), (front, far)):
        plan = merge([route], [ospf, old])
        assert (plan.add, plan.delete, plan.conflicts) == ((route,), (old,), ())
    assert merge([behind], [ospf, far]).unchanged == 1
    assert "188" in merge([front], [ospf]).conflicts[0]
    assert "188" in merge([behind], [ospf._replace(metric=BEHIND_OSPF)]).conflicts[0]
    assert "static" in merge([behind], [ospf._replace(protocol=4)]).conflicts[0]


def test_routes_outside_the_bounds_are_refused():
    within = Supernets.parse(["2001:db8:300::/48", "2001:db8:400::/48"])
    inside = {"dest": "2001:db8:300:1::/64", "type": "unreachable"}
    (problem,) = outside(wanted(CLIENT, inside), within)
    assert problem.startswith("2001:db8:200:11::/64 is outside within")
    with pytest.raises(InputError) as caught:
        Supernets.parse(["2001:db8::1/48", "x"])
    assert len(caught.value.problems) == 2


def test_a_route_that_another_name_holds_is_a_conflict():
    key = (254, *parse_prefix(CLIENT["dest"]))
    (route,) = wanted(CLIENT)
    assert "b.batch" in merge([route], [], {key: ("b.batch", "route replace x")}).conflicts[0]
    assert not merge([route], [], {key: ("b.batch", batch_line(route, SCOPE))}).conflicts
    plan = plan_delete([route], [HAVE], SCOPE, {key: ("b.batch", "x")}, Supernets())
    assert "b.batch" in plan.conflicts[0]


def test_deleted_takes_our_routes_whatever_their_next_hop():
    foreign = kernel("2001:db8:200:12::/64", "2001:db8::1", protocol=4)
    want = wanted({"dest": CLIENT["dest"]}, {"dest": "2001:db8:200:12::/64"}, deleting=True)
    assert plan_delete(want, [HAVE, foreign], SCOPE, {}, Supernets()).delete == (HAVE,)
    assert plan_delete(None, [HAVE, foreign], SCOPE, {}, Supernets()).delete == (HAVE,)
    assert not plan_delete(None, [HAVE], SCOPE, {}, Supernets.parse(["2001:db8:300::/48"])).delete


@pytest.mark.parametrize(
    ("limit", "deletes", "present", "good"),
    [("10%", 1, 3, True), ("10%", 2, 3, False), ("0", 1, 9, False), ("2", 2, 2, True), ("100%", 7, 7, True)],
)
def test_too_many_deletions_stop_the_run(limit, deletes, present, good):
    plan = Plan(delete=(HAVE,) * deletes, present=present)
    if good:
        check_deletions(plan, limit)
    else:
        with pytest.raises(DualStackError, match="max_delete"):
            check_deletions(plan, limit)


@pytest.mark.parametrize("limit", ["", "%", "ten", "-1", "10%%", "1.5"])
def test_a_limit_that_is_no_number_is_refused(limit):
    with pytest.raises(InputError, match="max_delete"):
        check_deletions(Plan(), limit)


def test_new_routes_come_before_removals_and_the_inverse_goes_back():
    stale = kernel("2001:db8:200:99::/64", "2001:db8::1")
    plan = merge(wanted(CLIENT), [stale], within=Supernets.parse(["2001:db8:200::/48"]))
    new, old = kernel_changes(plan, SCOPE, INDEXES)
    assert [change.action for change in new + old] == ["add", "delete"]
    assert [change.action for change in inverse(new + old, plan)] == ["replace", "delete"]
    lines = list(commands(plan, SCOPE, NAMES))
    assert lines[0] == ("ip -6 route add 2001:db8:200:11::/64 via 2001:db8:100:1::c:11 proto 250 metric 1024 table 254")
    assert lines[1].startswith("ip -6 route del 2001:db8:200:99::/64 via 2001:db8::1 dev eth0 proto 250")


def test_a_batch_file_survives_reading_and_writing():
    routes = wanted(
        CLIENT, {"dest": "default", "via": "fe80::2", "dev": "eth0"}, {"dest": "2001:db8::/32", "type": "unreachable"}
    )
    lines = {(254, route.dest, route.length): batch_line(route, SCOPE) for route in routes}
    text = Batch(lines).render()
    assert Batch.parse(text, "f").lines == lines
    assert Batch.parse(text, "f").render() == text
    assert Batch().render() == ""
    with pytest.raises(InputError, match="line 2"):
        Batch.parse("# ours\nroute flush table main\n", "f")


POOL = {"dest": "2001:db8:200::/48", "via": "2001:db8:100:1::c:0", "dev": "eth0"}


def test_ranges_are_the_routes_that_they_number():
    routes = wanted({**POOL, "ranges": "11, 20-22,a0-A1=b0, 30=7"}, CLIENT | {"dest": "2001:db8:200:12::/64"})
    hops = {prefix_text(route.dest, route.length): address_text(route.via) for route in routes}
    assert hops == {
        "2001:db8:200:11::/64": "2001:db8:100:1::c:11",
        "2001:db8:200:20::/64": "2001:db8:100:1::c:20",
        "2001:db8:200:21::/64": "2001:db8:100:1::c:21",
        "2001:db8:200:22::/64": "2001:db8:100:1::c:22",
        "2001:db8:200:a0::/64": "2001:db8:100:1::c:b0",
        "2001:db8:200:a1::/64": "2001:db8:100:1::c:b1",
        "2001:db8:200:30::/64": "2001:db8:100:1::c:7",
        "2001:db8:200:12::/64": "2001:db8:100:1::c:11",
    }
    assert {route.dev for route in routes} == {"eth0", ""}
    # The module gives what is not asked for as None.
    pool = {"type": None, "metric": None, **POOL}
    assert wanted({**pool, "ranges": None}) == wanted(POOL)
    assert [route.metric for route in wanted({**pool, "metric": 7, "ranges": "1-2"}, {**pool, "ranges": "3"})] == [
        7,
        7,
        1024,
    ]


@pytest.mark.parametrize("via", ["", "2001:db8:100:1:ffff:ffff:ffff:fffe"])
def test_of_ranges_to_delete_only_the_destinations_count(via):
    record = {**POOL, "via": via, "ranges": "7-9"}
    assert [prefix_text(route.dest, route.length) for route in wanted(record, deleting=True)] == [
        f"2001:db8:200:{number}::/64" for number in (7, 8, 9)
    ]


@pytest.mark.parametrize(
    ("record", "word"),
    [
        ({"ranges": "11,,12"}, "''"),
        ({"ranges": "11-"}, "'11-'"),
        ({"ranges": "1g"}, "'1g'"),
        ({"ranges": "0x1"}, "'0x1'"),
        ({"ranges": "-1"}, "'-1'"),
        ({"ranges": "+1"}, "'+1'"),
        ({"ranges": "22-11"}, "'22-11'"),
        ({"ranges": "fffe-10000"}, "up to ffff"),
        ({"ranges": "10-1f,1f"}, "before"),
        ({"ranges": "11=ffffffffffffffff"}, "leave the /64"),
        ({"ranges": "11", "via": ""}, "from via on"),
        ({"ranges": "11", "type": "unreachable"}, "from via on"),
        ({"ranges": "11", "dest": "2001:db8:200:1:1::/80"}, "number the /64"),
        ({"ranges": "7-8", "via": "2001:db8::"}, "own address"),
        ({"ranges": "7-8", "via": "fe80::", "dev": ""}, "link-local"),
        ({"ranges": "7-8", "dev": "eth9"}, "eth9"),
    ],
)
def test_bad_ranges_are_refused_with_their_place_and_reason(record, word):
    with pytest.raises(InputError) as caught:
        wanted(CLIENT, {**POOL, **record}, own={packed("2001:db8::7")}, devices={"eth0"})
    (problem,) = caught.value.problems
    assert problem.startswith("config[1]: ")
    assert word in problem


def test_a_range_that_contradicts_a_route_is_refused():
    with pytest.raises(InputError, match=r"config\[1\]: 2001:db8:200:11::/64 .* contradicts") as caught:
        wanted(CLIENT | {"via": "2001:db8:100:1::99"}, {**POOL, "ranges": "10-12"})
    assert len(caught.value.problems) == 1


@given(st.dictionaries(st.integers(0, 0xFFFF), st.integers(0, 0xFFFF), max_size=30))
def test_ranges_are_written_as_they_are_read(numbers):
    text = write_ranges(numbers)
    assert parse_ranges(text, 16) == numbers if numbers else text == ""


lines = st.lists(st.sampled_from([b"a", b"bb", b"ab", b"b", b"", b"abab"]).map(lambda line: line + b"\n"), max_size=8)


@given(lines, lines, st.booleans())
def test_the_lines_that_differ_are_found(old, new, whole):
    texts = [b"".join(part) if whole else b"".join(part)[:-1] for part in (old, new)]
    before, after = (set(text.split(b"\n")) for text in texts)
    gone, come = only_in(*texts)
    # Of lines that come twice, one may be found that is at an equal end.
    assert {line for line in before - after if line} <= set(gone) <= before
    assert {line for line in after - before if line} <= set(come) <= after
    assert not set(gone) & set(come)


@given(st.sets(st.integers(0, 40)), st.dictionaries(st.integers(0, 40), st.booleans(), max_size=6))
def test_a_batch_file_is_edited_as_if_it_were_written_anew(present, changes):
    def entry(number, via="2001:db8::1"):
        length = 48 + number % 17
        (route,) = wanted({"dest": f"2001:db8:{number:x}::/{length}", "via": via})
        return (254, route.dest, route.length), batch_line(route, SCOPE)

    kept = dict(entry(number) for number in present)
    edits = {entry(number)[0]: entry(number, "2001:db8::2")[1] if put else "" for number, put in changes.items()}
    text = edited(Batch(kept).render().encode() or b"# head\n", edits)
    expected = {key: line for key, line in {**kept, **edits}.items() if line}
    assert Batch.parse(text.decode(), "f").lines == expected
    assert text.decode().splitlines()[1:] == Batch(expected).render().splitlines()[1:]


number = st.integers(0, 0x1FFFF)


@given(st.lists(st.tuples(number, number, st.sampled_from(["", "eth0"])), max_size=20))
def test_few_words_say_the_same_routes(pairs):
    def text(first, value):
        return f"2001:db{first}:{value >> 16:x}:{value & 0xFFFF:x}::"

    routes = [
        {
            "dest": f"{text(8, dest)}/64",
            "via": f"2001:db9::{via >> 16:x}:{via & 0xFFFF:x}",
            **({"dev": dev} if dev else {}),
        }
        for dest, via, dev in pairs
    ]

    def outcome(records):
        try:
            return sorted(wanted(*records))
        except InputError:
            return "refused"

    assert outcome(compacted(routes)) == outcome(routes)


@pytest.mark.parametrize("metric", [0, 1 << 32])
def test_a_metric_for_all_must_be_one(metric):
    with pytest.raises(InputError, match="must be a number from 1"):
        wanted(CLIENT, metric=metric)
