# SPDX-License-Identifier: GPL-3.0-or-later
"""The files of the network managers: who manages an interface, and what its files must say for IPv6."""

from __future__ import annotations

import glob
import json
import os
import re
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from ._command import Outcome, run
from ._errors import DualStackError
from ._files import FileState
from ._network import Address, HostRoute, Wanted
from ._routes import address_text, prefix_text

Execute = Callable[[list[str]], Outcome]

INTERFACES = "/etc/network/interfaces"
OWN_DIRECTORY = "/etc/network/dualstack.d"
AS_IT_IS = "iface {device} inet6 manual\n"
SOURCE_LINE = f"source {OWN_DIRECTORY}/*"
NETWORKD = "/etc/systemd/network"
LO_NETWORK = "50-dualstack-lo.network"
# Redirects, the kernel itself, router advertisements.
_KERNEL_PROTOCOLS = (1, 2, 9)
# What systemd 252 gives up when it reads a changed file, and then asks for again.
_LEASED = ("DHCPv4", "IPv4LL")
_STANZA = re.compile(r"\s*(iface|source|source-directory)\s")
_MARK = "# Written by dualstack.fleet.network_change; the next run overwrites changes made here.\n"


@dataclass(frozen=True)
class Backend:
    """The manager of an interface; for networkd the names of the .network files of the device and of lo."""

    name: str
    network_file: str = ""
    lo_file: str = LO_NETWORK


def detect(
    device: str, indexes: Mapping[str, int], choice: str = "auto", root: str = "/", execute: Execute = run
) -> Backend:
    """Return the manager of DEVICE, or raise with what was found."""
    links = _networkd_links(execute)
    link = links.get(device, {})
    network_file = str(link.get("NetworkFile", ""))
    found = []
    if link.get("AdministrativeState", "unmanaged") != "unmanaged" and network_file:
        found.append("networkd")
    if device in stanza_devices(INTERFACES, root=root):
        found.append("ifupdown2" if os.path.isdir(os.path.join(root, "usr/share/ifupdown2")) else "ifupdown")
    if os.path.exists(os.path.join(root, f"run/NetworkManager/devices/{indexes[device]}")) and not found:
        found.append("NetworkManager")
    name = found[0] if len(found) == 1 and choice == "auto" else choice
    if name not in ("ifupdown", "networkd") or name not in found:
        seen = " and ".join(found) or f"neither a stanza in {INTERFACES} nor a .network file in use"
        raise DualStackError(
            f"{device} is configured by {seen}, which does not fit backend {choice}: ifupdown and systemd-networkd are "
            "supported; where both are found, network_change's option backend names the one that has its IPv4",
            found=found,
        )
    lo_file = os.path.basename(str(links.get("lo", {}).get("NetworkFile", ""))) or LO_NETWORK
    return Backend(name, os.path.basename(network_file), lo_file) if name == "networkd" else Backend(name)


def is_wedged(backend: Backend, device: str, execute: Execute = run) -> bool:
    """Whether ifupdown counts DEVICE, which works, as not configured: an ``ifup`` failed, as with a duplicate address.

    Then ``ifup`` fails at the IPv4 address that is there already, and ``ifdown`` does nothing.
    """
    return backend.name == "ifupdown" and bool(execute(["ifquery", "--state", device]).rc)


def note_as_up(device: str, path: str) -> list[str]:
    """Return the command by which ifupdown counts DEVICE as configured again; the file PATH holds ``AS_IT_IS`` of it.

    The method ``manual`` configures nothing (interfaces(5)), so that IPv4 is not touched.
    """
    return ["ifup", f"--interfaces={path}", "--no-scripts", device]


