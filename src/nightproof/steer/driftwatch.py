"""The drift watch and the labels as one thing for the runtime: built, started, told what is live, asked, stopped.

`runtime` makes one. Says which releases are to be watched, has a release answer its reference while nobody else
waits, and gives out what holds now: conditions for alerts, gauges for `/metrics`.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import Any

import msgspec
import orjson
from prometheus_client import Metric

from nightproof.base.clock import monotonic_s
from nightproof.base.conditions import Condition
from nightproof.checks.chat_tasks import InputTask, input_verdict_decoder, task_encoder
from nightproof.checks.input import InputChecks
from nightproof.checks.output import OutputChecks
from nightproof.settings.settings import Settings
from nightproof.steer.archive import Archive
from nightproof.steer.drift import DriftDesk
from nightproof.steer.feedback import FeedbackDesk
from nightproof.storage import proc
from nightproof.storage.drift_store import DriftStore
from nightproof.storage.feedback_store import FeedbackStore
from nightproof.storage.statefolder import StateFolder
from nightproof.watch.drift.prompts import GUARD_SCHEMA, PROMPT, PROMPT_SCHEMA, guard_of
from nightproof.watch.drift.watcher import DriftStatus, DriftWatcher
from nightproof.watch.drift.wire import Release
from nightproof.watch.families import gauge
from nightproof.watch.health import Component, Health
from nightproof.watch.meters import Meters
from nightproof.workers.engine import Engine, Job, Outcome, Waiter

_BATCH = 32
_ANSWERS_WITHIN_S = 120.0
_ONE_WITHIN_S = 10.0
_ENDS_WORKERS = frozenset({"model_timeout", "model_crash", "model_out_of_memory", "poison_input"})


Answer = Callable[[list[bytes]], Awaitable[list[tuple[bytes, list[str]]]]]
"""Answers rows of a reference, in order: output and findings of each; fewer where time or model gave out."""


class LiveRelease(msgspec.Struct, frozen=True):
    """A release that is live, with what is needed to watch it."""

    service: str
    label: str
    digest: str
    engine: Engine
    input_checks: InputChecks
    output_checks: OutputChecks


class DriftWatch:
    """Everything that watches data and quality."""

    def __init__(self, settings: Settings, state: StateFolder, archive: Archive, meters: Meters) -> None:
        def count(event: str, service: str) -> None:
            meters.count_event(event, service=service)

        self._bundles = state.bundles
        self.desk = DriftDesk(
            DriftStore(state.drift_db), archive.vault, note=archive.note, sensitive_of=archive.sensitive_of
        )
        self.drift = DriftWatcher(settings.drift, self.desk, on_event=count)
        self.feedback = FeedbackDesk(
            FeedbackStore(state.feedback_db, most=settings.feedback.keep_labels),
            archive.vault,
            settings.feedback,
            open_reader=archive.reader,
            on_event=count,
        )

    def see_to(
        self,
        live: Iterable[LiveRelease],
        begin: Callable[[Coroutine[Any, Any, None]], object],
    ) -> None:
        """Have every live release watched, by whichever way it went live. Called by the tick."""
        for one in live:
            if self.drift.watches(one.service, one.label, one.digest):
                continue
            described = one.engine.description
            release, answer = release_of(one), answering_of(one)
            self.drift.forget(one.service)
            begin(
                self.drift.watch(
                    release,
                    one.label,
                    str(self._bundles / one.digest),
                    declares_confidence=bool(described.confidence_field),
                    answer=answer,
                )
            )

    def status(self) -> dict[str, DriftStatus]:
        """Return how each service stands."""
        return {one.service: one for one in self.drift.status()}

    def conditions(self) -> list[Condition]:
        """Return what drift and labels raise now, by its name in the catalogue: one of each for a service."""
        return [*self.drift.conditions(), *one_per_service(self.feedback.conditions())]

    def health(self, health: Health) -> list[Component]:
        """Return whether each service's data is watched and still what its release was made for."""
        parts = []
        trouble = self.drift.trouble()
        for one in self.drift.status():
            if one.state == "off":
                continue
            # How many, and not which: health opens without a key.
            drifts = f"{len(one.features)} features moved; `nightproof drift {one.service}` says which"
            why = drifts if one.state == "drifting" else trouble
            parts.append(health.see(f"drift:{one.service}", ok=not why, why=why, needed=False))
        return parts

    def forget(self, subject: bytes) -> None:
        """Drop examples and labels about an erased person."""
        self.desk.forget(subject)
        self.feedback.forget(subject)

    def close(self) -> None:
        """Let go of the stores."""
        self.feedback.close()
        self.desk.close()

    def gauges(self) -> Iterable[Metric]:
        """Return the present values for `/metrics`."""
        stands = self.drift.status()
        yield gauge(
            "nightproof_drift_effect",
            "Share of rows that would have to move for the last window to look like the release's reference.",
            {(service, feature): effect for service, feature, effect in self.drift.effects()},
            ["service", "feature"],
        )
        yield gauge(
            "nightproof_drift_detected",
            "Whether the data of a service drifts.",
            {(one.service,): float(one.state == "drifting") for one in stands},
            ["service"],
        )
        yield gauge(
            "nightproof_drift_evidence",
            "Evidence for drift; at 1 it alarms.",
            {(one.service,): one.evidence for one in stands},
            ["service"],
        )
        yield gauge(
            "nightproof_drift_rows",
            "Rows held against the profile.",
            {(one.service,): float(one.rows) for one in stands},
            ["service"],
        )
        held = Counter(one.service for one in self.feedback.conditions())
        yield gauge(
            "nightproof_feedback_sources_held",
            "Keys whose labels are set aside.",
            {(one.service,): float(held[one.service]) for one in stands},
            ["service"],
        )
        pid = self.drift.child_pid
        yield gauge(
            "nightproof_drift_resident_memory_bytes",
            "Memory of the process that watches for drift.",
            {(): float(proc.rss_bytes(pid))} if pid else {},
        )


