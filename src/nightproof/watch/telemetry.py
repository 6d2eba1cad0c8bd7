"""Which requests become traces, and how they leave the event loop: a bounded queue that is never waited for.

Used on the event loop's thread, but for `take`, which the sender's thread calls. OpenTelemetry itself is in
`watch/otlp.py`, imported only when `OTEL_EXPORTER_OTLP_ENDPOINT` is set. Promises: a full queue, a second's
budget that is used up and a collector that does not answer cost dropped traces, counted by reason, and nothing
else. What is handed on are names, ids and times: never a caller's data.
"""

from __future__ import annotations

import re
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

import msgspec
from prometheus_client import Metric

_TRACEPARENT = re.compile(r"(?!ff)([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_STATE_KEY = r"[a-z0-9][a-z0-9_\-*/]{0,240}(?:@[a-z][a-z0-9_\-*/]{0,13})?"
_STATE_MEMBER = re.compile(
    rf"({_STATE_KEY})=([\x20-\x2b\x2d-\x3c\x3e-\x7e]{{0,255}}[\x21-\x2b\x2d-\x3c\x3e-\x7e])"
)
_MOST_STATE_BYTES = 512
_MOST_STATE_MEMBERS = 32


class Context(msgspec.Struct, frozen=True):
    """A caller's trace, by the W3C's Trace Context."""

    trace_id: str
    parent_id: str
    sampled: bool
    state: str = ""


def read_context(traceparent: str, tracestate: str = "") -> Context | None:
    """Read the headers; None where they are not valid, and a state is worth nothing without a parent.

    A state that breaks the rules is dropped alone: the trace goes on.
    """
    found = _TRACEPARENT.fullmatch(traceparent)
    if found is None or not found[2].strip("0") or not found[3].strip("0"):
        return None
    if found[1] == "00" and found[5]:
        return None
    return Context(found[2], found[3], bool(int(found[4], 16) & 1), _good_state(tracestate))


def _good_state(text: str) -> str:
    members = [member.strip(" \t") for member in text.split(",") if member.strip(" \t")]
    if not members or len(text) > _MOST_STATE_BYTES or len(members) > _MOST_STATE_MEMBERS:
        return ""
    keys = [found[1] for member in members if (found := _STATE_MEMBER.fullmatch(member))]
    return ",".join(members) if len(set(keys)) == len(members) else ""


class ItemTrace(NamedTuple):
    """One record's way through a worker."""

    queue_us: int
    predict_us: int
    batch_size: int
    worker_pid: int
    handed_s: float
    """When its batch was handed out, on the monotonic clock: with the worker, the batch's name."""
    attempts: int
    failure: str


class AttemptTrace(NamedTuple):
    """One try of a chat at an upstream."""

    upstream: str
    endpoint: tuple[str, str, int]
    """Provider, host and port."""
    request_model: str
    response_model: str
    began_us: int
    """On the wall clock."""
    duration_us: int
    first_token_us: int
    failure: str
    input_tokens: int
    output_tokens: int
    finish_reason: str


class Trace(NamedTuple):
    """One request, as names and numbers."""

    id: str
    trace_id: str
    parent_id: str
    state: str
    service: str
    release: str
    protocol: str
    ending: str
    failure: str
    began_us: int
    duration_us: int
    stages_us: tuple[tuple[str, int], ...]
    items: tuple[ItemTrace, ...]
    records: int
    attempts: tuple[AttemptTrace, ...] = ()


class Budget:
    """How many traces a second may send: half for answers, half for everything that went otherwise."""

    def __init__(self, per_s: int) -> None:
        self._per_s = per_s
        self._second = -1
        self._left = {True: 0, False: 0}

    def may_take(self, *, answered: bool, now: float) -> bool:
        """Take one of this second's share, if there is one."""
        if int(now) != self._second:
            self._second = int(now)
            self._left = {True: self._per_s // 2, False: self._per_s - self._per_s // 2}
        if not self._left[answered]:
            return False
        self._left[answered] -= 1
        return True


class Sampler(NamedTuple):
    """Which traces are recorded, by `OTEL_TRACES_SAMPLER` and its argument."""

    asks_parent: bool
    share: float

    def keeps(self, trace_id: str, parent_sampled: bool | None) -> bool:
        """Decide by the caller's own choice where there is one, else by the trace's id: all services agree."""
        if self.asks_parent and parent_sampled is not None:
            return parent_sampled
        return int(trace_id[16:], 16) < self.share * 2.0**64


def sampler_of(environment: Mapping[str, str]) -> Sampler:
    """Read the sampler; the default is the standard's, parent based and always on."""
    name = environment.get("OTEL_TRACES_SAMPLER", "") or "parentbased_always_on"
    asks_parent = name.startswith("parentbased_")
    kind = name.removeprefix("parentbased_")
    if kind == "always_off":
        return Sampler(asks_parent, 0.0)
    if kind == "traceidratio":
        try:
            share = float(environment.get("OTEL_TRACES_SAMPLER_ARG", "") or 1.0)
        except ValueError:
            share = 1.0
        return Sampler(asks_parent, min(1.0, max(0.0, share)))
    return Sampler(asks_parent, 1.0)


class TelemetrySnapshot(msgspec.Struct, frozen=True):
    """How sending goes."""

    waiting: int
    dropped: dict[str, int]
    """Traces by reason: `rate`, `queue`, `export`."""
    sent: dict[str, int]
    """Exports by signal and outcome, as `traces ok`."""
    trouble: str


class Queue:
    """Traces on their way out."""

    def __init__(self, *, per_s: int, most: int, sampler: Sampler) -> None:
        self._budget = Budget(per_s)
        self._most = most
        self._sampler = sampler
        self._waiting: deque[Trace] = deque()
        self._dropped: Counter[str] = Counter()
        self.sent: Counter[str] = Counter()
        """Exports by signal and outcome. Written by the sender's thread alone."""
        self.lost = 0
        """Traces that were in an export that failed. Written by the sender's thread alone."""
        self.trouble = ""

    def wants(self, trace_id: str, *, parent_sampled: bool | None, answered: bool, now: float) -> bool:
        """Say whether this request is to be a trace; asked before anything is built for it."""
        if not self._sampler.keeps(trace_id, parent_sampled):
            return False
        if not self._budget.may_take(answered=answered, now=now):
            self._dropped["rate"] += 1
            return False
        if len(self._waiting) >= self._most:
            self._dropped["queue"] += 1
            return False
        return True

    def put(self, trace: Trace) -> None:
        """Let it go."""
        self._waiting.append(trace)

    def take(self, most: int) -> list[Trace]:
        """Take up to so many traces (the sender's thread)."""
        taken: list[Trace] = []
        while self._waiting and len(taken) < most:
            taken.append(self._waiting.popleft())
        return taken

    def snapshot(self) -> TelemetrySnapshot:
        """Return how sending goes."""
        dropped = dict(self._dropped)
        if self.lost:
            dropped["export"] = self.lost
        return TelemetrySnapshot(len(self._waiting), dropped, dict(self.sent), self.trouble)


class Sender(Protocol):
    """Sends what waits; `watch.otlp` has the one there is."""

    def wants_metrics(self, now: float) -> bool:
        """Say whether it is time for metrics."""

    def hand_metrics(self, families: Sequence[Metric]) -> None:
        """Take the present metrics along with the next round."""

    def stop(self, within_s: float) -> None:
        """Send what waits, for that long at most."""


class Choice(NamedTuple):
    """What is to be sent."""

    traces: bool = False
    metrics: bool = False
    why_not: str = ""
    """Why nothing is sent although an endpoint is set."""


def choose(environment: Mapping[str, str]) -> Choice:
    """Read from the standard's variables what is to be sent; nothing without an endpoint."""
    common = environment.get("OTEL_EXPORTER_OTLP_ENDPOINT", "")
    traces = bool(common or environment.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"))
    metrics = bool(common or environment.get("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT"))
    if environment.get("OTEL_SDK_DISABLED", "").lower() == "true" or not (traces or metrics):
        return Choice()
    protocol = environment.get("OTEL_EXPORTER_OTLP_PROTOCOL", "") or "http/protobuf"
    if protocol != "http/protobuf":
        return Choice(
            why_not=f"OTEL_EXPORTER_OTLP_PROTOCOL is {protocol!r}, and only http/protobuf is spoken"
        )
    return Choice(
        traces and environment.get("OTEL_TRACES_EXPORTER", "") in ("", "otlp"),
        metrics and environment.get("OTEL_METRICS_EXPORTER", "") in ("", "otlp"),
    )
