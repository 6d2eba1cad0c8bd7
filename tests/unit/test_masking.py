"""What pointers name in a record is masked, and found again where a text quotes it."""

from __future__ import annotations

from typing import Any

import pytest

from nightproof.base.masking import MASK, mask, texts_at

RECORD = {
    "name": "Ada",
    "notes": [{"text": "one", "by": "x"}, {"text": "two"}],
    "map": {"a": {"text": "three"}, "b": {"text": 4}},
    "a/b": {"~": "odd"},
    "none": None,
    "flag": True,
}


@pytest.mark.parametrize(
    ("pointers", "texts"),
    [
        ([], []),
        (["/name"], ["Ada"]),
        (["/notes/*/text"], ["one", "two"]),
        (["/map/*/text"], ["three", "4"]),
        (["/map"], ["three", "4"]),
        (["/a~1b/~0"], ["odd"]),
        (["/none"], []),
        (["/flag"], []),
        (["/missing/*/text"], []),
        (["/name/deeper"], []),
        (["/name", "/notes/*/by"], ["Ada", "x"]),
    ],
)
def test_the_texts_that_pointers_name_are_found(pointers: list[str], texts: list[str]) -> None:
    assert sorted(texts_at(RECORD, pointers)) == sorted(texts)


def test_longer_texts_come_first_so_that_none_is_left_in_pieces() -> None:
    assert texts_at({"a": "Ada", "b": "Ada Lovelace"}, [""]) == ["Ada Lovelace", "Ada"]


@pytest.mark.parametrize("value", [RECORD, [1, "two"], "text", 7])
def test_the_pointer_to_the_whole_masks_all(value: Any) -> None:
    assert mask(value, [""]) == MASK
