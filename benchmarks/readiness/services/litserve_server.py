"""LitServe: typed, two workers, its time limit at the table's deadline, and workers that are started again."""

import os
import sys

import litserve
import misbehaving
import numpy as np
from pydantic import create_model

FIELDS = os.environ["BENCH_FIELDS"].split(",")


Measurements = create_model("Measurements", **dict.fromkeys(FIELDS, (float, ...)))


class Tumour(litserve.LitAPI):
    def setup(self, device):
        self.classifier = misbehaving.load()

    def decode_request(self, request: Measurements):
        return list(request.__dict__.values())

    def predict(self, row):
        return self.classifier.predict_proba(np.array([row]))[0]

    def encode_response(self, chances):
        label = int(chances.argmax())
        return {"label": label, "probability": float(chances[label])}


if __name__ == "__main__":
    server = litserve.LitServer(
        Tumour(), accelerator="cpu", workers_per_device=2, timeout=2, restart_workers=True
    )
    server.run(
        host="127.0.0.1",
        port=int(sys.argv[1]),
        num_api_servers=1,
        log_level="warning",
        access_log=False,
        generate_client_file=False,
    )
