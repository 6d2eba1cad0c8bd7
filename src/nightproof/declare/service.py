"""`Service` and `Model`: the declaration of one service that runs a model, in one file.

Nothing here runs a model: a declaration is data plus the user's functions, and
`declare.describe` turns it into a `Description` that crosses process borders.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

from pydantic import BaseModel

from nightproof.base.errors import DeclarationError
from nightproof.declare.endpoint import AuditOnFailure, Endpoint, Objective
from nightproof.declare.fallback import Fallback

In = TypeVar("In", bound=BaseModel)
Out = TypeVar("Out", bound=BaseModel)


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


class Service(Endpoint):
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
        super().__init__(
            name,
            deadline_ms=deadline_ms,
            predict_timeout_ms=(
                predict_timeout_ms if predict_timeout_ms is not None else max(1, deadline_ms // 2)
            ),
            fallbacks=fallbacks,
            objective=objective,
            max_batch=max_batch,
            max_wait_ms=max_wait_ms,
            max_items=max_items,
            workers=workers,
            spares=spares,
            memory_mb=memory_mb,
            load_timeout_s=load_timeout_s,
            audit_on_failure=audit_on_failure,
            keep_payload_days=keep_payload_days,
        )
        self.model = model
        self.confidence_floor = confidence_floor
        if not (isinstance(model, type) and issubclass(model, Model)):
            raise DeclarationError(
                f"Service {name!r}: model is {model!r}.",
                hint="Give a class that inherits from nightproof.Model[Input, Output], not an instance.",
            )
        if confidence_floor is not None:
            self._between("confidence_floor", confidence_floor, 0, 1)

    def __repr__(self) -> str:
        return f"<Service {self.name} model={self.model.__name__} deadline_ms={self.deadline_ms}>"
