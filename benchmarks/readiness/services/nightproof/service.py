"""Nightproof: two workers, the table's deadline, no batches, as for the others; the rest as it comes. No fallback."""

import joblib
import numpy as np
from measurements import Diagnosis, Measurements
from misbehaving import Misbehaving

from nightproof import Model, Service


class Tumour(Model[Measurements, Diagnosis]):
    def load(self, artifacts) -> None:
        self.classifier = Misbehaving(joblib.load(artifacts / "model.joblib"))

    def predict(self, batch: np.ndarray) -> list[Diagnosis]:
        chances = self.classifier.predict_proba(batch)
        return [Diagnosis(label=int(row.argmax()), probability=float(row.max())) for row in chances]


service = Service("tumour", model=Tumour, deadline_ms=2_000, workers=(2, 2), max_batch=1)
