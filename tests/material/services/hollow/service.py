"""A service whose constant is not good enough for its own floor: `nightproof check` says so. For tests only."""

from pydantic import BaseModel

from nightproof import Confidence, Model, Service, fallback


class Asked(BaseModel):
    x: float


class Answer(BaseModel):
    y: float
    confidence: Confidence


class Hollow(Model[Asked, Answer]):
    def predict(self, batch: list[Asked]) -> list[Answer]:
        return [Answer(y=asked.x, confidence=0.9 if asked.x == 4 else 0.3) for asked in batch]


service = Service(
    "hollow",
    model=Hollow,
    confidence_floor=0.5,
    workers=(1, 1),
    spares=0,
    fallbacks=[fallback.constant(Answer(y=0.0, confidence=0.1))],
)
