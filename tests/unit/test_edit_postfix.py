"""Postfix's own formats: over what its clients send, and the IPv6 twins of the networks that it knows."""

import pytest
from hypothesis import given
from hypothesis import settings as limits
from hypothesis import strategies as st
from module_utils._edit_postfix_twins import Twins
from module_utils._editors import edit
from module_utils._errors import InputError
from module_utils._postfix_tables import find, index_commands, parameters, patterns

SMTP = "smtp      unix  -       -       y       -       -       smtp\n"
RELAY = "relay     unix  -       -       y       -       -       smtp\n        -o syslog_name=postfix/$service_name\n"
FILTER = "filter unix - - n - 2 /usr/lib/postfix/sbin/smtp\n# a comment\n  -o smtp_send_xforward_command=yes\n"
SERVER = "smtp inet n - y - - smtpd\nlmtp unix - - y - - lmtp\n"
PIN = "  # IPv4 only until the mail gate is open (dualstack.fleet)\n  -o inet_protocols=ipv4\n"


def outbound(text, value, *free):
    return edit("postfix_master", text, {"outbound": value, "free": list(free)})


def test_every_smtp_client_is_pinned_and_nothing_else():
    pinned = outbound(SERVER + SMTP + RELAY + "# end\n", "pinned")
    assert pinned == SERVER + SMTP + PIN + RELAY + PIN + "# end\n"
    assert outbound(FILTER, "pinned") == FILTER + PIN


def test_a_free_service_is_not_pinned_and_is_freed_again():
    pinned = outbound(SMTP + RELAY, "pinned")
    assert outbound(pinned, "pinned", "relay") == SMTP + PIN + RELAY
    with pytest.raises(InputError, match="free: 'slow' is no SMTP client"):
        outbound(SMTP, "pinned", "slow")


@pytest.mark.parametrize("own", ["-o inet_protocols=ipv6", "-o { inet_protocols = all }", "-o {inet_protocols=all}"])
def test_what_an_administrator_says_stays(own):
    text = f"{SMTP}  {own}\n"
    for value in ("pinned", "open"):
        assert outbound(text, value) == text


def test_a_pin_that_was_edited_is_an_administrators():
    text = outbound(SMTP, "pinned").replace("=ipv4", "=all")
    for value in ("pinned", "open"):
        assert outbound(text, value) == text


@pytest.mark.parametrize("value", ["", "ipv4", "closed"])
def test_another_word_is_refused(value):
    with pytest.raises(InputError, match="neither pinned nor open"):
        outbound(SMTP, value)


PIECES = [SMTP, RELAY, FILTER, SERVER, "#smtp unix - - y - - smtp\n", "\n", "  \n", "  -o a=b\n", "  # why\n"]


@limits(max_examples=100, deadline=None)
@given(pieces=st.lists(st.sampled_from(PIECES), max_size=8), crlf=st.booleans(), open_end=st.booleans())
def test_opening_gives_back_every_byte(pieces, crlf, open_end):
    text = "".join(pieces)
    text = text[:-1] if open_end else text
    text = text.replace("\n", "\r\n") if crlf else text
    pinned = outbound(text, "pinned")
    assert outbound(pinned, "open") == text
    assert outbound(pinned, "pinned") == pinned
    assert pinned.count("inet_protocols") == sum(piece in (SMTP, RELAY, FILTER) for piece in pieces)


NET, HOST = "2001:db8:1::/64", "2001:db8:1::7/128"
TWINS = {"192.0.2.0/24": [NET], "192.0.2.7": [HOST], "198.51.100.1": []}


def twins(form, text, pairs=None):
    return edit(f"postfix_{form}", text, {"networks": TWINS if pairs is None else pairs})


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("mynetworks = 127.0.0.0/8, 192.0.2.0/24\n", "mynetworks = 127.0.0.0/8, 192.0.2.0/24, [2001:db8:1::]/64\n"),
        ("mynetworks = 192.0.2.0/23\n", "mynetworks = 192.0.2.0/23 [2001:db8:1::]/64 [2001:db8:1::7]/128\n"),
        (
            "debug_peer_list = !192.0.2.7 192.0.2.0/24\n",
            "debug_peer_list = !192.0.2.7 192.0.2.0/24 ![2001:db8:1::7]/128 [2001:db8:1::]/64\n",
        ),
        ("mynetworks = 192.0.2.0/24 [2001:DB8:1:0::]/64\n", None),
        ("mynetworks = 127.0.0.0/8 [::ffff:192.0.2.0]/120 198.51.100.1 203.0.113.0/24 hash:/etc/n\n", None),
        ("relayhost = 192.0.2.7\n", None),
    ],
)
def test_lists_of_clients_get_twins(old, new):
    assert twins("lists", old) == (new or old)


