"""rtnetlink messages as bytes; what the kernel makes of them is in tests/netns."""

import errno
import os
import socket
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from module_utils import _rtnetlink
from module_utils._rtnetlink import UNICAST, UNREACHABLE, Change, attributes, encode

DEST, GATEWAY = socket.inet_pton(socket.AF_INET6, "2001:db8:1::"), socket.inet_pton(socket.AF_INET6, "fe80::1")


def decoded(change):
    message = encode(change, 7)
    length, kind, flags, sequence, _port = struct.unpack_from("=IHHII", message)
    assert length == len(message)
    assert sequence == 7
    return kind, flags, message[16:28], attributes(message[28:])


def test_an_added_route_never_replaces_one():
    kind, flags, head, found = decoded(Change("add", DEST, 64, UNICAST, 250, 1024, GATEWAY, 2))
    assert kind == 24
    assert flags & 0x200
    assert (head[1], head[4], head[5], head[7]) == (64, 254, 250, UNICAST)
    assert found == {1: DEST, 5: GATEWAY, 4: struct.pack("=I", 2), 6: struct.pack("=I", 1024)}


def test_a_deletion_carries_our_protocol():
    kind, _flags, head, _found = decoded(Change("delete", DEST, 64, UNICAST, 250, 1024))
    assert (kind, head[5]) == (25, 250)


def test_an_unreachable_route_has_no_next_hop():
    *_rest, found = decoded(Change("replace", DEST, 48, UNREACHABLE, 250, 4096, GATEWAY, 1, 1000))
    assert found == {1: DEST, 6: struct.pack("=I", 4096), 15: struct.pack("=I", 1000)}


def test_an_unreachable_route_is_deleted_by_its_place_on_lo():
    *_rest, found = decoded(Change("delete", DEST, 48, UNREACHABLE, 250, 4096, GATEWAY, 2))
    assert found == {1: DEST, 6: struct.pack("=I", 4096), 4: struct.pack("=I", 1)}


@given(st.dictionaries(st.integers(1, 0x3FFF), st.binary(max_size=20), max_size=6))
def test_attributes_are_read_as_they_were_written(wanted):
    data = b""
    for kind, value in wanted.items():
        data += struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)
    assert attributes(data) == wanted


@given(st.binary(max_size=64))
def test_broken_attributes_end_the_reading(data):
    attributes(data)


@pytest.mark.parametrize("words", ["", "Gateway can not be a local address"])
def test_a_refusal_is_told_in_the_kernels_words(words):
    echoed = struct.pack("=IHHII", 16, 24, 0, 1, 0)
    body = struct.pack("=i", -errno.EINVAL) + echoed
    if words:
        text = words.encode() + b"\0"
        body += struct.pack("=HH", 4 + len(text), 1) + text
    told = _rtnetlink._refusal(body, 0x300 if words else 0x100)
    assert told == os.strerror(errno.EINVAL) + (f": {words}" if words else "")
