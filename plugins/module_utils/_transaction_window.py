# SPDX-License-Identifier: GPL-3.0-or-later
"""A transaction that can cut the connection: the host puts its files back unless somebody confirms them in time.

The journal stays until then. A run that finds one after the rollback takes it for that of a run that was killed, which
is what the host's files, records and service then look like.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Sequence

from ._errors import DualStackError
from ._files import FileState, Snapshots
from ._rollback import Store, arm, clear, confirmed, disarm, leftover
from ._rollback import settle as settle_store

SHORTEST = 5  # seconds that a new connection needs
# In pending.json: the service has answered, and only the confirmation is missing.
_PROVED = "proved"
_REVERTED = "reverted"


def store_of(name: str, root: str) -> Store:
    """Return the place for the way back of the transaction NAME."""
    return Store(os.path.join(root, name), f"dualstack-rollback-{name}")


def settle(store: Store, check: bool) -> str:
    """Return what is to be told of an earlier change; one that waits for its confirmation is refused."""
    if not any(os.path.exists(store.file(name)) for name in ("pending.json", "fired.json")):
        return ""
    if check:
        return "" if _killed(store) else settle_store(store, check).text
    with store.locked():
        told = ""
        if _killed(store):
            clear(store)
        else:
            told = settle_store(store, check).text
        _clean(store)
        return told


def _killed(store: Store) -> bool:
    """Whether a run was killed in the middle: whoever asks holds the lock of all transactions."""
    pending = store.load("pending.json")
    return pending is not None and not pending.get(_PROVED) and leftover(store).state == "pending"


def _clean(store: Store) -> None:
    """Remove the way back; nobody waits for the lock then, for runs have another one and the timer is gone."""
    disarm(store)
    for name in ("undo.py", "lock"):
        store.remove(name)
    with contextlib.suppress(OSError):  # the originals are in there
        os.rmdir(store.path)


@contextlib.contextmanager
def awaiting_confirmation(
    store: Store,
    seconds: int,
    apply: Sequence[Sequence[str]],
    changes: Sequence[tuple[FileState, FileState]],
    reverted: bool,
) -> Iterator[list[str]]:
    """Arm the way back for what is done inside, and leave it armed; yield a list that gets the time to confirm by.

    What fails inside has been put back there, and nothing is left to undo, or the timer tries that once more.
    """
    with store.locked():
        told: list[str] = []
        try:
            deadline = arm(
                store,
                seconds,
                commands=[],
                reload=apply,
                changes=changes,
                settings=[],
                owned={},
                more={_REVERTED: reverted},
            )
            yield told
        except DualStackError as error:
            if error.details.get("restored", True):
                _clean(store)
            raise
        store.save("pending.json", {**(store.load("pending.json") or {}), _PROVED: True})
        told.append(time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(deadline)))


def confirm(store: Store, originals: Snapshots, journal: Snapshots, check: bool) -> dict[str, object]:
    """Keep the change that waits for it, if there is one; return the result of a module in state ``confirmed``."""

    def keep(store: Store) -> None:
        reverted = (store.load("pending.json") or {}).get(_REVERTED)
        _clean(store)
        journal.forget()
        if reverted:
            originals.forget()

    if not os.path.isdir(store.path):
        return {"changed": False, "rollback": "none"}
    with contextlib.nullcontext() if check else store.locked():
        if _killed(store):
            raise DualStackError(
                "there is nothing to confirm: the run that made the change was cut off; start it again",
                rollback="pending",
            )
        return confirmed(store, check, keep)
