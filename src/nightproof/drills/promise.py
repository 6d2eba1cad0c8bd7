"""What is promised of one fault, as data: from what the service declares, and from the failure catalogue.

Made before the fault, judged after it by `judge`. Nothing here knows how a fault is made.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from nightproof.base.failures import CATALOGUE
from nightproof.declare.describe import Description

Shelter = Literal["all", "covered", "named"]
_GRACE_S = 0.5
"""What the network, and two cores that the drill shares with the server, may add to a deadline."""
_PAGE_WITHIN_S = 10.0
_TICKET_WITHIN_S = 30.0
_RECOVER_WITHIN_S = 15.0
_ENDS_WITHIN_S = 60.0
"""An alert ends after 20 s of being well; a share needs some good requests before that."""

_OF_WORKERS = frozenset(
    {"model_timeout", "model_crash", "model_error", "model_out_of_memory", "invalid_output"}
)


class Promise(msgspec.Struct, frozen=True, kw_only=True):
    """What must be seen while one thing is broken, and after it."""

    shelter: Shelter
    """What the crowd of ordinary callers is promised.

    all: the model's own answer. covered: that, or a declared fallback's. named: an answer, or an error by a name
    that this fault may have.
    """
    may_fail: tuple[str, ...] = ()
    """Failures by which callers may be told no."""
    harmed_at_most: float = 0.0
    """The share of the crowd's calls that may be without an answer though more is promised; they end by `may_fail`."""
    may_lose: bool = False
    """Connections may be cut: the process at their other end is killed."""
    answer_within_s: float
    """No caller waits longer, whatever the ending."""
    same_answers: bool = False
    """What was asked before is answered as before, to the last character: an answer that was cut short and does not
    say so would be another. Of a chat service, whose upstreams in the stage always say the same."""
    recorded_as: str = ""
    """The failure that the audit log must hold afterwards."""
    or_recorded: tuple[str, ...] = ()
    """Failures that count as well: which of several clocks runs over first is chance."""
    alert: str = ""
    """The alert that must arrive, by its failure's name; empty where nobody is to be woken."""
    or_alerts: tuple[str, ...] = ()
    """Failures whose alert says as much: what a page is about may be told by its gravest sign."""
    no_record_why: str = ""
    """Why nothing is promised of the audit log: the server has none that could be read."""
    no_alert_why: str = ""
    alert_within_s: float = 0.0
    recover_within_s: float = _RECOVER_WITHIN_S
    ends_within_s: float = _ENDS_WITHIN_S
    """The alert is over by then, once all is well; 0 where it stands for longer on purpose."""

    @property
    def recorded_names(self) -> tuple[str, ...]:
        """The failures of which the log must hold one; empty where none is promised."""
        return (self.recorded_as, *self.or_recorded) if self.recorded_as else ()

    @property
    def alerts(self) -> frozenset[str]:
        """The failures whose alert counts."""
        return frozenset(filter(None, (self.alert, *self.or_alerts)))

    @property
    def alertname(self) -> str:
        """Name the alert as receivers know it."""
        return CATALOGUE[self.alert].alert if self.alert else ""

    @property
    def severity(self) -> str:
        """Say how urgent it must be."""
        return CATALOGUE[self.alert].severity if self.alert else ""


def has_cover(declared: Description) -> bool:
    """Say whether a fallback is declared that answers whatever becomes of the model.

    `previous_release` needs one before this, `last_good` an answer to the same input; a stage that begins has neither.
    """
    return any(way.kind in ("constant", "rule") for way in declared.fallbacks)


def promised(
    declared: Description,
    failure: str = "",
    *,
    shelter: Shelter | None = None,
    may_fail: tuple[str, ...] = (),
    harmed_at_most: float = 0.0,
    may_lose: bool = False,
    recorded: bool = True,
    or_recorded: tuple[str, ...] = (),
    alert: str | None = None,
    or_alerts: tuple[str, ...] = (),
    no_alert_why: str = "",
    alert_within_s: float = 0.0,
    recover_within_s: float = _RECOVER_WITHIN_S,
    answer_within_s: float | None = None,
    ends_within_s: float = _ENDS_WITHIN_S,
    same_answers: bool | None = None,
) -> Promise:
    """Derive a promise: the service's deadline and fallbacks, the failure's alert and severity.

    `failure` is what the fault is called in the catalogue; by it callers may fail where no fallback covers it, the
    log holds it, and it alerts. The rest says where a drill differs.
    """
    if declared.chat is not None:
        # What befalls its workers befalls its checks: it has no verdict then, and that is its own failure.
        no_verdict = failure in _OF_WORKERS or any(name in _OF_WORKERS for name in may_fail)
        failure = "check_failed" if failure in _OF_WORKERS else failure
        alert = "check_failed" if alert in _OF_WORKERS else alert
        may_fail = (*may_fail, "check_failed") if no_verdict else may_fail
    entry = CATALOGUE.get(failure)
    if shelter is None:
        shelter = "all" if not failure else "covered" if has_cover(declared) else "named"
    wanted = alert if alert is not None else (failure if entry and entry.severity != "none" else "")
    urgency = CATALOGUE[wanted].severity if wanted else "none"
    names = tuple(dict.fromkeys([*([failure] if entry and entry.statuses else []), *may_fail]))
    return Promise(
        shelter=shelter,
        may_fail=names,
        harmed_at_most=harmed_at_most,
        may_lose=may_lose,
        answer_within_s=answer_within_s
        if answer_within_s is not None
        else declared.deadline_ms / 1_000 + _GRACE_S,
        recorded_as=failure if recorded and entry and entry.statuses else "",
        or_recorded=or_recorded,
        alert=wanted,
        or_alerts=or_alerts,
        no_alert_why=no_alert_why,
        alert_within_s=alert_within_s or (_PAGE_WITHIN_S if urgency == "page" else _TICKET_WITHIN_S),
        recover_within_s=recover_within_s,
        ends_within_s=ends_within_s,
        same_answers=declared.chat is not None if same_answers is None else same_answers,
    )


def in_words(promise: Promise) -> str:
    """Say what callers are promised, in one line."""
    who = (
        f"all but {promise.harmed_at_most:.0%} of callers get"
        if promise.harmed_at_most
        else "every caller gets"
    )
    words = {
        "all": f"{who} the model's own answer",
        "covered": f"{who} an answer, the declared fallback's where the model fails",
        "named": f"a caller who gets no answer is told why: {', '.join(promise.may_fail)}",
    }[promise.shelter]
    if promise.may_lose:
        words += ", or finds his connection cut"
    return f"{words}; nobody waits longer than {promise.answer_within_s:.2g} s"