def unsettled(wanted: Wanted) -> list[str]:
    """Return what networkd has not yet made its own after a reload."""
    links = _networkd_links()
    state = links.get(wanted.device, {}).get("AdministrativeState", "unknown")
    hint = f"see networkctl status {wanted.device}"
    problems = [] if state == "configured" else [f"systemd-networkd has {wanted.device} in state {state}: {hint}"]
    for address in wanted.addresses:
        entries = links.get(address.device, {}).get("Addresses", [])
        mine = [entry for entry in entries if bytes(entry["Address"]) == address.value]
        if not any(entry.get("ConfigSource") == "static" for entry in mine):
            problems.append(f"systemd-networkd does not hold {address} on {address.device}: {hint}")
    return problems


def reload_keeps_ipv4(execute: Execute = run) -> bool:
    """Whether systemd-networkd, told that its files have changed, leaves the other addresses on an interface alone.

    Version 252 removes and adds all of them, IPv4 too, which 257 does not (measured).
    """
    return int(execute(["networkctl", "--version"]).output.split()[1]) >= 257


def strangers(wanted: Wanted, owned: Wanted) -> list[str]:
    """Return what networkd would remove: others' addresses on its interface, such as those of VRRP, and leases."""
    return foreign(_networkd_links().get(wanted.device, {}), wanted, owned)


def foreign(link: Mapping[str, list], wanted: Wanted, owned: Wanted) -> list[str]:
    """Return what of LINK, as networkctl describes it, is neither ours nor in networkd's files."""
    ours = {address.value for address in (*wanted.addresses, *owned.addresses)}
    our_routes = {(route.dest, route.length) for route in (*wanted.routes, *owned.routes)}
    found = []
    for entry in link.get("Addresses", []):
        value = bytes(entry["Address"])
        by_hand = entry.get("ConfigSource") == "foreign" and entry.get("Scope") == 0 and value not in ours
        if by_hand or entry.get("ConfigSource") in _LEASED:
            found.append(f"{_text(value)}/{entry['PrefixLength']}")
    for entry in link.get("Routes", []):
        key = (bytes(entry["Destination"]), entry["DestinationPrefixLength"])
        by_hand = entry.get("ConfigSource") == "foreign" and entry.get("Protocol") not in _KERNEL_PROTOCOLS
        if (by_hand and key not in our_routes) or entry.get("ConfigSource") in _LEASED:
            found.append(f"the route to {_text(key[0])}/{key[1]}")
    return found


def _text(value: bytes) -> str:
    return socket.inet_ntop(socket.AF_INET if len(value) == 4 else socket.AF_INET6, value)


def _networkd_links(execute: Execute = run) -> dict[str, dict]:
    # Asked when it does not run, networkctl would start it.
    if execute(["systemctl", "is-active", "--quiet", "systemd-networkd"]).rc:
        return {}
    done = execute(["networkctl", "--json=short", "--no-pager", "list"])
    if done.rc:
        raise DualStackError(f"networkctl does not tell its interfaces: {done.output}")
    return {link["Name"]: link for link in json.loads(done.output)["Interfaces"]}


def stanza_devices(path: str, depth: int = 0, root: str = "/") -> set[str]:
    """Return the interfaces that have an ``iface`` stanza in the interfaces(5) file PATH or a file that it sources."""
    try:
        with open(_below(root, path), encoding="utf-8", errors="replace") as stream:
            lines = stream.read().replace("\\\n", " ").splitlines()
    except (FileNotFoundError, IsADirectoryError):
        return set()
    found = set()
    for line in lines:
        words = line.split()
        if len(words) < 2:
            continue
        if words[0] == "iface":
            found.add(words[1])
        elif words[0] in ("source", "source-directory") and depth < 8:
            pattern = os.path.join(os.path.dirname(path), words[1])
            pattern = os.path.join(pattern, "*") if words[0] == "source-directory" else pattern
            for name in sorted(glob.glob(_below(root, pattern))):
                found |= stanza_devices(os.path.join("/", os.path.relpath(name, root)), depth + 1, root)
    return found


def _below(root: str, path: str) -> str:
    return os.path.join(root, path.lstrip("/"))


