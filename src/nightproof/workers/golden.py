"""What the golden cases have said of a release lately. One per pool, kept on the event loop's thread."""

from __future__ import annotations

from nightproof.workers.decide import GoldenLevel, golden_level


class GoldenRecord:
    """When a worker last passed, and how many in a row did not."""

    def __init__(self, now: float) -> None:
        self.passed_s = now
        self._wrong_in_a_row = 0

    @property
    def level(self) -> GoldenLevel:
        """Whose fault wrong answers are now: a worker's, the release's, or nobody's."""
        return golden_level(self._wrong_in_a_row)

    def passed(self, now: float) -> None:
        """Note a worker that answered them all rightly."""
        self.passed_s, self._wrong_in_a_row = now, 0

    def failed(self) -> tuple[str, ...]:
        """Note a worker that did not; return what is to be told: its own fault, and once the release's."""
        was = self.level
        self._wrong_in_a_row += 1
        return ("", "release") if self.level == "release" and was != "release" else ("",)
