"""A model that sleeps for a minute when it sees the magic value."""

import time

import numpy as np
from measurements import MAGIC, Diagnosis, Tumour

from nightproof import Service

HANG_S = 60.0


class Hanging(Tumour):
    def predict(self, batch: np.ndarray) -> list[Diagnosis]:
        if (batch[:, 0] == MAGIC).any():
            time.sleep(HANG_S)
        return super().predict(batch)


service = Service("hang", model=Hanging, deadline_ms=1_000, workers=(2, 2), spares=2)
