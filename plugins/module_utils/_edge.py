# SPDX-License-Identifier: GPL-3.0-or-later
"""The route table of an edge router: read it, change it by a plan, keep the batch file in step."""

from __future__ import annotations

import bisect
import contextlib
import errno
import fcntl
import inspect
import itertools
import json
import os
import pathlib
import socket
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import BinaryIO

from . import _edge_found, _edge_seal, _routes, _rtnetlink
from ._edge_seal import Counts, Seal, Sight, only_in
from ._errors import DualStackError, InputError
from ._files import FileState, read_file, write_file
from ._routes import (
    Batch,
    Key,
    Plan,
    Route,
    Scope,
    Supernets,
    batch_line,
    batch_lines,
    check_deletions,
    commands,
    edited,
    inverse,
    kernel_changes,
    off_link,
    outside,
    parse_address,
    parse_json_lines,
    parse_routes,
    plan_delete,
    plan_merge,
    present_text,
    read_routes,
    records,
)

DIRECTORY = "/etc/dualstack/routes.d"
SEALS = "/run/dualstack/routes"
LISTED, _REFUSED = 100, 20


@dataclass(frozen=True)
class Request:
    """What one run of the module asks for."""

    state: str = "merged"
    config: Sequence[Mapping[str, object]] | None = None
    src: str = ""
    within: Sequence[str] = ()
    max_delete: str = "10%"
    scope: Scope = field(default_factory=Scope)
    metric: int = 1024
    persist: bool = True
    name: str = "fleet"
    provider: str = "kernel"
    return_routes: str = "counts"
    own: Sequence[str] = ()
    diff: bool = False
    directory: str = DIRECTORY
    seals: str = SEALS


@dataclass(frozen=True)
class Host:
    """What the host is like before the run."""

    messages: Sequence[bytes]
    table: int
    indexes: Mapping[str, int]
    own: frozenset[bytes]
    parts: list[bytes] = field(default_factory=list)
    """What the digest of ``texts`` is made of."""

    @cached_property
    def present(self) -> list[_rtnetlink.KernelRoute]:
        """The routes of the table."""
        return list(_rtnetlink.parsed(self.messages, table=self.table))

    @cached_property
    def texts(self) -> list[bytes]:
        """The messages as ``_rtnetlink.digest`` takes them."""
        return _rtnetlink.lasting(self.messages)

    @property
    def names(self) -> dict[int, str]:
        """Interface names by index."""
        return {index: name for name, index in self.indexes.items()}

    def near(self, dests: Collection[bytes]) -> list[bytes]:
        """Return the messages of routes to DESTS, and those of which that is not seen at once."""
        return _rtnetlink.about(self.texts, dests)


@dataclass(frozen=True)
class Work:
    """What a run has to do, and what it will have found when that is done."""

    plan: Plan
    counts: Counts
    before: FileState
    after: FileState

    @property
    def changes(self) -> bool:
        """Whether anything has to be done."""
        return self.plan.changes_kernel or self.after.content != self.before.content


def run(request: Request, check: bool = False) -> dict[str, object]:
    """Carry REQUEST out (with CHECK: only say what would happen) and return the module's result."""
    if not request.name.replace("-", "").replace("_", "").isalnum():
        raise InputError([f"name {request.name!r} becomes a file name: use letters, digits, - and _"])
    within = Supernets.parse(request.within)
    if request.state == "rendered":
        wanted = parse_routes(given_records(request), request.metric)
        return {"changed": False, "rendered": [batch_line(route, request.scope) for route in wanted]}
    if request.state == "gathered":
        host = read_host(request)
        ours = [here for here in host.present if _is_ours(here, request.scope, within)]
        return {"changed": False, "gathered": [record for here in ours for record in records(here, host.names)]}
    if check:
        return _change(request, within, check=True)
    with locked(request.directory):
        return _change(request, within)


@contextlib.contextmanager
def locked(directory: str) -> Iterator[None]:
    """Keep other runs out between the look at the routes and their last write."""
    os.makedirs(directory, exist_ok=True)
    handle = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _change(request: Request, within: Supernets, check: bool = False) -> dict[str, object]:
    host = read_host(request)
    mine = read_file(os.path.join(request.directory, f"{request.name}.batch"))
    sight = _sight(request, host, mine)
    seal = _edge_seal.load(_seal_path(request)) if sight else None
    work, same = None, False
    if sight and seal and seal.fits(sight):
        same = seal.digest == sight.digest
        work = _nothing(seal, mine) if same else _quick(request, within, host, mine, (seal, sight))
    work = work or _full(request, within, host, mine, check)
    # Beyond some, another look at all routes costs less than the kernel's word for each.
    few = len(_new(work.plan)) + len(work.plan.delete) <= 2 * _edge_seal.FEW
    made: list[bytes] | None = [] if sight and few else None
    if not check and work.changes:
        _carry_out(request.scope, host, work, made)
    if not check and sight and not same:
        _remember(request, host, sight, work, made)
    # An earlier task may be about to give the router its addresses; otherwise the kernel is asked.
    return {**_result(request, host, work), "warnings": _far(request, host, work.plan) if check else []}


