"""Find the one record that ends workers, so that it is refused and its neighbours are not.

A record is poison only after it ended two fresh workers alone, by a cause from inside, and golden cases
passed afterwards. Kills are counted by the record and not by the request, since a caller who gets no
answer sends it again. What runs over its time is no poison, but is not tried for ever (`over_time.py`).
Used by the pool; decides and remembers, never speaks to a worker.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Literal, TypeVar

from nightproof.base.fingerprint import fingerprint_of
from nightproof.workers.engine import Job, Outcome
from nightproof.workers.over_time import OverTime

Standing = Literal["free", "suspect", "in_question", "poison", "over_time"]

KILLS_FOR_A_VERDICT = 2
REFUSALS: dict[Standing, Outcome] = {
    "poison": Outcome(failure="poison_input"),
    "over_time": Outcome(
        failure="model_timeout",
        detail="The record ran over predict's time twice by itself; for some minutes no worker tries it again.",
    ),
}
"""What is told at once of a record that no worker is given."""
_KEPT = 1_000
_TRIAL_WITHIN_S = 30.0

Value = TypeVar("Value")


class Suspects:
    """The records that ended a worker alone, and those found to be poison lately."""

    def __init__(self) -> None:
        self.over_time = OverTime()
        self._kills: OrderedDict[bytes, int] = OrderedDict()
        self._poison_since_s: OrderedDict[bytes, float] = OrderedDict()
        self.in_question: list[Job] = []
        """Ended two workers; waits until golden cases tell whether the model is to blame."""

    def __bool__(self) -> bool:
        """Say whether any record is under suspicion: where none is, nothing needs a fingerprint."""
        return bool(self._kills) or bool(self.over_time)

    def note(self, job: Job, *, now: float) -> None:
        """Mark a new job whose record is known to have ended a worker, or to run over its time: it runs alone."""
        fingerprint = _fingerprint(job)
        job.solo_kills = self._kills.get(fingerprint, 0)
        if self.over_time.knows(fingerprint, now) or job.solo_kills:
            job.alone = True

    def blame(self, job: Job) -> None:
        """Count a worker that ended while it held this record alone."""
        fingerprint = _fingerprint(job)
        job.solo_kills = self._kills.get(fingerprint, 0) + 1
        _keep(self._kills, fingerprint, job.solo_kills)

    def clear(self, job: Job) -> None:
        """Forget the suspicion: the record was answered, or is judged."""
        self._kills.pop(_fingerprint(job), None)
        self.over_time.forget(job.fingerprint)

    def ran_over(self, jobs: Sequence[Job], *, now: float) -> bool:
        """Count a record that was alone with a worker that ran over its time; say whether it is to be proven."""
        if len(jobs) != 1 or jobs[0].rule >= 0:
            return False
        return self.over_time.blame(_fingerprint(jobs[0]), now)

    def condemn(self, job: Job, *, now: float) -> None:
        """Remember a verdict, for the same record's other jobs that are inside already."""
        self.clear(job)
        _keep(self._poison_since_s, _fingerprint(job), now)

    def standing_of(self, job: Job, *, now: float) -> Standing:
        """Say how a job that must run alone stands now; others of the same record may have been at work."""
        fingerprint = _fingerprint(job)
        if job.queued_s <= self._poison_since_s.get(fingerprint, -1.0):
            return "poison"
        job.solo_kills = self._kills.get(fingerprint, 0)
        if job.solo_kills >= KILLS_FOR_A_VERDICT:
            return "in_question"
        if self.over_time.refuses(fingerprint, now):
            return "over_time"
        return "suspect" if job.solo_kills else "free"

    def is_on_trial(self, job: Job, *, now: float) -> bool:
        """Say whether a job goes on though its caller has left.

        What ended one worker alone is tried once more, so that its next caller costs none.
        """
        return 0 < job.solo_kills < KILLS_FOR_A_VERDICT and now - job.queued_s < _TRIAL_WITHIN_S

    def __repr__(self) -> str:
        return f"<Suspects {len(self._kills)} in_question={len(self.in_question)}>"


def _fingerprint(job: Job) -> bytes:
    if not job.fingerprint:
        job.fingerprint = fingerprint_of(job.input)
    return job.fingerprint


def _keep(kept: OrderedDict[bytes, Value], fingerprint: bytes, value: Value) -> None:
    kept[fingerprint] = value
    kept.move_to_end(fingerprint)
    if len(kept) > _KEPT:
        kept.popitem(last=False)
