"""Bring text to the form in which copies are looked for: lower-case letters and digits, and nothing between them.

Spaces, hyphens, line breaks, Markdown and look-alike letters do not tell two copies apart. Each character is brought
there by itself, so a text cut anywhere gives the same octets.
"""

from __future__ import annotations

import unicodedata

LOWER = bytes(octet + 32 if 65 <= octet <= 90 else octet for octet in range(256))
DROPPED = bytes(octet for octet in range(128) if not chr(octet).isalnum())
_MOST_KNOWN = 8_192

# Letters of other scripts that look like Latin ones, and Latin letters in boxes, circles and flags.
_ALIKE = str.maketrans(
    "авсенкмортхуіјѕԁԛԝӏαβεηικμνορτυχγωѡ",
    "abcehkmoptxyijsdqwlabenikmvoptuxyww",
)
_BOXED = ((0x1F130, 26), (0x1F150, 26), (0x1F170, 26), (0x1F1E6, 26))


class _Folded(dict[int, str | int | None]):
    """What each character becomes; worked out once."""

    def __missing__(self, point: int) -> str | int | None:
        folded = point if point < 128 else _fold(point)
        if len(self) < _MOST_KNOWN:
            self[point] = folded
        return folded


def _fold(point: int) -> str | None:
    for first, many in _BOXED:
        if first <= point < first + many:
            return chr(97 + point - first)
    try:
        folded = unicodedata.normalize("NFKC", chr(point)).casefold().translate(_ALIKE)
    except ValueError:
        return None
    kept = "".join(letter for letter in folded if letter.isalnum() and not 0xD800 <= ord(letter) <= 0xDFFF)
    return kept or None


_FOLDED = _Folded()


def squeeze(text: str) -> bytes:
    """Return the letters and digits of `text`, folded."""
    if text.isascii():
        return text.encode().translate(LOWER, DROPPED)
    return text.translate(_FOLDED).encode().translate(LOWER, DROPPED)


def index_from_end(text: str, octets: int) -> int:
    """Return where in `text` the character stands that begins its last `octets` squeezed ones."""
    at = len(text)
    while octets > 0 and at > 0:
        at -= 1
        octets -= len(squeeze(text[at]))
    return at
