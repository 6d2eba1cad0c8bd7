"""The runbook pages, shipped in the package: one per failure mode, opened without a key."""

from __future__ import annotations

from functools import lru_cache
from importlib import resources

from nightproof.base.failures import CATALOGUE


@lru_cache(maxsize=128)
def page(failure_code: str) -> bytes | None:
    """Return a failure mode's runbook as Markdown; None if there is no such failure."""
    if failure_code not in CATALOGUE:
        return None
    return resources.files("nightproof").joinpath("runbooks", f"{failure_code}.md").read_bytes()
