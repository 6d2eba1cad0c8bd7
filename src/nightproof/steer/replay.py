"""Run recorded requests through another release, and tell what would change, by how much and for whom.

Called by the operators' routes. Inputs are opened from the audit log, which is itself recorded first; they run in a
worker of the candidate's own, in small portions, and wait while the live release has a queue. How far a run is and
what it found are kept together after every page, so that it goes on where it was after a restart, and counts no record
twice.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple, Protocol

import msgspec
import orjson

from nightproof.base.clock import monotonic_s
from nightproof.base.errors import NightproofError, Refusal
from nightproof.base.masking import mask
from nightproof.releases.replay import Comparison, MostHit, bin_bounds, hidden_of, most_hit, whom_of
from nightproof.settings.settings import PromotionSettings
from nightproof.steer.archive import Archive
from nightproof.steer.tasks import Tasks
from nightproof.storage.comparisons import Comparisons, Run
from nightproof.storage.ledger_rows import Query, StoredEntry
from nightproof.storage.registry_store import RegisteredRelease, RegistryStore
from nightproof.storage.sqlite import NotFound
from nightproof.workers.engine import Engine, Job, Outcome, Waiter

PURPOSE = "comparison"
"""What the vault seals comparisons as."""
_PAGE = 200
_PORTION = 32
_WITHIN_S = 60.0
_WAIT_S = 0.02
_MOST_AT_ONCE = 2


class Beside(Protocol):
    """A release that is loaded for a replay alone."""

    engine: Engine

    def fails_by(self, output: bytes) -> str:
        """Name the failure of an answer by the release's own checks; empty where it holds."""

    async def end(self) -> None:
        """End its workers."""


