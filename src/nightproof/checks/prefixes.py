"""Of a regular expression in RE2's syntax, make the one that a beginning of its matches fits.

Called when rules are compiled. A stream has to know whether the text so far could still grow into a match: exactly
then it is held back. The expression made here holds for every non-empty beginning that stands at the end of the text,
and for whole matches that end there; it may hold for a little more (an assertion that cannot be known yet counts as
true), never for less.
"""

from __future__ import annotations

import re
from math import inf
from typing import NamedTuple

_QUANTIFIER = re.compile(r"([*+?]|\{\d+(?:,\d*)?\})([?]?)")
_CLASS_PART = re.compile(r"\[:\^?\w+:\]|\\[pP](?:\w|\{[^}]*\})|\\Q.*?\\E|\\x\{[^}]*\}|\\.|[^\]]", re.DOTALL)
_ESCAPE = re.compile(r"\\(?:[pP](?:\w|\{[^}]*\})|x\{[^}]*\}|x[0-9A-Fa-f]{2}|[0-7]{1,3}|.)", re.DOTALL)
_GROUP = re.compile(r"\((?:\?(?:P?<\w+>|:|([imsU]*)(?:-([imsU]*))?(:|\))))?")
_ZERO_WIDTH = frozenset((r"\A", r"\b", r"\B", r"\z", r"\G", "^", "$"))


class UnreadablePattern(ValueError):
    """The expression is in a form whose beginnings are not worked out."""


class _Item(NamedTuple):
    """One atom with its quantifier, or an assertion."""

    source: str
    """Of the atom alone."""
    fewest: int = 1
    most: int | None = 1
    branches: tuple[tuple[_Item, ...], ...] | None = None
    """Of a group."""
    flags: str = ""
    is_assertion: bool = False


_Branches = tuple[tuple[_Item, ...], ...]


def beginnings(source: str, *, least: int = 1) -> str:
    """Return the expression of what a match of `source` can begin with, up to the end of the text.

    Beginnings that cannot have `least` characters yet are left out.
    """
    reader = _Reader(source)
    branches = reader.branches()
    if reader.at < len(source):
        raise UnreadablePattern("an unbalanced )")
    return _of_branches(branches, least)


def _of_branches(branches: _Branches, least: float) -> str:
    made = [begun for branch in branches if (begun := _of_sequence(branch, least))]
    return f"(?:{'|'.join(made)})" if made else ""


def _of_sequence(items: tuple[_Item, ...], least: float) -> str:
    """Return what a sequence can begin with; each of its ends is made once for each number of characters missing."""
    made: dict[tuple[int, float], str] = {}

    def from_item(at: int, least: float) -> str:
        if at == len(items):
            return ""
        least = max(1.0, least)
        if (at, least) not in made:
            made[at, least] = of_item(at, least)
        return made[at, least]

    def of_item(at: int, least: float) -> str:
        item = items[at]
        if item.is_assertion:  # looked at only where something stands behind it
            begun = from_item(at + 1, least)
            return f"{item.source}{begun}" if begun else ""
        options = [_inside(item, least)]
        if item.most != 0 and (rest := from_item(at + 1, least - _width(item))):
            options.append(_repeated(item.source, max(1, item.fewest), item.most) + rest)
        if item.fewest == 0 and (rest := from_item(at + 1, least)):
            options.append(rest)
        options = list(dict.fromkeys(option for option in options if option))
        return f"(?:{'|'.join(options)})" if options else ""

    return from_item(0, least)


def _inside(item: _Item, least: float) -> str:
    """Return how it can end inside `item`, after some whole repetitions of it."""
    if item.most == 0:
        return ""
    most = None if item.most is None else item.most - 1
    once = _width(item._replace(most=1))
    before = inf if most is None else most * once if most else 0
    if item.branches is None:
        fewest = int(least) - 1
        return f"{_repeated(item.source, fewest, most)}{item.source}\\z" if before >= fewest else ""
    begun = _of_branches(item.branches, least - before)
    if begun and item.flags:
        begun = f"(?{item.flags}:{begun})"
    return f"{_repeated(item.source, 0, most)}{begun}" if begun else ""


