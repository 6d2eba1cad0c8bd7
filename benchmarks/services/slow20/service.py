"""A model that sets the capacity: 20 ms a call, one row a call, two workers, so 100 rows a second."""

import time

import numpy as np
from measurements import Diagnosis, Tumour

from nightproof import Service

CALL_S = 0.020


class Slow(Tumour):
    def predict(self, batch: np.ndarray) -> list[Diagnosis]:
        time.sleep(CALL_S)
        return super().predict(batch)


service = Service("slow20", model=Slow, deadline_ms=300, max_batch=1, workers=(2, 2))
