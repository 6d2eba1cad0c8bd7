"""A service with a way down for every failure: the last good answer, a rule, a constant. For tests only."""

from datetime import timedelta
from pathlib import Path
from typing import Literal

from pydantic import BaseModel

from nightproof import Confidence, Model, Service, fallback


class Asked(BaseModel):
    x: float
    act: Literal["answer", "raise", "raise_again", "unsure", "unsafe", "infinite"] = "answer"


class Answer(BaseModel):
    y: float
    by: str
    confidence: Confidence


class Ladder(Model[Asked, Answer]):
    def load(self, artifacts: Path) -> None:
        self.seen: set[float] = set()

    def predict(self, batch: list[Asked]) -> list[Answer]:
        return [self._one(asked) for asked in batch]

    def _one(self, asked: Asked) -> Answer:
        match asked.act:
            case "raise":
                raise ValueError("on cue")
            case "raise_again" if asked.x in self.seen:
                raise ValueError("on cue")
            case "unsure":
                return Answer(y=asked.x, by="model", confidence=0.2)
            case "unsafe":
                return Answer(y=-1.0, by="model", confidence=0.9)
            case "infinite":
                return Answer.model_construct(y=float("inf"), by="model", confidence=0.9)
        self.seen.add(asked.x)
        return Answer(y=asked.x, by="model", confidence=0.9)


def cautious(asked: Asked) -> Answer:
    """Answer by hand; not for 99, unsurely for 98, unsafely for 97."""
    if asked.x == 99:
        raise ValueError("no rule for this")
    if asked.x == 97:
        return Answer(y=-1.0, by="rule", confidence=0.9)
    return Answer(y=asked.x / 2, by="rule", confidence=0.1 if asked.x == 98 else 0.6)


service = Service(
    "ladder",
    model=Ladder,
    deadline_ms=3_000,
    confidence_floor=0.5,
    workers=(1, 1),
    spares=0,
    fallbacks=[
        fallback.last_good(timedelta(hours=1)),
        fallback.rule(cautious),
        fallback.constant(Answer(y=0.0, by="constant", confidence=1.0)),
    ],
)


@service.input_check
def not_minus_one(asked: Asked) -> str | None:
    return "x is minus one" if asked.x == -1 else None


@service.output_check
def never_negative(asked: Asked, answer: Answer) -> str | None:
    return "y is negative" if answer.y < 0 else None