@pytest.mark.parametrize("form", ["lists", "list", "cidr", "indexed"])
def test_a_part_of_a_prefix_needs_a_twin_of_its_own(form):
    text = "mynetworks = 192.0.2.9 192.0.2.8\n" if form == "lists" else "192.0.2.9 OK\n192.0.2.8 OK\n"
    with pytest.raises(InputError, match=r"part of 192\.0\.2\.0/24") as caught:
        twins(form, text)
    assert len(caught.value.problems) == 2


def test_a_file_of_words_gets_a_line():
    assert twins("list", "# ours\n192.0.2.0/24") == "# ours\n192.0.2.0/24\n[2001:db8:1::]/64\n"
    assert twins("list", "# 192.0.2.0/24\n") == "# 192.0.2.0/24\n"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("192.0.2.0/24\tOK\n203.0.113.0/24 OK\n", "192.0.2.0/24\tOK\n2001:db8:1::/64\tOK\n203.0.113.0/24 OK\n"),
        (
            "192.0.2.7 REJECT\n  # why\n  go away\n192.0.2.0/24 OK",
            "192.0.2.7 REJECT\n  # why\n  go away\n2001:db8:1::7/128 REJECT\n  go away\n"
            "192.0.2.0/24 OK\n2001:db8:1::/64 OK",
        ),
        ("!192.0.2.0/24 REJECT\n", "!192.0.2.0/24 REJECT\n!2001:db8:1::/64 REJECT\n"),
        ("192.0.2.0/24 OK\n2001:DB8:1::/64 REJECT\n", None),
        ("192.0.2.7 OK\n2001:db8:1::7 OK\n", None),
        ("if 203.0.113.0/24\n203.0.113.9 OK\nendif\n", None),
    ],
)
def test_cidr_tables_get_a_copy_of_the_line(old, new):
    assert twins("cidr", old) == (new or old)


def test_a_line_for_everybody_else_needs_its_own_twin():
    text = "192.0.2.7 OK\n0.0.0.0/0 REJECT\n"
    with pytest.raises(InputError, match=r"line 2: 0\.0\.0\.0/0 decides on all others"):
        twins("cidr", text)
    assert (
        twins("cidr", text + "::/0 REJECT\n")
        == text.replace("0.0.0.0", "2001:db8:1::7/128 OK\n0.0.0.0") + "::/0 REJECT\n"
    )


def test_a_block_of_a_cidr_table_is_left_to_its_author():
    with pytest.raises(InputError, match=r"line 2: 192\.0\.2\.0/24 has twins, and is the cond"):
        twins("cidr", "\nif 192.0.2.0/24\n192.0.2.7 OK\nendif\n")


def test_indexed_tables_know_single_addresses():
    assert twins("indexed", "192.0.2.7 OK\r\n") == "192.0.2.7 OK\r\n2001:db8:1::7 OK\r\n"
    assert twins("indexed", "relay.example OK\n203.0.113 OK\n") == "relay.example OK\n203.0.113 OK\n"
    with pytest.raises(InputError, match=r"line 1: 192\.0\.2 has the twin .* make it a CIDR table"):
        twins("indexed", "192.0.2 OK\n")


@pytest.mark.parametrize(
    ("six", "reason"),
    [
        ("2001:db8::1/64", "host bits"),
        ("[2001:db8::]/64", "without brackets"),
        ("::/0", "whole internet"),
        ("::ffff:192.0.2.0/120", "mapped IPv4"),
        ("192.0.2.0/24", "not an IPv6 prefix"),
    ],
)
def test_a_twin_that_would_open_or_break_the_relay_is_refused(six, reason):
    with pytest.raises(InputError, match=reason):
        twins("lists", "", {"203.0.113.0/24": [six]})


def test_all_wrong_twins_are_named_at_once():
    with pytest.raises(InputError) as caught:
        Twins({"192.0.2.1/24": [NET], "x": [], "192.0.2.0/24": ["::/0", "x"]})
    assert len(caught.value.problems) == 4


def test_mapped_ipv4_is_refused_as_a_network_and_left_where_it_stands():
    text = "mynetworks = 127.0.0.0/8 [::ffff:127.0.0.0]/104\n"
    assert edit("postfix", text, {"mynetworks": {"add": ["[::1]/128"]}}) == text[:-1] + " [::1]/128\n"
    with pytest.raises(InputError, match="matches no client"):
        edit("postfix", text, {"mynetworks": {"add": ["[::ffff:192.0.2.0]/120"]}})