class ReplayShown(msgspec.Struct, frozen=True, kw_only=True):
    """How far a replay is."""

    id: str
    service: str
    version: str
    state: str
    """running, finished, waiting (for the live release), stopped, or failed with its reason."""
    done: int
    wanted: int


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What a replay or a shadow found."""

    id: str
    kind: str
    service: str
    version: str
    live: str
    state: str
    done: int
    wanted: int
    comparison: Comparison
    most_hit: list[MostHit]
    scale: list[str]
    """Names of the places in `bins`."""
    examples: list[dict[str, Any]]


class _Record(NamedTuple):
    """One recorded record to be run."""

    input: bytes
    given: Any
    old: dict[str, Any] | None
    caller: str
    subject: bytes


class Replays:
    """The replays of a server: a few at once, each with its own worker."""

    def __init__(
        self,
        archive: Archive,
        registry: RegistryStore,
        comparisons: Comparisons,
        settings: PromotionSettings,
        *,
        load: Callable[[RegisteredRelease], Awaitable[Beside]],
        is_busy: Callable[[str], bool],
        is_chat: Callable[[str], bool],
        sensitive_of: Callable[[str, str], Sequence[str]],
        tasks: Tasks,
    ) -> None:
        self._archive = archive
        self._registry = registry
        self._comparisons = comparisons
        self._settings = settings
        self._load = load
        self._is_busy = is_busy
        self._is_chat = is_chat
        self._sensitive_of = sensitive_of
        self._tasks = tasks
        self._running: dict[str, asyncio.Task[Any]] = {}
        self._waiting: set[str] = set()

    async def start(self, who: str, service: str, version: str, last: int) -> ReplayShown:
        """Begin a replay, or go on with the same one that was cut short. Raises NotFound or Refusal."""
        release = self._registry.find(service, version)
        if release is None:
            raise NotFound(
                f"{service} has no release {version}.", hint=f"See `nightproof history {service}`."
            )
        if self._is_chat(service):
            raise Refusal(
                f"{service} is a chat service: a replay compares answers, and those of an LLM always differ.",
                failure="promotion_refused",
                status=422,
                hint=f"Give the release a share of the requests: nightproof promote {service} {version} --canary 10",
            )
        run = await asyncio.to_thread(self._comparisons.newest, kind="replay", service=service, label=version)
        if run is not None and run.id in self._running:
            return self._shown(run)
        if len(self._running) >= _MOST_AT_ONCE:
            raise Refusal(
                f"{_MOST_AT_ONCE} replays run already.",
                failure="promotion_refused",
                status=409,
                hint="Wait for one to end.",
            )
        await self._archive.note("access", who=who, act="replay", service=service, release=version, last=last)
        if run is None or run.state != "running" or run.wanted != last:
            counts = await asyncio.to_thread(self._seal, msgspec.json.encode(Comparison()), b"")
            run = await asyncio.to_thread(
                lambda: self._comparisons.begin(
                    self._archive.ids.draw(),
                    kind="replay",
                    service=service,
                    label=version,
                    wanted=last,
                    counts=counts,
                )
            )
        task = self._running[run.id] = self._tasks.begin(self._run(run, release))
        task.add_done_callback(lambda _, run_id=run.id: self._running.pop(run_id, None))  # type: ignore[misc]
        return self._shown(run)

    async def progress(self, run_id: str) -> ReplayShown:
        """Say how far a replay is. Raises NotFound."""
        return self._shown(await asyncio.to_thread(self._comparisons.find, run_id))

    async def report(self, who: str, run_id: str, *, examples: bool) -> Report:
        """Tell what a replay or a shadow has found; that it was asked for is recorded first. Raises NotFound."""
        run = await asyncio.to_thread(self._comparisons.find, run_id)
        return await self._report(who, run, examples=examples)

    async def shadow_report(self, who: str, service: str, *, examples: bool) -> Report:
        """Tell what the newest shadow of a service answers otherwise. Raises NotFound."""
        run = await asyncio.to_thread(self._comparisons.newest, kind="shadow", service=service)
        if run is None:
            raise NotFound(
                f"{service} has had no shadow.",
                hint=f"Begin one: `nightproof promote {service} VERSION --shadow`.",
            )
        return await self._report(who, run, examples=examples)

    async def _report(self, who: str, run: Run, *, examples: bool) -> Report:
        await self._archive.note(
            "access",
            who=who,
            act=f"{run.kind}.report",
            service=run.service,
            release=run.label,
            examples=examples,
        )
        live = self._registry.live(run.service)
        comparison = await asyncio.to_thread(self._comparison, run)
        return Report(
            id=run.id,
            kind=run.kind,
            service=run.service,
            version=run.label,
            live=live.label if live is not None else "",
            state=self._state(run),
            done=run.done,
            wanted=run.wanted,
            comparison=comparison,
            most_hit=most_hit(comparison),
            scale=list(bin_bounds()),
            examples=await asyncio.to_thread(self._examples, run) if examples else [],
        )

    def _comparison(self, run: Run) -> Comparison:
        if not run.counts:
            return Comparison()
        return msgspec.json.decode(
            self._archive.vault.open_bytes(run.counts, purpose=PURPOSE), type=Comparison
        )

    def _examples(self, run: Run) -> list[dict[str, Any]]:
        """Open the examples, sensitive fields masked; those of erased people are told as such."""
        pointers = self._sensitive_of(run.service, run.label)
        shown: list[dict[str, Any]] = []
        for sealed in self._comparisons.examples(run.id):
            try:
                example = orjson.loads(self._archive.vault.open_bytes(sealed, purpose=PURPOSE))
            except NightproofError:
                shown.append({"erased": True})
                continue
            for name in ("input", "old", "new"):
                if pointers and example[name] is not None:
                    example[name] = mask(example[name], pointers)
            shown.append(example)
        return shown

    # -- the run ------------------------------------------------------------------------------

    async def _run(self, run: Run, release: RegisteredRelease) -> None:
        """Run a replay to its end; whatever ends it is in its state."""
        try:
            await self._work(run, release)
        except NightproofError:
            raise  # its place cannot be kept; asked for again it goes on from the last one that was
        except Exception as error:
            why = f"failed: an unexpected {type(error).__name__}; see the log"
            found = await asyncio.to_thread(self._comparisons.find, run.id)
            await self._keep(msgspec.structs.replace(found, state=why))
            raise

    async def _work(self, run: Run, release: RegisteredRelease) -> None:
        """Work through the log, newest first, until enough records were compared or there are no more."""
        try:
            beside = await self._load(release)
        except NightproofError as error:
            why = error.text.partition("\n")[0]
            await self._keep(
                msgspec.structs.replace(run, state=f"failed: {release.label} does not load: {why}")
            )
            return
        try:
            comparison = await asyncio.to_thread(self._comparison, run)
            described = beside.engine.description
            hidden = hidden_of([*described.subject_pointers, *described.sensitive_pointers])
            while run.done < run.wanted:
                entries = await asyncio.to_thread(self._page, run)
                if not entries:
                    break
                predictions = [entry for entry in entries if not _is_of_labels(entry)]
                records, skipped = await asyncio.to_thread(self._records, predictions)
                comparison.skipped += skipped
                examples: list[tuple[bytes, bytes]] = []
                for at in range(0, len(records), _PORTION):
                    portion = records[at : at + _PORTION]
                    await self._let_live_go_first(run)
                    for record, outcome in zip(portion, await self._ask(beside, portion), strict=True):
                        examples += _compare(comparison, beside, record, outcome, hidden)
                # Whole pages only: cursor, counts and examples belong together.
                run = msgspec.structs.replace(
                    run,
                    cursor=entries[-1].seq,
                    done=run.done + len(predictions),
                    counts=await asyncio.to_thread(self._seal, msgspec.json.encode(comparison), b""),
                )
                await self._keep(run, examples)
            await self._keep(msgspec.structs.replace(run, state="finished"))
        except NightproofError as error:
            await self._keep(msgspec.structs.replace(run, state=f"failed: {error.text}"))
        finally:
            self._waiting.discard(run.id)
            await asyncio.shield(self._tasks.hold(beside.end()))

    async def _ask(self, beside: Beside, records: Sequence[_Record]) -> list[Outcome]:
        waiter = Waiter(asyncio.get_running_loop().create_future())
        jobs = [
            Job(record.input, monotonic_s() + _WITHIN_S, waiter, place=place)
            for place, record in enumerate(records)
        ]
        for job in jobs:
            waiter.add(job)
        beside.engine.submit(jobs)
        try:
            await asyncio.wait_for(asyncio.shield(waiter.future), _WITHIN_S)
        except TimeoutError:
            waiter.give_up("deadline_exceeded")
        return waiter.outcomes

    async def _let_live_go_first(self, run: Run) -> None:
        """Wait while callers wait: a replay has time."""
        while self._is_busy(run.service):
            self._waiting.add(run.id)
            await asyncio.sleep(_WAIT_S)
        self._waiting.discard(run.id)

    def _page(self, run: Run) -> list[StoredEntry]:
        reader = self._archive.reader()
        try:
            return reader.search(
                Query(
                    kind="request",
                    service=run.service,
                    newest_first=True,
                    before_seq=run.cursor if run.cursor >= 0 else None,
                    most=min(_PAGE, run.wanted - run.done),
                )
            )
        finally:
            reader.close()

    def _records(self, entries: Sequence[StoredEntry]) -> tuple[list[_Record], int]:
        """Open what was recorded; count what cannot be used: refused, erased, expired."""
        records: list[_Record] = []
        skipped = 0
        for entry in entries:
            items = self._items(entry)
            usable = [item for item in items if "input" in item] if entry.ending != "refused" else []
            skipped += not usable
            leaf = orjson.loads(entry.leaf)
            subjects = leaf.get("sub", ())
            subject = bytes.fromhex(subjects[0]) if len(subjects) == 1 else b""
            for item in usable:
                output = item.get("output")
                records.append(
                    _Record(
                        orjson.dumps(item["input"]),
                        item["input"],
                        output if isinstance(output, dict) else None,
                        entry.caller,
                        subject,
                    )
                )
        return records, skipped

    def _items(self, entry: StoredEntry) -> list[dict[str, Any]]:
        if entry.payload is None:
            return []
        opened = self._archive.vault.open(entry.payload, entry_id=entry.id, kind=entry.kind)
        whole = opened.parts.get("content")
        if whole is not None:
            return list(orjson.loads(whole).get("items", []))
        return [
            orjson.loads(part)
            for name, part in sorted(opened.parts.items())
            if name.startswith("items/") and part is not None
        ]

    async def _keep(self, run: Run, examples: Sequence[tuple[bytes, bytes]] = ()) -> None:
        def keep() -> None:
            sealed = [
                self._seal(content, subject) for content, subject in examples[: self._settings.examples]
            ]
            self._comparisons.keep(run, sealed, most=self._settings.examples)

        await asyncio.to_thread(keep)

    def _seal(self, content: bytes, subject: bytes) -> bytes:
        return self._archive.vault.seal_bytes(content, purpose=PURPOSE, subject=subject)

    def _shown(self, run: Run) -> ReplayShown:
        return ReplayShown(
            id=run.id,
            service=run.service,
            version=run.label,
            state=self._state(run),
            done=run.done,
            wanted=run.wanted,
        )

    def _state(self, run: Run) -> str:
        if run.state != "running":
            return run.state
        if run.id in self._waiting:
            return "waiting"
        return "running" if run.id in self._running or run.kind == "shadow" else "stopped"


def _is_of_labels(entry: StoredEntry) -> bool:
    """Say whether a request brought labels: it is recorded as one of its service, and no release answered it."""
    return bool(orjson.loads(entry.leaf).get("protocol") == "feedback")


def _compare(
    comparison: Comparison, beside: Beside, record: _Record, outcome: Outcome, hidden: frozenset[str]
) -> list[tuple[bytes, bytes]]:
    """Add one record to the comparison; return it as an example where it differs."""
    failure = outcome.failure or beside.fails_by(outcome.output)
    new = None if failure else orjson.loads(outcome.output)
    whom = whom_of(record.given, record.caller, hidden=hidden)
    if not comparison.add(old=record.old, new=new, failure=failure, whom=whom):
        return []
    example = orjson.dumps({"input": record.given, "old": record.old, "new": new, "failure": failure})
    return [(example, record.subject)]
