#!/usr/bin/env python3
"""The customers of the lab: runs on its upstream host, with nothing but the standard library.

Reads one line of JSON from standard input:
  {"mode": "run", "password": ..., "mx": ADDRESS, "machines": {NAME: ADDRESS}, "sites": {NAME: ADDRESS},
   "pauses": {PROTOCOL: SECONDS}}
      mail, IMAP, FTP and HTTP over IPv4 until standard input ends, each after a pause; then waits for the mail
      under way. A line on standard input begins a new count of the requests, and is answered by the old one.
  {"mode": "prove", "password": ..., "addresses": [{"host": ..., "family": ..., "address": ..., "protocols": [...]}]}
      one try of each protocol to each address.
Writes one line of JSON to standard output. A client here is as patient as a browser or a mail server is: it tries again
for ten seconds. What needed that is counted as retried, what did not get through as failed, and the longest time
without an answer is given.
"""

import collections
import ftplib
import functools
import imaplib
import io
import itertools
import json
import re
import smtplib
import socket
import sys
import threading
import time
import urllib.request

PATIENCE = 10.0
ATTEMPT = 4.0
PAUSE = 0.4
MAIL_DEADLINE = 60.0
FAULTS = (OSError, EOFError, ftplib.Error, imaplib.IMAP4.error, smtplib.SMTPException)


def http(address, _password, site=""):
    literal = f"[{address}]" if ":" in address else address
    request = urllib.request.Request(f"http://{literal}/", headers={"Host": site} if site else {})
    with urllib.request.urlopen(request, timeout=ATTEMPT) as answer:
        if f"<title>{site.split('.')[0]}".encode() not in answer.read():
            raise OSError("not the page")


def imap(address, password):
    with imaplib.IMAP4(address, timeout=ATTEMPT) as session:
        session.login("bob", password)
        session.select("INBOX", readonly=True)


def ftp(address, password):
    with ftplib.FTP(timeout=ATTEMPT) as session:
        session.connect(address)
        session.login("bob", password)
        store = io.BytesIO()
        session.retrbinary("RETR hello.txt", store.write)
        if store.getvalue() != b"a file of bob\n":
            raise OSError("another file")


def smtp(address, _password):
    with smtplib.SMTP(address, timeout=ATTEMPT) as session:
        session.helo("customer.example.com")


def ssh(address, _password):
    with socket.create_connection((address, 22), timeout=ATTEMPT) as session:
        if not session.recv(64).startswith(b"SSH-2.0"):
            raise OSError("no SSH banner")


PROTOCOLS = {"http": http, "imap": imap, "ftp": ftp, "smtp": smtp, "ssh": ssh}


class Customer(threading.Thread):
    """Uses one service again and again until told to stop, and counts."""

    def __init__(self, protocol, name, use, stop, pause):
        super().__init__(daemon=True)
        self.protocol, self.target, self.use, self.stop, self.pause = protocol, name, use, stop, pause
        self.clear()

    def clear(self):
        self.requests = self.failed = self.retried = 0
        self.longest_gap = 0.0
        self.errors = []

    def run(self):
        while not self.stop.wait(self.pause):
            self.requests += 1
            started = time.monotonic()
            for attempt in itertools.count():
                try:
                    self.use()
                    self.retried += attempt > 0
                    break
                except FAULTS as error:
                    self.errors = [*self.errors, f"{type(error).__name__}: {error}"][-3:]
                    if time.monotonic() - started > PATIENCE:
                        self.failed += 1
                        break
                    self.stop.wait(0.05)
            self.longest_gap = max(self.longest_gap, time.monotonic() - started)

    def report(self):
        return {
            "protocol": self.protocol, "target": self.target, "family": "ipv4", "requests": self.requests,
            "failed": self.failed, "retried": self.retried, "longest_gap_s": round(self.longest_gap, 3),
            "last_errors": self.errors,
        }  # fmt: skip


