"""What a match can begin with is known of every pattern that is looked for in streams."""

from __future__ import annotations

import pytest
import re2
from hypothesis import given, settings
from hypothesis import strategies as st

from nightproof.checks.leaving_patterns import PatternSet
from nightproof.checks.prefixes import UnreadablePattern, beginnings
from nightproof.checks.text import personal, secrets
from nightproof.checks.text.named import NamedPattern

_ATOMS = st.sampled_from(
    ["a", "b", "c", ".", "[ab]", "[^a]", r"\d", r"\x61", "(?:ab|c)", "(?i:A|bc)", "(?:a?b)", r"\b", "^", "$"]
)
_QUANTIFIERS = st.sampled_from(["", "", "?", "*", "+", "{2}", "{1,3}", "{2,}", "*?"])
patterns = st.lists(st.tuples(_ATOMS, _QUANTIFIERS), min_size=1, max_size=5).map(
    lambda parts: "".join(atom + (times if atom not in (r"\b", "^", "$") else "") for atom, times in parts)
)
texts = st.text("abcA1 ", max_size=14)


@given(first=patterns, second=patterns, text=texts, least=st.integers(1, 4))
@settings(max_examples=500, deadline=None)
def test_every_beginning_of_a_match_is_one(first: str, second: str, text: str, least: int) -> None:
    pattern = f"{first}|{second}"
    begun = beginnings(pattern, least=least)
    for found in re2.finditer(pattern, text):
        for end in range(found.start() + least, found.end() + 1):
            assert begun
            assert re2.compile(begun).match(text[:end], found.start()) is not None, (
                pattern,
                begun,
                text[:end],
            )


@given(source=patterns, text=texts, cuts=st.lists(st.integers(0, 14), max_size=6))
@settings(max_examples=500, deadline=None)
def test_a_stream_is_searched_like_the_whole(source: str, text: str, cuts: list[int]) -> None:
    if re2.search(source, "") is not None:
        return
    patterns = PatternSet([NamedPattern("one", source, 0)], longest_chars=64)
    whole, _, _ = patterns.scan(text, 0, is_end=True)
    found, at = [], 0
    for end in sorted(cuts):
        more, at, _ = patterns.scan(text[:end], at, is_end=False)
        found += more
    more, _, _ = patterns.scan(text, at, is_end=True)

    assert [*found, *more] == whole


@pytest.mark.parametrize(
    "pattern", [*secrets.patterns(), *personal.patterns()], ids=lambda pattern: pattern.name
)
def test_the_built_in_patterns_can_be_read(pattern: NamedPattern) -> None:
    assert beginnings(pattern.source, least=6)


@pytest.mark.parametrize("pattern", [r"\Qa.b\E", "a**", "(?:x|(?i)y|z"])
def test_what_cannot_be_read_is_said_to_be(pattern: str) -> None:
    with pytest.raises(UnreadablePattern):
        beginnings(pattern)
