"""An MLflow model folder, called through `mlflow.pyfunc` as MLflow's own scoring server calls it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from nightproof.cli.scaffold.model import (
    Answers,
    Wants,
    as_numbers,
    asked,
    first_lines,
    imported,
    missing_module,
    one_answer_a_row,
)
from nightproof.cli.scaffold.plan import Label, Mlflow, Unfit

_CLASSES_AT_MOST = 20


class MlflowModel:
    """A folder with an `MLmodel` file, called as MLflow's scoring server calls it."""

    def __init__(self, path: Path, target_values: Sequence[Label]) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        pyfunc = imported("mlflow.pyfunc", "nightproof[mlflow]")
        try:
            self._model = pyfunc.load_model(str(path))
        except ModuleNotFoundError as error:
            raise missing_module(error) from error
        except Exception as error:  # the folder's flavour decides what is raised
            raise Unfit(
                f"MLflow cannot load the model: {first_lines(error)}",
                hint="Does mlflow.pyfunc.load_model load it?",
            ) from error
        self._file = path.name
        self._targets = list(target_values)
        self._takes_array = False
        self._labels: set[Label] = set()
        self.is_classifier = False
        self.words = f"MLflow model ({', '.join(self._model.metadata.flavors)})"

    def wants(self) -> Wants:
        schema = self._model.metadata.get_input_schema()
        if schema is None:
            return Wants()
        if schema.has_input_names():
            return Wants(names=tuple(str(name) for name in schema.input_names()))
        self._takes_array = bool(schema.is_tensor_spec())
        shape: Sequence[int] = schema.inputs[0].shape if self._takes_array else ()
        return Wants(count=int(shape[1]) if len(shape) == 2 and shape[1] > 0 else None)

    def classes(self) -> list[Label]:
        """The target's values, if the answers are among them: pyfunc itself does not tell."""
        known = set(self._targets)
        return sorted(known, key=str) if self._labels <= known and len(known) <= _CLASSES_AT_MOST else []

    def categories(self) -> frozenset[str]:
        return frozenset()

    def answer(self, frame: pd.DataFrame) -> Answers:
        predicted = asked(self._model.predict, frame.to_numpy() if self._takes_array else frame)
        labels = one_answer_a_row(predicted, len(frame))
        self._labels.update(labels)
        # pyfunc does not say whether it classifies: labels that are all among a few target values do.
        few = len(set(self._targets)) <= _CLASSES_AT_MOST
        self.is_classifier = any(isinstance(label, str | bool) for label in labels) or (
            few
            and not any(isinstance(label, float) for label in labels)
            and self._labels <= set(self._targets)
        )
        return Answers(labels if self.is_classifier else as_numbers(labels))

    def family(self) -> Mlflow:
        return Mlflow(file=self._file, takes_array=self._takes_array)
