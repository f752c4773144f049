# SPDX-License-Identifier: GPL-3.0-or-later
"""What a unit of systemd says in the end (systemd.unit(5)): the host's own or the packaged one, and all drop-ins."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

from ._edit_web import Read, at, members

HOST = "/etc/systemd/system"


@dataclass(frozen=True)
class Assignment:
    """A value that is in force, and where it starts in its file."""

    path: str
    start: int
    text: str

    def place(self, text: str) -> str:
        """Return how the value's place is named in errors; TEXT is that of its file."""
        return at(self.path, text.count("\n", 0, self.start) + 1)


def in_force(root: str, read: Read, key: str) -> list[Assignment]:
    """Return the values of the list KEY in the unit whose packaged file is ROOT; an empty one forgets those before."""
    pattern = re.compile(rf"^[ \t]*{key}[ \t]*=[ \t]*((?:[^\\\n]|\\.|\\\r?\n)*)", re.MULTILINE)
    name, places = os.path.basename(root), [HOST, os.path.dirname(root)]
    unit = next((path for path in (os.path.join(HOST, name), root) if read(path) is not None), root)
    drop_ins = [path for place in places for path in members(f"{name}.d/*.conf", place)] if root else []
    found: list[Assignment] = []
    for path in [unit, *sorted(dict.fromkeys(drop_ins), key=os.path.basename)]:
        for match in pattern.finditer(read(path) or ""):
            found = [*found, Assignment(path, match.start(1), match[1])] if match[1].strip() else []
    return found
