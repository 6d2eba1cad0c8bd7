"""`Service`, `Model` and `Objective`: the declaration of one service, in one file.

Nothing here runs a model: a declaration is data plus the user's functions, and
`declare.describe` turns it into a `Description` that crosses process borders.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar, get_args, overload

from pydantic import BaseModel

from nightproof.base.errors import DeclarationError
from nightproof.declare.fallback import Fallback

In = TypeVar("In", bound=BaseModel)
Out = TypeVar("Out", bound=BaseModel)

InputCheck = Callable[[Any], str | None]
OutputCheck = Callable[[Any, Any], str | None]
InputAction = Literal["refuse", "flag"]
OutputAction = Literal["fall_back", "flag"]
AuditOnFailure = Literal["refuse", "spill"]

_NAME = re.compile(r"[a-z][a-z0-9_-]{0,62}")


class Model(Generic[In, Out]):
    """Code that answers: `load` once per worker, `predict` once per batch. Runs in workers only.

    The annotation of `predict`'s argument decides what it is given: `list[Input]`, `pandas.DataFrame`
    (one column per field) or `numpy.ndarray` (rows × fields, in the order of declaration). It may
    return a list of outputs (instances or dicts), a `DataFrame` with the output's columns, or an array;
    one row per row given.
    """

    def load(self, artifacts: Path) -> None:
        """Read what the model needs from the folder `artifacts`; called once, before any predict."""

    def predict(self, batch: Any) -> Any:
        """Answer every row of the batch, in order."""
        raise NotImplementedError(f"{type(self).__name__} must define predict(self, batch)")


@dataclass(frozen=True, kw_only=True)
class Objective:
    """What the service promises: shares and milliseconds, over 30 days."""

    availability: float = 0.999
    latency_p99_ms: float | None = None

    def __post_init__(self) -> None:
        if not 0.5 <= self.availability < 1.0:
            raise ValueError(
                f"availability is a share from 0.5 to below 1, for example 0.999; not {self.availability}."
            )
        if self.latency_p99_ms is not None and self.latency_p99_ms <= 0:
            raise ValueError("latency_p99_ms must be positive.")


@dataclass(frozen=True)
class DeclaredCheck:
    """A check function of the user's, with what is to be done when it finds something."""

    name: str
    function: Callable[..., str | None]
    action: str


