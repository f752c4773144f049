# SPDX-License-Identifier: GPL-3.0-or-later
"""Know what in a file we added ourselves, so that what is no longer wanted can go, and only that.

An addition is a span of the text as we left it: a whole line, or words at one place of a line. Where somebody edited
the file since, it is found again between what he left as it was; what he touched is his. Replaced text is no addition:
the setting that it belongs to is wanted in full each time.
"""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ._edit_text import split_lines
from ._edit_web import Read

SEPARATORS = " \t,\r\n"
_WORDS = re.compile(r"[\s,]+|[^\s,]+")

Edit = Callable[[Read], "dict[str, str]"]
Range = tuple[int, int]


@dataclass(frozen=True)
class Span:
    """A piece of a text that we added for the settings KEYS."""

    start: int
    stop: int
    keys: frozenset[str]


@dataclass(frozen=True)
class Generation:
    """A text as it was once, with what in it was ours."""

    text: str
    spans: tuple[Span, ...] = ()


class Additions:
    """What we added to the files of one transaction, followed from edit to edit."""

    def __init__(self, known: Mapping[str, Sequence[Generation]]) -> None:
        self._known = known
        self._first: dict[str, Generation] = {}
        self._now: dict[str, Generation] = {}

    def edit(self, keys: Iterable[str], change: Edit, read: Read) -> dict[str, str]:
        """Return the texts that CHANGE makes of what READ returns, without what an earlier run added for KEYS in vain.

        In vain is what CHANGE would not add again today.
        """
        signature = frozenset(keys)
        found = {path: now for path in {*self._known, *self._now} if (now := self._at(path, read))}
        mine = {path: [span for span in now.spans if span.keys & signature] for path, now in found.items()}
        ours = {path: spans for path, spans in mine.items() if spans}
        stale = self._stale(ours, change, read) if ours else {}
        without = {path: _without(found[path], spans) for path, spans in stale.items()}

        def cleaned(path: str) -> str | None:
            return without[path].text if path in without else read(path)

        changed = {**{path: now.text for path, now in without.items()}, **change(cleaned)}
        for path, text in changed.items():
            now = without.get(path) or found.get(path) or Generation(cleaned(path) or "")
            self._first.setdefault(path, found.get(path) or Generation(read(path) or ""))
            new = (Span(start, stop, signature) for start, stop in inserted(now.text, text))
            self._now[path] = Generation(text, tuple(sorted([*carried(now, text), *new], key=lambda span: span.start)))
        return changed

    def records(self) -> dict[str, list[Generation]]:
        """Return for each edited file what it was and what it is to be: a killed run leaves either."""
        return {path: [self._first[path], now] for path, now in self._now.items()}

    def _at(self, path: str, read: Read) -> Generation | None:
        text = read(path)
        generations = [self._now[path]] if path in self._now else self._known.get(path, ())
        if text is None or not generations:
            return None
        exact = next((one for one in reversed(generations) if one.text == text), None)
        return exact or Generation(text, tuple(carried(generations[-1], text)))

    def _stale(self, ours: dict[str, list[Span]], change: Edit, read: Read) -> dict[str, list[Span]]:
        """Return those of OURS that CHANGE does not add to the texts without any of them."""
        texts = {path: read(path) or "" for path in ours}
        bare = {path: _without(Generation(texts[path]), spans).text for path, spans in ours.items()}
        again = change(lambda path: bare[path] if path in bare else read(path))
        stale: dict[str, list[Span]] = {}
        for path, spans in ours.items():
            after = again.get(path, bare[path])
            left = Counter(after[start:stop].strip(SEPARATORS) for start, stop in inserted(bare[path], after))
            for span in spans:
                words = texts[path][span.start : span.stop].strip(SEPARATORS)
                if left[words] > 0:
                    left[words] -= 1
                else:
                    stale.setdefault(path, []).append(span)
        return stale


def _without(now: Generation, spans: Iterable[Span]) -> Generation:
    """Return NOW without SPANS; the others move up."""
    text, left = now.text, set(now.spans)
    for span in sorted(spans, key=lambda span: span.start, reverse=True):
        size = span.stop - span.start
        text = text[: span.start] + text[span.stop :]
        left.discard(span)
        left = {
            Span(other.start - size, other.stop - size, other.keys) if other.start >= span.stop else other
            for other in left
        }
    return Generation(text, tuple(left))


def inserted(before: str, after: str) -> list[Range]:
    """Return the ranges of AFTER that were put into BEFORE as they are; what took the place of something is none."""
    old, new = split_lines(before), split_lines(after)
    head, tail = _common(old, new)
    offset = len("".join(new[:head]))
    old, new = old[head : len(old) - tail], new[head : len(new) - tail]
    ranges = _inserted_lines(old, new)
    if ranges is None:
        ranges = []
        starts = _starts(new)
        for kind, old_from, old_to, new_from, new_to in difflib.SequenceMatcher(None, old, new).get_opcodes():
            if kind in ("insert", "replace"):
                part = _inserted_lines(old[old_from:old_to], new[new_from:new_to]) or []
                ranges += [(starts[new_from] + start, starts[new_from] + stop) for start, stop in part]
    return [(offset + start, offset + stop) for start, stop in ranges]


