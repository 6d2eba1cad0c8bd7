"""Judge how well a model goes with one reading of the data. Called by `planning`, pure."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pandas as pd

from nightproof.cli.scaffold.columns import is_text
from nightproof.cli.scaffold.model import Answers
from nightproof.cli.scaffold.plan import Label

_ROWS_AT_LEAST = 5


def known_share(known: frozenset[str], inputs: pd.DataFrame) -> float:
    """Return how well the data's categories and those that the encoders know cover each other, 0 to 1.

    Columns that share no text with the encoders, even without blanks, are free text: known to nobody.
    """
    if not known:
        return 1.0
    stripped = {text.strip() for text in known}
    texts: Counter[str] = Counter()
    for name in inputs.columns:
        if is_text(inputs[name]):
            of_column = Counter(inputs[name].dropna().astype(str))
            if not stripped.isdisjoint(text.strip() for text in of_column):
                texts += of_column
    known_cells = sum(often for text, often in texts.items() if text in known)
    return (known_cells / max(1, texts.total()) + len(known & texts.keys()) / len(known)) / 2


def agreement(answers: Answers, truth: pd.Series[Any], *, are_labels: bool) -> float:
    """Return how well the answers tell the target, 0 to 1; labels may have other names than in the target."""
    both = _paired(answers, truth)
    if len(both) < _ROWS_AT_LEAST:
        return 0.0
    if are_labels:
        most = both.groupby("told")["truth"].agg(lambda values: values.value_counts().iloc[0])
        return float(most.sum() / len(both))
    if not pd.api.types.is_numeric_dtype(both["truth"]):
        return 0.0
    spread = (both["truth"] - both["truth"].median()).abs().mean()
    missed = (both["truth"] - both["told"]).abs().mean()
    return float(max(0.0, 1 - missed / spread)) if spread else 0.0


def agreement_words(answers: Answers, truth: pd.Series[Any], *, are_labels: bool) -> str:
    """Tell people how the answers and the target go together on the sampled rows."""
    both = _paired(answers, truth)
    if len(both) < _ROWS_AT_LEAST:
        return ""
    name = str(truth.name).strip()
    if not are_labels:
        if not pd.api.types.is_numeric_dtype(both["truth"]):
            return ""
        error = (both["truth"] - both["told"]).abs().median()
        return f"half of its answers are within {error:.3g} of {name}"
    share = agreement(answers, truth, are_labels=True)
    return f"it tells {name} right in {share:.0%} of {len(both):,} rows"


def meanings(answers: Answers, truth: pd.Series[Any], classes: list[Label]) -> list[str]:
    """Say for each class how the target mostly calls it; nothing if they have the same names."""
    both = _paired(answers, truth)
    names = set(map(str, both["truth"].unique()))
    if {str(label) for label in classes} <= names or both.empty:
        return []
    most = both.groupby("told")["truth"].agg(lambda values: str(values.value_counts().index[0]))
    return [most.get(label, "") for label in classes]


def _paired(answers: Answers, truth: pd.Series[Any]) -> pd.DataFrame:
    told = pd.Series(answers.labels, index=truth.index[: len(answers.labels)])
    return pd.DataFrame({"truth": truth, "told": told}).dropna()
