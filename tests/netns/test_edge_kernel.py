"""The kernel's side of the edge routes, in a network namespace that each test makes for itself. Needs root."""

import contextlib
import ctypes
import errno
import fcntl
import os
import pathlib
import random
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parents[2] / "plugins"))

from module_utils import _edge, _rtnetlink
from module_utils._edge import Request, run
from module_utils._errors import DualStackError, InputError

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root")

CLIENT = {"dest": "2001:db8:200:11::/64", "via": "2001:db8:100:1::11"}
AGGREGATE = {"dest": "2001:db8:200::/48", "type": "unreachable", "metric": 4096}


def ip(words):
    return subprocess.run(["ip", "-N", "-6", *words.split()], check=True, capture_output=True, text=True).stdout


def ours():
    return sorted(line.strip() for line in ip("route show proto 250").splitlines())


@pytest.fixture(autouse=True)
def namespace():
    libc = ctypes.CDLL(None, use_errno=True)
    home = os.open("/proc/self/ns/net", os.O_RDONLY)
    assert libc.unshare(0x40000000) == 0
    try:
        ip("link add eth0 type veth peer name other")
        # The kernel's own link-local addresses would come some time later, in the middle of a comparison.
        for name in ("eth0", "other"):
            ip(f"link set {name} addrgenmode none")
        for name in ("lo", "eth0", "other"):
            ip(f"link set {name} up")
        ip("address add 2001:db8:100:1::1/64 dev eth0 nodad")
        yield
    finally:
        assert libc.setns(home, 0) == 0
        os.close(home)


@pytest.fixture
def change(tmp_path):
    def call(*config, check=False, **options):
        places = {"directory": str(tmp_path / "routes.d"), "seals": str(tmp_path / "seals")}
        return run(Request(config=list(config) if config else None, diff=True, **{**places, **options}), check)

    call.file = tmp_path / "routes.d" / "fleet.batch"
    return call


def machines(numbers, shift=0):
    return [{"dest": f"2001:db8:200:{i:x}::/64", "via": f"2001:db8:100:1::{i + 0x100 + shift:x}"} for i in numbers]


def test_routes_are_added_persisted_and_unchanged_by_a_second_run(change):
    told = change(CLIENT, AGGREGATE, check=True)
    assert ours() == []
    assert not change.file.exists()
    done = change(CLIENT, AGGREGATE)
    assert told == done
    assert done["stats"]["added"] == 2
    assert len(ours()) == 2
    assert not change(CLIENT, AGGREGATE)["changed"]
    ip("route flush proto 250")
    subprocess.run(["ip", "-6", "-force", "-batch", str(change.file)], check=True)
    assert not change(CLIENT, AGGREGATE)["changed"]


def test_the_prefix_of_a_virtual_host_that_moves_goes_to_its_machine(change):
    moved = {"dest": "2001:db8:300:1:b00c::/80", "via": "2001:db8:100:1::11"}
    assert change(CLIENT, moved)["stats"]["added"] == 2
    assert change({**moved, "via": "2001:db8:100:1::12"})["stats"]["replaced"] == 1
    assert "2001:db8:300:1:b00c::/80 via 2001:db8:100:1::12" in ours()[1]


def test_a_next_hop_changes_in_place_and_between_types(change):
    change(CLIENT)
    for record in ({**CLIENT, "via": "2001:db8:100:1::12"}, {"dest": CLIENT["dest"], "type": "unreachable"}, CLIENT):
        assert change(record)["stats"]["replaced"] == 1
        assert len(ours()) == 1
        assert not change(record)["changed"]


def test_a_refused_route_takes_the_whole_run_back(change):
    change(CLIENT)
    file, before = change.file.read_text(), ours()
    new = {"dest": "2001:db8:200:13::/64", "via": "2001:db8:100:1::13"}
    far = [{"dest": f"2001:db8:200:2{i}::/64", "via": f"2001:db8:fff::{i}"} for i in range(2)]
    with pytest.raises(DualStackError, match="No route to host") as caught:
        change(new, {"dest": CLIENT["dest"], "type": "unreachable"}, *far)
    assert len(caught.value.details["failed_routes"]) == 2
    assert ours() == before
    assert change.file.read_text() == file


