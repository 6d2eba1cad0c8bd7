"""A service that must answer also while its audit log cannot be written. For tests only."""

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, Field

from nightproof import Confidence, Model, Service, Subject


class Asked(BaseModel):
    x: float = Field(ge=0, le=1_000_000)
    patient: Annotated[str, Subject()] = ""


class Said(BaseModel):
    y: float
    confidence: Confidence


class Doubling(Model[Asked, Said]):
    def load(self, artifacts: Path) -> None:
        pass

    def predict(self, batch: list[Asked]) -> list[Said]:
        return [Said(y=2 * one.x, confidence=0.9) for one in batch]


service = Service(
    "ward",
    model=Doubling,
    deadline_ms=4_000,
    predict_timeout_ms=3_000,
    workers=(1, 1),
    spares=0,
    memory_mb=1_024,
    audit_on_failure="spill",
)
