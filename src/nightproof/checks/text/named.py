"""What a pattern of personal data or of a secret is, and how a set of them is looked for, in input and output."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import re2


class NamedPattern(NamedTuple):
    """One kind of thing to find."""

    name: str
    source: str
    """RE2. Where it has a group, the group is what was found, and what is redacted."""
    longest_chars: int
    """Most characters a match can have: what a stream has to hold back."""
    verify: Callable[[str], bool] | None = None
    """Says whether a match is one: a checksum, a prefix, enough disorder."""


class Spot(NamedTuple):
    """Where something was found."""

    name: str
    start: int
    end: int


class Patterns:
    """A set of patterns: one automaton says which of them may match, and only those are looked for."""

    def __init__(self, patterns: Sequence[NamedPattern]) -> None:
        options = re2.Options()
        options.max_mem = 32 << 20
        options.log_errors = False
        self._patterns = list(patterns)
        self._compiled: list[Any] = [re2.compile(pattern.source.encode(), options) for pattern in patterns]
        self._set = re2.Set.SearchSet(options)
        for pattern in patterns:
            self._set.Add(pattern.source)
        self._set.Compile()

    def find(self, text: str) -> list[Spot]:
        """Return what was found, in order, without overlaps.

        Of two that overlap the one that starts first is kept, and of two that start together the one named first.
        """
        octets = text.encode("utf-8", "replace")
        which = self._set.Match(octets)
        if not which:
            return []
        spots = sorted(spot for index in which for spot in self._spots(index, octets))
        kept: list[Spot] = []
        for start, _, end, name in spots:
            if not kept or start >= kept[-1].end:
                kept.append(Spot(name, start, end))
        if text.isascii():
            return kept
        return _in_characters(octets, kept)

    def _spots(self, index: int, octets: bytes) -> Iterator[tuple[int, int, int, str]]:
        pattern, compiled = self._patterns[index], self._compiled[index]
        group = 1 if compiled.groups else 0
        for found in compiled.finditer(octets):
            value = found.group(group)
            if value and (pattern.verify is None or pattern.verify(value.decode("utf-8", "replace"))):
                yield found.start(group), index, found.end(group), pattern.name


def _in_characters(octets: bytes, spots: Sequence[Spot]) -> list[Spot]:
    """Turn places in octets into places in characters, in one pass."""
    counted: list[Spot] = []
    chars = at = 0
    for name, start, end in spots:
        chars += len(octets[at:start].decode("utf-8", "replace"))
        first = chars
        chars += len(octets[start:end].decode("utf-8", "replace"))
        counted.append(Spot(name, first, chars))
        at = end
    return counted


def redacted(text: str, spots: Sequence[Spot]) -> str:
    """Put the kind's name where something was found."""
    parts: list[str] = []
    at = 0
    for name, start, end in spots:
        parts += (text[at:start], f"[{name}]")
        at = end
    return "".join((*parts, text[at:]))
