# SPDX-License-Identifier: GPL-3.0-or-later
"""The files of the network managers: who manages an interface, and what its files must say for IPv6."""

from __future__ import annotations

import glob
import json
import os
import re
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from . import _netplan
from ._command import Outcome, run
from ._errors import DualStackError
from ._files import FileState
from ._network import METRIC, Address, HostRoute, Wanted
from ._routes import address_text, prefix_text

Execute = Callable[[list[str]], Outcome]

INTERFACES = "/etc/network/interfaces"
OWN_DIRECTORY = "/etc/network/dualstack.d"
AS_IT_IS = "iface {device} inet6 manual\n"
SOURCE_LINE = f"source {OWN_DIRECTORY}/*"
NETWORKD = "/etc/systemd/network"
LO_NETWORK = "50-dualstack-lo.network"
NETPLAN_LO = "10-netplan-lo.network"
RELOAD = [["networkctl", "reload"]]
SYSCTL_DIRECTORY = "/etc/sysctl.d"
# No address by itself, neither from a router's word nor a random one.
SETTINGS = {"accept_ra": "0", "autoconf": "0", "use_tempaddr": "0"}
STANZAS = ("ifupdown", "ifupdown2")
SUPPORTED = (*STANZAS, "networkd", "netplan")
# Redirects, the kernel itself, router advertisements.
_KERNEL_PROTOCOLS = (1, 2, 9)
# What systemd 252 gives up when it reads a changed file, and then asks for again.
_LEASED = ("DHCPv4", "IPv4LL")
_STANZA = re.compile(r"\s*(iface|source|source-directory)\s")
_MARK = "# Written by dualstack.fleet.network_change; the next run overwrites changes made here.\n"


@dataclass(frozen=True)
class Backend:
    """The manager of an interface.

    For networkd, and netplan above it, the names of the .network files of the device and of lo; for netplan also the
    section and the name of its definition. FRESH is an interface that has no definition but ours.
    """

    name: str
    network_file: str = ""
    lo_file: str = LO_NETWORK
    section: str = ""
    definition: str = ""
    fresh: bool = False

    @property
    def by_networkd(self) -> bool:
        """Whether systemd-networkd does the work."""
        return self.name not in STANZAS

    def check(self, device: str) -> None:
        """Raise with the manager's own words if the kernel is not what its files say; ifupdown has no such check."""
        done = run(["ifquery", "--check", device]) if self.name == "ifupdown2" else Outcome(0, "")
        if done.rc:
            raise DualStackError(f"ifquery --check {device}: {done.output}")


def detect(
    device: str,
    indexes: Mapping[str, int],
    choice: str = "auto",
    *,
    main: str = "",
    root: str = "/",
    execute: Execute = run,
) -> Backend:
    """Return the manager of DEVICE, or raise with what was found.

    An interface that nobody manages goes to the manager of MAIN, the one that has the host's IPv4.
    """
    master = os.path.join(root, f"sys/class/net/{device}/master")
    if os.path.exists(master):
        upper = os.path.basename(os.path.realpath(master))
        raise DualStackError(f"{device} is a port of {upper}: the addresses go on {upper}, name that", found=[])
    links = _networkd_links(execute)
    found = _managers(device, indexes, links, root)
    fresh = not found and main not in ("", device)
    if fresh:
        found = _managers(main, indexes, links, root)
    name = found[0] if len(found) == 1 and choice == "auto" else choice
    if name not in SUPPORTED or name not in found:
        seen = " and ".join(found) or f"neither a stanza in {INTERFACES} nor a .network file in use"
        raise DualStackError(
            f"{device} is configured by {seen}, which does not fit backend {choice}: ifupdown, ifupdown2, "
            "systemd-networkd and netplan above it are supported; where more than one is found, network_change's "
            "option backend names the one that has its IPv4",
            found=found,
        )
    if name in STANZAS:
        own = os.path.join(OWN_DIRECTORY, device)
        return Backend(name, fresh=fresh or device not in stanza_devices(INTERFACES, root=root, without=own))
    return _networkd_backend(name, device, links, fresh=fresh, execute=execute)


def _managers(device: str, indexes: Mapping[str, int], links: Mapping[str, dict], root: str) -> list[str]:
    link = links.get(device, {})
    network_file = str(link.get("NetworkFile", ""))
    found = []
    if link.get("AdministrativeState", "unmanaged") != "unmanaged" and network_file:
        found.append("netplan" if _netplan.identifier(network_file) else "networkd")
    if device in stanza_devices(INTERFACES, root=root):
        found.append("ifupdown2" if os.path.isdir(os.path.join(root, "usr/share/ifupdown2")) else "ifupdown")
    if os.path.exists(os.path.join(root, f"run/NetworkManager/devices/{indexes[device]}")) and not found:
        rendered = glob.glob(os.path.join(root, "run/NetworkManager/system-connections/netplan-*"))
        found.append("NetworkManager, which netplan renders for" if rendered else "NetworkManager")
    return found