def test_of_many_refusals_the_first_are_told_and_all_are_counted(change):
    far = [{"dest": f"2001:db8:200:{i:x}::/64", "via": f"2001:db8:fff::{i:x}"} for i in range(1, 1001)]
    with pytest.raises(DualStackError, match="and 980 more\nno route was changed") as caught:
        change(*far)
    assert (len(caught.value.details["failed_routes"]), caught.value.details["refused"]) == (20, 1000)
    assert len(str(caught.value).splitlines()) == 22


def test_two_runs_at_once_lose_nothing(change):
    change(CLIENT)
    holder = os.open(change.file.parent, os.O_RDONLY)
    fcntl.flock(holder, fcntl.LOCK_EX)
    other = {"dest": "2001:db8:200:12::/64", "via": "2001:db8:100:1::12"}
    waiting = threading.Thread(target=change, args=(AGGREGATE,))
    waiting.start()
    assert change(other, check=True)["changed"]
    waiting.join(0.2)
    assert waiting.is_alive()
    # What the holder of the lock writes meanwhile is read by the one that waits.
    change.file.write_text(
        change.file.read_text() + _edge.run(Request(state="rendered", config=[other]))["rendered"][0]
    )
    os.close(holder)
    waiting.join(10)
    assert len(change.file.read_text().splitlines()) == 4


def test_anothers_route_is_a_conflict_and_nothing_changes(change):
    ip(f"route add {CLIENT['dest']} via 2001:db8:100:1::99 proto 4")
    before = ip("route show")
    with pytest.raises(DualStackError, match="static"):
        change(AGGREGATE, CLIENT)
    assert ip("route show") == before
    change(CLIENT, state="deleted")
    assert ip("route show") == before


def records_of(pairs):
    return [dict(zip(("dest", "via", "dev", "type", "metric"), values)) for values in pairs]


# What is wrong, and what the one error says of each offender.
WRONG = {
    "records": (
        [
            ("2001:db8:200:21::1/64", "2001:db8:100:1::11"),
            ("2001:db8:200:22::/72", "2001:db8:100:1::11"),
            ("2001:db8:200:23::/64", "2001:db8:100:1::1"),
            ("2001:db8:200:24::/64", "2001:db8:100:1::fe"),
            ("2001:db8:200:25::/64", "2001:db8:100:1::25"),
            ("2001:db8:200:25::/64", "2001:db8:100:1::26"),
            ("2001:db8:200:26::/64", "fe80::26"),
            ("2001:db8:200:27::/64", "fe80::27", "eth9"),
        ],
        {
            "2001:db8:200:21::1/64": "host bits",
            "2001:db8:200:22::/72": "longer than /64",
            "2001:db8:200:23::/64": "own address",
            "2001:db8:200:24::/64": "own address",
            "2001:db8:200:25::/64 via 2001:db8:100:1::26": "contradicts",
            "fe80::26": "link-local",
            "2001:db8:200:27::/64": "not an interface",
        },
    ),
    "bounds": (
        [("2001:db8:300:31::/64", "2001:db8:100:1::31"), ("2001:db8:300:32::/64", "2001:db8:100:1::32")],
        {"2001:db8:300:31::/64": "outside within", "2001:db8:300:32::/64": "outside within"},
    ),
    "conflicts": (
        [(f"2001:db8:200:4{number}::/64", "2001:db8:100:1::4", "", "unicast", 1024) for number in range(1, 6)],
        {
            "2001:db8:200:41::/64": "protocol static",
            "2001:db8:200:42::/64": "protocol ra",
            "2001:db8:200:43::/64": "multipath",
            "2001:db8:200:44::/64": "has metric 7, not 1024",
            "2001:db8:200:45::/64": "protocol static",
        },
    ),
    "links": (
        [("2001:db8:200:51::/64", "2001:db8:fff::1"), ("2001:db8:200:52::/64", "2001:db8:200:9::1")],
        {"2001:db8:200:51::/64": "", "2001:db8:200:52::/64": ""},
    ),
}
FOREIGN = (
    "2001:db8:200:41::/64 via 2001:db8:100:1::99 proto 4",
    "2001:db8:200:42::/64 via 2001:db8:100:1::99 proto 9 metric 7",
    "2001:db8:200:43::/64 proto 250 nexthop via 2001:db8:100:1::98 nexthop via 2001:db8:100:1::99",
    "2001:db8:200:44::/64 via 2001:db8:100:1::4 proto 250 metric 7",
    "2001:db8:200:45::/64 via 2001:db8:100:1::4 proto 4",
)


