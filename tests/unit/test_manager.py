"""A port that others hold is not the service's own, whatever they call themselves."""

import pytest
from module_utils._manager import foreign, strangers, unit_of

OUTSIDE = "/pod/lab"
LISTENS = "   0: 00000000:0019 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 {} 1\n"


@pytest.fixture
def host(tmp_path):
    """Adds processes to a /proc, where systemd runs in a control group of its own, as in a container."""
    (tmp_path / "proc" / "net").mkdir(parents=True)

    def add(number, group, *inodes, line="9:name=systemd:{}\n0::/elsewhere\n"):
        process = tmp_path / "proc" / str(number)
        (process / "fd").mkdir(parents=True)
        (process / "cgroup").write_text(line.format(OUTSIDE + group))
        (process / "comm").write_text(f"daemon{number}\n")
        for inode in inodes:
            (process / "fd" / str(inode)).symlink_to(f"socket:[{inode}]")

    add(1, "/init.scope", 9)
    add.root = f"{tmp_path}/"
    add.table = tmp_path / "proc" / "net" / "tcp"
    add.table.write_text("head\n")
    return add


def test_the_unit_of_a_process_is_the_first_that_is_no_slice(host):
    host(2, "/system.slice/system-postfix.slice/postfix@-.service")
    host(3, "/machine.slice/pod-x.scope/system.slice/postfix.service")
    host(4, "/system.slice/a.service", line="0::{}\n")
    host(5, "")
    units = [unit_of(f"{host.root}proc/{number}", host.root) for number in range(2, 7)]
    assert units == ["postfix@-.service", "pod-x.scope", "a.service", "", ""]


@pytest.mark.parametrize(
    ("group", "problem"),
    [
        ("/system.slice/system-postfix.slice/postfix@-.service", None),
        ("/system.slice/postfix.service", None),
        ("/system.slice/postfix-resolvconf.service", "daemon2 in postfix-resolvconf.service"),
        ("/machine.slice/pod-x.scope/system.slice/postfix.service", "daemon2 in pod-x.scope"),
        ("/user.slice/user-0.slice/session-1.scope", "daemon2 in session-1.scope"),
        ("", "daemon2 in no unit"),
    ],
)
def test_a_port_belongs_to_the_unit_or_to_others(host, group, problem):
    host(2, group, 7)
    host.table.write_text("head\n" + LISTENS.format(7))
    expected = [f"port 25: {problem} listens there (process 2)"] if problem else []
    assert foreign([25, 26, 25], "postfix[.@]*", host.root) == expected


def test_a_port_that_the_unit_shares_is_its_own(host):
    host(2, "/system.slice/postfix.service", 8)
    host(3, "/system.slice/other.service", 7)
    host.table.write_text("head\n" + LISTENS.format(7) + LISTENS.format(8))
    assert foreign([25], "postfix[.@]*", host.root) == []


@pytest.mark.parametrize("inode", [9, 6])
def test_what_systemd_or_the_kernel_listens_for_is_nobody_elses(host, inode):
    host.table.write_text("head\n" + LISTENS.format(inode))
    assert foreign([25], "postfix[.@]*", host.root) == []


def test_who_listens_beside_the_unit_is_named_with_his_address(host):
    host(2, "/system.slice/postfix.service", 7)
    host(3, "/system.slice/other.service", 8)
    host.table.write_text("head\n" + "".join(LISTENS.format(inode) for inode in (7, 8, 9)))
    assert strangers(25, "postfix.service", host.root) == {"0.0.0.0": "daemon3 in other.service (process 3)"}
    assert strangers(26, "postfix.service", host.root) == {}
