"""Doubles for tests: a service folder answered in this process, an engine that does as told, a ledger in memory.

For your own tests of a service folder there is `answer`:

    from nightproof.testing import answer

    def test_no_income_is_no_approval():
        (told,) = answer("credit", [{"income": 0, "purpose": "car"}])
        assert told.output == {"approve": False, "confidence": 1.0}

It takes the way of a real request (schema, checks, model, fallbacks, record) but for what needs a process
of its own: nothing here ends a model that hangs, crashes or eats the memory. The doubles beside it are what
Nightproof's own tests drive the pipeline with. Never imported by the server.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import orjson

from nightproof.audit.ledger import Ledger
from nightproof.audit.links import ThreadLink
from nightproof.audit.vault import Vault
from nightproof.audit.writer import LogWriter
from nightproof.audit.writing import OpenLog
from nightproof.base.clock import monotonic_s, utc_us
from nightproof.base.errors import DeclarationError, FieldError
from nightproof.base.ids import RequestIds
from nightproof.base.roles import Role
from nightproof.base.values import Caller, Reply
from nightproof.checks.chat_tasks import InputVerdict, OutputVerdict
from nightproof.checks.input import InputChecks
from nightproof.checks.output import OutputChecks
from nightproof.declare.chat import ChatService
from nightproof.declare.describe import Description, describe
from nightproof.declare.folder import load_service
from nightproof.limits.limiter import Limiter
from nightproof.pipeline.house import House, ServedRelease, ServedService
from nightproof.pipeline.last_good import LastGood
from nightproof.pipeline.serve import serve
from nightproof.pipeline.story import Arrival
from nightproof.settings.settings import Settings
from nightproof.storage.ledger_rows import Checkpoint, Head, Row, Tile
from nightproof.storage.vault_store import Epoch, WrappedKey
from nightproof.watch.meters import Meters
from nightproof.workers.chat_child import LoadedChat
from nightproof.workers.chat_golden import task_of
from nightproof.workers.child import LoadedService
from nightproof.workers.decide import Forecast
from nightproof.workers.engine import EngineSnapshot, Job, Outcome
from nightproof.workers.line import tell

__all__ = ["Answered", "MemoryLedgerStore", "ScriptedEngine", "answer", "house_of", "look_at"]

Script = Callable[[Job], Outcome | None]
_KEY = "any token is this key"


class Answered(msgspec.Struct, frozen=True):
    """What a caller would have been told about one record."""

    ending: str
    """answered, degraded, refused or failed."""
    output: Any = None
    failure: str = ""
    by: str = ""
    """The kind of fallback that answered, where one did."""
    errors: list[FieldError] = []


def answer(folder: Path | str, records: Iterable[Any]) -> list[Answered]:
    """Load a service folder in this process and answer records, each as a request of its own.

    Raises what `nightproof check` would report, DeclarationError mostly. Not to be called from a running loop.
    """
    path = Path(folder).resolve()
    service = load_service(path)
    if isinstance(service, ChatService):
        raise DeclarationError(f"{path} declares a chat service.", hint="Use nightproof.testing.look_at.")
    description = describe(service, path)
    loaded = LoadedService(service, path, output_most_bytes=1 << 20)

    def script(job: Job) -> Outcome:
        told = (
            loaded.answer_by_rule([job.input], job.rule) if job.rule >= 0 else loaded.answer([job.input])[0]
        )
        return Outcome(told[0].output, told[0].failure, told[0].detail, told[0].errors, told[0].findings)

    async def ask_all() -> list[Answered]:
        house = house_of(ScriptedEngine(description, script), MemoryLedgerStore())
        await house.ledger.start()
        try:
            return [_answered(await serve(_arrival(house, record), house)) for record in records]
        finally:
            await house.ledger.stop()

    return asyncio.run(ask_all())


def look_at(folder: Path | str, inputs: Iterable[dict[str, Any]]) -> list[InputVerdict | OutputVerdict]:
    """Load a chat service's folder in this process, and say what its checks say of inputs and answers.

    An input is written as in a golden case: `{"messages": […]}`, or with `"answer"` what a model might have said to
    them; of a typed service the record itself, or `{"record": …, "answer": …}`. No upstream is asked.
    """
    path = Path(folder).resolve()
    service = load_service(path)
    if not isinstance(service, ChatService):
        raise DeclarationError(f"{path} declares no chat service.", hint="Use nightproof.testing.answer.")
    loaded = LoadedChat(service, path, describe(service, path))
    tasks = [task_of(one, service.input, boundary=RequestIds().draw()) for one in inputs]
    return [loaded.look_at(task) for task in tasks]


class ScriptedEngine:
    """An engine without workers: `script(job)` says each job's outcome, at the next turn of the loop.

    A script that returns None leaves the job with nobody to answer it; `jobs` keeps all that were submitted.
    """

    def __init__(self, description: Description, script: Script, *, ready: bool = True) -> None:
        self.description = description
        self.jobs: list[Job] = []
        self.ready = ready
        self._script = script

    async def start(self) -> None:
        """Be ready."""
        self.ready = True

    async def stop(self) -> None:
        """Be not ready; tell the jobs that are still out."""
        self.ready = False
        for job in self.jobs:
            tell(job, Outcome(failure="shutting_down"))

    def submit(self, jobs: Sequence[Job]) -> None:
        """Answer the jobs by the script, soon."""
        self.jobs += jobs
        for job in jobs:
            job.queued_s = job.handed_s = monotonic_s()
            asyncio.get_running_loop().call_soon(self._play, job)

    def resize(self, workers: tuple[int, int] | None = None, spares: int | None = None) -> None:
        """Have no workers to change the number of."""

    def forecast(self, jobs: int) -> Forecast:
        """Expect no wait."""
        return Forecast(0.0, 0.0)

    def is_ready(self) -> bool:
        """Say what was said."""
        return self.ready

    def has_hope(self) -> bool:
        """Expect nothing that is not there."""
        return False

    def snapshot(self) -> EngineSnapshot:
        """Return a picture with one worker."""
        out = sum(job.waiter is not None for job in self.jobs)
        state = "ready" if self.ready else "starting"
        return EngineSnapshot(
            service=self.description.service, release="scripted", workers={state: 1}, pids=[], queued=out,
            queue_bytes=0, running=0, restarts=0, backing_off=False, trouble="",
        )  # fmt: skip

    def _play(self, job: Job) -> None:
        if job.waiter is not None and (outcome := self._script(job)) is not None:
            tell(job, outcome)


class MemoryLedgerStore:
    """A ledger's store that keeps rows in a list. Each append first raises the next of `faults`, if there is one."""

    def __init__(self, faults: Iterable[Exception | None] = ()) -> None:
        self.rows: list[Row] = []
        self.faults = deque(faults)

    def begin(self) -> Head:
        """Say where the log stands."""
        return Head(len(self.rows), None)

    def append(
        self,
        first_seq: int,
        rows: Sequence[Row],
        tiles: Sequence[Tile],
        root: bytes | None,
        checkpoint: Checkpoint | None,
        edge: bytes = b"",
    ) -> None:
        """Keep the rows, or raise what the test wants (called on the ledger's thread)."""
        fault = self.faults.popleft() if self.faults else None
        if fault is not None:
            raise fault
        self.rows += rows

    def abandon(self) -> None:
        """Have nothing to give back."""

    def size(self) -> int:
        """Count the rows."""
        return len(self.rows)

    def tile_count(self, level: int) -> int:
        """Count the tiles; none is kept."""
        return 0

    def leaves(self, first_seq: int, most: int = 1_000) -> list[bytes]:
        """Return leaves."""
        return [row.leaf for row in self.rows[first_seq : first_seq + most]]

    def last_checkpoint(self) -> None:
        """Have none: nothing here is signed."""

    def checkpoint(self, mode: str = "passive") -> tuple[int, int]:
        """Have nothing to move."""
        return 0, 0

    def close(self) -> None:
        """Keep the rows: a test looks at them afterwards."""