def _networkd_backend(name: str, device: str, links: Mapping[str, dict], *, fresh: bool, execute: Execute) -> Backend:
    network_file = str(links.get(device, {}).get("NetworkFile", ""))
    sharers = sorted(other for other, link in links.items() if other != device and not fresh)
    sharers = [other for other in sharers if links[other].get("NetworkFile") == network_file]
    if sharers:
        raise DualStackError(
            f"{device} shares {network_file} with {', '.join(sharers)}, which would get its addresses too: give it a "
            "definition of its own that matches it alone",
            found=[name],
        )
    ours = f"50-dualstack-{device}.network"
    network_file = os.path.basename(network_file) if not fresh else ours
    lo_file = os.path.basename(str(links.get("lo", {}).get("NetworkFile", "")))
    if name == "networkd":
        return Backend(name, network_file, lo_file or LO_NETWORK, fresh=fresh or network_file == ours)
    definition = device if fresh else _netplan.identifier(f"/run/systemd/network/{network_file}")
    section = "ethernets" if fresh else _netplan.section(definition, execute)
    return Backend(name, network_file, lo_file or NETPLAN_LO, section, definition, fresh)


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


@dataclass(frozen=True)
class Stanza:
    """An ``iface`` stanza of interfaces(5)."""

    device: str
    family: str
    options: dict[str, str]


def stanzas(path: str, *, root: str = "/", without: str = "", depth: int = 0) -> Iterator[Stanza]:
    """Yield the stanzas of the interfaces(5) file PATH and of those that it sources, except the file WITHOUT."""
    try:
        with open(_below(root, path), encoding="utf-8", errors="replace") as stream:
            lines = stream.read().replace("\\\n", " ").splitlines()
    except (FileNotFoundError, IsADirectoryError):
        return
    options: dict[str, str] = {}
    for line in lines:
        words = line.split()
        if len(words) < 2 or words[0].startswith("#"):
            continue
        if words[0] == "iface":
            options = {}
            yield Stanza(words[1], words[2] if len(words) > 2 else "", options)
        elif words[0] in ("source", "source-directory") and depth < 8:
            pattern = os.path.join(os.path.dirname(path), words[1])
            pattern = os.path.join(pattern, "*") if words[0] == "source-directory" else pattern
            names = [
                os.path.join("/", os.path.relpath(name, root)) for name in sorted(glob.glob(_below(root, pattern)))
            ]
            for name in names:
                if name != without:
                    yield from stanzas(name, root=root, without=without, depth=depth + 1)
        else:
            options.setdefault(words[0], words[1])


def stanza_devices(path: str, root: str = "/", without: str = "") -> set[str]:
    """Return the interfaces that have a stanza in the interfaces(5) file PATH, or in one that it sources."""
    return {stanza.device for stanza in list(stanzas(path, root=root, without=without))}


def declared(backend: Backend, wanted: Wanted, owned: Wanted) -> Wanted:
    """Return what of WANTED the manager's other files give the interface already, such as a stanza written by hand."""
    routers: set[bytes] = set()
    if not backend.by_networkd:
        found = list(stanzas(INTERFACES, without=f"{OWN_DIRECTORY}/{wanted.device}"))
        options = [each.options for each in found if each.device == wanted.device]
        there = {_packed(each.get("address", "").partition("/")[0]) for each in options}
        # ifup makes the default route of such a stanza by itself, in its own words.
        routers = {_packed(each.get("gateway", "")) for each in options} - {b""}
    else:
        entries = _networkd_links().get(wanted.device, {}).get("Addresses", [])
        there = {bytes(entry["Address"]) for entry in entries if entry.get("ConfigSource") == "static"}
    there -= {address.value for address in owned.addresses}
    return replace(
        wanted,
        addresses=tuple(each for each in wanted.addresses if each.device == wanted.device and each.value in there),
        routes=tuple(
            each
            for each in wanted.routes
            if not each.length and each.via in routers and each.metric == METRIC and each not in owned.routes
        ),
    )


def _packed(text: str) -> bytes:
    try:
        return socket.inet_pton(socket.AF_INET6, text)
    except OSError:
        return b""


def _below(root: str, path: str) -> str:
    return os.path.join(root, path.lstrip("/"))


def paths(backend: Backend, device: str) -> list[str]:
    """Return the files that the backend keeps for DEVICE."""
    sysctl = f"{SYSCTL_DIRECTORY}/90-dualstack-{device}.conf"
    if not backend.by_networkd:
        return [sysctl, INTERFACES, f"{OWN_DIRECTORY}/{device}"]
    lo_drop_in = f"{NETWORKD}/{backend.lo_file}.d/50-dualstack-{device}.conf"
    if backend.name == "netplan":
        return [sysctl, _netplan.own_file(device), lo_drop_in]
    own = backend.network_file if backend.fresh else f"{backend.network_file}.d/50-dualstack.conf"
    return [sysctl, f"{NETWORKD}/{own}", f"{NETWORKD}/{LO_NETWORK}", lo_drop_in]


