"""The glue of a network change: which files and settings it touches, and how it sees that IPv4 is whole."""

from module_utils import _backends, _network_change
from module_utils._backends import Backend
from module_utils._network import parse_wanted

IFUPDOWN, NETWORKD = Backend("ifupdown"), Backend("networkd", "10-eth0.network")
DEVICES = {"lo": 1, "eth0": 2, "eth1": 3}


def test_a_file_behind_a_symbolic_link_is_written_where_it_is(tmp_path, monkeypatch):
    real, link = tmp_path / "kept" / "interfaces", tmp_path / "interfaces"
    real.parent.mkdir()
    real.write_text("auto lo\n")
    link.symlink_to(real)
    monkeypatch.setattr(_backends, "INTERFACES", str(link))
    monkeypatch.setattr(_backends, "OWN_DIRECTORY", str(tmp_path / "own.d"))
    addresses = [{"address": f"2001:db8:{number}::1/64", "device": f"eth{number}"} for number in range(2)]
    wanted = parse_wanted("eth0", addresses, [], DEVICES)
    changes = _network_change._plan_files(wanted, {each.device: IFUPDOWN for each in wanted})
    paths = [str(real), str(tmp_path / "own.d" / "eth0"), str(tmp_path / "own.d" / "eth1")]
    assert [after.path for _before, after in changes] == paths
    assert changes[0][0].content == b"auto lo\n"


def test_networkd_keeps_no_autoconf_and_so_none_is_set(tmp_path, monkeypatch):
    (tmp_path / "eth0").mkdir()
    for name in ("accept_ra", "autoconf"):
        (tmp_path / "eth0" / name).write_text("1\n")
    monkeypatch.setattr(_network_change, "SYSCTL", str(tmp_path))
    accept_ra, autoconf = ((str(tmp_path / "eth0" / name), "1", "0") for name in ("accept_ra", "autoconf"))
    assert _network_change._settings("eth0", NETWORKD) == [accept_ra]
    assert _network_change._settings("eth0", IFUPDOWN) == [accept_ra, autoconf]


def test_lost_ipv4_is_told_by_interface():
    assert _network_change._lost({"lo": _network_change._ipv4("lo")}) == []
    assert _network_change._lost({"lo": {"192.0.2.9/24", "route 0.0.0.0/0 via 192.0.2.1"}}, 0.1) == [
        "lo lost 192.0.2.9/24, route 0.0.0.0/0 via 192.0.2.1 of its IPv4 configuration"
    ]