def _nothing(seal: Seal, mine: FileState) -> Work:
    plan = Plan(unchanged=seal.counts.unchanged, present=seal.counts.present)
    return Work(plan, seal.counts, mine, mine)


def _sight(request: Request, host: Host, mine: FileState) -> Sight | None:
    """Return all that decides what the run does; None where nothing shall be remembered of it."""
    if request.return_routes != "counts":
        return None
    try:
        if request.src:
            wish = pathlib.Path(request.src).read_bytes()
        else:
            wish = "".join(f"{_line(record)}\n" for record in request.config or ()).encode()
        others = [(path, pathlib.Path(path).read_bytes()) for path in _other_files(request, mine)]
        others += [(path, pathlib.Path("/", path).read_bytes()) for _owner, path in _edge_found.files()]
    except OSError:
        return None  # whoever needs the file says what is wrong with it
    asked = replace(request, src="", config=None, diff=False, within=tuple(request.within), own=tuple(request.own))
    # Another version of this code may find something to do.
    modules = (sys.modules[__name__], _edge_found, _edge_seal, _routes, _rtnetlink)
    code = [inspect.getsource(module) for module in modules]
    nothing = request.config is None and not request.src
    around = (code, asked, nothing, sorted(host.indexes.items()), sorted(host.own), others)
    around_digest = _edge_seal.digest(repr(around).encode())
    return Sight(
        around_digest,
        _edge_seal.digest(mine.content or b""),
        _rtnetlink.digest(host.texts, parts=host.parts),
        _edge_seal.digest(wish),
        wish,
    )


def _line(record: Mapping[str, object]) -> str:
    return json.dumps({name: value for name, value in record.items() if value is not None}, default=str)


def _quick(request: Request, within: Supernets, host: Host, mine: FileState, known: tuple[Seal, Sight]) -> Work | None:
    """Return the work that comes of the few records that differ from those known; None if it takes more to tell."""
    seal, sight = known
    if request.state not in ("merged", "overridden") or not seal.knows_wish():
        return None
    try:
        less, more = _edge_seal.differing(seal.wish, sight.wish)
        old = parse_routes((("", record) for record in less), request.metric)
        given = (("", record) for record in more)
        new, repeated, wrong = read_routes(given, request.metric, host.own, host.indexes.keys())
    except (DualStackError, ValueError):
        return None  # the look at everything says what is wrong, and where
    was, will = ({(route.dest, route.length) for route in routes} for routes in (old, new))
    both = was | will
    if (
        wrong
        or repeated
        or outside(new, within)
        or len(both) > 2 * _edge_seal.FEW
        or any(not length for _dest, length in both)
    ):
        return None
    near = _rtnetlink.parsed(host.near({dest for dest, _length in both}), table=host.table)
    # In the kernel's order, as whoever looks at everything finds them.
    there = sorted((here for here in near if (here.dest, here.length) in both), key=_by_prefix)
    # A route of ours for which nothing gone asked is another record's, or left of an earlier run.
    if any(here.protocol == request.scope.protocol and (here.dest, here.length) not in was for here in there):
        return None
    exact = request.state == "overridden"
    plan = plan_merge(
        new,
        there,
        request.scope,
        indexes=host.indexes,
        others=_read_others(request, mine),
        within=within if exact else None,
    )
    plan = _with_statics(request, plan, new)
    if plan.conflicts or (request.persist and mine.content is None):
        return None
    wanted = seal.counts.wanted - len(old) + len(new)
    unchanged = wanted - len(plan.add) - len(plan.replace)
    plan = replace(plan, present=seal.counts.present, unchanged=unchanged)
    if exact:
        check_deletions(plan, request.max_delete)
    after = mine
    if request.persist:
        lines = {(request.scope.table, *key): "" for key in was if exact}
        after = _file(mine, edited(mine.content or b"", {**lines, **batch_lines(new, request.scope)}))
    return Work(plan, replace(seal.counts, wanted=wanted), mine, after)


