"""Offer load at a rate that does not care how the server fares, and judge what came back.

Latency counts from the moment a request was due, not from when it could be sent, so a slow server
cannot hide by slowing its callers down. Arrivals are Poisson, from a fixed seed. Connections are open
before the first request; more are opened when all are taken. The driver's own delay is reported beside the
results: where it is large, the results say more about the driver than about the server.
"""

import asyncio
import gc
import random
import statistics
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.caller import LOST, SILENT, Connection, connect
from benchmarks.systems import Running

SEED = 20_260_301
OPENED_BEFORE = 256
OPENED_AT_MOST = 2_048
LAST_ANSWERS_S = 5.0
BUCKET_S = 0.5
CALM_BUCKETS = 3


@dataclass(frozen=True)
class Phase:
    """A stretch of constant offered rate."""

    rate_per_s: float
    seconds: float


@dataclass(slots=True)
class Arrival:
    """One request: when it was due, sent and answered (seconds since the start), and how it ended."""

    phase: int
    due_s: float
    sent_s: float = 0.0
    ended_s: float = 0.0
    status: int = SILENT

    @property
    def is_good(self) -> bool:
        """Answered with 2xx."""
        return 200 <= self.status < 300

    @property
    def latency_ms(self) -> float:
        """From the intended moment to the answer."""
        return (self.ended_s - self.due_s) * 1_000


def schedule(phases: Sequence[Phase], seed: int = SEED) -> list[Arrival]:
    """Draw the arrivals of all phases, in order."""
    # The generator only spreads arrivals; nothing secret depends on it.
    draw = random.Random(seed)
    arrivals, start_s = [], 0.0
    for number, phase in enumerate(phases):
        due_s = start_s + draw.expovariate(phase.rate_per_s)
        while due_s < start_s + phase.seconds:
            arrivals.append(Arrival(number, due_s))
            due_s += draw.expovariate(phase.rate_per_s)
        start_s += phase.seconds
    return arrivals


class OpenLoop:
    """The driver: sends every arrival when it is due, over whichever connection is free."""

    def __init__(self, target: Running) -> None:
        self._port = target.port
        self._target = target
        self._requests = target.requests()
        self._idle: list[Connection] = []
        self._opened = 0
        self._opening: set[asyncio.Task[None]] = set()
        self._due: deque[tuple[Arrival, bytes]] = deque()
        self._unanswered = 0
        self._begun_s = 0.0

    async def offer(self, arrivals: list[Arrival]) -> None:
        """Send them all, and wait for the last answers for `LAST_ANSWERS_S`."""
        loop = asyncio.get_running_loop()
        for _ in range(OPENED_BEFORE):
            self._opened += 1
            self._idle.append(await connect(self._port))
        gc.collect()
        gc.disable()
        try:
            self._begun_s = loop.time()
            await self._send_all(arrivals)
            until = loop.time() + LAST_ANSWERS_S
            while self._unanswered and loop.time() < until:
                await asyncio.sleep(0.02)
        finally:
            gc.enable()
            for task in self._opening:
                task.cancel()
            for connection in self._idle:
                connection.close()

    async def _send_all(self, arrivals: list[Arrival]) -> None:
        loop = asyncio.get_running_loop()
        for number, arrival in enumerate(arrivals):
            ahead_s = arrival.due_s - (loop.time() - self._begun_s)
            if ahead_s > 0:
                await asyncio.sleep(ahead_s)
            self._unanswered += 1
            self._send(arrival, self._target.nth(self._requests, number))

    def _send(self, arrival: Arrival, request: bytes) -> None:
        while self._idle:
            connection = self._idle.pop()
            if connection.is_open:
                self._ask(connection, arrival, request)
                return
            self._opened -= 1
        self._due.append((arrival, request))
        if self._opened + len(self._opening) < OPENED_AT_MOST:
            task = asyncio.get_running_loop().create_task(self._open_another())
            self._opening.add(task)
            task.add_done_callback(self._opening.discard)

    async def _open_another(self) -> None:
        try:
            connection = await connect(self._port)
        except OSError:
            if self._due:
                arrival, _ = self._due.popleft()
                self._end(arrival, LOST)
            return
        self._opened += 1
        self._free(connection)

    def _ask(self, connection: Connection, arrival: Arrival, request: bytes) -> None:
        arrival.sent_s = asyncio.get_running_loop().time() - self._begun_s

        def answered(status: int, _: bytes) -> None:
            self._end(arrival, status)
            self._free(connection)

        connection.ask(request, answered)

    def _end(self, arrival: Arrival, status: int) -> None:
        arrival.status = status
        arrival.ended_s = asyncio.get_running_loop().time() - self._begun_s
        self._unanswered -= 1

    def _free(self, connection: Connection) -> None:
        if not connection.is_open:
            self._opened -= 1
        elif self._due:
            self._ask(connection, *self._due.popleft())
        else:
            self._idle.append(connection)


