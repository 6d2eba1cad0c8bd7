"""What every service declares, whatever answers: name, clocks, workers, checks, fallbacks, promises.

`Service` and `ChatService` are the two kinds. Nothing here runs anything: a declaration is data plus the user's
functions.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args, overload

from nightproof.base.errors import DeclarationError
from nightproof.declare.fallback import Fallback

InputCheck = Callable[[Any], str | None]
OutputCheck = Callable[[Any, Any], str | None]
InputAction = Literal["refuse", "flag"]
OutputAction = Literal["fall_back", "flag"]
AuditOnFailure = Literal["refuse", "spill"]

_NAME = re.compile(r"[a-z][a-z0-9_-]{0,62}")


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


class Endpoint:
    """A named endpoint; the kinds of service add what answers."""

    def __init__(
        self,
        name: str,
        *,
        deadline_ms: int,
        predict_timeout_ms: int,
        fallbacks: Sequence[Fallback],
        objective: Objective | None,
        max_batch: int,
        max_wait_ms: float,
        max_items: int,
        workers: tuple[int, int] | None,
        spares: int,
        memory_mb: int,
        load_timeout_s: float,
        audit_on_failure: AuditOnFailure,
        keep_payload_days: float,
    ) -> None:
        self.name = name
        self.deadline_ms = deadline_ms
        self.predict_timeout_ms = predict_timeout_ms
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
        self._refuse_what_no_service_can_be()

    def _between(self, word: str, value: Any, low: float, high: float) -> None:
        if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
            raise DeclarationError(
                f"Service {self.name!r}: {word} is {value!r}.",
                hint=f"Give a number from {low:g} to {high:g}.",
            )

    def _refuse_what_no_service_can_be(self) -> None:
        between = self._between
        if not isinstance(self.name, str) or not _NAME.fullmatch(self.name):
            raise DeclarationError(
                f"Service name {self.name!r} cannot be part of a URL.",
                hint="Use a lower-case letter, then letters, digits, '-' or '_', at most 63 in all.",
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
