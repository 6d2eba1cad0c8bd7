"""Say what a worker's end means: for the jobs that it held, and for whoever waits for the release to load. Pure.

Asked by the pool once a worker is gone. Each cause has its own number of tries: who was with a worker that the
system killed has not used up a try with a worker that hangs.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from nightproof.workers.engine import NotLoaded

_MOST_DEATHS = {"model_timeout": 2, "model_crash": 3, "model_out_of_memory": 2, "killed": 5}
"""How often a job's worker may end by a cause before the job does."""
_MOST_DEATHS_IN_ALL = 6
_FAILURES = {"memory_limit": "model_out_of_memory", "model_timeout": "model_timeout"}


class End(msgspec.Struct, frozen=True):
    """What ended a worker, as far as the jobs that it held are concerned."""

    failure: str
    """By which a job ends that is not tried again."""
    inside: bool
    """The cause came from inside the worker: what it held alone is under suspicion."""
    outside: bool
    """It came from outside: nothing that it held has to do with it."""

    @property
    def counts_as(self) -> str:
        """Name the cause that uses up a job's tries."""
        return "killed" if self.outside else self.failure


def end_of(reason: str, *, by_us: bool, cause: str, broke_its_word: bool) -> End:
    """Say what ended a worker: `reason` is why we killed it, `cause` how it ended."""
    inside = not by_us and (cause != "SIGKILL" or broke_its_word)
    outside = not inside and (not by_us or reason == "silent")
    return End(_FAILURES.get(reason, "model_crash"), inside, outside)


def is_tried_out(died_of: Sequence[str], cause: str) -> bool:
    """Say whether a job that met these ends, the last by `cause`, is not tried again."""
    return died_of.count(cause) >= _MOST_DEATHS[cause] or len(died_of) >= _MOST_DEATHS_IN_ALL


def not_loaded(reason: str, cause: str, *, load_timeout_s: float) -> NotLoaded:
    """Say why a load came to nothing where the worker could not say so itself."""
    if reason == "load_timeout":
        text, hint = f"load did not end within {load_timeout_s:g} s.", "Raise load_timeout_s, or mend load."
    else:
        text = f"The worker ended while it loaded ({cause})."
        hint = "load or an import in service.py ends the process; run `nightproof check FOLDER`."
    failure = "model_out_of_memory" if reason == "memory_limit" else "model_unavailable"
    return NotLoaded(text, hint=hint, failure=failure)
