# SPDX-License-Identifier: GPL-3.0-or-later
"""Files as values: read one whole, write one whole, keep the original once."""

from __future__ import annotations

import base64
import contextlib
import errno
import fcntl
import hashlib
import json
import os
import stat
import struct
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import cast

STORE = "/var/lib/dualstack"
EDITED = "edited"
# ioctl_iflags(2), _IOR('f', 1, long) as nearly all architectures number it; where it is another, nothing is known.
_GET_FLAGS = 2 << 30 | struct.calcsize("l") << 16 | ord("f") << 8 | 1
_FLAGS = {0x10: ("immutable", "i"), 0x20: ("append-only", "a")}


@dataclass(frozen=True)
class FileState:
    """One file: ``content`` None means that it does not exist. Mode, owner and group belong to the value.

    So do the extended attributes, in hexadecimal digits by name; access control lists are among them, see acl(5).
    """

    path: str
    content: bytes | None = None
    mode: int = 0o644
    uid: int = field(default_factory=os.geteuid)
    gid: int = field(default_factory=os.getegid)
    attributes: tuple[tuple[str, str], ...] = ()
    # Of a file that does not exist, the directories that do not either, the deepest first.
    missing: tuple[str, ...] = field(default=(), compare=False)

    @property
    def digest(self) -> str:
        """SHA-256 of the content, or ``absent``."""
        return "absent" if self.content is None else hashlib.sha256(self.content).hexdigest()


def read_file(path: str) -> FileState:
    """Return the state of PATH; a symbolic link is followed, so that the file is edited and the link stays."""
    real = os.path.realpath(path)
    try:
        with open(real, "rb") as stream:
            content, info = stream.read(), os.fstat(stream.fileno())
            attributes = _attributes(stream.fileno())
    except FileNotFoundError:
        return FileState(real, missing=tuple(_missing(os.path.dirname(real))))
    return FileState(real, content, stat.S_IMODE(info.st_mode), info.st_uid, info.st_gid, attributes)


def _missing(directory: str) -> Iterator[str]:
    while not os.path.isdir(directory):
        yield directory
        directory = os.path.dirname(directory)


def _attributes(handle: int) -> tuple[tuple[str, str], ...]:
    try:
        return tuple((name, os.getxattr(handle, name).hex()) for name in sorted(os.listxattr(handle)))
    except OSError as error:
        if error.errno != errno.ENOTSUP:
            raise
        return ()  # a file system without any


def text_below(root: str, path: str) -> str:
    """Return the text of PATH below ROOT; empty where it cannot be read."""
    try:
        with open(os.path.join(root, path), encoding="utf-8", errors="replace") as stream:
            return stream.read()
    except OSError:
        return ""


def obstacle(path: str) -> str:
    """Return why the file PATH is not to be written anew and what to do, or nothing; a link is not followed."""
    try:
        with open(path, "rb") as stream:
            info, flags = os.fstat(stream.fileno()), _flags(stream.fileno())
    except FileNotFoundError:
        return ""
    for bit, (name, letter) in _FLAGS.items():
        if flags & bit:
            return (
                f"is {name} (see lsattr), so somebody wants it as it is; take that off with chattr -{letter} {path}, "
                "run again, and put it back"
            )
    if info.st_nlink > 1:
        others = ", ".join(_names(path, info)) or "one outside this directory tree"
        return (
            f"has another name, {others} (a hard link), and the two would part; make one of them a symbolic link or a "
            "copy, and run again"
        )
    return ""


def _flags(handle: int) -> int:
    try:
        return int.from_bytes(fcntl.ioctl(handle, _GET_FLAGS, bytes(struct.calcsize("l")))[:4], sys.byteorder)
    except OSError:
        return 0  # a file system without any


def _names(path: str, info: os.stat_result) -> list[str]:
    """Return the other names of the file PATH below the same directory of the root, such as /etc."""
    top = "/" + path.split("/")[1]
    names = [os.path.join(directory, name) for directory, _names, files in os.walk(top) for name in files]
    return sorted(name for name in names if name != path and os.path.samestat(os.lstat(name), info))