WRONG["all"] = (
    [pair for pairs, _offenders in WRONG.values() for pair in pairs],
    {offender: words for _pairs, offenders in WRONG.values() for offender, words in offenders.items()},
)


@pytest.mark.parametrize("check", [True, False])
@pytest.mark.parametrize("kind", sorted(WRONG))
def test_everything_that_is_wrong_is_named_at_once_and_nothing_changes(change, kind, check):
    pairs, offenders = WRONG[kind]
    for words in FOREIGN:
        ip(f"route add {words}")
    change(CLIENT, AGGREGATE)
    before, file = ip("route show"), change.file.read_text()
    new = {"dest": "2001:db8:200:12::/64", "via": "2001:db8:100:1::12"}
    # The VRRP address is the other router's at the moment.
    options = {"own": ["2001:db8:100:1::fe/64"], "within": ["2001:db8:200::/48"], "state": "merged"}
    told = outcome(lambda: change(new, *records_of(pairs), check=check, **options))
    if check and kind == "links":  # an earlier task may be about to give the router its addresses
        lines = told["warnings"]
    else:
        assert isinstance(told, str), told
        lines = told.splitlines()
    if check and kind == "all":
        offenders = {offender: words for offender, words in offenders.items() if offender not in WRONG["links"][1]}
    for offender, words in offenders.items():
        assert [line for line in lines if offender in line and words in line], (offender, lines)
    assert not [line for line in lines if new["dest"] in line]
    assert ip("route show") == before
    assert change.file.read_text() == file
    assert not change(CLIENT, AGGREGATE)["changed"]


def test_a_limit_of_the_kernels_is_met_by_all_or_nothing(change):
    # Linux 6.18 takes every route whatever this says; where it is counted, the refusal is the kernel's own.
    subprocess.run(["sysctl", "-qw", "net.ipv6.route.max_size=16", "net.ipv6.route.gc_thresh=8"], check=True)
    told = outcome(lambda: change(*machines(range(200))))
    assert len(ours()) == (0 if isinstance(told, str) else 200)
    assert change.file.exists() is not isinstance(told, str)


def test_a_full_table_is_told_in_the_kernels_words_and_nothing_changes(change, monkeypatch):
    # A kernel that does not count routes refuses none: where a memory cgroup is full it kills the process, as the tests
    # below do. So memory is short here by a stand-in.
    change(CLIENT)
    before, file = ours(), change.file.read_text()
    sent = []
    send = _rtnetlink.apply

    def apply(changes, made=None):
        refused = send(changes, made)
        if not sent:
            sent.append(1)
            refused = [(at, os.strerror(errno.ENOMEM)) for at in range(150, len(changes))]
            # What was refused is not there.
            send([changes[at]._replace(action="delete") for at, _words in refused])
        return refused

    monkeypatch.setattr(_rtnetlink, "apply", apply)
    with pytest.raises(DualStackError, match="Cannot allocate memory") as caught:
        change(*machines(range(0x20, 0x100)))
    assert caught.value.details["refused"] == 0xE0 - 150
    assert str(caught.value).endswith("no route was changed")
    assert ours() == before
    assert change.file.read_text() == file


def test_overridden_leaves_exactly_the_wanted_routes(change):
    change(AGGREGATE, name="aggregates")
    change(*({"dest": f"2001:db8:200:{i}::/64", "via": f"2001:db8:100:1::a{i}"} for i in range(1, 6)))
    wanted = [{"dest": f"2001:db8:200:{i}::/64", "via": f"2001:db8:100:1::a{i}"} for i in range(3, 9)]
    bounds = {"state": "overridden", "within": ["2001:db8:200::/48"]}
    with pytest.raises(DualStackError, match="max_delete"):
        change(*wanted, **bounds)
    done = change(*wanted, **bounds, max_delete="50%")
    assert (done["stats"]["added"], done["stats"]["deleted"], done["stats"]["unchanged"]) == (3, 2, 3)
    assert len(ours()) == 7
    assert done["after"]["count"] == 7
    assert not change(*wanted, **bounds)["changed"]
    assert len(change.file.read_text().splitlines()) == 7


