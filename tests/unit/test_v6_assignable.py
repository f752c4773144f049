"""The test v6_assignable: what a host may have, and an error for what is no address."""

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from module_utils._addresses import assignable

pytest.importorskip("ansible", minversion="2.17")

from ansible.errors import AnsibleError
from ansible.parsing.dataloader import DataLoader
from ansible.plugins.loader import test_loader
from ansible.template import Templar

try:
    from ansible.template import trust_as_template
except ImportError:  # before ansible-core 2.19 a string is a template
    trust_as_template = str


def is_assignable(address):
    return test_loader.get("dualstack.fleet.v6_assignable").j2_function(address)


@pytest.mark.parametrize(
    ("address", "answer"),
    [
        ("2001:db8:100:1::ad:de", True),
        ("2001:DB8:100:1:0:0:AD:DE", True),
        ("fd5c:91be:27a4:1::1", True),
        ("2001:db8:100:1::", False),  # RFC 4291: Subnet-Router anycast
        ("2001:db8:100:1:200:5eff:fe00:0", False),  # RFC 5453
        ("2001:db8:100:1:200:5eff:feff:ffff", False),
        ("2001:db8:100:1:200:5eff:ff00:0", True),
        ("2001:db8:100:1:fdff:ffff:ffff:ff7f", True),  # RFC 2526 begins one higher
        ("2001:db8:100:1:fdff:ffff:ffff:ff80", False),
        ("2001:db8:100:1:fdff:ffff:ffff:ffff", False),
        ("fe80::1", False),
        ("fec0::1", False),
        ("fc00::1", False),
        ("ff02::1", False),
        ("::", False),
        ("::1", False),
        ("::ffff:192.0.2.1", False),
        ("64:ff9b::c000:201", False),
        ("2002:c000:201::1", False),
        ("2001:20::1", False),
        ("5f00::1", False),
        ("4000::1", False),
    ],
)
def test_answers(address, answer):
    assert is_assignable(address) is answer


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("192.0.2.1", "is not an IPv6 address"),
        ("2001:db8::1/64", "is not an IPv6 address"),
        ("2001:db8::1%eth0", "has a zone"),
        ("", "is not an IPv6 address"),
        ("web1", "is not an IPv6 address"),
        (False, "got boolean False"),
        (None, "got nothing None"),
        (10, "got integer 10"),
        (["2001:db8::1"], "got list"),
    ],
)
def test_what_is_no_address_raises(value, reason):
    with pytest.raises(AnsibleError) as raised:
        is_assignable(value)
    assert str(raised.value).startswith("v6_assignable: ")
    assert reason in str(raised.value)


def test_it_works_in_a_template():
    template = trust_as_template("{{ ['2001:db8::1', '2001:db8::'] | select('dualstack.fleet.v6_assignable') | list }}")
    assert Templar(loader=DataLoader()).template(template) == ["2001:db8::1"]


@given(st.integers(0, (1 << 128) - 1) | st.integers(0x2 << 124, (0x4 << 124) - 1))
def test_no_assignable_address_is_of_a_kind_that_the_library_knows_as_special(value):
    address = ipaddress.IPv6Address(value)
    if assignable(value):
        assert not (address.is_multicast or address.is_loopback or address.is_link_local or address.is_unspecified)
        assert not address.is_site_local
