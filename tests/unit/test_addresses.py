"""Addresses as integers: the texts are those of the standard library, the rules those of the RFCs."""

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from module_utils import _addresses as addresses
from module_utils._errors import DualStackError

values = st.one_of(
    st.integers(0, (1 << 128) - 1),
    # Where inet_ntop writes IPv4.
    st.integers(0, (1 << 32) - 1),
    st.integers(0xFFFF << 32, (1 << 48) - 1),
    st.lists(st.sampled_from([0, 0, 1, 0xFFFF]), min_size=8, max_size=8).map(
        lambda words: sum(word << 16 * place for place, word in enumerate(words))
    ),
)


@given(values)
def test_text_is_that_of_the_standard_library_and_reads_back(value):
    assert addresses.text(value) == str(ipaddress.IPv6Address(value))
    assert addresses.parse_address(addresses.text(value)) == value


@given(values, st.integers(0, 32).map(lambda nibbles: 4 * nibbles))
def test_reverse_names_are_the_address_backwards(value, length):
    whole = ipaddress.IPv6Address(value).reverse_pointer
    assert addresses.reverse_name(value) == whole
    assert addresses.reverse_name(value, length) == whole.split(".", 32 - length // 4)[-1]


@given(values, st.integers(0, 128))
def test_a_joined_suffix_comes_back(value, length):
    prefix = addresses.Prefix(value >> (128 - length) << (128 - length), length)
    suffix = value & (1 << (128 - length)) - 1
    assert prefix.join(suffix) == value
    assert addresses.parse_prefix(str(prefix)) == prefix


@given(values, st.integers(0, 128), st.integers(0, 128), st.integers(0, 1 << 64))
def test_subnets_are_those_of_the_standard_library(value, length, longer, index):
    prefix = addresses.Prefix(value >> (128 - length) << (128 - length), length)
    if longer < length or index >= 1 << (longer - length):
        with pytest.raises(DualStackError):
            prefix.subnet(longer, index)
        return
    subnet = ipaddress.IPv6Network(str(prefix.subnet(longer, index)))
    assert subnet.subnet_of(ipaddress.IPv6Network(str(prefix)))
    assert int(subnet.network_address) == prefix.value + (index << (128 - longer))


@pytest.mark.parametrize("index", [-1, 1 << 16])
def test_an_index_outside_the_prefix_is_an_error(index):
    with pytest.raises(DualStackError, match=r"2001:db8:200::/48 has 65536 prefixes of length 64; index -?\w+ \(hex\)"):
        addresses.parse_prefix("2001:db8:200::/48").subnet(64, index)


def test_a_suffix_never_reaches_into_the_prefix():
    with pytest.raises(DualStackError, match="suffix ::1:0:0:0:1 does not fit behind 2001:db8::/64; it has 64 bits"):
        addresses.parse_prefix("2001:db8::/64").join(addresses.parse_address("::1:0:0:0:1"))


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("2001:db8:100:1::1/64", "has host bits set; did you mean 2001:db8:100:1::/64?"),
        ("192.0.2.0/24", "'192.0.2.0' is not an IPv6 address"),
        ("fe80::%eth0/64", "has a zone"),
        ("2001:db8::/129", "has the length '129'"),
        ("2001:db8::/+64", "has the length '+64'"),
        ("2001:db8::", "expected an IPv6 prefix such as 2001:db8::/48, got string"),
        (32, "got integer 32"),
        (None, "got nothing None"),
    ],
)
def test_what_is_no_prefix_says_why(value, reason):
    with pytest.raises(DualStackError) as raised:
        addresses.parse_prefix(value)
    assert reason in str(raised.value)


@pytest.mark.parametrize("value", ["::g", "", "1::2::3", "2001:db8::1\x00", "[::1]", " ::1", 1, None, b"::1"])
def test_what_is_no_address_is_an_error(value):
    with pytest.raises(DualStackError):
        addresses.parse_address(value)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (10, 'expected a quoted hex string, got integer 10; write "10" for hex 10 or "a" for decimal ten'),
        (80, 'expected a quoted hex string, got integer 80; write "80" for hex 80 or "50" for decimal 80'),
        (False, "expected a quoted hex string, got boolean False; put it in quotes"),
        (0.1, "expected a quoted hex string, got number 0.1; put it in quotes"),
        ("0x53", "'0x53' is not hexadecimal"),
        ("1_0", "'1_0' is not hexadecimal"),
        ("", "'' is not hexadecimal"),
        ("10000", "10000 does not fit in 16 bits (0..ffff)"),
    ],
)
def test_an_index_is_a_quoted_hex_string(value, reason):
    with pytest.raises(DualStackError) as raised:
        addresses.parse_index(value, 16)
    assert str(raised.value).startswith(reason)


@pytest.mark.parametrize(
    ("value", "index"), [("de", 0xDE), ("00ad", 0xAD), ("1e3", 0x1E3), ("08", 8), ("FFFF", 0xFFFF)]
)
def test_hex_strings_are_indices(value, index):
    assert addresses.parse_index(value, 16) == index


RANGES = [
    ("::", "::"),
    ("::200:5eff:fe00:0", "::200:5eff:feff:ffff"),
    ("::fdff:ffff:ffff:ff80", "::fdff:ffff:ffff:ffff"),
]


@pytest.mark.parametrize(("first", "last"), RANGES)
def test_reserved_identifiers_end_where_the_registry_says(first, last):
    low, high = addresses.parse_address(first), addresses.parse_address(last)
    assert addresses.reserved(low)
    assert addresses.reserved(high)
    assert not addresses.reserved(high + 1)
    assert low == 0 or not addresses.reserved(low - 1)
    assert addresses.reserved(max(low - 1, 0), high + 1)


@pytest.mark.parametrize(
    ("prefix", "special"),
    [
        ("fec0::/48", "fec0::/10"),
        ("2002:c000:204::/48", "2002::/16"),
        ("2001:20::/64", "2001::/23"),
        ("64:ff9b:1::/64", "64:ff9b:1::/48"),
        ("::/0", "::/96"),
        ("5f00::/32", "5f00::/16"),
        ("2001:db8::/32", None),
        ("2a00:1450::/32", None),
        ("fd12:3456:789a::/48", None),
        ("64:ff9b:2::/48", None),
    ],
)
def test_special_purpose_blocks(prefix, special):
    found = addresses.special_purpose(addresses.parse_prefix(prefix))
    assert (str(found[0]) if found else None) == special
