# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Whether an interface identifier is reserved."""

from __future__ import annotations

DOCUMENTATION = r"""
name: v6_reserved
short_description: Whether the interface identifier of an IPv6 address is reserved
version_added: 0.1.0
author:
  - The dualstack.fleet developers (@dualstack)
description:
  - Tells whether the last 64 bits are in IANA's registry of reserved interface identifiers (RFC 5453), which must not
    be used in managed address configuration. These are Subnet-Router anycast (RFC 4291), the IANA Ethernet block (RFC
    6543) and the reserved subnet anycast addresses (RFC 2526).
options:
  _input:
    description: The address, or a suffix written as an address.
    type: str
    required: true
"""

EXAMPLES = r"""
# true
anycast: "{{ '2001:db8:100:1::' | dualstack.fleet.v6_reserved }}"
# false
host: "{{ '2001:db8:100:1::ad:de' | dualstack.fleet.v6_reserved }}"
"""

RETURN = r"""
_value:
  description: Whether it is reserved.
  type: bool
"""

from ansible.errors import AnsibleFilterError

from ..module_utils._addresses import IID_MASK, parse_address, reserved
from ..module_utils._errors import DualStackError


def v6_reserved(address):
    try:
        return reserved(parse_address(address) & IID_MASK) is not None
    except DualStackError as error:
        raise AnsibleFilterError(f"v6_reserved: {error}") from None


class FilterModule:
    """The filter by its name."""

    def filters(self):
        return {"v6_reserved": v6_reserved}
