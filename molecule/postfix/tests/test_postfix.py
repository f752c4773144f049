"""Mail arrives and leaves over both families; strangers relay over neither."""

import pytest

GREETING = "220 {name}.example.net"


@pytest.mark.parametrize("name", ["mx1", "web1", "web2"])
def test_the_server_greets_on_both_families(lab, name):
    for client, address in lab.paths(name):
        assert lab.greeting(client, address, 25).startswith(GREETING.format(name=name))


TALK = (
    "import smtplib; s = smtplib.SMTP('{address}', timeout=5); s.helo('client.example');"
    " s.mail('a@example.com'); print(s.rcpt('{recipient}')[0])"
)


def relay(lab, client, server, recipient):
    """Return the server's code for CLIENT's wish to send to RECIPIENT over IPv6."""
    script = TALK.format(address=lab.addresses(server)[1], recipient=recipient)
    return int(lab(client).check_output(f'python3 -c "{script}"'))


def test_the_relay_knows_its_machines_by_their_new_addresses(lab):
    assert relay(lab, "web1", "mx1", "somebody@elsewhere.example") == 250


def test_a_machine_relays_for_nobody(lab):
    assert relay(lab, "web2", "web1", "somebody@elsewhere.example") == 554


def test_both_families_relay_a_mail_from_machine_to_machine(lab):
    web1, web2 = lab("web1"), lab("web2")
    mark = web1.check_output("date +%s%N")
    # The name server has no AAAA yet: the address says which family is meant.
    hop = f"[{lab.addresses('mx1')[1]}]"
    web1.run_expect([0], f"postconf -e 'relayhost = {hop}' && postfix reload")
    try:
        web1.run_expect(
            [0], f"printf 'Subject: {mark}\\n\\nx\\n' | sendmail -f bob@web1.example.net bob@int.web2.example.net"
        )
        web2.run_expect(
            [0], f"timeout 20 sh -c 'until grep -rq \"Subject: {mark}\" /home/bob/Maildir/new; do sleep 0.1; done'"
        )
    finally:
        web1.run_expect([0], "postconf -e 'relayhost = [mx1.example.net]' && postfix reload")
    inside = lab.addresses("web1")[2]
    assert f"[IPv6:{inside}]" in web2.check_output(f"grep -rh -B 30 'Subject: {mark}' /home/bob/Maildir")


@pytest.mark.parametrize("name", ["web1", "web2", "mx1"])
def test_only_the_lines_in_question_have_changed(lab, name):
    with open(f"{lab.root}/tests/lab/hosts/{name}/etc/postfix/main.cf", encoding="utf-8") as stream:
        legacy = stream.read().splitlines()
    now = lab(name).file("/etc/postfix/main.cf").content_string.splitlines()
    changed = {line.split("=")[0].strip() for line in set(now) - set(legacy)}
    assert (
        changed <= {"inet_protocols", "mynetworks", "smtp_bind_address6", "198.51.100.0/24 [::1]/128"} or name == "mx1"
    )
    assert [line for line in legacy if line.startswith("#")] == [line for line in now if line.startswith("#")]
