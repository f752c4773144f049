# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Name of an address or prefix in the reverse tree."""

from __future__ import annotations

DOCUMENTATION = r"""
name: v6_reverse
short_description: Name below ip6.arpa of an IPv6 address or prefix
version_added: 0.1.0
author:
  - The dualstack.fleet developers (@dualstack)
description:
  - Returns the owner name of a PTR record or the name of a reverse zone (RFC 3596 section 2.5), without the last dot.
  - A prefix that does not end on a nibble has no one name and is an error.
options:
  _input:
    description: The address or prefix.
    type: str
    required: true
"""

EXAMPLES = r"""
# 8.b.d.0.1.0.0.2.ip6.arpa
zone: "{{ '2001:db8::/32' | dualstack.fleet.v6_reverse }}"
"""

RETURN = r"""
_value:
  description: The name.
  type: str
"""

from ansible.errors import AnsibleFilterError

from ..module_utils._addresses import parse_address, parse_prefix, reverse_name
from ..module_utils._errors import DualStackError


def v6_reverse(address):
    try:
        if isinstance(address, str) and "/" in address:
            prefix = parse_prefix(address)
            return reverse_name(prefix.value, prefix.length)
        return reverse_name(parse_address(address))
    except DualStackError as error:
        raise AnsibleFilterError(f"v6_reverse: {error}") from None


class FilterModule:
    """The filter by its name."""

    def filters(self):
        return {"v6_reverse": v6_reverse}
