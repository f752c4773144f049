# SPDX-License-Identifier: GPL-3.0-or-later
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
"""Change a service's files and the service as one."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: config_files
short_description: Change a service's files and the service as one transaction
version_added: 0.1.0
author:
  - The dualstack.fleet developers (@dualstack)
description:
  - Writes files or edits keys in files that the host owns, checks them, makes the service read them, and waits
    until the service answers as O(verify) asks. When a step fails, every file is put back (content, owner, mode),
    the service reads them again, and the error shows the step, the command and the words of the daemon.
  - The service's answer decides, not the exit status of a restart; several daemons of Debian are dead after a
    restart that reports success.
  - Originals are kept once in C(/var/lib/dualstack/NAME), mode 0700, never beside a file, so that O(state=reverted)
    is exact. A run that was killed between two steps is undone by the next run before it does its own work.
  - A handler would run later and could not put the file back in step with the service, so none is needed.
attributes:
  check_mode:
    support: full
    description: Shows what would change and reads only; no service is asked, and of commands only postconf(1) is run.
  diff_mode:
    support: full
    description: One entry for each file, exact to the byte.
options:
  name:
    description: Name of the transaction. Tasks that change the same files use the same name.
    type: str
    required: true
  state:
    description:
      - V(present) makes the files as O(files) says.
      - V(reverted) puts every file of the transaction back as it was before the first change, and runs O(validate),
        O(apply) and the IPv4 part of O(verify). A file that somebody edited after the last run is refused by name
        and nothing is changed. When nothing was kept, nothing is done.
      - V(confirmed) keeps a change that waits for its confirmation, see O(window). Reset the connection first, so that
        a new one confirms it. When nothing waits, nothing is done; a change that was undone meanwhile is an error.
    type: str
    choices: [present, reverted, confirmed]
    default: present
  files:
    description: The files. With neither O(files[].content) nor O(files[].set) the file must be absent.
    type: list
    elements: dict
    default: []
    suboptions:
      path:
        description:
          - Absolute path. Symbolic links are followed, so that the link stays and its target is edited.
          - A file with a second name (a hard link), or one that chattr(1) has made immutable or append-only, is refused
            before anything is written, in check mode too.
          - With O(files[].set) it may be a shell pattern, such as C(/etc/dovecot/conf.d/*.conf), for all files it
            matches.
        type: path
        required: true
      content:
        description: Whole content of a file that is ours.
        type: str
      format:
        description:
          - The editor for O(files[].set). Each changes its keys and keeps comments, order, white space and line
            ends.
          - V(postfix) is for main.cf, see postconf(5). C(mynetworks) is refused when it holds IPv6 without
            brackets, host bits or a prefix shorter than /16, all of which Postfix takes in silence.
          - V(postfix_master) is for master.cf, see master(5). It has C(outbound), V(pinned) to IPv4 or V(open), for
            what SMTP clients send over, and C(free), a list of services that are never pinned. A service whose own
            options name C(inet_protocols) is left alone.
          - V(postfix_lists) (the lists of client networks in main.cf), V(postfix_list) (a file that such a list names),
            V(postfix_cidr) and V(postfix_indexed) (tables that clients are looked up in) have C(networks), a
            dictionary of IPv6 networks by IPv4 networks. An IPv4 network gets the ones of its own, or of all in it.
          - V(postfix_tables), with the path of main.cf, stands for the files that Postfix looks up clients in, as
            postconf(1) says, V(postfix_list) and the like each, and runs postmap(1) for them before O(apply). It has
            C(networks), and C(known), a list of tables that cannot be edited and have their twins, such as
            C(mysql:/etc/postfix/relays.cf); others are refused. So is a line of a C(pcre:) or C(regexp:) table that
            matches IPv4 addresses.
          - V(apache), V(dovecot) and V(nginx) are for the first file of a configuration, and edit those it includes
            too. Twins are put beside IPv4 literals, never where IPv6 is served, and never beside loopback addresses.
          - V(apache) has C(Listen) and C(VirtualHost). C(Listen) set to C(*) makes the wildcard of C(Listen
            0.0.0.0:PORT); C(VirtualHost) set to C(*) refuses sites that only IPv4 addresses name.
          - V(nginx) has C(listen), for sites on IPv4 literals. A server block on all of IPv4 gets all of IPv6.
          - V(dovecot) has C(listen), for listeners on IPv4 literals. A listener on all of IPv4 gets all of IPv6.
          - V(apache) and V(nginx) have C(sites), a dictionary of the IPv6 addresses of single sites by their names.
          - All three have C(networks), a dictionary of IPv6 networks by the IPv4 networks that they belong to. With it,
            lists of clients get the IPv6 twins of what they name; a list of which no twin is known is refused.
          - For V(nginx) these are also the entries of C(geo), of a C(map) of the client's address and of
            C(set_real_ip_from). What is not known there is told in a warning.
          - V(resolv) has C(nameserver), see resolv.conf(5). Three servers at most, the first stays first.
          - V(sshd) is for sshd_config(5) and what it includes. It has C(ListenAddress), for listeners on one IPv4
            address, while one on all of IPv4 gets all of IPv6. C(AddressFamily inet) is refused unless C(AddressFamily)
            is V(any). C(networks) completes AllowUsers, DenyUsers and Match Address; what it does not know is told in
            a warning, and refused for DenyUsers. C(keys), patterns of files of authorized keys, are looked at only.
          - V(varnish) is for the packaged unit, and edits the ExecStart of the host's own unit and drop-ins, see
            varnishd(1). It has C(listen), for listeners on one IPv4 address, as V(sshd) has. Access lists of the VCL
            that name IPv4 clients only are told in a warning.
          - V(pureftpd) is for C(/etc/default/pure-ftpd-common), and edits the options of pure-ftpd-wrapper(8).
            C(IPV4Only) and a C(Bind) on all of IPv4 go, C(DontResolve) sets what it names.
          - V(key_value) is for C(KEY=VALUE); V(lines) has C(add), for whole lines.
        type: str
        choices: [apache, dovecot, key_value, lines, nginx, postfix, postfix_cidr, postfix_indexed, postfix_list,
          postfix_lists, postfix_master, postfix_tables, pureftpd, resolv, sshd, varnish]
      set:
        description:
          - "Keys with their values; C({add: [WORD]}) adds the words that a list has not got."
          - What an earlier run added for these keys and what is not wanted any more is removed, such as the networks
            of a former prefix. What somebody else wrote stays.
        type: dict
      mode:
        description: Permissions, such as V('0644'). Left out, an existing file keeps its own and a new one has
          0644.
        type: str
      diff:
        description: Set to V(false) to hide the content in diffs.
        type: bool
        default: true
      optional:
        description: Whether a file that is to be edited may be missing; it is left alone then.
        type: bool
        default: false
      missing:
        description: What to do where the file that is to be edited is missing, for the error.
        type: str
  validate:
    description: Commands that check the files before the service reads them. Lists, or lines; no shell.
    type: list
    elements: raw
    default: []
  apply:
    description: Commands that make the service read the files. They are run when a file changed or was put back.
    type: list
    elements: raw
    default: []
  restart:
    description:
      - Commands to run instead of O(apply) when a listener of V(apache) or V(nginx) takes the place of another, such
        as a wildcard that of an address. A reload cannot bind it, and does not say so.
    type: list
    elements: raw
    default: []
  verify:
    description:
      - What must hold afterwards. Outside check mode it is asked on every run, for at most 15 seconds.
      - Each entry has exactly one of O(verify[].port), O(verify[].command), O(verify[].resolver), O(verify[].bindable),
        O(verify[].sites) and O(verify[].listeners).
    type: list
    elements: dict
    default: []
    suboptions:
      port:
        description: TCP ports that must accept a connection from this host.
        type: list
        elements: int
      families:
        description: Address families to ask. The default is both; O(verify[].address) has its own.
        type: list
        elements: str
        choices: [ipv4, ipv6]
      address:
        description: Addresses to ask. Without any, it is one that listens, the loopback address for a wildcard.
        type: list
        elements: str
      expect:
        description: Regular expression that the first line of the answer must match.
        type: str
      send:
        description: Text to send first, for protocols in which the client speaks first. It needs
          O(verify[].expect).
        type: str
      talk:
        description: What to say after that, line by line, with the answer to each.
        type: list
        elements: dict
        suboptions:
          send:
            description: The line, without its end.
            type: str
            required: true
          expect:
            description: Regular expression that the line of the answer must match.
            type: str
            required: true
      command:
        description: Command that must end with status 0; it is run once, after the ports and name servers answered.
        type: raw
      resolver:
        description: Addresses of name servers that must answer a query over UDP (RFC 1035, section 4.2.1).
        type: list
        elements: str
      name:
        description: Name to look up at O(verify[].resolver). That it does not exist is an answer too. The
          default is a zone that each recursive server has itself (RFC 6303, section 4.2).
        type: str
        default: 127.in-addr.arpa
      bindable:
        description: IPv6 addresses that a service of this host must be able to listen on. They are waited for before
          anything is written, until duplicate address detection is over (RFC 4862, section 5.4).
        type: list
        elements: str
      listeners:
        description:
          - Ask each address and port that the configuration listens on. For all formats that edit several files.
        type: bool
      sites:
        description:
          - Ask each site of the V(apache) or V(nginx) configuration at each of its addresses by its own name. What
            IPv6 answers must be what IPv4 answers, certificate included. When nothing changed, one site for each
            listener is asked. A site with lists of clients may send this host away over one family.
          - Of V(dovecot), each service must greet at each of its addresses.
        type: bool
  unit:
    description:
      - Unit, or pattern of units, of the service. When it fails, waiting ends at once; its journal is part of an
        error.
      - With O(program), a unit that neither runs nor is enabled is switched off, and its service is skipped; one that
        is enabled and does not run is refused. Nothing here starts what somebody has stopped. V(reverted) puts the
        files of such a service back and leaves it stopped.
      - When others than this unit alone listen on one of O(verify[].port), such as a container or a supervisor, it is
        they that run the service. That is refused before anything is written.
    type: str
  log:
    description: File that the service writes its errors to, where the journal does not have them.
    type: path
  window:
    description:
      - Seconds in which O(state=confirmed) must follow a change, for services that the connection depends on; at least
        5. Otherwise the host itself puts the files back and runs O(apply), at boot too. The next run says so.
      - With V(0) a change needs no confirmation.
    type: int
    default: 0
  managed:
    description:
      - Whether to change also what a comment in the file says that Ansible, Puppet, Chef, Salt or another such program
        writes. Without it, that is refused with the line, because the next run of that program would undo the change.
    type: bool
    default: false
  program:
    description: Paths of the service's program. When none of them exists, the task is skipped in every O(state).
    type: list
    elements: path
    default: []
"""

