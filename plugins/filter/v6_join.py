# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Address of a prefix and a suffix."""

from __future__ import annotations

DOCUMENTATION = r"""
name: v6_join
short_description: IPv6 address of a prefix and a suffix
version_added: 0.1.0
author:
  - The dualstack.fleet developers (@dualstack)
description:
  - Returns the address that has the suffix behind the prefix, as RFC 5952 writes it.
  - A suffix that reaches into the prefix is an error, never cut.
positional: suffix
options:
  _input:
    description: The prefix.
    type: str
    required: true
  suffix:
    description: The suffix, written as an address.
    type: str
    required: true
"""

EXAMPLES = r"""
# 2001:db8:100:1::ad:bac1
address: "{{ '2001:db8:100:1::/64' | dualstack.fleet.v6_join('::ad:bac1') }}"
"""

RETURN = r"""
_value:
  description: The address.
  type: str
"""

from ansible.errors import AnsibleFilterError

from ..module_utils._addresses import parse_address, parse_prefix, text
from ..module_utils._errors import DualStackError


def v6_join(prefix, suffix):
    try:
        return text(parse_prefix(prefix).join(parse_address(suffix)))
    except DualStackError as error:
        raise AnsibleFilterError(f"v6_join: {error}") from None


class FilterModule:
    """The filter by its name."""

    def filters(self):
        return {"v6_join": v6_join}
