"""Third step: hand the records to the live release's engine and wait for its outcomes, never past the deadline."""

from __future__ import annotations

import asyncio
from functools import partial

from nightproof.pipeline.accept import Request
from nightproof.pipeline.house import ServedRelease
from nightproof.pipeline.story import Item
from nightproof.workers.engine import Job, Outcome, Waiter

_LEFT_FOR_FALLBACK_SHARE = 0.15
_LEFT_FOR_FALLBACK_MOST_S = 0.05


async def call(request: Request) -> None:
    """Have every standing record answered; each item knows its outcome afterwards."""
    items = request.items
    if request.standing < len(items):
        items = [item for item in items if not item.failure]
    release = request.release
    if not release.engine.is_ready() and not release.engine.has_hope():
        for item in items:
            item.failure, item.detail = "model_unavailable", "no worker is ready"
        return
    deadline_s = request.deadline_s - _time_for_fallbacks_s(release)
    jobs, outcomes = await ask(release, [item.input for item in items], deadline_s)
    for item, job, outcome in zip(items, jobs, outcomes, strict=True):
        take(item, job, outcome)


async def ask(
    release: ServedRelease, inputs: list[bytes], deadline_s: float, *, rule: int = -1
) -> tuple[list[Job], list[Outcome]]:
    """Submit the inputs and wait until all are answered or the deadline has passed."""
    loop = asyncio.get_running_loop()
    waiter = Waiter(loop.create_future())
    jobs = release.make_jobs(inputs, deadline_s, waiter, rule=rule)
    release.engine.submit(jobs)
    deadlines = release.deadlines
    tick = deadlines.set(deadline_s, waiter, partial(_give_up, waiter, release))
    try:
        await waiter.future
    except BaseException:
        waiter.give_up("caller_gone")  # frees what a cancelled caller still holds
        raise
    finally:
        deadlines.take_back(tick, waiter)
    return jobs, waiter.outcomes


def _give_up(waiter: Waiter, release: ServedRelease) -> None:
    waiter.give_up("deadline_exceeded" if release.engine.is_ready() else "model_unavailable")


def take(item: Item, job: Job, outcome: Outcome) -> None:
    """Write an outcome into its item."""
    item.output = outcome.output
    item.failure = outcome.failure
    item.detail = outcome.detail
    item.errors = outcome.errors
    if outcome.findings:
        item.findings = [*item.findings, *outcome.findings]
    item.attempts = job.attempts + 1
    item.batch_size = job.batch_size
    item.predict_us = job.predict_us
    item.worker_pid = job.worker_pid
    item.handed_s = job.handed_s
    if job.handed_s:
        item.queue_us = int((job.handed_s - job.queued_s) * 1e6)


def _time_for_fallbacks_s(release: ServedRelease) -> float:
    """Keep a little of the deadline for fallbacks that need a worker."""
    description = release.engine.description
    ways = description.fallbacks
    if not ways or not any(way.kind in ("rule", "previous_release") for way in ways):
        return 0.0
    return min(_LEFT_FOR_FALLBACK_MOST_S, description.deadline_ms / 1_000 * _LEFT_FOR_FALLBACK_SHARE)
