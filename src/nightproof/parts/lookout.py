"""See how a service's requests end while a release is on trial or fresh, and count it where it is judged.

Hung into a served service by `services` for just as long; without it the pipeline pays one look at a field. Reads
ended stories only: changes nothing, waits for nothing, keeps no payload.
"""

from __future__ import annotations

from collections.abc import Callable

import orjson

from nightproof.base.failures import CATALOGUE
from nightproof.pipeline.story import Item, Story
from nightproof.releases.probation import Counted
from nightproof.releases.tally import Seen, Tally

_NOT_THE_RELEASES = frozenset(
    {
        "audit_unavailable",
        "audit_outcome_unknown",
        "shutting_down",
        "quota_exceeded",
        "unauthenticated",
        "forbidden",
        "malformed_request",
        "unsupported_media_type",
        "oversized_request",
        "idempotency_conflict",
        "slow_request",
        "caller_gone",
        "internal_error",
    }
)
"""Ends that say nothing of a release: the same would have happened with any."""
_OF_OUTPUT_CHECKS = frozenset({"invalid_output", "unsafe_output"})


class Lookout:
    """Counts for the canary's judge and for the probation, and hands answered requests to the shadow."""

    def __init__(self) -> None:
        self.tally: Tally | None = None
        self.counted: Counted | None = None
        self.slow_s: float | None = None
        self.fresh = ""
        """The release on probation."""
        self.confidence_field = ""
        self.on_answered: Callable[[Story], None] | None = None

    @property
    def is_idle(self) -> bool:
        """Say whether there is nothing to look out for."""
        return self.tally is None and self.counted is None and self.on_answered is None

    def seen(self, story: Story) -> None:
        """Take note of an ended request."""
        if story.ending == "abandoned" or story.replay is not None or story.failure in _NOT_THE_RELEASES:
            return
        if self.tally is not None and story.arm:
            self.tally.add(self._seen(story))
        if self.counted is not None and story.release == self.fresh:
            self._count(story, self.counted)
        if self.on_answered is not None and story.ending in ("answered", "degraded"):
            self.on_answered(story)

    def _count(self, story: Story, counted: Counted) -> None:
        """Count for the probation: what had no answer of the model, for no fault of the caller or of the load."""
        if story.ending == "refused" or (story.failure == "deadline_exceeded" and story.arrival.timeout_ms):
            return
        counted.add(
            failure=story.failure if story.ending != "answered" else "",
            duration_s=story.marked_s - story.began_s,
            slow_s=self.slow_s,
        )

    def _seen(self, story: Story) -> Seen:
        unit = int.from_bytes(story.unit[:8]) if story.unit else 0
        is_refusal = story.ending == "refused"
        is_ours = bool(story.failure) and CATALOGUE[story.failure].statuses[0] >= 500
        is_diverted = story.arm == "canary" and any(one.startswith("canary:") for one in story.decisions)
        item = story.items[0] if story.items else None
        if is_diverted or is_refusal or story.ending != "answered" or item is None or not item.output:
            return Seen(
                arm=story.arm or "live",
                unit=unit,
                failed=is_diverted or (is_ours and story.ending != "degraded"),
                refused=is_refusal and not is_ours,
                degraded=story.ending == "degraded" and not is_diverted,
                flagged=any(_is_flagged(one) for one in story.items),
            )
        return Seen(
            arm=story.arm or "live",
            unit=unit,
            flagged=any(_is_flagged(one) for one in story.items),
            duration_s=story.marked_s - story.began_s,
            confidence=item.confidence,
            # What an LLM says is no value that could be counted.
            outputs=() if story.chat is not None else self._outputs(item.output),
        )

    def _outputs(self, output: bytes) -> tuple[tuple[str, object], ...]:
        value = orjson.loads(output)  # it was judged: it is JSON
        if not isinstance(value, dict):
            return ()
        return tuple(
            (name, one)
            for name, one in value.items()
            if name != self.confidence_field and (one is None or isinstance(one, bool | int | float | str))
        )


def _is_flagged(item: Item) -> bool:
    failure = item.degraded.failure if item.degraded is not None else item.failure
    return failure in _OF_OUTPUT_CHECKS or bool(item.findings)
