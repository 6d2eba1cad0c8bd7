"""Print what the experiment `drift` found as tables."""

from __future__ import annotations

from collections.abc import Iterator

from rich.table import Table

from benchmarks.drift import truth
from benchmarks.drift.run import DriftFindings


def drift_tables(found: DriftFindings) -> Iterator[Table]:
    """Return every table that has something to say."""
    yield _silence(found)
    yield _changes(found)
    yield _streams(found)
    if found.sets:
        yield _sets(found)
    if found.rivals:
        yield _rivals(found)
    if found.cost:
        yield _cost(found)


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left")
    for place, column in enumerate(columns):
        table.add_column(column, justify="left" if place == 0 else "right")
    return table


def _silence(found: DriftFindings) -> Table:
    title = f"Drift: windows without drift, one false alarm promised in {truth.PROMISE_WINDOWS:,} windows"
    table = _table(title, "rows of a window", "windows", "alarms", "most evidence (1 alarms)")
    for one in found.silence:
        table.add_row(str(one.rows), f"{one.windows:,}", str(one.alarms), f"{one.most_evidence:.4f}")
    return table


def _changes(found: DriftFindings) -> Table:
    title = "Drift: rows until the alarm, windows of 500, reference of 5,000"
    table = _table(title, "change", "median", "slowest", "found", "right field first", "another field named")
    for one in found.found:
        hit = sorted(windows for windows in one.windows if windows is not None)
        median = f"{hit[len(hit) // 2] * 500:,}" if hit else "-"
        slowest = f"{hit[-1] * 500:,}" if hit else "-"
        total = len(one.windows)
        table.add_row(
            one.name,
            median,
            slowest,
            f"{len(hit)} of {total}",
            f"{one.named} of {len(hit)}",
            str(one.strangers),
        )
    return table


def _streams(found: DriftFindings) -> Table:
    columns = ("stream", "rows", "drifts", "found", "false alarms", "MTFA", "MTD", "MTR")
    table = _table("Drift: published streams, one fixed configuration", *columns)
    for name, one in found.streams.items():
        table.add_row(
            name,
            f"{one.rows:,}",
            f"{one.drifts:,}",
            f"{one.detected:,}",
            str(one.false_alarms),
            f"{one.mtfa:,.0f}",
            f"{one.mtd:,.0f}",
            f"{one.mtr:,.0f}",
        )
    return table


def _sets(found: DriftFindings) -> Table:
    columns = ("set", "order", "reference", "seasons", "windows", "alarms", "first", "moved first")
    table = _table("Drift: public sets, windows of 500", *columns)
    for one in found.sets:
        fields = [name for name in one.fields if not name.startswith("relation")] or one.fields
        table.add_row(
            one.name,
            one.order,
            f"{one.reference_rows:,}",
            one.seasons.replace("_", " "),
            str(one.windows),
            str(one.alarms),
            "-" if one.first is None else str(one.first),
            ", ".join(fields[:3]) or "-",
        )
    return table


def _rivals(found: DriftFindings) -> Table:
    table = _table(
        "Drift: the same windows before others, at their defaults (Evidently: windows with an alarm; River: alarms)",
        "windows",
        "number",
        "Nightproof",
        "Evidently, any column",
        "Evidently, data set",
        "ADWIN",
        "KSWIN",
        "Evidently ms per window",
    )
    for one in found.rivals:
        ours = found.ours_beside[one["name"]]
        first = f", first in {ours['first']}" if ours["first"] else ""
        theirs = one["evidently"]
        table.add_row(
            one["name"],
            str(ours["windows"]),
            f"{ours['alarms']}{first}",
            f"{theirs['any_column']}",
            f"{theirs['data_set']}",
            f"{one['adwin']['alarms']} in {one['adwin']['rows']:,} rows",
            f"{one['kswin']['alarms']} in {one['kswin']['rows']:,} rows",
            f"{one['evidently_ms_per_window']:.0f}",
        )
    return table


def _cost(found: DriftFindings) -> Table:
    cost = found.cost
    table = _table("Drift: what watching 100 features costs, 64 connections", "figure", "off", "on")
    if cost is None:
        return table
    table.add_row("answers per second", f"{cost.off_per_s:,.0f}", f"{cost.on_per_s:,.0f}")
    table.add_row("CPU per answer, all processes, µs", f"{cost.off_us:.0f}", f"{cost.on_us:.0f}")
    table.add_row("server process, MB", f"{cost.off_server_mb:.0f}", f"{cost.on_server_mb:.0f}")
    table.add_row("drift child, MB", "-", f"{cost.child_mb:.0f}")
    table.add_row("drift child, cores", "-", f"{cost.child_cores:.3f}")
    table.add_row("rows watched", "-", f"{cost.rows_watched:,}")
    table.add_row("child, µs per row", "-", f"{cost.us_per_row:.0f}")
    return table
