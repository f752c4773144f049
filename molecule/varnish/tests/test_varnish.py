"""The cache answers with the site of the host on each of its addresses, of either family."""

PAGE = "GET / HTTP/1.0\\r\\n\\r\\n"


def test_the_site_is_served_on_both_families(lab):
    for client, address in lab.paths("web1"):
        assert "web1 at your service" in lab.greeting(client, address, 80, PAGE), address


def test_the_unit_keeps_what_the_host_has_set(lab):
    unit = lab("web1").check_output("systemctl show -p ExecStart varnish")
    assert "-a 0.0.0.0:80" in unit
    assert "malloc,64m" in unit