def _inserted_lines(old: Sequence[str], new: Sequence[str]) -> list[Range] | None:
    """Return the ranges of NEW that OLD has not got, or None when OLD is not all there."""
    ranges: list[Range] = []
    offset = place = 0
    for line in new:
        words = _inserted_words(old[place], line) if place < len(old) and line != old[place] else []
        if place < len(old) and words is not None:
            ranges += [(offset + start, offset + stop) for start, stop in words]
            place += 1
        else:
            ranges.append((offset, offset + len(line)))
        offset += len(line)
    return ranges if place == len(old) else None


def _inserted_words(old: str, new: str) -> list[Range] | None:
    """Return the ranges of the line NEW that the line OLD has not got; None when it is another line."""
    if not old.strip() or len(new) <= len(old):
        return None
    head = _common(old, new)[0]
    size = len(new) - len(old)
    if old[head:] == new[head + size :]:
        while head and old[head - 1] == new[head + size - 1] and new[head] not in SEPARATORS:
            head -= 1
        starts = new[head] in SEPARATORS or (head and old[head - 1] in "='\"")
        return [(head, head + size)] if starts else None
    ranges: list[Range] = []
    words = _WORDS.findall(old)
    place = offset = 0
    for word in _WORDS.findall(new):
        if place < len(words) and word == words[place] and not _begins(ranges, offset, new, words[place:]):
            place += 1
        elif ranges and ranges[-1][1] == offset:
            ranges[-1] = (ranges[-1][0], offset + len(word))
        else:
            ranges.append((offset, offset + len(word)))
        offset += len(word)
    return ranges if place == len(words) and all(new[start] in SEPARATORS for start, _stop in ranges) else None


def _begins(ranges: list[Range], offset: int, new: str, left: list[str]) -> bool:
    """Return whether the separator at OFFSET belongs to inserted words: what follows it is not what is next in OLD."""
    if new[offset] not in SEPARATORS or len(left) < 2:
        return False
    return not new[offset:].startswith("".join(left[:2]))


def carried(then: Generation, text: str) -> list[Span]:
    """Return the spans of THEN as they lie in TEXT, which somebody made of it; those that he touched are left out."""
    if then.text == text or not then.spans:
        return list(then.spans)
    blocks = _blocks(then.text, text)
    found = []
    for span in then.spans:
        for start, stop, shift in blocks:
            first, last = max(start, span.start), min(stop, span.stop)
            if first < last and then.text[first:last].strip(SEPARATORS):
                found.append(Span(first + shift, last + shift, span.keys))
    return found


def _blocks(before: str, after: str) -> list[tuple[int, int, int]]:
    """Return (start, stop, distance) of the pieces of BEFORE that AFTER has too: lines, and words of changed lines."""
    old, new = split_lines(before), split_lines(after)
    head, tail = _common(old, new)
    starts, ends = _starts(old), _starts(new)
    blocks = [(0, starts[head], 0)]
    matcher = difflib.SequenceMatcher(None, old[head : len(old) - tail], new[head : len(new) - tail])
    for kind, old_from, old_to, new_from, new_to in matcher.get_opcodes():
        start, begin = starts[head + old_from], ends[head + new_from]
        if kind == "equal":
            blocks.append((start, starts[head + old_to], begin - start))
        elif kind == "replace":
            one = _WORDS.findall("".join(old[head + old_from : head + old_to]))
            other = _WORDS.findall("".join(new[head + new_from : head + new_to]))
            places, targets = _starts(one), _starts(other)
            for match in difflib.SequenceMatcher(None, one, other, autojunk=False).get_matching_blocks():
                here, there = start + places[match.a], begin + targets[match.b]
                blocks.append((here, start + places[match.a + match.size], there - here))
    blocks.append((starts[len(old) - tail], len(before), len(after) - len(before)))
    return blocks


def _starts(parts: Sequence[str]) -> list[int]:
    """Return where each of PARTS begins when they are joined, and where the last one ends."""
    starts = [0]
    for part in parts:
        starts.append(starts[-1] + len(part))
    return starts


def _common(old: Sequence[str], new: Sequence[str]) -> Range:
    """Return how many elements OLD and NEW have in common at the beginning, and behind those at the end."""
    limit = min(len(old), len(new))
    head = next((index for index in range(limit) if old[index] != new[index]), limit)
    tail = next((index for index in range(limit - head) if old[-1 - index] != new[-1 - index]), limit - head)
    return head, tail


def packed(records: Mapping[str, Sequence[Generation]]) -> dict[str, object]:
    """Return RECORDS as values that JSON can hold; files without an addition are left out."""
    return {
        path: [
            {"text": one.text, "spans": [[span.start, span.stop, sorted(span.keys)] for span in one.spans]}
            for one in generations
        ]
        for path, generations in records.items()
        if any(one.spans for one in generations)
    }


def unpacked(values: Mapping[str, Any]) -> dict[str, list[Generation]]:
    """Return the records that were packed as VALUES."""
    return {
        path: [
            Generation(one["text"], tuple(Span(start, stop, frozenset(keys)) for start, stop, keys in one["spans"]))
            for one in generations
        ]
        for path, generations in values.items()
    }
