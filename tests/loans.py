"""The credit example with a sum in place of its model: for tests of what goes on around answers, not of answers.

A worker of the example imports scikit-learn, which takes over a second each time; types, checks, rules and
reference of this one are the example's own. The example itself is served where the model matters.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from tests.serving import ROOT

CREDIT = ROOT / "examples" / "credit"
_MODEL = '''class CreditModel(Model[Applicant, Decision]):
    """Small loans are good ones."""

    def predict(self, batch: list[Applicant]) -> list[Decision]:
        return [Decision(approve=given.credit_amount < 3_000, confidence=0.9) for given in batch]


service ='''


def light_credit(parent: Path) -> Path:
    """Write the folder of such a service, `credit`, and return it."""
    folder = parent / "credit"
    folder.mkdir()
    whole = (CREDIT / "service.py").read_text().replace("import joblib\n", "")
    before, _, rest = whole.partition("class CreditModel(")
    (folder / "service.py").write_text(before + _MODEL + rest.partition("\nservice =")[2])
    given = json.loads((CREDIT / "golden.jsonl").read_text().splitlines()[0])["input"]
    expected = {"approve": given["credit-amount"] < 3_000, "confidence": 0.9}
    (folder / "golden.jsonl").write_text(json.dumps({"input": given, "expect": expected}) + "\n")
    shutil.copy(CREDIT / "reference.parquet", folder)
    return folder
