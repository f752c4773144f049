# SPDX-License-Identifier: GPL-3.0-or-later
"""Who keeps an edge router's routes: we in the kernel, or a routing daemon with our lines in its configuration.

A daemon is one subclass of ``Provider``. That it did what it was told is believed when the kernel has the routes.
"""

from __future__ import annotations

import abc
import glob
import os
import re
import select
import socket
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import cast

from . import _edge, _edge_found, _rtnetlink
from ._command import run as run_command
from ._edge import Request
from ._edge_found import Dest
from ._edit_text import split_lines
from ._errors import DualStackError, InputError
from ._files import FileState, read_file, text_below, write_file
from ._routes import (
    KINDS,
    Batch,
    Plan,
    Route,
    Supernets,
    address_text,
    check_deletions,
    off_link,
    parse_prefix,
    parse_routes,
    prefix_text,
    records,
)

FRR_WARN, FRR_MOST = 1000, 5000
_QUIET, _STALLED, _LONGEST = 0.05, 10.0, 300.0
_SHOWN = 20
_BEHIND = "read the files, which were written after it last read them"
_IPV6_ROUTE_EVENTS = 1 << 10  # RTMGRP_IPV6_ROUTE of rtnetlink(7)

Lines = dict[Dest, str]


@dataclass(frozen=True)
class Change:
    """What one run does to the routes of its name: the lines before and after, and the wanted routes behind them."""

    name: str
    before: Mapping[Dest, str]
    after: Mapping[Dest, str]
    wanted: Sequence[Route]

    @property
    def added(self) -> list[str]:
        """The lines that are new, or have a new next hop."""
        return [line for dest, line in sorted(self.after.items()) if self.before.get(dest) != line]

    @property
    def removed(self) -> list[str]:
        """The lines that go, or had another next hop."""
        return [line for dest, line in sorted(self.before.items()) if self.after.get(dest) != line]


class Provider(abc.ABC):
    """A routing daemon: where our lines stand, and what makes it read them."""

    name = ""
    title = ""
    protocol = 0  # rtm_protocol of its static routes in the kernel
    words = ""  # before the destination of a line

    @abc.abstractmethod
    def line(self, route: Route) -> str:
        """Return ROUTE in the daemon's words."""

    @abc.abstractmethod
    def problems(self, lines: int) -> list[str]:
        """Return what of the daemon is in the way of a run that adds some and ends with LINES routes."""

    def gaps(self) -> list[str]:
        """Return what the configuration lacks for new routes; in check mode, an earlier task may be about to add it."""
        return []

    @abc.abstractmethod
    def render(self, name: str, lines: Mapping[Dest, str]) -> str:
        """Return the text of our file with LINES; empty without any."""

    @abc.abstractmethod
    def edits(self, change: Change) -> list[tuple[FileState, FileState]]:
        """Return (before, after) of the files, beside our own, that CHANGE needs."""

    @abc.abstractmethod
    def apply(self, change: Change, again: Sequence[str]) -> str:
        """Make the daemon do CHANGE, whose files are written, and the lines AGAIN; return its words if it refuses."""

    def is_behind(self) -> bool:
        """Return whether the daemon has not read our files as they are: a run was killed before it told the daemon."""
        return False

    def started(self, change: Change) -> Mapping[Dest, str]:
        """Return the lines of our file while CHANGE is under way, with which a killed run is taken up."""
        return change.after

    @abc.abstractmethod
    def warnings(self, lines: int) -> list[str]:
        """Return what the operator should know of LINES routes with this daemon."""

    def path(self, directory: str, name: str) -> str:
        """Return the path of our file NAME."""
        return os.path.join(directory, f"{name}.{self.name}")

    def parse(self, text: str, place: str) -> Lines:
        """Return our lines by destination; a line of another form is an error, as it would be lost."""
        found: Lines = {}
        problems = []
        frame, head = self.frame(place), self.words.split()
        for number, line in enumerate(text.splitlines(), 1):
            stripped = line.strip()
            if not stripped or stripped[0] in "#!" or stripped in frame:
                continue
            words = stripped.split()
            try:
                if words[: len(head)] != head:
                    raise ValueError(stripped)
                dest = words[len(head)]
                found[parse_prefix("default" if dest == "::/0" else dest)] = stripped
            except (ValueError, IndexError):
                problems.append(f"{place}, line {number}: {stripped!r} is not of our form: move it to another file")
        if problems:
            raise InputError(problems)
        return found

    def frame(self, place: str) -> tuple[str, ...]:
        """Return the lines around our routes in the file PLACE."""
        return ()


