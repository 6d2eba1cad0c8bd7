"""Open a model file by its family. Called by `planning`, in the probe's process."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from nightproof.cli.scaffold.mlflow_model import MlflowModel
from nightproof.cli.scaffold.model import OpenModel
from nightproof.cli.scaffold.onnx_model import OnnxModel
from nightproof.cli.scaffold.plan import Label
from nightproof.cli.scaffold.sklearn_model import SklearnModel


def open_model(path: Path, *, target_values: Sequence[Label]) -> OpenModel:
    """Open a joblib or pickle file, an ONNX file, or an MLflow folder. Raises Unfit."""
    if path.is_dir():
        return MlflowModel(path, target_values)
    if path.suffix == ".onnx":
        return OnnxModel(path, target_values)
    return SklearnModel(path)
