# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""The address plan as host variables."""

from __future__ import annotations

DOCUMENTATION = r"""
name: plan
short_description: The address plan of a fleet as host variables
version_added: 0.1.0
author:
  - The dualstack.fleet developers (@dualstack)
description:
  - Gives every host of the inventory its IPv6 addresses in the host variable C(dualstack), computed from the plan file,
    the hosts' groups and, where a class needs it, the ledger.
  - The result depends on nothing else. The order of hosts, C(--limit) and forks do not matter, and adding or removing a
    host changes no other host.
  - The file must be named C(*plan.yml) or C(*plan.yaml) and must sort behind the sources that define the hosts, because
    Ansible reads the sources of an inventory in order.
  - All errors of the plan, the hosts and the ledger are reported at once; then no host gets the variable. Set
    C(any_unparsed_is_failed=true) in the section C([inventory]) of C(ansible.cfg), else Ansible shows the errors as a
    warning and goes on without the plan.
  - The plan never writes. A host that needs a new ledger record is an error that names the command.
  - The playbook C(dualstack.fleet.plan) gives such hosts their records, so there the plugin does not number. It sets
    C(dualstack_plan_input) instead, the plan file and the hosts, and M(dualstack.fleet.address_ledger) reports what is
    wrong. The plugin knows the playbook by its name on the command line. For a playbook of your own that imports it,
    set the environment variable C(DUALSTACK_ALLOCATE) to V(1).
  - Also sets C(dualstack_plan) on the group C(all), a mapping of C(networks), C(pools) and C(classes) with their
    prefixes, for access lists, and of the indices that the ledger keeps C(quarantined) or C(reserved), for the map that
    P(dualstack.fleet.plan_map#filter) draws.
notes:
  - Codes beginning with E are errors, those beginning with W are warnings.
  - Identity is the host variable C(dualstack_id) if set, else the inventory name. A host that is renamed keeps its
    addresses when C(dualstack_id) is set to what it was called before.
seealso:
  - plugin: dualstack.fleet.allocate
    plugin_type: filter
    description: The same numbering as a filter.
options:
  plugin:
    description: The name of this plugin.
    type: str
    required: true
    choices: [dualstack.fleet.plan]
  version:
    description: Version of the plan's format.
    type: int
    required: true
    choices: [1]
  production:
    description:
      - Whether addresses of this plan carry traffic. A documentation prefix is then an error (RFC 9637 section 4).
    type: bool
    default: false
  aggregate:
    description: The prefixes that the site was given. When set, every network and pool must lie in one of them.
    type: list
    elements: str
    default: []
  ledger:
    description:
      - File of the ledger, relative to the plan file. Classes and vhosts of kind C(auto) need it.
      - Beside the plan Ansible would read it as an inventory source; set C(ignore_patterns=\\.jsonl) in the section
        C([inventory]) of C(ansible.cfg).
    type: str
    default: addresses.jsonl
  on_missing:
    description:
      - What happens to a host without the ledger record that it needs.
      - V(skip) warns and leaves the host without the variable.
    type: str
    choices: [error, skip]
    default: error
  use_vars_plugins:
    description:
      - Whether to read the hosts' variables from C(host_vars) and C(group_vars) too, not only from inventory sources.
        This costs time in large fleets.
    type: bool
    default: false
  exclude:
    description: Ansible groups whose hosts are outside the fleet; the plan does not number them.
    type: list
    elements: str
    default: []
  mail_groups:
    description:
      - Ansible groups whose hosts send mail. Each must have a delegated prefix, because blocklists list a whole /64,
        and a mail server in the common network would be listed with its neighbours.
    type: list
    elements: str
    default: []
  networks:
    description:
      - On-link networks by name. Keys of each are C(prefixes) (list of /64, the first is the host's C(address), further
        ones repeat the same suffixes), C(gateway) (address, link-local or in the network), C(on_link) (bool, default
        true, whether hosts get an on-link route of the /64) and C(reserved) (list of C(suffix), an address or block of
        suffixes that no host gets, and C(for), its use).
      - A prefix is a /64 (RFC 4291 section 2.5.1); /127 between routers (RFC 6164) may be listed, but holds no class.
    type: dict
    required: true
  pools:
    description:
      - Prefixes that are cut into delegated prefixes, by name. Keys of each are C(prefix), C(length) (bits, default 64)
        and C(reserved) (list of quoted hex indices that no host gets).
    type: dict
    default: {}
  classes:
    description:
      - Classes of hosts by name; a host is in exactly one. A class is an aligned block of suffixes, so that one line
        of an access list covers it (RFC 6583 section 6.1).
      - C(groups) (list) names the Ansible groups of the class, C(network) its network and C(block) its suffixes, such
        as C(::ad:0/112).
      - C(kind) says how a host gets its index in the block. C(pinned) reads it from C(pins), a mapping of identity to
        a quoted hex string. C(location) composes it of C(fields). C(auto) reads the ledger. Pins are allowed in each
        and win.
      - C(fields) is a list, highest bits first, of C(name), C(bits), C(var) (the host variable), C(map) (mapping of
        its values to numbers) and C(encode) (C(number), or C(digits), with which 42 reads as 42 in the address).
        Their bits must fill the block.
      - C(delegate) gives the hosts of the class a prefix of their own. C(pool) names the pool. C(index) is C(same)
        (that of the host, the default), C(ledger) or C(sparse) (both from the ledger, RFC 3531). C(groups) restricts
        it to hosts in these groups.
      - C(delegate.vhosts) gives every name in a host variable a prefix in the host's delegated prefix, with C(length)
        (bits, default 80), C(var) (default C(dualstack_vhosts)) and C(kind), which is C(auto) (the variable is a list
        of names, the ledger has the indices) or C(pinned) (the variable maps names to quoted hex strings).
      - With C(delegate.vhosts.scope=site), the vhosts of all hosts of the class share the /64
        C(delegate.vhosts.prefix). A vhost then keeps its prefix on another host, and the edge has a route for each. By
        default (C(host)) it is in the host's own prefix, which one route covers, and changes when it moves.
      - C(gateway=false) gives the hosts of the class (routers) the gateway C("").
      - C(start) says where a new host of kind C(auto) gets its index. C(hash), the default, spreads them, so that two
        branches that add hosts rarely meet. C(sequential) takes the lowest, C(sparse) leaves the most room (RFC 3531).
      - C(static_band) is the number of the lowest indices that C(auto) uses only when all others are taken, so that
        pins find room. The default is a sixteenth of the block, 16 to 256, and none in a block of up to 32.
      - C(track=true) records pinned and located hosts in the ledger too, so that W316 tells when a machine takes over
        the address of another.
      - A pin of an index that is in quarantine needs a reason; its value is then a mapping of C(index) and
        C(force_reuse).
    type: dict
    required: true
  quarantine:
    description:
      - How many days a released index is not given to another. Keys are C(days), default 90, and C(vhost_days) for
        vhosts, default 30.
    type: dict
    default: {}
  silence:
    description: Codes of warnings that are not to be shown, such as W301.
    type: list
    elements: str
    default: []
"""

