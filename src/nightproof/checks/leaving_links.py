"""Find what a renderer of Markdown or HTML would make live, and say how it is made inert.

Called by `OutputScanner` with the text so far. It does not parse Markdown: each thing that a link, an image or a tag
needs (`](`, `]:`, `<a`, `://`, `//`, `www.`, the last dot of a host name, an entity that hides one of these) is looked
at by itself, wherever it stands, and only addresses of allowed hosts in their plainest form are left as they are. So
there is nothing to be parsed otherwise by somebody else's parser. What is decided depends on the text before it and at
most `hold_back` characters from where the thing begins: what is still undecided then is made inert.
"""

from __future__ import annotations

import html
import re
import unicodedata
from typing import NamedTuple

from nightproof.checks.leaving_urls import TLD_BEGINNINGS, TLDS, Hosts

REMOVED = "[link removed]"
LOOKS_BACK = 256
"""So many characters before what is undecided have to be there."""

# Everything that may need a look, for RE2: a text in which it finds nothing is plain. Where nothing was undecided
# before, it may be asked about a new piece alone.
MAY_BE_LIVE = (
    r"[<\]&]|:(?:\z|\S)|[/\\](?:\z|[/\\])|\.(?:\z|\S)"
    r"|(?:\A|[^A-Za-z0-9])(?i:h(?:t(?:tp?s?)?)?|w{1,3})\z"
)

_INTERESTING = re.compile(r"[<\]&:/\\.]")
_TAIL = re.compile(r"(?<![A-Za-z0-9])(?:h(?:t(?:tp?s?)?)?|w{1,3})\Z", re.IGNORECASE)
_URL_END = re.compile(r"[\s<>\"`|\[\]]")
_AFTER_URL = ".,;:!?'*_~(){}"
_SLASHES = re.compile(r"[/\\]*")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*\Z")
_HELD_SCHEMES = frozenset(("http", "https"))
_BARE_SCHEMES = frozenset(("javascript", "vbscript", "data", "mailto", "file", "blob"))
_TAG = re.compile(r"[A-Za-z/!?]")
_AUTOLINK = re.compile(r"<(https://[^\s<>]*)>", re.IGNORECASE)
_AUTOLINK_BEGUN = re.compile(r"<https://[^\s<>]*\Z", re.IGNORECASE)
_INLINE = re.compile(r"\]\((https://[^\s()<>\[\]\"\\`|]*)(?:[ \t]+\"[^\"\n<>\[\]&\\`]*\")?\)", re.IGNORECASE)
_INLINE_BEGUN = re.compile(
    r"\]\(https://[^\s()<>\[\]\"\\`|]*(?:[ \t]+(?:\"[^\"\n<>\[\]&\\`]*\"?)?)?\Z", re.IGNORECASE
)
_DEFINITION = re.compile(r"\]:[ \t]*(https://[^\s<>\[\]\"\\`|()]*)(?=[\s])", re.IGNORECASE)
_LAST_DEFINITION = re.compile(r"\]:[ \t]*(https://[^\s<>\[\]\"\\`|()]*)\Z", re.IGNORECASE)
_DEFINITION_BEGUN = re.compile(r"\]:[ \t]*(?:https://[^\s<>\[\]\"\\`|()]*)?\Z", re.IGNORECASE)
_HTTPS = "https://"
_ENTITY = re.compile(r"&(?:#[xX][0-9a-fA-F]{1,8};?|#[0-9]{1,8};?|[A-Za-z][A-Za-z0-9]{1,31};)")
_ENTITY_BEGUN = re.compile(r"&(?:#(?:[xX][0-9a-fA-F]{0,8}|[0-9]{0,8})|[A-Za-z][A-Za-z0-9]{0,31})?\Z")
_HIDES = frozenset(
    "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789:/\\.@[]()!#?=%*_`\t\n\r\x1b"
)
_NOT_OF_HOST = re.compile(r"[^\w.\-]|_")
_LABEL = re.compile(r"(?:[^\W_]|-)*")
_NO_HOST_BEFORE = frozenset(" \t\n(\"'[{<,/")
_THREE_NUMBERS = re.compile(r"(?<![\w.])\d{1,3}\.\d{1,3}\.\d{1,3}\Z")
# Finders of links take symbols for letters of a host: `//€.example`.
_LABEL_OF_ANY = r"[^\s!-#%-*,./:;<>?@\[\]\\{}]+"
_HOST = re.compile(rf"(?:[^@\s]*@)?(?:(?:{_LABEL_OF_ANY}\.)+{_LABEL_OF_ANY}|localhost)", re.IGNORECASE)


