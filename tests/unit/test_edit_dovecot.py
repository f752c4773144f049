"""Dovecot's configuration of many files: twins where IPv4 is pinned, and which services there are to ask."""

import pytest
from module_utils._edit_dovecot import edit, sites, sockets
from module_utils._errors import InputError

MAIN = "/etc/dovecot/dovecot.conf"
SIX = "2001:db8::10"
ADDRESS = {"listen": {"add": [f"[{SIX}]"]}}
NETWORKS = {"networks": {"192.0.2.0/24": ["2001:db8:1::/64", "2001:db8:2::/64"], "198.51.100.0/24": []}}
BLOCK = "service imap-login {{\n  inet_listener imap {{\n    {}\n  }}\n}}\n"


def one(text, settings=ADDRESS):
    return edit(MAIN, {MAIN: text}.get, settings).get(MAIN, text)


def refused(text, settings=ADDRESS):
    with pytest.raises(InputError) as error:
        one(text, settings)
    return error.value.problems


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("listen = *  # all\n", "listen = *, ::  # all\n"),
        ("listen=192.0.2.1\r\n", f"listen=192.0.2.1, {SIX}\r\n"),
        ("listen = * 192.0.2.1\n", "listen = * 192.0.2.1 ::\n"),
        ("listen = 192.0.2.1,192.0.2.2", f"listen = 192.0.2.1,192.0.2.2, {SIX}"),
        ("listen = *, [::]\n", None),
        ('listen = "*"  # all\n', 'listen = "*, ::"  # all\n'),
        ('listen = "*, ::"\n', None),
        ("listen = '192.0.2.1 [::1]'\n", f"listen = '192.0.2.1 [::1] {SIX}'\n"),
        ("listen = 127.0.0.1\n", None),
        ("listen = localhost\n", None),
        ("listen = ::\n", None),
        ("#listen = *\n", None),
        ("", None),
        ("service x {\n  listen = *\n}\n", None),
        (
            "plugin {\n  a = b } c {\n}\nlisten = *\nlisten = *\n",
            "plugin {\n  a = b } c {\n}\nlisten = *\nlisten = *, ::\n",
        ),
        (BLOCK.format("address = 192.0.2.1"), BLOCK.format(f"address = 192.0.2.1, {SIX}")),
        (BLOCK.format("listen = 0.0.0.0 # why"), BLOCK.format("listen = 0.0.0.0, :: # why")),
        (BLOCK.format("address = 127.0.0.1"), None),
        (BLOCK.format("port = 143"), None),
        (
            "service/imap-login/inet_listener/imap/listen = *\n",
            "service/imap-login/inet_listener/imap/listen = *, ::\n",
        ),
        ("protocol imap {\n  listen = *\n}\n", "protocol imap {\n  listen = *, ::\n}\n"),
        ("listen {\n  * = yes\n  :: = yes\n}\n", None),
    ],
)
def test_each_pinned_listener_gets_its_twin(old, new):
    assert one(old) == (old if new is None else new)


