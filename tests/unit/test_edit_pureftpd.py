"""Pure-FTPd's options go to both families in the words that are there; what would send people away is refused."""

import pytest
from module_utils._edit_pureftpd import edit, sockets
from module_utils._errors import InputError

ROOT = "/etc/default/pure-ftpd-common"
CONF = "/etc/pure-ftpd/conf"


def files(**options):
    return {ROOT: "STANDALONE_OR_INETD=standalone\n", **{f"{CONF}/{name}": text for name, text in options.items()}}


def change(settings=None, **options):
    return {path.rpartition("/")[2]: text for path, text in edit(ROOT, files(**options).get, settings or {}).items()}


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ({}, {}),
        ({"IPV4Only": "yes\n"}, {"IPV4Only": "no\n"}),
        ({"IPV4Only": "# old clients\n\n On \r\n"}, {"IPV4Only": "# old clients\n\n no \r\n"}),
        ({"IPV4Only": "no\n1"}, {"IPV4Only": "no\nno"}),  # a no before it does not count
        ({"IPV4Only": "no\n"}, {}),
        ({"Bind": "0.0.0.0,21\n"}, {"Bind": ",21\n"}),
        ({"Bind": "# all\n0.0.0.0,ftp\n192.0.2.1,21\n"}, {"Bind": "# all\n,ftp\n192.0.2.1,21\n"}),
        ({"Bind": ",21\n"}, {}),
        ({"Bind": "*,21"}, {}),
        ({"Bind": "21"}, {}),
        ({"ForcePassiveIP": "192.0.2.1\n", "PassivePortRange": "1 2"}, {}),
    ],
)
def test_both_families(old, new):
    assert change(**old) == new
    assert change(**{**old, **new}) == {}


@pytest.mark.parametrize(("old", "new"), [(None, "yes\n"), ("no\n", "yes\n"), ("1", None), ("ON\n", None)])
def test_names_are_not_looked_up(old, new):
    options = {} if old is None else {"DontResolve": old}
    assert change({"DontResolve": True}, **options) == ({"DontResolve": new} if new else {})
    assert change({"DontResolve": False}, **options) == {}


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("Bind", "192.0.2.1,21\n", "binds one address or all, and 192.0.2.1 is one"),
        ("Bind", "::,21\n", ":: is one"),
        ("TrustedIP", "192.0.2.1", "only sessions to 192.0.2.1 may log in"),
        ("ForcePassiveIP", "\n2001:db8::1\n", "2001:db8::1 makes Pure-FTPd refuse every session"),
    ],
)
def test_what_sends_people_away_is_refused(option, value, words):
    with pytest.raises(InputError, match=words) as error:
        change(**{option: value})
    assert str(error.value).startswith(f"{CONF}/{option}: line ")


def test_inetd_is_told():
    read = {ROOT: "# x\nSTANDALONE_OR_INETD='inetd'\n"}.get
    with pytest.raises(InputError, match=f"{ROOT}: line 2: inetd listens"):
        edit(ROOT, read, {})


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ({}, ("", "21")),
        ({"Bind": ",2121"}, ("", "2121")),
        ({"Bind": "21"}, ("", "21")),
        ({"Bind": "192.0.2.1,ftp"}, ("192.0.2.1", "21")),
        ({"IPV4Only": "yes"}, ("0.0.0.0", "21")),
        ({"IPV6Only": "yes"}, ("::", "21")),
    ],
)
def test_sockets(options, found):
    assert sockets(ROOT, files(**options).get) == {found}
