"""Look at untrusted texts of a chat before a model reads them: the built-in input checks and the service's adapters.

Built once per worker, called for each input task. It never raises for a text: a check that raises, runs over its
budget or gives no verdict is a refusal (`closed`) or a pass that is named (`open`). Findings say what was found and
where, never the text. Detectors are advice; what has to hold (tools, links, the canary) is held elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import msgspec

from nightproof.base import clock
from nightproof.base.errors import DeclarationError
from nightproof.checks.adapters import Adapter, Found, NoVerdict, Remote
from nightproof.checks.chat_tasks import Finding
from nightproof.checks.text import calibration as thresholds
from nightproof.checks.text import named, personal, rules, secrets
from nightproof.checks.text.normalise import Views, views
from nightproof.declare.chat_description import InputCheckDescription
from nightproof.declare.chat_words import BUILT_IN_CHECKS

if TYPE_CHECKING:
    from nightproof.checks.text.model import Scored

Channel = Literal["user", "document", "tool"]
CHANNELS: tuple[Channel, ...] = ("user", "document", "tool")
Question = Literal["prompt", "document"]
_QUESTIONS: tuple[Question, ...] = ("prompt", "document")
_AHEAD_CHARS = 2_048
"""Of longer texts, looking at several at once saves nothing worth the memory."""

_FAILURES = {"hidden_text": "hidden_text", "secrets": "personal_data", "personal": "personal_data"}
_CAN_REDACT = ("hidden_text", "secrets", "personal")
_REMOTE = ("http://", "https://")
_ADAPTER_THRESHOLD = 0.5
_BUDGET_CHARS = 16_384
"""A built-in check has its budget, in processor time, for each so many characters begun: its work is linear."""


class Untrusted(msgspec.Struct, frozen=True):
    """One text that the operator did not write."""

    text: str
    channel: Channel
    pointer: str
    """JSON pointer of the text in the request."""


class Inspection(msgspec.Struct):
    """What the checks say of all texts of a request."""

    failure: str = ""
    """Of the catalogue; empty where it may go on."""
    detail: str = ""
    findings: list[Finding] = []
    redacted: dict[str, str] = {}
    """The new text, by pointer, where something was taken out."""
    bypassed: list[str] = []
    """Checks without a verdict that count as passed."""
    check_us: dict[str, int] = {}
    """Each check's own time; `forms` is what all of them share."""
    scores: dict[str, float] = {}
    """What the checks that score said of the user's last message, found or not."""


class _Seen(NamedTuple):
    """A text and its forms."""

    text: Untrusted
    views: Views
    ahead: _Ahead | None = None


class _Ahead(NamedTuple):
    """What is known of a text before its request's turn, and its share of the time that took."""

    views: Views
    scored: Scored
    forms_us: int
    model_us: int


class _Spotted(NamedTuple):
    """Something found in one of the texts; with places, where the check can redact."""

    text: int
    rule: str
    view: str = ""
    score: float = 1.0
    spots: tuple[named.Spot, ...] = ()


_Look = Callable[[Sequence[_Seen]], list[_Spotted]]


class _Check(NamedTuple):
    name: str
    about: InputCheckDescription
    look: _Look
    is_adapted: bool
    """It is somebody else's: it holds its budget itself, on the wall's clock."""


