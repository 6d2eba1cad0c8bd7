"""Names for requests: unique, sortable by time, unguessable.

A request's id is ours, never the caller's or a model provider's, so that no record can be lost to a
clash of keys. The form is 11 hex digits of milliseconds, a dash, 20 hex digits of chance.
"""

from __future__ import annotations

import os
import re

from nightproof.base.clock import utc_us

_REQUEST_ID = re.compile(r"[0-9a-f]{11}-[0-9a-f]{20}")
_POOL_BYTES = 4096

RUN_ID = os.urandom(6).hex()
"""Names this run of the program; each record says in which one it was made."""


class RequestIds:
    """Draw request ids; chance is fetched from the kernel for many ids at once."""

    def __init__(self) -> None:
        self._chance = ""
        self._at = 0

    def draw(self) -> str:
        """Return a new id: time first, so that neighbours in time are neighbours in an index."""
        return f"{utc_us() // 1_000:011x}-{self.draw_hex(20)}"

    def draw_hex(self, digits: int) -> str:
        """Return that many hex digits of chance."""
        at = self._at
        chance = self._chance[at : at + digits]
        if len(chance) < digits:
            self._chance = os.urandom(_POOL_BYTES).hex()
            at, chance = 0, self._chance[:digits]
        self._at = at + digits
        return chance


def is_request_id(text: str) -> bool:
    """Say whether the text has the form of one of our request ids."""
    return _REQUEST_ID.fullmatch(text) is not None