def _by_prefix(here: _rtnetlink.KernelRoute) -> tuple[bytes, int, int]:
    return here.dest, here.length, here.metric


def _full(request: Request, within: Supernets, host: Host, mine: FileState, check: bool) -> Work:
    """Return the work that comes of a look at everything."""
    others = _read_others(request, mine)
    wanted, repeated, wrong = wanted_routes(request, host, within)
    plan = _with_statics(request, _plan(request, host, others=others, wanted=wanted, within=within), wanted)
    number = len(wanted or ())
    if wrong or plan.conflicts:
        far, told = [] if check else _far(request, host, plan), list(plan.conflicts)
        raise InputError([*wrong, *told, *far], conflicts=told, stats=_stats(plan, number))
    if request.state == "overridden" or wanted is None:
        check_deletions(plan, request.max_delete)
    after = mine
    if request.persist:
        batch = Batch.parse((mine.content or b"").decode("utf-8", "replace"), mine.path)
        after = _file(mine, _next_batch(request, batch, wanted, within).render().encode())
    ours = sum(_is_ours(here, request.scope, Supernets()) for here in host.present)
    return Work(plan, Counts(number, plan.present, ours, plan.unchanged, not repeated), mine, after)


def _file(mine: FileState, content: bytes) -> FileState:
    if content.find(b"\n", content.find(b"\n") + 1) < 0:  # no route, only the first line
        content = b""
    return mine if content == (mine.content or b"") else FileState(mine.path, content or None, 0o644)


def _remember(request: Request, host: Host, sight: Sight, work: Work, made: Sequence[bytes] | None) -> None:
    """Leave what the next run finds when nothing else changes."""
    left = _left_of_all(request, host, work) if made is None else _left_by_few(host, work, made)
    if left is None:
        return  # the next run looks at everything
    counts, added = work.counts, len(work.plan.add) - len(work.plan.delete)
    unchanged = counts.wanted if request.state != "deleted" else 0
    after = replace(counts, present=counts.present + added, ours=counts.ours + added, unchanged=unchanged)
    kernel = _rtnetlink.digest(left, host.texts, host.parts)
    now = replace(sight, file=_edge_seal.digest(work.after.content or b""), kernel=kernel)
    _edge_seal.save(_seal_path(request), now, after)


def _left_by_few(host: Host, work: Work, made: Sequence[bytes]) -> list[bytes] | None:
    """Return the lasting messages of the kernel's routes after WORK, which MADE some; None if another changed them."""
    lost = _lost(work.plan)
    if len(made) != len(work.plan.add) + len(work.plan.replace):
        return None
    near = host.near({here.dest for here in lost})
    gone = [text for text in near if any(here in lost for here in _rtnetlink.parsed([text], table=host.table))]
    if len(gone) != len(lost):
        return None
    left = list(host.texts)
    for text in gone:
        del left[bisect.bisect_left(left, text)]
    for text in _rtnetlink.lasting(made):
        bisect.insort(left, text)
    return left


def _left_of_all(request: Request, host: Host, work: Work) -> list[bytes] | None:
    """Return what ``_left_by_few`` does, by another look at the kernel's routes."""
    try:
        left, before = _rtnetlink.lasting(_rtnetlink.dumped()), set(host.texts)
    except OSError:
        return None  # the routes are changed, and that they cannot be looked at is the next run's error
    new = [text for text in left if text not in before]
    expected = len(work.plan.add) + len(work.plan.replace)
    alone = len(new) == expected and len(before) + expected - len(_lost(work.plan)) == len(left)
    return left if alone and all(text[5] == request.scope.protocol for text in new) else None


def _lost(plan: Plan) -> list[_rtnetlink.KernelRoute]:
    return [*plan.delete, *(here for _route, here in plan.replace)]


def _seal_path(request: Request) -> str:
    return os.path.join(request.seals, f"{request.name}.json")


def given_records(request: Request) -> Iterable[tuple[str, Mapping[str, object]]]:
    """Return the records of REQUEST, each with its place for error texts."""
    if not request.src:
        return ((f"config[{number}]", record) for number, record in enumerate(request.config or ()))
    try:
        stream = open(request.src, "rb")  # noqa: SIM115 (closed by the generator that reads it)
    except OSError as error:
        raise InputError([f"src {request.src}: {error}: put the JSON-lines file on this host first"]) from error
    return parse_json_lines(_read(stream), request.src)


def _read(stream: BinaryIO) -> Iterator[bytes]:
    with stream:
        yield from stream


