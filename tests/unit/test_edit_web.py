"""The configuration of a web server is one text in many files; what is added follows from all of them."""

import pytest
from module_utils._edit_web import Site, ipv4_network, overlap
from module_utils._editors import TREES, edit
from module_utils._errors import InputError

NINE = {"listen": {"add": ["[2001:db8::9]"]}}


def nginx(text, **settings):
    return edit("nginx", text, settings or NINE)


class Files:
    """A configuration in a directory: the root's name first."""

    def __init__(self, directory, **texts):
        self.directory, self.texts = directory, {}
        for name, text in texts.items():
            path = directory / name.replace("_", ".")
            path.write_text(text.replace("@", f"{directory}/"))
            self.texts[str(path)] = path.read_text()
        self.root = next(iter(self.texts))

    def edit(self, form, **settings):
        """Return the changed texts by file name."""
        changed = TREES[form].edit(self.root, self.read, settings)
        self.texts.update(changed)
        return {path.rpartition("/")[2]: text for path, text in changed.items()}

    def read(self, path):
        return self.texts.get(path)

    def sites(self, form):
        return TREES[form].sites(self.root, self.read)

    def sockets(self, form):
        return TREES[form].sockets(self.root, self.read)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("server {\n\tlisten 80; # main\n}\n", "server {\n\tlisten 80; # main\n\tlisten [::]:80;\n}\n"),
        ("server {\r\n  listen 80;\r\n}\r\n", "server {\r\n  listen 80;\r\n  listen [::]:80;\r\n}\r\n"),
        ("server { listen *:80 ssl; }", "server { listen *:80 ssl; listen [::]:80 ssl; }"),
        ("server {\n listen 80;\n listen 80 ;\n}\n", "server {\n listen 80;\n listen [::]:80;\n listen 80 ;\n}\n"),
        (
            "server {\n  listen 80 default_server backlog=9;\n}\nserver {\n  listen 80;\n}\n",
            "server {\n  listen 80 default_server backlog=9;\n  listen [::]:80 default_server backlog=9;\n}\n"
            "server {\n  listen 80;\n  listen [::]:80;\n}\n",
        ),
        ("server {\n  root /x;\n}\n", "server {\n  listen 80;\n  listen [::]:80;\n  root /x;\n}\n"),
        ("server {\n listen 192.0.2.1:81;\n}\n", "server {\n listen 192.0.2.1:81;\n listen [2001:db8::9]:81;\n}\n"),
        ("server { listen 192.0.2.1; }", "server { listen 192.0.2.1; listen [2001:db8::9]:80; }"),
        (
            "server { listen 443 quic reuseport; listen 443 ssl; }",
            "server { listen 443 quic reuseport; listen [::]:443 quic reuseport; "
            "listen 443 ssl; listen [::]:443 ssl; }",
        ),
        (
            "stream { server { listen 53 udp; } } http { server { listen 53; } }",
            "stream { server { listen 53 udp; listen [::]:53 udp; } } http { server { listen 53; listen [::]:53; } }",
        ),
    ],
)
def test_nginx_gets_the_twin_in_every_server_block(old, new):
    assert nginx(old) == new
    assert nginx(new) == new


@pytest.mark.parametrize(
    "text",
    [
        "server { listen 80; listen [::]:80; }",
        "server { listen [::]:80 ipv6only=off; }",
        "server { listen 127.0.0.1:80; listen unix:/run/x; listen localhost:81; }",
        "# server { listen 80; }\n",
        'server { listen 80; listen [::]:80; location ~ "^/x{2}$" { root "/a;b"; } return 200 \'listen 81;\'; }',
        'server { listen [::]:80; content_by_lua_block { local a = "}" -- { \n if x then y = {1} end } }',
        "upstream u { server 192.0.2.1:80; }",
    ],
)
def test_nginx_is_left_alone_where_ipv6_is_served_or_not_meant(text):
    assert nginx(text) == text


