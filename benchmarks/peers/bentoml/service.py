"""BentoML in its best mode for this work: two workers, plain, without adaptive batching."""

import os
from pathlib import Path

import bentoml
import joblib
import numpy as np
from pydantic import BaseModel, create_model

FIELDS = os.environ["BENCH_FIELDS"].split(",")
Measurements = create_model("Measurements", **dict.fromkeys(FIELDS, (float, ...)))


class Diagnosis(BaseModel):
    label: int
    probability: float


@bentoml.service(workers=2, logging={"access": {"enabled": False}})
class Tumour:
    def __init__(self) -> None:
        self.classifier = joblib.load(Path(os.environ["BENCH_ARTIFACTS"]) / "model.joblib")

    @bentoml.api
    def predict(self, record: Measurements) -> Diagnosis:
        row = np.array([list(record.__dict__.values())])
        chances = self.classifier.predict_proba(row)[0]
        label = int(chances.argmax())
        return Diagnosis(label=label, probability=float(chances[label]))
