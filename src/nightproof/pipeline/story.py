"""What happened to one request, gathered on its way; and the values its steps hand on."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from nightproof.base.clock import monotonic_s, utc_us
from nightproof.base.errors import Fault, FieldError
from nightproof.base.failures import CATALOGUE
from nightproof.base.values import Caller, Degraded, Ending, Reply
from nightproof.declare.describe import Description
from nightproof.watch.telemetry import Context

if TYPE_CHECKING:
    from nightproof.pipeline.chat_values import ChatAsk, ChatFacts
    from nightproof.pipeline.house import Watcher

_ERRORS_TOLD = 50

Decode = Callable[[bytes, Description], "Decoded"]


class Decoded(msgspec.Struct):
    """A body as records: each as a value to check and as the JSON bytes that a worker gets."""

    values: list[Any]
    inputs: list[bytes]
    many: bool
    refused: dict[int, list[FieldError]] = {}
    """Records that the protocol itself could not read, by place."""


class Arrival(msgspec.Struct, eq=False):
    """A request as the gateway hands it over, whatever its protocol."""

    id: str
    service: str
    protocol: str
    token: str | None
    read_body: Callable[[int], Awaitable[bytes]]
    """Read the body up to that many bytes; raises Refusal `oversized_request` beyond."""
    decode: Decode | None
    """The protocol's own decoding; None for native JSON."""
    read_chat: Callable[[bytes], ChatAsk] | None = None
    """The protocol's own reading of a chat; None where it has none."""
    approved: frozenset[str] = frozenset()
    """Tool calls that a person has said yes to, as the refusal named them."""
    client: str = ""
    idempotency_key: str = ""
    timeout_ms: float | None = None
    trace_id: str = ""
    context: Context | None = None
    """The caller's own trace, if he sent a valid one; `trace_id` is its id."""
    fault: Fault | None = None
    """What the gateway already found wrong, to be ended and recorded like any other."""
    version: str = ""
    """The release that the caller asks for by name, where the protocol can."""
    began_s: float = 0.0
    cut_by: Callable[[], str | None] = lambda: None
    """Name the failure by which the receiving side itself ended the connection, if it did."""


class Item(msgspec.Struct, eq=False):
    """One record on its way."""

    place: int
    input: bytes
    failure: str = ""
    detail: str = ""
    errors: Sequence[FieldError] = ()
    output: bytes = b""
    degraded: Degraded | None = None
    confidence: float | None = None
    findings: list[str] = []
    attempts: int = 0
    batch_size: int = 0
    predict_us: int = 0
    queue_us: int = 0
    worker_pid: int = 0
    handed_s: float = 0.0
    subject: bytes = b""
    """Pseudonym of the person that the record is about, where the service names one."""


class Story(msgspec.Struct, eq=False):
    """The whole of one request, for its one record. Steps write what they saw; `record` reads it."""

    arrival: Arrival
    began_s: float
    began_us: int
    service: str = ""
    release: str = ""
    caller: Caller | None = None
    body: bytes = b""
    items: list[Item] = []
    many: bool = False
    ending: Ending = "failed"
    failure: str = ""
    fault: Fault | None = None
    decisions: list[str] = []
    stages_us: list[tuple[str, int]] = []
    """Each stage's own time, in the order they ended."""
    marked_s: float = 0.0
    idem: bytes = b""
    idem_body: bytes = b""
    replay: Reply | None = None
    admitted: bool = False
    appended: asyncio.Future[Any] | None = None
    """Its entry is on the way to the ledger, with the ending as it stands."""
    deadline_s: float = 0.0
    arm: Literal["", "live", "canary"] = ""
    """Where a canary is on: which release the request's unit belongs to, whichever answered."""
    unit: bytes = b""
    """What the request was shared out by, where that is not the request itself."""
    watcher: Watcher | None = None
    counted_as: str = ""
    """Under which service's name the meters count it, where not under its own: labels are no predictions."""
    chat: ChatFacts | None = None
    """What happened on the way of a chat; None of a record that a model answers."""

    @classmethod
    def of(cls, arrival: Arrival) -> Story:
        """Begin the story of a request that has just arrived."""
        began_s = arrival.began_s or monotonic_s()
        return cls(arrival, began_s, utc_us(), decisions=[], stages_us=[], marked_s=began_s)

    def mark(self, stage: str) -> None:
        """Note that a stage has ended now."""
        now = monotonic_s()
        self.stages_us.append((stage, int((now - self.marked_s) * 1e6)))
        self.marked_s = now

    def end_by(self, fault: Fault) -> None:
        """End the whole request by one failure."""
        self.fault = fault
        self.failure = fault.failure
        self.ending = "failed" if self.admitted and CATALOGUE[fault.failure].statuses[0] >= 500 else "refused"

    def end_by_items(self) -> None:
        """End the request by what became of its records: the best of them names the ending."""
        failed = ""
        refused = ""
        best: Ending | None = None
        for item in self.items:
            if not item.failure:
                if item.degraded is None:
                    best = "answered"
                elif best is None:
                    best = "degraded"
                    self.failure = item.degraded.failure
            elif CATALOGUE[item.failure].statuses[0] >= 500:
                failed = failed or item.failure
            else:
                refused = refused or item.failure
        if best is not None:
            self.ending = best
            if best == "answered":
                self.failure = ""
        elif failed:
            self.ending, self.failure = "failed", failed
        else:
            self.ending, self.failure = "refused", refused

    def errors_told(self, first: Item) -> list[FieldError]:
        """Return what a request without answers is told: of a list, all records' errors, pointing into it."""
        if not self.many:
            return list(first.errors)
        return [
            FieldError(f"/{item.place}{error.pointer}", error.detail, error.kind)
            for item in self.items
            for error in item.errors
        ][:_ERRORS_TOLD]
