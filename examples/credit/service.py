"""The example service `credit`: should this loan be granted?

Its model is trained by train.py on the German credit data: a thousand real loans. Every type below was written
by hand; `nightproof new` writes such a file by itself from a model and a CSV.
"""

from pathlib import Path
from typing import Annotated, Literal

import joblib
from pydantic import BaseModel, ConfigDict, Field

from nightproof import Confidence, Model, Objective, Service, Usual, fallback

PURPOSES = [
    "business",
    "car (new)",
    "car (used)",
    "domestic appliances",
    "education",
    "furniture/equipment",
    "others",
    "radio/television",
    "repairs",
    "retraining",
]
LARGE_LOAN_DM = 10_000
SURE = 0.7


class Applicant(BaseModel):
    """What the bank knows of an applicant. Sex, marital status and nationality are in the data, not in here.

    `Field` and `Literal` are rules: what breaks one is refused. `Usual` is what the thousand loans had: what
    lies outside is answered, and flagged in its record.
    """

    model_config = ConfigDict(alias_generator=lambda name: name.replace("_", "-"))

    checking_account: Literal["no account", "<0 DM", "0 <= <200 DM", ">= 200 DM"]
    duration: Annotated[int, Field(ge=1, le=120, description="months"), Usual(ge=4, le=72)]
    credit_history: Literal[
        "no credits taken",
        "all credits at this bank paid back duly",
        "existing credits paid back duly till now",
        "delay in paying off",
        "critical account",
    ]
    purpose: Annotated[str, Field(max_length=80), Usual(among=PURPOSES)]
    credit_amount: Annotated[int, Field(ge=1, le=1_000_000, description="DM"), Usual(ge=250, le=18_424)]
    savings_account: Literal[
        "no savings account", "<100 DM", "100 <= <500 DM", "500 <= < 1000 DM", ">= 1000 DM"
    ]
    employment_since: Literal["unemployed", "<1 years", "1<= < 4 years", "4<= <7 years", ">=7 years"]
    installment_rate: int = Field(ge=1, le=4, description="band of the instalments' share of income")
    other_debtors: Literal["none", "co-applicant", "guarantor"]
    residence_since: int = Field(ge=1, le=4)
    property: Literal[
        "real estate",
        "savings agreement/life insurance",
        "car or other",
        "unknown / no property",
    ]
    age: Annotated[int, Field(ge=18, le=120), Usual(le=75)]
    other_installment: Literal["none", "bank", "store"]
    housing: Literal["own", "rent", "for free"]
    existing_credits: Annotated[int, Field(ge=0, le=50), Usual(ge=1, le=4)]
    job: Literal[
        "unemployed/ unskilled  - non-resident",
        "unskilled - resident",
        "skilled employee / official",
        "management/ highly qualified employee",
    ]
    dependants: Annotated[int, Field(ge=0, le=20), Usual(ge=1, le=2)]
    telephone: Literal["none", "yes"]


class Decision(BaseModel):
    approve: bool
    confidence: Confidence  # watched, and held to the service's floor


class CreditModel(Model[Applicant, Decision]):
    """A logistic regression. It takes records: making a frame of them would cost more than the model does."""

    def load(self, artifacts: Path) -> None:
        self.pipeline = joblib.load(artifacts / "model.joblib")

    def predict(self, batch: list[Applicant]) -> list[Decision]:
        rows = [given.model_dump() for given in batch]
        good = self.pipeline.predict_proba(rows)[:, 1].tolist()
        return [Decision(approve=share >= 0.5, confidence=max(share, 1 - share)) for share in good]


service = Service(
    "credit",
    model=CreditModel,
    deadline_ms=300,
    confidence_floor=0.5,
    fallbacks=[
        fallback.previous_release(),
        fallback.constant(Decision(approve=False, confidence=1.0)),
    ],
    objective=Objective(availability=0.999, latency_p99_ms=250),
)


@service.input_check
def repaid_within_a_lifetime(given: Applicant) -> str | None:
    """Refuse what each field allows alone, and the two together do not."""
    if given.age * 12 + given.duration > 100 * 12:
        return "the loan would end after the applicant's hundredth birthday"
    return None


@service.output_check
def a_large_loan_needs_a_sure_yes(given: Applicant, answer: Decision) -> str | None:
    """Withhold the answer and take a fallback's: the model saw few large loans."""
    if answer.approve and given.credit_amount > LARGE_LOAN_DM and answer.confidence < SURE:
        return "a large loan is approved with too little confidence"
    return None
