"""Let of an answer leave what may, as it streams by; hold back what may not yet, and stop what may not at all.

Called by the chat conductors in the server process, with every piece that the upstream sends; a whole answer is one
piece. Promises that what leaves, whether it is stopped and what is found depend on the text only, never on how it was
cut, and that nothing forbidden has left when it is stopped. It takes time linear in the text, and remembers of a long
answer only its last few thousand characters.

Each check decides from the front: it says up to where it knows all, what is to be changed, and where, if at all, the
answer has to end. What all have decided leaves. The first place where it has to end, ends it.
"""

from __future__ import annotations

from collections.abc import Sequence

import re2

from nightproof.checks.canary import index_of
from nightproof.checks.chat_tasks import Finding
from nightproof.checks.leaving_clean import UNSEEN, Cleaner
from nightproof.checks.leaving_copies import CopyScanner
from nightproof.checks.leaving_links import LOOKS_BACK, MAY_BE_LIVE, Edit, LinkScanner
from nightproof.checks.leaving_loops import CHECK_EVERY, WINDOW, is_loop
from nightproof.checks.leaving_patterns import Match, PatternSet, pattern_set
from nightproof.checks.leaving_urls import Hosts
from nightproof.checks.prompt_shadow import NO_PROMPT, SHINGLES_SHARE, PromptShadow
from nightproof.checks.squeezed import index_from_end, squeeze
from nightproof.checks.text import personal as personal_data
from nightproof.checks.text import secrets as secret_forms
from nightproof.checks.text.named import NamedPattern
from nightproof.declare.chat_description import OutputRules

LEAST_HOLD_BACK = 64
MOST_BLANK = 1_024
"""So many characters that are no letters or digits part a copy in two; what is held back for one is bounded so."""
_KEPT = 2_048
_FLAGGED_AT_ONCE = 4_096
_SHINGLES_WINDOW = 2 * CHECK_EVERY
_FEWEST_HITS = 3
_GRACE = {"secrets": 6}
"""So many characters of a secret may have left before it is held back: of most they are its maker's mark."""

_RANKS = ("canary", "prompt_leak", "secrets", "personal", "banned", "repetition", "too_long")
"""Why an answer ends; of two reasons at the same place the earlier is told."""


class CompiledRules:
    """A release's rules for what may leave, compiled once."""

    def __init__(
        self,
        rules: OutputRules,
        *,
        secrets: Sequence[NamedPattern] | None = None,
        personal: Sequence[NamedPattern] | None = None,
    ) -> None:
        """Compile `rules`; the forms of secrets and of personal data are the built-in ones unless others are given."""
        self.hosts = Hosts(rules.allowed_hosts)
        self.html_is_allowed = rules.html == "allow"
        self.bare_hosts_are_live = rules.bare_hosts == "keep"
        self.hold_back = max(LEAST_HOLD_BACK, rules.hold_back_chars)
        self.max_chars = rules.max_chars
        self.prompt_leak = rules.prompt_leak
        self.actions = {"banned": "withhold", "secrets": rules.secrets, "personal": rules.personal}
        kinds = {
            "secrets": _named("secrets", secret_forms.patterns() if secrets is None else secrets),
            "personal": _named("personal", personal_data.patterns() if personal is None else personal),
            "banned": [NamedPattern(f"banned:{at}", source, 0) for at, source in enumerate(rules.banned)],
        }
        self.held_sets = [
            pattern_set(tuple(patterns), self._longest(patterns), _GRACE.get(kind, 0))
            for kind, patterns in kinds.items()
            if patterns and self.actions[kind] in ("withhold", "redact")
        ]
        flagged = [
            each for kind, patterns in kinds.items() if self.actions[kind] == "flag" for each in patterns
        ]
        self.flagged = pattern_set(tuple(flagged), self._longest(flagged)) if flagged else None
        self.links_need_a_look = re2.Set.SearchSet()
        self.links_need_a_look.Add(MAY_BE_LIVE)
        self.links_need_a_look.Compile()
        self.looks_back = max([1, *(each.grace_chars for each in self.held_sets)])

    def __repr__(self) -> str:
        return f"<CompiledRules: {self.hosts!r}, hold back {self.hold_back}>"

    def action(self, name: str) -> str:
        """Return what is done with a find of the pattern `name`."""
        return self.actions[name.partition(":")[0]]

    def _longest(self, patterns: Sequence[NamedPattern]) -> int:
        return max(self.hold_back, *(pattern.longest_chars + 2 for pattern in patterns))