def test_what_is_gathered_can_be_merged_again(change):
    change(CLIENT, AGGREGATE)
    records = change(state="gathered")["gathered"]
    assert not change(*records, persist=False)["changed"]
    assert change(state="deleted", max_delete="100%")["stats"]["deleted"] == 2
    assert ours() == []
    assert not change.file.exists()


def test_a_lost_file_is_written_again(change):
    change(CLIENT)
    change.file.unlink()
    again = change(CLIENT)
    assert again["changed"]
    assert again["commands"] == []
    assert change.file.exists()


def test_a_file_that_cannot_be_written_changes_nothing(change, monkeypatch):
    def full(_state):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(_edge, "write_file", full)
    with pytest.raises(DualStackError, match="No space left"):
        change(CLIENT)
    assert ours() == []


def test_other_tables_and_thousands_of_routes(change):
    many = [{"dest": f"2001:db9:{i:x}::/64", "via": f"2001:db8:100:1::1:{i:x}"} for i in range(2000)]
    scope = _edge.Scope(table=1000)
    assert change(*many, scope=scope)["stats"]["added"] == 2000
    assert not change(*many, scope=scope)["changed"]
    assert ours() == []
    assert len(ip("route show table 1000").splitlines()) == 2000
    assert change(*many, scope=scope, state="deleted")["stats"]["deleted"] == 2000


VHOSTS = [{"dest": f"2001:db8:200:11:{index:x}::/80", "type": "local"} for index in range(1, 10_001)]
ONE_MORE = {"dest": "2001:db8:200:11:b109::/80", "type": "local"}
PRESENT = {"name": "vhosts", "scope": _edge.Scope(table=255), "state": "overridden", "within": ["::/0"]}


@contextlib.contextmanager
def netlink_events():
    """Collect the (message type, destination, length) of every event of our routes inside the block."""
    found = []
    link = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
    with link:
        link.bind((0, 1 << 10))  # RTMGRP_IPV6_ROUTE
        yield found
        link.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while data := link.recv(1 << 16):
                kind = struct.unpack_from("=H", data, 4)[0]
                length, protocol = data[17], data[21]
                if protocol == 250:
                    found.append((kind, _rtnetlink.attributes(data[28:])[1], length))


def test_one_virtual_host_of_ten_thousand_comes_and_goes_alone(change):
    ip("route add unreachable 2001:db8:200:11::/64 metric 4096")
    outgoing = ip("route get 2001:db8:100:1::99")
    assert change(*VHOSTS, **PRESENT)["stats"]["added"] == 10_000
    with socket.create_server(("::", 8080), family=socket.AF_INET6) as server:
        client = socket.create_connection(("2001:db8:200:11:7::1", 8080), timeout=5)
        session, _address = server.accept()
        with netlink_events() as events, client, session:
            added = change(*VHOSTS, ONE_MORE, **PRESENT)
            removed = change(*VHOSTS, **PRESENT)
            client.sendall(b"still here")
            assert session.recv(99) == b"still here"
    for told, side in ((added, "after"), (removed, "before")):
        assert [len((part["before"] + part["after"]).splitlines()) for part in told["diff"]] == [1, 1]
        assert all("2001:db8:200:11:b109::/80" in part[side] for part in told["diff"])
    dest = socket.inet_pton(socket.AF_INET6, "2001:db8:200:11:b109::")
    assert events == [(_rtnetlink.RTM_NEWROUTE, dest, 80), (_rtnetlink.RTM_DELROUTE, dest, 80)]
    assert not change(*VHOSTS, **PRESENT)["changed"]
    assert ip("route get 2001:db8:100:1::99") == outgoing
    ask = ["ip", "-6", "route", "get", "2001:db8:200:11:b109::1"]
    assert "No route to host" in subprocess.run(ask, check=False, capture_output=True, text=True).stderr


