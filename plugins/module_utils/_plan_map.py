# SPDX-License-Identifier: GPL-3.0-or-later
"""A picture of the plan: which suffixes and delegated prefixes are used, in quarantine, reserved and free."""

from __future__ import annotations

import html
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from ._addresses import BITS, IID_MASK, RESERVED, Prefix, parse_address, parse_index, parse_prefix, suffix_text, text
from ._errors import DualStackError, InputError
from ._plan_export import records_by_name

WIDTH, MARGIN, GAP, COLUMNS = 960, 20, 20, 3
CARD = (WIDTH - 2 * MARGIN - (COLUMNS - 1) * GAP) // COLUMNS
CELL, AXIS, LINE = 15, 18, 16  # pixels
CELL_BITS = 8  # a block has at most 16 x 16 cells: row and column are the first two hexadecimal digits of an index
NAMED = 12  # so few hosts are named below their block
TITLED = 6  # so many hosts are named in a cell's title
SHARES = (0.02, 0.2, 0.6)  # of a cell that is used, where the next darker colour begins

STYLE = """
.dsmap{--ink:#1b1f24;--soft:#59636e;--page:#fff;--free:#e9edf1;--line:#cdd4db;--used1:#85bbf2;--used2:#4f97e6;
--used3:#1f6bc7;--used4:#0a3f86;--kept:#aab3bd;--wait:#c96a00;font:12px system-ui,sans-serif}
@media(prefers-color-scheme:dark){.dsmap{--ink:#e6eaef;--soft:#9aa5b1;--page:#14181d;--free:#262d35;--line:#3d4650;
--used1:#2f66a3;--used2:#4289d6;--used3:#72b2f5;--used4:#c4e0ff;--kept:#5c6671;--wait:#f0a040}}
.dsmap text{fill:var(--ink)}.dsmap .soft{fill:var(--soft)}.dsmap .head{font-size:17px;font-weight:600}
.dsmap tspan{font-size:12px;font-weight:400;fill:var(--soft)}
.dsmap .name{font-size:14px;font-weight:600}.dsmap .mono{font-family:ui-monospace,monospace}
.dsmap .page{fill:var(--page)}.dsmap .free{fill:var(--free)}.dsmap .kept{fill:var(--kept)}.dsmap .wait{fill:var(--wait)}
.dsmap .used1{fill:var(--used1)}.dsmap .used2{fill:var(--used2)}.dsmap .used3{fill:var(--used3)}
.dsmap .used4{fill:var(--used4)}.dsmap .net{stroke:var(--page);fill:none}
.dsmap .box{fill:var(--free);stroke:var(--line)}.dsmap .box.kept{fill:var(--kept)}
"""


@dataclass
class Block:
    """A class's suffixes or a pool's delegated prefixes, as indices from 0."""

    name: str
    place: Prefix
    length: int  # of what an index stands for: 128 for an address
    used: dict[int, str] = field(default_factory=dict)
    quarantined: set[int] = field(default_factory=set)
    kept: set[int] = field(default_factory=set)
    ranges: list[tuple[int, int]] = field(default_factory=list)
    vhosts: int = 0

    @property
    def bits(self) -> int:
        """Width of an index."""
        return self.length - self.place.length

    @property
    def shift(self) -> int:
        """How many bits of an index a cell does not tell apart."""
        return max(self.bits - CELL_BITS, 0)

    def keep(self, taken: Prefix) -> None:
        """Reserve the part of TAKEN that lies in this block."""
        if taken.overlaps(self.place):
            first = max(taken.value - self.place.value, 0) >> (BITS - self.length)
            last = (min(taken.last, self.place.last) - self.place.value) >> (BITS - self.length)
            self.ranges.append((first, last))

    def kept_between(self, first: int, last: int) -> int:
        """Return how many indices the reserved ranges have from FIRST to LAST."""
        return sum(max(min(high, last) - max(low, first) + 1, 0) for low, high in self.ranges)

    def settle(self) -> None:
        """Give every index one state: used wins over reserved, reserved over quarantined."""
        merged: list[tuple[int, int]] = []
        for low, high in sorted(self.ranges):
            if merged and low <= merged[-1][1] + 1:
                merged[-1] = (merged[-1][0], max(high, merged[-1][1]))
            else:
                merged.append((low, high))
        self.ranges = merged
        self.kept = {each for each in self.kept if each not in self.used and not self.kept_between(each, each)}
        self.quarantined -= self.used.keys() | self.kept
        self.quarantined = {each for each in self.quarantined if not self.kept_between(each, each)}

    def cells(self) -> dict[int, Cell]:
        """Return the cells that hold anything, by number."""
        size = 1 << self.shift
        names: dict[int, list[str]] = defaultdict(list)
        exceptions: Counter[int] = Counter()
        for index in sorted(self.used):
            names[index >> self.shift].append(self.used[index])
            if self.ranges and self.kept_between(index, index):
                exceptions[index >> self.shift] += 1
        waiting = Counter(index >> self.shift for index in self.quarantined)
        kept = Counter(index >> self.shift for index in self.kept)
        for low, high in self.ranges:
            for cell in range(low >> self.shift, (high >> self.shift) + 1):
                first = cell << self.shift
                kept[cell] += min(high, first + size - 1) - max(low, first) + 1
        kept -= exceptions
        return {
            cell: Cell(size, names.get(cell, []), waiting[cell], kept[cell])
            for cell in sorted({*names, *waiting, *kept})
        }


