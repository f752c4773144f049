# SPDX-License-Identifier: GPL-3.0-or-later
"""netplan's YAML: where an interface is defined, our own file beside it, and what netplan says of the whole."""

from __future__ import annotations

import glob
import json
import os
import re
import tempfile
from collections.abc import Callable, Iterable, Sequence

from ._command import Outcome, run
from ._errors import DualStackError
from ._files import FileState
from ._network import Address, HostRoute, Wanted
from ._routes import address_text, prefix_text

Execute = Callable[[list[str]], Outcome]

DIRECTORY = "/etc/netplan"
# netplan(5): a name in a later directory hides the earlier one.
_PLACES = ("lib/netplan", "etc/netplan", "run/netplan")
_GENERATED = re.compile(r"10-netplan-(.+)\.network")
_SECTION, _DEFINITION = re.compile(r"  ([a-z-]+):"), re.compile(r'    "?([^\s"].*?)"?:')


def own_file(device: str) -> str:
    """Return the path of our file for DEVICE; among netplan's files the last one has the last word."""
    return f"{DIRECTORY}/99-dualstack-{device}.yaml"


def identifier(network_file: str) -> str:
    """Return the name of the definition that NETWORK_FILE was generated from; empty when it was not."""
    found = _GENERATED.fullmatch(os.path.basename(network_file))
    return found.group(1) if found and network_file.startswith("/run/") else ""


def section(name: str, execute: Execute = run) -> str:
    """Return the kind of the definition NAME, such as ``ethernets`` or ``vlans``."""
    done = execute(["netplan", "get"])
    if done.rc:
        raise DualStackError(f"netplan does not tell its definitions: {done.output}")
    kind = ""
    for line in done.output.splitlines():
        if found := _SECTION.fullmatch(line):
            kind = found.group(1)
        elif (found := _DEFINITION.match(line)) and found.group(1) == name:
            return kind
    raise DualStackError(f"netplan made a file for {name} and does not define it any more: run netplan generate first")


def text(kind: str, name: str, wanted: Wanted, on_lo: Sequence[Address]) -> str:
    """Return our file: the additions to the definition NAME of the section KIND, and those for ON_LO to lo."""
    lines = [f"    {json.dumps(name)}:", "      accept-ra: false", "      ipv6-privacy: false"]
    lines += _addresses(address for address in wanted.addresses if address.device == wanted.device)
    lines += ["      routes:", *(f"        - {_route(route)}" for route in wanted.routes)] if wanted.routes else []
    sections = {kind: lines}
    if on_lo:
        sections.setdefault("ethernets", []).extend(["    lo:", *_addresses(on_lo)])
    body = [line for title, entries in sections.items() for line in (f"  {title}:", *entries)]
    return "\n".join(["network:", "  version: 2", *body]) + "\n"


def _addresses(addresses: Iterable[Address]) -> list[str]:
    entries = []
    for address in addresses:
        # netplan(5) knows no other lifetimes than 0 and forever.
        entries += (
            [f'        - "{address}":', "            lifetime: 0"] if address.deprecated else [f'        - "{address}"']
        )
    return ["      addresses:", *entries] if entries else []


def _route(route: HostRoute) -> str:
    words = [f'to: "{prefix_text(route.dest, route.length) if route.length else "::/0"}"']
    if route.type == "unreachable":
        words.append("type: unreachable")
    else:
        # Without a next hop netplan asks for a scope, which IPv6 does not have.
        words.append(f'via: "{address_text(route.via)}"' if route.via else "scope: link")
    return "{" + ", ".join([*words, f"metric: {route.metric}"]) + "}"


def check(changes: Iterable[FileState], execute: Execute = run) -> None:
    """Raise in netplan's own words unless it accepts all of its files with CHANGES in place; nothing is changed."""
    ours = [state for state in changes if os.path.dirname(state.path) == os.path.realpath(DIRECTORY)]
    if not ours:
        return
    with tempfile.TemporaryDirectory(prefix="dualstack-netplan-") as root:
        for place in _PLACES:
            for path in glob.glob(f"/{place}/*.yaml"):
                _copy(path, root, place)
        for state in ours:
            path = os.path.join(root, "etc/netplan", os.path.basename(state.path))
            if state.content is None:
                os.unlink(path)
            else:
                _write(path, state.content)
        done = execute(["netplan", "generate", "--root-dir", root])
        if done.rc:
            said = done.output.replace(root, "")
            raise DualStackError(f"netplan refuses its files, nothing was changed: {said}")


def _copy(path: str, root: str, place: str) -> None:
    with open(path, "rb") as stream:
        _write(os.path.join(root, place, os.path.basename(path)), stream.read())


def _write(path: str, content: bytes) -> None:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as stream:
        stream.write(content)