class Bird(Provider):
    """BIRD 2: ``protocol static`` in a file that bird.conf includes, read anew by ``birdc configure``."""

    name, title, protocol, words = "bird", "BIRD", 12, "route"
    config = "/etc/bird/bird.conf"
    include = 'include "/etc/dualstack/routes.d/*.bird";'

    def line(self, route: Route) -> str:
        hop = f"via {address_text(route.via)}" if route.via else f'via "{route.dev}"'
        if route.via and route.dev:
            hop += f"%'{route.dev}'"
        return f"route {_dest(route)} {'unreachable' if route.type == 'unreachable' else hop};"

    def frame(self, place: str) -> tuple[str, ...]:
        return f"protocol static 'dualstack-{os.path.basename(place).rpartition('.')[0]}' {{", "ipv6;", "}"

    def render(self, name: str, lines: Mapping[Dest, str]) -> str:
        if not lines:
            return ""
        head, channel, tail = self.frame(f"{name}.{self.name}")
        body = "".join(f"\t{lines[dest]}\n" for dest in sorted(lines))
        return f"# Written by dualstack.fleet.edge_routes.\n{head}\n\t{channel}\n{body}{tail}\n"

    def problems(self, lines: int) -> list[str]:
        shown = run_command(["birdc", "show", "protocols", "all"])
        if shown.rc:
            words = shown.output.splitlines()[-1] if shown.output else "no answer"
            return [f"BIRD does not answer ({words}): start bird.service, or choose another provider"]
        found = []
        if lines and not _exports_to_kernel(shown.output):
            found.append("BIRD hands the kernel no IPv6 routes: configure protocol kernel { ipv6 { export all; }; }")
        tested = run_command(["bird", "-p"])
        if tested.rc:
            found.append(f"BIRD's configuration has an error before our change ({tested.output}): mend it first")
        return found + [
            f"/{path} was changed after BIRD last read it, and would be read with our change: run birdc configure first"
            for path in self._unread()
            if not path.startswith(_edge_found.OURS)
        ]

    def is_behind(self) -> bool:
        # The directory's time tells of files that are gone.
        return any(path.startswith(_edge_found.OURS) for path in self._unread())

    def _unread(self) -> list[str]:
        """Return what changed after BIRD last read its configuration; nothing where its time format is another."""
        shown = run_command(["birdc", "show", "status"]).output
        match = re.search(r"^Last reconfiguration on (\S+ \d\d:\d\d:\d\d)(\.\d+)?$", shown, re.MULTILINE)
        if not match:
            return []
        read = time.mktime(time.strptime(match[1], "%Y-%m-%d %H:%M:%S")) + float(match[2] or 1)
        paths = [path for path in [*_edge_found.bird_files(), _edge_found.OURS] if os.path.exists(f"/{path}")]
        return [path for path in paths if os.path.getmtime(f"/{path}") > read]

    def gaps(self) -> list[str]:
        texts = [text_below("/", path) for path in _edge_found.bird_files()]
        if any(line.split("#")[0].strip() == self.include for text in texts for line in text.splitlines()):
            return []
        return [f"{self.config} does not read our file: add the line {self.include}"]

    def edits(self, change: Change) -> list[tuple[FileState, FileState]]:
        return []

    def apply(self, change: Change, again: Sequence[str]) -> str:
        tested = run_command(["bird", "-p"])
        if tested.rc:
            return tested.output
        done = run_command(["birdc", "configure"])
        # It ends with 0 when the daemon refuses the configuration, too.
        return "" if re.search(r"^Reconfigur", done.output, re.MULTILINE) else done.output

    def warnings(self, lines: int) -> list[str]:
        return []


