"""Find out how training read the CSV, so that the model is given what it was trained on.

Blanks after the delimiter, `?` marks, dates and categories can be read in several ways, and a model file does
not say which. Each way is tried on a sample: the model must answer, know the categories, and agree with the
target. Called by `planning`; needs pandas.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import pandas as pd

from nightproof.cli.scaffold.columns import date_pattern, is_text
from nightproof.cli.scaffold.plan import Unfit
from nightproof.cli.scaffold.table import Table

SAMPLE_ROWS = 2_000
Marks = Literal["all", "pandas", "none"]


@dataclass(frozen=True, kw_only=True)
class Reading:
    """One way to read the file. The defaults are what a careful person writes."""

    strips: bool = True
    """Drop the blanks after a delimiter."""
    marks: Marks = "all"
    """Which texts mean a missing value: also `?`, those that pandas knows, or empty cells only."""
    dates: bool = False
    categories: bool = False

    @property
    def words(self) -> str:
        """Tell people how this way differs from the careful one."""
        parts = []
        if not self.strips:
            parts.append("the blanks after the delimiters belong to the values")
        if self.marks != "all":
            parts.append(
                "`?` is a value" if self.marks == "pandas" else "only empty cells are missing values"
            )
        if self.dates:
            parts.append("dates are parsed")
        if self.categories:
            parts.append("texts are pandas categories")
        return ", ".join(parts)

    def frame(self, table: Table, *, nullable: bool = False) -> pd.DataFrame:
        """Read the table as training did; `nullable` keeps whole numbers whole beside gaps."""
        options: dict[str, Any] = {"dtype_backend": "numpy_nullable"} if nullable else {}
        try:
            frame = pd.read_csv(
                io.StringIO(table.text),
                sep=table.delimiter,
                decimal=table.decimal,
                skipinitialspace=self.strips,
                keep_default_na=self.marks != "none",
                na_values={"all": ["?", " ?", "? "], "pandas": [], "none": [""]}[self.marks],
                index_col=False,
                low_memory=False,
                **options,
            )
        except (pd.errors.ParserError, ValueError) as error:
            raise Unfit(
                f"pandas cannot read {table.path.name}: {error}.", hint="Mend the file, or save it anew."
            ) from error
        return frame if nullable else self._as_the_model_takes(frame)

    def _as_the_model_takes(self, frame: pd.DataFrame) -> pd.DataFrame:
        if not (self.dates or self.categories):
            return frame
        for name in frame.columns:
            if not is_text(frame[name]):
                continue
            if date_pattern(frame[name]):
                if self.dates:
                    frame[name] = pd.to_datetime(frame[name], errors="coerce")
            elif self.categories:
                frame[name] = frame[name].astype("category")
        return frame


@dataclass(frozen=True)
class Trial:
    """What a model made of one reading."""

    known_share: float
    """Share of the category values that the model's encoders know; 1 if it has none."""
    agreement: float
    """How well the answers go with the target, 0 to 1; 0 if there is none."""


def choose(table: Table, judge: Callable[[pd.DataFrame], Trial]) -> tuple[Reading, pd.DataFrame]:
    """Return the reading that the model does best with, and the whole frame read so.

    `judge` raises Unfit where the model cannot answer; if it never can, the first refusal is raised.
    """
    best: tuple[tuple[float, float], Reading, pd.DataFrame] | None = None
    refusal: Unfit | None = None
    for reading, frame in _different(table):
        if best is not None and (reading.dates or reading.categories):
            break  # parsed columns are for models that take nothing else
        try:
            trial = judge(sample(frame))
        except Unfit as unfit:
            refusal = refusal or unfit
            continue
        score = (round(trial.known_share, 3), round(trial.agreement, 2))
        if best is None or score > best[0]:
            best = (score, reading, frame)
    if best is None:
        raise refusal or Unfit(
            "The model answers nothing.", hint="Try its predict on the CSV in Python first."
        )
    return best[1], best[2]


def sample(frame: pd.DataFrame, rows: int = SAMPLE_ROWS) -> pd.DataFrame:
    """Draw rows evenly by chance, the same ones each time, in the order of the file."""
    return frame if len(frame) <= rows else frame.sample(rows, random_state=0).sort_index()


def _different(table: Table) -> Iterator[tuple[Reading, pd.DataFrame]]:
    """Yield the ways that give different frames, the careful one first."""
    plain = [
        Reading(),
        Reading(strips=False, marks="pandas"),
        Reading(marks="pandas"),
        Reading(strips=False),
        Reading(marks="none"),
        Reading(strips=False, marks="none"),
    ]
    seen: list[pd.DataFrame] = []
    for reading in plain:
        frame = reading.frame(table)
        if not any(frame.equals(other) for other in seen):
            seen.append(frame)
            yield reading, frame
    kept = plain[:2] if len(seen) > 1 else plain[:1]
    for dates, categories in ((True, False), (False, True), (True, True)):
        for reading in kept:
            changed = replace(reading, dates=dates, categories=categories)
            frame = changed.frame(table)
            if not any(frame.dtypes.equals(other.dtypes) and frame.equals(other) for other in seen):
                seen.append(frame)
                yield changed, frame