def write_file(state: FileState) -> None:
    """Make the file STATE, atomically; missing directories are made. Where rename is impossible, write in place.

    With a file that goes, the directories go that were missing when its state was read, unless others use them now.
    """
    if state.content is None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(state.path)
        remove_directories(state)
        return
    directory = os.path.dirname(state.path)
    os.makedirs(directory, exist_ok=True)
    # By its name, what a killed run leaves can be told from what another run is writing.
    prefix = f".dualstack-{os.path.basename(state.path)[:200]}-"
    handle, temporary = tempfile.mkstemp(dir=directory, prefix=prefix)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(state.content)
            os.fchown(stream.fileno(), state.uid, state.gid)
            os.fchmod(stream.fileno(), state.mode)
            for name, value in state.attributes:
                os.setxattr(stream.fileno(), name, bytes.fromhex(value))
            stream.flush()
            os.fsync(stream.fileno())
        try:
            os.rename(temporary, state.path)
        except OSError as error:
            if error.errno != errno.EBUSY:  # a bind mount, such as a container's /etc/resolv.conf
                raise
            with open(state.path, "wb") as stream:
                stream.write(state.content)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
    _sync_directory(directory)


def remove_directories(state: FileState) -> None:
    """Remove the directories that were missing when STATE was read, as far as they are there and empty."""
    for directory in state.missing:
        with contextlib.suppress(OSError):
            os.rmdir(directory)


def _sync_directory(directory: str) -> None:
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


class Snapshots:
    """The originals of one transaction's files, in ``/var/lib/dualstack/NAME`` (mode 0700).

    ``originals.json`` holds for each path the state before our first change and the digest of our last write.
    A file that someone else changed in between has EDITED for a digest from then on: it is not ours to put back.
    """

    def __init__(self, name: str, root: str = STORE, record: str = "originals.json") -> None:
        self.path = os.path.join(root, name, record)
        self.added: dict[str, object] = {}  # by path, what in a file is ours; a JSON value for whoever asks

    def load(self) -> dict[str, tuple[FileState, str]]:
        """Return {path: (original, digest of our last write)}; empty when nothing was kept."""
        try:
            with open(self.path, encoding="utf-8") as stream:
                entries = json.load(stream)
        except FileNotFoundError:
            return {}
        self.added = {entry["path"]: entry["added"] for entry in entries if "added" in entry}
        return {entry["path"]: (unpacked(entry), entry["ours"]) for entry in entries}

    def keep(self, changes: list[tuple[FileState, FileState]], added: Mapping[str, object] | None = None) -> None:
        """Remember for each (before, after) the original, once, and what we are about to write; with what is ADDED."""
        kept = self.load()
        self.added.update(added or {})
        for before, after in changes:
            original, ours = kept.get(before.path, (before, before.digest))
            known = before.digest in (ours, original.digest)
            kept[before.path] = (original, after.digest if known else EDITED)
        self.save(kept)

    def save(self, kept: dict[str, tuple[FileState, str]]) -> None:
        """Write the record KEPT as it is."""
        for directory in (os.path.dirname(os.path.dirname(self.path)), os.path.dirname(self.path)):
            os.makedirs(directory, mode=0o700, exist_ok=True)
        added = {path: {"added": self.added[path]} for path in kept if path in self.added}
        entries = [dict(packed(kept[path][0]), ours=kept[path][1], **added.get(path, {})) for path in kept]
        write_file(FileState(self.path, json.dumps(entries, indent=1).encode(), mode=0o600))

    def restore_points(self, kept: dict[str, tuple[FileState, str]]) -> None:
        """Put back a record as it was loaded: the change that it described did not happen."""
        if kept:
            self.save(kept)
        else:
            self.forget()

    def forget(self) -> None:
        """Drop the record: the files are as they were before us."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path)
        with contextlib.suppress(OSError):  # another record is left there, or there is no directory
            os.rmdir(os.path.dirname(self.path))


def packed(state: FileState) -> dict[str, object]:
    """Return STATE as a value that JSON can hold."""
    text = None if state.content is None else base64.b64encode(state.content).decode()
    entry: dict[str, object] = {
        "path": state.path,
        "content": text,
        "mode": state.mode,
        "uid": state.uid,
        "gid": state.gid,
    }
    more = {"attributes": state.attributes, "missing": state.missing}
    return {**entry, **{key: value for key, value in more.items() if value}}


def unpacked(entry: Mapping[str, object]) -> FileState:
    """Return the state that was packed as ENTRY."""
    content = entry["content"]
    return FileState(
        str(entry["path"]),
        None if content is None else base64.b64decode(str(content)),
        int(str(entry["mode"])),
        int(str(entry["uid"])),
        int(str(entry["gid"])),
        # From JSON, a list of pairs, which the type of the entry cannot say.
        tuple((name, value) for name, value in entry.get("attributes", ())),  # type: ignore[attr-defined]
        tuple(cast("list[str]", entry.get("missing", []))),
    )
