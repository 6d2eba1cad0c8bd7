"""BentoML: two workers, its time limit at the table's deadline, and its limit of concurrent requests."""

import os

import bentoml
import misbehaving
import numpy as np
from pydantic import BaseModel, create_model

FIELDS = os.environ["BENCH_FIELDS"].split(",")
Measurements = create_model("Measurements", **dict.fromkeys(FIELDS, (float, ...)))


class Diagnosis(BaseModel):
    label: int
    probability: float


@bentoml.service(
    workers=2,
    traffic={"timeout": 2, "max_concurrency": 40},
    logging={"access": {"enabled": False}},
)
class Tumour:
    def __init__(self) -> None:
        self.classifier = misbehaving.load()

    @bentoml.api
    def predict(self, record: Measurements) -> Diagnosis:
        chances = self.classifier.predict_proba(np.array([list(record.__dict__.values())]))[0]
        label = int(chances.argmax())
        return Diagnosis(label=label, probability=float(chances[label]))
