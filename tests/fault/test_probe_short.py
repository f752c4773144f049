"""service_probe against the daemons themselves: each fault is on IPv6 alone, and seen as what it is."""

import contextlib
import json
import re

import lab
import pytest
from conftest import HERE

NAMES = ("mail.example.net", "www.example.net", "other.example.net")
ADDRESSES = {"ipv4": "192.0.2.10", "ipv6": ["2001:db8::10"]}
ACCOUNT = {"name": "web1", "account": {"user": "bob", "password": "not-a-secret"}}
POSTFIX = """
postconf -e inet_protocols=all mydestination= myhostname=mail.example.net smtpd_tls_security_level=may \
    smtpd_tls_cert_file=/root/mail.example.net.pem smtpd_tls_key_file=/root/key.pem
postconf -M submission/inet='submission inet n - y - - smtpd -o smtpd_tls_security_level=encrypt' \
    submissions/inet='submissions inet n - y - - smtpd -o smtpd_tls_wrappermode=yes'
"""
DOVECOT = """
cat > /etc/dovecot/conf.d/99-test.conf << END
auth_allow_cleartext = no
ssl = yes
ssl_server_cert_file = /root/mail.example.net.pem
ssl_server_key_file = /root/key.pem
END
"""
FTP = """
useradd -m bob
echo bob:not-a-secret | chpasswd
cat /root/www.example.net.pem /root/key.pem > /etc/ssl/private/pure-ftpd.pem
echo 1 > /etc/pure-ftpd/conf/TLS
echo 30000 30009 > /etc/pure-ftpd/conf/PassivePortRange
touch /home/bob/a /home/bob/b
"""
WEB = """
mkdir -p /var/www/acme/.well-known/acme-challenge
head -c 300000 /dev/zero > /var/www/acme/large
echo text > /var/www/acme/.well-known/acme-challenge/dualstack-probe
cat > /etc/nginx/sites-enabled/default << END
server {
    listen 80; listen [::]:80; listen 443 ssl; listen [::]:443 ssl;
    server_name www.example.net;
    ssl_certificate /root/www.example.net.pem;
    ssl_certificate_key /root/key.pem;
    root /var/www/acme;
}
END
"""
CERTIFICATES = (
    "openssl req -x509 -newkey rsa:2048 -nodes -keyout /root/key.pem -out /dev/null -subj /CN=x -days 1; "
    + "; ".join(
        f"openssl req -x509 -key /root/key.pem -out /root/{name}.pem -subj /CN=x -addext subjectAltName=DNS:{name}"
        f" -days {3 if name == 'mail.example.net' else 300}"
        for name in NAMES
    )
)
UNITS = "postfix dovecot pure-ftpd nginx ssh named"
MAIL = ("smtp", "submission", "submissions", "imap", "imaps", "pop3", "pop3s")


@pytest.fixture(scope="module")
def host():
    with lab.scratch("trixie", "probe") as scratch:
        scratch.put_core(HERE / "probe_agent.py")
        scratch.run("sh", "-ec", CERTIFICATES + POSTFIX + DOVECOT + FTP + WEB)
        scratch.run("systemctl", "restart", *UNITS.split())
        yield scratch


def ask(host, *targets, **options):
    """Return the verdict and the details of each of TARGETS, and the summary of their host."""
    records = [{"name": "web1", **ADDRESSES, **target} for target in targets]
    done = lab.podman(
        "exec", "-i", "--env", "PYTHONPATH=/root/core", host.container, "python3", "/root/core/probe_agent.py",
        stdin=json.dumps({"targets": records, **options}).encode(),
    )  # fmt: skip
    told = json.loads(done.stdout)
    return told["results"], told["by_host"]["web1"]


@contextlib.contextmanager
def broken(host, do, undo):
    host.run("sh", "-ec", do)
    try:
        yield
    finally:
        host.run("sh", "-ec", undo)


def edited(path, line, unit):
    """Return how LINE is put at the end of PATH for the daemon UNIT, and how it goes again."""
    again = f"systemctl restart {unit}"
    return f"cp -a {path} /root/saved; echo '{line}' >> {path}; {again}", f"mv /root/saved {path}; {again}"


