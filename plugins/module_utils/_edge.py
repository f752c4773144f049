# SPDX-License-Identifier: GPL-3.0-or-later
"""The route table of an edge router: read it, change it by a plan, keep the batch file in step."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import inspect
import json
import os
import pathlib
import socket
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from . import _edge_found, _routes, _rtnetlink
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
    check_deletions,
    check_within,
    commands,
    inverse,
    kernel_changes,
    parse_json_lines,
    parse_routes,
    plan_delete,
    plan_merge,
    present_text,
    records,
)

DIRECTORY = "/etc/dualstack/routes.d"
SEALS = "/run/dualstack/routes"
_LISTED, _REFUSED = 100, 20


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
    directory: str = DIRECTORY
    seals: str = SEALS


@dataclass(frozen=True)
class Host:
    """What the host is like before the run."""

    messages: Sequence[bytes]
    table: int
    indexes: Mapping[str, int]
    own: frozenset[bytes]

    @cached_property
    def present(self) -> list[_rtnetlink.KernelRoute]:
        """The routes of the table."""
        return list(_rtnetlink.parsed(self.messages, table=self.table))

    @property
    def names(self) -> dict[int, str]:
        """Interface names by index."""
        return {index: name for name, index in self.indexes.items()}


def run(request: Request, check: bool = False) -> dict[str, object]:
    """Carry REQUEST out (with CHECK: only say what would happen) and return the module's result."""
    if not request.name.replace("-", "").replace("_", "").isalnum():
        raise InputError([f"name {request.name!r} becomes a file name: use letters, digits, - and _"])
    within = Supernets.parse(request.within)
    if request.state == "rendered":
        wanted = parse_routes(_records(request), request.metric)
        return {"changed": False, "rendered": [batch_line(route, request.scope) for route in wanted]}
    if request.state == "gathered":
        host = _read_host(request.scope)
        ours = [here for here in host.present if _is_ours(here, request.scope, within)]
        return {"changed": False, "gathered": [record for here in ours for record in records(here, host.names)]}
    if check:
        return _change(request, within, check=True)
    with _locked(request.directory):
        return _change(request, within)


@contextlib.contextmanager
def _locked(directory: str) -> Iterator[None]:
    """Keep other runs out between the look at the routes and their last write."""
    os.makedirs(directory, exist_ok=True)
    handle = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _change(request: Request, within: Supernets, check: bool = False) -> dict[str, object]:
    host = _read_host(request.scope)
    seal = _seal(request, host)
    known = _known(request, seal)
    if known:
        return known
    before, mine, others = _read_batches(request)
    wanted_or_all = _wanted(request, host)
    plan = _plan(request, host, others=others, wanted=wanted_or_all, within=within)
    plan = _with_statics(request, plan, wanted_or_all)
    if plan.conflicts:
        raise DualStackError(
            "\n".join(plan.conflicts), conflicts=list(plan.conflicts), stats=_stats(plan, len(wanted_or_all or ()))
        )
    if request.state == "overridden" or wanted_or_all is None:
        check_deletions(plan, request.max_delete)
    after = before
    if request.persist:
        batch = _next_batch(request, mine, wanted_or_all, within)
        text = batch.render()
        after = FileState(before.path, text.encode() if text else None, 0o644)
        if before.content == after.content:
            after = before
    changed = plan.changes_kernel or after.content != before.content
    if changed and not check:
        _carry_out(request.scope, host, plan, before, after)
    result = _result(request, host, plan, len(wanted_or_all or ()), before=before, after=after)
    if seal and not changed and not check:
        _write_seal(request, seal, result)
    return result


