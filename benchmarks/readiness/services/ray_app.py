"""Ray Serve: a FastAPI ingress, two replicas, its time limit at the table's deadline, a bounded queue, quick checks."""

import os
import sys
import time

import misbehaving
import numpy as np
import ray
from fastapi import FastAPI
from pydantic import BaseModel, create_model
from ray import serve

FIELDS = os.environ["BENCH_FIELDS"].split(",")
Measurements = create_model("Measurements", **dict.fromkeys(FIELDS, (float, ...)))


class Diagnosis(BaseModel):
    label: int
    probability: float


app = FastAPI()


@serve.deployment(
    num_replicas=2,
    max_ongoing_requests=5,
    max_queued_requests=40,
    health_check_period_s=2,
    health_check_timeout_s=2,
    ray_actor_options={"num_cpus": 1},
)
@serve.ingress(app)
class Tumour:
    def __init__(self) -> None:
        self.classifier = misbehaving.load()

    @app.post("/predict")
    def predict(self, given: Measurements) -> Diagnosis:
        chances = self.classifier.predict_proba(np.array([list(given.__dict__.values())]))[0]
        label = int(chances.argmax())
        return Diagnosis(label=label, probability=float(chances[label]))


if __name__ == "__main__":
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, address="local")
    serve.start(http_options={"host": "127.0.0.1", "port": int(sys.argv[1]), "request_timeout_s": 2})
    serve.run(Tumour.bind(), route_prefix="/")
    while True:
        time.sleep(60)
