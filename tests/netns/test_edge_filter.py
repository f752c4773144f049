"""The ingress filter of an edge router: real packets from machines and from outside, counted behind it."""

import contextlib
import json
import os
import pathlib
import re
import subprocess
import sys
import threading

import pytest
from edge_net import KERNEL, MACHINES, OUTSIDE, THERE, mac_of, router, run

sys.path.insert(0, str(pathlib.Path(__file__).parents[2] / "plugins"))

from module_utils import _edge_filter
from module_utils._errors import DualStackError

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root")

ONE, TWO, PEER, GUEST = (f"02:00:00:00:00:{number:02x}" for number in (0x11, 0x12, 0xFE, 0x66))
LAST_MAC = "02:00:00:00:00:1a"
AWAY = THERE[1]
OWNERS = [
    {"prefix": "2001:db8:100:1::11/128", "mac": [ONE]},
    {"prefix": "2001:db8:200:11::/64", "mac": [ONE]},
    {"prefix": "2001:db8:100:1::12/128", "mac": [TWO]},
    {"prefix": "2001:db8:200:12::/64", "mac": [TWO]},
    # A virtual host of the first machine that has moved to the second.
    {"prefix": "2001:db8:200:11:b00c::/80", "mac": [TWO]},
]
INSIDE = ["2001:db8:200::/48", "2001:db8:100:1::/64"]
# Sends frames as they are given: [hardware address, source, destination, next header, payload in hexadecimal].
SEND = """
import json, socket, struct, sys
device, router, frames = json.load(sys.stdin)
wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x86DD))
wire.bind((device, 0))
octets = lambda mac: bytes.fromhex(mac.replace(":", ""))
for mac, source, target, header, payload in frames:
    packed = socket.inet_pton(socket.AF_INET6, target)
    group = b"\\x33\\x33" + packed[12:] if packed[0] == 255 else octets(router)
    body = bytes.fromhex(payload)
    ip6 = struct.pack("!IHBB", 6 << 28, len(body), header, 255) + socket.inet_pton(socket.AF_INET6, source) + packed
    wire.send(group + octets(mac) + b"\\x86\\xdd" + ip6 + body)
"""
# In front of the filter: the last frame has come. Behind it: what was let in, and what was sent on.
COUNT = """
table ip6 counted
delete table ip6 counted
table ip6 counted {
    set last { type inet_proto; flags dynamic; }
    set passed { type ether_addr . ipv6_addr . inet_proto; flags dynamic; }
    set forwarded { type ipv6_addr; flags dynamic; }
    chain first { type filter hook prerouting priority -400; meta l4proto 254 add @last { meta l4proto }; }
    chain behind { type filter hook prerouting priority -200; add @passed { ether saddr . ip6 saddr . meta l4proto }; }
    chain on { type filter hook forward priority 0; add @forwarded { ip6 saddr }; }
}
"""
UDP, ICMPV6, VRRP, OSPF, LAST = 17, 58, 112, 89, 254


@pytest.fixture(autouse=True, scope="module")
def routed():
    """The router, with routes to three machines."""
    with router():
        for machine in ("11", "12", "13"):
            run(f"ip route add 2001:db8:200:{machine}::/64 via 2001:db8:100:1::{machine} dev eth0")
        run("ip route add unreachable 2001:db8:200::/48 metric 4096")
        run(f"ip route add default via {AWAY}")
        yield


@pytest.fixture(autouse=True)
def loaded():
    """The filter, anew."""
    load()
    yield
    run("nft delete table ip6 dualstack_edge")


def load(owners=OWNERS, routers=(PEER,)):
    run("nft -f -", _edge_filter.render(owners, "eth0", "eth1", INSIDE, routers))