def wanted_routes(request: Request, host: Host, within: Supernets) -> tuple[list[Route] | None, int, list[str]]:
    """Return the routes that REQUEST names (None: deleted, without any), how many again, and all that is wrong."""
    deleting = request.state == "deleted"
    if deleting and not request.src and request.config is None:
        return None, 0, []
    given = given_records(request)
    wanted, repeated, wrong = read_routes(given, request.metric, host.own, host.indexes.keys(), deleting)
    return wanted, repeated, wrong if deleting else [*wrong, *outside(wanted, within)]


def _plan(
    request: Request,
    host: Host,
    *,
    others: Mapping[Key, tuple[str, str]],
    wanted: list[Route] | None,
    within: Supernets,
) -> Plan:
    if request.state == "deleted" or wanted is None:
        return plan_delete(wanted, host.present, request.scope, others, within)
    exact = request.state == "overridden"
    return plan_merge(
        wanted,
        host.present,
        request.scope,
        indexes=host.indexes,
        others=others,
        within=within if exact else None,
    )


def _with_statics(request: Request, plan: Plan, wanted: list[Route] | None) -> Plan:
    """Return PLAN with the routes of WANTED that another program's files hold as conflicts, installed or not."""
    if request.state == "deleted" or request.scope.table != _rtnetlink.TABLE_MAIN:
        return plan
    told = _edge_found.conflicts(wanted or (), _edge_found.statics())
    names = tuple(f"{_routes.prefix_text(*dest)} " for dest in told)
    kept = [text for text in plan.conflicts if not text.startswith(names or "\n")]
    return replace(plan, conflicts=(*told.values(), *kept))


def read_host(request: Request) -> Host:
    """Return what the host is like, with the addresses of others that REQUEST counts as its own."""
    problems, own = [], {address.address for address in _rtnetlink.addresses()}
    for text in request.own:
        try:
            own.add(parse_address(text.partition("/")[0]))
        except ValueError as error:
            problems.append(f"own: {text} {error}")
    if problems:
        raise InputError(problems)
    indexes = {name: index for index, name in socket.if_nameindex()}
    return Host(_rtnetlink.dumped(), request.scope.table, indexes, frozenset(own))


def _is_ours(here: _rtnetlink.KernelRoute, scope: Scope, within: Supernets) -> bool:
    return here.protocol == scope.protocol and (here.dest, here.length) in within


def _other_files(request: Request, mine: FileState) -> list[str]:
    try:
        names = sorted(os.listdir(request.directory))
    except FileNotFoundError:
        return []
    paths = [os.path.join(request.directory, name) for name in names if name.endswith(".batch")]
    return [path for path in paths if path != mine.path]


def _read_others(request: Request, mine: FileState) -> dict[Key, tuple[str, str]]:
    others: dict[Key, tuple[str, str]] = {}
    for path in _other_files(request, mine):
        text = (read_file(path).content or b"").decode("utf-8", "replace")
        others.update({key: (path, line) for key, line in Batch.parse(text, path).lines.items()})
    return others


def _next_batch(request: Request, mine: Batch, wanted: list[Route] | None, within: Supernets) -> Batch:
    lines, table = dict(mine.lines), request.scope.table
    named = batch_lines(wanted or (), request.scope)
    if request.state == "deleted" and wanted is not None:
        return Batch({key: line for key, line in lines.items() if key not in named})
    if request.state != "merged":
        lines = {key: line for key, line in lines.items() if key[0] != table or key[1:] not in within}
    if request.state != "deleted":
        lines.update(named)
    return Batch(lines)


def _carry_out(scope: Scope, host: Host, work: Work, made: list[bytes] | None) -> None:
    """Change the kernel, then the file; MADE is given the new routes in the kernel's own messages."""
    done: list[_rtnetlink.Change] = []
    # Nothing is removed unless everything new was accepted.
    for part in kernel_changes(work.plan, scope, host.indexes):
        answers = dict(_rtnetlink.apply(part, made))
        done += [change for position, change in enumerate(part) if position not in answers]
        refused = [(part[at], words) for at, words in answers.items() if not _already_gone(part[at], words)]
        if refused:
            raise _refusal(host, refused, _take_back(done, work.plan))
    try:
        if work.after is not work.before:
            write_file(work.after)
    except OSError as error:
        end = _take_back(done, work.plan)
        raise DualStackError(f"{work.after.path} cannot be written ({error}): {end}") from error


