"""A service whose model sets its capacity: 20 ms a record, no batching, one worker or two. For tests only."""

import time

from pydantic import BaseModel, Field

from nightproof import Model, Service


class Given(BaseModel):
    x: float
    ms: float = Field(default=20.0, ge=0, le=200)


class Answer(BaseModel):
    y: float


class Slow(Model[Given, Answer]):
    def predict(self, batch: list[Given]) -> list[Answer]:
        time.sleep(sum(given.ms for given in batch) / 1_000)
        return [Answer(y=given.x * 2) for given in batch]


service = Service("slow", model=Slow, deadline_ms=500, max_batch=1, workers=(1, 2), spares=1)
