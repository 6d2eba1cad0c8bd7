"""`python -m benchmarks.injection.train [prompts.jsonl]`: make the weights that the package ships.

Same rows, same seed, same weights. They learn from all sources. The thresholds are from models with sources left
out: what 1 % of harmless prompts, and 5 % of harmless documents, that such a model never saw score above. Skips with a
reason where the rows are not there.
"""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec
import numpy as np

from benchmarks.injection import learn, rows, taught
from benchmarks.injection.learn import Row
from nightproof.checks.text import model
from nightproof.checks.text.calibration import calibrate
from nightproof.checks.text.normalise import views

WEIGHTS = Path(model.__file__).parent / "weights"
RATES = {"prompt": 0.01, "document": 0.05}


def main() -> int:
    """Train both questions on all sources."""
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else rows.DEFAULT
    if not path.is_file():
        print(f"skipped: {path} is not there")
        return 0
    known = rows.read(path)
    splits = [taught.fold(known, name) for name in taught.FOLDS]
    write("prompt", taught.prompts(known), threshold=threshold("prompt", splits))
    write("document", taught.sentences(known), threshold=threshold("document", [taught.documents(known)]))
    return 0


def threshold(question: model.Question, splits: list[taught.Split]) -> float:
    """Return the score that so few harmless rows pass which the model never saw; the mean over the splits."""
    found = []
    for split in splits:
        asked = learn.fit(question, split.taught)
        harmless = [row for row in split.asked if row.label == 0]
        found.append(calibrate([asked.score(views(row.text)).score for row in harmless], RATES[question]))
    return round(float(np.mean(found)), 3)


def write(question: model.Question, rows_: list[Row], *, threshold: float) -> None:
    """Fit, and write the array and what is said about it."""
    table, about = learn.weights_of(question, rows_, learn.matrix(question, rows_), threshold=threshold)
    WEIGHTS.mkdir(exist_ok=True)
    np.save(WEIGHTS / f"{question}.npy", table, allow_pickle=False)
    (WEIGHTS / f"{question}.json").write_bytes(
        msgspec.json.format(msgspec.json.encode(about), indent=2) + b"\n"
    )
    print(f"{question}: {len(rows_):,} rows, {np.count_nonzero(table):,} weights, threshold {threshold}")


if __name__ == "__main__":
    sys.exit(main())
