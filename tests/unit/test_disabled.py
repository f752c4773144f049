"""IPv6 switched off, in each of the places where that is done: what keeps it off, what looks so, what to do."""

import pytest
from module_utils._disabled import diagnose


@pytest.fixture
def root(tmp_path):
    """A host with IPv6 built into its kernel and switched on."""

    def write(path, text):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
        return tmp_path

    write.path = write("proc/sys/net/ipv6/conf/eth0/disable_ipv6", "0\n")
    return write


def ask(root):
    """Return the problems of eth0 as one text each, and what has no effect."""
    return diagnose(["eth0"], str(root.path))


def test_a_host_with_ipv6_on_has_no_problem(root):
    assert ask(root) == ([], [])


def test_a_kernel_started_without_ipv6_takes_a_restart(root):
    root("proc/cmdline", "quiet ipv6.disable=1\n")
    ((problem,), idle) = ask(root)
    assert "ipv6.disable=1" in problem
    assert "/etc/default/grub" in problem
    assert "restart the host" in problem
    assert idle == []


def test_the_last_of_two_parameters_counts(root):
    root("proc/cmdline", "ipv6.disable=1 ipv6.disable=0\n")
    assert ask(root) == ([], [])


def test_a_parameter_that_leaves_the_module_in_takes_none(root):
    root("proc/cmdline", "ipv6.disable_ipv6=1\n")
    root("proc/sys/net/ipv6/conf/eth0/disable_ipv6", "1\n")
    ((problem,), _idle) = ask(root)
    assert "no restart is needed" in problem
    assert "sysctl -w net.ipv6.conf.all.disable_ipv6=0" in problem


def test_a_setting_is_told_with_the_file_that_brings_it_back(root):
    root("proc/sys/net/ipv6/conf/eth0/disable_ipv6", "1\n")
    ((problem,), _idle) = ask(root)
    assert "no file sets it" in problem
    root("etc/sysctl.d/10-off.conf", "net.ipv6.conf.all.disable_ipv6 = 1\n")
    (problems, _idle) = ask(root)
    assert problems == [
        "/etc/sysctl.d/10-off.conf switches IPv6 off at boot (net.ipv6.conf.all.disable_ipv6 = 1): take that out",
        "IPv6 is switched off on eth0: run sysctl -w net/ipv6/conf/eth0/disable_ipv6=0",
    ]


def test_a_later_file_has_the_last_word(root):
    root("etc/sysctl.d/10-off.conf", "net.ipv6.conf.all.disable_ipv6 = 1\n")
    root("usr/lib/sysctl.d/20-on.conf", "net.ipv6.conf.eth0.disable_ipv6 = 0\n")
    assert ask(root) == ([], [])
    root("usr/lib/sysctl.d/30-off.conf", "net/ipv6/conf/default/disable_ipv6=1\n")
    assert ask(root)[0][0].startswith("/usr/lib/sysctl.d/30-off.conf switches")


@pytest.mark.parametrize(
    "line", ["options ipv6 disable=1", "install ipv6 /bin/true", "blacklist ipv6", "alias net-pf-10 off"]
)
def test_a_module_option_counts_only_for_a_module(root, line):
    root("etc/modprobe.d/no-ipv6.conf", f"# options ipv6 disable=1\n{line}\n")
    text = f"/etc/modprobe.d/no-ipv6.conf says {line!r}"
    assert ask(root) == ([], [f"{text}, without effect: the kernel has IPv6 built in"])
    root("sys/module/ipv6/initstate", "live\n")
    assert ask(root) == ([f"{text}, which counts from the next boot: take that out; no restart is needed"], [])


def test_a_kernel_without_the_module_is_told_from_one_without_ipv6(tmp_path):
    assert diagnose(["eth0"], str(tmp_path)) == (["the kernel runs without IPv6: boot one that has it"], [])
    (tmp_path / "etc/modprobe.d").mkdir(parents=True)
    (tmp_path / "etc/modprobe.d/x.conf").write_text("install ipv6 /bin/true\n")
    ((problem,), _idle) = diagnose(["eth0"], str(tmp_path))
    assert "/etc/modprobe.d/x.conf says 'install ipv6 /bin/true': take that out and restart the host" in problem