def test_local_routes_come_back_from_their_file_and_go_without_the_kernels_own(change):
    change(*VHOSTS[:3], **PRESENT)
    own = ip("route show table 255 proto 2")
    ip("route flush table 255 proto 250")
    subprocess.run(["ip", "-6", "-force", "-batch", str(change.file.with_name("vhosts.batch"))], check=True)
    assert not change(*VHOSTS[:3], **PRESENT)["changed"]
    assert change(name="vhosts", scope=PRESENT["scope"], state="gathered")["gathered"][0]["type"] == "local"
    gone = {**PRESENT, "state": "deleted", "max_delete": "100%"}
    assert change(**gone)["stats"]["deleted"] == 3
    assert ip("route show table 255 proto 250") == ""
    assert ip("route show table 255 proto 2") == own
    assert not change.file.with_name("vhosts.batch").exists()


@pytest.fixture
def looked(monkeypatch):
    """One entry for each look at all routes, one by one."""
    calls = []
    real = _edge._full
    monkeypatch.setattr(_edge, "_full", lambda *words: calls.append(1) or real(*words))
    return calls


def test_what_was_found_unchanged_is_not_looked_at_again(change, looked):
    change(CLIENT, AGGREGATE)
    first = change(CLIENT, AGGREGATE)
    before = len(looked)
    assert change(CLIENT, AGGREGATE) == first
    assert len(looked) == before


@pytest.mark.parametrize("number", [3, 40])
def test_what_a_run_changed_is_not_looked_at_again(change, looked, number):
    bounds = {"state": "overridden", "within": ["2001:db8:200::/48"], "max_delete": "100%"}
    ip("route add 2001:db8:99::/64 dev eth0 proto 9 expires 600")
    for shift, numbers in ((0, range(number)), (1, range(number)), (1, range(1))):
        assert change(*machines(numbers, shift), **bounds)["changed"]
        before = len(looked)
        again = change(*machines(numbers, shift), **bounds)
        assert (again["changed"], again["stats"]["unchanged"]) == (False, len(numbers))
        assert len(looked) == before


@pytest.mark.parametrize("number", [3, 40])
@pytest.mark.parametrize(
    "words", ["add 2001:db8:200:2::/64 via 2001:db8:100:1::9 proto 4 metric 7", "del 2001:db8:200:2::/64"]
)
def test_what_another_program_changes_during_a_run_is_seen_by_the_next(change, monkeypatch, number, words):
    real = _edge._carry_out

    def disturbed(*given):
        real(*given)
        ip(f"route {words}")

    monkeypatch.setattr(_edge, "_carry_out", disturbed)
    change(*machines(range(number)))
    monkeypatch.undo()
    if "proto 4" in words:
        with pytest.raises(DualStackError, match="has a route of protocol static"):
            change(*machines(range(number)))
    else:
        assert change(*machines(range(number)))["stats"]["added"] == 1


def test_routes_that_are_made_and_cannot_be_looked_at_again_are_made(change, looked, monkeypatch):
    real, calls = _rtnetlink.dumped, []

    def once():
        calls.append(1)
        if len(calls) > 1:
            raise OSError("Cannot allocate memory")
        return real()

    monkeypatch.setattr(_rtnetlink, "dumped", once)
    assert change(*machines(range(40)))["stats"]["added"] == 40
    monkeypatch.setattr(_rtnetlink, "dumped", real)
    before = len(looked)
    assert not change(*machines(range(40)))["changed"]
    assert len(looked) == before + 1


@pytest.mark.parametrize(
    "disturb",
    [
        "route del 2001:db8:200:11::/64 proto 250",
        "route replace 2001:db8:200:11::/64 via 2001:db8:100:1::12 proto 250",
        "route add 2001:db8:200:11::/64 via 2001:db8:100:1::12 proto 4 metric 7",
        "address add 2001:db8:100:1::11/64 dev eth0 nodad",
        "link set other name else",
        "file",
    ],
)
def test_whatever_else_has_changed_is_seen(change, looked, disturb):
    for _time in range(2):
        change(CLIENT, AGGREGATE)
    before = len(looked)
    if disturb == "file":
        change.file.write_text("")
    else:
        ip(disturb)
    with contextlib.suppress(DualStackError, InputError):
        change(CLIENT, AGGREGATE)
    assert len(looked) == before + 1


