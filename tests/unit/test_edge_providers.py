"""What is read from the files of other programs that make routes, and how ours come into frr.conf and go again."""

import pytest
from module_utils import _edge_found
from module_utils._edge import Request
from module_utils._edge_providers import PROVIDERS, Frr, edited_frr, run
from module_utils._errors import DualStackError, InputError
from module_utils._routes import Scope, parse_prefix

FRR = """frr version 10.3
frr defaults traditional
! by hand
hostname edge1
ipv6 route 2001:db8:1::/64 2001:db8::1
vrf red
 ipv6 route 2001:db8:2::/64 2001:db8::2
exit-vrf
vrf blue
"""
LINES = ["ipv6 route 2001:db8:3::/64 2001:db8::3", "ipv6 route 2001:db8:4::/48 reject"]
BIRD = """log syslog all;
/* protocol static { ipv6;
  route 2001:db8:1::/64 via "eth0"; } */
protocol static { ipv6; route 2001:db8:2::/64 via 2001:db8::2; route 2001:db8:3::/64 blackhole; }
# route 2001:db8:4::/64 via "eth0";
include "more/*.conf";
include "/etc/dualstack/routes.d/*.bird";
"""


@pytest.fixture
def tree(tmp_path):
    def put(path, text):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)

    put.root = str(tmp_path)
    return put


def told(root):
    return {dest: str(static) for dest, static in _edge_found.statics(root).items()}


@pytest.mark.parametrize("text", [FRR, "", "! nothing\n", "! no line end", "frr defaults traditional\n"])
def test_lines_of_ours_come_into_frr_and_go_again_byte_for_byte(text):
    edited = edited_frr(text, [], LINES)
    assert edited_frr(edited, LINES, []) == text
    assert edited_frr(edited, [], LINES) == edited
    lines = edited.splitlines()
    assert all(line in lines for line in LINES)
    # In the block of another routing table they would be that table's.
    assert "vrf red" not in lines or lines.index(LINES[0]) < lines.index("vrf red")


def test_static_routes_of_others_are_found_with_their_place(tree):
    tree("etc/bird/bird.conf", BIRD)
    tree("etc/bird/more/x.conf", "protocol static {\n\tipv6;\n\troute 2001:db8:5::/64 via 2001:db8::5;\n}\n")
    tree("etc/dualstack/routes.d/fleet.bird", "\troute 2001:db8:6::/64 via 2001:db8::6;\n")
    tree("etc/frr/frr.conf", FRR.replace("2001:db8:1:", "2001:db8:7:") + LINES[1] + "\n")
    tree("etc/dualstack/routes.d/fleet.frr", LINES[1] + "\n")
    tree("etc/systemd/network/a.network", "[Route]\nDestination=2001:db8:8::/64\nGateway=2001:db8::8\n")
    tree("etc/network/interfaces", "iface eth0 inet6 manual\n\tpost-up ip -6 route add 2001:db8:9::/64 dev eth0\n")
    found = told(tree.root)
    assert {dest[0].hex()[8:12] for dest in found} == {"0002", "0003", "0005", "0006", "0007", "0004", "0008", "0009"}
    assert found[parse_prefix("2001:db8:5::/64")] == (
        "is a static route of BIRD in /etc/bird/more/x.conf, line 3 (route 2001:db8:5::/64 via 2001:db8::5;): remove "
        "it there, or leave this record out"
    )
    bird = found[parse_prefix("2001:db8:6::/64")]
    assert "kept by provider bird in /etc/dualstack/routes.d/fleet.bird, line 1" in bird
    assert "kept by provider frr in /etc/frr/frr.conf" in found[parse_prefix("2001:db8:4::/48")]
    assert "systemd-networkd in /etc/systemd/network/a.network, line 2" in found[parse_prefix("2001:db8:8::/64")]
    assert "ifupdown in /etc/network/interfaces, line 2" in found[parse_prefix("2001:db8:9::/64")]


