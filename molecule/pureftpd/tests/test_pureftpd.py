"""A customer logs in and fetches a file over either family, with TLS too; what would send people away is refused."""

import contextlib
import json
import subprocess

import pytest

CONF = "/etc/pure-ftpd/conf"
# EPSV over both families; ftplib takes PASV for IPv4 unless it is told that the session is IPv6.
FETCH = """
import ftplib, json, socket, ssl, sys
order = json.loads(sys.argv[1])
context = ssl._create_unverified_context()
session = ftplib.FTP_TLS(context=context) if order["tls"] else ftplib.FTP()
session.connect(order["address"], 21, timeout=5)
session.login("bob", order["password"])
if order["tls"]:
    session.prot_p()
if order["extended"]:
    session.af = socket.AF_INET6
lines = []
session.retrlines("RETR hello.txt", lines.append)
session.quit()
print(lines[0])
"""


def fetched(lab, client, address, extended=True, tls=False):
    """Return the first line of the file that CLIENT gets, or the error."""
    password = json.loads((lab.root / "build" / "lab" / "secrets.json").read_text())["password"]
    order = json.dumps({"address": address, "password": password, "extended": extended, "tls": tls})
    done = subprocess.run(
        lab.command(client, "python3", "-", order), input=FETCH, capture_output=True, text=True, check=False
    )
    return (done.stdout or done.stderr).strip()


@contextlib.contextmanager
def option(lab, name, key, value):
    """Give the host one more option for a while, in force."""
    host, path = lab(name), f"{CONF}/{key}"
    host.run_expect([0], f"echo '{value}' > {path} && systemctl restart pure-ftpd")
    try:
        yield path
    finally:
        host.run_expect([0], f"rm -f {path} && systemctl reset-failed pure-ftpd && systemctl restart pure-ftpd")


def clients(lab, machine):
    return [("web2" if machine == "web1" else "web1", address) for address in lab.addresses(machine)]


def test_a_customer_fetches_a_file_on_each_address(lab, machine):
    for client, address in clients(lab, machine):
        assert fetched(lab, client, address) == "a file of bob", address


def test_old_customers_fetch_it_as_before(lab, machine):
    client, address = clients(lab, machine)[0]
    assert fetched(lab, client, address, extended=False) == "a file of bob"


def test_names_of_customers_are_not_looked_up(lab, machine):
    assert lab(machine).file(f"{CONF}/DontResolve").content_string == "yes\n"
    assert " -H" in lab(machine).check_output("pure-ftpd-wrapper --show-options")


def test_transfers_are_encrypted_over_both_families(lab, machine):
    key = "/etc/ssl/private/pure-ftpd.pem"
    lab(machine).run_expect(
        [0],
        f"openssl req -x509 -newkey rsa:2048 -nodes -keyout {key} -out {key}.crt -subj /CN=x && cat {key}.crt >> {key}",
    )
    try:
        with option(lab, machine, "TLS", "2"):
            status, said = lab.role(machine, "pureftpd")
            assert status == 0, said
            for client, address in clients(lab, machine):
                assert fetched(lab, client, address, tls=True) == "a file of bob", address
                assert "cleartext sessions" in fetched(lab, client, address), address
    finally:
        lab(machine).run_expect([0], f"rm {key} {key}.crt")


def test_the_way_back_is_exact(lab, reverted):
    for path, text in lab.legacy(reverted, CONF).items():
        assert lab(reverted).file(path).content_string == text, path
    assert not lab(reverted).file(f"{CONF}/DontResolve").exists
    (client, ipv4), (_client, ipv6), _inside = clients(lab, reverted)
    assert fetched(lab, client, ipv4) == "a file of bob"
    assert "refused" in fetched(lab, client, ipv6)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("TrustedIP", "198.51.100.99", "only sessions to 198.51.100.99 may log in"),
        ("ForcePassiveIP", "2001:db8::1", "2001:db8::1 makes Pure-FTPd refuse every session"),
        ("MinUID", "many", "Invalid configuration file"),
    ],
)
def test_what_would_send_people_away_is_refused_and_nothing_changes(lab, reverted, key, value, words):
    host = lab(reverted)
    kept = {path: text for path, text in lab.legacy(reverted, CONF).items() if not path.endswith(f"/{key}")}
    old = host.run(f"cat {CONF}/{key}").stdout
    before = lab.listeners(reverted)
    host.run_expect([0], f"echo '{value}' > {CONF}/{key}")
    try:
        status, said = lab.role(reverted, "pureftpd")
    finally:
        host.run_expect([0], f"printf '{old}' > {CONF}/{key}" if old else f"rm {CONF}/{key}")
    assert status != 0
    assert words in said
    assert {path: host.file(path).content_string for path in kept} == kept
    assert lab.listeners(reverted) == before


def test_a_port_that_another_process_has_changes_nothing(lab, reverted):
    """The restart says that all is well, whatever happens."""
    lab.refuses_taken(reverted, "pureftpd", 21)
    lab.is_legacy(reverted, CONF)