def _seal(request: Request, host: Host) -> str:
    """Return a digest of all that decides what a run does: where it once did nothing, it has nothing to do."""
    if request.return_routes != "counts":
        return ""
    try:
        wanted = pathlib.Path(request.src).read_bytes() if request.src else repr(request.config).encode()
        files = [(path.name, path.read_bytes()) for path in sorted(pathlib.Path(request.directory).glob("*.batch"))]
        files += [(path, pathlib.Path("/", path).read_bytes()) for _owner, path in _edge_found.files()]
    except OSError:
        return ""  # whoever needs the file says what is wrong with it
    asked = replace(request, config=None, within=tuple(request.within))
    # Another version of this code may find something to do.
    code = [inspect.getsource(module) for module in (sys.modules[__name__], _edge_found, _routes, _rtnetlink)]
    digest = hashlib.sha256(repr((code, asked, sorted(host.indexes.items()), sorted(host.own))).encode())
    for name, content in [("", wanted), *files]:
        digest.update(f"{name}/{len(content)}/".encode() + content)
    return digest.hexdigest() + _rtnetlink.digest(host.messages)


def _known(request: Request, seal: str) -> dict[str, object]:
    """Return the result of an earlier run with the same SEAL."""
    damaged = (ValueError, LookupError, TypeError)
    with contextlib.suppress(OSError, *damaged), open(_seal_path(request), encoding="ascii") as stream:
        found = json.load(stream)
        if seal and found["seal"] == seal:
            return dict(found["result"])
    return {}


def _write_seal(request: Request, seal: str, result: Mapping[str, object]) -> None:
    """Remember that nothing had to be done; without that, the next run takes longer."""
    path = _seal_path(request)
    with contextlib.suppress(OSError):
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        write_file(FileState(path, json.dumps({"seal": seal, "result": result}).encode(), 0o600))


def _seal_path(request: Request) -> str:
    return os.path.join(request.seals, f"{request.name}.json")


def _records(request: Request) -> list[tuple[str, Mapping[str, object]]]:
    if request.src:
        try:
            with open(request.src, encoding="utf-8") as stream:
                return parse_json_lines(stream.read(), request.src)
        except (OSError, UnicodeDecodeError) as error:
            raise InputError([f"src {request.src}: {error}: put the JSON-lines file on this host first"]) from error
    return [(f"config[{number}]", record) for number, record in enumerate(request.config or ())]


def _wanted(request: Request, host: Host) -> list[Route] | None:
    deleting = request.state == "deleted"
    if deleting and not request.src and request.config is None:
        return None
    return parse_routes(_records(request), request.metric, host.own, host.indexes.keys(), deleting)


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
    check_within(wanted, within)
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


def _read_host(scope: Scope) -> Host:
    return Host(
        _rtnetlink.dumped(),
        scope.table,
        {name: index for index, name in socket.if_nameindex()},
        frozenset(address.address for address in _rtnetlink.addresses()),
    )


def _is_ours(here: _rtnetlink.KernelRoute, scope: Scope, within: Supernets) -> bool:
    return here.protocol == scope.protocol and (here.dest, here.length) in within


def _read_batches(request: Request) -> tuple[FileState, Batch, dict[Key, tuple[str, str]]]:
    mine = read_file(os.path.join(request.directory, f"{request.name}.batch"))
    others: dict[Key, tuple[str, str]] = {}
    try:
        names = sorted(os.listdir(request.directory))
    except FileNotFoundError:
        names = []
    for name in names:
        path = os.path.join(request.directory, name)
        if name.endswith(".batch") and path != mine.path:
            text = (read_file(path).content or b"").decode("utf-8", "replace")
            others.update({key: (path, line) for key, line in Batch.parse(text, path).lines.items()})
    return mine, Batch.parse((mine.content or b"").decode("utf-8", "replace"), mine.path), others


def _next_batch(request: Request, mine: Batch, wanted: list[Route] | None, within: Supernets) -> Batch:
    lines, table = dict(mine.lines), request.scope.table
    named = {(table, route.dest, route.length): batch_line(route, request.scope) for route in wanted or ()}
    if request.state == "deleted" and wanted is not None:
        return Batch({key: line for key, line in lines.items() if key not in named})
    if request.state != "merged":
        lines = {key: line for key, line in lines.items() if key[0] != table or key[1:] not in within}
    return Batch(lines if request.state == "deleted" else {**lines, **named})


