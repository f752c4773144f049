# SPDX-License-Identifier: GPL-3.0-or-later
"""Change files and the service that reads them as one: all of it, proved by the service's own answer, or none of it.

Order: journal, originals, files, validate, apply, verify, journal removed. A run that finds a journal follows one that
was killed: it first puts the files back as they were before that run, and applies even when no file changes.
"""

from __future__ import annotations

import contextlib
import fcntl
import glob
import os
import re
import shlex
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Union

from ._additions import Additions
from ._additions import packed as packed_additions
from ._additions import unpacked as unpacked_additions
from ._command import Outcome, argv, run
from ._edit_text import additions as words_to_add
from ._edit_web import Read, Socket, overlap, reachable
from ._editors import FORMATS, POSTFIX_TABLES, TREES, edit
from ._errors import DualStackError, InputError
from ._files import EDITED, STORE, FileState, Snapshots, obstacle, read_file, remove_directories, write_file
from ._listeners import FAMILIES, LOCAL_ZONE, Bindable, Listener, Resolver, await_all
from ._manager import asleep, foreign, running, strangers
from ._postfix_tables import FORMATS as TABLE_FORMATS
from ._postfix_tables import index_commands, look_up
from ._resolv_writer import Listed, owner, writer
from ._sites import SiteCheck
from ._sites import checks as site_checks
from ._transaction_window import SHORTEST, Store, awaiting_confirmation, confirm, settle, store_of

WAIT = 15.0  # seconds for the listeners after the last command
JOURNAL_LINES = 15
JOURNAL_POLLS = 10
JOURNAL_PAUSE = 0.05
_NOT_INSTALLED = (
    "Where the service is not installed, take {name} out of the host's dualstack_services; otherwise correct the path"
)
_FOREIGN = (
    "nothing was changed, because no process of the unit {unit} listens there: the files of this host are not those "
    "that count. Convert the service where it is managed, or stop that one and start the unit, or take {name} out of "
    "the host's dualstack_services"
)
_OFF = "{name} is switched off here (its unit {unit} neither runs nor is enabled): nothing was changed"
_STOPPED = (
    "{name}: its unit {unit} is enabled and does not run, so no change could be proved: nothing was changed. "
    "Start it, or disable it where it is not wanted, and run again"
)
# What templating systems write at the head of a file; a block of Ansible's blockinfile is not the whole file.
_MANAGER = r"(ansible|puppet|chef|salt(?:stack)?|cfengine|terraform|cloud-init)"
_MANAGED = re.compile(
    rf"^[ \t]*(?:#|;|//)(?!.*\b(?:begin|end) ansible managed block)"
    rf".*\b(?:(?:managed|generated|maintained|controlled|written)\b.*\b{_MANAGER}\b|{_MANAGER}[ _-]managed\b)",
    re.IGNORECASE | re.MULTILINE,
)
JOURNAL = "journal.json"
HIDDEN = "(content hidden)\n"

Command = tuple[str, ...]
Check = Union[Bindable, Listed, Listener, Resolver, SiteCheck]
Params = Mapping[str, object]


@dataclass(frozen=True)
class Wanted:
    """One file as the caller wants it: CONTENT, or SETTINGS in a FORM, or absent."""

    path: str
    content: str | None = None
    form: str = ""
    settings: Params = field(default_factory=dict)
    mode: int | None = None
    show: bool = True
    optional: bool = False
    missing: str = ""


@dataclass(frozen=True)
class Request:
    """A checked request; ``checks`` are waited for, ``commands`` must end with status 0.

    ``restart`` is run instead of ``apply`` when a listener takes the place of another, which a reload cannot bind.
    """

    name: str
    files: tuple[Wanted, ...] = ()
    validate: tuple[Command, ...] = ()
    apply: tuple[Command, ...] = ()
    restart: tuple[Command, ...] = ()
    checks: tuple[Check, ...] = ()
    sites: bool = False
    listeners: tuple[str, ...] = ()
    commands: tuple[Command, ...] = ()
    unit: str = ""
    log: str = ""
    programs: tuple[str, ...] = ()
    managed: bool = False
    reverted: bool = False
    confirmed: bool = False
    window: int = 0
    wait: float = WAIT


@dataclass(frozen=True)
class Change:
    """One file now and then; ``found`` differs from ``before`` when a killed run left its own text there."""

    before: FileState
    after: FileState
    found: FileState
    show: bool = True


@dataclass(frozen=True)
class Result:
    """What a run did, or would do in check mode."""

    changed: bool
    files: tuple[str, ...] = ()
    commands: tuple[str, ...] = ()
    diff: tuple[dict[str, str], ...] = ()
    skipped: str = ""
    warnings: tuple[str, ...] = ()
    more: Mapping[str, object] = field(default_factory=dict)


