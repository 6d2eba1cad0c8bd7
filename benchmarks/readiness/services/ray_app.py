"""Ray Serve: two replicas, its time limit at the table's deadline, a bounded queue, and quick health checks."""

import os
import sys
import time

import misbehaving
import numpy as np
import ray
from ray import serve
from starlette.requests import Request

FIELDS = os.environ["BENCH_FIELDS"].split(",")


@serve.deployment(
    num_replicas=2,
    max_ongoing_requests=5,
    max_queued_requests=100,
    health_check_period_s=2,
    health_check_timeout_s=2,
    ray_actor_options={"num_cpus": 1},
)
class Tumour:
    def __init__(self) -> None:
        self.classifier = misbehaving.load()

    async def __call__(self, request: Request) -> dict[str, float]:
        given = await request.json()
        chances = self.classifier.predict_proba(np.array([[given[name] for name in FIELDS]]))[0]
        label = int(chances.argmax())
        return {"label": label, "probability": float(chances[label])}


if __name__ == "__main__":
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, address="local")
    serve.start(http_options={"host": "127.0.0.1", "port": int(sys.argv[1]), "request_timeout_s": 2})
    serve.run(Tumour.bind(), route_prefix="/predict")
    while True:
        time.sleep(60)
