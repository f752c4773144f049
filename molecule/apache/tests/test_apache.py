"""Apache answers with the right site on each of the host's addresses; its neighbour on port 80 is left alone."""

PAGE = "GET / HTTP/1.0\\r\\n\\r\\n"


def test_the_backend_of_the_cache_serves_both_families(lab):
    for address in ["127.0.0.1", "::1"]:
        assert "web1 at your service" in lab.greeting("web1", address, 8080, PAGE), address


def test_the_site_on_an_address_of_its_own_is_served_on_both_families(lab):
    for address in lab.addresses("web2"):
        assert "web2 at your service" in lab.greeting("web2", address, 80, PAGE), address


def test_nginx_keeps_its_address(lab):
    assert "The shop of web2" in lab.greeting("web2", "198.51.100.22", 80, PAGE)
