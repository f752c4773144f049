"""The files of ifupdown and systemd-networkd."""

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from module_utils import _netplan
from module_utils._backends import (
    INTERFACES,
    NETPLAN_LO,
    Backend,
    foreign,
    paths,
    plan_files,
    stanza_devices,
    with_source_line,
)
from module_utils._command import Outcome
from module_utils._errors import DualStackError
from module_utils._files import FileState
from module_utils._network import Wanted, parse_wanted

LINE = "source /etc/network/dualstack.d/*"
LEGACY = "source /etc/network/interfaces.d/*\n\nauto eth0\niface eth0 inet static\n\taddress 192.0.2.11/24\n"
ADDRESSES = [{"address": "2001:db8:100:1::c:11/128"}, {"address": "2001:db8:200:1011::1/128", "device": "lo"}]
ROUTES = [
    {"dest": "2001:db8:100:1::/64"},
    {"dest": "default", "via": "fe80::1"},
    {"dest": "2001:db8:200:1011::/64", "type": "unreachable", "metric": 4096},
]


def planned(backend, existing=None, addresses=ADDRESSES, routes=ROUTES):
    (wanted,) = parse_wanted("eth0", addresses, routes, {"lo", "eth0"})
    before = {path: FileState(path) for path in paths(backend, "eth0")}
    before.update(existing or {})
    return {after.path: after for _before, after in plan_files(backend, wanted, before)}


def test_ifupdown_reads_our_stanza_after_all_others():
    old = FileState(INTERFACES, LEGACY.encode(), 0o640, 0, 7)
    files = planned(Backend("ifupdown"), {INTERFACES: old})
    assert files[INTERFACES] == FileState(INTERFACES, f"{LEGACY}{LINE}\n".encode(), 0o640, 0, 7)
    stanza = files["/etc/network/dualstack.d/eth0"].content.decode().splitlines()[1:]
    assert stanza[:5] == [
        "iface eth0 inet6 static",
        "    address 2001:db8:100:1::c:11/128",
        "    accept_ra 0",
        "    autoconf 0",
        "    privext 0",
    ]
    assert "    up ip -6 address replace 2001:db8:200:1011::1/128 dev lo" in stanza
    assert stanza[-1] == "    up ip -6 route replace default via fe80::1 dev eth0 metric 1024"


def test_ifupdown_without_an_own_address_is_manual():
    files = planned(Backend("ifupdown"), addresses=[], routes=ROUTES[:1])
    text = files["/etc/network/dualstack.d/eth0"].content.decode()
    assert "iface eth0 inet6 manual\n    up ip" in text


@pytest.mark.parametrize("later", ["iface eth1 inet static\n", "source-directory more\n", "\tsource\tmore/*\n"])
def test_our_line_moves_behind_stanzas_that_came_later(later):
    old = with_source_line(LEGACY)
    assert with_source_line(old + "auto eth1\n# x\n") == old + "auto eth1\n# x\n"
    assert with_source_line(old + later) == LEGACY + later + LINE + "\n"
    assert with_source_line(old + later.rstrip("\n")) == LEGACY + later + LINE + "\n"


def test_networkd_is_not_made_to_give_up_a_lease_or_anothers_address():
    def entry(source, value, **more):
        return {
            "ConfigSource": source,
            "Scope": 0,
            "Protocol": 16,
            **more,
            **dict(zip(("Address", "Destination"), [value] * 2)),
        }

    (wanted,) = parse_wanted("eth0", ADDRESSES[:1], ROUTES[:1], {"lo", "eth0"})
    ours = entry("foreign", list(wanted.addresses[0].value), PrefixLength=128)
    link = {
        "Addresses": [ours, entry("static", [192, 0, 2, 1], PrefixLength=24)],
        "Routes": [entry("static", [0, 0, 0, 0], DestinationPrefixLength=0)],
    }
    assert foreign(link, wanted, Wanted("eth0")) == []
    link["Addresses"] += [entry(source, [192, 0, 2, 9], PrefixLength=24) for source in ("DHCPv4", "foreign")]
    link["Routes"] += [entry(source, [0, 0, 0, 0], DestinationPrefixLength=0) for source in ("DHCPv4", "foreign")]
    assert foreign(link, wanted, Wanted("eth0")) == ["192.0.2.9/24"] * 2 + ["the route to 0.0.0.0/0"] * 2


@given(st.text(alphabet="aif \t\n#", max_size=40))
def test_the_line_is_added_once_at_the_end(text):
    once = with_source_line(text)
    assert once.splitlines()[-1] == LINE
    assert once.startswith(text)
    assert with_source_line(once) == once


def test_networkd_gets_drop_ins():
    files = planned(Backend("networkd", "10-eth0.network"))
    text = files["/etc/systemd/network/10-eth0.network.d/50-dualstack.conf"].content.decode()
    assert "[Network]\nIPv6AcceptRA=no\nIPv6PrivacyExtensions=no\nAddress=2001:db8:100:1::c:11/128\n" in text
    assert "[Route]\nDestination=2001:db8:100:1::/64\nMetric=1024\n" in text
    assert "[Route]\nDestination=2001:db8:200:1011::/64\nType=unreachable\nMetric=4096\n" in text
    assert "[Route]\nGateway=fe80::1\nMetric=1024\n" in text
    assert b"Name=lo" in files["/etc/systemd/network/50-dualstack-lo.network"].content
    drop_in = files["/etc/systemd/network/50-dualstack-lo.network.d/50-dualstack-eth0.conf"].content
    assert b"[Network]\nAddress=2001:db8:200:1011::1/128\n" in drop_in


