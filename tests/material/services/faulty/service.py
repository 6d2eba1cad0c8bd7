"""A service that misbehaves on cue: the field `act` says how. For tests only."""

import ctypes
import os
import signal
import sys
import time
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, Field

from nightproof import Confidence, Fresh, Model, Service, Usual


class Given(BaseModel):
    x: float
    act: str = "answer"
    ms: float = Field(default=0.0, ge=0, le=60_000, description="how long predict takes")
    colour: Annotated[Literal["red", "green", "blue"] | None, Field()] = None
    size: Annotated[float | None, Usual(ge=0, le=100)] = None
    as_of: Annotated[datetime | None, Fresh(timedelta(days=30))] = None


class Answer(BaseModel):
    y: float
    confidence: Confidence
    note: str | None = None


class Faulty(Model[Given, Answer]):
    def load(self, artifacts: Path) -> None:
        self.kept: list[bytes] = []

    def predict(self, batch: list[Given]) -> list[Answer]:
        answers = []
        for given in batch:
            if given.ms:
                time.sleep(given.ms / 1_000)
            answers.append(self._one(given))
        if any(given.act == "short" for given in batch):
            return answers[:-1]
        return answers

    def _one(self, given: Given) -> Answer:
        match given.act:
            case "raise":
                raise ValueError(f"a text with the caller's {given.x}")
            case "exit":
                os._exit(3)
            case "sys_exit":
                sys.exit(4)
            case "segfault":
                ctypes.string_at(0)
            case "abort":
                os.abort()
            case "hang":
                time.sleep(3_600)
            case "spin":
                while True:
                    pass
            case "stop":
                os.kill(os.getpid(), signal.SIGSTOP)
            case "allocate":
                self.kept.append(bytes(8 << 30))
            case "leak":
                self.kept.append(b"\xff" * (40 << 20))  # written, so that it counts, and quick
            case "print":
                print("noise on stdout", given.x, flush=True)
                os.write(1, b"raw noise\n" * 1_000)
            case "nan":
                return Answer.model_construct(y=float("nan"), confidence=0.9)
            case "infinite":
                return Answer.model_construct(y=float("inf"), confidence=0.9)
            case "wrong_type":
                return Answer.model_construct(y="seven", confidence=0.9)
            case "too_sure":
                return Answer.model_construct(y=1.0, confidence=1.7)
            case "unsure":
                return Answer(y=1.0, confidence=0.1)
            case "huge":
                return Answer(y=1.0, confidence=0.9, note="x" * (2 << 20))
            case "unsafe":
                return Answer(y=-1.0, confidence=0.9)
            case "pid":
                return Answer(y=float(os.getpid()), confidence=0.9)
        return Answer(y=given.x * 2, confidence=0.9)


service = Service(
    "faulty",
    model=Faulty,
    deadline_ms=1_000,
    predict_timeout_ms=400,
    confidence_floor=0.5,
    max_batch=16,
    workers=(1, 2),
    spares=2,
    memory_mb=1_024,
)


@service.input_check
def no_minus_one(given: Given) -> str | None:
    return "x is minus one" if given.x == -1 else None


@service.input_check(action="flag")
def odd(given: Given) -> str | None:
    return "x is thirteen" if given.x == 13 else None


@service.output_check
def not_negative(given: Given, answer: Answer) -> str | None:
    return "y is negative where x is not" if answer.y < 0 <= given.x else None
