"""An ONNX graph run by onnxruntime: the outputs that skl2onnx writes, or one tensor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
    one_answer_a_row,
)
from nightproof.cli.scaffold.plan import Label, Onnx, OnnxInput, Unfit

_ONNX_TYPES: Mapping[str, Any] = {
    "tensor(float)": "float32",
    "tensor(double)": "float64",
    "tensor(int64)": "int64",
    "tensor(int32)": "int32",
    "tensor(bool)": "bool",
    "tensor(string)": "object",
}


class OnnxModel:
    """A graph run by onnxruntime, with the outputs that skl2onnx writes, or one tensor."""

    def __init__(self, path: Path, target_values: Sequence[Label]) -> None:
        ort = imported("onnxruntime", "nightproof[onnx]")
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        try:
            self._session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime has its own exception types, one per cause
            raise Unfit(
                f"onnxruntime cannot open {path.name}: {first_lines(error)}", hint="Is it a whole ONNX file?"
            ) from error
        self._file = path.name
        self._targets = sorted(set(target_values), key=lambda value: (str(type(value)), value))
        self._inputs = list(self._session.get_inputs())
        self._one_by_one = any(tensor.shape and tensor.shape[0] == 1 for tensor in self._inputs)
        self._fed: list[OnnxInput] = []
        self._sums_to_one = True
        self._seen: set[Label] = set()
        self._read_outputs()
        self.words = f"ONNX graph ({', '.join(tensor.name for tensor in self._inputs[:4])}"
        self.words += ", …)" if len(self._inputs) > 4 else ")"

    def _read_outputs(self) -> None:
        outputs = list(self._session.get_outputs())
        maps = [output for output in outputs if output.type.startswith("seq(map")]
        flat = [
            output for output in outputs if output.type.startswith("tensor") and _width(output) in (None, 1)
        ]
        wide = [
            output for output in outputs if output.type.startswith("tensor") and (_width(output) or 0) > 1
        ]
        named = [output for output in outputs if "label" in output.name.lower()]
        scores = maps or [output for output in outputs if "prob" in output.name.lower()] or wide
        self._label = named[0].name if named else ""
        self._shares = scores[0].name if scores and (self._label or wide) else ""
        self._has_maps = bool(maps) and bool(self._label)
        self.is_classifier = bool(self._label or self._shares)
        if not self.is_classifier and len(flat) == 1 and len(outputs) == 1:
            self._label = flat[0].name
            self.is_classifier = flat[0].type in ("tensor(string)", "tensor(bool)")
        if not (self._label or self._shares):
            told = ", ".join(f"{output.name} {output.type} {output.shape}" for output in outputs)
            raise Unfit(f"The graph's outputs are not one answer a row: {told}.", hint=BY_HAND)

    def wants(self) -> Wants:
        if self._is_matrix():
            width = _width(self._inputs[0])
            return Wants(count=width)
        return Wants(names=tuple(tensor.name for tensor in self._inputs))

    def _is_matrix(self) -> bool:
        return len(self._inputs) == 1 and _width(self._inputs[0]) != 1

    def classes(self) -> list[Label]:
        if not self.is_classifier:
            return []
        if self._shares and not self._label:
            return self._targets
        return sorted(self._seen, key=str) if self._knows_all() else []

    def _knows_all(self) -> bool:
        """Say whether the labels seen are all there are: the graph itself tells only how many."""
        output = next((one for one in self._session.get_outputs() if one.name == self._shares), None)
        return output is not None and (self._has_maps or _width(output) == len(self._seen))

    def categories(self) -> frozenset[str]:
        return frozenset()

    def answer(self, frame: pd.DataFrame) -> Answers:
        self._fed = self._plan_inputs(frame)
        if not self._one_by_one:
            return self._run(frame)
        parts = [self._run(frame.iloc[[row]]) for row in range(min(len(frame), 200))]
        shares = [share for part in parts if part.shares is not None for share in part.shares]
        return Answers([part.labels[0] for part in parts], shares or None)

    def _plan_inputs(self, frame: pd.DataFrame) -> list[OnnxInput]:
        planned = []
        names = [""] if self._is_matrix() else [str(name) for name in frame.columns]
        for tensor, column in zip(self._inputs, names, strict=True):
            if tensor.type not in _ONNX_TYPES:
                raise Unfit(f"The graph's input {tensor.name} is a {tensor.type}.", hint=BY_HAND)
            rank = len(tensor.shape)
            if rank > 2 or (self._is_matrix() and rank != 2):
                raise Unfit(
                    f"The graph's input {tensor.name} has shape {tensor.shape}, not rows of features.",
                    hint=BY_HAND,
                )
            planned.append(
                OnnxInput(tensor.name, column, tensor.type, _ONNX_TYPES[tensor.type], is_flat=rank == 1)
            )
        texts = [str(name) for name in frame.columns if is_text(frame[name])]
        if self._is_matrix() and texts and planned[0].dtype != "object":
            raise Unfit(
                f"The graph takes numbers, and {', '.join(texts[:5])} holds texts.",
                hint="Put the encoding into the graph (convert the whole Pipeline), or give numbers.",
            )
        if len({one.is_flat for one in planned}) > 1:
            raise Unfit("The graph's inputs are partly flat and partly columns.", hint=BY_HAND)
        return planned

    def _run(self, frame: pd.DataFrame) -> Answers:
        feeds = {}
        for one in self._fed:
            values = frame if not one.column else frame[one.column]
            feeds[one.tensor] = _as_tensor(values, one)
        wanted = [name for name in (self._label, self._shares) if name]
        given = dict(zip(wanted, asked(lambda feed: self._session.run(wanted, feed), feeds), strict=True))
        if not self._label:
            return self._best_of(np.asarray(given[self._shares]))
        labels = one_answer_a_row(given[self._label], len(frame))
        if not self.is_classifier:
            return Answers(as_numbers(labels))
        self._seen.update(labels)
        if not self._shares:
            return Answers(labels)
        shares = given[self._shares]
        if self._has_maps:
            self._seen.update(shares[0])
            return Answers(
                labels,
                [min(1.0, max(0.0, float(row[label]))) for row, label in zip(shares, labels, strict=True)],
            )
        return Answers(labels, np.asarray(shares, dtype=float).max(axis=1).clip(0.0, 1.0).tolist())

    def _best_of(self, scores: Any) -> Answers:
        if scores.ndim != 2 or scores.shape[1] != len(self._targets):
            raise Unfit(
                f"The graph gives {scores.shape[-1]} scores a row for {len(self._targets)} target values.",
                hint="Name the target with --target, so that each score gets its label.",
            )
        scores = scores.astype(float)
        is_share = bool((scores >= 0).all() and np.allclose(scores.sum(axis=1), 1.0, atol=1e-3))
        self._sums_to_one &= is_share
        if not is_share:
            powers = np.exp(scores - scores.max(axis=1, keepdims=True))
            scores = powers / powers.sum(axis=1, keepdims=True)
        return Answers(
            [self._targets[best] for best in scores.argmax(axis=1)],
            scores.max(axis=1).clip(0.0, 1.0).tolist(),
        )

    def family(self) -> Onnx:
        return Onnx(
            file=self._file,
            inputs=self._fed,
            labels=self._label,
            shares=self._shares,
            shares_are_maps=self._has_maps,
            needs_softmax=not self._sums_to_one,
            one_by_one=self._one_by_one,
        )


def _width(tensor: Any) -> int | None:
    """Return the second dimension; 1 for a flat tensor, None where the graph leaves it open."""
    shape = tensor.shape or []
    if len(shape) == 1:
        return 1
    return shape[1] if len(shape) == 2 and isinstance(shape[1], int) else None


def _as_tensor(values: Any, one: OnnxInput) -> Any:
    if one.dtype == "object":
        array = np.asarray(values.astype(object).where(values.notna(), ""), dtype=object)
    else:
        array = np.asarray(values).astype(one.dtype)
    return array.reshape(-1) if one.is_flat else array.reshape(len(values), -1)