def test_networkd_uses_the_file_that_lo_has_already():
    files = planned(Backend("networkd", "10-eth0.network", "05-lo.network"))
    assert "/etc/systemd/network/50-dualstack-lo.network" not in files
    assert "/etc/systemd/network/05-lo.network.d/50-dualstack-eth0.conf" in files


def test_files_that_say_it_already_are_left_alone():
    for backend in (Backend("ifupdown"), Backend("networkd", "10-eth0.network")):
        assert planned(backend, planned(backend)) == {}


def test_an_address_that_left_lo_takes_its_drop_in_along():
    backend = Backend("networkd", "10-eth0.network")
    files = planned(backend, planned(backend), ADDRESSES[:1])
    assert files["/etc/systemd/network/50-dualstack-lo.network.d/50-dualstack-eth0.conf"].content is None


def test_stanzas_are_found_through_sourced_files(tmp_path):
    (tmp_path / "interfaces").write_text(
        "source more/*\nsource-directory dir\niface eth0 inet dhcp\n# iface eth9 inet dhcp\n"
    )
    for name, text in (
        ("more/a.cfg", "auto eth1\niface \\\n eth1 inet manual\n"),
        ("dir/b", "iface eth2 inet manual\n"),
    ):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text(text)
    assert stanza_devices(str(tmp_path / "interfaces")) == {"eth0", "eth1", "eth2"}
    assert stanza_devices(str(tmp_path / "none")) == set()


GOT = """network:
  version: 2
  renderer: networkd
  ethernets:
    eth0:
      dhcp4: true
    "lan 1":
      match:
        name: "lan*"
  vlans:
    bond0.100:
      id: 100
      link: "bond0"
"""


@pytest.mark.parametrize(("name", "section"), [("eth0", "ethernets"), ("lan 1", "ethernets"), ("bond0.100", "vlans")])
def test_netplan_tells_the_kind_of_a_definition(name, section):
    assert _netplan.section(name, lambda command: Outcome(0, GOT)) == section


def test_a_definition_that_netplan_lost_is_told():
    with pytest.raises(DualStackError, match="does not define it any more"):
        _netplan.section("dhcp4", lambda command: Outcome(0, GOT))


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("/run/systemd/network/10-netplan-bond0.100.network", "bond0.100"),
        ("/etc/systemd/network/10-netplan-eth0.network", ""),
        ("/run/systemd/network/10-eth0.network", ""),
    ],
)
def test_a_file_that_netplan_made_names_its_definition(file, name):
    assert _netplan.identifier(file) == name


def test_netplan_gets_a_file_of_our_own():
    backend = Backend("netplan", "10-netplan-id0.network", NETPLAN_LO, "vlans", "id0")
    extra = [{"address": "2001:db8::5/128", "deprecated": True}]
    (_sysctl, file) = planned(backend, addresses=ADDRESSES + extra).values()
    assert (file.path, file.mode) == ("/etc/netplan/99-dualstack-eth0.yaml", 0o600)
    assert yaml.safe_load(file.content) == {
        "network": {
            "version": 2,
            "vlans": {
                "id0": {
                    "accept-ra": False,
                    "ipv6-privacy": False,
                    "addresses": ["2001:db8:100:1::c:11/128", {"2001:db8::5/128": {"lifetime": 0}}],
                    "routes": [
                        {"to": "2001:db8:100:1::/64", "scope": "link", "metric": 1024},
                        {"to": "2001:db8:200:1011::/64", "type": "unreachable", "metric": 4096},
                        {"to": "::/0", "via": "fe80::1", "metric": 1024},
                    ],
                }
            },
            "ethernets": {"lo": {"addresses": ["2001:db8:200:1011::1/128"]}},
        }
    }


def test_an_interface_that_nobody_configures_gets_the_whole_definition():
    files = planned(Backend("ifupdown", fresh=True))
    assert b"\nauto eth0\niface eth0 inet6 static\n" in files["/etc/network/dualstack.d/eth0"].content
    files = planned(Backend("networkd", "50-dualstack-eth0.network", fresh=True))
    assert b"[Match]\nName=eth0\n\n[Network]\n" in files["/etc/systemd/network/50-dualstack-eth0.network"].content


def test_a_deprecated_address_is_one_in_every_managers_words():
    extra = [*ADDRESSES, {"address": "2001:db8::5/128", "deprecated": True}]
    text = planned(Backend("ifupdown"), addresses=extra)["/etc/network/dualstack.d/eth0"].content.decode()
    assert "    up ip -6 address replace 2001:db8::5/128 dev eth0 preferred_lft 0\n" in text
    text = planned(Backend("networkd", "10-eth0.network"), addresses=extra)
    text = text["/etc/systemd/network/10-eth0.network.d/50-dualstack.conf"].content.decode()
    assert "[Address]\nAddress=2001:db8::5/128\nPreferredLifetime=0\n" in text


def test_a_host_that_only_has_deprecated_addresses_keeps_them_so():
    extra = [{"address": "2001:db8::5/128", "deprecated": True}]
    text = planned(Backend("ifupdown"), addresses=extra)["/etc/network/dualstack.d/eth0"].content.decode()
    assert "preferred-lifetime 0" in text