class Inspector:
    """All checks of one release."""

    def __init__(
        self,
        checks: Mapping[str, InputCheckDescription],
        *,
        calibration: Path | None = None,
        adapters: Mapping[str, Callable[..., Any]] | None = None,
    ) -> None:
        """Prepare the checks; a built-in one that is not named is as in `BUILT_IN_CHECKS`."""
        self._calibration = thresholds.read(calibration)
        self._ahead: dict[tuple[str, str], _Ahead] = {}
        self._scores: dict[str, float] = {}
        """What the scoring checks say of the input that is looked at now."""
        self._adapters: list[Adapter] = []
        self._checks = [
            _Check(name, about, self._look_of(name, about, adapters or {}), _is_adapted(name, about))
            for name, about in (BUILT_IN_CHECKS | dict(checks)).items()
            if about.action != "off"
        ]
        self._warm_up()

    def inspect(self, texts: Sequence[Untrusted]) -> Inspection:
        """Say what the checks find in the texts of one request."""
        told = Inspection(findings=[], redacted={}, bypassed=[], check_us={})
        self._scores = told.scores
        began = clock.precise_us()
        ahead = [self._ahead.get((text.channel, text.text)) for text in texts] if self._ahead else []
        seen = [
            _Seen(text, views(text.text) if known is None else known.views, known)
            for text, known in zip_longest(texts, ahead)
        ]
        told.check_us["forms"] = clock.precise_us() - began + sum(one.forms_us for one in ahead if one)
        spots: dict[int, list[named.Spot]] = {}
        undecided = ""
        for check in self._checks:
            found, problem = self._run(check, seen, told)
            if problem and check.about.when_fails == "open":
                told.bypassed.append(check.name)
            elif problem:
                undecided = undecided or f"{check.name}: {problem}"
            self._judge(check, found, seen, told, spots)
        if undecided and not told.failure:
            told.failure, told.detail = "check_failed", f"no verdict of {undecided}"
        told.redacted = {
            seen[at].text.pointer: named.redacted(
                _readable(seen[at]), sorted(found, key=lambda spot: spot.start)
            )
            for at, found in spots.items()
        }
        return told

    def look_ahead(self, texts: Iterable[Untrusted]) -> None:
        """Let the model score the texts of several requests at once, until `forget`.

        Short ones only, and nothing depends on it: what is not known when a request has its turn is looked at then.
        Each request has its share of the time in its `check_us` and in the check's budget.
        """
        self._ahead.clear()
        if not any(check.name == "injection_model" and not check.is_adapted for check in self._checks):
            return
        by_question: dict[Question, dict[tuple[str, str], str]] = {}
        for one in texts:
            if len(one.text) <= _AHEAD_CHARS:
                by_question.setdefault(_question(one.channel), {})[one.channel, one.text] = one.text
        try:
            for question, some in by_question.items():
                self._score_ahead(question, some)
        except Exception:  # noqa: BLE001
            # The request's own turn meets the same, and its check's policy says what becomes of it.
            self._ahead.clear()

    def _score_ahead(self, question: Question, some: Mapping[tuple[str, str], str]) -> None:
        from nightproof.checks.text import model  # numpy, which only workers load

        began = clock.precise_us()
        seen = [views(text) for text in some.values()]
        forms_us, began_work = clock.precise_us() - began, clock.worked_us()
        scored = model.load(question).score_all(seen)
        model_us = clock.worked_us() - began_work
        for key, one, score in zip(some, seen, scored, strict=True):
            self._ahead[key] = _Ahead(one, score, forms_us // len(some), model_us // len(some))

    def forget(self) -> None:
        """Forget what was looked at ahead."""
        self._ahead.clear()

    def close(self) -> None:
        """Give connections to remote detectors back."""
        for adapter in self._adapters:
            adapter.close()

    def scores(self, texts: Sequence[Untrusted]) -> dict[str, list[float]]:
        """Return the model's scores by question, to calibrate on: `calibrated` makes a file of them."""
        from nightproof.checks.text import model  # numpy, which only workers load

        scored: dict[str, list[float]] = {}
        for text in texts:
            question = _question(text.channel)
            score = model.load(question).score(views(text.text)).score
            scored.setdefault(f"injection_model.{question}", []).append(score)
        return scored

    def _warm_up(self) -> None:
        """Build the automata and load the weights now, so that no request waits for them."""
        seen = [
            _Seen(text, views(text.text))
            for text in (Untrusted("Is this on?", each, "") for each in CHANNELS)
        ]
        for check in self._checks:
            if not check.is_adapted:
                check.look(seen)

    def _run(self, check: _Check, seen: Sequence[_Seen], told: Inspection) -> tuple[list[_Spotted], str]:
        began, began_work = clock.precise_us(), clock.worked_us()
        problem = ""
        found: list[_Spotted] = []
        try:
            found = check.look(seen)
        except NoVerdict as error:
            problem = str(error)
        except Exception as error:  # noqa: BLE001
            # A check must not cost the request more than its policy says; the record names it.
            problem = f"it raised {type(error).__name__}"
        shared_us = (
            sum(one.ahead.model_us for one in seen if one.ahead) if check.name == "injection_model" else 0
        )
        told.check_us[check.name] = took_us = clock.precise_us() - began + shared_us
        if not problem and not check.is_adapted and took_us > check.about.budget_ms * 1_000:
            # Nothing works longer than it takes, so the dear clock is seldom asked a second time.
            budget_ms = check.about.budget_ms * (1 + sum(len(one.text.text) for one in seen) // _BUDGET_CHARS)
            if clock.worked_us() - began_work + shared_us > budget_ms * 1_000:
                problem = f"it worked longer than {budget_ms:g} ms"
        return found, problem

    def _judge(
        self,
        check: _Check,
        found: Sequence[_Spotted],
        seen: Sequence[_Seen],
        told: Inspection,
        spots: dict[int, list[named.Spot]],
    ) -> None:
        action = check.about.action
        for one in found:
            told.findings.append(
                Finding(
                    check=check.name,
                    rule=one.rule,
                    view=one.view,
                    score=round(one.score, 4),
                    pointer=seen[one.text].text.pointer,
                    action=action,
                )
            )
            if action == "refuse" and not told.failure:
                told.failure = _FAILURES.get(check.name, "injection_suspected")
                told.detail = f"{check.name}: {one.rule}"
            if action == "redact":
                taken = spots.setdefault(one.text, [])
                taken += [spot for spot in one.spots if not any(_overlap(spot, other) for other in taken)]

    def _look_of(
        self, name: str, about: InputCheckDescription, adapters: Mapping[str, Callable[..., Any]]
    ) -> _Look:
        if _is_adapted(name, about):
            return self._adapted(name, about, adapters)
        if about.action == "redact" and name not in _CAN_REDACT:
            raise DeclarationError(
                f"The check {name!r} finds no places that could be redacted.", hint="Use refuse or flag."
            )
        looks: dict[str, _Look] = {
            "hidden_text": _hidden,
            "injection_rules": _rules,
            "injection_model": lambda seen: self._model(seen, about.threshold),
            "secrets": lambda seen: _places(secrets.built_in(), seen),
            "personal": lambda seen: _places(personal.built_in(), seen),
        }
        return looks[name]

    def _adapted(
        self, name: str, about: InputCheckDescription, adapters: Mapping[str, Callable[..., Any]]
    ) -> _Look:
        within_s = about.budget_ms / 1_000
        if name in adapters:
            ask: Callable[..., Any] = adapters[name]
        elif about.adapter.startswith(_REMOTE):
            ask = Remote(about.adapter, within_s=within_s)
        else:
            raise DeclarationError(
                f"The check {name!r} is not built in, and its adapter {about.adapter!r} is not there.",
                hint=f"Built in are {', '.join(BUILT_IN_CHECKS)}; adapters are a URL or module:function.",
            )
        adapter = Adapter(name, ask)
        self._adapters.append(adapter)
        known = self._calibration.detectors.get(name)
        threshold = about.threshold or (known.threshold if known else _ADAPTER_THRESHOLD)

        def look(seen: Sequence[_Seen]) -> list[_Spotted]:
            texts = [_readable(one) for one in seen]
            found = adapter.look(texts, within_s=within_s, threshold=threshold) if texts else []
            return [_spotted(one, name) for one in found]

        return look

    def _model(self, seen: Sequence[_Seen], declared: float) -> list[_Spotted]:
        from nightproof.checks.text import features, model  # numpy, which only workers load

        found = []
        for at, (one, best) in enumerate(zip(seen, _scored(seen), strict=True)):
            question = _question(one.text.channel)
            known = self._calibration.detectors.get(f"injection_model.{question}")
            if known and known.version != features.VERSION:
                known = None
            threshold = declared or (known.threshold if known else model.load(question).threshold)
            if one.text.channel == "user":
                self._scores["injection_model"] = best.score  # of the last one, in the end
            if best.score > threshold:
                found.append(_Spotted(at, question, best.view, best.score))
        return found


def _scored(seen: Sequence[_Seen]) -> list[Scored]:
    """Return the model's score of each text: known ahead, or made now, those of one question at once."""
    from nightproof.checks.text import model  # numpy, which only workers load

    scored = [one.ahead.scored if one.ahead else None for one in seen]
    for question in _QUESTIONS:
        places = [
            at
            for at, one in enumerate(seen)
            if scored[at] is None and _question(one.text.channel) == question
        ]
        if places:
            for at, score in zip(
                places, model.load(question).score_all([seen[at].views for at in places]), strict=True
            ):
                scored[at] = score
    return [one for one in scored if one is not None]


def _is_adapted(name: str, about: InputCheckDescription) -> bool:
    return bool(about.adapter) or name not in BUILT_IN_CHECKS


def _question(channel: Channel) -> Question:
    return "prompt" if channel == "user" else "document"


def _hidden(seen: Sequence[_Seen]) -> list[_Spotted]:
    found = []
    for at, (text, forms, _) in enumerate(seen):
        reason = forms.hidden.reason(len(text.text))
        if reason:
            found.append(_Spotted(at, reason))
        elif forms.is_capped:
            found.append(_Spotted(at, "too_much_encoded"))
    return found


def _rules(seen: Sequence[_Seen]) -> list[_Spotted]:
    return [
        _Spotted(at, hit.rule, hit.view)
        for at, one in enumerate(seen)
        for hit in rules.built_in().hits(one.views.forms)
    ]


def _places(patterns: named.Patterns, seen: Sequence[_Seen]) -> list[_Spotted]:
    found = []
    for at, one in enumerate(seen):
        by_kind: dict[str, list[named.Spot]] = {}
        for spot in patterns.find(_readable(one)):
            by_kind.setdefault(spot.name, []).append(spot)
        found += [_Spotted(at, kind, spots=tuple(spots)) for kind, spots in by_kind.items()]
    return found


def _readable(one: _Seen) -> str:
    """Return what places are counted in: the text as a person sees it."""
    return one.views.normal


def _spotted(found: Found, name: str) -> _Spotted:
    rule = found.rule or name
    spots = (named.Spot(rule, found.start, found.end),) if found.end > found.start else ()
    return _Spotted(found.text, rule, "plain", found.score, spots)


def _overlap(one: named.Spot, other: named.Spot) -> bool:
    return one.start < other.end and other.start < one.end