class _Failure(Exception):
    """A step of the transaction did not hold."""

    def __init__(self, step: str, command: str, output: str) -> None:
        super().__init__(output)
        self.step, self.command, self.output = step, command, output


# --- the request ---


def parse(params: Params) -> Request:
    """Return the request in PARAMS, the module's arguments; all problems at once."""
    problems: list[str] = []
    name = str(params["name"])
    if not re.fullmatch(r"[a-z0-9][a-z0-9._-]*", name):
        problems.append(f"name: {name!r} is not a plain file name of small letters, digits, '.', '_' and '-'")
    files = tuple(_wanted(entry, place, problems) for place, entry in _entries(params, "files"))
    checks: list[Check] = []
    commands: list[Command] = []
    for place, entry in _entries(params, "verify"):
        _check(entry, place, checks, commands, problems)
    validate, apply, restart = (
        tuple(_command(value, f"{step}[{index}]", problems) for index, value in enumerate(_list(params, step)))
        for step in ("validate", "apply", "restart")
    )
    window = int(str(params.get("window") or 0))
    if window and window < SHORTEST:
        problems.append(f"window {window} is too short for a new connection: give at least {SHORTEST} seconds")
    if problems:
        raise InputError(problems)
    return Request(
        name,
        files,
        validate,
        apply,
        restart,
        checks=tuple(checks),
        commands=tuple(commands),
        sites=any(entry.get("sites") for _place, entry in _entries(params, "verify")),
        listeners=tuple(
            str(entry.get("expect", "")) for _place, entry in _entries(params, "verify") if entry.get("listeners")
        ),
        unit=str(params.get("unit") or ""),
        log=str(params.get("log") or ""),
        programs=tuple(map(str, _list(params, "program"))),
        managed=bool(params.get("managed")),
        reverted=params.get("state") == "reverted",
        confirmed=params.get("state") == "confirmed",
        window=window,
    )


def _list(params: Params, key: str) -> list[object]:
    value = params.get(key)
    return list(value) if isinstance(value, (list, tuple)) else [] if value is None else [value]


def _entries(params: Params, key: str) -> list[tuple[str, dict[str, object]]]:
    """Return the dictionaries of a list with their places, options left out removed."""
    return [
        (f"{key}[{index}]", {name: value for name, value in entry.items() if value is not None})
        for index, entry in enumerate(_list(params, key))
        if isinstance(entry, dict)
    ]


def _command(value: object, place: str, problems: list[str]) -> Command:
    try:
        words = argv(value if isinstance(value, str) else [str(word) for word in _list({"": value}, "")])
    except ValueError as error:
        words, reason = [], f": {error}"
    else:
        reason = ""
    if not words:
        problems.append(f"{place}: {value!r} is not a command{reason}; write a line or a list of arguments")
    return tuple(words)


def _wanted(entry: dict[str, object], place: str, problems: list[str]) -> Wanted:
    path, form, settings = str(entry.get("path")), str(entry.get("format", "")), entry.get("set")
    where = f"{place} {path}"
    if not path.startswith("/"):
        problems.append(f"{where}: not an absolute path")
    if (settings is None) != (form == ""):
        problems.append(f"{where}: format and set belong together")
    if settings is not None and "content" in entry:
        problems.append(f"{where}: content and set exclude each other; a file is ours or the host's")
    if form and form not in FORMATS:
        problems.append(f"{where}: format {form!r} is not one of {', '.join(sorted(FORMATS))}")
    if settings is None and glob.has_magic(path):
        problems.append(f"{where}: a pattern is possible with set only")
    mode = str(entry.get("mode", ""))
    if mode and not re.fullmatch(r"0?[0-7]{3}", mode):
        problems.append(f"{where}: mode {mode!r} is not of the form '0644'; write it in quotes")
        mode = ""
    return Wanted(
        path,
        str(entry["content"]) if "content" in entry else None,
        form,
        settings if isinstance(settings, dict) else {},
        int(mode, 8) if mode else None,
        bool(entry.get("diff", True)),
        bool(entry.get("optional", False)),
        str(entry.get("missing", "")),
    )