class Edit(NamedTuple):
    """A stretch of the answer and what leaves in its place."""

    start: int
    end: int
    text: str
    check: str
    rule: str

    @property
    def is_swallowed(self) -> bool:
        """Say whether it is the rest of an address that is longer than what is held back."""
        return self.rule == "long" and not self.text


class LinkScanner:
    """Goes over one answer, piece by piece."""

    def __init__(
        self, hosts: Hosts, *, hold_back: int, html_is_allowed: bool, bare_hosts_are_live: bool
    ) -> None:
        self._hosts = hosts
        self._hold_back = hold_back
        self._html_is_allowed = html_is_allowed
        self._bare_hosts_are_live = bare_hosts_are_live
        self._swallows = False
        self._text = ""
        self._is_end = False
        self._edits: list[Edit] = []

    @property
    def swallows(self) -> bool:
        """Say whether it is inside an address that is longer than anything that is held back."""
        return self._swallows

    def scan(self, text: str, at: int, *, is_end: bool) -> tuple[list[Edit], int]:
        """Look at `text` from `at` on: what is to be changed, and up to where all is decided.

        `is_end` says that nothing follows. Of what stands before `at` the last `LOOKS_BACK` characters are there.
        """
        self._text, self._is_end, self._edits = text, is_end, []
        if self._swallows:
            at = self._swallow(at)
        while at < len(text):
            found = _INTERESTING.search(text, at)
            if found is None:
                break
            next_at = self._look(found.start())
            if next_at < 0:
                return self._edits, ~next_at
            at = next_at
        decided = len(text)
        if not is_end and not self._swallows:
            tail = _TAIL.search(text, max(at, len(text) - 6, 0))
            if tail is not None:
                decided = tail.start()
        return self._edits, decided

    def _look(self, at: int) -> int:
        """Decide about what begins at `at` and return where to go on; `~place` where it has to wait from there."""
        match self._text[at]:
            case "<":
                return self._tag(at)
            case "]":
                return self._bracket(at)
            case "&":
                return self._entity(at)
            case ":":
                return self._colon(at)
            case ".":
                return self._dot(at)
        return self._slash(at)

    def _window(self, start: int) -> tuple[str, bool]:
        """Return what may be looked at of what begins at `start`, and whether that is all there will be."""
        window = self._text[start : start + self._hold_back]
        return window, self._is_end or len(window) == self._hold_back

    def _edit(self, start: int, end: int, text: str, *, check: str = "links", rule: str) -> int:
        self._edits.append(Edit(start, end, text, check, rule))
        return end

    def _tag(self, at: int) -> int:
        if self._html_is_allowed:
            return at + 1
        window, is_whole = self._window(at)
        if len(window) == 1:
            return at + 1 if is_whole else ~at
        if _TAG.match(window, 1) is None:
            return at + 1
        found = _AUTOLINK.match(window)
        if found is not None and not self._hosts.refuses(found[1]):
            return at + found.end()
        if not is_whole and _is_begun(window[1:], _AUTOLINK_BEGUN, window):
            return ~at
        return self._edit(at, at + 1, "&lt;", check="html", rule="tag")

    def _bracket(self, at: int) -> int:
        window, is_whole = self._window(at)
        if len(window) == 1:
            return at + 1 if is_whole else ~at
        if window[1] == "(":
            whole, begun, rest, rule = _INLINE, _INLINE_BEGUN, window[2:], "inline"
        elif window[1] == ":":
            whole, begun, rest, rule = _DEFINITION, _DEFINITION_BEGUN, window[2:].lstrip(" \t"), "definition"
        else:
            return at + 1
        found = whole.match(window)
        if found is None and rule == "definition" and self._is_end and len(window) < self._hold_back:
            found = _LAST_DEFINITION.match(window)
        if found is not None and not self._hosts.refuses(found[1]):
            return at + found.end()
        if not is_whole and _is_begun(rest, begun, window):
            return ~at
        return self._edit(at, at + 2, f"] {window[1]}", rule=rule)

    def _entity(self, at: int) -> int:
        window, is_whole = self._window(at)
        if not is_whole and _ENTITY_BEGUN.match(window):
            return ~at
        found = _ENTITY.match(window)
        if found is None:
            return at + 1
        meant = html.unescape(found[0] if found[0].endswith(";") else f"{found[0]};")
        if _HIDES.isdisjoint(meant) and meant.isprintable():
            return at + found.end()
        return self._edit(at, at + 1, "&amp;", rule="entity")

    def _colon(self, at: int) -> int:
        text = self._text
        before = _SCHEME.search(text, max(0, at - 16), at)
        word = before[0].lower() if before else ""
        start = at - len(word)
        is_apart = start == 0 or not _is_word(text[start - 1])
        if is_apart and (word in _HELD_SCHEMES or word in _BARE_SCHEMES):
            start = start if word in _HELD_SCHEMES else at
            if at + 1 == len(text):
                return at + 1 if self._is_end else ~start
            return at + 1 if text[at + 1].isspace() else self._url(start, at + 1)
        slashes = _SLASHES.match(text, at + 1, at + 3)
        many = len(slashes[0]) if slashes else 0
        if many == 2:
            return self._url(at, at + 3) if len(word) > 1 else at + 1
        is_open = at + 1 + many == len(text) and not self._is_end
        return ~at if is_open else at + 1

    def _url(self, start: int, after: int) -> int:
        """Decide about the address that begins at `start`; its scheme ends at `after`."""
        text, limit = self._text, start + self._hold_back
        found = _URL_END.search(text, after, limit)
        if found is not None:
            end = found.start()
        elif len(text) >= limit:
            return self._swallow_from(start, limit)
        elif self._is_end:
            end = len(text)
        else:
            return ~start
        url = text[start:end].rstrip(_AFTER_URL)
        if start + len(url) <= after:
            return end
        refused = self._hosts.refuses(f"https://{url}" if url[0] in "wW" else url)
        if not refused:
            return start + len(url)
        return self._edit(start, start + len(url), REMOVED, rule=refused)

    def _swallow_from(self, start: int, limit: int) -> int:
        """Begin to take out an address that is longer than anything that is held back."""
        self._edit(start, limit, REMOVED, rule="long")
        self._swallows = True
        return self._swallow(limit)

    def _swallow(self, at: int) -> int:
        found = _URL_END.search(self._text, at)
        end = len(self._text) if found is None else found.start()
        self._swallows = found is None
        if end > at:
            self._edit(at, end, "", rule="long")
        return end

    def _slash(self, at: int) -> int:
        text = self._text
        slashes = _SLASHES.match(text, at)
        run_end = slashes.end() if slashes else at + 1
        limit = at + self._hold_back
        if run_end >= limit:  # a line of them
            return limit
        if run_end == len(text) and not self._is_end:
            return ~at
        if run_end - at < 2:
            return run_end
        window, is_whole = self._window(at)
        found = _URL_END.search(window, run_end - at)
        if found is None and not is_whole:
            return ~at
        token = window[: found.start()] if found else window
        token = token.rstrip(_AFTER_URL)
        host = re.split(r"[/\\?#]", token[run_end - at :], maxsplit=1)[0]
        if _HOST.match(host) is None:
            return run_end
        if found is None and len(window) == self._hold_back:
            return self._swallow_from(at, limit)
        return self._edit(at, at + len(token), REMOVED, rule="scheme")

    def _dot(self, at: int) -> int:
        text = self._text
        is_www = text[max(0, at - 3) : at].lower() == "www" and not (at > 3 and _is_of_host(text[at - 4]))
        start = at - 3 if is_www else at
        if at + 1 == len(text):
            return at + 1 if self._is_end else ~start
        if at == 0 or text[at - 1] in _NO_HOST_BEFORE:
            return at + 1
        if is_www:
            return at + 1 if text[at + 1].isspace() else self._url(start, at + 1)
        if self._bare_hosts_are_live:
            return at + 1
        label = _LABEL.match(text, at + 1, at + 65)
        end = label.end() if label else at + 1
        name = text[at + 1 : end].lower()
        may_be_host = name in TLDS or name.startswith("xn--")
        if end == len(text) and not self._is_end:
            if name in TLD_BEGINNINGS or (name.isdigit() and len(name) < 4) or may_be_host:
                return ~at
            return at + 1
        if not may_be_host:
            is_address = name.isdigit() and len(name) < 4 and _THREE_NUMBERS.search(text, max(0, at - 12), at)
            if not is_address:
                return at + 1
        begins = at - len(_NOT_OF_HOST.split(text[max(0, at - 253) : at])[-1])
        is_whole = begins == 0 or not _is_of_host(text[begins - 1])
        if is_whole and self._hosts.admits(text[begins:end]):
            return at + 1
        return self._edit(at, at + 1, "[.]", rule="bare_host")


def _is_begun(rest: str, begun: re.Pattern[str], window: str) -> bool:
    """Say whether what stands in `window` may still become what `begun` is the beginning of."""
    if len(rest) < len(_HTTPS):
        return _HTTPS.startswith(rest.lower())
    return begun.match(window) is not None


def _is_word(letter: str) -> bool:
    return letter.isascii() and letter.isalnum()


def _is_of_host(letter: str) -> bool:
    """Say whether a letter before a host name makes it another one."""
    if letter.isascii():
        return letter.isalnum() or letter in ".-"
    return unicodedata.category(letter)[0] not in "ZP"
