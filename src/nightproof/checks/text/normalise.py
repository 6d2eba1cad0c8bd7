"""Make of a text the forms that detectors look at; the text itself is left as it is.

`normal` is the text that a person would see. `views` are that and what may be behind it: look-alike letters folded,
digits read as letters, spaced words joined, the text reversed or rotated, and what base64, hex, percent signs, HTML
entities and escapes decode to, two levels deep. All of it takes time in proportion to the text.
"""

from __future__ import annotations

import base64
import binascii
import html
import re
import unicodedata
from collections.abc import Iterator
from typing import NamedTuple
from urllib.parse import unquote

import re2

from nightproof.checks.text import hidden
from nightproof.checks.text.confusables import FOLD, LEET

MOST_DECODED_CHARS = 262_144
"""Of all that one text decodes to; what is beyond is named `capped`."""
DEEPEST = 2

_LINES = re.compile("\r\n|[\r\x85\u2028\u2029]")
_BLANKS = re.compile(r"[^\S\n]{2,}|[^\S\n ]")
_ACCENTS = re.compile("[\u0300-\u036f]+")

# Linear-time looks at octets, so that a text with nothing of the kind costs microseconds; most have nothing.
# The last two lines are what the first ones look like turned around or rotated.
_ENCODED = re2.compile(
    rb"[A-Za-z0-9+/_-]{16}|(?:[0-9A-Fa-f]{2}[ ,:]?){10}|(?:\\x[0-9A-Fa-f]{2}){6}|(?:[01]{8}\s?){6}"
    rb"|%[0-9A-Fa-f]{2}|&[#A-Za-z][0-9A-Za-z]{1,7};|\\u[0-9A-Fa-f]{4}"
    rb"|(?:[0-9A-Fa-f]{2}x\\){6}|(?:[0-9A-Fa-f]{2}%){3}|[A-Za-z][0-9A-Fa-f]{2}%[A-Za-z]|;[0-9A-Za-z]{1,7}[#A-Za-z]&|[0-9A-Fa-f]{4}u\\"
    rb"|(?:\\k[0-9N-Sn-s]{2}){6}|(?:%[0-9N-Sn-s]{2}){3}|(?:\\h[0-9N-Sn-s]{4}){3}"
)
_MAYBE_SPACED = re2.compile(rb"(?:^|[^a-z0-9])(?:[a-z0-9][ .*_\-|/,~\n]{1,2}){3}[a-z0-9](?:$|[^a-z0-9])")
_MAYBE_LEET = re2.compile(rb"[a-z][0134578@$]{1,2}[a-z]|(?:^|[ \n])[0134578@$][a-z]{3}")

_BASE64 = re.compile(r"[A-Za-z0-9+/_-]{16,}={0,2}")
_HEX = re.compile(r"(?:(?:0x|\\x)?[0-9A-Fa-f]{2}[ ,:]?){10,}")
_NOT_HEX = re.compile(r"0x|\\x|[ ,:]")
_PERCENT = re.compile(r"%[0-9A-Fa-f]{2}")
_ENTITY = re.compile(r"&(?:#\d{1,7}|#[xX][0-9A-Fa-f]{1,6}|[A-Za-z]{2,8});")
_ESCAPE = re.compile(r"\\u([0-9A-Fa-f]{4})")
_BINARY = re.compile(r"(?:[01]{8}\s?){6,}")
_SPACED = re.compile(r"(?<![a-z0-9])[a-z0-9]([ .*_\-|/,~])[a-z0-9](?:\1[a-z0-9])+(?![a-z0-9])")
_GAPS = re.compile(r"[ .*_\-|/,~]+")
_LEET_RUN = re.compile(r"[0134578@$€£!|+(]+")
_ROT13 = str.maketrans(
    "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ",
    "nopqrstuvwxyzabcdefghijklmNOPQRSTUVWXYZABCDEFGHIJKLM",
)
_ROT13_OCTETS = bytes.maketrans(
    b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ",
    b"nopqrstuvwxyzabcdefghijklmNOPQRSTUVWXYZABCDEFGHIJKLM",
)
_READABLE_SHARE = 0.9
"""Of a decoded text, that can be printed: less is a picture, not a text."""


class View(NamedTuple):
    """One form of a text, ready for matching: lower case, without accents, blanks joined."""

    name: str
    text: str


class Views(NamedTuple):
    """All forms of a text."""

    normal: str
    """As a person would see it."""
    hidden: hidden.Hidden
    forms: list[View]
    """`plain` first; none of them twice."""
    is_capped: bool = False


def normal(text: str) -> str:
    """Return the text as a person would see it: composed, nothing hidden, one kind of line end."""
    if hidden.is_plain(text):
        return text
    while True:
        seen = hidden.strip(_LINES.sub("\n", text))
        if not seen.isascii():
            seen = unicodedata.normalize("NFKC", seen)
        if seen == text:
            return text
        text = seen


def matching(seen: str) -> str:
    """Return a normal text as patterns want it: lower case, without accents, each run of blanks one blank."""
    if seen.isascii():
        return _BLANKS.sub(" ", seen.lower())
    apart = unicodedata.normalize("NFD", seen.casefold())
    return _BLANKS.sub(" ", unicodedata.normalize("NFC", _ACCENTS.sub("", apart)))