def test_nginx_gives_an_address_its_socket_options_once():
    text = "server { listen 192.0.2.1:80 backlog=5; }\nserver { listen 192.0.2.2:80 backlog=7; }\n"
    assert nginx(text).count("[2001:db8::9]:80") == 2
    assert nginx(text).count("backlog=5") == 2
    assert nginx(text).count("backlog=7") == 1


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("server { listen 80; }\nserver { listen [::]:80 ipv6only=off; }\n", "line 2: ipv6only=off takes port 80"),
        ("server { listen www.example:80; }", "line 1: listen www.example is no address"),
        (
            "server { listen 192.0.2.1:80 default_server; }\nserver { listen 192.0.2.2:80 default_server; }\n",
            r"line 2: \[2001:db8::9\]:80 would have two default sites, this one and that of line 1",
        ),
        ("server { listen 80;\n", "line 1: server has no closing brace"),
        ("}\n", "line 1: a brace is closed"),
    ],
)
def test_nginx_refuses_what_would_fail_or_answer_wrongly(text, words):
    with pytest.raises(InputError, match=words):
        nginx(text)


def test_nginx_on_an_ipv4_literal_needs_an_address():
    with pytest.raises(InputError, match=r"listen 192.0.2.1:80 names one IPv4 address"):
        nginx("server { listen 192.0.2.1:80; }", listen={"add": []})


def test_a_site_has_addresses_of_its_own_and_none_of_the_others():
    text = "server { listen 192.0.2.1:80; server_name a.example; }\n"
    text += "server { listen 192.0.2.1:80; server_name b.example; }\n"
    new = nginx(text, **NINE, sites={"B.example": ["2001:db8::b"]})
    assert new.split("\n")[0] == "server { listen 192.0.2.1:80; listen [2001:db8::9]:80; server_name a.example; }"
    assert new.split("\n")[1] == "server { listen 192.0.2.1:80; listen [2001:db8::b]:80; server_name b.example; }"
    with pytest.raises(InputError, match=r"no site here is called c\.example"):
        nginx(text, **NINE, sites={"c.example": ["2001:db8::c"]})


def test_apache_gives_a_site_its_own_address_and_listens_there():
    text = "Listen 192.0.2.1:80\n<VirtualHost 192.0.2.1:80>\nServerName a.example\n</VirtualHost>\n"
    text += "<VirtualHost 192.0.2.1:80>\nServerAlias x.example b.example\n</VirtualHost>\n"
    add = {"add": ["[2001:db8::9]"]}
    new = edit("apache", text, {"Listen": add, "VirtualHost": add, "sites": {"b.example": "2001:db8::b"}})
    assert new.split("\n")[:5] == [
        "Listen 192.0.2.1:80",
        "Listen [2001:db8::9]:80",
        "Listen [2001:db8::b]:80",
        "<VirtualHost 192.0.2.1:80 [2001:db8::9]:80>",
        "ServerName a.example",
    ]
    assert "<VirtualHost 192.0.2.1:80 [2001:db8::b]:80>\nServerAlias" in new


def test_apache_on_the_wildcard_listens_where_a_site_has_an_address():
    text = "Listen 0.0.0.0:80\n<VirtualHost *:80>\nServerName a.example\n</VirtualHost>\n"
    new = edit("apache", text, {"Listen": "*", "VirtualHost": "*", "sites": {"a.example": ["2001:db8::a"]}})
    assert new == text.replace("0.0.0.0:80", "80").replace("*:80>", "*:80 [2001:db8::a]:80>")


TABLE = {"198.51.100.0/24": ["2001:db8:1::/64", "2001:db8:2::/64"], "203.0.113.7": "2001:db8::7", "10.1.0.0/16": []}


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("allow 198.51.100.0/24;\n", "allow 198.51.100.0/24;\nallow 2001:db8:1::/64;\nallow 2001:db8:2::/64;\n"),
        ("deny 203.0.113.7; allow all;", "deny 203.0.113.7; deny 2001:db8::7; allow all;"),
        ("allow 127.0.0.1;\nallow ::1;\ndeny all;\n", "allow 127.0.0.1;\nallow ::1;\ndeny all;\n"),
        ("allow 10.1.0.0/16;\n", "allow 10.1.0.0/16;\n"),
        ("allow 192.0.2.0/24;\nallow 2001:db8:5::/48;\n", "allow 192.0.2.0/24;\nallow 2001:db8:5::/48;\n"),
    ],
)
def test_nginx_lists_get_the_twins_of_their_networks(old, new):
    assert nginx(old, networks=TABLE) == new
    assert nginx(new, networks=TABLE) == new


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("Require ip 198.51.100 # x", "Require ip 198.51.100 # x 2001:db8:1::/64 2001:db8:2::/64"),
        ("  require ip 203.0.113.7\r\n", "  require ip 203.0.113.7 2001:db8::7\r\n"),
        ("Require not ip 203.0.113.7/32\n", "Require not ip 203.0.113.7/32 2001:db8::7\n"),
        ("Allow from 198.51.100.0/255.255.255.0 a.example\n",
         "Allow from 198.51.100.0/255.255.255.0 a.example 2001:db8:1::/64 2001:db8:2::/64\n"),
        ("Deny from all\nRequire ip 127.0.0.1\n", "Deny from all\nRequire ip 127.0.0.1 ::1\n"),
        ("Require ip 10.1.\n", "Require ip 10.1.\n"),
    ],
)  # fmt: skip
def test_apache_lists_get_the_twins_of_their_networks(old, new):
    assert edit("apache", old, {"networks": TABLE}) == new
    assert edit("apache", new, {"networks": TABLE}) == new