class MemoryVaultStore:
    """A vault's store that keeps wrapped keys in a dict: content that was sealed can be opened, and erased."""

    def __init__(self) -> None:
        self.keys: dict[bytes, WrappedKey] = {}
        self.kept_epochs: list[Epoch] = []
        self.kept_secrets: dict[str, bytes] = {}
        self.gone = 0

    def add(self, keys: Sequence[WrappedKey]) -> None:
        """Keep the keys."""
        self.keys |= {key.kid: key for key in keys}

    def get(self, kid: bytes) -> WrappedKey | None:
        """Return a key."""
        return self.keys.get(kid)

    def destroy_subject(self, subject: bytes, at_us: int, *, made_by_us: int | None = None) -> int:
        """Forget the subject's keys."""
        mine = [
            kid
            for kid, key in self.keys.items()
            if key.subject == subject and (made_by_us is None or key.made_us <= made_by_us)
        ]
        for kid in mine:
            del self.keys[kid]
        self.gone += len(mine)
        return len(mine)

    def destroyed(self) -> int:
        """Count the keys that are gone."""
        return self.gone

    def epochs(self) -> list[Epoch]:
        """Return the epochs."""
        return list(self.kept_epochs)

    def add_epoch(self, epoch: Epoch) -> None:
        """Keep an epoch."""
        self.kept_epochs.append(epoch)

    def rewrap(self, epochs: Sequence[Epoch], secrets: Mapping[str, bytes]) -> None:
        """Replace what the master key wraps."""
        self.kept_epochs, self.kept_secrets = list(epochs), dict(secrets)

    def secret(self, name: str) -> bytes | None:
        """Return a wrapped secret."""
        return self.kept_secrets.get(name)

    def secrets(self) -> dict[str, bytes]:
        """Return all wrapped secrets."""
        return dict(self.kept_secrets)

    def keep_secret(self, name: str, wrapped: bytes) -> bytes:
        """Keep a wrapped secret, unless there is one; return the one that is kept."""
        return self.kept_secrets.setdefault(name, wrapped)

    def close(self) -> None:
        """Keep everything: a test looks at it afterwards."""


