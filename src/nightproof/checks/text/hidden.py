"""Find the characters of a text that nobody sees, and say which of them belong there.

Tag characters, variation selectors, zero-width and bidirectional signs carry text that a model reads and a person
does not. The same signs join emoji, break Persian and Thai words, turn Hebrew around and choose a form of a Han
letter. So each is judged by its neighbours: what belongs there is stripped for matching and counts for nothing.
"""

from __future__ import annotations

import re
from typing import NamedTuple

_HIDDEN = (
    "\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f"  # C0 and C1 but tab, line feeds
    "\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f"
    "\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb"
    "\ue000-\uf8ff\ufdd0-\ufdef\ufffe\uffff"
    "\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff\U000f0000-\U0010ffff"
)
_HIDDEN_RUN = re.compile(f"[{_HIDDEN}]+")
_ODD_ASCII = re.compile("[\x00-\x08\x0b-\x1f\x7f]")
_SURROGATE = re.compile("[\ud800-\udfff]")

# A flag of England, Scotland or Wales: the only ones of tag characters that are in use.
_FLAGS = re.compile(
    "\U0001f3f4\U000e0067\U000e0062(?:\U000e0065\U000e006e\U000e0067|\U000e0073\U000e0063\U000e0074"
    "|\U000e0077\U000e006c\U000e0073)\U000e007f"
)
_TAGS = re.compile("[\U000e0001-\U000e007f]")
_CARRIERS = re.compile("[\ufe00-\ufe0f\U000e0100-\U000e01ef]{4,}")
# Mail programs push the preview text out of sight with these, hundreds of times, each followed by blanks.
_PADDING = re.compile("(?:[\xad\u034f\u200b-\u200d\u2060\ufeff]{1,3}[ \xa0\u2007\u2009\u200a]{1,8}){4,}")
_RTL = re.compile("[\u0590-\u08ff\ufb1d-\ufdcf\ufdf0-\ufdff\ufe70-\ufefc]")

_EMOJI = "\xa9\xae\u203c\u2049\u20e3\u2122-\u27bf\u2934-\u2b55\u3030-\u3299\ufe0f\U0001f000-\U0001faff"
_JOINING = (
    "\u0600-\u08ff\u0900-\u0dff\u0f00-\u109f\u1780-\u18af\ufb50-\ufdcf\ufe70-\ufefc\U00011000-\U00011fff"
)
_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3000-\u30ff\u3400-\u9fff\uff00-\uff9f"
_HAN = "\u3400-\u9fff\uf900-\ufaff\U00020000-\U000323af"
_BEFORE_JOINER = re.compile(f"[{_EMOJI}{_JOINING}]")
_EMOJI_OR_TONE = re.compile(f"[{_EMOJI}#*0-9]")
_OF_UNSPACED = re.compile(f"[{_UNSPACED}]")
_OF_HAN = re.compile(f"[{_HAN}]")
_OF_MONGOLIAN = re.compile("[\u1800-\u18af]")
_OF_HANGUL = re.compile("[\u1100-\u11ff\ua960-\ua97f\ud7b0-\ud7ff]")
_MARKS = frozenset("\u200e\u200f\u061c\u2066\u2067\u2068\u2069\u202a\u202b\u202c")
"""Signs of writing direction that right-to-left texts need; the overrides 202D and 202E are not among them."""

MOST_TAGS = 3
LEAST_HIDDEN = 3
"""Fewer are a slip of a clipboard, whatever share of a short text they are."""
MOST_SHARE = 0.05
LONGEST_RUN = 12
"""As many in a row, in a text of any length, are a message of their own."""


class Hidden(NamedTuple):
    """What a text hides."""

    tags: int = 0
    stripped: int = 0
    """Hidden characters that do not belong where they stand."""
    longest_run: int = 0
    surrogates: int = 0
    smuggled: tuple[str, ...] = ()
    """What tag characters and variation selectors spell, if it is text."""

    def reason(self, chars: int) -> str:
        """Say why a text of so many characters is one that hides something; empty if it is not."""
        if self.surrogates:
            return "lone_surrogate"
        if self.tags > MOST_TAGS:
            return "tag_characters"
        if self.longest_run >= LONGEST_RUN:
            return "hidden_run"
        if self.stripped >= LEAST_HIDDEN and self.stripped > MOST_SHARE * chars:
            return "hidden_share"
        return ""


