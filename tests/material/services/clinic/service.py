"""A service whose records are about people: one field names them, one must never be seen. For tests only."""

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, Field

from nightproof import Confidence, Model, Sensitive, Service, Subject


class Patient(BaseModel):
    patient: Annotated[str, Subject()]
    note: Annotated[str, Sensitive()] = Field(default="", max_length=10_000)
    age: int = Field(ge=0, le=150)


class Advice(BaseModel):
    advice: str
    confidence: Confidence


class Clinic(Model[Patient, Advice]):
    def load(self, artifacts: Path) -> None:
        pass

    def predict(self, batch: list[Patient]) -> list[Advice]:
        return [Advice(advice=f"rest, {one.patient}", confidence=0.9) for one in batch]


service = Service(
    "clinic",
    model=Clinic,
    deadline_ms=4_000,
    predict_timeout_ms=3_000,
    workers=(1, 1),
    spares=0,
    memory_mb=1_024,
)


@service.input_check
def says_what_it_refuses(given: Patient) -> str | None:
    """Quote what may not be seen, as the author of a check may well do."""
    return f"the note {given.note!r} is not taken" if given.note.startswith("refuse") else None
