"""`nightproof status --since`: what the last hours looked like, one line per thing, read from left to right."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import click
import msgspec

from nightproof.base.clock import utc_us
from nightproof.base.errors import NightproofError, StateError
from nightproof.cli import show
from nightproof.cli.client import NotRunning, from_options
from nightproof.storage.statefolder import StateFolder
from nightproof.storage.watch_store import WatchStore
from nightproof.watch.history import decode, merge_stored
from nightproof.watch.timeline import Asked, spans_of, timeline
from nightproof.watch.windows import KEEP

_BARS = "▁▂▃▄▅▆▇█"
_NOT_THERE = "·"
_SINCE = re.compile(r"([1-9][0-9]{0,6})([smhd])")
_UNITS_S = {"s": 1.0, "m": 60.0, "h": 3_600.0, "d": 86_400.0}


def show_since(state: Path, url: str | None, since: str, *, as_json: bool) -> bool:
    """Show what was since then; say whether a server answered. Of one that does not run, its file is read."""
    found = _SINCE.fullmatch(since)
    if found is None:
        raise click.BadParameter(f"{since!r} is no time like 15m, 24h or 90d.", param_hint="--since")
    asked = Asked(since_s=float(found[1]) * _UNITS_S[found[2]])
    try:
        told, is_answered = from_options(state, url).post("/admin/windows", msgspec.to_builtins(asked)), True
    except NotRunning as error:
        if url or not state.is_dir():
            raise
        told, is_answered = from_file(state, asked), False
        show.errors.print(f"{show.plain(error.text)} This is what watch.db remembers:")
    if as_json:
        show.as_json(told)
    else:
        print_timeline(told, since_s=asked.since_s)
    return is_answered


def from_file(state: Path, asked: Asked) -> Any:
    """Read the windows that a server left behind; raises StateError where there are none."""
    path = StateFolder.open(state, create=False).watch_db
    if not path.exists():
        raise StateError(
            f"There is no {path}.", hint="A server writes it; start one with `nightproof serve FOLDER`."
        )
    store = WatchStore(path, merge=merge_stored, keep=KEEP, most_bytes=1 << 30, read_only=True)
    try:
        span_s, _ = spans_of(asked)
        until_s = utc_us() // 1_000_000
        found = store.select(
            span_s, since_s=int(until_s - asked.since_s), until_s=until_s, scope=asked.service
        )
    except NightproofError as error:
        raise StateError(error.text, hint=error.hint) from error
    finally:
        store.close()
    return msgspec.to_builtins(timeline([decode(one) for one in found], asked))


def print_timeline(told: dict[str, Any], *, since_s: float) -> None:
    """Print each service's rate, failures, times and queue, and the server's resources."""
    columns = _columns(told)
    if not columns:
        show.console.print("nothing is remembered of that time")
        return
    show.console.print(
        f"the last {_span(since_s)}, a column is {_span(told['span_s'])}, from {columns[0][:16]}Z to now;"
        f" {_NOT_THERE} nothing seen"
    )
    for scope in sorted(told["scopes"], key=lambda name: (not name, name)):
        points = {point["at"]: point for point in told["scopes"][scope]}
        ordered = [points.get(at) for at in columns]
        name = f"service {scope}" if scope else "server"
        show.table("", [name, "", ""], _rows(ordered, is_server=not scope))
        failures: Counter[str] = Counter()
        for point in ordered:
            failures.update(point["failures"] if point else {})
        if failures and scope:
            named = ", ".join(f"{count} {name}" for name, count in failures.most_common())
            show.console.print(f"failures: {show.plain(named)}")


def sparkline(values: Sequence[float | None], *, most: float | None = None) -> str:
    """Draw values as bars from 0 to the largest; a value that is not there is a point."""
    top = most if most is not None else max((value for value in values if value is not None), default=0.0)
    drawn = []
    for value in values:
        if value is None:
            drawn.append(_NOT_THERE)
        else:
            share = value / top if top > 0 else 0.0
            drawn.append(_BARS[min(len(_BARS) - 1, max(0, round(share * (len(_BARS) - 1))))])
    return "".join(drawn)


def _rows(points: Sequence[dict[str, Any] | None], *, is_server: bool) -> list[list[str]]:
    rows: list[list[str]] = []

    def line(name: str, take: Callable[[dict[str, Any]], float | None], tell: Callable[[float], str]) -> None:
        values = [None if point is None else take(point) for point in points]
        seen = [value for value in values if value is not None]
        if seen:
            # A time without requests is no gap: the server was there, and has nothing to say of this.
            drawn = [
                0.0 if value is None and point else value for value, point in zip(values, points, strict=True)
            ]
            rows.append([name, sparkline(drawn), f"most {tell(max(seen))}, last {tell(seen[-1])}"])

    def peak(gauge: str) -> Callable[[dict[str, Any]], float | None]:
        return lambda point: point["gauges"].get(gauge, {}).get("most")

    line("rate", lambda point: point["rate_per_s"], lambda value: f"{value:.1f}/s")
    line("not answered", _not_answered, lambda value: f"{value:.0f}")
    line("p50", lambda point: point["p50_ms"], _in_ms)
    line("p99", lambda point: point["p99_ms"], _in_ms)
    if is_server:
        line("cpu", peak("cpu_cores"), lambda value: f"{value:.2f} cores")
        line("memory", peak("memory_bytes"), lambda value: f"{value / 1e6:.0f} MB")
        line("open files", peak("open_files"), lambda value: f"{value:.0f}")
        line("loop lag", peak("loop_lag_s"), lambda value: _in_ms(value * 1_000))
    else:
        line("queue", peak("queue_depth"), lambda value: f"{value:.0f}")
        line(
            "workers",
            lambda p: p["gauges"].get("workers_ready", {}).get("least"),
            lambda value: f"{value:.0f}",
        )
        line("worker memory", peak("worker_memory_bytes"), lambda value: f"{value / 1e6:.0f} MB")
        line("confidence", lambda point: point["confidence_p50"], lambda value: f"{value:.2f}")
    return rows


def _not_answered(point: dict[str, Any]) -> float:
    return float(
        sum(count for name, count in point["endings"].items() if name not in ("answered", "degraded"))
    )


def _columns(told: dict[str, Any]) -> list[str]:
    """Return every column's time from the first that is known to the last, those without a server too."""
    times = sorted({point["at"] for points in told["scopes"].values() for point in points})
    if not times:
        return []
    first, last = (datetime.fromisoformat(at) for at in (times[0], times[-1]))
    step = timedelta(seconds=told["span_s"])
    known = {datetime.fromisoformat(at): at for at in times}
    columns, at = [], first
    while at <= last:
        columns.append(known.get(at, at.isoformat()))
        at += step
    return columns


def _in_ms(value: float) -> str:
    return f"{value:.1f} ms" if value < 1_000 else f"{value / 1_000:.1f} s"


def _span(seconds: float) -> str:
    for size, word in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:g} {word}"
    return f"{seconds:g} s"