@pytest.mark.parametrize(
    ("form", "text", "words"),
    [
        ("nginx", "\nallow 192.0.2.0/24;", "line 2: allow 192.0.2.0/24: it would send every IPv6 client away"),
        ("nginx", "deny 192.0.2.1; allow ::1;", "line 1: deny 192.0.2.1: an IPv6 client would come past it"),
        ("apache", "Require ip 192.0.2.1 127.0.0.1 ::1", "line 1: Require ip 192.0.2.1: it would send"),
        ("apache", "Require not ip 192.0.2.1", "line 1: Require not ip 192.0.2.1: an IPv6 client would come past"),
        ("apache", "Deny from 192.0.2.1", "line 1: Deny from 192.0.2.1: an IPv6 client would come past"),
    ],
)
def test_a_list_without_a_known_twin_is_refused(form, text, words):
    with pytest.raises(InputError, match=words):
        edit(form, text, {"networks": TABLE})


def test_all_that_is_wrong_with_networks_and_sites_is_told_at_once():
    with pytest.raises(InputError) as caught:
        edit("nginx", "", {"networks": {"2001:db8::/64": "x", "10.0.0.0/8": ["2001:db8::1/64", "[2001:db8::]/64"]}})
    assert len(caught.value.problems) == 4
    with pytest.raises(InputError, match="not an IPv6 endpoint"):
        edit("nginx", "", {"sites": {"a.example": "192.0.2.1"}})


@pytest.mark.parametrize(
    ("word", "network"),
    [
        ("10", None),
        ("10.1", "10.1.0.0/16"),
        ("10.1.2.", "10.1.2.0/24"),
        ("192.0.2.9", "192.0.2.9/32"),
        ("192.0.2.9/24", "192.0.2.0/24"),
        ("192.0.2.0/255.255.255.0", "192.0.2.0/24"),
        ("a.example", None),
        ("2001:db8::1", None),
    ],
)
def test_ipv4_networks_have_many_spellings(word, network):
    assert ipv4_network(word) == network


def test_includes_are_followed_and_each_file_is_edited_once(tmp_path):
    (tmp_path / "sites").mkdir()
    (tmp_path / "sites" / "a").symlink_to("../a")
    (tmp_path / "sites" / "b").symlink_to("../a")
    files = Files(
        tmp_path,
        root="http {\n  include sites/*;\n  include @b;\n}\n",
        a="server {\n  include snip;\n  server_name a.example;\n}\n",
        b="server {\n  include snip;\n}\n",
        snip="listen 80;\n",
    )
    assert files.edit("nginx", **NINE) == {"snip": "listen 80;\nlisten [::]:80;\n"}
    assert files.edit("nginx", **NINE) == {}
    files.texts[str(tmp_path / "snip")] = "listen 80; include root;\n"
    with pytest.raises(InputError, match=r"snip: line 1: .*root includes itself"):
        files.edit("nginx", **NINE)


