# SPDX-License-Identifier: GPL-3.0-or-later
"""What a host needs before it can be dual stack. Reads, and changes nothing."""

from __future__ import annotations

import glob
import ipaddress
import json
import os
import platform
import re
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

from ._backends import detect
from ._command import Outcome, run
from ._disabled import ASSIGNMENT, is_built_in, module_lines, parameter, setting
from ._errors import DualStackError
from ._files import text_below

READY, READY_AFTER, WORK, CANNOT = VERDICTS = ("ready", "ready_after", "work", "cannot")
RELEASES = ("11", "12", "13")

# Old ways around IPv6 in files that the collection's roles do not edit, or where the service hides the reason.
LEFTOVERS = (
    ("postfix", "etc/postfix/main.cf", re.compile(r"^inet_protocols\s*=\s*ipv4\s*$", re.M)),
    ("sshd", "etc/ssh/sshd_config", re.compile(r"^\s*AddressFamily\s+inet\s*$", re.M | re.I)),
    ("sshd", "etc/ssh/sshd_config.d/*.conf", re.compile(r"^\s*AddressFamily\s+inet\s*$", re.M | re.I)),
    ("apt", "etc/apt/apt.conf", re.compile(r'^\s*Acquire::ForceIPv4\s+"?(?:true|1|yes)"?.*$', re.M | re.I)),
    ("apt", "etc/apt/apt.conf.d/*", re.compile(r'^\s*Acquire::ForceIPv4\s+"?(?:true|1|yes)"?.*$', re.M | re.I)),
    ("gai", "etc/gai.conf", re.compile(r"^\s*precedence\s+::ffff:0:0/96\s+\d+\s*$", re.M)),
)


@dataclass(frozen=True)
class Reason:
    """Why a host is not ready, and what to do. ``code`` stays the same, ``text`` is for the reader."""

    code: str
    verdict: str
    text: str


@dataclass(frozen=True)
class Facts:
    """All that was read."""

    python: str = ""
    distribution: str = ""
    release: str = ""
    device: str = ""
    backend: str = "none"
    backend_problem: str = ""
    boot_parameter: str = ""
    kernel_ipv6: bool = True
    disabled: dict[str, int] = field(default_factory=dict)
    disabled_by: tuple[dict[str, str], ...] = ()
    addresses: tuple[dict[str, Any], ...] = ()
    routes: tuple[dict[str, Any], ...] = ()
    listeners: tuple[dict[str, Any], ...] = ()
    leftovers: tuple[dict[str, str], ...] = ()

    def public(self) -> dict[str, Any]:
        return dict(json.loads(json.dumps(asdict(self))))


def examine(device: str = "", root: str = "/", execute: Callable[[list[str]], Outcome] = run) -> Facts:
    """Return what there is on this host; DEVICE defaults to the one of the IPv4 default route."""
    device = device or _default_device(execute)
    release = _release(text_below(root, "etc/os-release"))
    sysctl = os.path.join(root, "proc/sys/net/ipv6/conf")
    backend, problem = _backend(root, device, execute) if device else ("none", "")
    return Facts(
        python=platform.python_version(),
        distribution=release.get("ID", ""),
        release=release.get("VERSION_ID", ""),
        device=device,
        backend=backend,
        backend_problem=problem,
        boot_parameter=parameter(root),
        kernel_ipv6=os.path.isdir(sysctl),
        disabled={
            name: int(text_below(sysctl, f"{name}/disable_ipv6").strip() or 0)
            for name in ("all", "default", "lo", device)
            if name
        },
        disabled_by=tuple(setting(root, [name for name in ("lo", device) if name])),
        addresses=tuple(_addresses(_json(execute, ["ip", "-j", "-6", "address", "show"]))),
        routes=tuple(_routes(_json(execute, ["ip", "-j", "-6", "route", "show", "table", "main"]))),
        listeners=tuple(listeners(execute(["ss", "-Hltunpe"]).output)),
        leftovers=tuple(_leftovers(root)),
    )


def judge(facts: Facts, blocked: str = "") -> tuple[str, list[Reason]]:
    """Return the verdict on FACTS with every reason. BLOCKED, the operator's own reason, outweighs all others."""
    reasons = [Reason("blocked", CANNOT, blocked)] if blocked else []
    reasons += [*_kernel_reasons(facts), *_system_reasons(facts), *_network_reasons(facts)]
    worst = max((VERDICTS.index(reason.verdict) for reason in reasons), default=0)
    return VERDICTS[worst], reasons


def _kernel_reasons(facts: Facts) -> Iterable[Reason]:
    if facts.boot_parameter:
        text = f"ipv6.{facts.boot_parameter}=1 is on the kernel command line"
        reboot = " and reboot" if facts.boot_parameter == "disable" else ""
        action = f"take it out of the boot loader's configuration{reboot}"
        yield Reason("boot_parameter", READY_AFTER, f"{text}; {action}")
    elif not facts.kernel_ipv6:
        yield Reason("kernel", CANNOT, "this kernel has no IPv6 (/proc/sys/net/ipv6 is missing); boot one that has")
    places = ", ".join(f"{entry['file']}" for entry in facts.disabled_by)
    for name, value in facts.disabled.items():
        if value and name != "default":
            where = f" (set in {places})" if places else ""
            text = f"net.ipv6.conf.{name}.disable_ipv6 is 1{where}; set it to 0, no reboot is needed"
            yield Reason("sysctl", READY_AFTER, text)
    if facts.disabled_by and not any(facts.disabled.values()):
        text = f"IPv6 is on, but {places} turns it off at the next boot; remove net.ipv6.conf.*.disable_ipv6 from it"
        yield Reason("sysctl_at_boot", READY_AFTER, text)