def views(text: str, *, decode: bool = True) -> Views:
    """Return every form of a text that may say something else than the text itself."""
    seen = normal(text)
    found = hidden.look(text)
    gathered = _Gathering()
    gathered.add("plain", seen)
    for spelled in found.smuggled:
        gathered.add("smuggled", normal(spelled))
    if decode:
        for source, start in ((seen, ""), *((normal(spelled), "smuggled+") for spelled in found.smuggled)):
            gathered.turn(source, start)
            gathered.decode(source, DEEPEST, start)
    return Views(seen, found, gathered.forms, gathered.is_capped)


class _Gathering:
    """The forms found so far, and how much more may come."""

    def __init__(self) -> None:
        self.forms: list[View] = []
        self.is_capped = False
        self._left = MOST_DECODED_CHARS
        self._seen: set[str] = set()

    def add(self, name: str, seen: str) -> None:
        """Add a normal text, and its foldings where they differ."""
        plain = matching(seen)
        self._put(name, plain)
        for folding, folded in _foldings(plain, seen):
            self._put(folding if name == "plain" else f"{name}+{folding}", folded)

    def turn(self, seen: str, path: str) -> None:
        """Add a normal text rotated and reversed: of the same length, so they count against no budget."""
        plain = matching(seen)
        rotated = plain.translate(_ROT13) if not plain.isascii() else _rotated(plain)
        self._put(f"{path}rot13", rotated)
        self._put(f"{path}rot13+reversed", rotated[::-1])
        self._put(f"{path}reversed", plain[::-1])

    def decode(self, seen: str, depth: int, path: str) -> None:
        """Add what a normal text decodes to, and what that decodes to, until `depth` is used up."""
        if not _ENCODED.search(seen.encode("utf-8", "replace")):
            return
        for name, decoded in _decodings(seen, is_last=depth == 1):
            if name not in ("rot13", "reversed"):
                decoded = self._take(decoded)
            if not decoded.strip():
                continue
            for inner in (normal(decoded), *map(normal, hidden.look(decoded).smuggled)):
                self.add(path + name, inner)
                if name not in ("rot13", "reversed"):
                    self.turn(inner, f"{path}{name}+")
                if depth > 1:
                    self.decode(inner, depth - 1, f"{path}{name}+")

    def _take(self, decoded: str) -> str:
        if len(decoded) > self._left:
            self.is_capped = True
            decoded = decoded[: self._left]
        self._left -= len(decoded)
        return decoded

    def _put(self, name: str, text: str) -> None:
        if text not in self._seen and text.strip():
            self._seen.add(text)
            self.forms.append(View(name, text))


def _rotated(plain: str) -> str:
    return plain.encode("ascii").translate(_ROT13_OCTETS).decode("ascii")


def _foldings(plain: str, seen: str) -> Iterator[tuple[str, str]]:
    if not plain.isascii():
        plain = plain.translate(FOLD)
        yield "folded", plain
    octets = plain.encode("utf-8", "replace")
    if _MAYBE_LEET.search(octets):
        yield "leet", _LEET_RUN.sub(_letters_of, plain)
    if _MAYBE_SPACED.search(octets):
        # From the text before blanks were joined: more than one of them parts words.
        joined = _SPACED.sub(lambda spaced: _GAPS.sub("", spaced.group()), seen.lower())
        yield "joined", matching(joined)


def _letters_of(run: re.Match[str]) -> str:
    """Read digits and signs as letters where a letter stands beside them."""
    text, start, end = run.string, run.start(), run.end()
    is_beside = (start and text[start - 1].isalpha()) or (end < len(text) and text[end].isalpha())
    return run.group().translate(LEET) if is_beside else run.group()


def _decodings(text: str, *, is_last: bool) -> Iterator[tuple[str, str]]:
    """Yield every other text that this one, which holds something encoded, may stand for."""
    yield "base64", "\n".join(filter(None, map(_from_base64, _BASE64.findall(text))))
    yield "hex", "\n".join(filter(None, map(_from_hex, _HEX.findall(text))))
    yield "binary", "\n".join(filter(None, map(_from_binary, _BINARY.findall(text))))
    if _PERCENT.search(text):
        yield "percent", unquote(text, errors="replace")
    if _ENTITY.search(text):
        yield "entities", html.unescape(text)
    if _ESCAPE.search(text):
        yield "escapes", _ESCAPE.sub(lambda found: chr(int(found.group(1), 16)), text)
    if not is_last:
        yield "rot13", text.translate(_ROT13)
        yield "reversed", text[::-1]


def _from_base64(token: str) -> str:
    octets = token.rstrip("=").replace("-", "+").replace("_", "/")
    octets = octets[: len(octets) - (len(octets) % 4 == 1)]
    try:
        return _text_of(base64.b64decode(octets + "=" * (-len(octets) % 4)))
    except (binascii.Error, ValueError):
        return ""


def _from_hex(token: str) -> str:
    digits = _NOT_HEX.sub("", token)
    return _text_of(bytes.fromhex(digits[: len(digits) & ~1]))


def _from_binary(token: str) -> str:
    bits = re.sub(r"\s", "", token)
    return _text_of(bytes(int(bits[at : at + 8], 2) for at in range(0, len(bits) - 7, 8)))


def _text_of(octets: bytes) -> str:
    """Return octets as text, or nothing where they are no text."""
    try:
        text = octets.decode("utf-8")
    except UnicodeDecodeError as error:
        if error.start < 8:
            return ""
        text = octets[: error.start].decode("utf-8")
    shown = hidden.strip(text)
    readable = sum(map(shown.count, "\n\t")) + sum(map(str.isprintable, shown))
    return text if readable and readable >= _READABLE_SHARE * len(shown) else ""
