"""A service whose only way down is a constant, which needs no worker. For tests only."""

import os
import time
from typing import Literal

from pydantic import BaseModel

from nightproof import Confidence, Model, Service, fallback


class Asked(BaseModel):
    x: float
    act: Literal["answer", "hang", "exit"] = "answer"


class Answer(BaseModel):
    y: float
    confidence: Confidence


class LastResort(Model[Asked, Answer]):
    def predict(self, batch: list[Asked]) -> list[Answer]:
        return [self._one(asked) for asked in batch]

    def _one(self, asked: Asked) -> Answer:
        match asked.act:
            case "hang":
                time.sleep(60)
            case "exit":
                os._exit(3)
        return Answer(y=asked.x, confidence=0.9)


service = Service(
    "last_resort",
    model=LastResort,
    deadline_ms=800,
    predict_timeout_ms=300,
    workers=(1, 1),
    spares=0,
    fallbacks=[fallback.constant(Answer(y=-7.0, confidence=0.0))],
)
