"""Each IPv4 listener of Varnish gets its twin in the command that is in force; lists that know IPv4 only are told."""

import pytest
from module_utils._edit_varnish import checks, edit, notes, sockets
from module_utils._errors import InputError

ROOT = "/usr/lib/systemd/system/varnish.service"
HOST = "/etc/systemd/system/varnish.service"
UNIT = "[Service]\n# -a 0.0.0.0:80\nExecStart=\nExecStart=/usr/sbin/varnishd -F {}\nRestart=no\n"
ONE = {"listen": {"add": ["[2001:db8::1]"]}}


def change(options, settings):
    unit = UNIT.format(options)
    return edit(ROOT, {ROOT: "[Service]\nExecStart=/usr/sbin/varnishd -a :6081\n", HOST: unit}.get, settings).get(
        HOST, unit
    )


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("-a 0.0.0.0:80 -T localhost:6082", "-a 0.0.0.0:80 -a [::]:80 -T localhost:6082"),
        ("-a http=0.0.0.0:80,HTTP \\\n  -s x", "-a http=0.0.0.0:80,HTTP -a http=[::]:80,HTTP \\\n  -s x"),
        ("-a0.0.0.0", "-a0.0.0.0 -a [::]:80"),
        ("-a 0.0.0.0:http", "-a 0.0.0.0:http -a [::]:http"),
        ("-a 0.0.0.0:80-82", "-a 0.0.0.0:80-82 -a [::]:80-82"),
        ("-a :80", "-a :80"),
        ("-a *:80 -a 192.0.2.1:80", "-a *:80 -a 192.0.2.1:80"),
        ("-a 0.0.0.0:80 -a [::]:80", "-a 0.0.0.0:80 -a [::]:80"),
        ("-a 127.0.0.1:80", "-a 127.0.0.1:80"),
        ("-a /run/v.sock,mode=666 -a x=@abstract", "-a /run/v.sock,mode=666 -a x=@abstract"),
    ],
)
def test_all_of_ipv4_gets_all_of_ipv6(old, new):
    assert change(old, {}) == UNIT.format(new)
    assert change(new, {}) == UNIT.format(new)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("-a 192.0.2.1:80,PROXY", "-a 192.0.2.1:80,PROXY -a [2001:db8::1]:80,PROXY"),
        ("-a 192.0.2.1:80 -a 192.0.2.2:80", "-a 192.0.2.1:80 -a [2001:db8::1]:80 -a 192.0.2.2:80"),
        ("-a 192.0.2.1:80 -a [2001:DB8:0::1]:80", "-a 192.0.2.1:80 -a [2001:DB8:0::1]:80"),
    ],
)
def test_one_ipv4_address_gets_the_addresses_that_are_named(old, new):
    assert change(old, ONE) == UNIT.format(new)


def test_one_ipv4_address_is_refused_without_addresses():
    with pytest.raises(InputError, match=r"line 4: -a 192\.0\.2\.1:80 names one .*varnish_ipv6_addresses"):
        change("-a 192.0.2.1:80", {})


@pytest.mark.parametrize("word", ["$ADDRESS", "www.example:80", "'192.0.2.1:80'"])
def test_what_cannot_be_read_is_refused(word):
    with pytest.raises(InputError, match="not ADDRESS:PORT"):
        change(f"-a {word}", {})


def test_only_the_command_in_force_is_edited():
    text = "[Service]\nExecStart=v -a 0.0.0.0:81\nExecStart=\nExecStart=v -a 0.0.0.0:82\n"
    assert edit(ROOT, {ROOT: "", HOST: text}.get, {}) == {HOST: text.replace("82", "82 -a [::]:82")}
    assert sockets(ROOT, {ROOT: "", HOST: text}.get) == {("0.0.0.0", "82")}


def test_a_packaged_unit_is_never_edited():
    with pytest.raises(InputError, match="put that in a unit of the host's own"):
        edit(ROOT, {ROOT: UNIT.format("-a 0.0.0.0:80")}.get, {})


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ("-a :6081 -T localhost:6082", {("", "6081")}),
        ("-a a=[::]:80-81,HTTP", {("::", "80"), ("::", "81")}),
        ("-a localhost:http -a /run/v.sock", {("127.0.0.1", "80")}),
    ],
)
def test_sockets(options, found):
    assert sockets(ROOT, {ROOT: UNIT.format(options)}.get) == found


def test_access_lists_with_ipv4_alone_are_told():
    files = {
        ROOT: UNIT.format("-a :80 -f /etc/varnish/default.vcl"),
        "/etc/varnish/default.vcl": '# acl old { "192.0.2.9"; }\ninclude "acl.vcl";\nacl local { "127.0.0.1"; }\n',
        "/etc/varnish/acl.vcl": '\nacl purge { "192.0.2.0"/24; !"192.0.2.9"; }\nacl b { "192.0.2.1"; "2001:db8::"; }\n',
    }
    (note,) = notes(ROOT, files.get, {})
    assert note.startswith("/etc/varnish/acl.vcl: line 2: acl purge names 192.0.2.0 and no client of IPv6")


def test_the_vcl_in_force_is_compiled_before_a_restart():
    units = {ROOT: "[Service]\nExecStart=/usr/sbin/varnishd -f /etc/varnish/default.vcl\n"}
    assert checks(ROOT, units.get) == [("varnishd", "-C", "-f", "/etc/varnish/default.vcl")]
    units[HOST] = UNIT.format("-a :80 \\\n  -f \\\n /srv/shop.vcl -s malloc")
    assert checks(ROOT, units.get) == [("varnishd", "-C", "-f", "/srv/shop.vcl")]
    assert checks(ROOT, {ROOT: UNIT.format("-b 192.0.2.1")}.get) == []
