"""Look in a streamed answer for the canary and for copies of the system prompt.

Works on squeezed text (letters and digits only), in which places are counted from the answer's beginning. Plain text
costs one look-up for every four and one for every sixteen characters.
"""

from __future__ import annotations

from nightproof.checks.canary import HINT, CanaryIndex
from nightproof.checks.canary import RUN as CANARY_RUN
from nightproof.checks.canary import STRIDE as CANARY_STRIDE
from nightproof.checks.prompt_shadow import GRACE_CHARS, PromptShadow
from nightproof.checks.prompt_shadow import RUN as PROMPT_RUN

_KEPT = 2_048
_MANY = 64
"""Of so much text at once it is first asked whether there is anything of the canary at all."""


class CopyScanner:
    """Goes over one answer, piece by piece."""

    def __init__(self, canary: CanaryIndex | None, prompt: PromptShadow) -> None:
        self.total = 0
        """Squeezed octets so far."""
        self.holds_from = 0
        """What stands from here on may not leave yet."""
        self.cuts: list[tuple[int, str]] = []
        """Places where the answer has to end, and why."""
        self.prompt_hits = 0
        """How many of the runs that were asked for are the prompt's."""
        self._canary = canary
        self._prompt = prompt if prompt.leak_chars else None
        self._squeezed = b""
        self._base = 0
        self._canary_at = CANARY_RUN
        self._prompt_at = PROMPT_RUN
        self._copies: dict[int, tuple[int, int]] = {}  # how far from the prompt's place -> start and end

    def take(self, piece: bytes) -> None:
        """Look at what came."""
        if not piece:
            return
        squeezed = self._squeezed + piece
        if len(squeezed) > 2 * _KEPT:
            self._base += len(squeezed) - _KEPT
            squeezed = squeezed[-_KEPT:]
        self._squeezed = squeezed
        self.total = self.holds_from = self._base + len(squeezed)
        if self._canary is not None:
            self._look_for_canary(self._canary)
        if self._prompt is not None:
            self._look_for_prompt(self._prompt)

    def _look_for_canary(self, canary: CanaryIndex) -> None:
        squeezed, base, total = self._squeezed, self._base, self.total
        pieces, stepped = canary.pieces, canary.stepped
        held, first = total, self._canary_at
        if total - first >= _MANY and canary.is_clear(squeezed, first, base):
            first = total + 1
        for at in range(first, total + 1, CANARY_STRIDE):
            end = at - base
            if squeezed[end - CANARY_RUN : end] in pieces:
                start, run_end, is_one = canary.run(squeezed, end - CANARY_RUN)
                if is_one:
                    begun = canary.begun(squeezed, start + HINT)
                    self._tell_canary(base + begun + HINT - 1)
                    return
                if base + run_end == total:
                    self._canary_at = at  # it may go on: ask again
                    break
            # Every third, or every second from here or from one before: of each such stream four letters in eight.
            odd = at >> 3 & 1
            if (
                squeezed[end - 10 : end : 3] if at & 4 else squeezed[end - 7 - odd : end - odd : 2]
            ) in stepped:
                step, last = (3, end - 1) if at & 4 else (2, end - 1 - odd)
                is_one, is_open = canary.stepped_run(squeezed, last, step)
                if is_one:
                    self._tell_canary(
                        at
                    )  # its first letters have left: to hold for them would hold most texts
                    return
                if is_open:
                    self._canary_at = held = at
                    break
        else:
            self._canary_at = max(self._canary_at, total // CANARY_STRIDE * CANARY_STRIDE + CANARY_STRIDE)
        begun = canary.begun(squeezed, len(squeezed))
        if begun < len(squeezed):
            held = min(held, base + begun + HINT - 1)
        self.holds_from = held

    def _tell_canary(self, place: int) -> None:
        self.cuts.append((place, "canary"))
        self._canary = None  # the first is enough

    def _look_for_prompt(self, prompt: PromptShadow) -> None:
        squeezed, base, places = self._squeezed, self._base, prompt.places
        for shift, (start, end) in list(self._copies.items()):
            self._follow(prompt, shift, start=start, end=end)
        at = self._prompt_at
        while at <= self.total:
            place = at - base - PROMPT_RUN
            if squeezed[place : place + PROMPT_RUN] in places:
                self.prompt_hits += 1
                for start, prompt_end in prompt.runs(squeezed, place):
                    shift = prompt_end - at
                    if shift not in self._copies:
                        self._follow(prompt, shift, start=base + start, end=at)
            at += PROMPT_RUN
        self._prompt_at = at
        for start, _ in self._copies.values():
            self.holds_from = min(self.holds_from, start + GRACE_CHARS)

    def _follow(self, prompt: PromptShadow, shift: int, *, start: int, end: int) -> None:
        """Follow a copy as far as it goes; one that reaches the end of what came is kept in mind."""
        squeezed, base, text = self._squeezed, self._base, prompt.text
        while end < self.total and end + shift < len(text) and squeezed[end - base] == text[end + shift]:
            end += 1
        if end - start >= prompt.leak_chars:
            self.cuts.append((start + GRACE_CHARS, "prompt_leak"))
            self._copies.pop(shift, None)
        elif end == self.total:
            self._copies[shift] = (start, end)
        else:
            self._copies.pop(shift, None)