def _check(
    entry: dict[str, object],
    place: str,
    checks: list[Check],
    commands: list[Command],
    problems: list[str],
) -> None:
    kinds = [kind for kind in ("port", "command", "resolver", "bindable", "sites", "listeners") if kind in entry]
    if len(kinds) != 1:
        problems.append(
            f"{place}: needs exactly one of port, command, resolver, bindable, sites and listeners, "
            f"has {' and '.join(kinds) or 'none'}"
        )
    elif kinds in (["sites"], ["listeners"]):
        _compiles(str(entry.get("expect", "")), place, problems)
    elif kinds == ["command"]:
        commands.append(_command(entry["command"], f"{place}.command", problems))
    elif kinds == ["bindable"]:
        checks += [Bindable(str(address)) for address in _list(entry, "bindable")]
    elif kinds == ["resolver"]:
        checks += [Resolver(str(server), str(entry.get("name", LOCAL_ZONE))) for server in _list(entry, "resolver")]
    else:
        expect, send = str(entry.get("expect", "")), str(entry.get("send", ""))
        talk = tuple((str(line["send"]) + "\r\n", str(line["expect"])) for _place, line in _entries(entry, "talk"))
        families = [str(family) for family in _list(entry, "families")] or list(FAMILIES)
        places = [("", tuple(families))]
        if entry.get("address"):
            places = [(text, _family(text)) for text in map(str, _list(entry, "address"))]
        for port in map(int, map(str, _list(entry, "port"))):
            if not 0 < port < 65536:
                problems.append(f"{place}: port {port} is not between 1 and 65535")
            checks += [Listener(port, family, address, expect, send, talk) for address, family in places]
        if unknown := [family for family in families if family not in FAMILIES]:
            problems.append(f"{place}: families has {', '.join(unknown)}; write ipv4 or ipv6")
        for pattern in (expect, *(answer for _send, answer in talk)):
            _compiles(pattern, place, problems)


def _compiles(expect: str, place: str, problems: list[str]) -> None:
    try:
        re.compile(expect)
    except re.error as error:
        problems.append(f"{place}: expect {expect!r} is not a regular expression: {error}")


def _family(address: str) -> tuple[str, ...]:
    return ("ipv6",) if ":" in address else ("ipv4",)


# --- the plan ---


def _load(path: str) -> FileState:
    try:
        return read_file(path)
    except OSError as error:
        raise InputError([f"{path}: cannot be read: {error.strerror}"]) from error


def _plan(request: Request, undone: Mapping[str, FileState], additions: Additions) -> list[Change]:
    """Return what REQUEST changes; UNDONE holds the files that a killed run left, as they were before it."""
    changes: dict[str, Change] = {}
    problems: list[str] = []

    def now(path: str) -> FileState:
        return changes[path].after if path in changes else undone.get(path) or _load(path)

    for wanted in request.files:
        if wanted.form in TREES:
            try:
                for path, text in _tree(request, wanted, now, additions).items():
                    before = undone.get(path) or _load(path)
                    after = replace(now(path), content=text.encode("utf-8", "surrogateescape"))
                    changes[path] = Change(before, after, _load(path), wanted.show)
            except InputError as error:
                problems += error.problems
            continue
        for path in _paths(wanted):
            try:
                found = _load(path)
                earlier = changes.get(found.path)
                before = undone.get(found.path, found)
                after = _after(request, wanted, earlier.after if earlier else before, additions)
                show = wanted.show and (earlier is None or earlier.show)
                changes[found.path] = Change(before, after, found, show)
            except InputError as error:
                problems += [text if text.startswith(path) else f"{path}: {text}" for text in error.problems]
    if not request.managed:
        problems += filter(None, map(_managed, changes.values()))
    problems += _obstacles(changes.values())
    if problems:
        raise InputError(problems)
    return list(changes.values())


def _obstacles(changes: Iterable[Change]) -> list[str]:
    paths = [change.after.path for change in changes if not _same(change.found, change.after)]
    return [f"{path}: {reason}" for path in paths if (reason := obstacle(path))]


def _managed(change: Change) -> str:
    """Return why the file is not to be changed here, or nothing: a program writes it anew from its own source."""
    text = (change.before.content or b"").decode("utf-8", "replace")
    match = None if _same(change.before, change.after) else _MANAGED.search(text)
    if match is None:
        return ""
    return (
        f"{change.before.path}: line {text.count(chr(10), 0, match.start()) + 1} says that {match[1] or match[2]} "
        "writes this file, so an edit would be lost at its next run; make the change there, or set dualstack_managed "
        "to true when that run comes no more"
    )


def _tree(request: Request, wanted: Wanted, now: Callable[[str], FileState], additions: Additions) -> dict[str, str]:
    """Return the changed texts of the files that WANTED's includes."""
    path = os.path.realpath(wanted.path)
    if now(path).content is None:
        if wanted.optional:
            return {}
        raise InputError([_absent(request, wanted)])
    tree = TREES[wanted.form]
    return additions.edit(_keys(wanted), lambda read: tree.edit(path, read, wanted.settings), _reader(now))


