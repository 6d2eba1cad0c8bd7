"""Print what was found as tables, and write it as JSON.

Nothing is left out in silence: what could not be run stands in its row, with the reason below the table.
"""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from benchmarks import machine
from benchmarks.audit import AuditFigures
from benchmarks.chat.report import chat_tables
from benchmarks.drift.report import drift_tables
from benchmarks.faults import Poisoned
from benchmarks.footprint import Footprint, Stages
from benchmarks.injection.report import injection_tables, obeying_tables
from benchmarks.load import Comparison, Point
from benchmarks.openloop import Overload
from benchmarks.promises import Findings, Promise, Row, promises
from benchmarks.watching import WatchCost

OURS = ("fast", "rowwise")


def print_report(findings: Findings, console: Console) -> None:
    """Print every table that has something to say."""
    about = findings.machine
    console.print(
        f"\n[bold]Nightproof beside its neighbours[/bold]  {findings.started_at}, "
        f"{about['cores']} × {about['cpu']}, {about['memory_gib']} GiB, "
        f"Linux {about['linux']}, Python {about['python']}; load generator on the same cores"
    )
    if findings.rows:
        console.print(_side_by_side(findings.rows))
        for row in findings.rows.values():
            if row.not_run:
                console.print(
                    f"[yellow]{row.title}: not run: {escape(row.not_run)}[/yellow]", highlight=False
                )
    if findings.overload:
        console.print(_overload_table(findings.overload))
    if findings.stampede:
        console.print(_stampede_table(findings.stampede))
    poisoned = {name: found for name, found in (("hang", findings.hang), ("crash", findings.crash)) if found}
    if poisoned:
        console.print(_poison_table(poisoned))
    if findings.stages:
        console.print(_stages_table(findings.stages))
    if findings.watch:
        console.print(_watch_table(findings.watch))
    if findings.footprint:
        console.print(_footprint_table(findings.footprint))
    if findings.audit:
        console.print(_audit_table(findings.audit))
    if findings.injection:
        for table in injection_tables(findings.injection):
            console.print(table)
        if findings.injection.not_run:
            console.print(
                f"[yellow]injection: not run: {findings.injection.not_run}[/yellow]", highlight=False
            )
    if findings.obeying:
        for table in obeying_tables(findings.obeying):
            console.print(table)
        if findings.obeying.not_run:
            console.print(f"[yellow]obeying: not run: {findings.obeying.not_run}[/yellow]", highlight=False)
    if findings.drift:
        for table in drift_tables(findings.drift):
            console.print(table)
        for name, why in findings.drift.not_run.items():
            console.print(f"[yellow]drift, {name}: not run: {escape(why)}[/yellow]", highlight=False)
    if findings.chat:
        for table in chat_tables(findings.chat):
            console.print(table)
        stories = {one.title: one.not_run for one in findings.chat.rows.values() if one.not_run}
        for name, why in (stories | findings.chat.not_run).items():
            console.print(f"[yellow]chat, {name}: not run: {escape(why)}[/yellow]", highlight=False)
    held = promises(findings)
    if held:
        console.print(_promise_table(held))
    for name, why in findings.not_run.items():
        console.print(f"[yellow]{name}: not run: {escape(why)}[/yellow]", highlight=False)


def _side_by_side(rows: dict[str, Row]) -> Table:
    counts = sorted({connections for row in rows.values() for connections in row.points})
    table = Table(
        title="Good answers per second (× the FastAPI baseline next to it), p50/p99 in ms, "
        "CPU µs per answer, workers included; * others used the machine",
        title_justify="left",
    )
    table.add_column("system")
    for connections in counts:
        table.add_column(f"{connections} connection{'s' if connections > 1 else ''}", justify="right")
    table.add_column("ready s", justify="right")
    table.add_column("MB", justify="right")
    _add_baseline(table, rows, counts)
    for name, row in rows.items():
        if row.not_run:
            table.add_row(row.title, *["[yellow]not run[/yellow]"] * len(counts), "", "")
            continue
        cells = [_cell(row.points.get(connections), is_ours=name in OURS) for connections in counts]
        table.add_row(row.title, *cells, _number(row.ready_s, ".1f"), _number(row.tree_mb, ".0f"))
    return table