def paths(backend: Backend, device: str) -> list[str]:
    """Return the files that the backend keeps for DEVICE."""
    if backend.name == "ifupdown":
        return [INTERFACES, f"{OWN_DIRECTORY}/{device}"]
    return [
        f"{NETWORKD}/{backend.network_file}.d/50-dualstack.conf",
        f"{NETWORKD}/{LO_NETWORK}",
        f"{NETWORKD}/{backend.lo_file}.d/50-dualstack-{device}.conf",
    ]


def plan_files(backend: Backend, wanted: Wanted, before: Mapping[str, FileState]) -> list[tuple[FileState, FileState]]:
    """Return (before, after) of each file that has to change; BEFORE holds the files of ``paths``."""
    names = paths(backend, wanted.device)
    if backend.name == "ifupdown":
        old = before[names[0]].content or b""
        texts: list[str | None] = [with_source_line(old.decode("utf-8", "surrogateescape")), ifupdown_text(wanted)]
    else:
        on_lo = [address for address in wanted.addresses if address.device == "lo"]
        kept = before[names[1]].content
        base = kept.decode() if kept is not None else None
        if on_lo and backend.lo_file == LO_NETWORK:
            base = _MARK + "[Match]\nName=lo\n"
        texts = [networkd_text(wanted), base, networkd_lo_text(on_lo)]
    changes = []
    for name, text in zip(names, texts):
        was = before[name]
        content = None if text is None else text.encode("utf-8", "surrogateescape")
        if was.content != content:
            changes.append((was, replace(was, content=content)))
    return changes


def with_source_line(text: str) -> str:
    """Return an interfaces(5) file with our line after all stanzas: what fails there cannot keep IPv4 down."""
    lines = text.splitlines(keepends=True)
    ours = [number for number, line in enumerate(lines) if line.split() == SOURCE_LINE.split()]
    if ours and not any(_STANZA.match(line) for line in lines[ours[0] + 1 :] if line.split() != SOURCE_LINE.split()):
        return text
    rest = "".join(line for number, line in enumerate(lines) if number not in ours)
    return rest + ("" if rest.endswith("\n") or not rest else "\n") + SOURCE_LINE + "\n"


def ifupdown_text(wanted: Wanted) -> str:
    """Return the stanza of one interface."""
    own = [address for address in wanted.addresses if address.device == wanted.device]
    rest = [address for address in wanted.addresses if address not in own[:1]]
    lines = [f"iface {wanted.device} inet6 {'static' if own else 'manual'}"]
    if own:
        lines += [f"    address {own[0]}", "    accept_ra 0", "    autoconf 0"]
    commands = [address.command("replace") for address in rest] + [route.command("replace") for route in wanted.routes]
    lines += [f"    up {' '.join(words)}" for words in commands]
    return _MARK + "\n".join(lines) + "\n"


def networkd_text(wanted: Wanted) -> str:
    """Return the drop-in of one interface."""
    lines = ["[Network]", "IPv6AcceptRA=no"]
    lines += [f"Address={address}" for address in wanted.addresses if address.device == wanted.device]
    for route in wanted.routes:
        lines += ["", *_route_section(route)]
    return _MARK + "\n".join(lines) + "\n"


def _route_section(route: HostRoute) -> list[str]:
    lines = ["[Route]"]
    lines += [f"Destination={prefix_text(route.dest, route.length)}"] if route.length else []
    lines += [f"Gateway={address_text(route.via)}"] if route.via else []
    lines += ["Type=unreachable"] if route.type == "unreachable" else []
    return [*lines, f"Metric={route.metric}"]


def networkd_lo_text(addresses: Sequence[Address]) -> str | None:
    """Return the drop-in for lo; none where it has no address of ours."""
    if not addresses:
        return None
    return _MARK + "[Network]\n" + "".join(f"Address={address}\n" for address in addresses)
