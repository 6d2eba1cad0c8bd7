"""LitServe in its best mode for this work: batches of up to 64, waiting 5 ms at most."""

import os
import sys
from pathlib import Path

import joblib
import litserve
import numpy as np

FIELDS = os.environ["BENCH_FIELDS"].split(",")


class Tumour(litserve.LitAPI):
    def setup(self, device):
        self.classifier = joblib.load(Path(os.environ["BENCH_ARTIFACTS"]) / "model.joblib")

    def decode_request(self, request):
        return [request[name] for name in FIELDS]

    def batch(self, inputs):
        return np.array(inputs)

    def predict(self, batch):
        return self.classifier.predict_proba(batch)

    def unbatch(self, output):
        return list(output)

    def encode_response(self, output):
        label = int(output.argmax())
        return {"label": label, "probability": float(output[label])}


if __name__ == "__main__":
    server = litserve.LitServer(Tumour(max_batch_size=64, batch_timeout=0.005), accelerator="cpu", timeout=30)
    server.run(
        host="127.0.0.1",
        port=int(sys.argv[1]),
        num_api_servers=1,
        log_level="warning",
        access_log=False,
        generate_client_file=False,
    )