EXAMPLES = r"""
- name: Make Postfix use both families
  dualstack.fleet.config_files:
    name: postfix
    files:
      - path: /etc/postfix/main.cf
        format: postfix
        set:
          inet_protocols: all
          mynetworks: {add: ["[2001:db8::]/64"]}
    validate: [postfix check]
    apply: [systemctl restart postfix]
    verify:
      - {port: 25, families: [ipv4, ipv6], expect: "^220 "}
    unit: postfix[.@]*
    program: [/usr/sbin/postfix]

- name: Put back the resolver's configuration
  dualstack.fleet.config_files:
    name: resolver
    state: reverted
"""

RETURN = r"""
msg:
  description: Why there was nothing to do.
  returned: when skipped
  type: str
  sample: "postfix is not installed here (no /usr/sbin/postfix): nothing to do"
files:
  description: Paths of the files that were changed, or would be in check mode.
  returned: success
  type: list
  elements: str
  sample: [/etc/postfix/main.cf]
commands:
  description: Commands that were run, in order; in check mode those that would make the service read the files.
  returned: unless the input was refused
  type: list
  elements: str
  sample: [postfix check, systemctl restart postfix]
diff:
  description: Content of each changed file before and after.
  returned: success
  type: list
  elements: dict
rollback:
  description: What O(state=confirmed) found, V(pending) or V(none).
  returned: with O(state=confirmed)
  type: str
confirm_by:
  description: When the host puts the files back unless O(state=confirmed) has come (UTC).
  returned: when something changed and O(window) is set
  type: str
  sample: "2026-01-05T02:13:00Z"
step:
  description: The step that failed.
  returned: when a step failed
  type: str
  sample: verify
command:
  description: The command that failed; empty when a port did not answer.
  returned: when a step failed
  type: str
output:
  description: What the command or the daemon said.
  returned: when a step failed
  type: str
restored:
  description: Whether every file was put back and the service runs with it.
  returned: when a step failed
  type: bool
restore_errors:
  description: What failed on the way back.
  returned: when a step failed
  type: list
  elements: str
problems:
  description: All that is wrong with the input.
  returned: when the input was refused
  type: list
  elements: str
"""

