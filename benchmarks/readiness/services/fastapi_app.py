"""FastAPI as its own documentation puts a model behind it: typed, a plain `def`, so that it runs in the thread pool."""

import os

import misbehaving
import numpy as np
from fastapi import FastAPI
from pydantic import BaseModel, create_model

MODEL = misbehaving.load()
FIELDS = os.environ["BENCH_FIELDS"].split(",")

Measurements = create_model("Measurements", **dict.fromkeys(FIELDS, (float, ...)))


class Diagnosis(BaseModel):
    label: int
    probability: float


app = FastAPI()


@app.get("/health")
def health() -> dict[str, str]:
    return {"status": "ok"}


@app.post("/predict")
def predict(given: Measurements) -> Diagnosis:
    chances = MODEL.predict_proba(np.array([list(given.__dict__.values())]))[0]
    label = int(chances.argmax())
    return Diagnosis(label=label, probability=float(chances[label]))