class Frr(Provider):
    """FRR: ``ipv6 route`` lines in frr.conf, and the same lines by vtysh(1) to the running daemons.

    frr-reload.py would make the running configuration the file's: what somebody has set and not written is lost.
    """

    name, title, protocol, words = "frr", "FRR", 196, "ipv6 route"
    config = "/etc/frr/frr.conf"

    def line(self, route: Route) -> str:
        hop = [address_text(route.via)] if route.via else []
        hop += [route.dev] if route.dev else []
        return " ".join([self.words, _dest(route), *(["reject"] if route.type == "unreachable" else hop)])

    def render(self, name: str, lines: Mapping[Dest, str]) -> str:
        head = f"! Written by dualstack.fleet.edge_routes: its lines in {self.config}.\n"
        return head + "".join(f"{lines[dest]}\n" for dest in sorted(lines)) if lines else ""

    def problems(self, lines: int) -> list[str]:
        found = []
        shown = run_command(["vtysh", "-c", "show daemons"])
        if shown.rc or "staticd" not in shown.output:
            words = shown.output.splitlines()[-1] if shown.output else "no answer"
            found.append(f"FRR's staticd does not answer ({words}): start frr.service, or choose another provider")
        if not os.path.isfile(self.config):
            found.append(
                f"there is no {self.config}: let FRR keep its configuration there (write integrated, in vtysh)"
            )
        if lines > FRR_MOST:
            found.append(
                f"{lines} routes are too many for FRR, {FRR_MOST} the most (65,536 take 82 s, 1.9 GB of memory, and 4 "
                "minutes to stop): choose provider kernel or bird"
            )
        return found

    def edits(self, change: Change) -> list[tuple[FileState, FileState]]:
        before = read_file(self.config)
        text = (before.content or b"").decode("utf-8", "surrogateescape")
        edited = edited_frr(text, change.removed, [change.after[dest] for dest in sorted(change.after)])
        return [(before, replace(before, content=edited.encode("utf-8", "surrogateescape")))]

    def started(self, change: Change) -> Mapping[Dest, str]:
        return {**change.after, **change.before}

    def apply(self, change: Change, again: Sequence[str]) -> str:
        # First what is new, so that zebra has a next hop at any time. In the kernel it deletes and adds, within a
        # millisecond, unless it is run with --v6-rr-semantics; see zebra(8).
        lines = [*dict.fromkeys([*again, *change.added]), *(f"no {line}" for line in change.removed)]
        with tempfile.NamedTemporaryFile("w", prefix="dualstack-", suffix=".frr") as stream:
            stream.write("".join(f"{line}\n" for line in lines))
            stream.flush()
            done = run_command(["vtysh", "-f", stream.name], timeout=_LONGEST)
        # vtysh ends with 0 whatever the daemons say, and removing what is gone is no fault.
        refused = [line for line in done.output.splitlines() if line.startswith("%") and "non-existent" not in line]
        return "\n".join(refused) or (done.output if done.rc else "")

    def warnings(self, lines: int) -> list[str]:
        if lines <= FRR_WARN:
            return []
        return [f"{lines} routes in FRR: it needs about a millisecond and 30 kB for each; kernel and bird need less"]


def _exports_to_kernel(shown: str) -> bool:
    """Return whether a kernel protocol of SHOWN, BIRD's list of protocols, takes routes of the table of ours."""
    blocks = re.split(r"\n(?=\S)", shown)
    kernel = [block for block in blocks if re.match(r"\S+\s+Kernel\s+master6\s+up\b", block)]
    return any(re.search(r"Channel ipv6\n.*Output filter:\s+(?!REJECT)\S", block, re.DOTALL) for block in kernel)


