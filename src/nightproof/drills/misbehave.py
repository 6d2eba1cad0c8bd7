"""Make a service's own model misbehave on cue: the release of a stage, run in its workers.

The stage's folder is a copy of the user's whose `service.py` imports the one as it was written and hands its service
to `wrap`. What the model is to do stands in a file outside the folder, so that it changes while the release stays the
same. Without a cue the model answers as it does.
"""

from __future__ import annotations

import ctypes
import functools
import json
import math
import os
import random
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from nightproof.base.clock import monotonic_s
from nightproof.declare.chat import ChatService
from nightproof.declare.describe import types_of
from nightproof.declare.endpoint import Objective
from nightproof.declare.service import Service

_FOR_EVER_S = 3_600.0
_CHUNK_BYTES = 32 << 20


def wrap(service: Service | ChatService, cue_file: str, declares: Mapping[str, Any]) -> Service | ChatService:
    """Return the service with a model that does as the cue file says, and with what this stage declares otherwise."""
    if isinstance(service, ChatService):
        from nightproof.drills.misbehave_chat import wrap_chat

        return wrap_chat(service, Cue(Path(cue_file)), declares)
    cue = Cue(Path(cue_file))
    model = service.model
    given, answer = types_of(model)

    class Misbehaving(model):  # type: ignore[misc, valid-type]
        """The user's model, and what the cue makes of it."""

        def load(self, artifacts: Path) -> None:
            """Load as the user's does, when the cue lets it."""
            cue.load()
            super().load(artifacts)

        @functools.wraps(model.predict)
        def predict(self, batch: Any) -> Any:
            """Answer as the user's does, or misbehave."""
            return cue.predict(super().predict, batch, given, answer)

    Misbehaving.__name__ = model.__name__
    service.model = Misbehaving
    declare(service, declares)
    return service


def declare(service: Service | ChatService, declares: Mapping[str, Any]) -> None:
    """Have a service declare otherwise."""
    for name, value in declares.items():
        if name == "objective":
            value = Objective(**value)
        setattr(service, name, tuple(value) if isinstance(value, list) else value)


class Cue:
    """What the model is to do now."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stamp: tuple[int, int] | None = None
        self._told: dict[str, Any] = {}
        self._draw = random.Random(os.getpid())  # noqa: S311 - it spreads faults; nothing secret depends on it
        self._hoard: list[bytearray] = []

    def load(self) -> None:
        """Do what is told of loading."""
        match self._read().get("load", ""):
            case "hang":
                time.sleep(_FOR_EVER_S)
            case "raise":
                raise RuntimeError("told to fail while loading")

    def predict(
        self, own: Callable[[Any], Any], batch: Any, given: type[BaseModel], answer: type[BaseModel]
    ) -> Any:
        """Answer a batch: by the model, and as told before and after it."""
        told = self._read()
        act = str(told.get("act", ""))
        if not act or not self._is_meant(told, batch, given):
            return own(batch)
        self.misbehave(act, told)
        answers = own(batch)
        return _spoil(act, told, answers, answer) if act in _SPOILS else answers

    def look_at_chat(self, said: str) -> str | None:
        """Look at a chat as one more input check would; do what is told of those that hold the value.

        `refuse` refuses, `raise` raises, and so on; a lie is to find something in what is good.
        """
        told = self._read()
        act = str(told.get("act", ""))
        if (
            not act
            or "check" in told
            or str(told.get("value", "")) not in said
            or self._draw.random() >= told.get("share", 1.0)
        ):
            return None
        self.misbehave(act, told)
        return "told to refuse" if act in ("refuse", "lie") else None

    def misbehave(self, act: str, told: dict[str, Any]) -> None:
        """Do what does not end in an answer."""
        match act:
            case "slow":
                time.sleep(float(told["ms"]) / 1_000)
            case "hang":
                time.sleep(_FOR_EVER_S)
            case "spin":
                until_s = monotonic_s() + _FOR_EVER_S
                while monotonic_s() < until_s:
                    pass
            case "raise":
                raise RuntimeError("told to raise")
            case "exit":
                os._exit(3)
            case "segfault":
                ctypes.string_at(0)
            case "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            case "eat":
                while True:
                    self._hoard.append(bytearray(os.urandom(1) * _CHUNK_BYTES))
                    time.sleep(0.005)

    def _is_meant(self, told: dict[str, Any], batch: Any, given: type[BaseModel]) -> bool:
        if "field" in told and told["value"] not in _column(batch, str(told["field"]), given):
            return False
        share = float(told.get("share", 1.0))
        return share >= 1.0 or self._draw.random() < share

    def told(self) -> dict[str, Any]:
        """Return what is told now."""
        return self._read()

    def _read(self) -> dict[str, Any]:
        """Read the cue again where it changed; a file that is not there says nothing."""
        try:
            found = self._path.stat()
        except OSError:
            self._stamp, self._told = None, {}
            return self._told
        if (stamp := (found.st_ino, found.st_mtime_ns)) != self._stamp:
            self._told, self._stamp = json.loads(self._path.read_text(encoding="utf-8")), stamp
        return self._told


def _column(batch: Any, field: str, given: type[BaseModel]) -> list[Any]:
    """Return one field of every row, whatever form the model takes its batch in."""
    if hasattr(batch, "columns"):
        return list(batch[field].tolist()) if field in batch.columns else []
    if hasattr(batch, "shape"):
        names = [info.alias or name for name, info in given.model_fields.items()]
        return list(batch[:, names.index(field)].tolist())
    return [row.model_dump(by_alias=True).get(field) for row in batch]


_SPOILS = frozenset({"nan", "wrong_type", "short", "lie", "unsure"})


def _spoil(act: str, told: dict[str, Any], answers: Any, answer: type[BaseModel]) -> Any:
    """Turn right answers into what the act says."""
    if act == "short":
        return answers[:-1]
    rows = _rows(answers, answer)
    confidence = str(told.get("confidence", ""))
    for row in rows:
        for name, value in row.items():
            row[name] = _spoiled(act, value, is_confidence=name == confidence, info=told)
    return rows


def _rows(answers: Any, answer: type[BaseModel]) -> list[dict[str, Any]]:
    if hasattr(answers, "columns"):
        return [dict(row) for row in answers.to_dict("records")]
    if hasattr(answers, "shape"):
        names = list(answer.model_fields)
        rows = answers.tolist()
        return [dict(zip(names, row if isinstance(row, list) else [row], strict=False)) for row in rows]
    return [row.model_dump(by_alias=True) if isinstance(row, BaseModel) else dict(row) for row in answers]


def _spoiled(act: str, value: Any, *, is_confidence: bool, info: dict[str, Any]) -> Any:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if act == "nan":
        return math.nan if isinstance(value, float) else value
    if act == "wrong_type":
        return {"nonsense": True}
    if act == "unsure":
        return float(info.get("floor", 0.5)) / 2 if is_confidence else value
    # A lie: well formed, wrong, and sure of itself.
    if is_confidence:
        return float(info.get("sure", 1.0))
    if isinstance(value, bool):
        return not value
    if is_number:
        return type(value)(value + 1)
    options = info.get("options", {})
    return next((one for one in options.get("all", ()) if one != value), value)
