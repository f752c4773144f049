"""One mail server of each release, apart from the lab: its gate for outbound mail, its tables, its refusals."""

import contextlib
import queue
import subprocess
import threading

import pytest

TALK = """
import smtplib, sys
def rcpt(source, server):
    with smtplib.SMTP(server, local_hostname='client.example', source_address=(source, 0), timeout=5) as session:
        session.helo()
        session.mail('a@example.com')
        return session.rcpt('b@elsewhere.example')[0]
"""
# Takes every mail and writes down over what it came; one address of it for each family.
SINK = """
import socket, socketserver
class Session(socketserver.StreamRequestHandler):
    def handle(self):
        answers = {'DATA': '354 go on', '.': '250 taken', 'QUIT': '221 bye'}
        self.wfile.write(b'220 sink\\r\\n')
        inside = False
        for line in self.rfile:
            word = line.decode().strip()
            if word.startswith('Subject: '):
                with open('/run/sink', 'a') as log:
                    print(word[9:], self.client_address[0], file=log)
            verb = word.split()[0].upper() if word else ''
            if not inside or word == '.':
                self.wfile.write((answers.get(verb, '250 well') + '\\r\\n').encode())
            inside = verb == 'DATA' or (inside and word != '.')
class Six(socketserver.ThreadingTCPServer):
    address_family = socket.AF_INET6
import threading
threading.Thread(target=Six(('2001:db8::10', 2525), Session).serve_forever).start()
socketserver.ThreadingTCPServer(('192.0.2.10', 2525), Session).serve_forever()
"""
# Strangers try to relay again and again, until standard input ends.
STRANGERS = (
    TALK
    + """
import select
servers = {'ipv4': ('203.0.113.9', '192.0.2.10'), 'ipv6': ('2001:db8:f::9', '2001:db8::10')}
while not select.select([sys.stdin], [], [], 0)[0]:
    for family, (source, server) in servers.items():
        try:
            print(family, rcpt(source, server), flush=True)
        except (OSError, smtplib.SMTPException):
            print(family, 0, flush=True)
"""
)
STRANGER = ("203.0.113.9", "2001:db8:f::9")
# By a CIDR table, by an indexed table, by a word of the list.
PEERS = [("192.0.2.21", "2001:db8::21"), ("192.0.2.40", "2001:db8::40"), ("198.51.100.5", "2001:db8:c::5")]
TWINS = {
    "192.0.2.16/28": ["2001:db8::20/124"],
    "192.0.2.40": ["2001:db8::40/128"],
    "198.51.100.0/24": ["2001:db8:c::/64"],
}
SERVERS = ("192.0.2.10", "2001:db8::10")


@pytest.fixture(scope="module", params=["bookworm", "trixie"])
def server(request, bare):
    """A mail server as Debian installs it, with the addresses of its peers and of a stranger."""
    with bare(request.param) as host:
        for four, six in [*PEERS, STRANGER, ("192.0.2.11", "2001:db8::11")]:
            host.sh(f"ip address add {four}/32 dev lo; ip address add {six}/128 dev lo nodad")
        host.sh("cat > /root/talk.py", stdin=TALK + "print(rcpt(*sys.argv[1:]))")
        host.sh("cat > /root/sink.py", stdin=SINK)
        host.sh("cat >> /etc/hosts", stdin="127.0.0.1 localhost\n192.0.2.10 sink.example\n2001:db8::10 sink.example\n")
        host.sh("systemd-run --quiet --unit sink python3 /root/sink.py; cp -a /etc/postfix /root/fresh")
        yield host


@pytest.fixture
def fresh(server):
    """The same server with the configuration of a fresh installation, started."""
    server.sh(
        "systemctl stop postfix; rm -rf /etc/postfix /var/lib/dualstack /run/sink; cp -a /root/fresh /etc/postfix"
    )
    server.sh("systemctl reset-failed 'postfix*'; systemctl start postfix; postsuper -d ALL")
    return server