EXAMPLES = r"""
# inventories/example/90-plan.yml
plugin: dualstack.fleet.plan
version: 1
aggregate: ["2001:db8:100::/48", "2001:db8:200::/48"]
networks:
  device:
    prefixes: ["2001:db8:100:1::/64"]
    gateway: fe80::1
    reserved:
      - {suffix: "::1", for: router}
pools:
  clients: {prefix: "2001:db8:200::/48"}
classes:
  admin:
    groups: [admin]
    network: device
    block: "::ad:0/112"
    kind: pinned
    pins: {backup1: "bac1", dev: "de"}
  client:
    groups: [clients]
    network: device
    block: "::c:0/112"
    kind: location
    fields:
      - {name: building, bits: 4, var: loc_building, map: {A: 1, B: 2}}
      - {name: cabinet, bits: 4, var: loc_cabinet}
      - {name: rack, bits: 4, var: loc_rack}
      - {name: switch, bits: 4, var: loc_switch}
    delegate: {pool: clients, index: same}

# The host variable `dualstack` of a client in building B, cabinet 10, rack 3, switch 15:
#   class: client
#   index: 2a3f
#   address: 2001:db8:100:1::c:2a3f
#   prefix_length: 128
#   network: 2001:db8:100:1::/64
#   on_link: true
#   gateway: fe80::1
#   next_hop: 2001:db8:100:1::c:2a3f       # where the edge routes the delegated prefix
#   class_prefix: 2001:db8:100:1::c:0/112
#   delegated_prefix: 2001:db8:200:2a3f::/64
#   unreachable: 2001:db8:200:2a3f::/64    # the host's route against loops (RFC 7084 WPD-5)
#   vhosts: {}
#   ptr: f.3.a.2.c.0.0.0.0.0.0.0.0.0.0.0.1.0.0.0.0.0.1.0.8.b.d.0.1.0.0.2.ip6.arpa
# With vhosts of scope site, `routed_vhosts` is the list of their prefixes.
# With several prefixes in the network, `networks` is a list with the address-dependent keys for each.
"""

import json
import os
from datetime import date

from ansible import context
from ansible.errors import AnsibleParserError
from ansible.inventory.helpers import get_group_vars, sort_groups
from ansible.inventory.manager import IGNORED
from ansible.plugins.inventory import BaseInventoryPlugin
from ansible.utils.vars import combine_vars
from ansible.vars.plugins import get_vars_from_inventory_sources

try:
    from ansible.template import trust_as_template
except ImportError:  # before ansible-core 2.19 only templates marked unsafe are not trusted
    from ansible.utils.unsafe_proxy import wrap_var as untrusted

    def trust_as_template(value):
        return value

else:

    def untrusted(value):
        return value


from ..module_utils._errors import DualStackError, InputError
from ..module_utils._ledger import read_ledger, uncollected
from ..module_utils._numbering import frozen, records
from ..module_utils._plan import read_plan

PLAYBOOK = "dualstack.fleet.plan"


