"""Bring model and data together and plan the service. Runs in the probe's process; needs pandas.

Promises a plan whose golden cases are answered by the model itself, or Unfit. Writes `reference.parquet`.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import pandas as pd

from nightproof.cli.scaffold import golden, judging
from nightproof.cli.scaffold.columns import ROWS_FOR_USUAL, infer_columns, looks_personal
from nightproof.cli.scaffold.model import Answers, OpenModel
from nightproof.cli.scaffold.names import field_name
from nightproof.cli.scaffold.open_model import open_model
from nightproof.cli.scaffold.picking import Picker
from nightproof.cli.scaffold.plan import AnswerPlan, Kind, Label, Plan, Question, Unfit
from nightproof.cli.scaffold.readings import Reading, Trial, choose, sample
from nightproof.cli.scaffold.table import Table, read_table

_TARGET_VALUES_AT_MOST = 1_000
_CLASSES_AT_MOST = 20


def plan_service(question: Question) -> Plan:
    """Open model and data, find out how they fit, and plan the service. Raises Unfit."""
    table = read_table(Path(question.data))
    target = table.find(question.target) if question.target else ""
    mask = frozenset(table.find(name) for name in question.mask)
    if target in mask:
        raise Unfit(
            f"--mask {target} masks the target.", hint="It is not written anyway: leave it out of --mask."
        )
    model, modules, notes = _open(question, _target_values(table, target))
    pick = Picker(file=table.path.name, target=target, wants=model.wants())

    def judge(rows: pd.DataFrame) -> Trial:
        inputs = rows[pick.pick(_names(rows))]
        answers = model.answer(inputs)
        truth = _truth(rows, pick)
        agreed = 0.0 if truth is None else judging.agreement(answers, truth, are_labels=model.is_classifier)
        return Trial(judging.known_share(model.categories(), inputs), agreed)

    reading, frame = choose(table, judge)
    found = _Found(table, model, pick, reading, frame, pick.pick(_names(frame)))
    return _plan(found, question, mask, modules, notes)


@dataclass(frozen=True)
class _Found:
    """A model, and the data read as it was trained on."""

    table: Table
    model: OpenModel
    pick: Picker
    reading: Reading
    frame: pd.DataFrame
    names: list[str]


def _plan(
    found: _Found, question: Question, mask: frozenset[str], modules: list[str], notes: list[str]
) -> Plan:
    model, frame, names = found.model, found.frame, found.names
    typed = _typed(found)
    masked = [name for name in names if name.strip() in mask]
    columns = infer_columns(frame, typed, wanted=names, masked=masked)
    rows = sample(frame[names])
    answers = model.answer(rows)
    rows = rows.iloc[: len(answers.labels)]
    chosen = golden.choose_rows(answers, rows, has_labels=model.is_classifier)
    if not chosen:
        raise Unfit(
            "Every answer of the model is NaN or infinite.", hint="Is the CSV what it was trained on?"
        )
    hidden = [column for column in columns if column.name in masked]
    cases = golden.masked_rows(rows.iloc[chosen], frame, hidden, model.answer)
    expected = model.answer(cases).labels
    truth = _truth(frame.loc[rows.index], found.pick)
    return Plan(
        family=model.family(),
        model_words=_model_words(model, answers, truth),
        columns=columns,
        answer=_answer_plan(found, answers, truth),
        data_words=found.table.words,
        unused=found.pick.unused(_names(frame), names),
        masked=masked,
        personal=[name for name in names if name not in masked and looks_personal(name, frame[name])],
        golden=golden.as_json(cases, columns),
        expected=expected,
        reference_rows=_write_reference(typed[[name for name in names if name not in masked]], question),
        modules=modules,
        notes=[*notes, *_oddities(found, answers)],
        reading_words=found.reading.words,
    )


def _open(question: Question, target_values: Sequence[Label]) -> tuple[OpenModel, list[str], list[str]]:
    """Open the model; also return the user's own modules that it brought in, and what to know."""
    # At the end of the path, so that nothing of the user's can take the place of an installed package.
    homes = [Path(question.source).resolve().parent, Path.cwd()]
    sys.path += [str(home) for home in homes]
    before = set(sys.modules)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        path = Path(question.folder) / "artifacts" / question.file
        model = open_model(path, target_values=target_values)
    brought = {name.split(".")[0] for name in set(sys.modules) - before}
    notes = []
    if other := [
        warning for warning in told if type(warning.message).__name__ == "InconsistentVersionWarning"
    ]:
        trained = getattr(other[0].message, "original_sklearn_version", "another version")
        here = getattr(other[0].message, "current_sklearn_version", "another")
        notes.append(f"trained with scikit-learn {trained}, while {here} is installed: answers may differ")
    return model, sorted(filter(None, (_place_of(name, homes) for name in brought))), notes