class Sender:
    """Hands numbered mails to the MX, to each machine directly and through each machine's forwarding address."""

    def __init__(self, mx, machines):
        self.mx = mx
        self.run = f"{time.time_ns():x}"
        self.goals = [(f"bob@{name}.example.net", name) for name in machines]
        others = {name: next(other for other in machines if other != name) for name in machines}
        self.goals += [(f"forward@{name}.example.net", others[name]) for name in machines]
        self.sent = {}
        self.refused = 0

    def send(self):
        number = len(self.sent)
        recipient, machine = self.goals[number % len(self.goals)]
        mark = f"{self.run}-{number}"
        try:
            with smtplib.SMTP(self.mx, timeout=ATTEMPT) as session:
                text = f"Subject: lab {mark}\r\n\r\nnumber {number}\r\n"
                session.sendmail("customer@example.com", [recipient], text)
        except smtplib.SMTPRecipientsRefused as error:
            self.refused += any(code >= 500 for code, _words in error.recipients.values())
            raise
        except smtplib.SMTPResponseException as error:
            self.refused += error.smtp_code >= 500
            raise
        self.sent[mark] = machine

    def arrived(self, machines, password):
        """Return {mark: headers of each copy} of this run's mails in the mailboxes."""
        found = collections.defaultdict(list)
        for address in machines.values():
            with imaplib.IMAP4(address, timeout=ATTEMPT) as session:
                session.login("bob", password)
                session.select("INBOX", readonly=True)
                numbers = session.search(None, "SUBJECT", f'"lab {self.run}-"')[1][0].split()
                if numbers:
                    for part in session.fetch(b",".join(numbers).decode(), "(BODY.PEEK[HEADER])")[1]:
                        if isinstance(part, tuple):
                            text = part[1].decode(errors="replace")
                            found[re.search(r"Subject: lab (\S+)", text).group(1)].append(text)
        return found


def run(order):
    stop = threading.Event()
    password, machines = order["password"], order["machines"]
    sender = Sender(order["mx"], machines)
    pauses = collections.defaultdict(lambda: PAUSE, order.get("pauses", {}))
    customers = [Customer("smtp", "mx1", sender.send, stop, pauses["smtp"])]
    # Not SSH: since OpenSSH 9.8, who comes and goes without a login is kept out for a while (PerSourcePenalties).
    for protocol, places in (("imap", machines), ("ftp", machines), ("http", order["sites"])):
        for name, address in places.items():
            action = functools.partial(PROTOCOLS[protocol], address, password)
            customers.append(Customer(protocol, name, action, stop, pauses[protocol]))
    for customer in customers:
        customer.start()
    for _line in sys.stdin:
        print(json.dumps([customer.report() for customer in customers]), flush=True)
        for customer in customers:
            customer.clear()
    stop.set()
    for customer in customers:
        customer.join()
    deadline, found = time.monotonic() + MAIL_DEADLINE, {}
    while True:
        try:
            found = sender.arrived(machines, password)
        except FAULTS as error:
            print(f"mailboxes: {type(error).__name__}: {error}", file=sys.stderr)
        if len(found) == len(sender.sent) or time.monotonic() > deadline:
            break
        time.sleep(0.5)
    lost = sorted(set(sender.sent) - set(found))
    over_ipv6 = sum("IPv6:" in copies[0] for copies in found.values())
    return {
        "mail": {
            "sent": len(sender.sent), "delivered": len(sender.sent) - len(lost), "lost": len(lost),
            "duplicated": sum(len(copies) - 1 for copies in found.values()), "refused": sender.refused,
            "delivered_over_ipv6": over_ipv6, "lost_marks": lost,
        },
        "requests": [customer.report() for customer in customers],
    }  # fmt: skip


def prove(order):
    results = []
    for target in order["addresses"]:
        for protocol in target["protocols"]:
            result = {key: target[key] for key in ("host", "family", "address")}
            result.update(protocol=protocol, ok=True, error="")
            try:
                site = {"site": target["site"]} if "site" in target else {}
                PROTOCOLS[protocol](target["address"], order["password"], **site)
            except FAULTS as error:
                result.update(ok=False, error=f"{type(error).__name__}: {error}")
            results.append(result)
    return {"proof": results}


if __name__ == "__main__":
    order = json.loads(sys.stdin.readline())
    print(json.dumps({"run": run, "prove": prove}[order["mode"]](order)))
