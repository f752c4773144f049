# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Suffix of an address."""

from __future__ import annotations

DOCUMENTATION = r"""
name: v6_suffix
short_description: Suffix of an IPv6 address
version_added: 0.1.0
author:
  - The dualstack.fleet developers (@dualstack)
description:
  - Returns the bits behind the prefix, written as an address; the inverse of P(dualstack.fleet.v6_join#filter).
  - The prefix is 64 bits long (RFC 4291 section 2.5.1) unless the address says another length.
options:
  _input:
    description: The address, with or without the length of its prefix.
    type: str
    required: true
"""

EXAMPLES = r"""
# ::ad:bac1
suffix: "{{ '2001:db8:100:1::ad:bac1' | dualstack.fleet.v6_suffix }}"
# ::2a3f
index: "{{ '2001:db8:100:1::c:2a3f/112' | dualstack.fleet.v6_suffix }}"
"""

RETURN = r"""
_value:
  description: The suffix.
  type: str
"""

from ansible.errors import AnsibleFilterError

from ..module_utils._addresses import parse_address, parse_interface, suffix_text
from ..module_utils._errors import DualStackError


def v6_suffix(address):
    try:
        with_length = isinstance(address, str) and "/" in address
        value, length = parse_interface(address) if with_length else (parse_address(address), 64)
        return suffix_text(value & (1 << (128 - length)) - 1)
    except DualStackError as error:
        raise AnsibleFilterError(f"v6_suffix: {error}") from None


class FilterModule:
    """The filter by its name."""

    def filters(self):
        return {"v6_suffix": v6_suffix}