def test_another_wish_is_not_taken_for_the_one_before(change):
    for _time in range(2):
        change(CLIENT, AGGREGATE)
    more = {"dest": "2001:db8:200:12::/64", "via": "2001:db8:100:1::12"}
    assert change(CLIENT, AGGREGATE, more)["stats"]["added"] == 1
    assert change(CLIENT, state="overridden", within=["2001:db8:200::/48"], max_delete="9")["stats"]["deleted"] == 2


def test_a_route_that_expires_does_not_disturb(change, looked):
    ip("route add 2001:db8:99::/64 dev eth0 proto 9 expires 600")
    for _time in range(2):
        change(CLIENT)
    before = len(looked)
    deadline = time.monotonic() + 10
    shown = ip("route show 2001:db8:99::/64")
    while ip("route show 2001:db8:99::/64") == shown:
        assert time.monotonic() < deadline
    assert not change(CLIENT)["changed"]
    assert len(looked) == before


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"seal": 7'])
def test_a_damaged_digest_is_no_digest(change, tmp_path, text):
    for _time in range(2):
        change(CLIENT)
    (tmp_path / "seals" / "fleet.json").write_text(text)
    ip("route del 2001:db8:200:11::/64 proto 250")
    assert change(CLIENT)["stats"]["added"] == 1


def test_another_version_of_the_code_looks_again(change, looked, monkeypatch):
    for _time in range(2):
        change(CLIENT)
    before = len(looked)
    monkeypatch.setattr(_edge.inspect, "getsource", lambda module: f"another {module}")
    change(CLIENT)
    assert len(looked) == before + 1


def put_back(lines):
    words = "".join(f"route add {line.removesuffix(' pref medium')} proto 250\n" for line in lines)
    words = words.replace("add 7 ", "add unreachable ")
    subprocess.run(["ip", "-6", "-batch", "-"], input=words, check=True, text=True)


def edit(rng, config):
    """Return CONFIG after a few edits, of which some are mistakes, and some are of another spelling only."""
    config = [dict(record) for record in config]
    for _time in range(rng.randint(1, 2)):
        at, number = rng.randrange(len(config)), rng.randrange(0x400)
        (new,) = machines([number], rng.randrange(3))
        wrong = rng.choice(["2001:db8:100:1::1", "2001:db8:fff::1", "fe80::1", "x"])
        more = {"dest": "2001:db8:200::/48", "via": "2001:db8:100:1::1000", "ranges": f"{number:x}-403,404=9"}
        other = {**config[at], "dest": config[at]["dest"].upper().replace("::", ":0::")}
        good = [
            [new],
            [config[at], new],
            [config[at], {"dest": new["dest"], "type": "unreachable"}],
            [] if len(config) > 1 else [new],
            [{**config[at], "via": new["via"], "type": "unicast"}],
            [other],
        ]
        bad = [[config[at], other], [config[at], more], [{**config[at], "via": wrong, "type": "unicast"}]]
        config[at : at + 1] = rng.choice(good if rng.random() < 0.9 else bad)
    if rng.random() < 0.1:
        rng.shuffle(config)
    return config


def outcome(call):
    try:
        return call()
    except DualStackError as error:
        return str(error)


@pytest.mark.parametrize("state", ["merged", "overridden"])
@pytest.mark.parametrize("seed", range(3))
def test_what_is_looked_at_in_part_comes_out_as_what_is_looked_at_whole(change, looked, tmp_path, state, seed):
    rng = random.Random(seed)
    options = {"state": state, "max_delete": "50%"}
    options.update({"within": ["2001:db8:200::/48"]} if state == "overridden" else {})
    known, quick = machines(range(16)), 0
    assert change(*known, **options)["stats"]["added"] == 16
    for _time in range(60):
        before, file, config = ours(), change.file.read_text(), edit(rng, known)
        told = outcome(lambda config=config: change(*config, check=True, **options))
        looks = len(looked)
        done = outcome(lambda config=config: change(*config, **options))
        quick += len(looked) == looks
        after, text = ours(), change.file.read_text()
        # The same once more, by a run that knows of nothing.
        ip("route flush proto 250")
        put_back(before)
        change.file.write_text(file)
        whole = outcome(lambda config=config: change(*config, seals=str(tmp_path / "none"), **options))
        shutil.rmtree(tmp_path / "none", ignore_errors=True)
        assert done == whole, (known, config)
        assert (after, text) == (ours(), change.file.read_text())
        assert told == whole or ("on no link" in "".join(told["warnings"]) and "the kernel refused" in whole)
        known = config if isinstance(done, dict) else known
    assert quick > 10


