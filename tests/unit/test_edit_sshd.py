"""sshd's listeners get their IPv6 twins; what somebody may have meant is named and kept."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from module_utils._edit_sshd import edit, notes, sockets
from module_utils._errors import InputError

MAIN = "/etc/ssh/sshd_config"
NETWORKS = {"192.0.2.0/24": ["2001:db8::/64"]}
WILD = {"ListenAddress": {"add": []}}
ONE = {"ListenAddress": {"add": ["[2001:db8::1]"]}}


def change(text, settings=WILD, **files):
    """Return TEXT, the main file, as it is afterwards."""
    return edit(MAIN, {MAIN: text, **files}.get, settings).get(MAIN, text)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("Port 22\n", "Port 22\n"),
        ("#ListenAddress 0.0.0.0\n", "#ListenAddress 0.0.0.0\n"),
        ("ListenAddress 0.0.0.0\n", "ListenAddress 0.0.0.0\nListenAddress ::\n"),
        ("listenaddress=0.0.0.0 # all\r\nX y", "listenaddress=0.0.0.0 # all\r\nlistenaddress=::\r\nX y"),
        ('  ListenAddress "0.0.0.0"', '  ListenAddress "0.0.0.0"\n  ListenAddress "::"'),
        ("ListenAddress 0.0.0.0:2222\n", "ListenAddress 0.0.0.0:2222\nListenAddress [::]:2222\n"),
        ("ListenAddress 0.0.0.0 rdomain a\n", "ListenAddress 0.0.0.0 rdomain a\nListenAddress :: rdomain a\n"),
        ("ListenAddress ::\nListenAddress 0.0.0.0\n", "ListenAddress ::\nListenAddress 0.0.0.0\n"),
        ("ListenAddress 127.0.0.1\nListenAddress ::1\n", "ListenAddress 127.0.0.1\nListenAddress ::1\n"),
        (
            "ListenAddress 0.0.0.0\nListenAddress 192.0.2.1\n",
            "ListenAddress 0.0.0.0\nListenAddress ::\nListenAddress 192.0.2.1\n",
        ),
        (  # a port without IPv6 beside one that has it
            "Port 22\nPort 2222\nListenAddress 0.0.0.0\nListenAddress [::]:22\n",
            "Port 22\nPort 2222\nListenAddress 0.0.0.0\nListenAddress [::]:2222\nListenAddress [::]:22\n",
        ),
        (  # the ports of a later line count for an earlier ListenAddress
            "ListenAddress 0.0.0.0\nListenAddress [::]:22\nPort 2222\n",
            "ListenAddress 0.0.0.0\nListenAddress ::\nListenAddress [::]:22\nPort 2222\n",
        ),
    ],
)
def test_all_of_ipv4_gets_all_of_ipv6(old, new):
    assert change(old) == new
    assert change(new) == new


@pytest.mark.parametrize("there", ["2001:db8::7", "[2001:db8::7]:22"])
def test_all_of_ipv4_stays_alone_beside_an_ipv6_address_since_nothing_more_can_be_bound_there(there):
    text = f"ListenAddress 0.0.0.0\nListenAddress {there}\n"
    assert change(text) == text
    assert change("ListenAddress 0.0.0.0\n", ONE) == "ListenAddress 0.0.0.0\nListenAddress ::\n"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("ListenAddress 192.0.2.1\n", "ListenAddress 192.0.2.1\nListenAddress 2001:db8::1\n"),
        ("ListenAddress 192.0.2.1:22\n", "ListenAddress 192.0.2.1:22\nListenAddress [2001:db8::1]:22\n"),
        ("ListenAddress 192.0.2.1\nListenAddress 2001:DB8:0::1\n",) * 2,
        ("ListenAddress 192.0.2.1\nListenAddress [2001:db8::1]:22\n",) * 2,
        ("ListenAddress 192.0.2.1\nListenAddress ::\n",) * 2,
    ],
)
def test_one_ipv4_address_gets_the_addresses_that_are_named(old, new):
    assert change(old, ONE) == new


def test_the_drop_ins_are_read_too(tmp_path):
    (tmp_path / "sshd_config.d").mkdir()
    main, one, two = (tmp_path / name for name in ("sshd_config", "sshd_config.d/1.conf", "sshd_config.d/2.conf"))
    texts = {
        str(main): "Include sshd_config.d/*.conf\nAddressFamily inet\nListenAddress 192.0.2.1:2222\n",
        str(one): "AddressFamily any\nMatch User bob\nX11Forwarding no\n",
        str(two): "ListenAddress 0.0.0.0:2222\nAddressFamily inet\n",
    }
    for path in (one, two):
        path.write_text(texts[str(path)])
    new = "ListenAddress 0.0.0.0:2222\nListenAddress [::]:2222\nAddressFamily inet\n"
    assert edit(str(main), texts.get, WILD) == {str(two): new}
    assert sockets(str(main), {**texts, str(two): new}.get) == {
        ("0.0.0.0", "2222"), ("::", "2222"), ("192.0.2.1", "2222"),
    }  # fmt: skip


def test_one_ipv4_address_is_refused_without_addresses():
    with pytest.raises(InputError, match=r"sshd_config: line 1: ListenAddress 192.0.2.1 .*sshd_ipv6_addresses"):
        change("ListenAddress 192.0.2.1\n")


def test_a_name_is_refused():
    with pytest.raises(InputError, match=r"www\.example is a name"):
        change("ListenAddress www.example\n")


def test_a_family_that_somebody_chose_is_named_and_kept():
    with pytest.raises(
        InputError, match=r"sshd_config: line 2: AddressFamily inet .*sshd_ipv6_address_family"
    ) as error:
        change("# hardening\nAddressFamily inet\nListenAddress 192.0.2.1\n")
    assert len(error.value.problems) == 2


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("AddressFamily inet # hardening\nAddressFamily inet\n", "AddressFamily any # hardening\nAddressFamily inet\n"),
        ('addressfamily = "INET"\n', 'addressfamily = "any"\n'),
        ("AddressFamily any\nAddressFamily inet\n",) * 2,
        ("AddressFamily inet6\n",) * 2,
    ],
)
def test_the_family_in_force_is_changed_on_request(old, new):
    assert change(old, {"AddressFamily": "any"}) == new


def test_other_families_are_no_request():
    with pytest.raises(InputError, match="AddressFamily: 'inet6'"):
        change("AddressFamily inet\n", {"AddressFamily": "inet6"})


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("AllowUsers root@192.0.2.0/24 bob\n", "AllowUsers root@192.0.2.0/24 root@2001:db8::/64 bob\n"),
        ('DenyUsers "a@192.0.2.*" # x\n', 'DenyUsers "a@192.0.2.*" a@2001:db8::/64 # x\n'),
        ("AllowUsers a@192.0.2.0/24 a@2001:db8::/64\n",) * 2,
        ("AllowUsers a@192.0.2.0/24 a\n",) * 2,
        (
            "Match Address 192.0.2.0/24,198.51.100.1 User a\n",
            "Match Address 192.0.2.0/24,198.51.100.1,2001:db8::/64 User a\n",
        ),
        ('Match User a Address "!192.0.2.*,*"\n', 'Match User a Address "!192.0.2.*,*,!2001:db8::/64"\n'),
    ],
)
def test_lists_are_completed_on_request(old, new):
    assert change(old, {"networks": NETWORKS}) == new
    assert change(new, {"networks": NETWORKS}) == new


def test_lists_without_a_request_are_told_and_kept():
    text = "AllowUsers root@192.0.2.*\nMatch Address 192.0.2.0/24\n"
    assert change(text) == text
    first, second = notes(MAIN, {MAIN: text}.get, {})
    assert first.startswith(f"{MAIN}: line 1: root@192.0.2.* lets nobody in over IPv6")
    assert "root@2001:db8::/64" in first
    assert second.startswith(f"{MAIN}: line 2: 192.0.2.0/24 matches nobody over IPv6")
    assert notes(MAIN, {MAIN: text}.get, {"networks": {"192.0.2.0/24": []}}) == []


def test_a_list_that_keeps_out_is_refused_until_its_twin_is_known():
    with pytest.raises(InputError, match="DenyUsers"):
        change("DenyUsers *@192.0.2.66\n")
    assert change("DenyUsers *@192.0.2.66\n", {"networks": {"192.0.2.66": []}})


@pytest.mark.parametrize("options", ['from="192.0.2.*"', 'command="a b \\" c",FROM="192.0.2.0/24,!192.0.2.9"'])
def test_keys_that_only_work_over_ipv4_are_told(options):
    keys = {"/k": f'# from="192.0.2.1"\nssh-ed25519 A\n{options} ssh-ed25519 B\n'}
    (note,) = notes(MAIN, keys.get, {"keys": ["/k"]})
    assert note.startswith("/k: line 3: from=")
    assert note.endswith(',2001:db8::/64"')


def test_keys_that_know_ipv6_need_no_word():
    keys = {"/k": 'from="192.0.2.*,2001:db8::/64" ssh-ed25519 B\nssh-rsa A from="192.0.2.1"\n'}
    assert notes(MAIN, keys.get, {"keys": ["/k"]}) == []


def activated(stream):
    unit = f"[Socket]\nListenStream={stream}\nAccept=no\n"
    return {
        MAIN: "AddressFamily inet\n",
        "/etc/systemd/system/sockets.target.wants/ssh.socket": unit,
        "/usr/lib/systemd/system/ssh.socket": "[Socket]\nListenStream=22\n",
        "/etc/systemd/system/ssh.socket": unit,
    }


def test_what_systemd_listens_on_for_sshd_is_not_looked_for_in_its_file():
    files = activated("22")
    assert edit(MAIN, files.get, WILD) == {}
    assert sockets(MAIN, files.get) == {("", "22")}
    assert notes(MAIN, files.get, {})[0].startswith("ssh.socket listens")


def test_a_socket_unit_with_ipv4_alone_is_refused():
    files = activated("0.0.0.0:2222")
    with pytest.raises(InputError, match=r"ListenStream=\[::\]:2222 with BindIPv6Only=ipv6-only"):
        edit(MAIN, files.get, WILD)
    assert sockets(MAIN, files.get) == {("0.0.0.0", "2222")}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", {("", "22")}),
        ("Port 22\nPort 2222\n", {("", "22"), ("", "2222")}),
        ("AddressFamily inet\n", {("0.0.0.0", "22")}),
        ("Port 1\nListenAddress [::]:2\nListenAddress 192.0.2.1\n", {("::", "2"), ("192.0.2.1", "1")}),
        ("ListenAddress 2001:db8::1:22\n", {("2001:db8::1:22", "22")}),
    ],
)
def test_sockets(text, found):
    assert sockets(MAIN, {MAIN: text}.get) == found


PIECE = st.sampled_from(
    ["ListenAddress 0.0.0.0", "ListenAddress ::", "ListenAddress 192.0.2.1:2222", "Port 22", "Port 2222", "# x",
     "AddressFamily any", "AddressFamily inet", "ListenAddress [2001:db8::1]:22", "Match Address 192.0.2.0/24",
     "AllowUsers a@192.0.2.*", "ListenAddress=127.0.0.1", "", "  PermitRootLogin yes"]
)  # fmt: skip


@given(st.lists(PIECE), st.sampled_from(["\n", "\r\n"]), st.booleans())
def test_twice_is_the_same_as_once_and_lines_are_only_added(pieces, style, closed):
    text = style.join(pieces) + (style if closed else "")
    settings = {**ONE, "AddressFamily": "any", "networks": NETWORKS}
    once = change(text, settings)
    assert change(once, settings) == once
    assert len(once.split(style)) >= len(text.split(style))
    ports = {port for address, port in sockets(MAIN, {MAIN: text}.get) if "." in address and address != "127.0.0.1"}
    served = {port for address, port in sockets(MAIN, {MAIN: once}.get) if not address or ":" in address}
    assert ports <= served