def _place_of(module: str, homes: Sequence[Path]) -> str:
    """Return the file or folder of a module that lies right in one of the homes, or nothing."""
    file = getattr(sys.modules.get(module), "__file__", None)
    if not file or module == "nightproof":
        return ""
    path = Path(file).resolve()
    place = path.parent if path.name == "__init__.py" else path
    return str(place) if place.parent in homes else ""


def _names(frame: pd.DataFrame) -> list[str]:
    return [str(name) for name in frame.columns]


def _target_values(table: Table, target: str) -> list[Label]:
    """Return the distinct values of the target, if they are few enough to be labels."""
    if not target:
        return []
    frame = Reading().frame(table)
    distinct = (
        frame[next(name for name in _names(frame) if name.strip() == target)].dropna().unique().tolist()
    )
    return distinct if len(distinct) <= _TARGET_VALUES_AT_MOST else []


def _truth(frame: pd.DataFrame, pick: Picker) -> pd.Series[Any] | None:
    return next((frame[name] for name in _names(frame) if pick.is_target(name)), None)


def _typed(found: _Found) -> pd.DataFrame:
    """Read once more with whole numbers kept whole, and dates as the model has them."""
    typed = found.reading.frame(found.table, nullable=True)
    for name in found.names:
        if pd.api.types.is_datetime64_any_dtype(found.frame[name].dtype):
            typed[name] = found.frame[name]
    return typed


def _model_words(model: OpenModel, answers: Answers, truth: pd.Series[Any] | None) -> str:
    told = "" if truth is None else judging.agreement_words(answers, truth, are_labels=model.is_classifier)
    return f"{model.words}; {told}" if told else model.words


def _answer_plan(found: _Found, answers: Answers, truth: pd.Series[Any] | None) -> AnswerPlan:
    taken: set[str] = set()
    field = field_name(found.pick.target or "prediction", taken)
    labels = [label for label in answers.labels if not golden.is_odd(label)]
    if not found.model.is_classifier:
        return AnswerPlan(field=field, kind="float", typical=float(f"{median(map(float, labels)):.4g}"))
    classes = found.model.classes()
    kind = _kind_of(classes or labels)
    typical = pd.Series(labels, dtype=object).value_counts().index[0]
    are_listed = kind != "float" and len(classes) <= _CLASSES_AT_MOST
    return AnswerPlan(
        field=field,
        kind=kind,
        classes=classes if are_listed else [],
        meanings=judging.meanings(answers, truth, classes) if are_listed and truth is not None else [],
        confidence=""
        if answers.shares is None
        else field_name("sure" if field == "confidence" else "confidence", taken),
        typical=typical,
        typical_share=round(labels.count(typical) / len(labels), 2),
    )


def _kind_of(labels: Sequence[Label]) -> Kind:
    for kind, word in ((bool, "bool"), (int, "int"), (str, "str")):
        if all(isinstance(label, kind) for label in labels):
            return word  # type: ignore[return-value]  # the words of the line above are kinds
    if any(isinstance(label, str) for label in labels):
        raise Unfit("The model's labels are texts and numbers mixed.", hint="Train it on labels of one type.")
    return "float"


def _write_reference(inputs: pd.DataFrame, question: Question) -> int:
    """Write a sample of the model's inputs; return how many rows."""
    if question.rows == 0 or inputs.empty:
        return 0
    rows = sample(inputs, question.rows)
    rows.to_parquet(Path(question.folder) / "reference.parquet", index=False)
    return len(rows)


def _oddities(found: _Found, answers: Answers) -> list[str]:
    notes = []
    if found.pick.wants.names is None:
        notes.append(
            "the model knows its columns by position only: their order in the CSV is taken as training's"
        )
    odd = sum(1 for label in answers.labels if golden.is_odd(label))
    if odd:
        notes.append(
            f"{odd} of {len(answers.labels)} answers are NaN or infinite: callers will get the fallback there"
        )
    if len(found.frame) < ROWS_FOR_USUAL:
        notes.append(
            f"with fewer than {ROWS_FOR_USUAL} rows nothing is said about usual ranges and categories"
        )
    numbers = found.frame[found.names].select_dtypes("number")
    endless = [
        str(name) for name in numbers.columns if numbers[name].isin([float("inf"), float("-inf")]).any()
    ]
    if endless:
        notes.append(f"{', '.join(endless)} holds infinite values, which JSON cannot carry")
    return notes
