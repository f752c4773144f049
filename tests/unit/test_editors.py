"""Editors change their keys and nothing else, and twice is the same as once."""

import pytest
from hypothesis import given
from hypothesis import settings as limits
from hypothesis import strategies as st
from module_utils._editors import FILES, TREES, edit
from module_utils._errors import InputError

NETWORK = "[2001:db8::]/64"


def main_cf(key, value, text):
    return edit("postfix", text, {key: value})


def test_postfix_changes_the_value_and_nothing_else():
    text = "# inet_protocols = ipv4\nmyhostname = a.example\n\ninet_protocols=ipv4\r\nrelayhost =\n"
    assert main_cf("inet_protocols", "all", text) == text.replace("inet_protocols=ipv4", "inet_protocols=all")


def test_postfix_changes_the_definition_in_force():
    assert main_cf("a", "2", "a = 0\na = 1\n") == "a = 0\na = 2\n"


def test_postfix_replaces_continuation_lines_and_keeps_comments_between_them():
    assert main_cf("a", "3", "a = 1,\n# why\n  2\nb = 1\n") == "a = 3\n# why\nb = 1\n"


def test_postfix_appends_a_missing_parameter_even_behind_an_open_last_line():
    assert main_cf("inet_protocols", "all", "a = 1") == "a = 1\ninet_protocols = all\n"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("mynetworks = 127.0.0.0/8\n", f"mynetworks = 127.0.0.0/8 {NETWORK}\n"),
        ("mynetworks = 127.0.0.0/8, 192.0.2.0/24\n", f"mynetworks = 127.0.0.0/8, 192.0.2.0/24, {NETWORK}\n"),
        ("mynetworks = 127.0.0.0/8,\n", f"mynetworks = 127.0.0.0/8, {NETWORK}\n"),
        ("mynetworks =\n", f"mynetworks = {NETWORK}\n"),
        (
            "mynetworks =\n  127.0.0.0/8\n# x\n  hash:/etc/n\nb=1\n",
            f"mynetworks =\n  127.0.0.0/8\n# x\n  hash:/etc/n {NETWORK}\nb=1\n",
        ),
        ("mynetworks = [2001:DB8:0::]/64\n", "mynetworks = [2001:DB8:0::]/64\n"),
        ("mynetworks = [2001:db8::/64]\n", "mynetworks = [2001:db8::/64]\n"),
        ("mynetworks = [fe80::]/10 [fd00::]/8\n", f"mynetworks = [fe80::]/10 [fd00::]/8 {NETWORK}\n"),
        ("mynetworks = [fc00::]/7\n", f"mynetworks = [fc00::]/7 {NETWORK}\n"),
    ],
)
def test_postfix_adds_missing_words_to_a_list(old, new):
    assert main_cf("mynetworks", {"add": [NETWORK]}, old) == new


@pytest.mark.parametrize("text", ["", "inet_interfaces = all\n"])
def test_postfix_on_all_interfaces_needs_no_more(text):
    assert main_cf("inet_interfaces", {"add": ["2001:db8::1"]}, text) == text
    assert main_cf("inet_interfaces", {"add": ["b"]}, "inet_interfaces = a\n") == "inet_interfaces = a b\n"


@pytest.mark.parametrize(
    "word",
    [
        "2001:db8::/64",
        "[2001:db8::1]/64",
        "[::]/0",
        "[2000::]/3",
        "[fe00::]/9",
        "[2001:db8::]/129",
        "[2001:db8::]/",
        "[x]/64",
    ],
)
def test_postfix_refuses_networks_that_break_mail_in_silence(word):
    with pytest.raises(InputError, match="mynetworks"):
        main_cf("mynetworks", {"add": [word]}, "mynetworks = 127.0.0.0/8\n")
    with pytest.raises(InputError, match="mynetworks"):
        main_cf("mynetworks", {"add": [NETWORK]}, f"mynetworks = 127.0.0.0/8 {word}\n")


