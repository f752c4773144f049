# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Whether a host may have an address."""

from __future__ import annotations

DOCUMENTATION = r"""
name: v6_assignable
short_description: Whether an IPv6 address may be assigned to a host
version_added: 0.1.0
author:
  - The dualstack.fleet developers (@dualstack)
description:
  - True for a global unicast (C(2000::/3)) or unique local (C(fd00::/8)) address outside IANA's special-purpose blocks
    whose interface identifier is not reserved (RFC 4291 section 2.6.1, RFC 5453, RFC 2526).
  - Documentation prefixes (RFC 3849, RFC 9637) are assignable, as examples need them. A plan with C(production=true)
    refuses them.
  - Whether the address is free is not asked; the address plan knows that.
options:
  _input:
    description: The address, without length and zone. Anything else is an error, not false.
    type: str
    required: true
"""

EXAMPLES = r"""
# true
host: "{{ '2001:db8:100:1::ad:de' is dualstack.fleet.v6_assignable }}"
# false, the Subnet-Router anycast address
anycast: "{{ '2001:db8:100:1::' is dualstack.fleet.v6_assignable }}"
# false, site-local addresses are deprecated
old: "{{ 'fec0::1' is dualstack.fleet.v6_assignable }}"
"""

RETURN = r"""
_value:
  description: Whether it may be assigned.
  type: bool
"""

from ansible.errors import AnsibleFilterError

from ..module_utils._addresses import assignable, parse_address
from ..module_utils._errors import DualStackError


def v6_assignable(address):
    try:
        return assignable(parse_address(address))
    except DualStackError as error:
        raise AnsibleFilterError(f"v6_assignable: {error}") from None


class TestModule:
    """The test by its name."""

    def tests(self):
        return {"v6_assignable": v6_assignable}