def _keys(wanted: Wanted) -> list[str]:
    return [f"{wanted.form} {key}" for key in wanted.settings]


def _reader(state: Callable[[str], FileState]) -> Read:
    def read(path: str) -> str | None:
        content = state(path).content
        return None if content is None else content.decode("utf-8", "surrogateescape")

    return read


def _absent(request: Request, wanted: Wanted) -> str:
    return f"{wanted.path}: no such file. " + (wanted.missing or _NOT_INSTALLED.format(name=request.name))


def _paths(wanted: Wanted) -> list[str]:
    if not glob.has_magic(wanted.path):
        return [wanted.path]
    return sorted(glob.glob(wanted.path)) or ([] if wanted.optional else [wanted.path])


def _after(request: Request, wanted: Wanted, before: FileState, additions: Additions) -> FileState:
    if wanted.content is not None:
        mode = before.mode if wanted.mode is None else wanted.mode
        return replace(before, content=wanted.content.encode(), mode=mode)
    if not wanted.form:
        return FileState(before.path)
    if before.content is None:
        if wanted.optional:
            return before
        raise InputError([_absent(request, wanted)])
    text = before.content.decode("utf-8", "surrogateescape")

    def change(read: Read) -> dict[str, str]:
        old = read(before.path) or ""
        new = edit(wanted.form, old, wanted.settings)
        return {} if new == old else {before.path: new}

    texts = additions.edit(_keys(wanted), change, lambda path: text if path == before.path else None)
    edited = texts.get(before.path, text).encode("utf-8", "surrogateescape")
    if wanted.form == "resolv" and edited != before.content:
        reason = writer(before.path)
        if reason:
            raise InputError([f"{wanted.path}: {reason}"])
    return replace(before, content=edited, mode=before.mode if wanted.mode is None else wanted.mode)


def _plan_revert(
    request: Request, kept: Mapping[str, tuple[FileState, str]], undone: Mapping[str, FileState]
) -> list[Change]:
    shown = {os.path.realpath(path): wanted.show for wanted in request.files for path in _paths(wanted)}
    changes: list[Change] = []
    problems: list[str] = []
    for path, (original, ours) in kept.items():
        found = _load(path)
        before = undone.get(path, found)
        if before.digest not in (ours, original.digest):
            problems.append(
                f"{path}: was edited after the last run of {request.name}, and that edit would be lost; undo it, or "
                "put the file back by hand"
            )
        # Who does not name the file does not say whether it is a secret; its mode does.
        changes.append(Change(before, original, found, shown.get(path, bool(original.mode & before.mode & 0o004))))
    problems += _obstacles(changes)
    if problems:
        raise InputError(problems)
    return changes


def _same(one: FileState, other: FileState) -> bool:
    return one == other or (one.content is None and other.content is None)


def _diff(change: Change) -> dict[str, str]:
    def text(state: FileState) -> str:
        return "" if state.content is None else state.content.decode("utf-8", "replace")

    def header(state: FileState) -> str:
        return f"{state.path} (absent)" if state.content is None else f"{state.path} (mode {state.mode:04o})"

    before, after = text(change.found), text(change.after)
    if not change.show:
        before, after = (HIDDEN if before else ""), (HIDDEN if after else "")
    if before == after:  # the mode alone, or hidden
        before, after = before + f"mode {change.found.mode:04o}\n", after + f"mode {change.after.mode:04o}, changed\n"
    return {
        "before": before,
        "after": after,
        "before_header": header(change.found),
        "after_header": header(change.after),
    }


# --- the run ---


def execute(request: Request, check_mode: bool = False, root: str = STORE) -> Result:
    """Carry out REQUEST; in check mode only read, and return what would happen."""
    if request.programs and not any(map(os.path.exists, request.programs)):
        no = " and no ".join(request.programs)
        return Result(False, skipped=f"{request.name} is not installed here (no {no}): nothing to do")
    try:
        with contextlib.nullcontext() if check_mode else _lock(root):
            store, journal = store_of(request.name, root), Snapshots(request.name, root, JOURNAL)
            if request.confirmed:
                kept = confirm(store, Snapshots(request.name, root), journal, check_mode)
                told = tuple(map(str, _list(kept, "warnings")))
                return Result(bool(kept["changed"]), warnings=told, more={"rollback": kept["rollback"]})
            undone = settle(store, check_mode)
            run_ = _Run(_expanded(request, _undone(journal.load())), store, root)
            if undone:
                run_.warnings.append(f"{request.name}: {undone}")
            return run_.execute(check_mode)
    except OSError as error:  # outside the steps that are undone: what a killed run left, and our own records
        raise DualStackError(f"{request.name}: {error}; put that right, the next run goes on from there") from error


