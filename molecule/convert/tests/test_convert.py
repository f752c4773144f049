"""The fleet after the conversion, asked from upstream as a customer asks."""

import json
import re

import pytest

PUBLISHED = ["edge1", "edge2", "ns1", "bac1", "mx1", "web1", "web2"]
GREETINGS = {"smtp": (25, "", "220 "), "imap": (143, "", "* OK"), "ftp": (21, "", "220"), "ssh": (22, "", "SSH-2.0")}
SITES = {"books": "web1", "music": "web1", "films": "web2"}
PAGE = "GET / HTTP/1.0\\r\\n\\r\\n"


def state(lab, name):
    return json.loads(lab(name).file("/etc/ansible/facts.d/dualstack.fact").content_string)


def ask_names(lab, *words):
    return lab("upstream").check_output(f"dig +short @198.51.100.53 {' '.join(words)}").split()


@pytest.mark.parametrize("protocol", GREETINGS)
def test_upstream_reaches_each_service_on_each_address(lab, machine, protocol):
    port, say, greeting = GREETINGS[protocol]
    for address in lab.addresses(machine):
        assert lab.greeting("upstream", address, port, say).startswith(greeting), address


def test_upstream_gets_the_same_page_over_both_families(lab, machine):
    for address in lab.addresses(machine):
        assert f"{machine} at your service" in lab.greeting("upstream", address, 80, PAGE), address


@pytest.mark.parametrize(("site", "name"), SITES.items())
def test_each_virtual_host_is_served_at_its_own_address_and_published_there(lab, site, name):
    address = lab.variables[name]["dualstack"]["vhosts"][f"{site}.example.net"].split("/")[0] + "1"
    page = f"GET / HTTP/1.0\\r\\nHost: {site}.example.net\\r\\n\\r\\n"
    for literal in (lab.variables[name]["dualstack_ipv4"], address):
        assert f"{site} of {name}" in lab.greeting("upstream", literal, 80, page), literal
    assert ask_names(lab, "AAAA", f"{site}.example.net") == [address]
    assert ask_names(lab, "-x", address) == [f"{site}.example.net."]


@pytest.mark.parametrize("edge", ["edge1", "edge2"])
def test_either_router_alone_carries_the_traffic(lab, edge):
    """The way from upstream into each delegated prefix, by this router's own address as next hop."""
    router = lab.variables[edge]["lab_uplink_address"].split("/")[0]
    inside = [lab.addresses(name)[2] for name in ("web1", "web2", "mx1")]
    upstream = lab("upstream")
    for address in inside:
        upstream.run_expect([0], f"ip -6 route add {address}/128 via {router}")
        try:
            upstream.run_expect([0], f"ping -6 -c 1 -W 3 {address}")
        finally:
            upstream.run_expect([0], f"ip -6 route del {address}/128 via {router}")


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_name_has_the_planned_address_and_the_address_the_name(lab, name):
    record = lab.variables[name]["dualstack"]
    assert ask_names(lab, "AAAA", f"{name}.example.net") == [record["address"]]
    assert ask_names(lab, "-x", record["address"]) == [f"{name}.example.net."]
    assert ask_names(lab, "A", f"{name}.example.net") == [lab.variables[name]["dualstack_ipv4"]]
    assert state(lab, name)["state"] == "published"


@pytest.fixture
def elsewhere(lab):
    """A site of web1 whose DNS is its owner's, proven for a while; its name and its address."""
    site = {"www.example.com": lab.addresses("web1")[2]}
    assert lab.role("web1", "verify", verify_ipv6_sites=site)[0] == 0
    yield site
    assert lab.role("web1", "verify")[0] == 0


def test_whose_dns_is_somebody_elses_gets_a_letter(lab, elsewhere, tmp_path):
    ((name, address),) = elsewhere.items()
    folder, record = tmp_path / "letters", rf"{name}\.( \d+)? IN AAAA {address}"
    wanted = {"dns_publisher_ipv6_sites": elsewhere, "dns_publisher_ipv6_letters": str(folder)}
    for _time in range(2):
        status, said = lab.role("web1", "dns_publisher", **wanted)
        assert status == 0, said
    assert [path.name for path in folder.iterdir()] == [f"{name}.txt"]
    assert re.search(rf"Please add this record .*{record}", (folder / f"{name}.txt").read_text(), re.DOTALL)
    try:
        status, said = lab.role("web1", "dns_publisher", dns_publisher_ipv6_state="absent", **wanted)
        assert re.search(r"[1-9]\d* records removed, in [0-9.]+ s;", said), said
        assert ask_names(lab, "AAAA", "web1.example.net") == []
        assert re.search(rf"please remove it:.*{record}", (folder / f"{name}.txt").read_text(), re.DOTALL)
    finally:
        status, said = lab.role("web1", "dns_publisher")
    assert status == 0, said
    assert ask_names(lab, "AAAA", "web1.example.net") == [lab.addresses("web1")[1]]