PROVIDERS: dict[str, Provider] = {provider.name: provider for provider in (Bird(), Frr())}


def run(request: Request, check: bool = False) -> dict[str, object]:
    """Carry REQUEST out with its provider (with CHECK: only say what would happen) and return the module's result."""
    making = request.state in ("merged", "overridden")
    lasting = making and request.persist and request.scope.table == _rtnetlink.TABLE_MAIN
    warnings = _edge_found.check_networkd(check) if lasting else []
    kept = request.provider == "kernel"
    result = _edge.run(request, check) if kept else _run(PROVIDERS[request.provider], request, check)
    return {**result, "warnings": [*warnings, *cast("list[str]", result.get("warnings", []))]}


def _run(provider: Provider, request: Request, check: bool) -> dict[str, object]:
    if not re.fullmatch(r"[A-Za-z0-9_-]+", request.name):
        raise InputError([f"name {request.name!r} becomes a file name: use letters, digits, - and _"])
    within = Supernets.parse(request.within)
    _check_shape(request)
    if request.state == "rendered":
        wanted = parse_routes(_edge.given_records(request), request.metric)
        wrong = _of_other_types(wanted, provider)
        if wrong:
            raise InputError(wrong)
        return {"changed": False, "rendered": [provider.line(route) for route in wanted]}
    if request.state == "gathered":
        host = _edge.read_host(request)
        held = set().union(*_stores(provider, request.directory).values())
        ours = [
            here for here in host.present if _is_its_own(here, provider, held) and (here.dest, here.length) in within
        ]
        return {"changed": False, "gathered": [record for here in ours for record in records(here, host.names)]}
    if check:
        return _change(provider, request, within, check=True)
    with _edge.locked(request.directory):
        return _change(provider, request, within)


def _check_shape(request: Request) -> None:
    problems = []
    if not request.persist:
        problems.append(f"persist: false does not go with provider {request.provider}: its routes stand in its files")
    if request.scope.table != _rtnetlink.TABLE_MAIN:
        problems.append(
            f"table {request.scope.table} does not go with provider {request.provider}: use provider kernel"
        )
    if problems:
        raise InputError(problems)


def _of_other_types(wanted: Iterable[Route], provider: Provider) -> list[str]:
    local = [route for route in wanted if route.type not in ("unicast", "unreachable")]
    return [f"{route}: no route of {provider.title}: use provider kernel" for route in local]


def _change(provider: Provider, request: Request, within: Supernets, check: bool = False) -> dict[str, object]:
    stores = _stores(provider, request.directory)
    before = stores.get(request.name, {})
    host = _edge.read_host(request)
    wanted, _repeated, wrong = _edge.wanted_routes(request, host, within)
    if request.state != "deleted":
        wrong += _of_other_types(wanted or (), provider)
    change = Change(request.name, before, _after(provider, request, before, wanted, within), _kept(request, wanted))
    others = {name: lines for name, lines in stores.items() if name != request.name}
    # A daemon would keep a route whose next hop is on no link back in silence.
    gaps = [*(provider.gaps() if change.added else []), *off_link(change.wanted, host.present)]
    lines = len(change.after) + sum(map(len, others.values())) if change.added else 0
    wrong += [*provider.problems(lines), *([] if check else gaps)]
    told = _conflicts(provider, request, host, wanted or [], {request.name: before, **others})
    stats = _stats(change, len(wanted or ()), len(told))
    if wrong or told:
        raise InputError([*wrong, *told], conflicts=told, stats=stats)
    if request.state == "overridden" or wanted is None:
        _check_deletions(provider, request, change, within)
    mine = read_file(provider.path(request.directory, request.name))
    files = [*provider.edits(change), (mine, _ours(provider, mine.path, change.name, change.after))]
    files = [(was, will) for was, will in files if was.content != will.content]
    lacking = _lacking(provider, change, host.present) + ([_BEHIND] if provider.is_behind() else [])
    missed = set(lacking)
    again = [provider.line(route) for route in change.wanted if prefix_text(route.dest, route.length) in missed]
    if (files or lacking) and not check:
        _carry_out(provider, change, files, again)
    result = _result(request, change, stats, again or lacking)
    result.update(changed=bool(files or lacking), warnings=[*gaps, *provider.warnings(len(change.after))])
    return {**result, "diff": [_difference(was, will) for was, will in files]} if request.diff else result


