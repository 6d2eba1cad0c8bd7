"""The baseline: FastAPI with the model in its own process, and nothing else on.

What a good engineer writes on the first afternoon: typed input, typed answer, an async handler that
predicts inline. No identity, no isolation, no record, no limits.
"""

import os
from pathlib import Path

import joblib
import numpy as np
from fastapi import FastAPI
from pydantic import BaseModel, create_model

MODEL = joblib.load(Path(os.environ["BENCH_ARTIFACTS"]) / "model.joblib")
FIELDS = os.environ["BENCH_FIELDS"].split(",")

Measurements = create_model("Measurements", **dict.fromkeys(FIELDS, (float, ...)))


class Diagnosis(BaseModel):
    label: int
    probability: float


app = FastAPI()


@app.post("/predict")
async def predict(given: Measurements) -> Diagnosis:
    row = np.array([list(given.__dict__.values())])
    chances = MODEL.predict_proba(row)[0]
    label = int(chances.argmax())
    return Diagnosis(label=label, probability=float(chances[label]))
