"""Print what the experiments `injection` and `obeying` found as tables."""

from __future__ import annotations

from collections.abc import Iterator

from rich.table import Table

from benchmarks.injection.found import InjectionFindings
from benchmarks.injection.obeying import Count, ObeyingFindings


def injection_tables(found: InjectionFindings) -> Iterator[Table]:
    """Return every table that has something to say."""
    if found.rules:
        yield _rules(found)
    if found.models:
        yield _models(found)
    if found.hard:
        yield _hard(found)
    if found.times:
        yield _times(found)


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left")
    for place, column in enumerate(columns):
        table.add_column(column, justify="left" if place < 2 and column != "rows" else "right")
    return table


def _rules(found: InjectionFindings) -> Table:
    table = _table("Injection: rules, as shipped", "source", "kind", "rows", "flagged")
    for one in found.rules:
        table.add_row(one.source, one.kind, f"{one.rows:,}", f"{one.hits / one.rows:.1%}")
    for label, name in ((0, "all harmless"), (1, "all attacks")):
        hits, rows = found.rules_total(label)
        table.add_row(name, "", f"{rows:,}", f"{hits / rows:.2%}")
    return table


def _models(found: InjectionFindings) -> Table:
    table = _table(
        "Injection: the model, trained anew without the source that it is asked about",
        "source left out", "kind", "attacks", "AUC", "recall at 1 %", "at 5 %", "with rules, at 1 %",
    )  # fmt: skip
    for one in found.models:
        table.add_row(
            one.source,
            one.kind,
            f"{one.rows:,}",
            f"{one.area:.3f}",
            f"{one.recall[0.01]:.1%}",
            f"{one.recall[0.05]:.1%}",
            f"{one.with_rules:.1%}",
        )
    return table


def _hard(found: InjectionFindings) -> Table:
    table = _table(
        "Injection: harmless parts to play, never seen, flagged at the threshold of each fold",
        "source left out", "harmless set", "rows", "at 1 %", "at 5 %",
    )  # fmt: skip
    for one in found.hard:
        table.add_row(
            one.fold, one.source, f"{one.rows:,}", f"{one.flagged[0.01]:.1%}", f"{one.flagged[0.05]:.1%}"
        )
    return table


def _times(found: InjectionFindings) -> Table:
    table = _table("Injection: processor time of all local checks", "text", "p50", "p95")
    for one in found.times:
        table.add_row(one.what, f"{one.p50_us / 1_000:.2f} ms", f"{one.p95_us / 1_000:.2f} ms")
    return table


def obeying_tables(found: ObeyingFindings) -> Iterator[Table]:
    """Return what got out of a model that obeys, by what it was after, and by the canary's spelling."""
    if not found.aims:
        return
    columns = ("answers", "stopped", "leaks", "live links", "unapproved acts", "differing")
    table = Table(title=f"A model that obeys all of {found.rows:,} rows", title_justify="left")
    table.add_column("it says")
    for column in columns:
        table.add_column(column, justify="right")
    for name, count in found.aims.items():
        table.add_row(name, *_counts(count))
    table.add_row("all", *(f"{found.total(what):,}" for what in _COUNTED))
    yield table
    spelled = Table(title="The canary, by its spelling", title_justify="left")
    spelled.add_column("spelling")
    for column in ("answers", "stopped", "leaks", "letters and digits of it that left, at most"):
        spelled.add_column(column, justify="right")
    for name, count in (
        *found.forms.items(),
        *((f"{form} (not looked for)", one) for form, one in found.beyond.items()),
    ):
        counts = (count.answers, count.stopped, count.leaks, count.most_chars)
        spelled.add_row(name, *(f"{one:,}" for one in counts))
    yield spelled


_COUNTED = ("answers", "stopped", "leaks", "live", "acts", "differing")


def _counts(count: Count) -> list[str]:
    return [f"{getattr(count, what):,}" for what in _COUNTED]