def _check_deletions(provider: Provider, request: Request, change: Change, within: Supernets) -> None:
    gone = [
        _rtnetlink.KernelRoute(*dest, _rtnetlink.UNICAST, provider.protocol, 0, ((b"", 0),))
        for dest in change.before
        if dest not in change.after
    ]
    present = sum(dest in within for dest in change.before)
    check_deletions(Plan(delete=tuple(gone), present=present), request.max_delete)


def _ours(provider: Provider, path: str, name: str, lines: Mapping[Dest, str]) -> FileState:
    text = provider.render(name, lines)
    return FileState(path, text.encode() if text else None, 0o644)


def _kept(request: Request, wanted: Sequence[Route] | None) -> list[Route]:
    return [] if request.state == "deleted" else list(wanted or ())


def _after(
    provider: Provider, request: Request, before: Lines, wanted: Sequence[Route] | None, within: Supernets
) -> Lines:
    named = {(route.dest, route.length) for route in wanted or ()}
    if request.state == "deleted" and wanted is not None:
        return {dest: line for dest, line in before.items() if dest not in named}
    kept = {dest: line for dest, line in before.items() if request.state == "merged" or dest not in within}
    return {**kept, **{(route.dest, route.length): provider.line(route) for route in _kept(request, wanted)}}


def _stores(provider: Provider, directory: str) -> dict[str, Lines]:
    """Return our lines of PROVIDER by name."""
    found = {}
    for path in sorted(glob.glob(provider.path(directory, "*"))):
        text = (read_file(path).content or b"").decode("utf-8", "replace")
        found[os.path.basename(path).rpartition(".")[0]] = provider.parse(text, path)
    return found


def _conflicts(
    provider: Provider, request: Request, host: _edge.Host, wanted: Sequence[Route], stores: Mapping[str, Lines]
) -> list[str]:
    """Return what others have for the destinations of WANTED: files, names of ours, other programs' kernel routes."""
    held = {dest: (name, line) for name, lines in stores.items() for dest, line in lines.items()}
    told: dict[Dest, str] = {}
    for route in wanted:
        dest = route.dest, route.length
        name, line = held.get(dest, (request.name, ""))
        if name != request.name and (request.state == "deleted" or line != provider.line(route)):
            path = provider.path(request.directory, name)
            told[dest] = f"{prefix_text(*dest)} is held by {path} ({line}): change it under that name"
    if request.state == "deleted":
        return list(told.values())
    told.update(_edge_found.conflicts(wanted, _foreign_statics(provider, list(stores.values()))))
    told.update(_other_providers(request, wanted))
    asked = {(route.dest, route.length) for route in wanted}
    for here in host.present:
        dest = here.dest, here.length
        if dest in asked and dest not in told and not _is_its_own(here, provider, held):
            told[dest] = (
                f"{prefix_text(*dest)} has a route of protocol {here.protocol} (metric {here.metric}) that is not "
                "ours: remove that route, or this record"
            )
    return list(told.values())


def _foreign_statics(provider: Provider, ours: Sequence[Lines]) -> dict[Dest, _edge_found.Static]:
    held = {dest for store in ours for dest in store}
    found = _edge_found.statics(without=_edge_found.OURS)
    return {dest: there for dest, there in found.items() if there.owner != provider.title or dest not in held}


