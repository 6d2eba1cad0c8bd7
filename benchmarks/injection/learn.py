"""Fit a question's classifier: features of rows, weights by logistic regression, rounded to eight bits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse
from sklearn.linear_model import LogisticRegression

from nightproof.checks.text import features
from nightproof.checks.text.model import Model, Question, Weights, prepared
from nightproof.checks.text.normalise import matching, normal

REGULARISATION = {"prompt": 3.0, "document": 3.0}
GROUP_WEIGHTS = (1.0, 1.0, 1.0, 0.3)
"""How much each group of features counts before the fit: letters, words, concepts, shape."""

SOURCE_WEIGHTS = {"own-sentences": 16.0}
"""Of sources that count for more than the root of their size."""


class Row(NamedTuple):
    """One text to learn from."""

    text: str
    label: int
    source: str
    kind: str = ""
    payload: str = ""


def matrix(question: Question, rows: Sequence[Row]) -> Any:
    """Return the rows' features, each group of a row of length one times its weight."""
    forms = []
    for row in rows:
        seen = normal(row.text[:6_000])
        form = matching(seen)
        forms += prepared([form], seen)
    parts = []
    for start in range(0, len(forms), 512):
        some = forms[start : start + 512]
        where, what, value = [], [], []
        for group, weight in zip(
            features.of(some, with_shape=question == "prompt"), GROUP_WEIGHTS, strict=False
        ):
            counts = np.bincount(group.piece, minlength=len(some))
            where.append(group.piece)
            what.append(group.slot)
            value.append(weight / np.sqrt(counts[group.piece]))
        parts.append(
            scipy.sparse.csr_matrix(
                (np.concatenate(value), (np.concatenate(where), np.concatenate(what))),
                shape=(len(some), features.SLOTS),
            )
        )
    return scipy.sparse.vstack(parts).tocsr()


def balanced(rows: Sequence[Row]) -> Any:
    """Weigh rows so that a source counts by the root of its size, and both labels the same in all."""
    sizes = Counter((row.source, row.label) for row in rows)
    weights = np.array(
        [SOURCE_WEIGHTS.get(row.source, 1.0) * sizes[row.source, row.label] ** -0.5 for row in rows]
    )
    labels = np.array([row.label for row in rows])
    for label in (0, 1):
        weights[labels == label] *= len(rows) / 2 / weights[labels == label].sum()
    return weights


def fit(question: Question, rows: Sequence[Row], given: Any = None, *, threshold: float = 0.0) -> Model:
    """Fit a model to rows; `given` are their features where they are known already."""
    table, about = weights_of(
        question, rows, matrix(question, rows) if given is None else given, threshold=threshold
    )
    return Model(about, table)


def weights_of(
    question: Question, rows: Sequence[Row], given: Any, *, threshold: float
) -> tuple[Any, Weights]:
    """Fit, and round to eight bits."""
    labels = np.array([row.label for row in rows])
    fitted = LogisticRegression(C=REGULARISATION[question], max_iter=300, tol=1e-3, solver="lbfgs")
    fitted.fit(given, labels, sample_weight=balanced(rows))
    exact = fitted.coef_[0].copy()
    table = np.zeros(features.SLOTS, dtype=np.int8)
    scales = []
    ends = (*features.OFFSETS[1:], features.SLOTS)
    for start, end, weight in zip(features.OFFSETS, ends, GROUP_WEIGHTS, strict=True):
        part = exact[start:end] * weight
        scale = float(np.abs(part).max() or 1.0) / 127
        table[start:end] = np.rint(part / scale)
        scales.append(scale)
    sources = sorted({row.source for row in rows})
    return table, Weights(question, features.VERSION, float(fitted.intercept_[0]), scales, threshold, sources)
