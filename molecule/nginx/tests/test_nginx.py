"""Each site answers as itself over both families, its list of clients holds for both, and the way back is exact."""

SITES = {"web1": ("tools.example.net", 8081, "The tools of web1"), "web2": ("shop.example.net", 80, "The shop of web2")}
SHOP = ["198.51.100.22", "2001:db8:200:1122::2"]


def addresses(lab, name):
    return SHOP if name == "web2" else lab.addresses(name)


def page(name):
    return f"GET / HTTP/1.0\\r\\nHost: {name}\\r\\n\\r\\n"


def test_a_named_site_answers_as_itself_on_each_address(lab, machine):
    name, port, text = SITES[machine]
    other = "web2" if machine == "web1" else "web1"
    for address in addresses(lab, machine):
        assert text in lab.greeting(other, address, port, page(name)), address


def test_what_no_site_is_called_gets_the_default_site(lab):
    for address in lab.addresses("web1"):
        assert "404 Not Found" in lab.greeting("web2", address, 8081, page("elsewhere.example")), address


def test_a_list_of_clients_holds_for_both_families(lab):
    name, port, text = SITES["web1"]
    for address in lab.addresses("web1"):
        answer = lab.greeting("web1", address, port, page(name))
        assert text in answer, address
    tree = lab("web1").file("/etc/nginx/conf.d/tools.conf").content_string
    assert "    allow 198.51.100.0/24;\n    allow 2001:db8:100:1::/64;\n    allow 2001:db8:200::/48;\n" in tree
    assert "    allow 127.0.0.1;\n    allow ::1;\n    deny all;\n" in tree


def test_nginx_itself_sees_the_twins_and_nothing_else(lab, machine):
    listens = lab(machine).check_output("nginx -T 2>/dev/null | grep -E '^\\s*listen' | sort").split("\n")
    expected = {
        "web1": [
            "listen 8081 default_server;",
            "listen 8081;",
            "listen [::]:8081 default_server;",
            "listen [::]:8081;",
        ],
        "web2": ["listen 198.51.100.22:80 default_server;", "listen [2001:db8:200:1122::2]:80 default_server;"],
    }
    assert sorted(line.strip() for line in listens) == sorted(expected[machine])


def test_apache_keeps_its_address(lab):
    assert "web2 at your service" in lab.greeting("web1", "198.51.100.12", 80, page("web2.example.net"))


def test_the_way_back_is_exact(lab, reverted):
    lab.is_legacy(reverted, "/etc/nginx")
    assert not lab(reverted).file("/etc/sysctl.d/60-dualstack-nginx.conf").exists
    name, port, text = SITES[reverted]
    assert text in lab.greeting(reverted, addresses(lab, reverted)[0], port, page(name))
    assert not {f"[::]:{port}", f"[{SHOP[1]}]:{port}"} & set(lab.listeners(reverted))


def test_a_configuration_that_nginx_refuses_changes_nothing(lab, reverted):
    lab.refuses(reverted, "nginx", "/etc/nginx/conf.d/broken.conf", "lisen 9999;", 'unknown directive "lisen"')