def test_apache_reads_its_includes_in_order_and_refuses_what_it_cannot_know(tmp_path):
    (tmp_path / "conf").mkdir()
    files = Files(
        tmp_path,
        root="Include ports\nIncludeOptional conf/*.conf\nInclude ${X}/y\nIncludeOptional missing/*.conf\n",
        ports="Listen ${PORT}\nListen \\\n80\n"
        "<Macro V $h>\n<VirtualHost *:80>\nServerName $h\n</VirtualHost>\n</Macro>\n",
    )
    with pytest.raises(InputError) as caught:
        files.edit("apache", Listen="*", VirtualHost="*")
    assert [text.split(str(tmp_path))[1].rpartition(":")[0] for text in caught.value.problems] == [
        "/ports: line 1: Listen ${PORT}",
        "/ports: line 2",
        "/root: line 3: Include ${X}/y",
    ]
    files = Files(tmp_path, root="Include conf\n")
    (tmp_path / "conf" / "a").write_text("")
    files.texts[str(tmp_path / "conf" / "a")] = "Listen 0.0.0.0:80\n"
    assert files.edit("apache", Listen="*") == {"a": "Listen 80\n"}


def test_what_there_is_to_ask_of_nginx(tmp_path):
    files = Files(
        tmp_path,
        root="http { server { listen 80; listen [::]:80; server_name _; }\n"
        "server { listen 80; listen [::]:80; server_name ~x *.y a.example; location / { allow 192.0.2.1; } }\n"
        "server { listen 80; server_name ''; }\n"
        "server { listen 192.0.2.1:443 ssl; listen [2001:db8::1]:443 ssl; server_name b.example; } }\n"
        "stream { server { listen 5432; listen [::]:5432; } }",
    )
    root = files.root
    assert files.sites("nginx") == [
        Site(f"{root}: line 1", "", 80, False, ("127.0.0.1",), ("::1",)),
        Site(f"{root}: line 2", "a.example", 80, False, ("127.0.0.1",), ("::1",), listed=True),
        Site(f"{root}: line 3", "", 80, False, ("127.0.0.1",), (), plain=False),
        Site(f"{root}: line 4", "b.example", 443, True, ("192.0.2.1",), ("2001:db8::1",)),
        Site(f"{root}: line 5", "", 5432, False, ("127.0.0.1",), ("::1",), plain=False),
    ]


def test_what_there_is_to_ask_of_apache(tmp_path):
    files = Files(
        tmp_path,
        root="LoadModule ssl_module x.so\nListen 80\nListen 127.0.0.1:81\n"
        "<IfModule mod_ssl.c>\nListen 443\n</IfModule>\n<IfModule gnutls_module>\nListen 444\n</IfModule>\n"
        "<VirtualHost *:80>\nServerName https://a.example:443\n</VirtualHost>\n"
        "<VirtualHost *:80 [2001:db8::b]:80>\nServerName b.example\nRequire ip 192.0.2.1\n</VirtualHost>\n"
        "<VirtualHost *:80>\n</VirtualHost>\n"
        "<VirtualHost *:443>\nSSLEngine on\n</VirtualHost>\n",
    )
    root = files.root
    assert files.sites("apache") == [
        Site(f"{root}: line 10", "a.example", 80, False, ("127.0.0.1",), ("::1",)),
        Site(f"{root}: line 13", "b.example", 80, False, ("127.0.0.1",), ("::1", "2001:db8::b"), listed=True),
        Site(f"{root}: line 17", "", 80, False, ("127.0.0.1",), ("::1",), plain=False),
        Site(f"{root}: line 19", "", 443, True, ("127.0.0.1",), ("::1",)),
        Site(f"{root}: line 3", "", 81, False, ("127.0.0.1",), ()),
    ]


@pytest.mark.parametrize(
    ("new", "old", "clash"),
    [
        (("", "80"), ("0.0.0.0", "80"), True),
        (("0.0.0.0", "80"), ("", "80"), True),
        (("[2001:db8::1]", "80"), ("0.0.0.0", "80"), False),
        (("[::]", "80"), ("[2001:db8::1]", "80"), True),
        (("[::]", "80"), ("0.0.0.0", "80"), False),
        (("192.0.2.1", "80"), ("192.0.2.2", "80"), False),
        (("", "443"), ("0.0.0.0", "80"), False),
    ],
)
def test_a_reload_cannot_bind_what_another_listener_has(new, old, clash):
    assert overlap(new, old) is clash