def send(frames, side=MACHINES, device="eth0"):
    """Send FRAMES, [hardware address, source] and what is not UDP to the other side; return who passed, what went."""
    run("nft -f -", COUNT)
    # UDP without a checksum is for nobody (RFC 8200, section 8.1), but a router does not look.
    whole = [
        [*frame, AWAY if side == MACHINES else "2001:db8:200:11::1", UDP, "0009000900080000"][:5] for frame in frames
    ]
    whole.append([LAST_MAC, "fe80::1a", "ff02::1", LAST, "00"])
    command = ["ip", "netns", "exec", side, sys.executable, "-c", SEND]
    subprocess.run(command, input=json.dumps(["far", mac_of(device), whole]), text=True, check=True)
    while "elements" not in run("nft list set ip6 counted last"):
        pass
    passed = set(re.findall(r"(02:[0-9a-f:]{14}) \. (\S+) \. \S+", run("nft -n list set ip6 counted passed")))
    forwarded = run("nft -n list set ip6 counted forwarded").partition("elements = {")[2]
    passed = {(mac, source) for mac, source in passed if mac not in (KERNEL, LAST_MAC)}
    return passed, set(re.findall(r"[0-9a-f:]*:[0-9a-f:]*", forwarded))


def counters():
    listed = json.loads(run("nft -j list counters table ip6 dualstack_edge"))["nftables"]
    found = {item["counter"]["name"]: item["counter"]["packets"] for item in listed if "counter" in item}
    return {name: number for name, number in found.items() if number}


def pairs(*frames):
    return {(mac, source) for mac, source, *_rest in frames}


def test_a_machine_sends_from_its_own_prefix_and_address():
    own = [[ONE, "2001:db8:200:11::1"], [ONE, "2001:db8:200:11:ffff::1"], [ONE, "2001:db8:100:1::11"]]
    passed, forwarded = send(own)
    assert passed == pairs(*own)
    assert forwarded >= {source for _mac, source in own}
    assert counters() == {}


def test_a_neighbours_prefix_and_address_are_dropped_and_counted():
    others = [[ONE, "2001:db8:200:12::1"], [ONE, "2001:db8:100:1::12"], [GUEST, "2001:db8:200:11::1"]]
    passed, forwarded = send(others)
    assert passed == set()
    assert not forwarded & {source for _mac, source in others}
    assert counters() == {"not_the_owner": 3}
    told = run("nft -n list set ip6 dualstack_edge offenders")
    assert all(f"{mac} . {source}" in told for mac, source in others)


def test_the_prefix_of_a_virtual_host_goes_with_it():
    passed, _forwarded = send([[TWO, "2001:db8:200:11:b00c::1"], [ONE, "2001:db8:200:11:b00c::1"]])
    assert passed == {(TWO, "2001:db8:200:11:b00c::1")}
    assert counters() == {"not_the_owner": 1}


def test_without_a_known_owner_the_way_back_decides():
    # A prefix that is routed there, an address on the link; one that nobody has, and one that lies elsewhere.
    right = [[GUEST, "2001:db8:200:13::1"], [GUEST, "2001:db8:100:1::77"]]
    wrong = [[GUEST, "2001:db8:200:99::1"], [GUEST, "2001:db8:eeee::1"], [GUEST, "2001:db8:100:1::1"]]
    passed, _forwarded = send([*right, *wrong])
    assert passed == pairs(*right)
    assert counters() == {"no_route_back": 3}


def test_neighbour_discovery_and_routing_protocols_pass():
    solicit = "8700000000000000fe8000000000000000000000000000010101" + ONE.replace(":", "")
    frames = [
        [GUEST, "::", "ff02::1:ff00:1", ICMPV6, solicit],
        [GUEST, "fe80::66", "ff02::1:ff00:1", ICMPV6, solicit],
        [GUEST, "fe80::66", "ff02::12", VRRP, "3101640100640000"],
        [GUEST, "fe80::66", "ff02::5", OSPF, "03010024"],
    ]
    # Without a route for them, either.
    run("ip route del fe80::/64 dev eth0")
    passed, forwarded = send(frames)
    run("ip -6 route append fe80::/64 dev eth0 proto kernel metric 256")
    assert passed == pairs(*frames)
    assert not forwarded & {"::", "fe80::66"}
    # With the kernel's own neighbour discovery in both directions.
    run(f"ip -n {MACHINES} neigh flush all")
    run("ip neigh flush all")
    done = subprocess.run(
        ["ip", "netns", "exec", MACHINES, sys.executable, "-c", TALK, AWAY], check=True, capture_output=True, text=True
    )
    assert done.stdout == "refused\n"
    assert counters() == {}


