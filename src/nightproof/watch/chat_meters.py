"""Counters and histograms of chat services: tokens, cost, upstreams, checks. Part of the meters, and told with them.

Written once for each ended exchange, by `pipeline.record`, on the event loop's thread only, which is its one lock.
Promises that what comes from outside (a model's name, a check's, a failure's) makes a bounded number of series, and
that an exchange costs one append on its way: it is counted later, with its neighbours.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from time import thread_time
from typing import NamedTuple, Protocol, TypeVar

import msgspec
from prometheus_client import Metric

from nightproof.base.clock import monotonic_s
from nightproof.base.failures import CATALOGUE
from nightproof.declare.chat_description import BudgetDescription
from nightproof.watch.families import Histogram, counter, gauge, histograms
from nightproof.watch.windows import FINE_BOUNDS_S, quantile

OPERATION_BUCKETS_S = tuple(0.01 * 2**place for place in range(14))
"""Of whole calls, and of the first token as the upstream gave it: 10 ms to 82 s. OpenTelemetry's own list."""
FIRST_TOKEN_BUCKETS_S = (
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
)  # fmt: skip
PER_TOKEN_BUCKETS_S = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5)
TOKEN_BUCKETS = tuple(float(4**place) for place in range(14))
CHECK_BUCKETS_S = (0.0001, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
BYPASS_SHOWN_S = 300.0
"""So long after the last one it is told that a check was bypassed."""

_MOST_UPSTREAMS = 100
_MOST_CHECKS = 200
_MOST_FINDINGS = 500
_MOST_WAITING = 32
_OTHER = "_other"
GIVEN_UP = "_given_up"
"""In the place of a failure's name: the caller went, or another upstream was quicker."""
_SLICE_S = 10.0
_RECENT_S = 60.0


class AttemptSeen(Protocol):
    """What is read of one try at one upstream."""

    @property
    def upstream(self) -> str:
        """Its name."""

    @property
    def model(self) -> str:
        """The model that was asked for."""

    @property
    def failure(self) -> str:
        """Empty: it answered."""

    @property
    def duration_us(self) -> int:
        """How long it took."""

    @property
    def first_token_us(self) -> int:
        """When its first token came; 0 where it was not streamed, or none came."""

    @property
    def began_s(self) -> float:
        """When, on the monotonic clock; 0 where nobody noted it."""

    @property
    def is_hedge(self) -> bool:
        """It was asked beside another one that had said nothing yet."""

    @property
    def is_given_up(self) -> bool:
        """It neither answered nor failed: its caller went, or another upstream was quicker."""


class UsageSeen(Protocol):
    """Tokens of an exchange."""

    @property
    def input_tokens(self) -> int:
        """Read."""

    @property
    def output_tokens(self) -> int:
        """Written."""

    @property
    def is_estimated(self) -> bool:
        """Our own estimate."""


class FindingSeen(Protocol):
    """What is read of one finding."""

    @property
    def check(self) -> str:
        """Which check."""

    @property
    def rule(self) -> str:
        """Which of its rules."""

    @property
    def action(self) -> str:
        """What was done."""


class ExchangeSeen(Protocol):
    """What is read of one ended exchange; `pipeline` has the facts of it in this form."""

    @property
    def attempts(self) -> Sequence[AttemptSeen]:
        """Every try, in the order they ended."""

    @property
    def usage(self) -> UsageSeen | None:
        """What was used in all; None where no upstream was asked."""

    @property
    def cost(self) -> float:
        """In the service's currency."""

    @property
    def upstream(self) -> str:
        """Which one answered; empty where none did."""

    @property
    def first_token_us(self) -> int:
        """From asking the upstreams to the first token, tries included; 0 where the answer came whole."""

    @property
    def findings(self) -> Sequence[FindingSeen]:
        """What checks found."""

    @property
    def bypassed(self) -> Sequence[str]:
        """Checks that gave no verdict and counted as passed."""

    @property
    def check_us(self) -> Mapping[str, int]:
        """Each check's own time."""

    @property
    def withheld(self) -> str:
        """What the upstream said and nobody was told."""


class ChatRecent(msgspec.Struct, frozen=True, kw_only=True):
    """A chat service over the last minute, and what it has used since the start."""

    input_tokens: int
    output_tokens: int
    cost: float
    """These three: since the start."""
    output_tokens_per_s: float
    first_token_p50_ms: float | None
    first_token_p99_ms: float | None
    refusals: int
    """Answers of the last minute in which the model itself said no."""
    exchanges: int
    streams_open: int
    bypassed: list[str]
    """Checks that let something pass without a verdict, a moment ago."""


class BudgetUsed(Protocol):
    """What a key, or a service as a whole, has used of its budgets."""

    @property
    def tokens_today(self) -> int:
        """Of this day, UTC."""

    @property
    def tokens_this_minute(self) -> int:
        """Of this minute."""

    @property
    def cost_today(self) -> float:
        """Of this day, UTC."""


class _Waiting(NamedTuple):
    service: str
    exchange: ExchangeSeen
    is_refusal: bool
    ended_s: float


class _Slice:
    """Ten seconds of one service."""

    __slots__ = ("at", "exchanges", "first_tokens", "output_tokens", "refusals")

    def __init__(self, at: int) -> None:
        self.at = at
        self.exchanges = 0
        self.refusals = 0
        self.output_tokens = 0
        self.first_tokens = [0] * (len(FINE_BOUNDS_S) + 1)


_Key = tuple[str, str, str]
_Place = TypeVar("_Place")


class ChatMeters:
    """Everything counted of chat services."""

    def __init__(self) -> None:
        self._waiting: list[_Waiting] = []
        self._known: dict[_Key, _Key] = {}
        """Upstreams with a series of their own, and what the others are called."""
        self._tokens: Counter[tuple[str, str, str, str]] = Counter()
        self._sizes: dict[tuple[str, str, str, str], Histogram] = {}
        self._cost: dict[_Key, float] = {}
        self._estimated: Counter[_Key] = Counter()
        self._attempts: Counter[tuple[str, str, str, str]] = Counter()
        self._durations: dict[tuple[str, str, str, str], Histogram] = {}
        self._upstream_first: dict[_Key, Histogram] = {}
        self._per_token: dict[_Key, Histogram] = {}
        self._first: dict[str, Histogram] = {}
        self._again: Counter[tuple[str, str]] = Counter()
        self._exchanges: Counter[str] = Counter()
        self._refusals: Counter[str] = Counter()
        self._findings: Counter[tuple[str, str, str, str]] = Counter()
        self._checks: dict[tuple[str, str], Histogram] = {}
        self._bypassed: Counter[tuple[str, str]] = Counter()
        self._bypassed_s: dict[tuple[str, str], float] = {}
        self._withheld: Counter[str] = Counter()
        self._streams: Counter[str] = Counter()
        self._slices: dict[str, deque[_Slice]] = {}
        self._own_s = 0.0

    # -- what others tell ---------------------------------------------------------------------

    def count_chat(self, service: str, exchange: ExchangeSeen, *, is_refusal: bool = False) -> None:
        """Count one ended exchange, which is not changed any more. Called once for each, by `pipeline.record` alone.

        `is_refusal`: the model itself said no.
        """
        self._waiting.append(_Waiting(service, exchange, is_refusal, monotonic_s()))
        if len(self._waiting) >= _MOST_WAITING:
            self.settle()

    def stream_opened(self, service: str) -> None:
        """Note that a stream has begun to leave."""
        self._streams[service] += 1

    def stream_closed(self, service: str) -> None:
        """Note that it has ended, in whatever way."""
        self._streams[service] -= 1

    # -- counting -----------------------------------------------------------------------------

    def settle(self) -> None:
        """Count the exchanges that were put aside; every reader does so first."""
        if not self._waiting:
            return
        began_s = thread_time()
        for one in self._waiting:
            self._count(one)
        self._waiting.clear()
        self._own_s += thread_time() - began_s

    def _count(self, one: _Waiting) -> None:
        service, exchange = one.service, one.exchange
        self._exchanges[service] += 1
        self._refusals[service] += one.is_refusal
        self._withheld[service] += len(exchange.withheld)
        for attempt in exchange.attempts:
            self._count_attempt(service, attempt)
        for kind, times in again_of(exchange.attempts).items():
            self._again[service, kind] += times
        if exchange.usage is not None:
            self._count_usage(one, exchange.usage)
        if exchange.first_token_us:
            _into(self._first, service, FIRST_TOKEN_BUCKETS_S).add(exchange.first_token_us / 1e6)
        self._count_checks(one)
        self._count_recent(one)

    def _count_attempt(self, service: str, attempt: AttemptSeen) -> None:
        key = self._key(service, attempt.upstream, attempt.model)
        failure = attempt.failure if attempt.failure in CATALOGUE or not attempt.failure else _OTHER
        if attempt.is_given_up:
            failure = GIVEN_UP
        self._attempts[*key, failure] += 1
        if attempt.duration_us:  # else it was not asked: its breaker was open, or it had no place
            _into(self._durations, (*key, failure), OPERATION_BUCKETS_S).add(attempt.duration_us / 1e6)
        if attempt.first_token_us:
            _into(self._upstream_first, key, OPERATION_BUCKETS_S).add(attempt.first_token_us / 1e6)

    def _count_usage(self, one: _Waiting, usage: UsageSeen) -> None:
        service, exchange = one.service, one.exchange
        # Also of an answer that broke off: what was written until then is paid.
        models = [attempt.model for attempt in exchange.attempts if attempt.upstream == exchange.upstream]
        key = self._key(service, exchange.upstream, models[-1] if models else "")
        for kind, tokens in (("input", usage.input_tokens), ("output", usage.output_tokens)):
            self._tokens[*key, kind] += tokens
            _into(self._sizes, (*key, kind), TOKEN_BUCKETS).add(tokens)
        self._cost[key] = self._cost.get(key, 0.0) + exchange.cost
        self._estimated[key] += usage.is_estimated
        answered = answered_by(exchange.attempts, exchange.upstream)
        if answered is not None and answered.first_token_us and usage.output_tokens > 1:
            took_s = max(0, answered.duration_us - answered.first_token_us) / 1e6
            _into(self._per_token, key, PER_TOKEN_BUCKETS_S).add(took_s / (usage.output_tokens - 1))

    def _count_checks(self, one: _Waiting) -> None:
        service, exchange = one.service, one.exchange
        for check, took_us in exchange.check_us.items():
            place = (service, check)
            if place not in self._checks and len(self._checks) >= _MOST_CHECKS:
                place = (service, _OTHER)
            _into(self._checks, place, CHECK_BUCKETS_S).add(took_us / 1e6)
        for check in exchange.bypassed:
            place = (service, check)
            if place not in self._bypassed and len(self._bypassed) >= _MOST_CHECKS:
                place = (service, _OTHER)
            self._bypassed[place] += 1
            self._bypassed_s[place] = one.ended_s
        for finding in exchange.findings:
            found = (service, finding.check, finding.rule, finding.action)
            if found not in self._findings and len(self._findings) >= _MOST_FINDINGS:
                found = (service, _OTHER, _OTHER, _OTHER)  # a check's author may put anything into its names
            self._findings[found] += 1

    def _count_recent(self, one: _Waiting) -> None:
        slices = self._slices.setdefault(one.service, deque(maxlen=int(_RECENT_S / _SLICE_S) + 1))
        at = int(one.ended_s / _SLICE_S)
        if not slices or slices[-1].at != at:
            slices.append(_Slice(at))
        now = slices[-1]
        now.exchanges += 1
        now.refusals += one.is_refusal
        if one.exchange.usage is not None:
            now.output_tokens += one.exchange.usage.output_tokens
        if one.exchange.first_token_us:
            now.first_tokens[bisect_left(FINE_BOUNDS_S, one.exchange.first_token_us / 1e6)] += 1

    def _key(self, service: str, upstream: str, model: str) -> _Key:
        key = (service, upstream, model)
        known = self._known.get(key)
        if known is None:
            known = key if len(self._known) < _MOST_UPSTREAMS else (service, _OTHER, _OTHER)
            if known == key:
                self._known[key] = known
        return known

    # -- what others ask ----------------------------------------------------------------------

    def bypassed(self, *, now_s: float) -> dict[tuple[str, str], float]:
        """Return the checks that let something pass without a verdict a moment ago, and when last."""
        self.settle()
        return {place: at_s for place, at_s in self._bypassed_s.items() if now_s - at_s < BYPASS_SHOWN_S}

    def recent(self, *, now_s: float) -> dict[str, ChatRecent]:
        """Return every chat service that has been asked, over the last minute."""
        self.settle()
        bypassed = self.bypassed(now_s=now_s)
        return {
            service: self._recent(service, slices, now_s, [name for of, name in bypassed if of == service])
            for service, slices in self._slices.items()
        }

    def _recent(
        self, service: str, slices: Iterable[_Slice], now_s: float, bypassed: list[str]
    ) -> ChatRecent:
        last = [one for one in slices if one.at > (now_s - _RECENT_S) / _SLICE_S - 1]
        fine = [sum(places) for places in zip(*(one.first_tokens for one in last), strict=True)]
        tokens = {
            kind: sum(count for key, count in self._tokens.items() if key[0] == service and key[3] == kind)
            for kind in ("input", "output")
        }
        return ChatRecent(
            input_tokens=tokens["input"],
            output_tokens=tokens["output"],
            cost=sum(cost for key, cost in self._cost.items() if key[0] == service),
            output_tokens_per_s=sum(one.output_tokens for one in last) / _RECENT_S,
            first_token_p50_ms=_ms(quantile(fine, FINE_BOUNDS_S, 0.5) if fine else None),
            first_token_p99_ms=_ms(quantile(fine, FINE_BOUNDS_S, 0.99) if fine else None),
            refusals=sum(one.refusals for one in last),
            exchanges=sum(one.exchanges for one in last),
            streams_open=self._streams[service],
            bypassed=sorted(bypassed),
        )

    @property
    def cost_s(self) -> float:
        """What counting has cost, in seconds."""
        return self._own_s

    def families(self) -> Iterator[Metric]:
        """Return every metric family as it stands."""
        self.settle()
        upstream = ["service", "upstream", "model"]
        yield counter(
            "nightproof_chat_exchanges", "Exchanges that ended.", _singles(self._exchanges), ["service"]
        )
        yield counter("nightproof_chat_tokens", "Tokens read and written.", self._tokens, [*upstream, "kind"])
        yield counter(
            "nightproof_chat_cost", "What upstreams cost, in the service's currency.", self._cost, upstream
        )
        yield counter(
            "nightproof_chat_usage_estimated",
            "Exchanges whose tokens are our own estimate.",
            self._estimated,
            upstream,
        )
        yield histograms(
            "nightproof_chat_first_token_seconds",
            "From asking the upstreams to the first token, tries included.",
            ["service"],
            self._first,
        )
        yield counter(
            "nightproof_chat_tries_again",
            "Tries after the first: retry, failover, hedge.",
            self._again,
            ["service", "kind"],
        )
        yield counter(
            "nightproof_chat_refusals", "Answers in which the model itself said no.",
            _singles(self._refusals), ["service"],
        )  # fmt: skip
        yield counter(
            "nightproof_chat_withheld_characters",
            "Characters that an upstream wrote and nobody was told.",
            _singles(self._withheld),
            ["service"],
        )
        streams = {(service,): float(count) for service, count in self._streams.items()}
        yield gauge("nightproof_chat_streams_open", "Streams that leave now.", streams, ["service"])
        yield counter(
            "nightproof_chat_findings",
            "What checks of chat services found, and what was done.",
            self._findings,
            ["service", "check", "rule", "action"],
        )
        yield histograms(
            "nightproof_check_duration_seconds", "Each check's own time.", ["service", "check"], self._checks
        )
        yield counter(
            "nightproof_checks_bypassed",
            "Checks that gave no verdict and counted as passed.",
            self._bypassed,
            ["service", "check"],
        )
        yield from self._upstream_families(upstream)

    def _upstream_families(self, upstream: list[str]) -> Iterator[Metric]:
        yield counter(
            "nightproof_upstream_attempts",
            "Tries at upstreams by how they ended; an empty failure is an answer.",
            self._attempts,
            [*upstream, "failure"],
        )
        yield histograms(
            "nightproof_upstream_attempt_duration_seconds",
            "Each try from its begin to its end.",
            [*upstream, "failure"],
            self._durations,
        )
        yield histograms(
            "nightproof_upstream_first_token_seconds",
            "From the call to the upstream's first token.",
            upstream,
            self._upstream_first,
        )
        yield histograms(
            "nightproof_upstream_output_token_seconds",
            "Time per output token after the first.",
            upstream,
            self._per_token,
        )
        yield histograms(
            "nightproof_chat_exchange_tokens",
            "Tokens of one exchange.",
            [*upstream, "kind"],
            self._sizes,
        )

    def __repr__(self) -> str:
        return f"<ChatMeters exchanges={sum(self._exchanges.values()) + len(self._waiting)}>"


def answered_by(attempts: Sequence[AttemptSeen], upstream: str) -> AttemptSeen | None:
    """Return the try that brought the answer: the last one of the upstream that is named for it."""
    return next((one for one in reversed(attempts) if one.upstream == upstream and not one.failure), None)


def again_of(attempts: Sequence[AttemptSeen]) -> dict[str, int]:
    """Name each try after the first: a hedge, a failover to another upstream, or a retry of the same.

    In the order in which they began, where that was noted. A try that was given up for another upstream's sake
    makes that other one a hedge.
    """
    found: Counter[str] = Counter()
    ordered = (
        sorted(attempts, key=lambda one: one.began_s) if all(one.began_s for one in attempts) else attempts
    )
    for before, attempt in pairwise(ordered):
        if attempt.is_hedge or before.is_given_up or attempt.is_given_up:
            found["hedge"] += 1
        elif attempt.upstream != before.upstream:
            found["failover"] += 1
        else:
            found["retry"] += 1
    return dict(found)


def budget_shares(
    budget: BudgetDescription, service: BudgetUsed, keys: Iterable[BudgetUsed]
) -> dict[str, float]:
    """Return how much of each declared budget is left, 0 to 1; of the keys' budgets the least that any has left."""
    keys = list(keys)
    found: dict[str, float] = {}
    for name, most, used in (
        ("key_tokens_per_minute", budget.tokens_per_minute, [one.tokens_this_minute for one in keys]),
        ("key_tokens_per_day", budget.tokens_per_day, [one.tokens_today for one in keys]),
        ("key_cost_per_day", budget.cost_per_day, [one.cost_today for one in keys]),
        ("service_tokens_per_day", budget.service_tokens_per_day, [service.tokens_today]),
        ("service_cost_per_day", budget.service_cost_per_day, [service.cost_today]),
    ):
        if most > 0:
            found[name] = max(0.0, 1.0 - max(used, default=0) / most)
    return found


def budget_gauge(shares: Mapping[str, Mapping[str, float]]) -> Metric:
    """Return what is left of the budgets, by service, for `/metrics`."""
    values = {(service, name): left for service, mine in shares.items() for name, left in mine.items()}
    return gauge(
        "nightproof_chat_budget_left_ratio",
        "What is left of a budget; of keys, of the one with the least left.",
        values,
        ["service", "budget"],
    )


def _into(kept: dict[_Place, Histogram], place: _Place, bounds: Sequence[float]) -> Histogram:
    found = kept.get(place)
    if found is None:
        found = kept[place] = Histogram(bounds)
    return found


def _singles(counts: Mapping[str, float]) -> dict[tuple[str], float]:
    return {(name,): float(count) for name, count in counts.items()}


def _ms(value_s: float | None) -> float | None:
    return None if value_s is None else value_s * 1_000