def _width(item: _Item) -> float:
    """Return the most characters that `item` can be."""
    if item.is_assertion or item.most == 0:
        return 0
    once = 1.0 if item.branches is None else max(sum(map(_width, branch)) for branch in item.branches)
    if once == 0:
        return 0
    return once * (inf if item.most is None else item.most)


def _repeated(source: str, fewest: int, most: int | None) -> str:
    if most == 0:
        return ""
    if (fewest, most) == (1, 1):
        return source
    upper = "" if most is None else str(most)
    return f"(?:{source}){{{fewest},{upper}}}"


class _Reader:
    """Reads an expression that RE2 has accepted already."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.at = 0

    def branches(self) -> _Branches:
        """Read alternatives up to the end or the closing bracket, which is left."""
        done: list[tuple[_Item, ...]] = []
        items: list[_Item] = []
        while self.at < len(self.source) and self.source[self.at] != ")":
            if self.source[self.at] == "|":
                self.at += 1
                done.append(tuple(items))
                items = []
            elif flags := self._bare_flags():  # they rule the rest of the group, its other alternatives too
                rest_from = self.at
                rest = self.branches()
                source = f"(?{flags}:{self.source[rest_from : self.at]})"
                items.append(_Item(source, branches=rest, flags=flags))
                if len(rest) > 1:
                    raise UnreadablePattern("flags inside a group with alternatives")
            else:
                items.append(self._item())
        return (*done, tuple(items))

    def _bare_flags(self) -> str:
        found = _GROUP.match(self.source, self.at)
        if found is None or found[3] != ")":
            return ""
        self.at = found.end()
        return _flags(found)

    def _item(self) -> _Item:
        start = self.at
        item = self._atom()
        found = _QUANTIFIER.match(self.source, self.at)
        if found is None or item.is_assertion:
            return item
        self.at = found.end()
        if _QUANTIFIER.match(self.source, self.at):
            raise UnreadablePattern(f"a repeated repetition: {self.source[start : self.at + 1]}")
        fewest, most = _bounds(found[1])
        return item._replace(fewest=fewest, most=most)

    def _atom(self) -> _Item:
        start = self.at
        letter = self.source[start]
        if letter == "(":
            return self._group()
        if letter == "[":
            self._class()
        elif letter == "\\":
            if self.source.startswith((r"\Q", r"\C"), start):
                raise UnreadablePattern(self.source[start : start + 2])
            found = _ESCAPE.match(self.source, start)
            self.at = found.end() if found else start + 1
        else:
            self.at += 1
        source = self.source[start : self.at]
        return _Item(source, is_assertion=source in _ZERO_WIDTH)

    def _group(self) -> _Item:
        start = self.at
        found = _GROUP.match(self.source, start)
        if found is None:
            raise UnreadablePattern(self.source[start : start + 3])
        self.at = found.end()
        inner = self.at
        branches = self.branches()
        body = self.source[inner : self.at]
        self.at += 1
        flags = _flags(found) if found[3] else ""
        return _Item(f"(?{flags}:{body})", branches=branches, flags=flags)

    def _class(self) -> None:
        self.at += 1
        if self.source.startswith("^", self.at):
            self.at += 1
        if self.source.startswith("]", self.at):
            self.at += 1
        while not self.source.startswith("]", self.at):
            found = _CLASS_PART.match(self.source, self.at)
            if found is None:
                raise UnreadablePattern("an unclosed [")
            self.at = found.end()
        self.at += 1


def _flags(found: re.Match[str]) -> str:
    return (found[1] or "") + (f"-{found[2]}" if found[2] else "")


def _bounds(written: str) -> tuple[int, int | None]:
    match written:
        case "*":
            return 0, None
        case "+":
            return 1, None
        case "?":
            return 0, 1
    fewest, comma, most = written[1:-1].partition(",")
    if not comma:
        return int(fewest), int(fewest)
    return int(fewest), int(most) if most else None
