"""What is known of a service before it is written: plain values that cross from the probe to the writer.

Made by `probe`, read by `render` and the command. Holds no behaviour, no frames and no models.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from nightproof.base.errors import NightproofError

Kind = Literal["bool", "int", "float", "str", "datetime"]
Label = bool | int | float | str


class Unfit(NightproofError):
    """The model or the data cannot become a service as they are; the hint says what to change."""


class Column(msgspec.Struct, frozen=True, kw_only=True):
    """One column that the model is given, as the caller of the service will send it."""

    name: str
    """Its name in the CSV, in the JSON, and in the frame that the model is given."""
    field: str
    """Its name in the Pydantic class."""
    kind: Kind
    nullable: bool = False
    low: float | int | None = None
    high: float | int | None = None
    among: list[str] | None = None
    """All values that the data had, where they are few enough to be categories."""
    pattern: str = ""
    """A regular expression that all texts of the column fit: dates that the model takes as text."""
    is_wide: bool = False
    """Holds integers beyond ±(2⁵³−1), which JSON readers bend unless told."""
    dtype: str = ""
    """What pandas must make of it, where a batch alone would not tell: gaps, dates, categories."""
    note: str = ""
    """What the engineer should look at; written beside the field."""


class AnswerPlan(msgspec.Struct, frozen=True, kw_only=True):
    """What the service answers."""

    field: str
    kind: Kind
    classes: list[Label] = []
    """All labels that the model can give; empty for numbers and where they are not known."""
    meanings: list[str] = []
    """What each class mostly is called in the data's target, where the names differ."""
    confidence: str = ""
    """Name of the confidence field; empty if the model does not say how sure it is."""
    typical: Label = 0
    """The most common answer, or the median of the answers."""
    typical_share: float = 1.0


class Sklearn(msgspec.Struct, frozen=True, kw_only=True, tag="sklearn"):
    """A scikit-learn estimator, or anything with its methods, in a joblib file."""

    file: str
    calls: Literal["numbers", "labels", "shares", "labels_and_shares"]
    """`shares`: predict_proba alone gives the same labels as predict, and costs half."""
    takes_array: bool = False


class OnnxInput(msgspec.Struct, frozen=True):
    """One input tensor of an ONNX graph, fed from one column; an empty column means all of them."""

    tensor: str
    column: str
    tensor_type: str
    """As the graph calls it: `tensor(float)`."""
    dtype: str
    is_flat: bool = False
    """Shape [rows] in place of [rows, 1]."""


class Onnx(msgspec.Struct, frozen=True, kw_only=True, tag="onnx"):
    """An ONNX graph."""

    file: str
    inputs: list[OnnxInput]
    labels: str = ""
    """Output with one label or number a row."""
    shares: str = ""
    """Output with a probability per class."""
    shares_are_maps: bool = False
    needs_softmax: bool = False
    one_by_one: bool = False
    """The graph takes exactly one row."""


class Mlflow(msgspec.Struct, frozen=True, kw_only=True, tag="mlflow"):
    """An MLflow model folder, called through `mlflow.pyfunc`."""

    file: str
    takes_array: bool = False


Family = Sklearn | Onnx | Mlflow


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """All that the writer needs."""

    family: Family
    model_words: str
    """The model in a few words, for people: `Pipeline (LogisticRegression)`."""
    columns: list[Column]
    answer: AnswerPlan
    data_words: str
    unused: list[str]
    """Columns of the data that are neither input nor target."""
    masked: list[str]
    personal: list[str]
    """Columns whose values look personal and are not masked."""
    golden: list[bytes]
    """Inputs of the golden cases, as JSON."""
    expected: list[Label]
    """What the model itself answered for them."""
    reference_rows: int
    modules: list[str]
    """Python files or packages of the user's that the model needs, with their places."""
    notes: list[str]
    reading_words: str = ""
    """How the CSV was read, where that is not the plain way."""


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """What the command asks of the probe."""

    source: str
    """Where the model came from: modules beside it may be needed."""
    data: str
    target: str
    mask: list[str]
    rows: int
    """At most so many are copied as reference."""
    folder: str = ""
    """The folder being written; the model's copy is in its `artifacts`."""
    file: str = ""
    """The model's name inside `artifacts`."""


class Failed(msgspec.Struct, frozen=True):
    """The child's no: what happened, and what to do."""

    text: str
    hint: str


class Claim(msgspec.Struct, frozen=True, kw_only=True):
    """What the written service must hold: these inputs, these answers."""

    folder: str
    inputs: list[bytes]
    expected: list[Label]
    field: str


class Proof(msgspec.Struct, frozen=True):
    """How the written service did."""

    golden_cases: int
    notes: list[str]
    one_row_ms: float
    many_rows_ms: float
    """Time for a batch of 64."""
