"""Write `docs/readiness.md` from what was found. Pure, but for reading the kept results."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from nightproof.drills.observed import Result, Verdict, Word


class Column(msgspec.Struct, frozen=True, kw_only=True):
    """What was found of one system."""

    name: str
    title: str
    version: str
    configured: str
    not_run: str = ""
    measured: str
    starts: int
    load: float
    results: list[Result]


def read(path: Path) -> Column:
    """Read what was kept."""
    return msgspec.json.decode(path.read_bytes(), type=Column)


def as_markdown(columns: Sequence[Column], *, about: dict[str, Any]) -> str:
    """Write the page."""
    return "\n\n".join(columns and ["# TODO"]) + "\n"