def config(host):
    """Return what identifies every byte of the configuration, and the listeners."""
    return host.sh(
        "cd /etc/postfix && find . -type f ! -name '*.db' -exec sha256sum {} + | sort;"
        # No two files of this format are alike.
        " for index in *.db; do [ ! -e $index ] || postmap -s hash:${index%.db}; done;"
        " ss -Hltn sport = :25 | awk '{print $4}' | sort"
    )


def rcpt(host, source, server):
    return int(host.sh(f"python3 /root/talk.py {source} {server}"))


def answers(host, clients, family):
    return [rcpt(host, client[family], SERVERS[family]) for client in clients]


def arrival(host, mark):
    """Send a mail to a name with both families, and return the address that it came from."""
    host.sh(f"printf 'Subject: {mark}\\n\\nx\\n' | sendmail -f a@example.com b@elsewhere.example")
    host.sh(f"timeout 20 sh -c 'until grep -q \"^{mark} \" /run/sink; do sleep 0.05; done'")
    return host.sh(f"sed -n 's/^{mark} //p' /run/sink")


def sender(host, *settings):
    """Let HOST send all mail to the sink, by IPv6 where it can."""
    words = ["smtp_host_lookup=native", "relayhost=[sink.example]:2525", "smtp_address_preference=ipv6", *settings]
    host.sh(f"postconf -e {' '.join(words)}; systemctl restart postfix")


def test_a_default_server_sends_over_ipv4_until_its_gate_is_open(fresh):
    sender(fresh)
    before = config(fresh)
    assert arrival(fresh, "before") == "2001:db8::10", (
        "without a pin, mail leaves over IPv6 as soon as there is an address"
    )
    fresh.apply("postfix", tasks_from="policy")
    assert arrival(fresh, "pinned") == "192.0.2.10"
    fresh.apply("postfix", postfix_ipv6_source_address="2001:db8::11")
    assert arrival(fresh, "listening") == "192.0.2.10"
    gate = {"tasks_from": "policy", "postfix_ipv6_source_address": "2001:db8::11"}
    assert fresh.apply("postfix", **gate, postfix_ipv6_outbound="open").changed
    assert arrival(fresh, "open") == "2001:db8::11"
    assert not fresh.apply("postfix", **gate, postfix_ipv6_outbound="open").changed
    assert fresh.apply("postfix", **gate).changed
    assert arrival(fresh, "closed") == "192.0.2.10"
    fresh.apply("postfix", postfix_ipv6_state="reverted")
    assert config(fresh) == before


def test_a_legacy_server_never_sends_over_ipv6_on_the_way(fresh):
    sender(fresh, "inet_protocols=ipv4")
    before = config(fresh)
    assert fresh.apply("postfix", "--check").changed
    assert config(fresh) == before
    fresh.apply("postfix")
    assert arrival(fresh, "listening") == "192.0.2.10"
    assert not fresh.apply("postfix").changed
    assert "-o inet_protocols=ipv4" in fresh.sh("postconf -M relay/unix")
    fresh.apply("postfix", postfix_ipv6_free_services=["smtp"])
    assert arrival(fresh, "free") == "2001:db8::10"
    fresh.apply("postfix", postfix_ipv6_state="reverted")
    assert config(fresh) == before