def test_only_the_assignment_in_force_is_edited_whichever_file_it_is_in(tmp_path):
    (tmp_path / "conf.d").mkdir()
    main, first, last = tmp_path / "dovecot.conf", tmp_path / "conf.d" / "10-a.conf", tmp_path / "conf.d" / "20-b.conf"
    main.write_text(
        "listen = *\n!include conf.d/*.conf\n!include_try gone.conf\nlogin_trusted_networks = 192.0.2.0/24\n"
    )
    first.write_text("listen = *\n" + BLOCK.format("address = *"))
    last.write_text("listen = *\n")
    changed = edit(str(main), {str(path): path.read_text() for path in (main, first, last)}.get, ADDRESS)
    assert changed == {str(first): "listen = *\n" + BLOCK.format("address = *, ::"), str(last): "listen = *, ::\n"}


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (
            "login_trusted_networks = 192.0.2.0/24 10.0.0.0/8 2001:db8:9::/48\n",
            "login_trusted_networks = 192.0.2.0/24 10.0.0.0/8 2001:db8:9::/48 2001:db8:1::/64 2001:db8:2::/64\n",
        ),
        ("haproxy_trusted_networks = 198.51.100.0/24\n", None),
        ("login_trusted_networks = 127.0.0.1\n", "login_trusted_networks = 127.0.0.1, ::1\n"),
        (
            "passdb {\n  args = nopassword allow_nets=192.0.2.0/24 x=1\n}\n",
            "passdb {\n  args = nopassword allow_nets=192.0.2.0/24,2001:db8:1::/64,2001:db8:2::/64 x=1\n}\n",
        ),
        (
            "passdb a {\n  fields {\n    allow_nets = 192.0.2.0/24\n  }\n}\n",
            "passdb a {\n  fields {\n    allow_nets = 192.0.2.0/24, 2001:db8:1::/64, 2001:db8:2::/64\n  }\n}\n",
        ),
    ],
)
def test_lists_of_networks_get_the_twins_that_are_named(old, new):
    assert one(old, NETWORKS) == (old if new is None else new)
    assert one(old, ADDRESS) == old


def test_all_that_cannot_be_edited_is_told_at_once_with_its_place():
    text = "listen = mail.example.net\n" + BLOCK.format("address = $x, *") + "login_trusted_networks = 203.0.113.0/24\n"
    problems = refused(text, {**ADDRESS, **NETWORKS})
    assert [problem.partition(":")[0] for problem in problems] == [MAIN] * 3
    assert [problem.split(": ")[1] for problem in problems] == ["line 1", "line 4", "line 7"]
    assert "203.0.113.0/24" in problems[2]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("listen = 192.0.2.1\n", "no IPv6 address is named"),
        ("listen = * \\\n  192.0.2.1\n", "not a plain list"),
        ('listen = "*" "192.0.2.1"\n', "not a plain list"),
        ("listen {\n  * = yes\n}\n", "is a block"),
        ("service x {\n", "has no end"),
        ("}\n", "none has opened"),
    ],
)
def test_what_is_not_safe_is_refused(text, reason):
    assert reason in refused(text, {})[0]


def test_services_and_their_addresses_follow_from_the_configuration():
    text = (
        "protocols = imap\nprotocols = $protocols sieve\nprotocols {\n  pop3 = yes\n}\nlisten = *, ::\n"
        "service imap-login {\n  inet_listener imap {\n    address = 127.0.0.1\n  }\n"
        "  inet_listener imaps {\n    port = 0\n  }\n"
        "  inet_listener other {\n    port = 1143\n    listen = 192.0.2.1 2001:db8::10\n  }\n}\n"
    )
    found = {site.port: site for site in sites(MAIN, {MAIN: text}.get)}
    assert sorted(found) == [110, 143, 995, 1143, 4190]
    assert (found[143].ipv4, found[143].ipv6) == (("127.0.0.1",), ())
    assert (found[1143].ipv4, found[1143].ipv6) == (("192.0.2.1",), (SIX,))
    assert (found[110].ipv4, found[110].ipv6) == (("127.0.0.1",), ("::1",))
    assert found[110].greeting and not found[995].greeting
    assert (SIX, "1143") in sockets(MAIN, {MAIN: text}.get)
    assert 995 not in {site.port for site in sites(MAIN, {MAIN: f"ssl = no\n{text}"}.get)}


def test_a_line_that_goes_on_is_one_value():
    text = "postmaster_address = \\\n# between\n\nlisten=192.0.2.1\nlisten = *\n"
    assert one(text) == text.replace("listen = *", "listen = *, ::")
    assert refused("listen = \\\n  *\n")
    inline = "passdb {\n  args = nopassword=y \\\n    allow_nets=192.0.2.0/24\n}\n"
    assert one(inline, NETWORKS) == inline.replace("/24", "/24,2001:db8:1::/64,2001:db8:2::/64")