def _add_baseline(table: Table, rows: dict[str, Row], counts: list[int]) -> None:
    cells = []
    for connections in counts:
        found = [row.points[connections] for row in rows.values() if connections in row.points]
        points = [point for one in found for point in (one.before, one.after)]
        if not points:
            cells.append("")
            continue
        rates = sorted(point.good_per_s for point in points)
        middle = sorted(points, key=lambda point: point.good_per_s)[len(points) // 2]
        cells.append(
            f"{middle.good_per_s:,.0f} ({rates[0]:,.0f}–{rates[-1]:,.0f})\n"
            f"{middle.p50_ms:.2f}/{middle.p99_ms:.1f} ms  {middle.tree_us:.0f} µs"
        )
    table.add_row("FastAPI, nothing on (median, range)", *cells, "", "", end_section=True)


def _cell(found: Comparison | None, *, is_ours: bool) -> str:
    if found is None:
        return ""
    point = found.point
    server = f" (server {point.server_us:.0f})" if is_ours else ""
    star = "*" if point.is_disturbed or found.before.is_disturbed or found.after.is_disturbed else ""
    lines = [
        f"[bold]{point.good_per_s:,.0f} (×{found.ratio:.2f}){star}[/bold]",
        f"{point.p50_ms:.2f}/{point.p99_ms:.1f} ms  {point.tree_us:.0f} µs{server}",
    ]
    bad = {
        "refused/s": round(point.refused_per_s, 1),
        "socket errors": point.socket_errors,
        "timeouts": point.timeouts,
    }
    lines += [f"[red]{count:g} {name}[/red]" for name, count in bad.items() if count]
    return "\n".join(lines)


def _number(value: float | None, how: str) -> str:
    return "" if value is None else format(value, how)


def _two_columns(title: str, lines: dict[str, str]) -> Table:
    table = Table(title=title, title_justify="left", show_header=False)
    table.add_column()
    table.add_column()
    for name, value in lines.items():
        table.add_row(name, value)
    return table


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{name}: {count:,}" for name, count in sorted(counts.items())) or "none"


def _overload_table(found: Overload) -> Table:
    normal_s = _number(found.recovered_after_s, ".1f") or "more than watched"
    return _two_columns(
        "Overload, open loop: 20 ms a call, 2 workers, no batching",
        {
            "capacity, closed loop": f"{found.capacity_per_s:.1f}/s",
            "offered": f"{found.offered_per_s:.0f}/s ({_counts(found.statuses)})",
            "goodput": f"{found.goodput_per_s:.1f}/s, worst second {found.worst_second_per_s:.0f}",
            "answers, p50/p99 from the intended send": f"{found.good_p50_ms:.0f}/{found.good_p99_ms:.0f} ms",
            "refusals, the same": f"{found.refusal_p50_ms:.2f}/{found.refusal_p99_ms:.2f} ms",
            "then 70 % of capacity": f"normal after {normal_s} s ({_counts(found.after_statuses)})",
            "the driver's own delay, p99": f"{found.driver_delay_p99_ms:.1f} ms",
            "others on the machine": f"{found.others_cores:.2f} cores",
        },
    )


def _stampede_table(points: list[Point]) -> Table:
    table = Table(title="The fast model, closed loop, asking again at once", title_justify="left")
    for name in (
        "connections",
        "good/s",
        "refused/s",
        "p50 ms",
        "p99 ms",
        "max ms",
        "socket errors",
        "timeouts",
    ):
        table.add_column(name, justify="right")
    for point in points:
        table.add_row(
            f"{point.connections:,}{'*' if point.is_disturbed else ''}",
            f"{point.good_per_s:,.0f}",
            f"{point.refused_per_s:,.0f}",
            f"{point.p50_ms:.1f}",
            f"{point.p99_ms:.1f}",
            f"{point.max_ms:.0f}",
            str(point.socket_errors),
            str(point.timeouts),
        )
    return table


def _poison_table(found: dict[str, Poisoned]) -> Table:
    table = Table(title="One poisonous record among 32 callers", title_justify="left")
    table.add_column("")
    for name in found:
        table.add_column(name)
    lines = {
        "its caller saw": lambda one: f"{one.guilty_saw} after {one.guilty_after_s * 1_000:.0f} ms",
        "sent once more": lambda one: (
            f"{one.guilty_again_saw}, {one.workers_lost_by_second_try} workers lost"
        ),
        "workers gone": lambda one: (
            f"{one.workers_gone} of {one.workers_before}"
            + (f", first after {one.first_gone_after_s:.2f} s" if one.first_gone_after_s is not None else "")
        ),
        "others before": lambda one: _counts(one.others_before),
        "others after": lambda one: _counts(one.others_after),
        "good/s before, first second, later": lambda one: (
            f"{one.good_per_s_before:,.0f}, {one.good_per_s_first_second:,.0f}, {one.good_per_s_after:,.0f}"
        ),
        "longest gap (before the fault)": lambda one: (
            f"{one.longest_gap_s:.3f} s ({one.longest_gap_before_s:.3f} s)"
        ),
    }
    for name, line in lines.items():
        table.add_row(name, *(line(one) for one in found.values()))
    return table


def _stages_table(found: Stages) -> Table:
    table = Table(
        title=f"One request's way at one connection, µs, {found.requests:,} requests"
        + ("*" if found.others_cores > machine.QUIET_CORES else ""),
        title_justify="left",
    )
    for name in ("stage", "p50", "mean", "p99"):
        table.add_column(name, justify="left" if name == "stage" else "right")
    for name, value in found.p50_us.items():
        table.add_row(name, f"{value:.0f}", f"{found.mean_us[name]:.0f}", f"{found.p99_us[name]:.0f}")
    table.add_row(
        "outside the stages (HTTP, kernel, client)", f"{found.outside_p50_us:.0f}", "", "", end_section=True
    )
    table.add_row(
        "whole, as the client sees it", f"{found.total_p50_us:.0f}", "", f"{found.total_p99_us:.0f}"
    )
    table.add_row("the same, less its own record stage", f"{found.unrecorded_p50_us:.0f}", "", "")
    table.add_row(
        "append 4 KiB + fdatasync on this disk",
        f"{found.fdatasync_p50_us:.0f}",
        "",
        f"{found.fdatasync_p99_us:.0f}",
    )
    return table


def _watch_table(found: WatchCost) -> Table:
    told = {
        part: f"{took_s * 1e3:.1f} ms, {took_s / found.cpu_s:.2%} of the server's CPU"
        for part, took_s in found.parts_s.items()
    }
    return _two_columns(
        f"What watching costs, at {found.point.connections} connections and {found.point.good_per_s:,.0f} answers/s"
        + ("*" if found.point.is_disturbed else ""),
        told
        | {
            "together": f"{found.share:.2%} of {found.cpu_s:.1f} s CPU,"
            f" {sum(found.parts_s.values()) / max(1, found.answers) * 1e6:.1f} µs an answer",
            "series on /metrics": f"{found.series:,}",
            "watch.db": f"{found.history_bytes / 1e3:.0f} kB",
        },
    )


def _footprint_table(found: Footprint) -> Table:
    return _two_columns(
        "Footprint, after load",
        {
            "server alone": f"{found.server_mb:.0f} MB, idle {found.idle_server_percent:.2f} % of a core",
            f"all {found.processes} processes": f"{found.tree_mb:.0f} MB (shared pages counted each time), "
            f"idle {found.idle_tree_percent:.2f} % of a core",
            "ready after start": f"{found.ready_s:.1f} s",
        },
    )


def _audit_table(found: AuditFigures) -> Table:
    looks = {
        "proof of one record": found.proof,
        "search by id": found.by_id,
        "search by caller and time, a page of 100": found.by_caller,
        "search by person, a page of 100": found.by_subject,
    }
    return _two_columns(
        f"The audit log, {found.records:,} records"
        + ("*" if found.others_cores > machine.QUIET_CORES else ""),
        {
            "one record: sealed and built": f"{found.made_us:.1f} µs of CPU",
            "one record: made, durable, in the tree": f"{found.kept_us:.1f} µs of CPU, "
            f"{found.kept_per_s:,.0f}/s with {found.commit_rows:.0f} to a commit",
            "on disk, indexes included": f"{found.bytes_per_record:.0f} bytes a record: "
            f"{found.payload_bytes:.0f} sealed content, {found.leaf_bytes:.0f} leaf, "
            f"{found.overhead_bytes - found.leaf_bytes:.0f} the rest",
            f"verify {found.verified_records:,} records": f"{found.verify_per_s:,.0f} records/s, "
            f"{found.verify_cpu_per_s:,.0f} per second of CPU",
            **{
                name: f"p50 {took.p50_ms:.2f} ms, p99 {took.p99_ms:.2f} ms; "
                f"cold p50 {took.cold_p50_ms:.1f} ms, most {took.cold_max_ms:.1f} ms"
                for name, took in looks.items()
            },
        },
    )


def _promise_table(held: list[Promise]) -> Table:
    table = Table(title="What was promised", title_justify="left")
    table.add_column("promise")
    table.add_column("found")
    table.add_column("")
    for promise in held:
        verdict = {True: "[green]kept[/green]", False: "[red]missed[/red]", None: "[yellow]unknown[/yellow]"}
        table.add_row(promise.text, escape(promise.found), verdict[promise.is_kept])
    return table


def write_json(findings: Findings, path: Path) -> None:
    """Write everything found, with the verdicts, for a machine to read."""
    told = dataclasses.asdict(findings)
    for name, row in findings.rows.items():
        for connections, found in row.points.items():
            told["rows"][name]["points"][connections]["ratio"] = found.ratio
    told["promises"] = [dataclasses.asdict(promise) for promise in promises(findings)]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(_without_nan(told), indent=1) + "\n")


def _without_nan(value: Any) -> Any:
    """Turn what JSON has no word for into null."""
    if isinstance(value, dict):
        return {str(key): _without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
