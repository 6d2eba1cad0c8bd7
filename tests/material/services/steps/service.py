"""A service of which tests make better and worse releases, by the file `artifacts/release.json`. For tests only."""

import json
import os
import random
import time
from pathlib import Path

from pydantic import BaseModel, Field

from nightproof import Confidence, Model, Service


class Given(BaseModel):
    x: float
    group: str = "a"


class Answer(BaseModel):
    y: float = Field(ge=0)
    by: str = Field(description="which release answered")
    approve: bool
    confidence: Confidence


class Steps(Model[Given, Answer]):
    def load(self, artifacts: Path) -> None:
        told = json.loads((artifacts / "release.json").read_text())
        self.by = told["by"]
        self.broken_share = told.get("broken_share", 0.0)
        self.slow_s = told.get("slow_ms", 0.0) / 1_000
        self.confidence = told.get("confidence", 0.9)
        self.broken_group = told.get("broken_group", "")
        self.wrong = told.get("wrong", 0.0)
        self.approve_below = told.get("approve_below", 50.0)
        time.sleep(told.get("load_s", 0.0))
        self.spoiled = Path(told.get("spoiled_by", "nowhere")).exists()
        self.turned_by = Path(told.get("turned_by", "nowhere"))
        if self.spoiled and told.get("exits"):
            os._exit(9)

    def predict(self, batch: list[Given]) -> list[Answer]:
        if self.slow_s:
            time.sleep(self.slow_s)
        return [self._one(given) for given in batch]

    def _one(self, given: Given) -> Answer:
        is_broken = (given.x != 3 and random.random() < self.broken_share) or (
            self.broken_group != "" and given.group == self.broken_group
        )
        is_broken = is_broken or self.spoiled
        y = -1.0 if is_broken else abs(given.x) * 2 + (self.wrong if given.x > 10 else 0.0)
        if self.turned_by.exists():
            y += 1.0
        return Answer.model_construct(
            y=y,
            by=self.by,
            approve=given.x % 100 < self.approve_below,
            confidence=self.confidence + (given.x * 37 % 11) / 110 - 0.05,
        )


service = Service(
    "steps",
    model=Steps,
    deadline_ms=1_000,
    predict_timeout_ms=500,
    workers=(1, 2),
    spares=0,
    memory_mb=512,
)
