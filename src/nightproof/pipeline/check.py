"""Fourth step: judge every answer outside the worker that gave it. An invalid one never leaves."""

from __future__ import annotations

from nightproof.base.clock import monotonic_s
from nightproof.checks.output import OutputChecks
from nightproof.pipeline.accept import Request
from nightproof.pipeline.story import Item


def check(request: Request) -> None:
    """Judge the items' outputs; one that fails keeps the failure and loses the output's right to leave."""
    release = request.release
    for item in request.items:
        if not item.failure:
            judge(item, release.output_checks)
            if release.last_good is not None and not item.failure:
                release.last_good.keep(item.input, item.output, now=monotonic_s())


def judge(item: Item, checks: OutputChecks) -> None:
    """Judge one item's output by the given release's checks."""
    verdict = checks.judge(item.output)
    item.confidence = verdict.confidence
    if verdict.failure:
        item.failure, item.detail = verdict.failure, verdict.detail
