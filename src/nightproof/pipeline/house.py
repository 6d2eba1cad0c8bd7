"""The rooms that a request passes, gathered in one value. `runtime` builds it; steps read it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from nightproof.audit.ledger import Ledger
from nightproof.audit.spill import Spill
from nightproof.audit.vault import Vault
from nightproof.base.deadlines import Deadlines
from nightproof.base.ids import RequestIds
from nightproof.base.labels import GivenLabel, LabelOutcome
from nightproof.base.values import Caller, Reply
from nightproof.checks.input import InputChecks
from nightproof.checks.output import OutputChecks
from nightproof.declare.describe import Description
from nightproof.limits.budget import Budgets
from nightproof.limits.limiter import Limiter
from nightproof.pipeline.last_good import LastGood
from nightproof.releases.routing import Split
from nightproof.settings.settings import Settings
from nightproof.watch.drift.watcher import DriftWatcher
from nightproof.watch.meters import Meters
from nightproof.watch.telemetry import Queue
from nightproof.workers.engine import Engine, Job

if TYPE_CHECKING:
    from nightproof.pipeline.chat_values import ChatRelease
    from nightproof.pipeline.story import Story
    from nightproof.pipeline.upstreams import Upstreams


class TakesLabels(Protocol):
    """Takes labels in, one request after the other, in a thread of its own."""

    def offer(
        self,
        labels: Sequence[GivenLabel],
        *,
        description: Description,
        caller: Caller,
        expected_error: float | None,
    ) -> Future[list[LabelOutcome]]:
        """Say what became of each label, in time. Raises Refusal `overloaded` where too many wait."""


class RecordedReply(msgspec.Struct, frozen=True):
    """What the ledger keeps of a request with an idempotency key: its reply, and which body it was for."""

    body: bytes
    reply: Reply


class ServedRelease(msgspec.Struct, eq=False):
    """One release with what is needed to serve it: its engine and its compiled checks."""

    service: str
    label: str
    digest: str
    engine: Engine
    input_checks: InputChecks
    output_checks: OutputChecks
    poison: set[bytes]
    """Fingerprints of records in quarantine."""
    last_good: LastGood | None = None
    chat: ChatRelease | None = None
    """What it answers chats with; None of a release that runs a model."""
    deadlines: Deadlines = msgspec.field(default_factory=Deadlines)
    """When its waiters give up."""
    is_withdrawn: bool = False
    """It was live and was rolled back: kept warm, but not asked in the live one's place."""

    def make_jobs(self, inputs: list[bytes], deadline_s: float, waiter: Any, *, rule: int = -1) -> list[Job]:
        """Make the engine's jobs of these inputs."""
        jobs = [
            Job(record, deadline_s, waiter, place=place, rule=rule) for place, record in enumerate(inputs)
        ]
        for job in jobs:
            waiter.add(job)
        return jobs


class Watcher(Protocol):
    """Sees how the requests of a service end while one of its releases is on trial or on probation."""

    def seen(self, story: Story) -> None:
        """Take note of an ended request. Called after its record is durable; never raises, never waits."""


class ServedService(msgspec.Struct, eq=False):
    """A service with the parts its releases play."""

    name: str
    live: ServedRelease
    standby: ServedRelease | None = None
    """The release before, warm; not asked for answers where it was taken back (`is_withdrawn`)."""
    canary: ServedRelease | None = None
    split: Split | None = None
    """How requests are shared with the canary; None where there is none, and nothing is to be chosen."""
    shadow: ServedRelease | None = None
    overflow: ServedRelease | None = None
    """The release that was live a moment ago: it helps out until the live one's workers are up."""
    overflow_share: float = 0.1
    """Expected wait, as a share of the time left, from which it does."""
    watcher: Watcher | None = None

    def parts(self) -> list[ServedRelease]:
        """Return every release that is loaded, each once."""
        found = (self.live, self.standby, self.canary, self.shadow, self.overflow)
        return list({id(one): one for one in found if one is not None}.values())

    def find(self, label: str) -> ServedRelease | None:
        """Return the loaded release of this name."""
        return next((one for one in self.parts() if one.label == label), None)

    def before(self, release: ServedRelease) -> ServedRelease | None:
        """Return the release that may answer in the given one's place: standby for live, live for the others."""
        if release is not self.live:
            return self.live
        standby = self.standby
        return None if standby is None or standby.is_withdrawn else standby


class House(msgspec.Struct, eq=False):
    """All that a request's steps may touch."""

    settings: Settings
    find_caller: Callable[[str], Caller | None]
    """Look a token up in the keyring."""
    find_recorded: Callable[[bytes], Awaitable[RecordedReply | None]]
    """Look an idempotency key up in the ledger."""
    services: dict[str, ServedService]
    limiter: Limiter
    ledger: Ledger
    vault: Vault
    meters: Meters
    running_keys: set[bytes]
    """Idempotency keys whose first request is still on its way."""
    summaries: Counter[tuple[str, str, str]]
    """Refusals that share a record: by failure, service and key or address, since the last flush."""
    ids: RequestIds
    budgets: Budgets = msgspec.field(default_factory=Budgets)
    """What callers have used of chat services."""
    upstreams: Upstreams | None = None
    """What chat services ask; None while there is none."""
    drift: DriftWatcher | None = None
    """Takes a sample of what was answered."""
    feedback: TakesLabels | None = None
    spill: Spill | None = None
    spilling_services: set[str] = set()
    """Those that are answered although the ledger cannot be written, while the spill takes their records."""
    traces: Queue | None = None
    """Where requests go that are to be traced, if somebody collects them."""
    storage_low: bool = False
    """The disk is full, and what is left of it is for operators: requests are refused."""
    draining: bool = False
    starting: bool = True
    """The services' workers are still loading for the first time."""
