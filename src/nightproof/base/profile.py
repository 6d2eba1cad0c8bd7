"""The frozen profile of a release: what its data looked like when it was made, as counts. Plain data.

Built in a child process from `reference.parquet` (or, said so, from the first live rows), kept sealed, and never
changed afterwards. A `Signal` is one number or category that is watched; a feature may have several.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

import msgspec

VERSION = 1

SignalKind = Literal["number", "category"]
Side = Literal["input", "output", "check", "relation"]
Seasons = Literal["none", "hours", "months", "hours_and_months"]


class Signal(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that is watched, with how often each of its cells occurred in the reference.

    Cells of a number: below the range, the bins, above the range, missing, odd. Of a category: each usual value,
    the other known ones, missing, never seen.
    """

    name: str
    """What operators read: `/age`, `/note (length)`, `output /approve`, `relation 2`."""
    feature: str
    """The field it belongs to; several signals of a text share one."""
    side: Side
    pointer: str
    """Where the value is in a record."""
    kind: SignalKind
    measure: str = "value"
    """What is taken of the value: itself, a text's length, a component, …"""
    edges: list[float] = []
    values: list[str] = []
    """A category's usual values, as JSON."""
    known: list[int] = []
    """Hashes of its other known values; empty where there are too many to know."""
    once: int = 0
    """How many of them occurred once only."""
    tells_unseen: bool = True
    counts: list[list[int]] = []
    """Per segment, per cell."""
    tolerance: float = 0.01
    inflation: float = 1.0
    """How much more the reference's own blocks differ than independent rows would."""

    @property
    def cells(self) -> int:
        """Count the cells."""
        return cells_of(self)

    @property
    def missing_cell(self) -> int:
        """Return the place of the cell of missing values."""
        return self.cells - 2

    @property
    def odd_cell(self) -> int:
        """Return the place of the cell of what was never seen: an unknown category, another type."""
        return self.cells - 1

    def rare_cells(self) -> list[int]:
        """Return the cells that hold what is unusual in itself."""
        if self.kind == "number":
            return [0, self.cells - 3, self.cells - 2, self.cells - 1]
        return [self.cells - 2, self.cells - 1]

    def labels(self) -> list[str]:
        """Name the cells for people."""
        if self.kind == "category":
            return [*self.values, "(other)", "(missing)", "(never seen)"]
        ends = [f"{edge:.4g}" for edge in self.edges]
        inner = [f"{low} to {high}" for low, high in pairwise(ends)]
        return [f"below {ends[0]}", *inner, f"above {ends[-1]}", "(missing)", "(odd)"]


def cells_of(signal: Signal) -> int:
    """Count the cells of a signal: see `Signal`."""
    if signal.kind == "number":
        return len(signal.edges) + 1 + 2
    return len(signal.values) + 3


class TextSpace(msgspec.Struct, frozen=True):
    """Directions in the space of hashed words, fitted on the reference's texts of one field."""

    pointer: str
    buckets: int
    weights: bytes
    """float32: one weight per bucket (how telling a word is)."""
    directions: bytes
    """float32: components by buckets."""
    components: int


class Relations(msgspec.Struct, frozen=True):
    """Directions along which the numeric fields vary together: what no field shows alone."""

    pointers: list[str]
    centres: list[float]
    scales: list[float]
    directions: list[list[float]]


class Profile(msgspec.Struct, frozen=True, kw_only=True):
    """All that is known of a release's data."""

    version: int = VERSION
    service: str
    digest: str
    origin: Literal["reference", "live"]
    made_us: int
    rows: int
    answered_rows: int = 0
    """Of how many rows the release's own answers are in."""
    seasons: Seasons = "none"
    segment_rows: list[int]
    signals: list[Signal]
    texts: list[TextSpace] = []
    relations: Relations | None = None
    not_watched: dict[str, str] = {}
    """Fields that are not watched, or only in part, and why."""


def segments_of(seasons: Seasons) -> int:
    """Count the segments of a way to cut time."""
    return {"none": 1, "hours": 12, "months": 12, "hours_and_months": 144}[seasons]
