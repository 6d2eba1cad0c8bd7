"""The last good answers by input, for `fallback.last_good()`. In memory, bounded, gone with the server."""

from __future__ import annotations

from collections import OrderedDict

from nightproof.base.fingerprint import fingerprint_of


class LastGood:
    """Remember up to `most` answers; the ones not used for longest go first."""

    def __init__(self, *, max_age_s: float, most: int = 10_000) -> None:
        self._max_age_s = max_age_s
        self._most = most
        self._answers: OrderedDict[bytes, tuple[float, bytes]] = OrderedDict()

    def keep(self, record: bytes, output: bytes, *, now: float) -> None:
        """Remember a good answer to this input."""
        fingerprint = fingerprint_of(record)
        self._answers[fingerprint] = (now, output)
        self._answers.move_to_end(fingerprint)
        if len(self._answers) > self._most:
            self._answers.popitem(last=False)

    def find(self, record: bytes, *, now: float) -> bytes | None:
        """Return the answer to this very input, if one is young enough."""
        found = self._answers.get(fingerprint_of(record))
        if found is None or now - found[0] > self._max_age_s:
            return None
        return found[1]

    def clear(self) -> None:
        """Forget all answers."""
        self._answers.clear()

    def __repr__(self) -> str:
        return f"<LastGood {len(self._answers)}/{self._most}>"