def test_peers_relay_by_their_twins_and_a_stranger_never(fresh):
    fresh.sh("cat > /etc/postfix/nets", stdin="# machines\n192.0.2.16/28 OK\n")
    fresh.sh("cat > /etc/postfix/peers", stdin="192.0.2.40 OK\n")
    fresh.sh(
        "postmap hash:/etc/postfix/peers; postconf -e inet_protocols=ipv4"
        " 'mynetworks = 127.0.0.0/8, 198.51.100.0/24, cidr:/etc/postfix/nets' 'smtpd_relay_restrictions ="
        " permit_mynetworks, check_client_access hash:/etc/postfix/peers, reject_unauth_destination'"
    )
    fresh.sh("systemctl restart postfix")
    before = config(fresh)
    assert answers(fresh, [*PEERS, STRANGER], 0) == [250, 250, 250, 554]
    with strangers(fresh) as tries:
        tries.wait("ipv4")
        fresh.apply("postfix", postfix_ipv6_networks=TWINS)
        tries.wait("ipv4", "ipv6")
        assert answers(fresh, [*PEERS, STRANGER], 0) == [250, 250, 250, 554]
        assert answers(fresh, [*PEERS, STRANGER], 1) == [250, 250, 250, 554]
        assert not fresh.apply("postfix", postfix_ipv6_networks=TWINS).changed
        fresh.apply("postfix", postfix_ipv6_networks=TWINS, postfix_ipv6_state="reverted")
        tries.wait("ipv4")
    assert tries.codes == {("ipv4", 0), ("ipv4", 554), ("ipv6", 0), ("ipv6", 554)}
    assert config(fresh) == before


def test_an_allow_list_that_knows_only_ipv4_is_given_the_peer(fresh):
    fresh.sh("cat > /etc/postfix/allowed", stdin="192.0.2.40 OK\n0.0.0.0/0 REJECT\n::/0 REJECT\n")
    fresh.sh(
        "postconf -e 'smtpd_client_restrictions = check_client_access cidr:/etc/postfix/allowed' mynetworks=127.0.0.0/8"
    )
    fresh.sh("systemctl restart postfix")
    assert answers(fresh, [PEERS[1]], 1) == [554]
    fresh.apply("postfix", postfix_ipv6_networks=TWINS)
    assert fresh.sh("cat /etc/postfix/allowed") == "192.0.2.40 OK\n2001:db8::40/128 OK\n0.0.0.0/0 REJECT\n::/0 REJECT"
    assert answers(fresh, [PEERS[1]], 1) == [454]  # let in, and no relay for it
    assert answers(fresh, [STRANGER], 1) == [554]


def test_what_cannot_be_edited_is_named_and_nothing_changes(fresh):
    fresh.sh("postconf -e 'mynetworks = 127.0.0.0/8, mysql:/etc/postfix/db.cf'")
    before = config(fresh)
    refused = fresh.apply("postfix", postfix_ipv6_networks=TWINS, fails=True)
    assert "mynetworks: mysql:/etc/postfix/db.cf is no file that can be edited" in refused.message
    assert config(fresh) == before


def test_a_broken_server_is_refused_in_the_words_of_postfix(fresh):
    fresh.sh("postconf -e inet_protocols=ipv4; systemctl restart postfix; postconf -e inet_interfaces=192.0.2.99")
    before = config(fresh)
    refused = fresh.apply("postfix", fails=True)
    assert "no local interface found for 192.0.2.99" in refused.message
    assert config(fresh) == before


def test_a_server_that_greets_and_answers_no_recipient_is_put_back(fresh):
    fresh.sh(
        "postconf -e 'smtpd_relay_restrictions = check_client_access hash:/etc/postfix/none, permit_mynetworks, reject'"
    )
    before = config(fresh)
    refused = fresh.apply("postfix", fails=True)
    assert "451 4.3" in refused.message
    assert config(fresh) == before


class Tries:
    """What strangers were told."""

    def __init__(self, process):
        self.process, self.codes, self.lines = process, set(), queue.Queue()
        threading.Thread(target=self.read, daemon=True).start()

    def read(self):
        for line in self.process.stdout:
            self.lines.put(line.split())

    def take(self, timeout):
        family, code = self.lines.get(timeout=timeout)
        self.codes.add((family, int(code)))
        return family if int(code) else ""

    def wait(self, *families):
        """Wait for a new answer in each of FAMILIES."""
        while not self.lines.empty():
            self.take(0)
        left = set(families)
        while left:
            left.discard(self.take(60))


@contextlib.contextmanager
def strangers(host):
    with subprocess.Popen(
        host.command("python3", "-c", STRANGERS), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        tries = Tries(process)
        yield tries
        process.stdin.close()
        process.wait(30)
        while not tries.lines.empty():
            tries.take(0)
