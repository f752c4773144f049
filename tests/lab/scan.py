#!/usr/bin/env python3
"""Ask without pause which TCP ports answer: runs on the lab's upstream host as root.

usage: scan.py ADDRESS...

Sends a SYN to each port of each address ten times a second, whether anybody has the address yet or not, and reads the
answers. No connection comes about (the kernel refuses what it has not asked for), so that no service notices. Writes
{"rounds": NUMBER, "open": {ADDRESS: [ports that ever answered]}} to /run/scan.json about once a second.
"""

import contextlib
import ipaddress
import json
import os
import pathlib
import select
import socket
import struct
import sys
import time

PORTS = [21, 22, 25, 53, 80, 110, 111, 143, 443, 587, 873, 993, 995, 8080, 8081, 17777]
SOURCE = 61000  # no program's, and none that the kernel gives
FOUND = pathlib.Path("/run/scan.json")
PAUSE = 0.1
SYN_ACK = 0x12


def checksum(data):
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total >> 16) + (total & 0xFFFF)
    return ~(total + (total >> 16)) & 0xFFFF


def syn(port, number):
    return struct.pack("!HHIIBBHHH", SOURCE, port, number, 0, 5 << 4, 2, 1024, 0, 0)


def own_address(address):
    """Return the address that packets to ADDRESS leave with."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        one.connect((address, 9))
        return one.getsockname()[0]


def packet(address, port, number):
    """Return the segment; for IPv6 the kernel puts the checksum in."""
    plain = syn(port, number)
    if address.version == 6:
        return plain
    ends = ipaddress.IPv4Address(own_address(str(address))).packed + address.packed
    sum_ = checksum(ends + struct.pack("!BBH", 0, socket.IPPROTO_TCP, len(plain)) + plain)
    return plain[:16] + struct.pack("!H", sum_) + plain[18:]


def answers(one, version):
    """Yield (address, port) of the SYN-ACKs that wait on the socket ONE."""
    while True:
        try:
            data, sender = one.recvfrom(65535)
        except BlockingIOError:
            return
        segment = data[(data[0] & 15) * 4 :] if version == 4 else data
        source, destination = struct.unpack("!HH", segment[:4])
        if destination == SOURCE and segment[13] & SYN_ACK == SYN_ACK:
            yield str(ipaddress.ip_address(sender[0].split("%")[0])), source


def main():
    targets = [ipaddress.ip_address(word) for word in sys.argv[1:]]
    sockets = {4: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_TCP)}
    sockets[6] = socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_TCP)
    sockets[6].setsockopt(socket.IPPROTO_IPV6, socket.IPV6_CHECKSUM, 16)
    for one in sockets.values():
        one.setblocking(False)
        one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 * 2**20)
    packets = [(target, port, packet(target, port, 1)) for target in targets for port in PORTS]
    found, rounds, written = {}, 0, 0.0
    while True:
        for target, _port, data in packets:
            # No way there yet, or the queue is full: the next round asks again.
            with contextlib.suppress(OSError):
                sockets[target.version].sendto(data, (str(target), 0))
        rounds += 1
        end = time.monotonic() + PAUSE
        while (left := end - time.monotonic()) > 0:
            select.select(sockets.values(), [], [], left)
            for version, one in sockets.items():
                for address, port in answers(one, version):
                    found.setdefault(address, set()).add(port)
        if time.monotonic() - written > 1:
            text = json.dumps({"rounds": rounds, "open": {key: sorted(ports) for key, ports in found.items()}})
            FOUND.with_suffix(".new").write_text(text)
            os.replace(FOUND.with_suffix(".new"), FOUND)
            written = time.monotonic()


if __name__ == "__main__":
    main()
