"""Close the books: hold what the log records against the server's own counters and against what callers were told.

Called by `nightproof audit reconcile`. A run that said goodbye must balance to the request; of a run that was killed
only this can be asked: what a caller was told is recorded. Reads once, in order, in constant memory but for the ids
that are looked for.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

import msgspec
import orjson

from nightproof.storage.ledger_protocol import LedgerReading

_MOST_NAMED = 20


class Run(msgspec.Struct, kw_only=True):
    """One run of a server, as the log has it."""

    boot: str
    started_us: int
    requests: int = 0
    """Requests with a record of their own."""
    shared: int = 0
    """Requests counted in summaries."""
    by_ending: dict[str, int] = {}
    arrivals: int | None = None
    """The server's own count, from its stop or, of the running one, from now; None of a run that was killed."""
    state: str = "running"
    """running, stopped or killed."""
    ok: bool = True
    why: str = ""

    @property
    def recorded(self) -> int:
        """How many requests the log accounts for."""
        return self.requests + self.shared


class Reconciliation(msgspec.Struct, kw_only=True):
    """What the books say."""

    ok: bool
    runs: list[Run]
    recorded: int
    client_count: int | None
    acknowledged: int
    missing: int
    missing_ids: list[str]
    why: list[str]


def reconcile(
    reader: LedgerReading,
    *,
    acknowledged: Iterable[str] = (),
    client_count: int | None = None,
    live: Mapping[str, int] | None = None,
) -> Reconciliation:
    """Hold the records against the counters of each run, and against what callers say they were told.

    `live` gives the running server's arrivals by run id. A client's count is held against all that is recorded.
    """
    wanted = {one for line in acknowledged if (one := line.strip())}
    asked = len(wanted)
    runs: dict[str, Run] = {}
    endings: dict[str, Counter[str]] = {}
    old_runs = _OldRuns()
    with reader.snapshot():
        for entry in reader.all_entries():
            facts = orjson.loads(entry.leaf)
            boot = old_runs.name(entry.kind) if facts.get("adopted") else str(facts.get("boot", ""))
            run = runs.get(boot)
            if run is None:
                if entry.kind not in ("start", "recovery", "request", "summary", "stop"):
                    wanted.discard(entry.id)
                    continue  # an operator's verb without a server: a run of the program, not of a server
                run = runs[boot] = Run(boot=boot, started_us=entry.at_us)
                endings[boot] = Counter()
            if entry.kind == "request":
                run.requests += 1
                endings[boot][entry.ending] += 1
                wanted.discard(entry.id)
            elif entry.kind == "summary":
                run.shared += int(facts.get("count", 0))
            elif entry.kind == "stop":
                run.state, run.arrivals = "stopped", int(facts.get("arrivals", 0))
    last = max(runs.values(), key=lambda one: one.started_us, default=None)
    for run in runs.values():
        run.by_ending = dict(endings[run.boot])
        _judge(run, is_last=run is last, live=live or {})
    why = [f"run {run.boot}: {run.why}" for run in runs.values() if not run.ok]
    recorded = sum(run.recorded for run in runs.values())
    if client_count is not None and client_count > recorded:
        why.append(f"callers count {client_count} requests, and {recorded} are recorded")
    if wanted:
        why.append(f"{len(wanted)} of {asked} acknowledged requests have no record")
    return Reconciliation(
        ok=not why,
        runs=list(runs.values()),
        recorded=recorded,
        client_count=client_count,
        acknowledged=asked,
        missing=len(wanted),
        missing_ids=sorted(wanted)[:_MOST_NAMED],
        why=why,
    )


class _OldRuns:
    """Tells the runs of a log's first form apart: its entries named none, so they go by their starts."""

    def __init__(self) -> None:
        self._number = 0
        self._has_begun = True

    def name(self, kind: str) -> str:
        """Name the run of the next entry; a start and the recovery beside it are of one run."""
        if kind not in ("start", "recovery"):
            self._has_begun = True
        elif self._has_begun:
            self._has_begun = False
            self._number += 1
        return f"before {self._number}"


def _judge(run: Run, *, is_last: bool, live: Mapping[str, int]) -> None:
    if run.state == "stopped":
        if run.arrivals != run.recorded:
            run.ok = False
            run.why = f"the server counted {run.arrivals} requests, and {run.recorded} are recorded"
    elif run.boot in live:
        run.arrivals = live[run.boot]
        if run.recorded > run.arrivals:
            run.ok = False
            run.why = f"the server counts {run.arrivals} requests, and {run.recorded} are recorded"
        else:
            run.why = f"{run.arrivals - run.recorded} still on their way, or waiting for the next summary"
    else:
        run.state = "killed"
        run.why = "it did not say goodbye: only what callers were told can be held against it"
        if is_last and not live:
            run.why += "; or it is another gateway's, and still runs"