def _carry_out(scope: Scope, host: Host, plan: Plan, before: FileState, after: FileState) -> None:
    done: list[_rtnetlink.Change] = []
    # Nothing is removed unless everything new was accepted.
    for part in kernel_changes(plan, scope, host.indexes):
        answers = dict(_rtnetlink.apply(part))
        done += [change for position, change in enumerate(part) if position not in answers]
        refused = [(part[at], words) for at, words in answers.items() if not _already_gone(part[at], words)]
        if refused:
            raise _refusal(host, refused, _take_back(done, plan))
    try:
        if after is not before:
            write_file(after)
    except OSError as error:
        end = _take_back(done, plan)
        raise DualStackError(f"{after.path} cannot be written ({error}): {end}") from error


def _take_back(done: Sequence[_rtnetlink.Change], plan: Plan) -> str:
    undo = inverse(done, plan)
    left = sum(not _already_gone(undo[position], words) for position, words in _rtnetlink.apply(undo))
    return f"{left} routes could not be put back: run again" if left else "no route was changed"


def _already_gone(change: _rtnetlink.Change, words: str) -> bool:
    return change.action == "delete" and words.startswith(os.strerror(errno.ESRCH))


def _refusal(host: Host, refused: Sequence[tuple[_rtnetlink.Change, str]], end: str) -> DualStackError:
    failed = []
    for change, words in refused[:_REFUSED]:
        hop = ((change.gateway, change.index),)
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


def _result(
    request: Request, host: Host, plan: Plan, wanted: int, *, before: FileState, after: FileState
) -> dict[str, object]:
    lines = commands(plan, request.scope, host.names)
    old = [here for _route, here in plan.replace] + list(plan.delete)
    old_lines = [present_text(here, host.names) for here in old]
    new_lines = [f"{route} {request.scope.suffix(route.metric)}" for route in _new(plan)]
    result: dict[str, object] = {
        "changed": plan.changes_kernel or after.content != before.content,
        "stats": _stats(plan, wanted),
        "commands": lines,
        "diff": _diff(request.scope, old_lines, new_lines, before, after),
    }
    if request.return_routes == "counts" and len(lines) > _LISTED:
        result["commands"] = [*lines[:_LISTED], f"# and {len(lines) - _LISTED} more: return_routes changed lists them"]
    count = sum(_is_ours(here, request.scope, Supernets()) for here in host.present)
    sides: dict[str, dict[str, object]] = {
        "before": {"count": count},
        "after": {"count": count + len(plan.add) - len(plan.delete)},
    }
    if request.return_routes == "changed":
        sides["before"]["routes"], sides["after"]["routes"] = old_lines, new_lines
    elif request.return_routes == "full":
        ours = [here for here in host.present if _is_ours(here, request.scope, Supernets())]
        kept = [present_text(here, host.names) for here in ours if here not in set(old)]
        sides["before"]["routes"] = sorted(kept + old_lines)
        sides["after"]["routes"] = sorted(kept + new_lines)
    return {**result, **sides}


def _new(plan: Plan) -> list[Route]:
    return [*plan.add, *(route for route, _here in plan.replace)]


def _diff(
    scope: Scope, old: Sequence[str], new: Sequence[str], before: FileState, after: FileState
) -> list[dict[str, str]]:
    """Only the lines that differ: a table of 65,536 routes makes no readable diff."""
    entries = []
    if old or new:
        label = f"routes of protocol {scope.protocol} in table {scope.table}"
        entries.append(_entry(label, old, new))
    if before.content != after.content:
        was, will = ((state.content or b"").decode("utf-8", "replace").splitlines() for state in (before, after))
        kept = set(was) & set(will)
        entries.append(
            _entry(before.path, [line for line in was if line not in kept], [line for line in will if line not in kept])
        )
    return entries


def _entry(label: str, old: Sequence[str], new: Sequence[str]) -> dict[str, str]:
    text = ("".join(f"{line}\n" for line in sorted(old)), "".join(f"{line}\n" for line in sorted(new)))
    return {"before_header": label, "after_header": label, "before": text[0], "after": text[1]}
