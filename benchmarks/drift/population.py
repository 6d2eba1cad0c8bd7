"""A population to draw windows from: fourteen fields of a census, made by chance, and ways to spoil them.

Skewed numbers, masses at zero, a long tail of countries, gaps, and fields that depend on one another: what usual
tables have. No file is needed, and a seed gives the same rows each time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

Row = dict[str, Any]
Spoil = Callable[[Row, np.random.Generator], Row]

NUMBERS = ("age", "weight", "schooling", "gain", "loss", "hours")
SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        **{name: {"anyOf": [{"type": "number"}, {"type": "null"}]} for name in NUMBERS},
        **{
            name: {"anyOf": [{"type": "string"}, {"type": "null"}]}
            for name in ("work", "education", "status", "job", "family", "origin", "sex", "country")
        },
    },
}
_CHOICES = {"education": 16, "status": 7, "job": 14, "family": 6, "origin": 5, "sex": 2, "country": 40}


def rows(count: int, seed: int) -> list[Row]:
    """Draw that many people."""
    rng = np.random.default_rng(seed)
    age = np.round(17 + rng.gamma(2.6, 8.4, count)).clip(17, 90)
    schooling = np.round(rng.normal(10, 2.6, count) + (age > 25) * 0.6).clip(1, 16)
    hours = np.where(rng.random(count) < 0.47, 40.0, np.round(rng.normal(41, 14, count))).clip(1, 99)
    columns: dict[str, list[Any]] = {
        "age": age.tolist(),
        "weight": np.round(rng.lognormal(12, 0.6, count)).tolist(),
        "schooling": schooling.tolist(),
        "gain": np.where(rng.random(count) < 0.915, 0.0, np.round(rng.lognormal(8.6, 1.1, count))).tolist(),
        "loss": np.where(rng.random(count) < 0.953, 0.0, np.round(rng.normal(1_870, 370, count))).tolist(),
        "hours": hours.tolist(),
        "work": [None if one < 0.056 else f"w{int(one * 8)}" for one in rng.random(count) ** 0.6],
    }
    for name, size in _CHOICES.items():
        tail = 2.2 if name == "country" else 0.9
        weights = 1 / np.arange(1, size + 1) ** tail
        drawn = rng.choice(size, count, p=weights / weights.sum())
        if name == "education":
            drawn = (schooling.astype(int) - 1) % size
        columns[name] = [f"{name[0]}{one}" for one in drawn]
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def _shift(name: str, by: float) -> Spoil:
    return lambda row, _: {**row, name: row[name] + by}


def _drop(name: str, share: float) -> Spoil:
    return lambda row, rng: {**row, name: None} if rng.random() < share else row


def _times(name: str, factor: float, share: float) -> Spoil:
    return lambda row, rng: {**row, name: row[name] * factor} if rng.random() < share else row


def _unknown(name: str, share: float) -> Spoil:
    return lambda row, rng: {**row, name: "?"} if rng.random() < share else row


AGE_SD = 13.5
SPOILS: dict[str, tuple[str, Spoil]] = {
    "age + 0.5 sd": ("/age", _shift("age", 0.5 * AGE_SD)),
    "age + 0.25 sd": ("/age", _shift("age", 0.25 * AGE_SD)),
    "age + 0.1 sd (about the tolerance)": ("/age", _shift("age", 0.1 * AGE_SD)),
    "10 % of education missing": ("/education", _drop("education", 0.1)),
    "10 % more of work missing": ("/work", _drop("work", 0.1)),
    "hours x 60 on 20 % of rows": ("/hours", _times("hours", 60, 0.2)),
    "hours x 60 on 5 % of rows": ("/hours", _times("hours", 60, 0.05)),
    "5 % of jobs never seen": ("/job", _unknown("job", 0.05)),
}
"""What is done to the rows, with the one field that must be named."""