@dataclass(frozen=True)
class Cell:
    """Neighbouring indices in one square."""

    size: int
    names: list[str]
    waiting: int
    kept: int

    @property
    def free(self) -> int:
        """How many indices are free."""
        return self.size - len(self.names) - self.waiting - self.kept


def draw(records: object, plan: Any, title: str = "Address plan") -> str:
    """Return an SVG of the hosts' RECORDS in PLAN, the host variable ``dualstack_plan``."""
    hosts = records_by_name(records)
    try:
        networks, classes, pools = _blocks(plan)
        delegating = {name: str(entry["pool"]) for name, entry in plan["classes"].items()}
    except (AttributeError, DualStackError, KeyError, TypeError, ValueError) as error:
        raise DualStackError(f"E100 plan: is not the host variable dualstack_plan ({error!r}); pass that") from error
    problems = []
    for name, record in hosts.items():
        try:
            _place(name, record, classes, pools, delegating)
        except DualStackError as error:
            problems.append(f"E100 records.{name}: {error}")
    if problems:
        raise InputError(problems)
    for block in (*classes.values(), *pools.values()):
        block.settle()
    return _Page().draw(title, networks, classes, pools, len(hosts))


Networks = Mapping[str, Mapping[str, Any]]


def _blocks(plan: Any) -> tuple[Networks, dict[str, Block], dict[str, Block]]:
    """Return networks, classes and pools of PLAN with what is reserved and in quarantine."""
    networks, classes, pools = plan["networks"], {}, {}
    waiting, kept = plan["quarantined"], plan["reserved"]
    for name, entry in plan["classes"].items():
        block = classes[name] = Block(name, parse_prefix(entry["prefixes"][0]), BITS)
        network = networks[entry["network"]]
        on_link = parse_prefix(network["prefixes"][0])
        for taken in _reserved_on(network, on_link):
            block.keep(taken)
        held = f"{entry['network']}/{name}"
        block.kept = {0, *_indices(block, entry["pins"]), *_indices(block, kept.get(held, []))}
        block.quarantined = {*_indices(block, waiting.get(held, []))}
    for name, entry in plan["pools"].items():
        block = pools[name] = Block(name, parse_prefix(entry["prefix"]), entry["length"])
        for network in networks.values():
            for prefix in map(parse_prefix, network["prefixes"]):
                block.keep(prefix)
        held = f"pool/{name}"
        block.kept = {0, *_indices(block, entry["reserved"]), *_indices(block, kept.get(held, []))}
        block.quarantined = {*_indices(block, waiting.get(held, []))}
    return networks, classes, pools


def _indices(block: Block, texts: Iterable[str]) -> Iterator[int]:
    """Yield the indices in TEXTS that BLOCK has; a ledger may hold some of a time when it was wider."""
    return (index for index in (int(each, 16) for each in texts) if not index >> block.bits)


def _reserved_on(network: Mapping[str, Any], on_link: Prefix) -> Iterator[Prefix]:
    """Yield what no host of a network gets: what the plan names, its gateway, reserved interface identifiers."""
    for taken in network["reserved"]:
        suffix = parse_prefix(taken["suffix"])
        yield Prefix(on_link.value | suffix.value, suffix.length)
    if network["gateway"]:
        gateway = Prefix(parse_address(network["gateway"]), BITS)
        if on_link.contains(gateway):
            yield gateway
    for low, high, _code, _name in RESERVED:
        yield Prefix(on_link.value | low, BITS - (high - low).bit_length())


def _place(
    name: str,
    record: Mapping[str, Any],
    classes: Mapping[str, Block],
    pools: Mapping[str, Block],
    delegating: Mapping[str, str],
) -> None:
    """Enter a host into the block of its class and that of its pool."""
    block = classes.get(str(record.get("class")))
    if block is None:
        raise DualStackError(f"class {record.get('class')!r} is not in the plan; pass the plan that made the record")
    block.used[parse_index(record.get("index"), block.bits)] = name
    if not record.get("delegated_prefix"):
        return
    prefix = parse_prefix(record["delegated_prefix"])
    pool = pools.get(delegating[block.name])
    if pool is None or not pool.place.contains(prefix):
        raise DualStackError(f"{prefix} is in no pool of class {block.name}; pass the plan that made the record")
    pool.used[(prefix.value - pool.place.value) >> (BITS - pool.length)] = name
    vhosts = record.get("vhosts") or {}
    pool.vhosts += len(vhosts)


