"""Tell an answer that goes round in circles from one that is only long."""

from __future__ import annotations

CHECK_EVERY = 512
"""Characters of the answer from one look to the next."""
WINDOW = 16_384
_NEEDLE = 48
_TIMES = 20


def is_loop(recent: str) -> bool:
    """Say whether what the answer has just said, about eight words, stands in it twenty times."""
    return len(recent) >= _NEEDLE * _TIMES and recent.count(recent[-_NEEDLE:]) >= _TIMES