def test_postfix_names_all_problems_at_once():
    with pytest.raises(InputError) as caught:
        edit("postfix", "mynetworks = a\n", {"mynetworks": {"add": ["2001:db8::/64", "[::]/0"]}, "x": None})
    assert len(caught.value.problems) == 3


def test_postfix_does_not_replace_derived_networks_by_one_word():
    with pytest.raises(InputError, match="mynetworks_style"):
        main_cf("mynetworks", {"add": [NETWORK]}, "mynetworks_style = subnet\n")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("Listen 192.0.2.1:80\n", "Listen 192.0.2.1:80\nListen [2001:db8::1]:80\n"),
        ("listen 0.0.0.0:8443 https", "listen 0.0.0.0:8443 https\nlisten [2001:db8::1]:8443 https"),
        ("Listen 80\n", "Listen 80\n"),
        ("Listen *:80\n", "Listen *:80\n"),
        ("Listen [::]:80\nListen 0.0.0.0:80\n", "Listen [::]:80\nListen 0.0.0.0:80\n"),
        ("#Listen 0.0.0.0:80\n", "#Listen 0.0.0.0:80\n"),
        ("Listen 127.0.0.1:8080\n", "Listen 127.0.0.1:8080\n"),
        (
            "Listen 192.0.2.1:80\nListen 192.0.2.2:80\n",
            "Listen 192.0.2.1:80\nListen [2001:db8::1]:80\nListen 192.0.2.2:80\n",
        ),
        ("Listen 0.0.0.0:80\nListen [2001:DB8:0::1]:80\n", "Listen 0.0.0.0:80\nListen [2001:DB8:0::1]:80\n"),
        (
            "<IfModule a>\nListen 443\n</IfModule>\n<IfModule b>\nListen 0.0.0.0:443\n</IfModule>\n",
            "<IfModule a>\nListen 443\n</IfModule>\n<IfModule b>\nListen 0.0.0.0:443\n"
            "Listen [2001:db8::1]:443\n</IfModule>\n",
        ),
        (
            "<IfModule a>\n\tListen 0.0.0.0:443\n</IfModule>\n<IfModule b>\n\tListen 0.0.0.0:443\n</IfModule>\n",
            "<IfModule a>\n\tListen 0.0.0.0:443\n\tListen [2001:db8::1]:443\n</IfModule>\n"
            "<IfModule b>\n\tListen 0.0.0.0:443\n\tListen [2001:db8::1]:443\n</IfModule>\n",
        ),
    ],
)
def test_apache_gets_a_twin_beside_each_ipv4_listen(old, new):
    assert edit("apache", old, {"Listen": {"add": ["[2001:db8::1]"]}}) == new


def test_apache_twins_only_the_ports_that_are_named():
    old = "Listen 0.0.0.0:80\nListen 0.0.0.0:81\n"
    new = "Listen 0.0.0.0:80\nListen [2001:db8::1]:80\nListen 0.0.0.0:81\n"
    assert edit("apache", old, {"Listen": {"add": ["[2001:db8::1]:80"]}}) == new


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("Listen 0.0.0.0:80\n", "Listen 80\n"),
        ("Listen 127.0.0.1:8080\nListen 80\n", "Listen 127.0.0.1:8080\nListen 80\n"),
        ("Listen 0.0.0.0:80\nListen [2001:db8::1]:80\n", "Listen 0.0.0.0:80\nListen [2001:db8::1]:80\n"),
    ],
)
def test_apache_wildcard(old, new):
    assert edit("apache", old, {"Listen": "*"}) == new