def _other_providers(request: Request, wanted: Sequence[Route]) -> dict[Dest, str]:
    """Return what the kernel provider's files hold of WANTED; those of the daemons are among their own files."""
    held: dict[Dest, str] = {}
    for path in sorted(glob.glob(os.path.join(request.directory, "*.batch"))):
        text = (read_file(path).content or b"").decode("utf-8", "replace")
        held.update({key[1:]: path for key in Batch.parse(text, path).lines if key[0] == _rtnetlink.TABLE_MAIN})
    dests = [(route.dest, route.length) for route in wanted]
    return {
        dest: f"{prefix_text(*dest)} is kept by provider kernel in {held[dest]}: delete it there first (state: "
        "deleted, provider: kernel), or leave the provider as it is"
        for dest in dests
        if dest in held
    }


def _is_its_own(here: _rtnetlink.KernelRoute, provider: Provider, held: Iterable[Dest]) -> bool:
    return here.protocol == provider.protocol and (here.dest, here.length) in held


def _lacking(provider: Provider, change: Change, present: Iterable[_rtnetlink.KernelRoute]) -> list[str]:
    """Return the destinations of wanted routes that the kernel has not, and of removed ones that it still has."""
    gone = {dest: line for dest, line in change.before.items() if dest not in change.after}
    wanted = {(route.dest, route.length): route for route in change.wanted}
    indexes = {name: index for index, name in socket.if_nameindex()}
    names = {index: name for name, index in indexes.items()}
    there, left = set(), []
    for here in present:
        dest = here.dest, here.length
        if here.protocol != provider.protocol:
            continue
        # The daemon may have learned another route to the same place.
        if dest in gone and gone[dest] in _lines_of(provider, here, names):
            left.append(prefix_text(*dest))
        elif dest in wanted and _is(here, wanted[dest], indexes):
            there.add(dest)
    return [prefix_text(*dest) for dest in wanted if dest not in there] + left


def _lines_of(provider: Provider, here: _rtnetlink.KernelRoute, names: Mapping[int, str]) -> list[str]:
    """Return the lines of which a route of the kernel can have come."""
    if here.kind == _rtnetlink.UNREACHABLE:
        return [provider.line(Route(here.dest, here.length, type="unreachable"))]
    found = []
    for gateway, index in here.gateways:
        found += [provider.line(Route(here.dest, here.length, gateway, dev)) for dev in ("", names.get(index, ""))]
    return found


def _is(here: _rtnetlink.KernelRoute, route: Route, indexes: Mapping[str, int]) -> bool:
    if here.kind != KINDS[route.type] or len(here.gateways) > 1:
        return False
    gateway, index = here.gateways[0]
    return route.type == "unreachable" or (gateway == route.via and (not route.dev or indexes.get(route.dev) == index))


def _carry_out(
    provider: Provider, change: Change, files: Sequence[tuple[FileState, FileState]], again: Sequence[str]
) -> None:
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as events:
        events.bind((0, _IPV6_ROUTE_EVENTS))
        try:
            refused = _write_and_apply(provider, change, files, again)
            missing = [] if refused else _await(events, provider, change)
            if missing:
                more = f" and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else ""
                refused = f"the kernel does not have what it was told of {', '.join(missing[:_SHOWN])}{more}"
            for was, will in files if not refused else ():
                if read_file(was.path).content != will.content:
                    write_file(will)
        except OSError as error:
            refused = str(error)
        if refused:
            raise DualStackError(f"{provider.title}: {refused}\n{_take_back(events, provider, change, files)}")