MAIN = """mynetworks = 127.0.0.0/8, cidr:/etc/postfix/nets /etc/postfix/words [2001:db8::]/64
smtpd_client_restrictions = check_client_access proxy:hash:/etc/postfix/clients, check_client_access pcre:/etc/p
smtpd_relay_restrictions = check_client_access { texthash:/etc/postfix/relays, search_order = ip }
relay_domains = hash:/etc/postfix/domains
"""
MASTER = "submission/inet/smtpd_client_restrictions = check_client_access hash:/etc/postfix/clients"


def test_the_tables_that_clients_are_looked_up_in_are_found():
    tables, problems = find(parameters(MAIN, MASTER), Twins(TWINS))
    assert problems == []
    assert [table.name for table in tables] == [
        "cidr:/etc/postfix/nets",
        "/etc/postfix/words",
        "hash:/etc/postfix/clients",
        "texthash:/etc/postfix/relays",
    ]
    assert index_commands(tables) == [["postmap", "hash:/etc/postfix/clients"]]


@pytest.mark.parametrize("name", ["mysql:/etc/postfix/db.cf", "proxy:ldap:/etc/x", "hash:relative", "inline:x"])
def test_a_table_that_cannot_be_edited_is_named(name):
    values = parameters(f"mynetworks = {name}\n")
    tables, [problem] = find(values, Twins(TWINS))
    assert tables == []
    assert problem.startswith(f"mynetworks: {name.replace('proxy:', '')} is no file")
    assert find(values, Twins(TWINS), [name.replace("proxy:", "")]) == ([], [])


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a inet n - y - - smtpd -o mynetworks=x\nsmtp inet n - y - - smtpd -o mynetworks=192.0.2.0/24\n", 2),
        (
            "smtp inet n - y - - smtpd\n# -o mynetworks=192.0.2.0/24\n\n  -o a=b\n  -o { mynetworks = 192.0.2.0/24 }\n",
            5,
        ),
        ("smtp unix - - y - - smtp\n -o mynetworks=x\nsmtp inet n - y - - smtpd\n\t-o mynetworks=192.0.2.0/24\n", 4),
    ],
)
def test_a_list_in_an_option_of_master_cf_is_named_with_its_line(text, line):
    listing = "smtp/inet/mynetworks = 192.0.2.0/24\na/inet/mynetworks = 127.0.0.0/8"
    _tables, [problem] = find(parameters(listing), Twins(TWINS), master=text)
    assert problem.startswith(f"master.cf: line {line}: smtp/inet/mynetworks = 192.0.2.0/24 has no IPv6")


def test_an_address_has_its_own_action_not_that_of_its_first_octets_whichever_comes_first():
    pairs = {"192.0.2.7": [HOST]}
    assert twins("indexed", "192.0.2 a\n192.0.2.7 b\n", pairs) == f"192.0.2 a\n192.0.2.7 b\n{HOST[:-4]} b\n"


@pytest.mark.parametrize("last", ["", "\n"])
def test_each_twin_of_a_line_that_goes_on_is_a_line_of_its_own(last):
    pairs = {"192.0.2.0/24": ["2001:db8:1::/64", "2001:db8:2::/64"]}
    copies = "2001:db8:1::/64 a\n  b\n2001:db8:2::/64 a\n  b"
    assert twins("cidr", f"192.0.2.0/24 a\n  b{last}", pairs) == f"192.0.2.0/24 a\n  b\n{copies}{last}"


def test_a_server_on_one_ipv4_address_is_named_until_it_has_a_twin():
    alone = (
        "smtp inet n - y - - smtpd\n192.0.2.1:submission inet n - y - - smtpd\n127.0.0.1:10025 inet n - y - - smtpd\n"
    )
    with pytest.raises(InputError, match=r"line 2: 192\.0\.2\.1:submission is a server on one IPv4 address"):
        outbound(alone, "pinned")
    both = f"{alone}[2001:db8::1]:submission inet n - y - - smtpd\n"
    assert outbound(both, "pinned") == both


def test_an_ipv4_address_in_a_table_of_patterns_is_named_with_its_line():
    values = {"smtpd_client_restrictions": "check_client_access pcre:/etc/postfix/x check_client_access regexp:/etc/y"}
    texts = {"/etc/postfix/x": "# ^10\\.\n/^192\\.0\\.2\\./ OK\n/\\.example$/ OK\n", "/etc/y": "/^mail/ OK\n"}
    [problem] = patterns(values, [], texts.get)
    assert problem.startswith("/etc/postfix/x: line 2: ")
    assert patterns(values, ["pcre:/etc/postfix/x"], texts.get) == []
