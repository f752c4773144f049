"""What a benchmark has measured, for people and for programs."""

from __future__ import annotations

import json
import pathlib
from typing import Any


class Table:
    """Collects what was measured, prints it, remembers it for programs."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    def add(self, what: str, value: float, unit: str, *, limit: float | None = None, note: str = "") -> None:
        """Add a line; a LIMIT that is exceeded fails the run."""
        row = {"what": what, "value": value, "unit": unit, "limit": limit, "note": note}
        self.rows.append(row)
        bound = "" if limit is None else f"<= {limit:g} {unit}".rstrip()
        verdict = "" if limit is None else ("ok" if value <= limit else "MISSED")
        print(f"{what:<68} {_number(value):>9} {unit:<7} {bound:<13} {verdict:<7} {note}".rstrip(), flush=True)

    def say(self, what: str, note: str) -> None:
        """Add a line without a number: what could not be measured, and why."""
        self.rows.append({"what": what, "value": None, "note": note})
        print(f"{what:<68} {note}", flush=True)

    @property
    def missed(self) -> bool:
        """Tell whether any limit is exceeded."""
        limited = [row for row in self.rows if row["value"] is not None and row["limit"] is not None]
        return any(row["value"] > row["limit"] for row in limited)

    def save(self, path: pathlib.Path) -> None:
        """Write the lines to the JSON file PATH."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"rows": self.rows}, indent=1) + "\n")

    def markdown(self) -> str:
        """Return the lines as a table."""
        lines = ["| what | value | limit | note |", "|---|---:|---:|---|"]
        for row in self.rows:
            value = "" if row["value"] is None else f"{_number(row['value'])} {row['unit']}".strip()
            limit = "" if row.get("limit") is None else f"{_number(row['limit'])}"
            lines.append(f"| {row['what']} | {value} | {limit} | {row['note']} |")
        return "\n".join(lines) + "\n"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"
