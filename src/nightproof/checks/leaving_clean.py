"""Take out of an answer what nobody sees: terminal escapes, control, invisible and bidirectional characters.

The first thing that is done with a piece of an answer, so that nothing of the kind can part what the other checks look
for. `\r` becomes a line break, so that no line is written over.
"""

from __future__ import annotations

import re
from typing import NamedTuple

LONGEST_ESCAPE = 256
"""Of a longer one only the introduction is taken out; the rest is text like any."""

_POINTS = (
    "\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2028-\u202e"
    "\u2060-\u206f\u3164\ud800-\udfff\ue000-\uf8ff\ufdd0-\ufdef\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb\ufffe\uffff"
    "\U0001d173-\U0001d17a\U000e0000-\U000e0fff\U000f0000-\U0010ffff"
)
UNSEEN = re.compile(f"[{_POINTS}]")

_LINE_BREAKS = frozenset("\x0b\x0c\x85\u2028\u2029")
_INTRODUCTIONS = frozenset("\x1b\x90\x98\x9b\x9d\x9e\x9f")
_ESCAPE = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]"
    r"|(?:\x1b[\]PX^_]|[\x90\x98\x9d\x9e\x9f])[^\x07\x1b\x9c\n]*(?:\x07|\x9c|\x1b\\)"
    r"|\x1b[ -/]+[0-~]|\x1b[0-OQ-WYZ\\`-~]"
)
_ESCAPE_BEGUN = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*\Z|(?:\x1b[\]PX^_]|[\x90\x98\x9d\x9e\x9f])[^\x07\x1b\x9c\n]*\x1b?\Z"
    r"|\x1b[ -/]*\Z"
)
_INTRODUCTION = re.compile(r"\x1b[\[\]PX^_]|.", re.DOTALL)


class Unseen(NamedTuple):
    """Something that was taken out, and where in the cleaned text it stood."""

    at: int
    check: str
    rule: str


class Cleaner:
    """Cleans one answer, piece by piece."""

    def __init__(self) -> None:
        self.held = ""
        """The beginning of something that is not yet whole."""

    def feed(self, text: str, before: str, *, is_end: bool = False) -> tuple[str, list[Unseen]]:
        """Return what is left of `text`, and what was taken out; `before` is the last character that was left."""
        text = self.held + text
        self.held = ""
        kept: list[str] = []
        seen: list[Unseen] = []
        length = at = 0
        while (found := UNSEEN.search(text, at)) is not None:
            start = found.start()
            if start > at:
                kept.append(text[at:start])
                before = text[start - 1]
                length += start - at
            end, instead, check = _decide(text, start, before, is_end=is_end)
            if end < 0:
                self.held = text[start:]
                return "".join(kept), seen
            if check:
                seen.append(Unseen(length, check, "escape" if check == "terminal" else "invisible"))
            if instead:
                kept.append(instead)
                before = instead
                length += 1
            at = end
        kept.append(text[at:])
        return "".join(kept), seen


def _decide(text: str, at: int, before: str, *, is_end: bool) -> tuple[int, str, str]:
    """Return where to go on (-1: more is needed), what stays in its place, and the name of the check."""
    letter = text[at]
    if letter == "\r":
        if at + 1 == len(text):
            return (at + 1, "\n", "terminal") if is_end else (-1, "", "")
        return (at + 1, "", "") if text[at + 1] == "\n" else (at + 1, "\n", "terminal")
    if letter in _LINE_BREAKS:
        return at + 1, "\n", ""
    if letter in _INTRODUCTIONS:
        return _decide_escape(text, at, is_end=is_end)
    if letter <= "\x9f":
        return at + 1, "", "terminal"
    if "\ud800" <= letter <= "\udfff":
        return at + 1, "\ufffd", ""
    if (
        letter == "\ufe0f"
        and before
        and before != letter
        and (before in "0123456789#*" or before >= "\u00a9")
    ):
        return at + 1, letter, ""
    if letter in "\u200c\u200d" and _takes_joiner(before):
        return at + 1, letter, ""
    return at + 1, "", "hidden_text"


def _decide_escape(text: str, at: int, *, is_end: bool) -> tuple[int, str, str]:
    window = text[at : at + LONGEST_ESCAPE]
    if found := _ESCAPE.match(window):
        return at + found.end(), "", "terminal"
    if not is_end and len(window) < LONGEST_ESCAPE and _ESCAPE_BEGUN.match(window):
        return -1, "", ""
    introduction = _INTRODUCTION.match(window)
    return at + (introduction.end() if introduction else 1), "", "terminal"


def _takes_joiner(before: str) -> bool:
    """Say whether joiners have a meaning after this: in emoji, and in the scripts of the Near East and India."""
    if not before or before in "\u200c\u200d":
        return False
    return before >= "\u2190" or "\u0590" <= before <= "\u109f" or "\u1780" <= before <= "\u17ff"