def plan_files(backend: Backend, wanted: Wanted, before: Mapping[str, FileState]) -> list[tuple[FileState, FileState]]:
    """Return (before, after) of each file that has to change; BEFORE holds the files of ``paths``."""
    sysctl, *names = paths(backend, wanted.device)
    on_lo = [address for address in wanted.addresses if address.device == "lo"]
    texts: list[str | None]
    if not backend.by_networkd:
        old = before[names[0]].content or b""
        stanza = ifupdown_text(wanted, backend.fresh, backend.name == "ifupdown2")
        texts = [with_source_line(old.decode("utf-8", "surrogateescape")), stanza]
    elif backend.name == "netplan":
        # A .network file of somebody else's for lo comes before netplan's or hides it.
        in_yaml = on_lo if backend.lo_file == NETPLAN_LO else []
        texts = [_MARK + _netplan.text(backend.section, backend.definition, wanted, in_yaml)]
        texts.append(networkd_lo_text(on_lo) if not in_yaml else None)
    else:
        kept = before[names[1]].content
        base = kept.decode() if kept is not None else None
        if on_lo and backend.lo_file == LO_NETWORK:
            base = _MARK + "[Match]\nName=lo\n"
        texts = [networkd_text(wanted, backend.fresh), base, networkd_lo_text(on_lo)]
    changes = []
    for name, text in zip([sysctl, *names], [sysctl_text(wanted.device), *texts]):
        was = before[name]
        content = None if text is None else text.encode("utf-8", "surrogateescape")
        if was.content != content:
            # netplan complains of definitions that others can read.
            mode = 0o600 if was.content is None and name.endswith(".yaml") else was.mode
            changes.append((was, replace(was, content=content, mode=mode)))
    return changes


def reload_commands(files: Iterable[str]) -> list[list[str]]:
    """Return what makes the managers read their files now, if any of FILES is one of theirs."""
    places = {os.path.realpath(NETWORKD): "networkd", os.path.realpath(_netplan.DIRECTORY): "netplan"}
    named = {name for path in files for place, name in places.items() if path.startswith(f"{place}/")}
    generate = [["netplan", "generate"]] if "netplan" in named else []
    return [*generate, *RELOAD] if named else []


def sysctl_text(device: str) -> str:
    """Return the file that keeps the kernel's own ways to an address shut; an absent interface is no error there."""
    return _MARK + "".join(f"-net/ipv6/conf/{device}/{name} = {value}\n" for name, value in SETTINGS.items())


def with_source_line(text: str) -> str:
    """Return an interfaces(5) file with our line after all stanzas: what fails there cannot keep IPv4 down."""
    lines = text.splitlines(keepends=True)
    ours = [number for number, line in enumerate(lines) if line.split() == SOURCE_LINE.split()]
    if ours and not any(_STANZA.match(line) for line in lines[ours[0] + 1 :] if line.split() != SOURCE_LINE.split()):
        return text
    rest = "".join(line for number, line in enumerate(lines) if number not in ours)
    return rest + ("" if rest.endswith("\n") or not rest else "\n") + SOURCE_LINE + "\n"


def ifupdown_text(wanted: Wanted, fresh: bool = False, checked: bool = False) -> str:
    """Return the stanza of one interface; a FRESH one has no other that brings it up at boot.

    A CHECKED one lists every address: ifupdown2 objects to others on the interface. ifupdown takes only one.
    """
    own = [address for address in wanted.addresses if address.device == wanted.device]
    rest = [address for address in wanted.addresses if address not in own[:1]]
    lines = [f"auto {wanted.device}"] if fresh else []
    lines.append(f"iface {wanted.device} inet6 {'static' if own else 'manual'}")
    if own:
        lines += [f"    address {own[0]}", "    accept_ra 0", "    autoconf 0", "    privext 0"]
        lines += ["    preferred-lifetime 0"] if own[0].deprecated else []
        lines += [f"    address {address}" for address in own[1:]] if checked else []
    commands = [address.command("replace") for address in rest] + [route.command("replace") for route in wanted.routes]
    lines += [f"    up {' '.join(words)}" for words in commands]
    return _MARK + "\n".join(lines) + "\n"


def networkd_text(wanted: Wanted, fresh: bool = False) -> str:
    """Return the drop-in of one interface, or the whole file of a FRESH one."""
    lines = ["[Match]", f"Name={wanted.device}", ""] if fresh else []
    lines += ["[Network]", "IPv6AcceptRA=no", "IPv6PrivacyExtensions=no"]
    own = [address for address in wanted.addresses if address.device == wanted.device]
    lines += [f"Address={address}" for address in own if not address.deprecated]
    for address in own:
        lines += ["", "[Address]", f"Address={address}", "PreferredLifetime=0"] if address.deprecated else []
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
