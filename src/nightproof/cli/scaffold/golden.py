"""Choose the golden cases out of the data: a few rows, spread over the answers, without what is masked.

Called by `planning`. Promises that no row's value of a masked column is in a case: numbers become the
column's median, texts a pseudonym, or a text that many rows share where the model takes no other.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import pandas as pd

from nightproof.cli.scaffold.model import Answers
from nightproof.cli.scaffold.plan import Column, Label, Unfit

CASES = 10
_SHARED_BY_ROWS = 10


def is_odd(label: Label) -> bool:
    """Say whether a model's answer is no answer: NaN or infinite."""
    return isinstance(label, float) and not math.isfinite(label)


def choose_rows(answers: Answers, inputs: pd.DataFrame, *, has_labels: bool) -> list[int]:
    """Return places of rows with spread answers: over all labels, or from lowest to highest number."""
    numbers = inputs.select_dtypes("number")
    finite = ~numbers.isin([math.inf, -math.inf]).any(axis=1)
    usable = [place for place, label in enumerate(answers.labels) if not is_odd(label) and finite.iloc[place]]
    chosen = _over_labels(answers, usable) if has_labels else _over_numbers(answers, usable)
    gaps = inputs.isna().any(axis=1)
    if chosen and not gaps.iloc[chosen].any():
        chosen[-1] = next((place for place in usable if gaps.iloc[place]), chosen[-1])
    return sorted(set(chosen))


def _over_labels(answers: Answers, usable: Sequence[int]) -> list[int]:
    by_label: dict[Label, list[int]] = defaultdict(list)
    for place in usable:
        by_label[answers.labels[place]].append(place)
    chosen: list[int] = []
    while len(chosen) < CASES and any(by_label.values()):
        for places in by_label.values():
            if places and len(chosen) < CASES:
                chosen.append(places.pop(0))
    return chosen


def _over_numbers(answers: Answers, usable: Sequence[int]) -> list[int]:
    ranked = sorted(usable, key=lambda place: answers.labels[place])
    if len(ranked) <= CASES:
        return ranked
    return [ranked[round(step * (len(ranked) - 1) / (CASES - 1))] for step in range(CASES)]


def masked_rows(
    rows: pd.DataFrame,
    everything: pd.DataFrame,
    masked: Sequence[Column],
    accepts: Callable[[pd.DataFrame], Any],
) -> pd.DataFrame:
    """Return the rows with stand-ins in the masked columns, such that the model takes them. Raises Unfit."""
    refusal: Unfit | None = None
    for with_pseudonyms in (True, False):
        changed = rows.copy()
        for column in masked:
            values = everything[column.name]
            stand_ins = _stand_ins(column, values, len(rows), with_pseudonyms=with_pseudonyms)
            changed[column.name] = pd.Series(stand_ins, index=rows.index, dtype=values.dtype)
        try:
            accepts(changed)
        except Unfit as unfit:
            refusal = unfit
        else:
            return changed
    raise Unfit(
        f"The model takes no stand-in for {', '.join(column.name for column in masked)}: {refusal}",
        hint="Train it so that it ignores unknown values there, or leave the column out of --mask.",
    )


def _stand_ins(column: Column, values: pd.Series[Any], count: int, *, with_pseudonyms: bool) -> list[Any]:
    filled = values.dropna()
    if filled.empty:
        return [None] * count
    is_plain_text = column.kind == "str" and column.dtype != "category" and not column.pattern
    if is_plain_text and with_pseudonyms:
        return [f"{column.field}-{number}" for number in range(1, count + 1)]
    if column.kind in ("str", "bool"):
        shared = filled.value_counts()
        if shared.iloc[0] >= _SHARED_BY_ROWS:
            return [shared.index[0]] * count
        if column.nullable:
            return [None] * count
        raise Unfit(
            f"--mask {column.name}: no stand-in can be made for it.",
            hint="Leave it out of --mask, or train the model so that it takes unknown values there.",
        )
    if column.kind != "datetime" and len(filled) < _SHARED_BY_ROWS:
        return [0] * count  # the median of few rows is somebody's value
    return [int(filled.median()) if column.kind == "int" else filled.median()] * count


def as_json(rows: pd.DataFrame, columns: Sequence[Column]) -> list[bytes]:
    """Write rows as a caller would send them."""
    return [
        msgspec.json.encode(
            {column.name: _as_plain(row[place], column) for place, column in enumerate(columns)}
        )
        for row in rows[[column.name for column in columns]].itertuples(index=False, name=None)
    ]


def _as_plain(value: Any, column: Column) -> Any:
    if pd.isna(value):
        return None
    if column.kind == "datetime":
        return pd.Timestamp(value).isoformat() + ("Z" if pd.Timestamp(value).tzinfo is None else "")
    if column.kind == "str":
        return str(value)
    return {"int": int, "float": float, "bool": bool}[column.kind](value)