def _undone(killed: Mapping[str, tuple[FileState, str]]) -> dict[str, FileState]:
    """Return what the files that a KILLED run has left changed were before it."""

    def left(path: str, before: FileState, after: str) -> bool:
        digest = _load(path).digest
        return digest == after or bool(before.missing and digest == before.digest)  # a directory, maybe

    return {path: before for path, (before, after) in killed.items() if left(path, before, after)}


def _expanded(request: Request, undone: Mapping[str, FileState]) -> Request:
    """Return REQUEST with what the host's own programs say about its files."""
    for wanted in request.files:
        if wanted.form == "resolv":
            request = _through_owner(request, wanted, undone)
        elif wanted.form == POSTFIX_TABLES:
            request = _with_tables(request, wanted)
    return request


def _with_tables(request: Request, wanted: Wanted) -> Request:
    """Return REQUEST with the tables that Postfix looks up clients in, and with the commands that index them."""
    settings = wanted.settings
    there = settings.get("networks") and os.path.exists(wanted.path)
    tables = look_up(os.path.dirname(wanted.path), settings, reverted=request.reverted) if there else []
    networks = {"networks": settings.get("networks")}
    files = [replace(wanted, path=table.path, form=TABLE_FORMATS[table.type], settings=networks) for table in tables]
    return replace(
        request,
        files=(*(one for one in request.files if one is not wanted), *files),
        apply=(*map(tuple, index_commands(tables)), *request.apply),
    )


def _through_owner(request: Request, wanted: Wanted, undone: Mapping[str, FileState]) -> Request:
    """Return REQUEST with the file of the program that writes resolv.conf in the place of the one WANTED."""
    before = _reader(lambda path: undone.get(os.path.realpath(path), FileState(path)))
    only_nameservers = {"nameserver": wanted.settings.get("nameserver", {"add": []})}
    edit("resolv", "", only_nameservers)  # what is wrong with the addresses is told by the editor
    found = owner(wanted.path, words_to_add("nameserver", only_nameservers["nameserver"]), before=before)
    if found is None:
        return request
    there = Wanted(found.path, found.content, found.form, found.settings)
    return replace(
        request,
        files=tuple(there if one is wanted else one for one in request.files),
        apply=(*request.apply, found.apply),
        checks=(*request.checks, found.check),
    )