NOTHING = Hidden()


def is_plain(text: str) -> bool:
    """Say whether a text is ASCII that can be printed, lines and tabs included: most are, and hide nothing."""
    return text.isascii() and (text.isprintable() or not _ODD_ASCII.search(text))


def strip(text: str) -> str:
    """Take out every hidden character, and put U+FFFD for half of a character."""
    if is_plain(text):
        return text
    return _SURROGATE.sub("\ufffd", _HIDDEN_RUN.sub("", text))


def look(text: str) -> Hidden:
    """Count what is hidden in a text and does not belong there."""
    if is_plain(text):
        return NOTHING
    surrogates = len(_SURROGATE.findall(text))
    if not _HIDDEN_RUN.search(text):
        return Hidden(surrogates=surrogates) if surrogates else NOTHING
    text = _without_flags_and_padding(text)
    may_turn = len(_RTL.findall(text))
    stripped = longest = 0
    for run in _HIDDEN_RUN.finditer(text):
        count = sum(
            not _belongs(text, at, run.start(), run.end(), may_turn) for at in range(run.start(), run.end())
        )
        stripped += count
        longest = max(longest, count)
    tags = len(_TAGS.findall(text))
    return Hidden(
        tags=tags,
        stripped=stripped,
        longest_run=longest,
        surrogates=surrogates,
        smuggled=_smuggled(text, has_tags=tags > 0),
    )


def _without_flags_and_padding(text: str) -> str:
    if "\U0001f3f4" in text:
        text = _FLAGS.sub("\U0001f3f4", text)
    return _PADDING.sub(_unless_it_speaks, text)


def _unless_it_speaks(padding: re.Match[str]) -> str:
    """Drop padding that repeats itself; keep what could spell something."""
    pieces = set(re.findall("[^ \xa0\u2007\u2009\u200a]+", padding.group()))
    return " " if len(pieces) <= 2 else padding.group()


def _belongs(text: str, at: int, start: int, end: int, may_turn: int) -> bool:
    """Say whether the hidden character at a place, in its run of hidden ones, has business there."""
    sign = text[at]
    before = text[at - 1] if at else ""
    after = text[at + 1] if at + 1 < len(text) else ""
    if sign in "\u200d\u200c":
        return (
            end - start <= 3 and bool(_BEFORE_JOINER.match(before)) and not _HIDDEN_RUN.match(after or "\x00")
        )
    if sign in _MARKS:
        return may_turn > 0 and end - start <= 3
    if "\ufe00" <= sign <= "\ufe0f":
        return at == start and bool(_EMOJI_OR_TONE.match(before) if sign >= "\ufe0e" else before.strip())
    if "\U000e0100" <= sign <= "\U000e01ef":
        return at == start and bool(_OF_HAN.match(before))
    if sign == "\xad":
        return before.isalpha() and after.isalpha()
    if sign == "\u200b":
        return bool(_OF_UNSPACED.match(before) and _OF_UNSPACED.match(after))
    if sign == "\ufeff":
        return at == 0
    if "\u180b" <= sign <= "\u180f":
        return at == start and bool(_OF_MONGOLIAN.match(before))
    if sign in "\u115f\u1160":
        return bool(_OF_HANGUL.match(before) or _OF_HANGUL.match(after))
    return False


def _smuggled(text: str, *, has_tags: bool) -> tuple[str, ...]:
    """Read what tag characters and runs of variation selectors spell."""
    found: list[str] = []
    if has_tags:
        found.append("".join(chr(ord(sign) & 0x7F) for sign in _TAGS.findall(text)))
    for run in _CARRIERS.findall(text):
        octets = bytes(ord(s) - 0xFE00 if s <= "\ufe0f" else ord(s) - 0xE0100 + 16 for s in run)
        found.append(octets.decode("utf-8", "replace"))
    return tuple(spelled for spelled in found if spelled.strip())
