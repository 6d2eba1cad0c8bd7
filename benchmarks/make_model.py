"""Train the one model of all measurements, and fill the service folders with it.

Runs under any interpreter that has scikit-learn: each peer's environment trains its own copy from
the same data with the same solver, so that nobody reads another version's pickle. Run as a program
with `--into FOLDER` it writes `FOLDER/model.joblib`; the benchmark calls `fill_services` for ours.
"""

import argparse
import json
import shutil
from functools import cache
from pathlib import Path

import joblib
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression

SERVICES = Path(__file__).parent / "services"
RECORDS = 64
GOLDEN_CASES = 4


def train() -> LogisticRegression:
    """Fit the model; under a second, and the same weights every time."""
    data = load_breast_cancer()
    return LogisticRegression(max_iter=10_000).fit(data.data, data.target)


def field_names() -> list[str]:
    """Name the 30 fields as identifiers, in the order of the columns."""
    return [str(name).replace(" ", "_") for name in load_breast_cancer().feature_names]


def records() -> list[dict[str, float]]:
    """Give the 64 records that every load generator sends in turn."""
    names = field_names()
    rows = load_breast_cancer().data[:RECORDS].tolist()
    return [dict(zip(names, row, strict=True)) for row in rows]


def write_model(model: LogisticRegression, into: Path) -> None:
    """Write `model.joblib` into the folder."""
    into.mkdir(parents=True, exist_ok=True)
    joblib.dump(model, into / "model.joblib")


@cache
def fill_services() -> None:
    """Give every service folder its artifacts, its golden cases and its copy of `measurements.py`, once a run."""
    model = train()
    chances = model.predict_proba(load_breast_cancer().data[:GOLDEN_CASES])
    cases = [
        {"input": given, "expect": {"label": int(row.argmax()), "probability": float(row.max())}}
        for given, row in zip(records(), chances, strict=False)
    ]
    for folder in sorted(path.parent for path in SERVICES.glob("*/service.py")):
        write_model(model, folder / "artifacts")
        shutil.copyfile(SERVICES / "measurements.py", folder / "measurements.py")
        (folder / "golden.jsonl").write_text("".join(json.dumps(case) + "\n" for case in cases))


def main() -> None:
    """Write the model into the folder named on the command line."""
    parser = argparse.ArgumentParser(description="Train the benchmark's model.")
    parser.add_argument("--into", type=Path, required=True, help="folder for model.joblib")
    write_model(train(), parser.parse_args().into)


if __name__ == "__main__":
    main()