def _take_back(done: Sequence[_rtnetlink.Change], plan: Plan) -> str:
    undo = inverse(done, plan)
    left = sum(not _already_gone(undo[position], words) for position, words in _rtnetlink.apply(undo))
    return f"{left} routes could not be put back: run again" if left else "no route was changed"


def _already_gone(change: _rtnetlink.Change, words: str) -> bool:
    return change.action == "delete" and words.startswith(os.strerror(errno.ESRCH))


def _refusal(host: Host, refused: Sequence[tuple[_rtnetlink.Change, str]], end: str) -> DualStackError:
    failed = []
    for change, words in refused[:_REFUSED]:
        hop = ((change.gateway, change.device),)
        here = _rtnetlink.KernelRoute(
            change.dest, change.length, change.kind, change.protocol, change.metric, hop, change.table
        )
        failed.append({"route": present_text(here, host.names), "action": change.action, "reason": words})
    lines = [f"the kernel refused to {entry['action']} {entry['route']}: {entry['reason']}" for entry in failed]
    if len(refused) > len(failed):
        lines.append(f"and {len(refused) - len(failed)} more")
    return DualStackError("\n".join([*lines, end]), failed_routes=failed, refused=len(refused))


def _stats(plan: Plan, wanted: int) -> dict[str, int]:
    return {
        "wanted": wanted,
        "present": plan.present,
        "added": len(plan.add),
        "replaced": len(plan.replace),
        "deleted": len(plan.delete),
        "unchanged": plan.unchanged,
        "conflicts": len(plan.conflicts),
    }


def _result(request: Request, host: Host, work: Work) -> dict[str, object]:
    plan, scope = work.plan, request.scope
    most = LISTED if request.return_routes == "counts" else sys.maxsize
    lines = list(itertools.islice(commands(plan, scope, host.names), most))
    number = len(plan.add) + len(plan.replace) + len(plan.delete)
    if number > len(lines):
        lines.append(f"# and {number - len(lines)} more: return_routes changed lists them")
    result: dict[str, object] = {
        "changed": work.changes,
        "stats": _stats(plan, work.counts.wanted),
        "commands": lines,
    }
    count = work.counts.ours
    sides: dict[str, dict[str, object]] = {
        "before": {"count": count},
        "after": {"count": count + len(plan.add) - len(plan.delete)},
    }
    if not request.diff and request.return_routes == "counts":
        return {**result, **sides}
    old = [here for _route, here in plan.replace] + list(plan.delete)
    old_lines = [present_text(here, host.names) for here in old]
    new_lines = [f"{route} {scope.suffix(route.metric)}" for route in _new(plan)]
    if request.diff:
        result["diff"] = _diff(scope, old_lines, new_lines, work)
    if request.return_routes == "changed":
        sides["before"]["routes"], sides["after"]["routes"] = old_lines, new_lines
    elif request.return_routes == "full":
        ours = [here for here in host.present if _is_ours(here, scope, Supernets())]
        kept = [present_text(here, host.names) for here in ours if here not in set(old)]
        sides["before"]["routes"] = sorted(kept + old_lines)
        sides["after"]["routes"] = sorted(kept + new_lines)
    return {**result, **sides}


def _new(plan: Plan) -> list[Route]:
    return [*plan.add, *(route for route, _here in plan.replace)]


def _far(request: Request, host: Host, plan: Plan) -> list[str]:
    """Return what is wrong with every new next hop that is on no link of this host."""
    new = _new(plan) if request.scope.table == _rtnetlink.TABLE_MAIN else []
    return off_link(new, host.present) if new else []


def _diff(scope: Scope, old: Sequence[str], new: Sequence[str], work: Work) -> list[dict[str, str]]:
    """Only the lines that differ: a table of 65,536 routes makes no readable diff."""
    entries = []
    if old or new:
        label = f"routes of protocol {scope.protocol} in table {scope.table}"
        entries.append(diff_entry(label, old, new))
    if work.before.content != work.after.content:
        sides = only_in(work.before.content or b"", work.after.content or b"")
        was, will = ([line.decode("utf-8", "replace") for line in lines] for lines in sides)
        entries.append(diff_entry(work.before.path, was, will))
    return entries


def diff_entry(label: str, old: Sequence[str], new: Sequence[str]) -> dict[str, str]:
    """Return an entry of a diff, with the lines OLD and NEW in order."""
    text = ("".join(f"{line}\n" for line in sorted(old)), "".join(f"{line}\n" for line in sorted(new)))
    return {"before_header": label, "after_header": label, "before": text[0], "after": text[1]}