def test_apache_wildcard_is_refused_where_one_ipv4_address_is_named():
    with pytest.raises(InputError, match="line 2: Listen"):
        edit("apache", "\nListen 192.0.2.1:80\n", {"Listen": "*"})


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("<VirtualHost 192.0.2.1:80>\n", "<VirtualHost 192.0.2.1:80 [2001:db8::1]:80>\n"),
        ("<virtualhost 192.0.2.1>\n", "<virtualhost 192.0.2.1 [2001:db8::1]>\n"),
        ("<VirtualHost *:80>\n", "<VirtualHost *:80>\n"),
        ("<VirtualHost _default_:80 192.0.2.1:80>\n", "<VirtualHost _default_:80 192.0.2.1:80>\n"),
        ("<VirtualHost 192.0.2.1:80 [2001:db8:0::1]:80>\n", "<VirtualHost 192.0.2.1:80 [2001:db8:0::1]:80>\n"),
    ],
)
def test_apache_virtual_hosts_get_the_twin_address(old, new):
    assert edit("apache", old, {"VirtualHost": {"add": ["[2001:db8::1]"]}}) == new


def test_apache_wildcard_is_refused_where_the_default_site_would_answer_over_ipv6():
    assert edit("apache", "<VirtualHost *:80>\n", {"VirtualHost": "*"}) == "<VirtualHost *:80>\n"
    with pytest.raises(InputError, match="default site"):
        edit("apache", "<VirtualHost 192.0.2.1:80>\n", {"VirtualHost": "*"})


@pytest.mark.parametrize("word", ["2001:db8::1", "[192.0.2.1]:80", "[2001:db8::1]:x", "[::g]"])
def test_apache_refuses_what_is_no_bracketed_literal(word):
    with pytest.raises(InputError, match="endpoint"):
        edit("apache", "Listen 80\n", {"Listen": {"add": [word]}})


A, B, C = "192.0.2.1", "192.0.2.2", "192.0.2.3"
X, Y, Z = "2001:db8::1", "2001:db8::2", "2001:db8::3"


@pytest.mark.parametrize(
    ("present", "wanted", "result"),
    [
        ([A], [X], [A, X]),
        ([A, B, C], [X], [A, X, B]),
        ([A, B], [X, Y], [A, X, B]),
        ([A], [X, Y], [A, X, Y]),
        ([], [X], ["127.0.0.1", X]),
        ([A, B, X], [X], [A, B, X]),
        ([A, B, X, Y], [X, Y], [A, X, B]),
        ([X, Y, A], [Z], [X, Z, A]),
        ([A, B, C, X], [X], [A, X, B]),
        ([A, B, C, X], [], [A, B, C, X]),
    ],
)
def test_resolv_keeps_the_first_and_both_families(present, wanted, result):
    text = "# mine\nsearch a.example\n" + "".join(f"nameserver {word}\n" for word in present) + "options timeout:1\n"
    new = edit("resolv", text, {"nameserver": {"add": wanted}})
    assert [line.split()[1] for line in new.splitlines() if line.startswith("nameserver")] == result
    rest = [line for line in new.splitlines() if not line.startswith("nameserver")]
    assert rest == ["# mine", "search a.example", "options timeout:1"]


@pytest.mark.parametrize("word", ["[2001:db8::1]", "ns.example", "2001:db8::1/64"])
def test_resolv_refuses_what_the_library_ignores_in_silence(word):
    with pytest.raises(InputError, match="nameserver"):
        edit("resolv", "", {"nameserver": {"add": [word]}})


@pytest.mark.parametrize(
    ("header", "owner"),
    [
        ("# Generated by NetworkManager", "NetworkManager"),
        ("# Dynamic resolv.conf(5) file for glibc resolver(3) generated by resolvconf(8)", "resolvconf"),
        ("# This is /run/x.conf managed by man:systemd-resolved(8).", "systemd-resolved"),
        ("# This file belongs to man:systemd-resolved(8). Do not edit.", "systemd-resolved"),
        ("; Managed by Puppet, do not edit", "Puppet"),
    ],
)
def test_resolv_refuses_a_file_that_a_program_writes(header, owner):
    with pytest.raises(InputError, match=f"says that {owner} writes"):
        edit("resolv", f"{header}\nnameserver {A}\n", {"nameserver": {"add": [X]}})
    there = f"{header}\nnameserver {A}\nnameserver {X}\n"  # the program was told
    assert edit("resolv", there, {"nameserver": {"add": [X]}}) == there


