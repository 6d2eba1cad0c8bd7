"""A scikit-learn estimator, or anything with its methods, from a joblib or pickle file.

Opening such a file runs the code inside it: in the probe's process only.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from nightproof.cli.scaffold.columns import is_text
from nightproof.cli.scaffold.model import (
    BY_HAND,
    Answers,
    Wants,
    as_numbers,
    asked,
    first_lines,
    imported,
    missing_module,
    one_answer_a_row,
)
from nightproof.cli.scaffold.plan import Label, Sklearn, Unfit

_WALK_DEPTH = 8


class SklearnModel:
    """An estimator with scikit-learn's methods."""

    def __init__(self, path: Path) -> None:
        self._file = path.name
        self._model = _load_pickle(path)
        _refuse_what_is_no_estimator(self._model, path)
        self.is_classifier = hasattr(self._model, "classes_")
        self._has_shares = self.is_classifier and hasattr(self._model, "predict_proba")
        self._takes_array: bool | None = None
        self._agrees = True
        if self.is_classifier and not hasattr(self._model.classes_, "dtype"):
            raise Unfit("The model answers several labels at once.", hint=BY_HAND)
        self.words = _words_of(self._model)

    def wants(self) -> Wants:
        names = getattr(self._model, "feature_names_in_", None)
        count = getattr(self._model, "n_features_in_", None)
        if names is None and hasattr(self._model, "feature_name_") and self._fitted_on_frame():
            names = self._model.feature_name_  # LightGBM before it followed scikit-learn
        return Wants(
            names=None if names is None else tuple(map(str, names)),
            count=None if count is None else int(count),
            drops=frozenset(_dropped_columns(self._model)),
        )

    def _fitted_on_frame(self) -> bool:
        return not all(str(name).startswith("Column_") for name in self._model.feature_name_)

    def classes(self) -> list[Label]:
        return self._model.classes_.tolist() if self.is_classifier else []

    def categories(self) -> frozenset[str]:
        return frozenset(_known_texts(self._model, _WALK_DEPTH, set()))

    def answer(self, frame: pd.DataFrame) -> Answers:
        rows = self._rows(frame)
        predicted = asked(self._model.predict, rows)
        labels = one_answer_a_row(predicted, len(frame))
        if not self._has_shares:
            return Answers(labels if self.is_classifier else as_numbers(labels))
        shares = np.asarray(asked(self._model.predict_proba, rows))
        known = self._model.classes_.tolist()
        self._agrees &= [known[best] for best in shares.argmax(axis=1)] == labels
        places = [known.index(label) for label in labels]
        return Answers(labels, shares[np.arange(len(places)), places].clip(0.0, 1.0).tolist())

    def _rows(self, frame: pd.DataFrame) -> Any:
        """Give the frame, or its bare numbers where the model was fitted on an array."""
        if self._takes_array is None:
            if hasattr(self._model, "feature_names_in_") or self._takes(frame):
                self._takes_array = False
            elif not any(is_text(frame[name]) for name in frame.columns) and self._takes(frame.to_numpy()):
                self._takes_array = True
        return frame.to_numpy() if self._takes_array else frame

    def _takes(self, rows: Any) -> bool:
        """Say whether the model answers without complaint that it was fitted on something else."""
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            try:
                self._model.predict(rows)
            except Exception:  # noqa: BLE001  # any error is a no here; `answer` tells it
                return False
        return not any("fitted without feature names" in str(warning.message) for warning in told)

    def family(self) -> Sklearn:
        if not self.is_classifier:
            calls: Any = "numbers"
        elif not self._has_shares:
            calls = "labels"
        else:
            calls = "shares" if self._agrees else "labels_and_shares"
        return Sklearn(file=self._file, calls=calls, takes_array=bool(self._takes_array))


def _load_pickle(path: Path) -> Any:
    joblib = imported("joblib", "nightproof[sklearn]")
    try:
        return joblib.load(path)
    except ModuleNotFoundError as error:
        raise missing_module(error) from error
    except AttributeError as error:
        raise Unfit(
            f"{path.name} needs code that is not here: {first_lines(error)}",
            hint="Move the training script's classes and functions into a module beside the model.",
        ) from error
    except Exception as error:  # a pickle is a program and may raise anything
        raise Unfit(
            f"{path.name} cannot be loaded: {type(error).__name__}: {first_lines(error)}",
            hint="Give a file written by joblib.dump or pickle.dump, an .onnx file, or an MLflow folder.",
        ) from error


def _refuse_what_is_no_estimator(model: Any, path: Path) -> None:
    if callable(getattr(model, "predict", None)):
        return
    if isinstance(model, Mapping):
        found = [str(key) for key, value in model.items() if callable(getattr(value, "predict", None))]
        raise Unfit(
            f"{path.name} holds a dict with {', '.join(map(str, list(model)[:8]))}, not a model.",
            hint="Save the estimator itself, with its preprocessing in one Pipeline"
            + (f" (there is one under {found[0]!r})." if found else "."),
        )
    raise Unfit(
        f"{path.name} holds a {type(model).__name__}, which has no predict.",
        hint="Save a fitted estimator or Pipeline with joblib.dump.",
    )


def _words_of(model: Any) -> str:
    steps = getattr(model, "steps", None)
    name = type(model).__name__
    return f"{name} ({' → '.join(type(step).__name__ for _, step in steps)})" if steps else name


def _dropped_columns(model: Any) -> Iterator[str]:
    """Yield the columns that a leading ColumnTransformer was fitted beside and drops."""
    first = model.steps[0][1] if getattr(model, "steps", None) else model
    transformers, names = getattr(first, "transformers_", None), getattr(first, "feature_names_in_", None)
    if transformers is None or names is None:
        return
    used: set[str] = set()
    for _, transformer, columns in transformers:
        if not (isinstance(transformer, str) and transformer == "drop"):
            used.update(_names_of(columns, names))
    yield from (str(name) for name in names if str(name) not in used)


def _names_of(columns: Any, names: Any) -> Iterator[str]:
    if isinstance(columns, slice):
        yield from map(str, names)  # rare; keep all rather than read the slice wrongly
        return
    for column in [columns] if isinstance(columns, str | int) else list(columns):
        if isinstance(column, bool | np.bool_):
            yield from map(str, names)
            return
        yield str(names[column]) if isinstance(column, int | np.integer) else str(column)


def _known_texts(thing: Any, depth: int, seen: set[int]) -> Iterator[str]:
    """Walk through a fitted model and yield the texts in every encoder's `categories_`."""
    if (
        depth == 0
        or id(thing) in seen
        or isinstance(thing, str | bytes | int | float | np.ndarray | type(None))
    ):
        return
    seen.add(id(thing))
    if isinstance(thing, Mapping):
        inside: Any = thing.values()
    elif isinstance(thing, list | tuple):
        inside = thing
    elif hasattr(thing, "get_params"):
        for known in getattr(thing, "categories_", ()):
            yield from (text for text in np.asarray(known, dtype=object) if isinstance(text, str))
        inside = vars(thing).values() if hasattr(thing, "__dict__") else ()
    else:
        return
    for part in inside:
        yield from _known_texts(part, depth - 1, seen)
