"""Remember what the meters said: each second for a quarter of an hour, each minute for a day, each hour for
ninety days, across restarts.

`sample` is called once a second on the event loop and only makes values; `keep` writes them in a thread, a
few times a minute. Whatever the file does (full disk, damage, a lock), serving goes on: windows wait in memory,
up to a bound, and what is lost is counted. Never takes the last of the disk, which belongs to the ledger.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from time import thread_time

import msgspec

from nightproof.base.clock import monotonic_s
from nightproof.base.errors import NightproofError
from nightproof.storage.sqlite import StorageOutcomeUnknown, StorageUnavailable
from nightproof.storage.watch_store import StoredWindow, WatchStore, open_or_begin_anew
from nightproof.watch.log import log, log_unexpected
from nightproof.watch.meters import Totals
from nightproof.watch.windows import KEEP, SERVER, SPANS_S, Span, Window, merge, roll_up, sparse

Values = Mapping[str, Mapping[str, float]]
"""Present values by scope and name."""

_MOST_WAITING_S = 900
_TRY_AGAIN_S = 5.0
_BATCH = 2_000
_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Window)


class HistorySnapshot(msgspec.Struct, frozen=True, kw_only=True):
    """How keeping goes."""

    trouble: str
    """Why nothing is kept now; empty if it is."""
    set_aside: str
    """Name of the damaged file that was set aside at this start, if one was."""
    waiting: int
    lost: int
    """Windows that were dropped because the file could not be written for too long."""
    size_bytes: int


class History:
    """The meters' past. Used on the event loop's thread; only `keep` and `select` leave it."""

    def __init__(
        self,
        path: Path,
        *,
        most_bytes: int,
        totals: Callable[[], Totals],
        values: Callable[[], Values],
        may_write: Callable[[], bool] = lambda: True,
        on_cost: Callable[[float], None] = lambda took_s: None,
    ) -> None:
        self._path = path
        self._most_bytes = most_bytes
        self._totals = totals
        self._values = values
        self._may_write = may_write
        self._on_cost = on_cost
        self._store: WatchStore | None = None
        self._before = totals()
        self._waiting: deque[Window] = deque()
        self._busy = asyncio.Lock()
        self._keeping: asyncio.Task[None] | None = None
        self._tried_s = float("-inf")
        self._trouble = "not begun"
        self._set_aside = ""
        self._lost = 0
        self._size_bytes = 0

    def sample(self, *, at_s: int, seconds: int = 1) -> None:
        """Make the windows of the time that has passed: a second, or as many as the server was held up.

        `at_s` is where it began by the wall clock, right or wrong.
        """
        now = self._totals()
        made = windows_between(self._before, now, self._values(), at_s=at_s, seconds=seconds)
        self._before = now
        self._waiting.extend(made)
        most = _MOST_WAITING_S * max(1, len(made))
        while len(self._waiting) > most:
            self._waiting.popleft()
            self._lost += 1

    def begin_keeping(self) -> None:
        """Begin to write what waits, unless that is still going on."""
        if self._waiting and (self._keeping is None or self._keeping.done()):
            self._keeping = asyncio.create_task(self.keep())

    async def keep(self) -> None:
        """Write what waits, in a thread. Never raises: what cannot be written waits for the next time."""
        async with self._busy:
            if not self._may_write():
                self._say("the disk is nearly full, and what is left belongs to the audit log")
                return
            if self._store is None and monotonic_s() - self._tried_s < _TRY_AGAIN_S:
                return
            batch = [self._waiting.popleft() for _ in range(min(_BATCH, len(self._waiting)))]
            try:
                took_s = await asyncio.to_thread(self._write, batch)
            except Exception as error:  # noqa: BLE001
                # A border: whatever it is, the windows stay in line, and health says why they wait.
                self._waiting.extendleft(reversed(batch))
                self._failed(error)
            else:
                self._on_cost(took_s)
                self._say("")

    async def select(
        self, *, since_s: float, until_s: int, span_s: int, scope: str | None = None
    ) -> list[Window]:
        """Return windows of a span from the `since_s` seconds before `until_s`, also what is not written yet."""
        from_s = int(until_s - since_s)
        async with self._busy:
            store = self._store
            stored: list[bytes] = []
            if store is not None:
                try:
                    stored = await asyncio.to_thread(
                        store.select, span_s, since_s=from_s - from_s % span_s, until_s=until_s, scope=scope
                    )
                except (StorageUnavailable, StorageOutcomeUnknown) as error:
                    self._failed(error)
            fresh = [one for one in self._waiting if scope is None or one.scope == scope]
        windows = [*map(_decoder.decode, stored), *fresh]
        return [one for one in roll_up(windows, span_s) if one.at_s >= from_s - from_s % span_s]

    def snapshot(self) -> HistorySnapshot:
        """Return how keeping goes."""
        return HistorySnapshot(
            trouble=self._trouble,
            set_aside=self._set_aside,
            waiting=len(self._waiting),
            lost=self._lost,
            size_bytes=self._size_bytes,
        )

    async def close(self) -> None:
        """Write what waits and close the file."""
        if self._keeping is not None:
            await self._keeping
        self._tried_s = float("-inf")
        while self._waiting:
            before = len(self._waiting)
            await self.keep()
            if len(self._waiting) >= before:
                break
        async with self._busy:
            store, self._store = self._store, None
            if store is not None:
                await asyncio.to_thread(_close, store)

    def _write(self, batch: Sequence[Window]) -> float:
        began_s = thread_time()
        store = self._store
        if store is None:
            self._tried_s = monotonic_s()
            store, aside = open_or_begin_anew(
                self._path, merge=merge_stored, keep=KEEP, most_bytes=self._most_bytes
            )
            self._store = store
            if aside:
                self._set_aside = aside
                log(
                    "history_set_aside",
                    level="warning",
                    file=aside,
                    why="watch.db was damaged; a new one is begun",
                )
        store.add(
            StoredWindow(one.span_s, one.scope, one.at_s, _encoder.encode(one))
            for span_s in SPANS_S
            for one in roll_up(batch, span_s)
        )
        self._size_bytes = store.size_bytes()
        return thread_time() - began_s

    def _failed(self, error: Exception) -> None:
        if isinstance(error, NightproofError | OSError):
            self._say(str(error))
        elif self._say(f"an unexpected {type(error).__name__}"):
            log_unexpected(error, doing="history")
        if not isinstance(error, StorageUnavailable):
            # Damaged, or nobody knows: opened again, it is looked over, and set aside if it does not hold.
            store, self._store = self._store, None
            if store is not None:
                _close(store)

    def _say(self, trouble: str) -> bool:
        """Take in how keeping goes, and log what is news; return whether it was."""
        is_news = trouble != self._trouble
        if trouble != self._trouble and not (self._trouble == "not begun" and not trouble):
            log(
                "history" if not trouble else "history_not_kept",
                level="warning" if trouble else "info",
                **({"why": trouble} if trouble else {"state": "kept"}),
            )
        self._trouble = trouble
        return is_news

    def __repr__(self) -> str:
        return f"<History waiting={len(self._waiting)} lost={self._lost} trouble={self._trouble!r}>"


def windows_between(
    before: Totals, now: Totals, values: Values, *, at_s: int, seconds: int = 1
) -> list[Window]:
    """Return one window per scope of what happened between two looks at the meters, with the present values."""
    counts: dict[str, Counter[str]] = {scope: Counter() for scope in values}
    _count_requests(counts, before, now)
    histograms: dict[str, dict[str, dict[int, int]]] = {}
    for name, grown, was in (
        ("duration", now.durations, before.durations),
        ("queue_wait", now.queue_waits, before.queue_waits),
        ("confidence", now.confidence, before.confidence),
        ("batch", _counts_of(now.batches), _counts_of(before.batches)),
    ):
        for service, places in grown.items():
            found = sparse(places, was.get(service))
            if found and service:
                histograms.setdefault(service, {})[name] = found
    scopes = {SERVER, *values, *(scope for scope, found in counts.items() if found), *histograms}
    return [
        Window(
            at_s,
            1,
            scope,
            seconds,
            {name: count for name, count in counts.get(scope, Counter()).items() if count},
            histograms.get(scope, {}),
            {name: Span(1, value, value, value) for name, value in values.get(scope, {}).items()},
        )
        for scope in sorted(scopes)
    ]


def _counts_of(histograms: Mapping[str, tuple[list[int], float]]) -> dict[str, list[int]]:
    return {service: counts for service, (counts, _) in histograms.items()}


def _count_requests(counts: dict[str, Counter[str]], before: Totals, now: Totals) -> None:
    server = counts.setdefault(SERVER, Counter())
    server["arrivals"] += now.arrivals - before.arrivals
    for key, count in now.requests.items():
        grown = count - before.requests.get(key, 0)
        if grown:
            service, _, ending, failure = key
            for scope in {service, SERVER}:
                found = counts.setdefault(scope, Counter())
                found[ending] += grown
                if failure:
                    found[f"failure.{failure}"] += grown
    for event_key, count in now.events.items():
        grown = count - before.events.get(event_key, 0)
        if grown:
            event, service, _ = event_key
            for scope in {service, SERVER}:
                counts.setdefault(scope, Counter())[f"event.{event}"] += grown


def merge_stored(one: bytes, other: bytes) -> bytes:
    """Merge two windows as they are stored."""
    return _encoder.encode(merge(_decoder.decode(one), _decoder.decode(other)))


def decode(stored: bytes) -> Window:
    """Read a stored window."""
    return _decoder.decode(stored)


def _close(store: WatchStore) -> None:
    try:
        store.close()
    except (StorageUnavailable, StorageOutcomeUnknown) as error:
        log("history_not_closed", level="warning", why=error.text)