@pytest.mark.parametrize(
    "files,kept",
    [
        ({}, False),
        ({"etc/systemd/networkd.conf.d/60-dualstack.conf": "[Network]\nManageForeignRoutes=no\n"}, True),
        ({"etc/systemd/networkd.conf": "[Network]\nManageForeignRoutes = false\n"}, True),
        ({"etc/systemd/networkd.conf": "[DHCPv4]\nManageForeignRoutes=no\n"}, False),
        ({"etc/systemd/networkd.conf": "[Network]\n#ManageForeignRoutes=no\n"}, False),
        (
            {
                "usr/lib/systemd/networkd.conf.d/60-dualstack.conf": "[Network]\nManageForeignRoutes=no\n",
                "etc/systemd/networkd.conf.d/90-site.conf": "[Network]\nManageForeignRoutes=yes\n",
            },
            False,
        ),
        (
            {
                "etc/systemd/networkd.conf.d/a.conf": "[Network]\nManageForeignRoutes=no\n",
                "usr/lib/systemd/networkd.conf.d/a.conf": "[Network]\nManageForeignRoutes=yes\n",
            },
            True,
        ),
    ],
)
def test_networkd_is_refused_unless_it_keeps_foreign_routes(tree, files, kept):
    for path, text in files.items():
        tree(path, text)
    assert _edge_found.check_networkd(False, tree.root) == []
    tree("run/systemd/units/invocation:systemd-networkd.service", "")
    if kept:
        assert _edge_found.check_networkd(False, tree.root) == []
        return
    with pytest.raises(DualStackError, match="ManageForeignRoutes=no"):
        _edge_found.check_networkd(False, tree.root)
    assert len(_edge_found.check_networkd(True, tree.root)) == 1


@pytest.mark.parametrize(
    "provider,lines",
    [
        (
            "bird",
            [
                "route 2001:db8:3::/64 via 2001:db8::3;",
                "route 2001:db8:4::/64 via fe80::4%'eth0.7';",
                'route 2001:db8::5/128 via "eth0";',
                "route 2001:db8:6::/48 unreachable;",
                "route ::/0 via fe80::1%'eth0';",
            ],
        ),
        (
            "frr",
            [
                "ipv6 route 2001:db8:3::/64 2001:db8::3",
                "ipv6 route 2001:db8:4::/64 fe80::4 eth0.7",
                "ipv6 route 2001:db8::5/128 eth0",
                "ipv6 route 2001:db8:6::/48 reject",
                "ipv6 route ::/0 fe80::1 eth0",
            ],
        ),
    ],
)
def test_routes_are_rendered_in_the_words_of_each_daemon_and_read_again(provider, lines):
    config = [
        {"dest": "2001:DB8:3:0::/64", "via": "2001:db8:0::3"},
        {"dest": "2001:db8:4::/64", "via": "fe80::4", "dev": "eth0.7"},
        {"dest": "2001:db8::5/128", "dev": "eth0"},
        {"dest": "2001:db8:6::/48", "type": "unreachable", "metric": 4096},
        {"dest": "default", "via": "fe80::1", "dev": "eth0"},
    ]
    request = Request(state="rendered", config=config, provider=provider)
    assert run(request) == {"changed": False, "rendered": lines, "warnings": []}
    held = {parse_prefix(record["dest"].lower()): line for record, line in zip(config, lines)}
    keeper = PROVIDERS[provider]
    assert keeper.parse(keeper.render("fleet", held), f"fleet.{provider}") == held


def test_what_only_the_kernel_can_keep_is_refused_for_a_daemon():
    local = [{"dest": "2001:db8:1::/80", "type": "local"}]
    with pytest.raises(InputError, match="no route of FRR: use provider kernel"):
        run(Request(state="rendered", config=local, provider="frr"))
    with pytest.raises(InputError) as caught:
        run(Request(config=local, provider="bird", persist=False, scope=Scope(table=255)))
    assert len(caught.value.problems) == 2


def test_a_line_of_another_form_in_our_file_is_an_error():
    with pytest.raises(DualStackError, match=r"fleet\.frr, line 2: 'router bgp 1' is not of our form"):
        Frr().parse(f"{LINES[0]}\nrouter bgp 1\n", "fleet.frr")