def release_of(live: LiveRelease) -> Release:
    """Say what of a release is to be watched: its fields, or of a chat service its prompts and what guards say."""
    described = live.engine.description
    if described.chat is not None and not described.chat.is_typed:
        checks = [name for name, check in described.chat.input_checks.items() if check.action != "off"]
        return Release(live.service, live.digest, PROMPT_SCHEMA, GUARD_SCHEMA, checks, is_chat=True)
    return Release(
        live.service,
        live.digest,
        described.input_schema,
        described.output_schema,
        [*described.input_checks, *described.output_checks, "unusual"],
    )


def answering_of(live: LiveRelease) -> Answer:
    """Return what has the release answer rows of its reference. No upstream is asked: that costs money."""
    described = live.engine.description
    if described.chat is None:
        return _Answering(live)
    return _nothing if described.chat.is_typed else _Guarding(live)


async def _nothing(inputs: list[bytes]) -> list[tuple[bytes, list[str]]]:
    return []


def one_per_service(conditions: Iterable[Condition]) -> list[Condition]:
    """Make one of what holds of several sources of a service, since the first: an alert is told of services."""
    found: dict[str, Condition] = {}
    for one in conditions:
        known = found.setdefault(one.service, one)
        if known is not one:
            found[one.service] = msgspec.structs.replace(
                known, since_s=min(known.since_s, one.since_s), detail=f"{known.detail}; {one.detail}"
            )
    return list(found.values())


class _Answering:
    """Has a release answer rows of its reference, only while nobody else waits, and as many as the time allows."""

    def __init__(self, release: LiveRelease) -> None:
        self._release = release

    async def __call__(self, inputs: list[bytes]) -> list[tuple[bytes, list[str]]]:
        """Return output and findings of each row, in order; fewer where time or model gave out."""
        engine = self._release.engine
        answers: list[tuple[bytes, list[str]]] = []
        until_s = monotonic_s() + _ANSWERS_WITHIN_S
        size = min(_BATCH, engine.description.max_batch)
        for at in range(0, len(inputs), size):
            while engine.snapshot().queued or not engine.is_ready():
                if monotonic_s() > until_s:
                    return answers
                await asyncio.sleep(0.05)
            told = await self._batch(inputs[at : at + size])
            if told is None or monotonic_s() > until_s:
                return answers
            answers += told
        return answers

    async def _batch(self, batch: list[bytes]) -> list[tuple[bytes, list[str]]] | None:
        """Have one batch answered; None where that ended a worker: the profile must not make it worse."""
        checks = self._release.input_checks
        values = [orjson.loads(one) for one in batch]
        holds = [checks.holds(value) for value in values]
        told = iter(await self._ask([one for one, good in zip(batch, holds, strict=True) if good]))
        answers = []
        for value, good in zip(values, holds, strict=True):
            outcome = next(told) if good else Outcome(failure="invalid_input")
            if outcome.failure in _ENDS_WORKERS:
                return None
            is_good = not outcome.failure and not self._release.output_checks.judge(outcome.output).failure
            findings = [*checks.unusual(value), *outcome.findings] if good else []
            answers.append((outcome.output if is_good else b"", findings))
        return answers

    async def _ask(self, inputs: list[bytes]) -> list[Outcome]:
        """Have the release's workers do these jobs."""
        if not inputs:
            return []
        loop = asyncio.get_running_loop()
        waiter = Waiter(loop.create_future())
        deadline_s = monotonic_s() + _ONE_WITHIN_S
        jobs = [Job(record, deadline_s, waiter, place=place) for place, record in enumerate(inputs)]
        for job in jobs:
            waiter.add(job)
        self._release.engine.submit(jobs)
        timer = loop.call_at(deadline_s, waiter.give_up, "model_timeout")
        try:
            await waiter.future
        finally:
            timer.cancel()
            waiter.give_up("caller_gone")
        return waiter.outcomes


class _Guarding(_Answering):
    """Has a chat release's input checks look at prompts of its reference, as they look at a caller's."""

    async def _batch(self, batch: list[bytes]) -> list[tuple[bytes, list[str]]] | None:
        tasks = []
        for one in batch:
            said = {"role": "user", "content": orjson.loads(one)[PROMPT]}
            tasks.append(task_encoder.encode(InputTask(messages=[said], boundary="0" * 24)))
        answers: list[tuple[bytes, list[str]]] = []
        for outcome in await self._ask(tasks):
            if outcome.failure:
                return None
            verdict = input_verdict_decoder.decode(outcome.output)
            answers.append((guard_of(verdict.scores), sorted({one.check for one in verdict.findings})))
        return answers
