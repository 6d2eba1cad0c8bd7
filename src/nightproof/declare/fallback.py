"""The other ways to answer, in the order they are tried: `fallback.previous_release()` and its kin.

An answer by a fallback says so (`degraded`). A fallback never hides what went wrong: the record keeps it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal

from pydantic import BaseModel

Kind = Literal["previous_release", "last_good", "rule", "constant"]


@dataclass(frozen=True)
class Fallback:
    """One declared other way to answer. Make one with the functions of this module."""

    kind: Kind
    answer: BaseModel | str | None = None
    rule: Callable[[Any], BaseModel] | None = None
    max_age_s: float = 0.0


def previous_release() -> Fallback:
    """Answer with the release that was live before this one, kept warm in a pool of its own."""
    return Fallback("previous_release")


def last_good(max_age: timedelta = timedelta(hours=1)) -> Fallback:
    """Answer with the last good answer to the very same input, if one is younger than `max_age`."""
    if max_age <= timedelta(0):
        raise ValueError("last_good needs a positive max_age.")
    return Fallback("last_good", max_age_s=max_age.total_seconds())


def rule(function: Callable[[Any], BaseModel]) -> Fallback:
    """Answer with `function(given)`: plain code that runs in a worker, beside the model."""
    return Fallback("rule", rule=function)


def constant(answer: BaseModel | str) -> Fallback:
    """Answer with the same answer to everyone; it needs nothing that could fail. A text is for chat services."""
    return Fallback("constant", answer=answer)