class Service:
    """A named endpoint: typed input and output, deadline, checks, fallbacks and promises.

    Times are milliseconds. `predict_timeout_ms` is the model's own clock, from the hand-over to the
    worker; half of `deadline_ms` unless given. `workers=(min, max)` processes answer, and `spares`
    more stand by, warm. `memory_mb` bounds each worker. `max_batch=1` turns batching off.
    `keep_payload_days` is how long inputs and outputs stay in the audit log; the record of what happened stays.
    `audit_on_failure="spill"` answers while the log cannot be written, recording to a side file for a while.
    """

    def __init__(
        self,
        name: str,
        *,
        model: type[Model[Any, Any]],
        deadline_ms: int = 1_000,
        predict_timeout_ms: int | None = None,
        confidence_floor: float | None = None,
        fallbacks: Sequence[Fallback] = (),
        objective: Objective | None = None,
        max_batch: int = 64,
        max_wait_ms: float = 0.0,
        max_items: int = 1_000,
        workers: tuple[int, int] | None = None,
        spares: int = 2,
        memory_mb: int = 2_048,
        load_timeout_s: float = 120.0,
        audit_on_failure: AuditOnFailure = "refuse",
        keep_payload_days: float = 187.0,
    ) -> None:
        self.name = name
        self.model = model
        self.deadline_ms = deadline_ms
        self.predict_timeout_ms = (
            predict_timeout_ms if predict_timeout_ms is not None else max(1, deadline_ms // 2)
        )
        self.confidence_floor = confidence_floor
        self.fallbacks = tuple(fallbacks)
        self.objective = objective or Objective()
        self.max_batch = max_batch
        self.max_wait_ms = max_wait_ms
        self.max_items = max_items
        self.workers = workers or (1, max(1, os.cpu_count() or 1))
        self.spares = spares
        self.memory_mb = memory_mb
        self.load_timeout_s = load_timeout_s
        self.audit_on_failure = audit_on_failure
        self.keep_payload_days = keep_payload_days
        self.input_checks: list[DeclaredCheck] = []
        self.output_checks: list[DeclaredCheck] = []
        self._refuse_what_cannot_be_served()

    def _refuse_what_cannot_be_served(self) -> None:
        def between(word: str, value: Any, low: float, high: float) -> None:
            if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
                raise DeclarationError(
                    f"Service {self.name!r}: {word} is {value!r}.",
                    hint=f"Give a number from {low:g} to {high:g}.",
                )

        if not isinstance(self.name, str) or not _NAME.fullmatch(self.name):
            raise DeclarationError(
                f"Service name {self.name!r} cannot be part of a URL.",
                hint="Use a lower-case letter, then letters, digits, '-' or '_', at most 63 in all.",
            )
        if not (isinstance(self.model, type) and issubclass(self.model, Model)):
            raise DeclarationError(
                f"Service {self.name!r}: model is {self.model!r}.",
                hint="Give a class that inherits from nightproof.Model[Input, Output], not an instance.",
            )
        between("deadline_ms", self.deadline_ms, 1, 600_000)
        between("predict_timeout_ms", self.predict_timeout_ms, 1, self.deadline_ms)
        between("max_batch", self.max_batch, 1, 4_096)
        between("max_wait_ms", self.max_wait_ms, 0, self.deadline_ms / 2)
        between("max_items", self.max_items, 1, 100_000)
        between("spares", self.spares, 0, 16)
        between("memory_mb", self.memory_mb, 64, 1_048_576)
        between("load_timeout_s", self.load_timeout_s, 0.1, 3_600)
        between("keep_payload_days", self.keep_payload_days, 0, 3_660)
        if self.audit_on_failure not in get_args(AuditOnFailure):
            raise DeclarationError(
                f"Service {self.name!r}: audit_on_failure is {self.audit_on_failure!r}.",
                hint="Give 'refuse' (no record, no answer) or 'spill' (record to a side file, see docs/audit.md).",
            )
        if self.confidence_floor is not None:
            between("confidence_floor", self.confidence_floor, 0, 1)
        if not (isinstance(self.workers, tuple) and len(self.workers) == 2):
            raise DeclarationError(
                f"Service {self.name!r}: workers is {self.workers!r}.",
                hint="Give (min, max), for example (1, 4).",
            )
        between("workers[0]", self.workers[0], 1, 64)
        between("workers[1]", self.workers[1], self.workers[0], 64)
        for way in self.fallbacks:
            if not isinstance(way, Fallback):
                raise DeclarationError(
                    f"Service {self.name!r}: fallbacks contains {way!r}.",
                    hint="Use fallback.previous_release(), .last_good(), .rule(function) or .constant(answer).",
                )

    @overload
    def input_check(self, function: InputCheck, /) -> InputCheck: ...

    @overload
    def input_check(self, *, action: InputAction = "refuse") -> Callable[[InputCheck], InputCheck]: ...

    def input_check(
        self, function: InputCheck | None = None, *, action: InputAction = "refuse"
    ) -> InputCheck | Callable[[InputCheck], InputCheck]:
        """Add a check of the input: return None, or a text that says what is wrong (without its values).

        `action="refuse"` answers 422 `invalid_input`; `"flag"` answers normally and records the finding.
        """
        if action not in ("refuse", "flag"):
            raise DeclarationError(
                f"input_check(action={action!r}) is unknown.", hint="Use 'refuse' or 'flag'."
            )

        def add(check: InputCheck) -> InputCheck:
            self.input_checks.append(DeclaredCheck(check.__name__, check, action))
            return check

        return add(function) if function is not None else add

    @overload
    def output_check(self, function: OutputCheck, /) -> OutputCheck: ...

    @overload
    def output_check(self, *, action: OutputAction = "fall_back") -> Callable[[OutputCheck], OutputCheck]: ...

    def output_check(
        self, function: OutputCheck | None = None, *, action: OutputAction = "fall_back"
    ) -> OutputCheck | Callable[[OutputCheck], OutputCheck]:
        """Add a check of the answer, given input and answer: return None, or a text that says what is wrong.

        `action="fall_back"` withholds the answer (`unsafe_output`) and tries the fallbacks; `"flag"`
        lets it out and records the finding.
        """
        if action not in ("fall_back", "flag"):
            raise DeclarationError(
                f"output_check(action={action!r}) is unknown.", hint="Use 'fall_back' or 'flag'."
            )

        def add(check: OutputCheck) -> OutputCheck:
            self.output_checks.append(DeclaredCheck(check.__name__, check, action))
            return check

        return add(function) if function is not None else add

    def __repr__(self) -> str:
        return f"<Service {self.name} model={self.model.__name__} deadline_ms={self.deadline_ms}>"