def _named(kind: str, patterns: Sequence[NamedPattern]) -> list[NamedPattern]:
    return [
        pattern._replace(name=f"{kind}:{pattern.name}")
        for pattern in patterns
        if pattern.name != "url_password"  # no address with credentials stays live, whatever else is allowed
    ]


class OutputScanner:
    """Looks at one answer. Text goes in by `feed` and `end`; what they return may leave."""

    def __init__(self, compiled: CompiledRules, *, canary: str, prompt: PromptShadow) -> None:
        self.stopped = ""
        """Why nothing more may leave; empty while all is well. Final after `end`."""
        self._rules = compiled
        self._prompt = prompt if compiled.prompt_leak != "off" else NO_PROMPT
        self._cleaner = Cleaner()
        self._links = LinkScanner(
            compiled.hosts,
            hold_back=compiled.hold_back,
            html_is_allowed=compiled.html_is_allowed,
            bare_hosts_are_live=compiled.bare_hosts_are_live,
        )
        self._copies = CopyScanner(index_of(canary) if canary else None, self._prompt)
        self._is_over = False
        self._is_ended = False
        self._has_ink = False
        self._text = ""  # the end of what came, cleaned; all places are counted from the answer's beginning
        self._base = 0
        self._left_at = 0  # up to where it has left
        self._links_at = 0  # up to where each has decided
        self._patterns_at = [0] * len(compiled.held_sets)
        self._links_are_open = False  # something is undecided
        self._open = [False] * len(compiled.held_sets)
        self._edits: list[Edit] = []
        self._notes: dict[Finding, int] = {}  # what counts once that place, its first, has left
        self._cuts: list[tuple[int, int, Finding]] = []
        self._copies_told = 0
        self._held_from = self._held_place = -1
        self._blank_chars = 0  # since the last letter or digit
        self._recent: list[str] = []
        self._next_check = CHECK_EVERY
        self._hits_before = [0, 0]
        self._flag_text = ""
        self._flag_at = 0
        self._found: dict[Finding, None] = {}
        self._not_fed = ""

    def __repr__(self) -> str:
        state = self.stopped or ("ended" if self._is_over else "open")
        return f"<OutputScanner {state}: {self._left_at} left, {self.held_chars} held>"

    @property
    def findings(self) -> list[Finding]:
        """What was found in what left, and what ended it; complete after `end`."""
        return list(self._found)

    @property
    def held_chars(self) -> int:
        """How much has come and not left."""
        return self._base + len(self._text) - self._left_at + len(self._cleaner.held)

    @property
    def withheld(self) -> str:
        """The text that had come and not left."""
        return self._text[self._left_at - self._base :] + self._cleaner.held + self._not_fed

    def feed(self, text: str) -> str:
        """Take a piece of the answer and return what may leave now."""
        if self._is_over:
            self._not_fed += text
            return ""
        if self._cleaner.held or UNSEEN.search(text) is not None:
            text = self._clean(text, is_end=False)
        if len(text) <= self._next_check - self._base - len(self._text):
            return self._take(text, is_end=False) if text else ""
        return self._take_in_parts(text)

    def end(self) -> str:
        """Say that the answer is whole, and return the rest that may leave."""
        if self._is_over:
            return ""
        text = self._clean("", is_end=True) if self._cleaner.held else ""
        left = self._take_in_parts(text)
        if not self._is_over:
            self._is_ended = True
            left += self._take("", is_end=True)
        self._is_over = True
        self._scan_flagged(is_end=True)
        if not self._has_ink and not self.stopped:
            self._found[Finding("empty", action="flag")] = None
        return left

    def _clean(self, text: str, *, is_end: bool) -> str:
        came_at = self._base + len(self._text)
        cleaned, unseen = self._cleaner.feed(text, self._text[-1:], is_end=is_end)
        for each in unseen:
            self._note(came_at + each.at, Finding(each.check, each.rule, action="redact"))
        return cleaned

    def _take_in_parts(self, text: str) -> str:
        """Take it so that no part goes over a place where the whole is looked at."""
        left: list[str] = []
        at = 0
        while at < len(text) and not self._is_over:
            room = self._next_check - self._base - len(self._text)
            left.append(self._take(text[at : at + room], is_end=False))
            at += room
        self._not_fed += text[at:]
        return "".join(left)

    def _take(self, piece: str, *, is_end: bool) -> str:
        rules, before = self._rules, self._text[-self._rules.looks_back :]
        self._text += piece
        end = self._base + len(self._text)
        if not self._has_ink and not piece.isspace():
            self._has_ink = bool(piece)
        if self._links_are_open or is_end or rules.links_need_a_look.Match(before[-1:] + piece) is not None:
            decided = self._decide_links(is_end=is_end)
        else:
            decided = self._links_at = end
        for index, patterns in enumerate(rules.held_sets):
            if self._open[index] or is_end or patterns.may_hold(before + piece):
                decided = min(decided, self._decide_patterns(index, patterns, is_end=is_end))
            else:
                self._patterns_at[index] = patterns.next_at(self._patterns_at[index], end)
        copies = self._copies
        squeezed = squeeze(piece)
        if self._blank_chars + len(piece) > MOST_BLANK:
            self._part(piece)
        copies.take(squeezed)
        self._blank_chars = _blank_end(piece) if squeezed else self._blank_chars + len(piece)
        if copies.holds_from < copies.total and not is_end:
            if copies.holds_from != self._held_from:
                self._held_from, self._held_place = copies.holds_from, self._place(copies.holds_from)
            decided = min(decided, self._held_place)
        if len(copies.cuts) > self._copies_told:
            self._tell_copies()
        self._recent.append(piece)
        if end == self._next_check or is_end:
            self._look_at_whole(end)
        if end > self._rules.max_chars:
            self._cut(self._rules.max_chars, Finding("too_long", action="refuse"))
        if self._cuts:  # where all is decided up to there only, somebody may still end it at the same place
            place = self._cuts[0][0]
            if place < decided or is_end:
                return self._stop()
            decided = min(decided, place)
        return self._leave(decided)

    def _part(self, piece: str) -> None:
        """Part what stands before from what comes after, where there is too much of nothing in between."""
        leading = next((at for at, letter in enumerate(piece) if squeeze(letter)), len(piece))
        if self._blank_chars <= MOST_BLANK < self._blank_chars + leading:
            self._copies.take(b"\0")

    def _decide_links(self, *, is_end: bool) -> int:
        """Let links be looked at; return up to where all is decided."""
        text, base = self._text, self._base
        edits, at = self._links.scan(text, self._links_at - base, is_end=is_end)
        if edits:
            for each in edits:
                self._add(each._replace(start=each.start + base, end=each.end + base))
        self._links_at = base + at
        self._links_are_open = at < len(text) or self._links.swallows
        return base + at

    def _add(self, edit: Edit) -> None:
        """Put an edit into its place; what is swallowed piece by piece is one."""
        for at in range(len(self._edits) - 1, -1, -1) if edit.is_swallowed else ():
            before = self._edits[at]
            if before.is_swallowed and before.end == edit.start:
                self._edits[at] = before._replace(end=edit.end)
                return
        self._edits.append(edit)
        self._edits.sort(key=_start_of)

    def _decide_patterns(self, index: int, patterns: PatternSet, *, is_end: bool) -> int:
        """Let patterns be looked for; return up to where all is decided."""
        text, base = self._text, self._base
        matches, at, may_leave = patterns.scan(text, self._patterns_at[index] - base, is_end=is_end)
        for match in matches:
            self._do(match, patterns.grace_chars)
        self._patterns_at[index] = base + at
        self._open[index] = at < patterns.next_at(0, len(text))
        return base + may_leave

    def _do(self, match: Match, grace_chars: int) -> None:
        """Cut, or write something else, where a pattern was found."""
        check, _, rule = match.name.partition(":")
        start, end = self._base + max(match.found_at, match.start + grace_chars), self._base + match.end
        if self._rules.action(match.name) == "redact":
            self._add(Edit(start, end, f"[{rule.replace('_', ' ')} removed]", check, rule))
        else:
            self._cut(start, Finding(check, rule, action="refuse"))

    def _tell_copies(self) -> None:
        for place, check in self._copies.cuts[self._copies_told :]:
            if check == "prompt_leak" and self._rules.prompt_leak != "withhold":
                if self._rules.prompt_leak == "flag":
                    self._note(self._place(place), Finding(check, "copy", action="flag"))
                continue
            self._cut(self._place(place), Finding(check, "copy", action="refuse"))
        self._copies_told = len(self._copies.cuts)

    def _place(self, squeezed_place: int) -> int:
        """Return where in the answer the squeezed octet stands."""
        return self._base + index_from_end(self._text, self._copies.total - squeezed_place)

    def _look_at_whole(self, end: int) -> None:
        """Look for what shows only in long stretches: loops, and phrases of the prompt."""
        self._next_check = end + CHECK_EVERY
        recent = "".join(self._recent)[-WINDOW:]
        self._recent = [recent]
        if is_loop(recent):
            self._cut(end, Finding("repetition", action="refuse"))
        hits = self._copies.prompt_hits
        is_worth_it = hits - self._hits_before[0] >= _FEWEST_HITS
        self._hits_before = [self._hits_before[1], hits]
        if is_worth_it and self._prompt.share(recent[-_SHINGLES_WINDOW:]) >= SHINGLES_SHARE:
            if self._rules.prompt_leak == "withhold":
                self._cut(end, Finding("prompt_leak", "phrases", action="refuse"))
            else:
                self._note(end, Finding("prompt_leak", "phrases", action="flag"))

    def _cut(self, place: int, finding: Finding) -> None:
        self._cuts.append((place, _RANKS.index(finding.check), finding))
        self._cuts.sort(key=_order_of)

    def _stop(self) -> str:
        place, _, finding = self._cuts[0]
        left = self._leave(place)
        self._is_over = True
        self.stopped = finding.check
        self._scan_flagged(is_end=True)
        self._found[finding] = None
        return left

    def _leave(self, place: int) -> str:
        """Return what has not left up to `place`, changed where it has to be."""
        start = self._left_at
        if not self._edits or self._edits[0].start >= place:
            if place <= start:
                return ""
            left = self._text[start - self._base : place - self._base]
            self._left_at = place
        else:
            left = self._leave_edited(place)
        if self._rules.flagged is not None:
            self._keep_for_flags(self._text[start - self._base : self._left_at - self._base])
        if self._notes:
            self._tell_notes()
        if len(self._text) > 2 * _KEPT:
            self._forget()
        return left

    def _leave_edited(self, place: int) -> str:
        """Do the same where something is changed; a change leaves whole or not at all."""
        text, base, edits = self._text, self._base, self._edits
        came = base + len(text)
        parts: list[str] = []
        at, done = self._left_at, 0
        while done < len(edits) and edits[done].start < place:
            start, end, new = edits[done].start, edits[done].end, edits[done].text
            after = done + 1
            while after < len(edits) and edits[after].start < end:  # one inside or across the other
                if edits[after].end > end:
                    end, new = edits[after].end, new + edits[after].text
                after += 1
            is_whole = end <= place and (end < came or self._is_ended or not new.endswith("]"))
            if not is_whole:
                if (
                    edits[done].is_swallowed and after == done + 1
                ):  # nothing leaves of it, however much is there
                    parts.append(text[at - base : start - base])
                    self._found[Finding(edits[done].check, edits[done].rule, action="redact")] = None
                    edits[done] = edits[done]._replace(start=place)
                    at = place
                else:
                    place = start
                break
            if new.endswith("]") and text[end - base : end - base + 1] in ("(", ":"):
                new += " "  # or our own words would become a link's
            parts += (text[at - base : start - base], new)
            self._found.update(
                (Finding(each.check, each.rule, action="redact"), None) for each in edits[done:after]
            )
            at, done = end, after
        del edits[:done]
        parts.append(text[at - base : place - base])
        self._left_at = max(at, place)
        return "".join(parts)

    def _note(self, place: int, finding: Finding) -> None:
        self._notes[finding] = min(place, self._notes.get(finding, place))

    def _tell_notes(self) -> None:
        is_all = self._is_ended and not self.stopped and not self._cuts
        told = [each for each, place in self._notes.items() if is_all or place < self._left_at]
        for finding in told:
            del self._notes[finding]
            self._found[finding] = None

    def _forget(self) -> None:
        """Drop what nobody needs any more."""
        needed = min(self._left_at, self._links_at, *self._patterns_at) - LOOKS_BACK - 1
        if needed - self._base > _KEPT:
            self._text = self._text[needed - self._base :]
            self._base = needed

    def _keep_for_flags(self, text: str) -> None:
        self._flag_text += text
        if len(self._flag_text) - self._flag_at > _FLAGGED_AT_ONCE:
            self._scan_flagged(is_end=False)

    def _scan_flagged(self, *, is_end: bool) -> None:
        """Look for what is only noted; nobody waits for it, so it is done for many characters at once."""
        flagged = self._rules.flagged
        if flagged is None:
            return
        matches, at, _ = flagged.scan(self._flag_text, self._flag_at, is_end=is_end)
        for match in matches:
            check, _, rule = match.name.partition(":")
            self._found[Finding(check, rule)] = None
        dropped = max(0, at - 1)
        self._flag_text, self._flag_at = self._flag_text[dropped:], at - dropped


def _blank_end(piece: str) -> int:
    """Return how many characters after the last letter or digit there are."""
    for many, letter in enumerate(reversed(piece)):
        if squeeze(letter):
            return many
    return len(piece)


def _start_of(edit: Edit) -> int:
    return edit.start


def _order_of(cut: tuple[int, int, Finding]) -> tuple[int, int]:
    return cut[:2]