def house_of(engine: ScriptedEngine, store: MemoryLedgerStore, *, settings: Settings | None = None) -> House:
    """Build the rooms around an engine and a store; every key is known. The caller starts and stops the ledger."""
    settings = settings or Settings()
    description = engine.description
    summaries: Counter[tuple[str, str, str]] = Counter()
    vault = Vault(MemoryVaultStore(), bytes(32), now_us=utc_us())
    ledger = Ledger(
        lambda: ThreadLink(lambda tell: OpenLog(_writer_of(store, vault, settings)), settings.ledger),
        settings.ledger,
        on_fence=lambda why: None,
        on_lost=lambda entries: summaries.update({("audit_unavailable", "", ""): entries}),
    )
    ages_s = [way.max_age_s for way in description.fallbacks if way.kind == "last_good"]
    live = ServedRelease(
        service=description.service,
        label="test",
        digest="",
        engine=engine,
        input_checks=InputChecks(description),
        output_checks=OutputChecks(description),
        poison=set(),
        last_good=LastGood(max_age_s=max(ages_s)) if ages_s else None,
    )
    return House(
        settings=settings,
        find_caller=lambda token: Caller("test", Role.PREDICT),
        find_recorded=_nothing_recorded,
        services={description.service: ServedService(description.service, live)},
        limiter=Limiter(settings.limits),
        ledger=ledger,
        vault=vault,
        meters=Meters(),
        running_keys=set(),
        summaries=summaries,
        ids=RequestIds(),
        starting=False,
    )


def _writer_of(store: MemoryLedgerStore, vault: Vault, settings: Settings) -> LogWriter:
    return LogWriter(
        store,  # type: ignore[arg-type]
        keep_keys=vault.keep,
        signer=None,
        seal_every_s=settings.ledger.seal_every_s,
    )


async def _nothing_recorded(idem: bytes) -> None:
    return None


def _arrival(house: House, record: Any) -> Arrival:
    body = orjson.dumps(record)

    async def read_body(most_bytes: int) -> bytes:
        return body

    (service,) = house.services
    return Arrival(house.ids.draw(), service, "native", _KEY, read_body, None)


def _answered(reply: Reply) -> Answered:
    item = reply.items[0] if reply.items else None
    if item is None or item.failure:
        return Answered(reply.ending, failure=reply.failure, errors=reply.errors)
    output = orjson.loads(bytes(item.output or b"null"))
    if item.degraded is None:
        return Answered(reply.ending, output)
    return Answered(reply.ending, output, item.degraded.failure, item.degraded.by)
