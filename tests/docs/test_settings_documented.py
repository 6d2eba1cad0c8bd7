"""A knob that is not documented fails the build."""

from __future__ import annotations

from pathlib import Path

from nightproof.settings.load import KNOBS
from nightproof.settings.table import settings_table

PAGE = Path(__file__).parents[2] / "docs" / "settings.md"
REMAKE = (
    'print with: python -c "from nightproof.settings.table import settings_table; print(settings_table())"'
)


def test_every_knob_is_on_the_page():
    page = PAGE.read_text(encoding="utf-8")

    missing = [one.dotted for one in KNOBS if f"`{one.name}`" not in page or f"`{one.variable}`" not in page]

    assert missing == []


def test_the_page_carries_the_tables_as_the_knobs_are_now():
    page = PAGE.read_text(encoding="utf-8")

    assert settings_table() in page, f"docs/settings.md is behind; {REMAKE}"
