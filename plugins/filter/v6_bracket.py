# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Address in brackets."""

from __future__ import annotations

DOCUMENTATION = r"""
name: v6_bracket
short_description: IPv6 address in brackets
version_added: 0.1.0
author:
  - The dualstack.fleet developers (@dualstack)
description:
  - Returns the address as it stands in a URL or before a port (RFC 3986 section 3.2.2).
  - Of a prefix only the address is put in brackets, as Postfix writes it in C(mynetworks).
options:
  _input:
    description: The address or prefix.
    type: str
    required: true
"""

EXAMPLES = r"""
# http://[2001:db8::80]:8080/
url: "http://{{ '2001:db8::80' | dualstack.fleet.v6_bracket }}:8080/"
# [2001:db8:200:2a3f::]/64
mynetworks: "{{ '2001:db8:200:2a3f::/64' | dualstack.fleet.v6_bracket }}"
"""

RETURN = r"""
_value:
  description: The address in brackets.
  type: str
"""

from ansible.errors import AnsibleFilterError

from ..module_utils._addresses import parse_address, parse_prefix, text
from ..module_utils._errors import DualStackError


def v6_bracket(address):
    try:
        if isinstance(address, str) and "/" in address:
            prefix = parse_prefix(address)
            return f"[{text(prefix.value)}]/{prefix.length}"
        return f"[{text(parse_address(address))}]"
    except DualStackError as error:
        raise AnsibleFilterError(f"v6_bracket: {error}") from None


class FilterModule:
    """The filter by its name."""

    def filters(self):
        return {"v6_bracket": v6_bracket}
