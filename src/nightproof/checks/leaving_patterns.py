"""Look for patterns in a text that comes in pieces, and find what would be found in the whole.

Patterns run on RE2 only, in time linear in the text, whoever wrote them. Matches are the leftmost that do not overlap,
of the first pattern in the list that fits there; none is longer than `longest_chars`. `scan` decides about a place as
soon as no pattern that begins there could still grow, and tells up to where all is decided. The first `grace_chars` of
what may become a match are not waited for: they tell nothing, and ordinary words begin like many a secret.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import re2

from nightproof.base.errors import DeclarationError
from nightproof.checks.prefixes import UnreadablePattern, beginnings
from nightproof.checks.text.named import NamedPattern

_MEMORY = 64 << 20


class Match(NamedTuple):
    """One find."""

    start: int
    """Of the whole match."""
    found_at: int
    """Of what was found in it."""
    end: int
    name: str


class PatternSet:
    """Patterns that are looked for together."""

    def __init__(self, patterns: Sequence[NamedPattern], *, longest_chars: int, grace_chars: int = 0) -> None:
        self.longest_chars = longest_chars
        self.grace_chars = grace_chars
        self._patterns = [(_compiled(pattern), pattern) for pattern in patterns]
        whole = "|".join(f"(?:{pattern.source})" for pattern in patterns)
        begun = "|".join(_begun(pattern, max(1, grace_chars)) for pattern in patterns)
        self._whole = re2.compile(whole, _options())
        self._begun = re2.compile(begun, _options())
        self._any = re2.Set.SearchSet(_options())
        self._any.Add(f"{whole}|{begun}")
        self._any.Compile()

    def __repr__(self) -> str:
        return f"<PatternSet of {', '.join(pattern.name for _, pattern in self._patterns)}>"

    def may_hold(self, text: str) -> bool:
        """Say whether `text` has to be scanned: something may be found in it, or begin at its end."""
        return self._any.Match(text) is not None

    def scan(self, text: str, at: int, *, is_end: bool) -> tuple[list[Match], int, int]:
        """Look at `text` from `at` on: the finds, where to go on next time, and up to where may leave.

        The character before `at`, if there is one, has to be in `text`.
        """
        found: list[Match] = []
        begun_at = -1
        while at < len(text):
            if not is_end and begun_at < at:
                begun = self._begun.search(text, at)
                begun_at = begun.start() if begun else len(text)
            whole = self._whole.search(text, at)
            whole_at = whole.start() if whole else len(text)
            start = whole_at if is_end else min(whole_at, begun_at)
            if start == len(text):
                break
            is_undecided = not is_end and start == begun_at
            if is_undecided and len(text) <= start + self.longest_chars:
                may_leave = min(start + self.grace_chars, len(text))
                return found, min(start, self.next_at(at, len(text))), may_leave
            match = self._match(text, start)
            if match is None:
                at = start + 1
            else:
                found.append(match)
                at = match.end
        return found, self.next_at(at, len(text)), len(text)

    def next_at(self, at: int, end: int) -> int:
        """Return where to go on after all up to `end` was decided: what is shorter than the grace is not known yet."""
        return max(at, end - max(0, self.grace_chars - 1))

    def _match(self, text: str, start: int) -> Match | None:
        end = min(start + self.longest_chars, len(text))
        for compiled, pattern in self._patterns:
            match = compiled.match(text, start, end)
            if match is None or match.end() == start:
                continue
            group = 1 if compiled.groups and match.start(1) >= 0 else 0
            if pattern.verify is None or pattern.verify(match.group(group)):
                return Match(start, match.start(group), match.end(group), pattern.name)
        return None


@lru_cache(maxsize=32)
def pattern_set(patterns: tuple[NamedPattern, ...], longest_chars: int, grace_chars: int = 0) -> PatternSet:
    """Return the set, compiled once in a process: the built-in forms cost a tenth of a second."""
    return PatternSet(patterns, longest_chars=longest_chars, grace_chars=grace_chars)


def _options() -> re2.Options:
    options = re2.Options()
    options.log_errors = False
    options.max_mem = _MEMORY
    return options


def _compiled(pattern: NamedPattern) -> Any:
    try:
        compiled = re2.compile(pattern.source, _options())
    except re2.error as error:
        reason = error.args[0] if error.args else b""
        told = reason.decode("utf-8", "replace") if isinstance(reason, bytes) else str(reason)
        raise DeclarationError(
            f"The pattern {pattern.source!r} cannot be used: {told}.",
            hint="Patterns run in RE2: no look-around, no back-references.",
        ) from error
    if compiled.search("") is not None:
        raise DeclarationError(
            f"The pattern {pattern.source!r} fits the empty text.", hint="Write what has to be there."
        )
    return compiled


def _begun(pattern: NamedPattern, least: int) -> str:
    """Return what a find begins with; where that cannot be worked out, any text may begin one."""
    try:
        begun = beginnings(pattern.source, least=least)
        re2.compile(begun, _options())
    except (UnreadablePattern, re2.error):
        return r"(?s:.+)\z"
    return begun or r"(?s:.+)\z"
