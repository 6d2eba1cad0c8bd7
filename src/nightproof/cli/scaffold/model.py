"""What a model must tell before a service can be written around it: the interface of all families.

Called by `planning`, in a child process, since opening a model file may run the code inside it. Raises Unfit
with what to do; never guesses around a model that takes or gives something a typed record cannot hold.
"""

from __future__ import annotations

import importlib
import warnings
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pandas as pd

from nightproof.cli.scaffold.plan import Family, Label, Unfit

BY_HAND = (
    "Write service.py by hand for this one: `nightproof new NAME` without --model gives the frame of it."
)


@dataclass(frozen=True)
class Answers:
    """What a model made of some rows."""

    labels: list[Label]
    shares: list[float] | None = None
    """How sure it is of each label; None if it does not say."""


@dataclass(frozen=True, kw_only=True)
class Wants:
    """Which columns a model takes."""

    names: tuple[str, ...] | None = None
    """By name and in order; None if the model goes by position."""
    count: int | None = None
    drops: frozenset[str] = frozenset()
    """Columns it was trained beside and does not look at."""


class OpenModel(Protocol):
    """A model that can be asked."""

    words: str
    is_classifier: bool

    def wants(self) -> Wants:
        """Say which columns it takes."""

    def classes(self) -> list[Label]:
        """List all labels that it can give, as far as it tells; call after `answer`."""

    def categories(self) -> frozenset[str]:
        """List the texts that its encoders know."""

    def answer(self, frame: pd.DataFrame) -> Answers:
        """Answer rows whose columns are already the wanted ones, in order."""

    def family(self) -> Family:
        """Say how the service calls it; call after `answer`."""


def imported(module: str, extra: str) -> Any:
    """Import a package of one of our extras. Raises Unfit with the line that installs it."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise Unfit(
            f"The package {error.name} is not installed.", hint=f"Run: pip install '{extra}'"
        ) from error


def missing_module(error: ModuleNotFoundError) -> Unfit:
    """Say which package a model file needs."""
    name = (error.name or "?").split(".")[0]
    package = {"sklearn": "nightproof[sklearn]", "skimage": "scikit-image", "cv2": "opencv-python"}.get(
        name, name
    )
    return Unfit(
        f"The model needs the module {name!r}, which cannot be imported here.",
        hint=f"Run: pip install '{package}', or, if it is your own file, put it beside the model.",
    )


def asked(ask: Any, rows: Any) -> Any:
    """Ask the model, and turn whatever it raises into Unfit."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ask(rows)
    except Exception as error:  # a model may raise anything; the engineer reads it
        raise Unfit(
            f"The model does not take the data: {type(error).__name__}: {first_lines(error)}",
            hint="Give the CSV that it was trained on, before any preprocessing that is not in the model.",
        ) from error


def one_answer_a_row(predicted: Any, row_count: int) -> list[Label]:
    """Return one plain value per row."""
    values = np.asarray(predicted)
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if values.ndim != 1 or len(values) != row_count:
        raise Unfit(f"For {row_count} rows the model gives values of shape {values.shape}.", hint=BY_HAND)
    labels: list[Label] = values.tolist()
    odd = {type(label).__name__ for label in labels if not isinstance(label, bool | int | float | str)}
    if odd:
        raise Unfit(f"The model answers with {', '.join(sorted(odd))}, not numbers or texts.", hint=BY_HAND)
    return labels


def as_numbers(labels: list[Label]) -> list[Label]:
    """Return the answers as floats. Raises Unfit for texts."""
    try:
        return [float(label) for label in labels]
    except ValueError as error:
        raise Unfit("The model answers texts, and does not list its classes.", hint=BY_HAND) from error


def first_lines(error: BaseException) -> str:
    """Return the beginning of an error's text, on one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = " ".join(lines[:4])
    return text if len(text) <= 400 else text[:400] + "…"
