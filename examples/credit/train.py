"""Train the example's model and write what its folder needs: artifacts, golden cases, reference.

Run by `make setup`; takes seconds and gives the same files each time.
"""

import csv
import json
from pathlib import Path

import joblib
import pandas as pd
from service import Applicant, CreditModel, service
from sklearn.feature_extraction import DictVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

FOLDER = Path(__file__).parent
GOLDEN_CASES = 15
NUMBERS = {
    "duration",
    "credit-amount",
    "installment-rate",
    "residence-since",
    "age",
    "existing-credits",
    "dependants",
}
RENAMED = {"numner-people-provide-maintenance-for": "dependants"}
NOT_SHOWN = {"sex", "marital-status", "foreign-worker", "class-label"}


def read_loans() -> tuple[list[Applicant], list[bool]]:
    """Read the loans, and whether each was repaid: 1 is good (700 of them), 0 is bad (300)."""
    applicants, repaid = [], []
    with (FOLDER / "data" / "german_credit.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            named = {RENAMED.get(name, name): value.strip() for name, value in row.items()}
            given = {
                name: int(value) if name in NUMBERS else value
                for name, value in named.items()
                if name not in NOT_SHOWN
            }
            applicants.append(Applicant.model_validate(given))
            repaid.append(row["class-label"] == "1")
    return applicants, repaid


def golden_cases(applicants: list[Applicant], model: CreditModel) -> list[dict[str, object]]:
    """Choose clear cases from the surest no to the surest yes that pass the service's own checks."""
    pairs = list(zip(applicants, model.predict(applicants), strict=True))
    clear = [
        (given, answer)
        for given, answer in pairs
        if answer.confidence > 0.52
        and not any(check.function(given, answer) for check in service.output_checks)
    ]
    clear.sort(key=lambda pair: pair[1].confidence if pair[1].approve else -pair[1].confidence)
    step = (len(clear) - 1) / (GOLDEN_CASES - 1)
    chosen = [clear[round(place * step)] for place in range(GOLDEN_CASES)]
    return [
        {"input": given.model_dump(by_alias=True), "expect": answer.model_dump()} for given, answer in chosen
    ]


def main() -> None:
    """Train, and write the folder's products."""
    applicants, repaid = read_loans()
    pipeline = make_pipeline(
        DictVectorizer(sparse=False),
        StandardScaler(),
        LogisticRegression(C=0.05, max_iter=1_000),
    )
    pipeline.fit([given.model_dump() for given in applicants], repaid)
    artifacts = FOLDER / "artifacts"
    artifacts.mkdir(exist_ok=True)

    rows = [given.model_dump(by_alias=True) for given in applicants]
    pd.DataFrame(rows).to_parquet(FOLDER / "reference.parquet", index=False)
    joblib.dump(pipeline, artifacts / "model.joblib")
    model = CreditModel()
    model.load(artifacts)
    lines = [json.dumps(case) + "\n" for case in golden_cases(applicants, model)]
    (FOLDER / "golden.jsonl").write_text("".join(lines), encoding="utf-8")
    print(f"trained on {len(rows)} loans; wrote the model, {len(lines)} golden cases and the reference")


if __name__ == "__main__":
    main()