def test_a_planned_removal_is_seen_within_a_minute(lab):
    status, said = lab.role("web1", "dns_publisher", dns_publisher_ipv6_ttl=900, dns_publisher_ipv6_settle=0)
    assert status == 0, said
    answer = "dig +noall +answer @198.51.100.53 AAAA web1.example.net"
    assert lab("upstream").check_output(answer).split()[1] == "900"
    status, said = lab.role("web1", "dns_publisher", dns_publisher_ipv6_state="lowered")
    assert "resolvers may hold what was there for 900 s more" in " ".join(said.split()), said
    assert lab("upstream").check_output(answer).split()[1] == "60"
    assert state(lab, "web1")["state"] == "published"


def test_tux_stays_on_ipv4_and_says_why(lab):
    assert state(lab, "tux")["state"] == "blocked"
    assert "crash" in state(lab, "tux")["reason"]
    assert ask_names(lab, "AAAA", "tux.example.net") == []
    assert lab("tux").check_output("ip -6 address show scope global") == ""
    assert "tux at your service" in lab.greeting("upstream", "198.51.100.13", 80, PAGE)


def test_an_unassigned_prefix_does_not_loop(lab):
    answer = lab("upstream").run("ping -6 -c 1 -W 3 2001:db8:200:9999::1").stdout
    assert "Time exceeded" not in answer
    assert "unreachable" in answer.lower()


def test_mail_goes_from_machine_to_machine_over_ipv6(lab):
    with lab.postfix("web1", "smtp_address_preference = ipv6"):
        letter = lab.mail("web1", "bob@int.web2.example.net", "web2")
    assert f"[IPv6:{lab.addresses('web1')[2]}]" in letter


def test_the_relay_hands_mail_over_by_ipv6(lab, machine):
    with lab.postfix("mx1", "smtp_address_preference = ipv6"):
        letter = lab.mail("mx1", f"bob@{machine}.example.net", machine)
    assert f"[IPv6:{lab.addresses('mx1')[1]}]" in letter


@pytest.mark.parametrize("family", [0, 1])
def test_a_stranger_relays_over_neither_family(lab, family):
    assert lab.relay("upstream", "mx1", family) == 554


def test_no_secret_is_left_in_states_and_reports(lab):
    secrets = json.loads((lab.root / "build" / "lab" / "secrets.json").read_text())
    for name in PUBLISHED:
        for secret in secrets.values():
            found = lab(name).run(f"grep -rlF '{secret}' /etc/ansible /var/lib/dualstack /var/log").stdout
            assert found == "", name


def test_what_ipv4_hides_is_hidden_over_ipv6_too(lab):
    for address in lab.addresses("web1"):
        for port, let_in in {8080: False, 80: True}.items():
            command = f"timeout 2 bash -c 'exec 3<>/dev/tcp/{address}/{port}'"
            assert (lab("upstream").run_expect([0, 124], command).rc == 0) == let_in, (address, port)


def test_at_no_instant_was_ipv6_more_open_than_ipv4(lab):
    rounds, found = lab.scanned()
    assert rounds > 300
    web1, web2, mx1 = (lab.addresses(name) for name in ("web1", "web2", "mx1"))
    # The scan sees what is open, and what only a filter closes.
    assert all(80 in found[address] for address in web1 + web2[:2])
    assert all({111, 587, 17777} <= found[address] for address in web2)
    assert not {111, 587, 8080, 17777} & found[web1[0]]
    assert found[mx1[0]] & {111, 587, 17777} == {17777}
    for name in ("web1", "mx1"):
        planted = lab(name).check_output("ss -Hltn | awk '{ print $4 }'").split()
        assert {"*:111", "*:587", "*:17777"} <= set(planted), name
    assert lab.more_open() == {}