def _system_reasons(facts: Facts) -> Iterable[Reason]:
    if facts.distribution != "debian" or facts.release not in RELEASES:
        text = (
            f"{facts.distribution or 'unknown'} {facts.release} is not Debian 11, 12 or 13; try one host by hand first"
        )
        yield Reason("distribution", WORK, text)
    for entry in facts.leftovers:
        if entry["what"] == "sshd":
            text = f"{entry['file']} says {entry['line']!r}: sshd will not answer over IPv6; remove the line"
            yield Reason("sshd", WORK, text)


def _network_reasons(facts: Facts) -> Iterable[Reason]:
    if not facts.device:
        yield Reason("device", WORK, "there is no IPv4 default route; name the device to convert")
    elif facts.backend_problem:
        yield Reason("backend", WORK, facts.backend_problem)
    for address in facts.addresses:
        if "dadfailed" in address["flags"]:
            text = f"{address['address']} on {address['device']} is a duplicate (dadfailed); find the other host first"
            yield Reason("duplicate", WORK, text)
    for route in facts.routes:
        if route["dest"] == "default" and route.get("protocol") == "ra":
            text = f"a default route comes from router advertisements on {route.get('device')}; make it static first"
            yield Reason("router_advertisement", WORK, text)


def _json(execute: Callable[[list[str]], Outcome], command: list[str]) -> list[dict[str, Any]]:
    outcome = execute(command)
    try:
        return list(json.loads(outcome.output or "[]"))
    except ValueError as error:
        raise DualStackError(f"{' '.join(command)}: {outcome.output or error}; install iproute2") from error


def _default_device(execute: Callable[[list[str]], Outcome]) -> str:
    routes = _json(execute, ["ip", "-j", "-4", "route", "show", "default"])
    routes.sort(key=lambda route: int(str(route.get("metric", 0))))
    return str(routes[0].get("dev", "")) if routes else ""


def _release(text: str) -> dict[str, str]:
    return {key: value.strip("\"'") for key, _, value in (line.partition("=") for line in text.splitlines())}


def _backend(root: str, device: str, execute: Callable[[list[str]], Outcome]) -> tuple[str, str]:
    """Return the manager of DEVICE, or all that were found and why dualstack.fleet.network_change would refuse."""
    index = int(text_below(root, f"sys/class/net/{device}/ifindex").strip() or 0)
    try:
        return detect(device, {device: index}, root=root, execute=execute).name, ""
    except DualStackError as error:
        found = error.details.get("found")
        return (" and ".join(found) if isinstance(found, list) else "") or "none", str(error)


def _glob(root: str, pattern: str) -> list[str]:
    return sorted(os.path.relpath(path, root) for path in glob.glob(os.path.join(root, pattern)))


def _leftovers(root: str) -> Iterable[dict[str, str]]:
    for what, pattern, expression in LEFTOVERS:
        for path in _glob(root, pattern):
            for match in expression.finditer(text_below(root, path)):
                yield {"what": what, "file": f"/{path}", "line": match.group().strip()}
    linked = any(
        os.path.realpath(os.path.join(root, path)) == os.path.join(os.path.realpath(root), "etc/sysctl.conf")
        for path in _glob(root, "etc/sysctl.d/*.conf")
    )
    if not linked and any(value == "1" for _, value in ASSIGNMENT.findall(text_below(root, "etc/sysctl.conf"))):
        line = "disable_ipv6 = 1, without effect: nothing reads this file since Debian 13"
        yield {"what": "sysctl", "file": "/etc/sysctl.conf", "line": line}
    for path, line in module_lines(root):
        effect = "without effect: the kernel has IPv6 built in" if is_built_in(root) else "counts at the next boot"
        yield {"what": "modprobe", "file": path, "line": f"{line}, {effect}"}


def _addresses(links: Iterable[dict[str, Any]]) -> Iterable[dict[str, Any]]:
    kinds = ("tentative", "dadfailed", "deprecated", "temporary", "mngtmpaddr", "dynamic")
    for link in links:
        for entry in link.get("addr_info", ()):
            yield {
                "device": link["ifname"],
                "address": entry["local"],
                "prefix_length": entry["prefixlen"],
                "scope": entry["scope"],
                "flags": [kind for kind in kinds if entry.get(kind)],
            }


def _routes(entries: Iterable[dict[str, Any]]) -> Iterable[dict[str, Any]]:
    names = {
        "dst": "dest",
        "gateway": "via",
        "dev": "device",
        "protocol": "protocol",
        "metric": "metric",
        "type": "type",
    }
    return ({new: entry[old] for old, new in names.items() if old in entry} for entry in entries)


def listeners(table: str) -> Iterable[dict[str, Any]]:
    """Yield the listeners in TABLE, the output of ``ss -Hltunpe``."""
    for line in table.splitlines():
        words = line.split()
        if len(words) < 6:
            continue
        address, _, port = words[4].rpartition(":")
        address = address.partition("%")[0].strip("[]")
        # A star is one socket for both families.
        families = ["ipv4", "ipv6"] if address == "*" else [f"ipv{ipaddress.ip_address(address).version}"]
        process = re.search(r'users:\(\("([^"]+)"', line)
        yield {
            "protocol": words[0],
            "port": int(port),
            "address": address,
            "families": families,
            "process": process.group(1) if process else "",
        }


def ipv4_only(found: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the TCP services that the network reaches over IPv4 and not over IPv6."""
    table = [
        entry for entry in found if entry["protocol"] == "tcp" and not str(entry["address"]).startswith(("127.", "::1"))
    ]
    six = {entry["port"] for entry in table if "ipv6" in entry["families"]}
    four = {(entry["port"], entry["process"]) for entry in table if "ipv4" in entry["families"]}
    return [{"port": port, "process": process} for port, process in sorted(four, key=str) if port not in six]
