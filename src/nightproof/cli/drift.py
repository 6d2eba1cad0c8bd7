"""`nightproof drift`: does the data still look like what the release was made for?"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from nightproof.cli import show
from nightproof.cli.client import from_options
from nightproof.cli.main import reach_options

_BAR = 24
_MOST_CELLS = 12
_MOST_SIGNALS = 15


@click.command()
@reach_options
@click.option("--examples", is_flag=True, help="Show records that moved, too. That you looked is recorded.")
@click.argument("service", required=False)
def drift(state: Path, url: str | None, as_json: bool, examples: bool, service: str | None) -> None:
    """Show which features moved away from the release's reference, how far, and since when. Exit 1 on drift."""
    client = from_options(state, url)
    if service is None:
        if examples:
            raise click.UsageError("--examples needs a SERVICE.")
        told: Any = client.get("/admin/drift")
        drifts = any(one["state"] == "drifting" for one in told)
    else:
        told = client.get(f"/admin/drift/{service}{'/examples' if examples else ''}")
        drifts = told["state"] == "drifting"
    if as_json:
        show.as_json(told)
    elif service is None:
        _print_all(told)
    else:
        _print_one(told)
    if drifts:
        sys.exit(1)


def _print_all(told: list[dict[str, Any]]) -> None:
    rows = [
        [
            one["service"],
            one["release"],
            one["state"],
            one["since"] or "-",
            ", ".join(one["features"][:5]) or "-",
            one["rows"],
            one["alarms"],
        ]
        for one in told
    ]
    show.table("", ["service", "release", "drift", "since", "features", "rows seen", "alarms"], rows)


def _print_one(told: dict[str, Any]) -> None:
    about = told["reference"]
    state = told["state"]
    coloured = "[bold red]drifting[/]" if state == "drifting" else f"[bold]{state}[/]"
    show.console.print(f"{show.plain(told['service'])} {show.plain(told['release'])}: {coloured}")
    if told["why"]:
        show.console.print(show.plain(told["why"]))
    if state == "drifting":
        show.console.print(f"since {told['since']}: {show.plain(', '.join(told['features']))}")
    if about is not None:
        kinds = {
            "reference": "the reference",
            "live": "the first live rows",
            "learning": "live rows, still",
        }
        seasons = f", seasons: {about['seasons'].replace('_', ' ')}" if about["seasons"] != "none" else ""
        show.console.print(
            f"held against {about['rows']} rows of {kinds[about['origin']]}{seasons};"
            f" {about['answered_rows']} answered by the release; {about['signals']} signals"
        )
    show.console.print(
        f"{told['rows']} rows seen, {told['filling']} of {told['window_rows']} in the next window;"
        f" evidence {told['evidence']:.2g} of 1; {told['promise']}"
    )
    if told["estimated_accuracy"] is not None:
        validity = "" if told["estimate_valid"] else " (NOT VALID)"
        show.console.print(
            f"accuracy without labels, last hour: {told['estimated_accuracy']:.3f}{validity}:"
            f" {show.plain(told['estimate_why'])}"
        )
    _print_signals(told)
    if about is not None and about["not_watched"]:
        for name, why in sorted(about["not_watched"].items()):
            show.console.print(f"[dim]{show.plain(name)}: {show.plain(why)}[/]")
    _print_history(told["history"])


def _print_signals(told: dict[str, Any]) -> None:
    if not told["signals"]:
        return
    rows = [
        [
            "✗" if one["moved"] else "",
            one["name"],
            f"{one['effect']:.3f}",
            f"{one['psi']:.3f}",
            f"{one['missing']:.1%} / {one['reference_missing']:.1%}",
            f"{one['unseen']:.1%}",
        ]
        for one in told["signals"][:_MOST_SIGNALS]
    ]
    show.console.print(f"\nwindow {told['window_began']} to {told['window_ended']}")
    show.table("", ["", "signal", "effect", "PSI", "missing now / then", "never seen"], rows)
    if len(told["signals"]) > _MOST_SIGNALS:
        show.console.print(f"[dim]and {len(told['signals']) - _MOST_SIGNALS} more; --json has all[/]")
    for one in told["signals"]:
        if one["moved"] and one["labels"]:
            _print_cells(one)


def _print_cells(signal: dict[str, Any]) -> None:
    cells = zip(signal["labels"], signal["reference"], signal["live"], strict=True)
    filled = sorted((cell for cell in cells if max(cell[1:]) > 0), key=lambda cell: -abs(cell[2] - cell[1]))
    show.console.print(f"\n{show.plain(signal['name'])}: reference, then now")
    for label, then, now in filled[:_MOST_CELLS]:
        name = show.plain(label)[:32]
        show.console.print(f"  {name:<32} {then:6.1%} [dim]{_bar(then):<{_BAR}}[/] {now:6.1%} {_bar(now)}")


def _bar(share: float) -> str:
    return "█" * round(share * _BAR)


def _print_history(history: list[dict[str, Any]]) -> None:
    if history:
        show.console.print("\nalarms")
    for one in history[:5]:
        ended = f"over {one['ended']}" if one["ended"] else "stands"
        moved = show.plain(", ".join(one["signals"][:5]))
        show.console.print(f"  {one['at']} ({show.plain(one['release'])}): {moved}; {ended}")
        for example in one["examples"]:
            where = show.plain(f"{example['signal']} {example['cell']}")
            show.console.print(f"    {where}: {show.plain(str(example['input']))}")