class InventoryModule(BaseInventoryPlugin):
    """Reads the plan, numbers the hosts that the sources before it defined."""

    NAME = "dualstack.fleet.plan"

    def verify_file(self, path):
        return super().verify_file(path) and path.endswith(("plan.yml", "plan.yaml"))

    def parse(self, inventory, loader, path, cache=True):
        super().parse(inventory, loader, path, cache)
        try:
            with uncollected():
                self._number(path)
        except DualStackError as error:
            raise AnsibleParserError(f"The address plan {path} is not usable:\n{error}") from None

    def _number(self, path):
        plan, problems = read_plan(self.loader.load_from_file(path, cache="none"))
        if not self.inventory.hosts:
            name = os.path.basename(path)
            reason = "inventory sources are read in order, name this file so that it sorts last"
            problems.append(f"E401 {name} saw no hosts; {reason}")
        if not self.inventory.hosts:
            raise InputError(problems)
        if _allocating():
            source = {"plan": os.path.abspath(path), "hosts": untrusted(_as_json(self._hosts(plan)))}
            self.inventory.groups["all"].set_variable("dualstack_plan_input", source)
            return
        file = os.path.join(os.path.dirname(path), plan.ledger)
        ledger = read_ledger(_text(file) if plan.needs_ledger else "", plan.ledger)
        today = date.today().isoformat()
        found = frozen(plan, problems, self._hosts(plan), ledger, today)
        for warning in [*found.warnings, *_ledger_as_source(path, file)]:
            self.display.warning(warning)
        mark = _marking()
        for name, record in records(found.places, mark).items():
            # Not through the inventory, which would go through every string of every record once more.
            self.inventory.hosts[name].set_variable("dualstack", record)
        self.inventory.set_variable("all", "dualstack_plan", _marked(plan.summary(ledger.records, today), mark))

    def _hosts(self, plan):
        """Return {name: its groups and the variables that the plan reads}."""
        self.inventory.reconcile_inventory()  # Ansible makes "all" everyone's group only after the last source
        wanted = plan.variables
        shared, hosts = {}, {}
        for name, host in self.inventory.hosts.items():
            key = tuple([group.name for group in host.get_groups()])
            common = shared.get(key)
            if common is None:
                groups = sort_groups(host.get_groups())
                common = self._selected(plan, wanted, get_group_vars(groups), groups)
                common["groups"] = sorted(key)
                shared[key] = common
            own = self._selected(plan, wanted, host.vars, [host])
            hosts[name] = {**common, **own} if own else common
        return hosts

    def _selected(self, plan, wanted, variables, entities):
        if plan.use_vars_plugins:
            sources = self.inventory.processed_sources
            variables = combine_vars(variables, get_vars_from_inventory_sources(self.loader, sources, entities, "all"))
        return {name: variables[name] for name in wanted if name in variables}


def _marking():
    """Return what marks a string as safe to export as it is: all were computed, or checked by the plan's rules.

    Only an export tells the difference. Marking is half of what a plan costs in a large fleet, so plays do without.
    """
    return str if context.CLIARGS and "export" not in context.CLIARGS else trust_as_template


def _marked(value, mark):
    if isinstance(value, dict):
        return {key: _marked(entry, mark) for key, entry in value.items()}
    if isinstance(value, list):
        return [_marked(entry, mark) for entry in value]
    return mark(value) if isinstance(value, str) else value


def _allocating():
    """Tell whether the playbook that writes the ledger is all that runs."""
    if os.environ.get("DUALSTACK_ALLOCATE") == "1":
        return True
    own = os.path.realpath(os.path.join(os.path.dirname(__file__), "..", "..", "playbooks", "plan.yml"))
    books = context.CLIARGS.get("args") or ()
    return bool(books) and all(book == PLAYBOOK or os.path.realpath(book) == own for book in books)


def _as_json(hosts):
    try:
        return json.dumps(hosts, default=_foreign)
    except (ValueError, RecursionError) as error:  # an integer too long to be shown, a list that contains itself
        raise DualStackError(f"E209 a host variable cannot be read ({error}); correct it") from error


def _foreign(value):
    """Return what JSON has no word for as something that no rule of the plan takes for a name or a number."""
    return {"value": str(value)}


def _ledger_as_source(plan, ledger):
    """Yield a warning when Ansible takes the ledger for an inventory source, and its records for host names."""
    directory, name = os.path.split(ledger)
    beside = os.path.exists(ledger) and os.path.samefile(os.path.dirname(plan) or ".", directory or ".")
    if beside and not all(IGNORED.search(os.fsencode(each)) for each in (name, f"{name}.lock")):
        advice = r"set ignore_patterns = \.jsonl in the section [inventory] of ansible.cfg"
        yield f"W402 {name} lies beside the plan and would be read as an inventory source; {advice}"


def _text(path):
    try:
        with open(path, encoding="utf-8") as stream:
            return stream.read()
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeDecodeError) as error:
        raise DualStackError(
            f"E308 {path}: cannot be read ({error}); correct the file or the plan's key ledger"
        ) from error