def test_a_record_that_repeats_another_does_not_take_its_route_along(change):
    options = {"state": "overridden", "within": ["2001:db8:200::/48"], "max_delete": "100%"}
    new, again = machines([9])[0], {**machines([9])[0], "dest": "2001:db8:200:0009::/64"}
    for config, count in ([CLIENT], 1), ([CLIENT, new, again], 2), ([CLIENT, again], 2), ([again], 1):
        change(*config, **options)
        assert len(ours()) == count


STEPS = ("_change", "_carry_out", "_remember", "apply", "write_file", "save")


def killed_at(step, call):
    """Run CALL in a process that is killed at the line number STEP of what changes anything; tell whether it was."""
    child = os.fork()
    if not child:
        passed = 0

        def trace(frame, event, _argument):
            nonlocal passed
            if frame.f_code.co_name not in STEPS or "module_utils" not in frame.f_code.co_filename:
                return None
            if event == "line":
                passed += 1
                if passed == step:
                    os.kill(os.getpid(), signal.SIGKILL)
            return trace

        sys.settrace(trace)
        call()
        os._exit(0)
    _pid, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or not status
    return os.WIFSIGNALED(status)


@pytest.mark.parametrize("known", [True, False])
def test_a_run_that_is_killed_at_any_step_is_made_good_by_the_next(change, tmp_path, known):
    options = {"state": "overridden", "within": ["2001:db8:200::/48"], "max_delete": "100%"}
    old, wanted = machines([1, 2, 3, 4]), [*machines([2, 3]), *machines([4], 9), *machines([5, 6])]
    change(*wanted, **options)
    end, text = ours(), change.file.read_text()
    step = 0
    killed = True
    while killed:
        change(*old, **options)
        if not known:
            shutil.rmtree(tmp_path / "seals")
        step += 1
        killed = killed_at(step, lambda: change(*wanted, **options))
        done = change(*wanted, **options)
        assert (ours(), change.file.read_text()) == (end, text), step
        assert sum(done["stats"][name] for name in ("added", "replaced", "unchanged")) == 5
        assert not change(*wanted, **options)["changed"], step
    assert step > 60


def test_four_controllers_at_once_lose_nothing(change):
    children = []
    for number in range(4):
        child = os.fork()
        if not child:
            for start in range(0, 40, 10):
                change(*machines(range(number * 40 + start, number * 40 + start + 10)))
            os._exit(0)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * 4
    assert len(ours()) == 160
    assert len(change.file.read_text().splitlines()) == 161
    assert not change(*machines(range(160)))["changed"]


def test_a_router_that_disagrees_with_the_plan_is_told_how_and_healed(change):
    change(*machines(range(4)), AGGREGATE)
    ip("route del 2001:db8:200::/64 proto 250")
    ip("route replace 2001:db8:200:1::/64 via 2001:db8:100:1::99 proto 250")
    ip("route add 2001:db8:200:9::/64 via 2001:db8:100:1::99 proto 250")
    merged = change(*machines(range(4)), AGGREGATE)
    assert (merged["stats"]["added"], merged["stats"]["replaced"], merged["stats"]["unchanged"]) == (1, 1, 3)
    assert [line.split()[3:5] for line in merged["commands"]] == [
        ["add", "2001:db8:200::/64"],
        ["replace", "2001:db8:200:1::/64"],
    ]
    exact = change(*machines(range(4)), AGGREGATE, state="overridden", within=["2001:db8:200::/48"], max_delete="1")
    assert [line.split()[3:5] for line in exact["commands"]] == [["del", "2001:db8:200:9::/64"]]
    assert len(ours()) == 5