from ansible.module_utils.basic import AnsibleModule

from ..module_utils._editors import FORMATS
from ..module_utils._errors import DualStackError
from ..module_utils._transaction import execute, parse

FILE = {
    "path": {"type": "path", "required": True},
    "content": {"type": "str"},
    "format": {"type": "str", "choices": sorted(FORMATS)},
    "set": {"type": "dict"},
    "mode": {"type": "str"},
    "diff": {"type": "bool", "default": True},
    "optional": {"type": "bool", "default": False},
    "missing": {},
}
LINE = {"send": {"type": "str", "required": True}, "expect": {"type": "str", "required": True}}
CHECK = {
    "port": {"type": "list", "elements": "int"},
    "families": {"type": "list", "elements": "str", "choices": ["ipv4", "ipv6"]},
    "address": {"type": "list", "elements": "str"},
    "expect": {"type": "str"},
    "send": {"type": "str"},
    "talk": {"type": "list", "elements": "dict", "options": LINE},
    "command": {"type": "raw"},
    "resolver": {"type": "list", "elements": "str"},
    "bindable": {"type": "list", "elements": "str"},
    "sites": {"type": "bool"},
    "listeners": {"type": "bool"},
    "name": {"type": "str", "default": "127.in-addr.arpa"},
}


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "state": {"type": "str", "choices": ["present", "reverted", "confirmed"], "default": "present"},
            "files": {"type": "list", "elements": "dict", "options": FILE, "default": []},
            "validate": {"type": "list", "elements": "raw", "default": []},
            "apply": {"type": "list", "elements": "raw", "default": []},
            "restart": {"type": "list", "elements": "raw", "default": []},
            "verify": {"type": "list", "elements": "dict", "options": CHECK, "default": []},
            "unit": {"type": "str"},
            "log": {"type": "path"},
            "window": {"type": "int", "default": 0},
            "managed": {"type": "bool", "default": False},
            "program": {"type": "list", "elements": "path", "default": []},
        },
        supports_check_mode=True,
    )
    try:
        result = execute(parse(module.params), module.check_mode)
    except DualStackError as error:
        module.fail_json(msg=str(error), **error.details)
    if result.skipped:
        module.exit_json(changed=False, skipped=True, msg=result.skipped)
    for text in result.warnings:
        module.warn(text)
    module.exit_json(
        changed=result.changed,
        files=list(result.files),
        commands=list(result.commands),
        diff=list(result.diff),
        **result.more,
    )


if __name__ == "__main__":
    main()