class _Page:
    """Writes SVG from top to bottom."""

    def __init__(self) -> None:
        self.parts: list[str] = []
        self.y = MARGIN

    def draw(
        self, title: str, networks: Networks, classes: Mapping[str, Block], pools: Mapping[str, Block], hosts: int
    ) -> str:
        self.legend()
        for name, network in networks.items():
            on_link = parse_prefix(network["prefixes"][0])
            blocks = [block for block in classes.values() if on_link.contains(block.place)]
            self.heading(f"Network {name}", ", ".join(network["prefixes"]))
            self.strip(network, on_link, blocks)
            self.cards(sorted(blocks, key=lambda block: block.place))
        if pools:
            self.heading("Delegated prefixes", "")
            self.cards(sorted(pools.values(), key=lambda block: block.place))
        head = (
            f'<svg xmlns="http://www.w3.org/2000/svg" class="dsmap" role="img" viewBox="0 0 {WIDTH} {self.y}"'
            f' width="{WIDTH}" height="{self.y}"><title>{_escaped(f"{title}, {hosts} hosts")}</title>'
            f'<style>{STYLE}</style><rect class="page" width="{WIDTH}" height="{self.y}"/>'
        )
        return f"{head}\n" + "\n".join(self.parts) + "\n</svg>\n"

    def text(self, x: int, y: int, content: str, css: str = "", limit: int = 200) -> None:
        shown = content if len(content) <= limit else content[: limit - 1] + "…"
        style = f' class="{css}"' if css else ""
        self.parts.append(f'<text x="{x}" y="{y}"{style}>{_escaped(shown)}</text>')

    def legend(self) -> None:
        x = MARGIN
        strengths = tuple(f"used{number}" for number in range(1, len(SHARES) + 2))
        known = ((strengths, "used, by share of the cell"), (("wait",), "in quarantine"), (("kept",), "reserved"))
        for colours, name in (*known, (("free",), "free")):
            for css in colours:
                self.parts.append(f'<rect class="{css}" x="{x}" y="{self.y}" width="12" height="12"/>')
                x += 14
            self.text(x + 4, self.y + 10, name, "soft")
            x += 24 + 6 * len(name)
        self.text(x, self.y + 10, "Row and column of a cell are the first two digits of the index.", "soft")
        self.y += 12 + GAP

    def heading(self, name: str, what: str) -> None:
        self.y += 16
        shown = f'<tspan class="soft mono" dx="12">{_escaped(what)}</tspan>' if what else ""
        self.parts.append(f'<text x="{MARGIN}" y="{self.y}" class="head">{_escaped(name)}{shown}</text>')
        self.y += 14

    def strip(self, network: Mapping[str, Any], on_link: Prefix, blocks: Iterable[Block]) -> None:
        """Draw the parts of an on-link prefix as boxes, in the order of their suffixes, not to scale."""
        boxes = [(block.place.value & IID_MASK, block.place.length, block.name, "box") for block in blocks]
        for taken in network["reserved"]:
            suffix = parse_prefix(taken["suffix"])
            boxes.append((suffix.value, suffix.length, str(taken.get("for") or "reserved"), "box kept"))
        per_row = 6
        width = (WIDTH - 2 * MARGIN + 8) // per_row - 8
        for number, (suffix_value, length, name, css) in enumerate(sorted(boxes)):
            row, column = divmod(number, per_row)
            x, y = MARGIN + column * (width + 8), self.y + row * 48
            label = suffix_text(suffix_value) + (f"/{length}" if length < BITS else "")
            self.parts.append(f'<rect class="{css}" x="{x}" y="{y}" width="{width}" height="40" rx="4"/>')
            self.text(x + 8, y + 16, label, "mono", 18)
            self.text(x + 8, y + 32, name, "", 20)
        self.y += 48 * -(-len(boxes) // per_row) + GAP

    def cards(self, blocks: list[Block]) -> None:
        for start in range(0, len(blocks), COLUMNS):
            top, bottoms = self.y, []
            for column, block in enumerate(blocks[start : start + COLUMNS]):
                bottoms.append(self.card(MARGIN + column * (CARD + GAP), top, block))
            self.y = max(bottoms) + GAP

    def card(self, x: int, y: int, block: Block) -> int:
        """Draw BLOCK and return where it ends."""
        cells = block.cells()
        waiting, kept = len(block.quarantined), sum(cell.kept for cell in cells.values())
        free = (1 << block.bits) - len(block.used) - waiting - kept
        self.text(x, y + 14, block.name, "name", 34)
        unit = "" if block.length == BITS else f" in /{block.length}s"
        unit += f", {block.vhosts:,} vhost{'s' * (block.vhosts > 1)}" if block.vhosts else ""
        self.text(x, y + 14 + LINE, f"{block.place}{unit}", "mono soft", 40)
        parts = [f"{_count(len(block.used))} used", f"{_count(free)} free"]
        parts[1:1] = [f"{_count(n)} {what}" for n, what in ((waiting, "in quarantine"), (kept, "reserved")) if n]
        self.text(x, y + 14 + 2 * LINE, ", ".join(parts), "soft", 60)
        bottom = self.grid(x, y + 14 + 3 * LINE, block, cells)
        return self.names(x, bottom, block)

    def grid(self, x: int, y: int, block: Block, cells: Mapping[int, Cell]) -> int:
        shown = min(block.bits, CELL_BITS)
        across = min(shown, CELL_BITS // 2)
        columns, rows = 1 << across, 1 << (shown - across)
        left, top = x + AXIS, y + 4
        if block.bits % 4 == 0 and columns == 16:  # else rows and columns are no digits of the index
            for number in range(16):
                self.text(left + number * CELL + 4, top - 4, f"{number:x}", "mono soft")
                if rows == 16:
                    self.text(x + 4, top + number * CELL + 12, f"{number:x}", "mono soft")
        self.parts.append(f'<rect class="free" x="{left}" y="{top}" width="{columns * CELL}" height="{rows * CELL}"/>')
        for number, cell in cells.items():
            row, column = divmod(number, columns)
            self.cell(left + column * CELL, top + row * CELL, cell, self.title(block, number, cell))
        lines = [f"M{left} {top + n * CELL}h{columns * CELL}" for n in range(1, rows)]
        lines += [f"M{left + n * CELL} {top}v{rows * CELL}" for n in range(1, columns)]
        self.parts.append(f'<path class="net" pointer-events="none" d="{"".join(lines)}"/>')
        return top + rows * CELL

    def cell(self, x: int, y: int, cell: Cell, title: str) -> None:
        used = len(cell.names)
        marks = []
        if used:
            css = f"used{1 + sum(used / cell.size > share for share in SHARES)}"
            marks += [("wait", 9, 2)] if cell.waiting else []
        elif cell.waiting:
            css = "wait"
        else:
            css = "kept" if cell.kept == cell.size else "free"
        if cell.kept and css != "kept":
            marks.append(("kept", 2, 9))
        shapes = [f'<rect class="{css}" x="{x}" y="{y}" width="{CELL}" height="{CELL}"/>']
        shapes += [f'<rect class="{css}" x="{x + dx}" y="{y + dy}" width="4" height="4"/>' for css, dx, dy in marks]
        self.parts.append(f"<g>{''.join(shapes)}<title>{_escaped(title)}</title></g>")

    def title(self, block: Block, number: int, cell: Cell) -> str:
        first = number << block.shift
        unit = BITS - block.length
        ends = [block.place.value + (index << unit) for index in (first, first + cell.size - 1)]
        ends = [value & IID_MASK if block.length == BITS else value for value in ends]
        places = [suffix_text(value) if block.length == BITS else f"{text(value)}/{block.length}" for value in ends]
        place = places[0] if cell.size == 1 else f"{places[0]} to {places[1]}"
        names = ", ".join(cell.names[:TITLED]) + (", …" if len(cell.names) > TITLED else "")
        counts = (
            (len(cell.names), "used"),
            (cell.waiting, "in quarantine"),
            (cell.kept, "reserved"),
            (cell.free, "free"),
        )
        told = ", ".join(f"{_count(n)} {what}" for n, what in counts if n)
        return f"{place}: {told}" + (f" ({names})" if names else "")

    def names(self, x: int, y: int, block: Block) -> int:
        y += LINE
        if not block.used:
            return y
        if len(block.used) > NAMED:
            self.text(x + AXIS, y + 2, "Point at a cell to see its hosts.", "soft")
            return y + LINE
        digits = -(-block.bits // 4)
        half = -(-len(block.used) // 2)
        for number, index in enumerate(sorted(block.used)):
            column, row = divmod(number, half)
            left = x + AXIS + column * (CARD - AXIS) // 2
            label = f"{index:0{digits}x}"
            self.text(left, y + 2 + row * LINE, label, "mono soft", 9)
            self.text(left + 12 + 7 * min(digits, 9), y + 2 + row * LINE, block.used[index], "", 14)
        return y + half * LINE


def _count(number: int) -> str:
    return f"{number:,}" if number < 10**9 else f"{number:.1e}"


def _escaped(content: str) -> str:
    """Return CONTENT as text of XML; what XML 1.0 cannot hold becomes a replacement character."""
    return html.escape(re.sub(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "\ufffd", content))
