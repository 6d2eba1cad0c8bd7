"""The input, output and model that every measured service shares.

`make_model` copies this file into each service's folder, so that a folder is whole by itself.
The fields stand in the order of the training data's columns.
"""

from pathlib import Path

import joblib
import numpy as np
from pydantic import BaseModel, Field

from nightproof import Confidence, Model

MAGIC = 9_999.0
"""A `mean_radius` that no cell has: the services that misbehave do so when they see it."""


class Measurements(BaseModel):
    mean_radius: float
    mean_texture: float
    mean_perimeter: float
    mean_area: float
    mean_smoothness: float
    mean_compactness: float
    mean_concavity: float
    mean_concave_points: float
    mean_symmetry: float
    mean_fractal_dimension: float
    radius_error: float
    texture_error: float
    perimeter_error: float
    area_error: float
    smoothness_error: float
    compactness_error: float
    concavity_error: float
    concave_points_error: float
    symmetry_error: float
    fractal_dimension_error: float
    worst_radius: float
    worst_texture: float
    worst_perimeter: float
    worst_area: float
    worst_smoothness: float
    worst_compactness: float
    worst_concavity: float
    worst_concave_points: float
    worst_symmetry: float
    worst_fractal_dimension: float


class Diagnosis(BaseModel):
    label: int = Field(ge=0, le=1, description="1 is benign")
    probability: Confidence


class Tumour(Model[Measurements, Diagnosis]):
    """One `predict_proba` a batch, and the likelier class with its probability."""

    def load(self, artifacts: Path) -> None:
        self.classifier = joblib.load(artifacts / "model.joblib")

    def predict(self, batch: np.ndarray) -> list[Diagnosis]:
        chances = self.classifier.predict_proba(batch)
        labels = chances.argmax(axis=1)
        return [
            Diagnosis(label=label, probability=chance)
            for label, chance in zip(labels.tolist(), chances.max(axis=1).tolist(), strict=True)
        ]
