"""A service that says back what it was told, and how often it has heard that. For tests only."""

import time
from collections import Counter
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, Field

from nightproof import Confidence, Fresh, Model, Service, Usual


class Told(BaseModel):
    text: str = Field(max_length=100_000)
    count: int = Field(default=0, ge=0, le=1_000)
    share: float = Field(default=0.5, ge=0, le=1)
    flag: bool = False
    colour: Literal["red", "green", "blue"] | None = None
    code: str | None = Field(default=None, pattern=r"^[\x00-\x7f]{0,8}$")
    wide: int | None = Field(default=None, ge=-(2**63), le=2**63 - 1)
    size: Annotated[float | None, Usual(ge=0, le=100)] = None
    tags: dict[str, str] = {}
    as_of: Annotated[datetime | None, Fresh(timedelta(days=30), ahead=timedelta(minutes=5))] = None
    slow_ms: float = Field(default=0, ge=0, le=2_000, description="how long predict takes")
    fail_first: bool = Field(default=False, description="raise when this text comes for the first time")


class Said(BaseModel):
    text: str
    code: str | None
    wide: int | None
    run: int = Field(description="how often this worker has answered this very text, this time included")
    confidence: Confidence


class Mirror(Model[Told, Said]):
    def load(self, artifacts: Path) -> None:
        self.runs: Counter[str] = Counter()
        self.seen: set[str] = set()

    def predict(self, batch: list[Told]) -> list[Said]:
        return [self._one(told) for told in batch]

    def _one(self, told: Told) -> Said:
        if told.slow_ms:
            time.sleep(told.slow_ms / 1_000)
        if told.fail_first and told.text not in self.seen:
            self.seen.add(told.text)
            raise ValueError("the first time")
        self.runs[told.text] += 1
        return Said(text=told.text, code=told.code, wide=told.wide, run=self.runs[told.text], confidence=0.9)


service = Service(
    "mirror",
    model=Mirror,
    deadline_ms=4_000,
    predict_timeout_ms=3_000,
    max_items=200,
    workers=(1, 1),
    spares=0,
    memory_mb=1_024,
)


@service.input_check
def not_forbidden(told: Told) -> str | None:
    return "the text is forbidden" if told.text == "forbidden" else None