# A port where nobody listens answers at once; without an answer the connection takes its time.
TALK = """
import socket, sys
try:
    socket.create_connection((sys.argv[1], 9), timeout=10)
except ConnectionRefusedError:
    print("refused")
"""


def test_our_own_prefixes_do_not_come_from_outside():
    wrong = [[GUEST, "2001:db8:200:12::1"], [GUEST, "2001:db8:200:99::1"], [GUEST, "2001:db8:100:1::12"]]
    right = [[GUEST, "2001:db8:eeee::1"], [PEER, "2001:db8:200:12::1"]]
    passed, _forwarded = send([*wrong, *right], OUTSIDE, "eth1")
    assert passed == pairs(*right)
    assert counters() == {"own_prefix_outside": 3}


def test_a_router_sends_on_what_others_sent():
    passed, _forwarded = send([[PEER, "2001:db8:eeee::1"], [PEER, "2001:db8:200:12::1"]])
    assert passed == {(PEER, "2001:db8:eeee::1"), (PEER, "2001:db8:200:12::1")}


def test_a_change_keeps_the_counters_and_forgets_former_owners():
    send([[ONE, "2001:db8:200:12::1"]])
    load([{"prefix": "2001:db8:200:12::/64", "mac": [ONE]}])
    passed, _forwarded = send([[ONE, "2001:db8:200:12::1"], [TWO, "2001:db8:200:12::1"], [TWO, "2001:db8:100:1::12"]])
    assert passed == {(ONE, "2001:db8:200:12::1"), (TWO, "2001:db8:100:1::12")}
    assert counters() == {"not_the_owner": 2}


def test_a_change_drops_no_packet_on_its_way():
    wanted = [f"2001:db8:200:11::{number:x}" for number in range(1, 2001)]
    stop = threading.Event()
    changes = []

    def change():
        while not stop.is_set():
            load([*OWNERS, {"prefix": f"2001:db8:200:{len(changes) % 9 + 0x20}::/64", "mac": [TWO]}])
            changes.append(1)

    with contextlib.ExitStack() as stack:
        changing = threading.Thread(target=change)
        changing.start()
        stack.callback(changing.join)
        stack.callback(stop.set)
        passed, _forwarded = send([[ONE, source] for source in wanted])
        wrong, _forwarded = send([[TWO, source] for source in wanted])
    assert len(changes) > 1
    assert passed == {(ONE, source) for source in wanted}
    assert wrong == set()
    assert counters() == {"not_the_owner": 2000}


def test_ipv4_is_not_looked_at():
    run("ip address add 192.0.2.1/24 dev eth0")
    run(f"ip -n {MACHINES} address add 198.51.100.7/32 dev far")
    run(f"ip -n {MACHINES} route add 192.0.2.0/24 dev far src 198.51.100.7")
    run("ip route add 198.51.100.7 dev eth0")
    talk = ["ip", "netns", "exec", MACHINES, sys.executable, "-c", TALK, "192.0.2.1"]
    assert subprocess.run(talk, check=True, capture_output=True, text=True).stdout == "refused\n"


def test_sixty_five_thousand_owners():
    owners = [
        {"prefix": prefix, "mac": [f"02:00:00:01:{number >> 8:02x}:{number & 255:02x}"]}
        for number in range(65536)
        for prefix in (f"2001:db8:300:{number:x}::/64", f"2001:db8:100:1::1:{number:x}/128")
    ]
    load(owners)
    last = "02:00:00:01:ff:ff"
    passed, _forwarded = send([[last, "2001:db8:300:ffff::1"], [ONE, "2001:db8:300:ffff::1"]])
    assert passed == {(last, "2001:db8:300:ffff::1")}
    assert counters() == {"not_the_owner": 1}


def test_all_that_is_wrong_is_told_at_once():
    with pytest.raises(DualStackError) as caught:
        _edge_filter.render(
            [{"prefix": "2001:db8::1/64", "mac": [ONE]}, {"prefix": "::/0", "mac": 7}], "e e", "", ["x"]
        )
    words = ["'e e' is no name of an interface", "did you mean 2001:db8::/64?", "in quotes", "inside: expected"]
    told = str(caught.value).splitlines()
    assert len(told) == 4
    assert all(word in line for word, line in zip(words, told))
