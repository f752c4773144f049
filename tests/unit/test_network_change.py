"""The glue of a network change: which files and settings it touches, and how it sees that IPv4 is whole."""

import pytest
from module_utils import _backends, _network_change
from module_utils._backends import Backend
from module_utils._errors import InputError
from module_utils._network import parse_wanted

IFUPDOWN = Backend("ifupdown")
DEVICES = {"lo": 1, "eth0": 2, "eth1": 3}


def test_a_file_behind_a_symbolic_link_is_written_where_it_is(tmp_path, monkeypatch):
    real, link = tmp_path / "kept" / "interfaces", tmp_path / "interfaces"
    real.parent.mkdir()
    real.write_text("auto lo\n")
    link.symlink_to(real)
    monkeypatch.setattr(_backends, "INTERFACES", str(link))
    monkeypatch.setattr(_backends, "OWN_DIRECTORY", str(tmp_path / "own.d"))
    monkeypatch.setattr(_backends, "SYSCTL_DIRECTORY", str(tmp_path / "sysctl.d"))
    addresses = [{"address": f"2001:db8:{number}::1/64", "device": f"eth{number}"} for number in range(2)]
    wanted = parse_wanted("eth0", addresses, [], DEVICES)
    changes = _network_change._plan_files(wanted, {each.device: IFUPDOWN for each in wanted})
    own = [str(tmp_path / f"{place}") for place in ("own.d/eth0", "sysctl.d/90-dualstack-eth0.conf")]
    assert [after.path for _before, after in changes[:3]] == [own[1], str(real), own[0]]
    assert changes[1][0].content == b"auto lo\n"


def test_a_setting_that_deviates_is_set_or_told(tmp_path, monkeypatch):
    (tmp_path / "eth0").mkdir()
    files = [tmp_path / "eth0" / name for name in ("accept_ra", "autoconf", "use_tempaddr")]
    for file, value in zip(files, "210"):
        file.write_text(f"{value}\n")
    monkeypatch.setattr(_network_change, "SYSCTL", str(tmp_path))
    assert _network_change._settings("eth0") == [(str(files[0]), "2", "0"), (str(files[1]), "1", "0")]
    assert _network_change._unruly(["eth0"]) == []
    monkeypatch.setattr("os.access", lambda path, mode: False)
    assert _network_change._settings("eth0") == []
    (told,) = _network_change._unruly(["eth0"])
    assert "accept_ra = 2, autoconf = 1, " in told
    files[0].write_text("0\n")
    assert _network_change._unruly(["eth0"]) == []


def test_lost_ipv4_is_told_by_interface():
    assert _network_change._lost({"lo": _network_change._ipv4("lo")}) == []
    assert _network_change._lost({"lo": {"192.0.2.9/24", "route 0.0.0.0/0 via 192.0.2.1"}}, 0.1) == [
        "lo lost 192.0.2.9/24, route 0.0.0.0/0 via 192.0.2.1 of its IPv4 configuration"
    ]


def test_a_crowded_link_is_told_before_neighbours_are_lost(tmp_path, monkeypatch):
    (tmp_path / "gc_thresh3").write_text("1024\n")
    monkeypatch.setattr(_network_change, "_NEIGHBOURS", str(tmp_path))
    lines = ["IP address  HW type ..."]
    monkeypatch.setattr(_network_change, "_ARP", str(tmp_path / "arp"))
    (tmp_path / "arp").write_text("\n".join(lines + ["192.0.2.1 0x1"] * 511) + "\n")
    assert _network_change._crowded() == []
    (tmp_path / "arp").write_text("\n".join(lines + ["192.0.2.1 0x1"] * 512) + "\n")
    (told,) = _network_change._crowded()
    assert "512 neighbours" in told
    (tmp_path / "gc_thresh3").unlink()  # as in a network namespace
    assert _network_change._crowded() == []


def test_a_device_is_named_by_its_mac_address(tmp_path, monkeypatch):
    for name, address in (("eth0", "02:00:00:00:00:01"), ("eth1", "02:00:00:00:00:02"), ("bond0", "02:00:00:00:00:02")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "address").write_text(f"{address}\n")
    (tmp_path / "eth1" / "master").symlink_to("../bond0")
    monkeypatch.setattr(_network_change, "_DEVICES", str(tmp_path))
    indexes = {"lo": 1, "eth0": 2, "eth1": 3, "bond0": 4}
    assert _network_change._named_device("02:00:00:00:00:02", "eth0", indexes) == "bond0"
    assert _network_change._named_device("", "eth0", indexes) == "eth0"
    for given, words in (
        ("02:00:00:00:00:09", "no device of this host has the MAC address 02:00:00:00:00:09: it has .*eth0 .02:00:00"),
        ("eth9", "device eth9 is not on this host: it has .*eth0 .02:00:00:00:00:01."),
    ):
        with pytest.raises(InputError, match=words):
            _network_change._named_device(given, "eth0", indexes)
    with pytest.raises(InputError, match="no IPv4 default route: name the device"):
        _network_change._named_device("", "", indexes)
    (tmp_path / "eth1" / "master").unlink()
    with pytest.raises(InputError, match="that of bond0 and eth1: give the name of one of them"):
        _network_change._named_device("02:00:00:00:00:02", "eth0", indexes)
