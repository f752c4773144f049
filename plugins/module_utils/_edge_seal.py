# SPDX-License-Identifier: GPL-3.0-or-later
"""What a run of edge_routes leaves for the next one: what was asked, and the sight that it was true in.

Where the next run sees the same, only what is asked anew has to be looked at. Whatever does not fit is no seal: the run
looks at everything, and that takes longer.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass

from ._files import FileState, write_file
from ._routes import parse_ranges, write_ranges

Record = Mapping[str, object]

FEW = 16  # records that may differ; each of them is searched for in the kernel's whole table
LARGEST = 8 << 20  # bytes of a wish that is kept; /run is memory


def digest(content: bytes) -> str:
    """Return what stands for CONTENT."""
    return hashlib.blake2b(content, digest_size=32).hexdigest()


@dataclass(frozen=True)
class Sight:
    """All that decides what a run does, as digests; DIGEST is that of the WISH: one JSON record a line.

    HOST stands for the options, this code, interfaces, addresses and other names' files, FILE for our file, and KERNEL
    for the routes.
    """

    host: str
    file: str
    kernel: str
    digest: str
    wish: bytes


@dataclass(frozen=True)
class Counts:
    """What the run found: wanted routes, ours in its bounds before it, ours in the table, those that stay.

    With DISTINCT, each record asked for other destinations than all the others.
    """

    wanted: int
    present: int
    ours: int
    unchanged: int
    distinct: bool


@dataclass(frozen=True)
class Seal:
    """One remembered run. WISH is empty where it was too large to be kept, or is damaged."""

    host: str
    file: str
    kernel: str
    digest: str
    counts: Counts
    wish: bytes = b""

    def fits(self, sight: Sight) -> bool:
        """Whether SIGHT is what the run left, whatever is asked now."""
        return (self.host, self.file, self.kernel) == (sight.host, sight.file, sight.kernel)

    def knows_wish(self) -> bool:
        """Whether WISH is what was asked, in records that are independent of each other."""
        return self.counts.distinct and bool(self.wish)


def load(path: str) -> Seal | None:
    """Return the seal at PATH; None where there is none, or a damaged one."""
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError), open(path, "rb") as stream:
        head = json.loads(stream.readline())
        wish = stream.read()
        wish = wish if len(wish) == head["length"] else b""
        return Seal(head["host"], head["file"], head["kernel"], head["digest"], Counts(**head["counts"]), wish)
    return None


def save(path: str, sight: Sight, counts: Counts) -> None:
    """Remember at PATH that in SIGHT nothing has to be done."""
    head = {"host": sight.host, "file": sight.file, "kernel": sight.kernel, "digest": sight.digest}
    wish = sight.wish if len(sight.wish) <= LARGEST else b""
    content = json.dumps({**head, "counts": asdict(counts), "length": len(wish)}).encode() + b"\n" + wish
    with contextlib.suppress(OSError):
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        write_file(FileState(path, content, 0o600))


def differing(old: bytes, new: bytes) -> tuple[list[Record], list[Record]]:
    """Return the records that only the wish OLD has, and those that only NEW has; ValueError when they are many."""
    gone, come = only_in(old, new)
    if max(len(gone), len(come)) > FEW:
        raise ValueError("many")
    before, after = ([json.loads(line) for line in lines] for lines in (gone, come))
    if not all(isinstance(record, dict) for record in (*before, *after)):
        raise ValueError("not a record")
    return narrowed(before, after)


def only_in(old: bytes, new: bytes) -> tuple[list[bytes], list[bytes]]:
    """Return the lines that only OLD has, and those that only NEW has; whole lines at both ends are not looked at."""
    start = old.rfind(b"\n", 0, _common(old, new, 0)) + 1
    end = _common(old, new, start, backwards=True)
    texts = (text[start : len(text) - end + _rest(text, len(text) - end)] for text in (old, new))
    before, after = (text.split(b"\n") for text in texts)
    gone, come = set(before) - set(after), set(after) - set(before)
    return _chosen(before, gone), _chosen(after, come)


def narrowed(gone: Sequence[Record], come: Sequence[Record]) -> tuple[list[Record], list[Record]]:
    """Return both lists without the numbers that ranges of the same prefix have in both."""
    old, new = ({_frame(record): record for record in records if "ranges" in record} for records in (gone, come))
    less, more = (
        [record for record in records if _frame(record) not in old.keys() & new.keys()] for records in (gone, come)
    )
    for frame in old.keys() & new.keys():
        one, other = (str(side[frame]["ranges"]).replace(" ", "").split(",") for side in (old, new))
        was, will = (_numbers(items) for items in (set(one) - set(other), set(other) - set(one)))
        for records, record, numbers in ((less, old[frame], was - will), (more, new[frame], will - was)):
            if numbers:
                records.append({**record, "ranges": write_ranges(dict(numbers))})
    return less, more


def _frame(record: Record) -> str:
    return json.dumps({**record, "ranges": ""}, sort_keys=True) if "ranges" in record else ""


def _numbers(items: Collection[str]) -> set[tuple[int, int]]:
    return set(parse_ranges(",".join(items), 64).items()) if items else set()


def _chosen(lines: Sequence[bytes], chosen: set[bytes]) -> list[bytes]:
    return [line for line in lines if line in chosen and line.strip()]


def _rest(text: bytes, position: int) -> int:
    """Return how many bytes of the line at POSITION lie behind it."""
    end = text.find(b"\n", position)
    return (len(text) if end < 0 else end) - position


def _common(one: bytes, other: bytes, start: int, backwards: bool = False) -> int:
    """Return how many bytes are the same from START on, or BACKWARDS from the end until START."""
    low, high = 0, min(len(one), len(other)) - start
    while low < high:
        middle = (low + high + 1) // 2
        if backwards:
            same = one[len(one) - middle : len(one) - low] == other[len(other) - middle : len(other) - low]
        else:
            same = one[start + low : start + middle] == other[start + low : start + middle]
        low, high = (middle, high) if same else (low, middle - 1)
    return low
