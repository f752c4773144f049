"""A file that a program writes is not edited; one that is the admin's is, whatever else is installed."""

import pytest
from module_utils._resolv_writer import writer

OURS, CONTAINER = "mnt:[1]", "mnt:[2]"
RESOLVCONF = "if [ -x /sbin/resolvconf ] ; then\n\tmake_resolv_conf() { : ; }\nfi\n"


@pytest.fixture
def host(tmp_path):
    """Return a function that adds files (a process is one, too) and asks who writes the host's file."""

    def process(number, name, namespace):
        directory = tmp_path / "proc" / number / "ns"
        directory.mkdir(parents=True)
        (directory / "mnt").symlink_to(namespace)
        (directory.parent / "comm").write_text(f"{name}\n")

    def ask(*processes, files=()):
        process("self", "python3", OURS)
        for number, (name, namespace) in enumerate(processes, 1):
            process(str(number), name, namespace)
        for name, text in dict(files).items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text)
        return writer("/etc/resolv.conf", str(tmp_path))

    return ask


@pytest.mark.parametrize("path", ["/run/systemd/resolve/stub-resolv.conf", "/usr/lib/systemd/resolv.conf"])
def test_what_lies_outside_etc_is_not_the_admins(path):
    assert path in writer(path)


def test_a_running_dhclient_writes_the_file_and_the_way_out_is_named(host):
    assert "make_resolv_conf() { :; }" in host(("dhclient", OURS))


@pytest.mark.parametrize("process", [("sshd", OURS), ("dhclient", CONTAINER)])
def test_other_processes_do_not_write_it(host, process):
    assert host(process) == ""


@pytest.mark.parametrize("name", ["dhclient-enter-hooks", "dhclient-enter-hooks.d/keep-resolv-conf"])
def test_a_hook_keeps_dhclient_from_the_file(host, name):
    assert host(("dhclient", OURS), files={f"etc/dhcp/{name}": "# why\nmake_resolv_conf() { :; }\n"}) == ""


@pytest.mark.parametrize(("installed", "free"), [(True, True), (False, False)])
def test_the_hook_of_resolvconf_counts_while_it_is_installed(host, installed, free):
    files = {"etc/dhcp/dhclient-enter-hooks.d/resolvconf": RESOLVCONF}
    if installed:
        files["sbin/resolvconf"] = ""
    assert (host(("dhclient", OURS), files=files) == "") is free


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("dhclient-enter-hooks.d/keep.sh", "make_resolv_conf() { :; }\n"),  # run-parts does not run it
        ("dhclient-enter-hooks.d/keep", "# make_resolv_conf() { :; }\n"),
        ("dhclient-exit-hooks.d/keep", "make_resolv_conf() { :; }\n"),
    ],
)
def test_a_hook_without_effect_does_not_count(host, name, text):
    assert host(("dhclient", OURS), files={f"etc/dhcp/{name}": text})