@pytest.mark.parametrize("header", ["# managed by hand", "# managed by the mail team", "# belongs to the mail team"])
def test_resolv_edits_what_people_write(header):
    new = edit("resolv", f"{header}\n", {"nameserver": {"add": [X]}})
    assert new == f"{header}\nnameserver 127.0.0.1\nnameserver {X}\n"  # the server that was asked without an entry


def test_key_value_and_lines():
    assert edit("key_value", "#A=0\nA=1\nexport B = 2\n", {"A": "3", "B": "4", "C": 5}) == (
        "#A=0\nA=3\nexport B = 4\nC=5\n"
    )
    assert edit("lines", "a\r\nb", {"add": ["b", "c"]}) == "a\r\nb\r\nc\r\n"
    with pytest.raises(InputError, match="quotes"):
        edit("key_value", "", {"A": True})


TWINS = {"networks": {"192.0.2.0/24": ["2001:db8::/64"], "192.0.2.1": ["2001:db8::1", "2001:db8::2"]}}
SETTINGS = {
    "apache": {
        "Listen": {"add": ["[2001:db8::1]", "[2001:db8::2]"]},
        "VirtualHost": {"add": ["[2001:db8::1]"]},
        "networks": {"192.0.2.1": "2001:db8:1::/64"},
    },
    "dovecot": {"listen": {"add": ["[2001:db8::1]"]}, "networks": {"192.0.2.1": "2001:db8:1::/64"}},
    "key_value": {"A": "1 2"},
    "lines": {"add": ["a b", "c"]},
    "nginx": {"listen": {"add": ["[2001:db8::1]"]}, "networks": {"192.0.2.1": "2001:db8:1::/64"}},
    "postfix": {"inet_protocols": "all", "list": {"add": ["a", "b"]}},
    "postfix_cidr": TWINS,
    "postfix_indexed": TWINS,
    "postfix_list": TWINS,
    "postfix_lists": TWINS,
    "postfix_master": {"outbound": "pinned"},
    "pureftpd": {"DontResolve": True},
    "resolv": {"nameserver": {"add": [X, Y]}},
    "sshd": {"ListenAddress": {"add": ["[2001:db8::1]"]}, "networks": {"192.0.2.1": "2001:db8:1::/64"}},
    "varnish": {"listen": {"add": ["[2001:db8::1]", "[2001:db8::2]"]}},
}
PIECES = [
    *["\n", "\r\n", " ", "\t", "#", "=", ",", '"', "'", "\\", "{", "}", "<", ">", "\x0c", "\u2028", "x"],
    *[
        "a",
        "A",
        "listen",
        "Listen ",
        "<VirtualHost ",
        "</VirtualHost>",
        "Require ip ",
        "server { ",
        "listen 80;",
        "allow 192.0.2.1;",
        "ListenAddress ",
        "AllowUsers a@",
        "Match Address ",
        "; ",
        "192.0.2.1:80",
        "0.0.0.0:80",
        "[2001:db8::1]:80",
    ],
    *[
        "inet_protocols",
        "list",
        "ipv4",
        "nameserver ",
        "192.0.2.1",
        "192.0.2.2",
        "2001:db8::1",
        "login_trusted_networks = ",
        "ExecStart=v -a ",
        "21",
    ],
]


@pytest.mark.parametrize("form", [*FILES, *TREES])
@limits(max_examples=40, deadline=None)
@given(pieces=st.lists(st.sampled_from(PIECES), max_size=30))
def test_twice_is_the_same_as_once(form, pieces):
    try:
        once = edit(form, "".join(pieces), SETTINGS[form])
    except InputError:
        return
    assert edit(form, once, SETTINGS[form]) == once
