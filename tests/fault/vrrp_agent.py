"""Runs on the hosts around the edge routers: asks and answers without pause, and counts packets.

usage: vrrp_agent.py answer ADDRESS...        answer on UDP port 7007 of each address, without end
       vrrp_agent.py probe SECONDS ADDRESS... ask each address every SECONDS until the standard input ends
       vrrp_agent.py seen DEVICE ADDRESS      ask an address that nobody has 20 times; how often was each question seen?
       vrrp_agent.py advertised DEVICE        ask routers for advertisements each second until the standard input ends
       vrrp_agent.py boot FILE                write how many looks it took until the host forwards, and its routes then
"""

import json
import os
import select
import socket
import struct
import sys
import threading
import time

PORT = 7007
LATE_SECONDS = 1
QUESTIONS = 20
MARK = b"dualstack question "


def _family(address):
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def answer(*addresses):
    """Send back what comes in."""
    listening = []
    for address in addresses:
        listener = socket.socket(_family(address), socket.SOCK_DGRAM)
        listener.bind((address, PORT))
        listening.append(listener)
    print("ready", flush=True)
    while True:
        for listener in select.select(listening, [], [])[0]:
            question, sender = listener.recvfrom(2048)
            try:
                listener.sendto(question, sender)
            except OSError:  # no way back at the moment: the question counts as lost
                continue


class Stream:
    """Questions to one address."""

    def __init__(self, address):
        self.session = socket.socket(_family(address), socket.SOCK_DGRAM)
        self.session.setblocking(False)
        self.session.connect((address, PORT))
        self.sent, self.answered = [], set()

    def ask(self):
        """Send the next question."""
        self.sent.append(time.monotonic())
        try:
            self.session.send(str(len(self.sent) - 1).encode())
        except OSError:  # an ICMP error of an earlier question, or no route: it counts as lost
            return

    def hear(self):
        """Take an answer."""
        try:
            self.answered.add(int(self.session.recv(2048)))
        except OSError:
            return

    def told(self, every):
        """Return counts, and the longest time from one answered question to the next but the pause between two."""
        gap, last = 0.0, 0
        for number in sorted(self.answered):
            if number - last > 1:
                gap = max(gap, self.sent[number] - self.sent[last] - every)
            last = number
        if self.sent and last < len(self.sent) - 1:
            gap = max(gap, self.sent[-1] - self.sent[last])
        return {"sent": len(self.sent), "lost": len(self.sent) - len(self.answered), "gap": round(gap, 3)}


def probe(every, *addresses):
    """Ask, and tell how it went."""
    every = float(every)
    streams = {address: Stream(address) for address in addresses}
    ended = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), ended.set()), daemon=True).start()
    due, end = time.monotonic(), float("inf")
    print("ready", flush=True)
    while (now := time.monotonic()) < end:
        if ended.is_set() and end == float("inf"):
            end = now + LATE_SECONDS
        if now >= due and end == float("inf"):
            due += every
            for stream in streams.values():
                stream.ask()
        ready = select.select([stream.session for stream in streams.values()], [], [], max(min(due, end) - now, 0))[0]
        for stream in streams.values():
            if stream.session in ready:
                stream.hear()
    print(json.dumps({address: stream.told(every) for address, stream in streams.items()}))


def seen(device, address):
    """Ask and count what passes the interface, in either direction, for a second."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x86DD)) as wire:
        wire.bind((device, 0x0003))  # ETH_P_ALL: what goes out, too
        with socket.socket(_family(address), socket.SOCK_DGRAM) as session:
            for number in range(QUESTIONS):
                session.sendto(MARK + b"%04d" % number, (address, PORT))
        counts, refusals, end = {}, 0, time.monotonic() + 1
        while (left := end - time.monotonic()) > 0 and select.select([wire], [], [], left)[0]:
            packet = wire.recv(2048)
            at = packet.find(MARK)
            if at < 0:
                continue
            if packet[20] == 58 and packet[54] == 1:  # ICMPv6: destination unreachable, with the question in it
                refusals += 1
            elif packet[20] == 17:
                counts[packet[at:].decode()] = counts.get(packet[at:].decode(), 0) + 1
    print(json.dumps({"questions": len(counts), "most": max(counts.values()), "refusals": refusals}))


def _advertisement(packet):
    """Return what a frame with a router advertisement says (RFC 4861, section 4.2), or None."""
    if packet[20] != 58 or packet[54] != 134:
        return None
    prefixes, options = [], packet[70:]
    while len(options) >= 8:
        length = options[1] * 8
        if options[0] == 3:
            prefix = f"{socket.inet_ntop(socket.AF_INET6, options[16:32])}/{options[2]}"
            prefixes.append(
                {"prefix": prefix, "on_link": bool(options[3] & 0x80), "autonomous": bool(options[3] & 0x40)}
            )
        options = options[length:]
    return {
        "mac": packet[6:12].hex(":"),
        "source": socket.inet_ntop(socket.AF_INET6, packet[22:38]),
        "lifetime": struct.unpack_from("!H", packet, 60)[0],
        "prefixes": prefixes,
    }


def advertised(device):
    """Tell of each router advertisement when it comes."""
    ended, due = threading.Event(), time.monotonic()
    packets = (socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x86DD))
    questions = (socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
    with socket.socket(*packets) as wire, socket.socket(*questions) as session:
        wire.bind((device, 0x86DD))
        session.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255)
        session.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, socket.if_nametoindex(device))
        threading.Thread(target=lambda: (sys.stdin.read(), ended.set()), daemon=True).start()
        print("ready", flush=True)
        while not ended.is_set():
            if time.monotonic() >= due:
                due += 1
                session.sendto(bytes([133, 0, 0, 0, 0, 0, 0, 0]), ("ff02::2", 0))
            if select.select([wire], [], [], 0.1)[0] and (told := _advertisement(wire.recv(2048))):
                print(json.dumps(told), flush=True)


def boot(file):
    """Look at forwarding without pause, and count the routes in the moment in which it is on."""
    looks = 0
    while _read("/proc/sys/net/ipv6/conf/all/forwarding") == "0\n":
        looks += 1
    routes = [line for line in _read("/proc/net/ipv6_route").splitlines() if line.startswith("20010db80200")]
    with open(file, "w", encoding="ascii") as told:
        json.dump({"looks": looks, "routes": len(routes)}, told)


def _read(path):
    with open(path, encoding="ascii") as file:
        return file.read()


if __name__ == "__main__":
    os.nice(-5)  # what is measured is the network, not whether this program gets its turn
    {"answer": answer, "probe": probe, "seen": seen, "advertised": advertised, "boot": boot}[sys.argv[1]](*sys.argv[2:])
