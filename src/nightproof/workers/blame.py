"""Say what a worker's end means for the jobs that it held, and for its release. Pure: `Pool` asks, and does."""

from __future__ import annotations

from collections.abc import Sequence

from nightproof.workers.engine import NotLoaded

_MOST_DEATHS = {"model_timeout": 2, "model_crash": 3, "model_out_of_memory": 2, "killed": 5}
"""How often a job's worker may end by a cause before the job does. Each cause by itself: who was with a worker
that the system killed has not used up a try with a worker that hangs."""
_MOST_DEATHS_IN_ALL = 6
_FAILURES = {"memory_limit": "model_out_of_memory", "model_timeout": "model_timeout"}


def failure_of(reason: str) -> str:
    """Name the failure of a job whose worker ended for a reason."""
    return _FAILURES.get(reason, "model_crash")


def is_tried_out(died_of: Sequence[str], cause: str) -> bool:
    """Say whether a job has had its tries, the last of which ended by the cause."""
    return died_of.count(cause) >= _MOST_DEATHS[cause] or len(died_of) >= _MOST_DEATHS_IN_ALL


def not_loaded(reason: str, cause: str, *, load_timeout_s: float) -> NotLoaded:
    """Tell why a load came to nothing, where it could not say so itself."""
    if reason == "load_timeout":
        text, hint = f"load did not end within {load_timeout_s:g} s.", "Raise load_timeout_s, or mend load."
    else:
        text = f"The worker ended while it loaded ({cause})."
        hint = "load or an import in service.py ends the process; run `nightproof check FOLDER`."
    failure = "model_out_of_memory" if reason == "memory_limit" else "model_unavailable"
    return NotLoaded(text, hint=hint, failure=failure)
