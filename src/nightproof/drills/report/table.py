"""The report in a terminal: what it comes to, a row a drill, and what fell short in full."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from nightproof.drills.observed import ASPECTS, Result, Verdict, Word
from nightproof.drills.report.report import BAD, Change, Report

_COLOURS: dict[Word, str] = {
    "held": "green",
    "fell short": "bold red",
    "not restored": "bold red",
    "not applicable": "dim",
    "could not run": "yellow",
}
_SIGNS: dict[Word, str] = {
    "held": "held",
    "fell short": "FELL SHORT",
    "not restored": "NOT RESTORED",
    "not applicable": "–",
    "could not run": "?",
}


def print_report(report: Report, console: Console, changes: Sequence[Change] = ()) -> None:
    """Print it all."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("drill", no_wrap=True)
    for aspect in ASPECTS:
        table.add_column(aspect, no_wrap=True)
    table.add_column("callers", overflow="fold")
    for _, words, results in report.groups():
        table.add_row(f"[bold]{escape(words)}[/]")
        for one in results:
            if one.verdicts:
                table.add_row(f"  {one.name}", *(cell(verdict) for verdict in one.verdicts), callers(one))
    console.print(table)
    _print_not_run(report, console)
    for one in report.results:
        if one.word in BAD:
            _print_short(one, console)
    if changes:
        console.print("\n[bold]against the earlier report[/]")
        for change in changes:
            colour = "red" if change.is_worse else "green"
            console.print(
                f"  [{colour}]{'worse ' if change.is_worse else 'other '}[/] {change.name}: {escape(change.what)}",
                soft_wrap=True,
            )
    told = ", ".join(
        f"[{_COLOURS[word]}]{count} {word}[/]" for word, count in report.counts().items() if count
    )
    declared = report.declared
    console.print(
        f"\n[bold]{escape(declared.service)}[/]: {told}  [dim]({report.took_s:.0f} s, seed {report.seed},"
        f" nightproof {report.nightproof})[/]",
        soft_wrap=True,
    )


def cell(verdict: Verdict) -> str:
    """Show one verdict in a word and its seconds."""
    seconds = (
        "" if verdict.seconds is None or verdict.word == "not applicable" else f" {verdict.seconds:.1f} s"
    )
    return f"[{_COLOURS[verdict.word]}]{_SIGNS[verdict.word]}{seconds}[/]"


def callers(result: Result) -> str:
    """Say in a few words what callers suffered."""
    harm = result.harm
    parts = [
        f"{count} {name}"
        for name, count in (
            ("failed", harm.failed), ("refused", harm.refused), ("lost", harm.lost),
            ("torn", harm.torn), ("hung", harm.hung),
            ("degraded", harm.degraded), ("wrong", harm.wrong),
        )
        if count
    ]  # fmt: skip
    told = ", ".join(parts) or "none harmed"
    return f"{told} of {harm.calls}; slowest {harm.slowest_s:.2f} s"


def _print_not_run(report: Report, console: Console) -> None:
    not_run = [one for one in report.results if not one.verdicts]
    if not_run:
        console.print("\n[bold]not tested[/]")
        for one in not_run:
            console.print(
                f"  [{_COLOURS[one.word]}]{one.word}[/] {one.name}: {escape(one.why)}", soft_wrap=True
            )


def _print_short(result: Result, console: Console) -> None:
    console.print(
        f"\n[bold red]{result.word}[/] [bold]{result.name}[/]: {escape(result.breaks)}", soft_wrap=True
    )
    for verdict in result.verdicts:
        if verdict.word in BAD:
            console.print(f"  {verdict.aspect}: {escape(verdict.seen)}", soft_wrap=True)
            console.print(f"  [dim]promised: {escape(verdict.promised)}[/]", soft_wrap=True)
    if result.runbook:
        console.print(f"  → nightproof runbook {result.runbook}")
