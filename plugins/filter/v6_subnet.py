# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""One of the equal parts of a prefix."""

from __future__ import annotations

DOCUMENTATION = r"""
name: v6_subnet
short_description: Part of an IPv6 prefix by its index
version_added: 0.1.0
author:
  - The dualstack.fleet developers (@dualstack)
description:
  - Returns the prefix of the given length and index inside a prefix.
  - A negative or too high index is an error.
positional: length, index
options:
  _input:
    description: The prefix.
    type: str
    required: true
  length:
    description: Length of the part in bits.
    type: int
    required: true
  index:
    description: Number of the part. An integer counts in decimal, a string is hexadecimal.
    type: raw
    required: true
"""

EXAMPLES = r"""
# 2001:db8:200:2a3f::/64
delegated: "{{ '2001:db8:200::/48' | dualstack.fleet.v6_subnet(64, '2a3f') }}"
# 2001:db8:200:a::/64
tenth: "{{ '2001:db8:200::/48' | dualstack.fleet.v6_subnet(64, 10) }}"
"""

RETURN = r"""
_value:
  description: The part.
  type: str
"""

from ansible.errors import AnsibleFilterError

from ..module_utils._addresses import parse_index, parse_number, parse_prefix
from ..module_utils._errors import DualStackError


def v6_subnet(prefix, length, index):
    try:
        number = parse_index(index, 128) if isinstance(index, str) else parse_number(index)
        return str(parse_prefix(prefix).subnet(parse_number(length), number))
    except DualStackError as error:
        raise AnsibleFilterError(f"v6_subnet: {error}") from None


class FilterModule:
    """The filter by its name."""

    def filters(self):
        return {"v6_subnet": v6_subnet}
