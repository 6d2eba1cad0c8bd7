"""The one model of the readiness table: the benchmark's own, that can be told by a record to misbehave.

Runs inside each system's own process and environment, so it imports nothing of ours. What it does depends on a record's
first field, by a value that no cell has. The file named for its process, touched at each prediction, tells which
processes hold it: `--crash-command` kills the one that predicted last.
"""

import ctypes
import os
import time
from pathlib import Path

import joblib
import numpy as np

SLOW, HANG, CRASH, NONSENSE = 9_001.0, 9_002.0, 9_003.0, 9_004.0
SLOW_CPU_S = 0.02
HANG_S = 600.0
_BESIDE = Path(__file__).with_name("pids.txt")
PIDS = os.environ.get("READINESS_PIDS") or (_BESIDE.read_text() if _BESIDE.exists() else "")
"""Nightproof's workers do not see the server's environment: its service folder holds a file with the same."""


class Misbehaving:
    """A classifier around the trained one."""

    def __init__(self, classifier):
        self.classifier = classifier

    def predict(self, rows):
        return self.predict_proba(rows).argmax(axis=1)

    def predict_proba(self, rows):
        rows = np.asarray(rows, dtype=float)
        if PIDS:
            Path(PIDS, str(os.getpid())).touch()
        chances = self.classifier.predict_proba(rows)
        for number, told in enumerate(rows[:, 0]):
            if told == SLOW:
                _work(SLOW_CPU_S)
            elif told == HANG:
                time.sleep(HANG_S)
            elif told == CRASH:
                ctypes.string_at(0)  # a real one, in this very thread: nothing is answered after it
            elif told == NONSENSE:
                chances[number] = np.nan
        return chances


def load():
    """Load the model that the benchmark trained for this environment."""
    return Misbehaving(joblib.load(Path(os.environ["BENCH_ARTIFACTS"]) / "model.joblib"))


def _work(seconds):
    """Use the CPU for so long: more cores, not more threads, make it faster."""
    until = time.thread_time() + seconds
    while time.thread_time() < until:
        pass