@dataclass(frozen=True, kw_only=True)
class Overload:
    """How a service took ten times what it can do, and how soon it was itself again."""

    capacity_per_s: float
    offered_per_s: float
    goodput_per_s: float
    worst_second_per_s: float
    statuses: dict[str, int]
    good_p50_ms: float
    good_p99_ms: float
    refusal_p50_ms: float
    refusal_p99_ms: float
    recovered_after_s: float | None
    """None: not within the time watched."""
    after_statuses: dict[str, int]
    driver_delay_p99_ms: float
    others_cores: float

    @property
    def goodput_ratio(self) -> float:
        """Goodput under overload over capacity."""
        return self.goodput_per_s / self.capacity_per_s


def name_status(status: int) -> str:
    """Give the status as a report shows it."""
    return {LOST: "lost", SILENT: "silent"}.get(status, str(status))


def percentile(values: Sequence[float], share: float) -> float:
    """Give the value that this share of them does not exceed; NaN of nothing."""
    if not values:
        return float("nan")
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def recovered_after(arrivals: Sequence[Arrival], ended_s: float, calm_ms: float) -> float | None:
    """Say how long after `ended_s` service was normal again.

    Normal begins with the first of `CALM_BUCKETS` half seconds in a row in which every arrival was answered
    with 2xx and the median took at most twice what it took before the overload.
    """
    buckets: dict[int, list[Arrival]] = {}
    for arrival in arrivals:
        if arrival.due_s >= ended_s:
            buckets.setdefault(int((arrival.due_s - ended_s) / BUCKET_S), []).append(arrival)
    calm = 0
    for number in range(max(buckets, default=-1) + 1):
        inside = buckets.get(number, [])
        is_calm = all(one.is_good for one in inside) and (
            not inside or statistics.median(one.latency_ms for one in inside) <= 2 * calm_ms
        )
        calm = calm + 1 if is_calm else 0
        if calm == CALM_BUCKETS:
            return (number + 1 - CALM_BUCKETS) * BUCKET_S
    return None


def judge(
    arrivals: Sequence[Arrival], phases: Sequence[Phase], *, capacity_per_s: float, others_cores: float
) -> Overload:
    """Read the three phases before, overload, after."""
    before, during, after = ([one for one in arrivals if one.phase == number] for number in range(3))
    begun_s = phases[0].seconds
    ended_s = begun_s + phases[1].seconds
    good_ends = [one.ended_s for one in arrivals if one.is_good and begun_s <= one.ended_s < ended_s]
    whole_seconds = Counter(int(end - begun_s) for end in good_ends)
    good = [one.latency_ms for one in during if one.is_good]
    refused = [one.latency_ms for one in during if one.status >= 400]
    calm_ms = statistics.median(one.latency_ms for one in before)
    return Overload(
        capacity_per_s=capacity_per_s,
        offered_per_s=len(during) / phases[1].seconds,
        goodput_per_s=len(good_ends) / phases[1].seconds,
        worst_second_per_s=min(whole_seconds[second] for second in range(int(phases[1].seconds))),
        statuses=dict(Counter(name_status(one.status) for one in during)),
        good_p50_ms=percentile(good, 0.5),
        good_p99_ms=percentile(good, 0.99),
        refusal_p50_ms=percentile(refused, 0.5),
        refusal_p99_ms=percentile(refused, 0.99),
        recovered_after_s=recovered_after(arrivals, ended_s, calm_ms),
        after_statuses=dict(Counter(name_status(one.status) for one in after)),
        driver_delay_p99_ms=percentile(
            [(one.sent_s - one.due_s) * 1_000 for one in during if one.sent_s], 0.99
        ),
        others_cores=others_cores,
    )