@contextlib.contextmanager
def _lock(root: str) -> Iterator[None]:
    """Two runs at once would take each other's half-made state for the original."""
    os.makedirs(root, mode=0o700, exist_ok=True)
    handle = os.open(root, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


class _Run:
    def __init__(self, request: Request, store: Store, root: str) -> None:
        self.request, self.store = request, store
        self.originals = Snapshots(request.name, root)
        self.journal = Snapshots(request.name, root, JOURNAL)
        self.began = time.time()
        self.ran: list[str] = []
        self.checks: Sequence[Check] = request.checks
        self.validate, self.apply = request.validate, request.apply
        self.first: list[Check] = [check for check in request.checks if isinstance(check, (Bindable, Resolver))]
        self.logged = _size(request.log)
        self.warnings: list[str] = []
        self.torn = ""  # the file that is being written
        self.earlier: dict[str, FileState] = {}  # files as they were before a run that did not end
        self.alive = False  # the unit, before anything was done to it
        self.left: list[Change] = []  # not put back, because somebody else changed the file
        self.confirm_by: list[str] = []
        self.waits = False  # for a confirmation, which the journal and the way back are kept for

    def execute(self, check_mode: bool) -> Result:
        request = self.request
        killed = self.journal.load()
        if not check_mode:
            self._sweep(killed)
        undone = _undone(killed)
        self.earlier = {path: before for path, (before, _after) in killed.items()}
        kept = self._settled(killed)
        if request.reverted and not kept and not killed:
            return Result(False)
        # A killed run may have left its service in the middle of a restart.
        off = asleep(request.unit) if request.programs and request.unit and not killed else ""
        if off and request.reverted:
            self._only_files()
        elif off and not running(request.programs):
            return self._off(off)
        additions = Additions(unpacked_additions(self.originals.added))
        plan = _plan_revert(request, kept, undone) if request.reverted else _plan(request, undone, additions)
        planned = {change.before.path for change in plan}
        plan += [Change(before, before, _load(path)) for path, before in undone.items() if path not in planned]
        changes = [change for change in plan if not _same(change.before, change.after)]
        shown = [change for change in plan if not _same(change.found, change.after)]
        needed = bool(changes or killed or (request.reverted and kept))
        self._look(plan, needed, check_mode)
        if off and not request.reverted:  # somebody else's process is no obstacle, or _look would have said so
            return self._off(off)
        if not check_mode:
            if needed and not request.reverted:
                self._ask_first()
            self._recover(killed, undone, kept)
            if needed:
                added = packed_additions(additions.records())
                with self._window(changes) as self.confirm_by:
                    self._change(changes, killed, added)
            else:
                self._verify_unchanged()
        commands = [shlex.join(command) for command in (*self.validate, *self.apply)] if needed else []
        return Result(
            bool(shown or killed or needed),
            tuple(change.after.path for change in shown),
            tuple(commands if check_mode else self.ran),
            tuple(_diff(change) for change in shown),
            warnings=tuple(self.warnings),
            more={"confirm_by": self.confirm_by[0]} if self.confirm_by else {},
        )

    def _window(self, changes: Sequence[Change]) -> contextlib.AbstractContextManager[list[str]]:
        if not (changes and self.request.window):
            return contextlib.nullcontext([])
        states = [(change.before, change.after) for change in changes]
        self.waits = True
        return awaiting_confirmation(self.store, self.request.window, self.apply, states, self.request.reverted)

    def _off(self, state: str) -> Result:
        """Skip a service that is switched off; refuse one that should run: nobody here starts what somebody stopped."""
        if state == "enabled":
            raise InputError([_STOPPED.format(**vars(self.request))])
        return Result(False, skipped=_OFF.format(**vars(self.request)))

    def _only_files(self) -> None:
        """Put the files back without a word to a service that is not running."""
        self.request = replace(self.request, commands=(), checks=(), sites=False, listeners=(), restart=(), window=0)
        self.checks = self.validate = self.apply = ()
        self.warnings.append(f"{self.request.name}: {self.request.unit} does not run and was not started")

    def _look(self, plan: Sequence[Change], needed: bool, check_mode: bool) -> None:
        """Read from the configuration what there is to ask and to tell, and whether a reload can bind its listeners."""
        # mypy has no type for a lambda whose default keeps the loop's value.
        before, found, after = (
            _reader(lambda path, states=states: states.get(path) or _load(path))  # type: ignore[misc]
            for states in (
                # The service may still run with what a file was before a run that did not end.
                {**{change.before.path: change.before for change in plan}, **self.earlier},
                {change.before.path: change.found for change in plan},
                {change.before.path: change.after for change in plan},
            )
        )
        ports = [check.port for check in self.request.checks if isinstance(check, Listener)]
        for wanted in self.request.files:
            path, tree = os.path.realpath(wanted.path), TREES.get(wanted.form)
            if tree is None or after(path) is None:
                continue
            ports += (int(port) for _address, port in tree.sockets(path, found) if port.isdigit())
            self.warnings += tree.notes(path, after, wanted.settings)
            for expect in self.request.listeners:
                self.checks = (*self.checks, *_listener_checks(tree.sockets(path, after), expect))
            if self.request.sites and not check_mode:
                self.checks = (*self.checks, *site_checks(tree.sites(path, after), needed))
            if needed:
                self.validate = (*self.validate, *tree.checks(path, after))
                old = tree.sockets(path, before) | tree.sockets(path, found)
                new = tree.sockets(path, after) - old
                self._free(new)
                if not tree.early:
                    self.first += (
                        Bindable(address) for address in sorted({one for one, _port in new}) if ":" in address
                    )
                # After a killed run the daemon listens on either, and the new ones are in one of them perhaps.
                missing = tree.sockets(path, after) - (tree.sockets(path, before) & tree.sockets(path, found))
                if self.request.restart and any(overlap(socket, there) for socket in missing for there in old):
                    self.apply = self.request.restart
        others = foreign(ports, self.request.unit) if self.request.unit else []
        if others:
            advice = _FOREIGN.format(unit=self.request.unit, name=self.request.name)
            raise InputError([f"{self.request.name}: {other}; {advice}" for other in others])

    def _free(self, sockets: Iterable[Socket]) -> None:
        """Refuse what another process has: a daemon that cannot bind all its listeners ends, or keeps the old ones."""
        problems = []
        for address, port in sorted(sockets) if self.request.unit else ():
            wanted = address.strip("[]") or "::"
            for there, process in strangers(int(port), self.request.unit).items() if port.isdigit() else ():
                if ":" in wanted and ":" in there and (there == wanted or "::" in (there, wanted)):
                    problems.append(
                        f"{address or '*'}:{port}: {process} listens on {there} port {port}; stop that, or take "
                        f"another address for {self.request.name}"
                    )
        if problems:
            raise InputError(problems)

    def _ask_first(self) -> None:
        """Ask for what the service must find there: a resolver waits for a dead server, some daemons die."""
        reason = await_all(self.first, self.request.wait, str)
        if reason:
            raise DualStackError(
                f"{self.request.name}: {reason}; nothing was changed. Put that right or name another, and run again",
                step="before",
                output=reason,
            )

    def _sweep(self, killed: Mapping[str, tuple[FileState, str]]) -> None:
        """Remove the temporary files of a killed run."""
        for directory in {os.path.dirname(path) for path in (self.journal.path, *killed)}:
            for leftover in glob.glob(os.path.join(glob.escape(directory), ".dualstack-*")):
                os.unlink(leftover)
        if not killed:
            self.journal.forget()  # and the directory, when it is empty

    def _settled(self, killed: Mapping[str, tuple[FileState, str]]) -> dict[str, tuple[FileState, str]]:
        """Return the originals as they were before the killed run; what was edited since keeps its original."""
        kept = self.originals.load()
        for path, (before, after) in killed.items():
            if path not in kept:
                continue
            original, ours = kept[path]
            if _load(path).digest not in (before.digest, after):
                kept[path] = (original, EDITED)
            elif _same(original, before):
                del kept[path]
            elif ours != EDITED:
                kept[path] = (original, before.digest)
        return kept

    def _recover(
        self,
        killed: Mapping[str, tuple[FileState, str]],
        undone: Mapping[str, FileState],
        kept: dict[str, tuple[FileState, str]],
    ) -> None:
        if not killed:
            return
        for before in undone.values():
            write_file(before)
        self.originals.restore_points(kept)

    def _change(
        self,
        changes: Sequence[Change],
        killed: Mapping[str, tuple[FileState, str]],
        added: Mapping[str, object],
    ) -> None:
        request, kept = self.request, self.originals.load()
        entries = {path: (before, before.digest) for path, (before, _after) in killed.items()}
        entries.update({change.before.path: (change.before, change.after.digest) for change in changes})
        step, command = "write", f"write {os.path.dirname(self.journal.path)}"
        self.alive = bool(request.unit) and not run(["systemctl", "is-active", "--quiet", request.unit]).rc
        try:
            self.journal.save(entries)
            if changes and not request.reverted:
                self.originals.keep([(change.before, change.after) for change in changes], added)
            for change in changes:
                command = f"write {change.after.path}"
                if not _same(read_file(change.before.path), change.before):
                    raise _Failure(step, command, "somebody else changed it since this run read it; run again")
                self.torn = change.after.path
                write_file(change.after)
                self.torn = ""
            for step, commands in (("validate", self.validate), ("apply", self.apply)):
                self._commands(step, commands)
            step = "verify"
            self._verify()
        except _Failure as failure:
            self._restore(failure, changes, kept)
        except OSError as error:
            self._restore(_Failure(step, command, str(error)), changes, kept)
        if self.waits:
            return
        self.journal.forget()
        if request.reverted:
            self.originals.forget()  # last: a journal without originals would undo the way back

    def _commands(self, step: str, commands: Sequence[Command]) -> None:
        for command in commands:
            outcome = self._run(command)
            if outcome.rc:
                output = [outcome.output]
                if step != "validate" or not outcome.output:
                    output.append(self._words(step))
                said = "\n".join(filter(None, output)) or "without a word"
                raise _Failure(step, shlex.join(command), f"rc {outcome.rc}: {said}")

    def _run(self, command: Command) -> Outcome:
        self.ran.append(shlex.join(command))
        return run(command)

    def _verify(self, only_ipv4: bool = False) -> None:
        checks = _ipv4(self.checks) if only_ipv4 or self.request.reverted else self.checks
        reason = await_all(checks, self.request.wait, self._given_up)
        if reason:
            raise _Failure("verify", "", "\n".join(filter(None, [reason, self._words("verify")])))
        if not only_ipv4:
            self._commands("verify", self.request.commands)

    def _verify_unchanged(self) -> None:
        try:
            self._verify()
        except _Failure as failure:
            again = " && ".join(shlex.join(command) for command in self.apply)
            raise DualStackError(
                f"{self.request.name}: {_told(failure)}\nThe files are as they should be and nothing was changed. The "
                "service does not do what they say"
                + (f"; when it may be interrupted, run: {again}" if again else "; look into its log"),
                step="verify",
                command=failure.command,
                output=failure.output,
                commands=self.ran,
                restored=False,
            ) from failure

    def _restore(self, failure: _Failure, changes: Sequence[Change], kept: dict[str, tuple[FileState, str]]) -> None:
        errors: list[str] = []

        def attempt(action: Callable[[], None]) -> None:
            try:
                action()
            except (OSError, _Failure) as error:
                errors.append(_told(error) if isinstance(error, _Failure) else str(error))

        for change in changes:
            attempt(partial(self._put_back, change))
        attempt(partial(self._put_back_originals, kept))
        files_back = not errors
        if failure.step in ("apply", "verify"):
            self.began = time.time()
            if self.request.unit:  # failed starts in quick succession make systemd refuse the next one
                run(["systemctl", "reset-failed", self.request.unit])
            for command in self.apply:
                attempt(partial(self._commands, "apply", [command]))
            if self.alive:  # a reload leaves a unit that has died alone; a pattern names those that run
                run(["systemctl", "start", self.request.unit])
            attempt(partial(self._verify, only_ipv4=True))
        if files_back:
            self.journal.forget()
        if not errors:
            end = "Every file is back as it was" + (
                " and the service runs with it."
                if failure.step in ("apply", "verify")
                else "; the service was not touched."
            )
        else:
            end = "RESTORING FAILED TOO, look at this host now:\n" + "\n".join(errors)
        raise DualStackError(
            f"{self.request.name}: {_told(failure)}\n{end}",
            step=failure.step,
            command=failure.command,
            output=failure.output,
            commands=self.ran,
            restored=not errors,
            restore_errors=errors,
        ) from failure

    def _put_back(self, change: Change) -> None:
        found = read_file(change.before.path)
        if _same(found, change.before):  # on a full disk, what is still there cannot be written again
            remove_directories(change.before)
            return
        if not _same(found, change.after) and found.path != self.torn:
            self.left.append(change)
            reason = "somebody else changed it during this run, so it is left as it is; take our change out by hand"
            raise _Failure("restore", f"write {found.path}", reason)
        write_file(change.before)

    def _put_back_originals(self, kept: dict[str, tuple[FileState, str]]) -> None:
        for change in self.left:
            original, _ours = kept.get(change.before.path, (change.before, ""))
            kept = {**kept, change.before.path: (original, EDITED)}
        if self.originals.load() != kept:
            self.originals.restore_points(kept)

    def _given_up(self) -> str:
        unit = self.request.unit
        return f"unit {unit} has failed" if unit and not run(["systemctl", "is-failed", "--quiet", unit]).rc else ""

    def _words(self, step: str) -> str:
        """Return what the daemon said since the run began; of a checker, which is no part of the unit, the warnings."""
        said = ""
        if self.request.log and step != "validate":
            said = _added(self.request.log, self.logged)
        if said or not self.request.unit:
            return said
        choices = [["-p", "warning"]] if step == "validate" else [["-u", self.request.unit], ["-p", "warning"]]
        return next(filter(None, map(self._journal, choices)), "")

    def _journal(self, choice: list[str]) -> str:
        """Return the last lines, once no more arrive: the journal is a moment behind the unit's state."""
        # Not -n: journalctl of systemd 252 takes it from the beginning when --since is given.
        command = ["journalctl", "--no-pager", "--quiet", "-o", "cat", "--since", f"@{self.began:.3f}", *choice]
        text = ""
        for _attempt in range(JOURNAL_POLLS):
            run(["journalctl", "--sync"])
            outcome = run(command)
            if outcome.rc or (outcome.output and outcome.output == text):
                break
            text = outcome.output
            time.sleep(JOURNAL_PAUSE)
        return "\n".join(text.splitlines()[-JOURNAL_LINES:])


def _size(path: str) -> int:
    return os.path.getsize(path) if path and os.path.exists(path) else 0


def _added(path: str, size: int) -> str:
    """Return the last lines that were written to the log at PATH since it had SIZE; a smaller one is a new one."""
    now = _size(path)
    if not now:
        return ""
    with open(path, "rb") as stream:
        stream.seek(size if now >= size else 0)
        text = stream.read().decode("utf-8", "replace")
    return "\n".join(list(dict.fromkeys(text.splitlines()))[-JOURNAL_LINES:])


def _told(failure: _Failure) -> str:
    return f"{failure.step} failed" + (f": {failure.command}" if failure.command else "") + f": {failure.output}"


def _listener_checks(sockets: set[Socket], expect: str) -> list[Listener]:
    """Return a check for each address of each port."""
    found = []
    for port in sorted({port for _address, port in sockets}):
        addresses = [address for address, number in sockets if number == port]
        found += [
            Listener(int(port), _family(address), address, expect)
            for family in reachable(addresses, ())
            for address in family
        ]
    return found


def _ipv4(checks: Sequence[Check]) -> list[Check]:
    """After going back only IPv4 can be asked for: the host may have had nothing else."""
    listeners: list[Check] = [
        replace(check, families=("ipv4",))
        for check in checks
        if isinstance(check, Listener) and "ipv4" in check.families
    ]
    return listeners + [check.only_ipv4() for check in checks if isinstance(check, SiteCheck)]