def test_the_sockets_of_a_configuration(tmp_path):
    text = "server { listen 80; listen [::]:80; listen [2001:db8::1]:80; }\n"
    text += "server { listen 192.0.2.1:81 bind; listen 81; }\n"
    assert Files(tmp_path, root=text).sockets("nginx") == {
        ("0.0.0.0", "80"),
        ("[::]", "80"),
        ("192.0.2.1", "81"),
        ("0.0.0.0", "81"),
    }
    assert Files(tmp_path, root="Listen [::]:80\nListen 192.0.2.1:81\n").sockets("apache") == {
        ("", "80"),
        ("192.0.2.1", "81"),
    }


def test_quotation_marks_around_words_of_apache_are_no_part_of_them():
    text = 'Listen "192.0.2.1:80" https\n<VirtualHost "192.0.2.1:80">\nRequire ip "203.0.113.7"\n</VirtualHost>\n'
    new = edit("apache", text, {"Listen": {"add": ["[2001:db8::1]"]}, "VirtualHost": {"add": ["[2001:db8::1]"]}})
    assert 'Listen "192.0.2.1:80" https\nListen "[2001:db8::1]:80" https\n' in new
    assert '<VirtualHost "192.0.2.1:80" [2001:db8::1]:80>' in new
    assert '"203.0.113.7" 2001:db8::7' in edit("apache", text, {"networks": TABLE})
    there = 'Listen 192.0.2.1:80\nListen "[2001:db8::1]:80"\n'
    assert edit("apache", there, {"Listen": {"add": ["[2001:db8::1]"]}}) == there


@pytest.mark.parametrize(("module", "wide"), [("alias", False), ("absent", True)])
def test_a_listener_in_a_section_counts_unless_its_module_is_missing(module, wide):
    text = f"LoadModule alias_module x.so\n<IfModule mod_{module}.c>\nListen [::]:80\n</IfModule>\nListen 0.0.0.0:80\n"
    assert edit("apache", text, {"Listen": "*"}) == (text.replace("0.0.0.0:", "") if wide else text)
    literal = text.replace("0.0.0.0", "192.0.2.1")
    twin = edit("apache", literal, {"Listen": {"add": ["[2001:db8::1]"]}})
    assert twin == (f"{literal}Listen [2001:db8::1]:80\n" if wide else literal)


def test_nginx_binds_no_literal_with_options_of_its_own_beside_its_wildcard():
    text = "http { server { listen 80 backlog=64; server_name a.example; } }"
    new = edit("nginx", text, {"sites": {"a.example": "2001:db8::1"}})
    assert "listen [::]:80 backlog=64; listen [2001:db8::1]:80;" in new


GEO = """http {
  geo $known { default 0; 198.51.100.0/24 1; proxy 203.0.113.7; include @more; }
  geo $other { ranges; 192.0.2.0-192.0.2.9 1; }
  map $remote_addr $who {
    203.0.113.7 'seven';
    192.0.2.9 nine;
    ~^10\\. ten;
  }
  map $host $x { 203.0.113.7 1; }
  set_real_ip_from 203.0.113.7;
}
"""


def test_nginx_tables_of_clients_get_twins_and_what_is_not_known_is_told(tmp_path):
    files = Files(tmp_path, root=GEO, more="203.0.113.7 7;\n192.0.2.9 9;\n")
    new = files.edit("nginx", networks=TABLE)
    assert new["more"] == "203.0.113.7 7;\n2001:db8::7 7;\n192.0.2.9 9;\n"
    assert [line for line in new["root"].splitlines() if line not in GEO.splitlines()] == [
        "  geo $known { default 0; 198.51.100.0/24 1; 2001:db8:1::/64 1; 2001:db8:2::/64 1; proxy 203.0.113.7; "
        f"proxy 2001:db8::7; include {tmp_path}/more; }}",
        "    2001:db8::7 'seven';",
        "  set_real_ip_from 2001:db8::7;",
    ]
    assert files.edit("nginx", networks=TABLE) == {}
    told = TREES["nginx"].notes(files.root, files.texts.get, {"networks": TABLE})
    assert [text.split(str(tmp_path))[1].split(" ", 3)[:3] for text in told] == [
        ["/root:", "line", "3:"],
        ["/root:", "line", "7:"],
        ["/root:", "line", "8:"],
    ]