def test_each_service_is_the_same_over_both_families(host):
    targets = [{"protocol": protocol, "host_header": "mail.example.net"} for protocol in MAIL]
    targets += [
        {"protocol": protocol, "host_header": "www.example.net"} for protocol in ("http", "https", "acme", "ftp")
    ]
    targets += [{"protocol": "ssh"}, {"protocol": "dns", "dns_name": "127.in-addr.arpa"}]
    targets += [{"protocol": "http", "path": "/large", "min_bytes": 300000}, {"protocol": "mtu"}]
    results, summary = ask(host, *targets, {"protocol": "closed", "ports": [22, 3306]}, accounts=[ACCOUNT])
    assert {result["protocol"]: result["detail"] for result in results if result["verdict"] != "same"} == {}
    assert summary["ok"]
    for result in results:
        name = {"https": "www.example.net", "ftp": "www.example.net", **dict.fromkeys(MAIL, "mail.example.net")}
        for answer in (result["ipv4"], *result["ipv6"]):
            found = answer.get("certificate", {}).get("names")
            assert found == ([name[result["protocol"]]] if result["protocol"] in name else None), result
    by_protocol = {result["protocol"]: result for result in results}
    assert "open" not in by_protocol["closed"]["ipv6"][0]
    assert by_protocol["mtu"]["ipv6"][0]["banner"] == "1500 bytes there and back"
    assert by_protocol["acme"]["ipv6"][0]["status"] == 200
    assert by_protocol["smtp"]["ipv6"][0]["source"] == "2001:db8::10"
    assert set(summary["latency_ms"]) == {"ipv4", "ipv6"}
    assert summary["latency_ms"]["ipv6"] > 0
    # Three days are left of one certificate, and of no other.
    assert [remark for remark in summary["remarks"] if "ends at" not in remark] == []
    assert {remark.split()[1] for remark in summary["remarks"]} == set(MAIL)


def test_a_server_that_lists_tls_and_has_none_is_listed_in_plain_text(host):
    again = "systemctl restart pure-ftpd"
    with broken(host, f"echo 0 > /etc/pure-ftpd/conf/TLS; {again}", f"echo 1 > /etc/pure-ftpd/conf/TLS; {again}"):
        ((result,), _summary) = ask(host, {"protocol": "ftp"}, accounts=[ACCOUNT])
    assert result["verdict"] == "same", result
    assert "certificate" not in result["ipv6"][0]


def test_an_account_that_is_refused_is_no_proof(host):
    wrong = {"name": "web1", "account": {"user": "bob", "password": "wrong-one"}}
    ((result,), _summary) = ask(host, {"protocol": "ftp"}, accounts=[wrong], timeout=10)
    assert result["verdict"] == "both_failed", result
    assert "FTP: 530" in result["detail"]
    assert "wrong-one" not in str(result)


FAULTS = {
    "STARTTLS is not offered": (
        edited(
            "/etc/postfix/main.cf",
            "smtpd_discard_ehlo_keyword_address_maps = inline:{ {2001:db8::10 = starttls} }",
            "postfix",
        ),
        {"protocol": "submission"},
        "differs",
        "STARTTLS",
    ),
    "the mailboxes have another certificate": (
        edited(
            "/etc/dovecot/conf.d/99-test.conf",
            "local 2001:db8::10 {\n ssl_server_cert_file = /root/other.example.net.pem\n}",
            "dovecot",
        ),
        {"protocol": "imaps"},
        "differs",
        "certificate 'for mail.example.net until .*certificate 'for other.example.net until ",
    ),
    "POP3 behind STARTTLS has another certificate": (
        edited(
            "/etc/dovecot/conf.d/99-test.conf",
            "local 2001:db8::10 {\n ssl_server_cert_file = /root/other.example.net.pem\n}",
            "dovecot",
        ),
        {"protocol": "pop3"},
        "differs",
        "certificate 'for other.example.net until ",
    ),
    "passive ports are closed": (
        (
            "nft add table ip6 fault; nft 'add chain ip6 fault in { type filter hook input priority 0; }';"
            " nft add rule ip6 fault in tcp dport 30000-30009 reject with tcp reset",
            "nft delete table ip6 fault",
        ),
        {"protocol": "ftp"},
        "ipv6_failed",
        r"the passive data connection to port 3000\d: Connection refused",
    ),
    "another site answers the certificate authority": (
        edited(
            "/etc/nginx/sites-enabled/default",
            "server { listen [2001:db8::10]:80; location / { return 404; } }",
            "nginx",
        ),
        {"protocol": "acme", "host_header": "www.example.net"},
        "differs",
        "'HTTP 200 OK' .*'HTTP 404 Not Found'",
    ),
    "a database is open": (
        ("systemd-run -q --unit=open socat TCP6-LISTEN:3306,ipv6only,fork /dev/null", "systemctl stop open"),
        {"protocol": "closed", "ports": [22, 3306]},
        "exposed",
        "port 3306 open at 2001:db8::10, and not at 192.0.2.10",
    ),
}


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.replace(" ", "-"))
def test_a_fault_of_ipv6_alone_is_named(host, fault):
    (do, undo), target, verdict, words = FAULTS[fault]
    options = {"accounts": [ACCOUNT]} if target["protocol"] == "ftp" else {}
    with broken(host, do, undo):
        ((result,), summary) = ask(host, target, **options)
    assert result["verdict"] == verdict, result
    assert re.search(words, result["detail"]), result["detail"]
    assert not summary["ok"]
    assert result["protocol"] != "closed" or result["ipv4"]["open"] == [22]
