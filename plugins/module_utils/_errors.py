# SPDX-License-Identifier: GPL-3.0-or-later
"""The one family of errors that the operator can put right."""

from __future__ import annotations

from collections.abc import Iterable


class DualStackError(Exception):
    """An error whose text names the value, the place, the reason and the next action.

    ``details`` are extra return values for the caller (a module passes them to ``fail_json``).
    """

    def __init__(self, message: str, **details: object) -> None:
        super().__init__(message)
        self.details = details


class InputError(DualStackError):
    """All problems of one input at once; nothing has been changed when it is raised."""

    def __init__(self, problems: Iterable[str], **details: object) -> None:
        self.problems = list(problems)
        super().__init__("\n".join(self.problems), problems=self.problems, **details)
