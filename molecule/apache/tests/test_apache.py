"""Apache answers with the right site on each of the host's addresses; its neighbours on port 80 are left alone."""

PAGE = "GET / HTTP/1.0\\r\\n\\r\\n"
INTERN = "GET /intern/ HTTP/1.0\\r\\n\\r\\n"


def test_the_backend_of_the_cache_serves_both_families(lab):
    for address in ["127.0.0.1", "::1"]:
        assert "web1 at your service" in lab.greeting("web1", address, 8080, PAGE), address


def test_the_site_on_an_address_of_its_own_is_served_on_both_families(lab):
    for address in lab.addresses("web2"):
        assert "web2 at your service" in lab.greeting("web2", address, 80, PAGE), address


def test_a_list_of_clients_holds_for_both_families(lab):
    for address in lab.addresses("web2"):
        assert "Only for our own machines" in lab.greeting("web1", address, 80, INTERN), address
        assert "403 Forbidden" in lab.greeting("upstream", address, 80, INTERN), address


def test_nginx_keeps_its_address(lab):
    assert "The shop of web2" in lab.greeting("web2", "198.51.100.22", 80, PAGE)


def test_the_way_back_is_exact(lab, reverted):
    lab.is_legacy(reverted, "/etc/apache2")
    port, address = {"web1": (8080, "127.0.0.1"), "web2": (80, "198.51.100.12")}[reverted]
    assert f"{reverted} at your service" in lab.greeting(reverted, address, port, PAGE)
    assert f"*:{port}" not in lab.listeners(reverted)
    assert f"[{lab.addresses(reverted)[1]}]:{port}" not in lab.listeners(reverted)


def test_a_configuration_that_apache_refuses_changes_nothing(lab, reverted):
    path = "/etc/apache2/conf-enabled/broken.conf"
    lab.refuses(reverted, "apache", path, "Lisen 9999", "Invalid command 'Lisen'")
