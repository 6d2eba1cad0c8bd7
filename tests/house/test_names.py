"""The names that users import: few, documented, and what the package exports."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

import nightproof
from tests.serving import ROOT

NAMES = [name for name in nightproof.__all__ if not name.startswith("__")]


def test_there_are_at_most_twenty_public_names():
    assert len(nightproof.__all__) <= 20
    assert nightproof.__all__ == sorted(nightproof.__all__)
    assert len(set(nightproof.__all__)) == len(nightproof.__all__)


@pytest.mark.parametrize("name", NAMES)
def test_a_public_name_is_there_and_says_what_it_is(name: str):
    thing = getattr(nightproof, name)
    told = inspect.getdoc(thing) or ""

    assert len(told.split()) >= 4, f"{name} has no docstring of its own"


@pytest.mark.parametrize("name", NAMES)
def test_a_public_name_is_shown_to_users(name: str):
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]

    assert any(re.search(rf"\b{name}\b", page.read_text(encoding="utf-8")) for page in pages)


def test_what_is_not_a_public_name_is_not_offered():
    modules = {path.stem for path in Path(nightproof.__file__).parent.iterdir()}
    offered = {name for name in vars(nightproof) if not name.startswith("_")}

    assert offered - modules <= set(nightproof.__all__)