def _write_and_apply(
    provider: Provider, change: Change, files: Sequence[tuple[FileState, FileState]], again: Sequence[str]
) -> str:
    """Write FILES, our own as it is while CHANGE is under way, tell the daemon, and return what it refused."""
    for was, will in reversed(files):
        is_ours = os.path.basename(was.path) == f"{change.name}.{provider.name}"
        write_file(_ours(provider, was.path, change.name, provider.started(change)) if is_ours else will)
    return provider.apply(change, again)


def _take_back(
    events: socket.socket, provider: Provider, change: Change, files: Sequence[tuple[FileState, FileState]]
) -> str:
    for was, _will in files:
        write_file(was)
    back = Change(change.name, change.after, change.before, ())
    refused = provider.apply(back, ())
    left = refused or ", ".join(_await(events, provider, back)[:_SHOWN])
    return f"the files are as before, {left} is not: run again" if left else "no route was changed"


def _await(events: socket.socket, provider: Provider, change: Change) -> list[str]:
    """Wait until the kernel has what CHANGE asks, and return what is wrong when nothing has happened for long."""
    events.setblocking(False)
    end = time.monotonic() + _LONGEST
    while True:
        lacking = _lacking(provider, change, _rtnetlink.routes())
        if not lacking or time.monotonic() > end or not select.select([events], [], [], _STALLED)[0]:
            return lacking
        while select.select([events], [], [], _QUIET)[0]:
            try:
                events.recv(1 << 16)
            except OSError:  # so many events that some were dropped
                continue


def _dest(route: Route) -> str:
    return f"{address_text(route.dest)}/{route.length}"


def _stats(change: Change, wanted: int, conflicts: int) -> dict[str, int]:
    before, after = change.before, change.after
    return {
        "wanted": wanted,
        "present": len(before),
        "added": sum(dest not in before for dest in after),
        "replaced": sum(dest in before and before[dest] != line for dest, line in after.items()),
        "deleted": sum(dest not in after for dest in before),
        "unchanged": sum(before.get((route.dest, route.length)) == after.get((route.dest, route.length)) is not None
                         for route in change.wanted),
        "conflicts": conflicts,
    }  # fmt: skip


def _result(request: Request, change: Change, stats: dict[str, int], again: Sequence[str]) -> dict[str, object]:
    lines = [f"add {line}" for line in change.added] + [f"remove {line}" for line in change.removed]
    lines += [] if lines else [f"tell it again: {what}" for what in again]
    if request.return_routes == "counts" and len(lines) > _edge.LISTED:
        rest = len(lines) - _edge.LISTED
        lines = [*lines[: _edge.LISTED], f"# and {rest} more: return_routes changed lists them"]
    before: dict[str, object] = {"count": len(change.before)}
    after: dict[str, object] = {"count": len(change.after)}
    if request.return_routes == "changed":
        before["routes"], after["routes"] = change.removed, change.added
    elif request.return_routes == "full":
        before["routes"], after["routes"] = sorted(change.before.values()), sorted(change.after.values())
    return {"stats": stats, "commands": lines, "before": before, "after": after}


def _difference(was: FileState, will: FileState) -> dict[str, str]:
    old, new = ((state.content or b"").decode("utf-8", "replace").splitlines() for state in (was, will))
    kept = set(old) & set(new)
    return _edge.diff_entry(
        was.path, [line for line in old if line not in kept], [line for line in new if line not in kept]
    )


def edited_frr(text: str, removed: Iterable[str], added: Sequence[str]) -> str:
    """Return the text of an frr.conf without the lines REMOVED and with those ADDED, where no block has begun yet."""
    gone = set(removed)
    lines = [line for line in split_lines(text) if line.rstrip() not in gone]
    there = {line.rstrip() for line in lines}
    new = [f"{line}\n" for line in added if line not in there]
    heads = [number for number, line in enumerate(lines) if not re.match(r"(!|#|frr |$)", line)]
    place = heads[0] if heads else len(lines)
    if place == len(lines) and lines and not lines[-1].endswith("\n"):
        place = len(lines) - 1
    return "".join([*lines[:place], *new, *lines[place:]])
