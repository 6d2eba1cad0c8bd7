"""`nightproof replay`: recorded requests through another release, and what would change."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote

import click
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from nightproof.cli import show
from nightproof.cli.client import Client, from_options
from nightproof.cli.main import reach_options
from nightproof.cli.promote import Share
from nightproof.cli.replay_page import page

_ASK_EVERY_S = 0.2
_MOST_ROWS = 12


@click.command()
@click.argument("service")
@reach_options
@click.option("--to", "version", help="The release to run them through.")
@click.option(
    "--last", type=click.IntRange(1, 1_000_000), default=10_000, show_default=True, help="How many requests."
)
@click.option("--shadow", is_flag=True, help="No run: what the newest shadow answers otherwise.")
@click.option("--examples", is_flag=True, help="Show examples of differences, sensitive fields masked.")
@click.option(
    "--page", "file", type=click.Path(path_type=Path, dir_okay=False), help="Write a page with plots too."
)
@click.option("--most-changed", type=Share(), help="Exit 1 if a larger share would change, or fail anew.")
def replay(
    service: str,
    version: str | None,
    state: Path,
    url: str | None,
    as_json: bool,
    last: int,
    shadow: bool,
    examples: bool,
    file: Path | None,
    most_changed: float | None,
) -> None:
    """Run the last recorded requests through a release: what would change, by how much, and for whom.

    It runs in the server, in a worker of its own, and waits while callers wait. Ctrl-C leaves it running; the same
    command finds it again, also after a restart of the server. That you looked is recorded.
    """
    if shadow == (version is not None):
        raise click.UsageError("Give --to VERSION to replay, or --shadow to see what the shadow found.")
    client = from_options(state, url)
    base = f"/admin/releases/{quote(service, safe='')}"
    if shadow:
        report = client.post(f"{base}/shadow", {"examples": examples})
    else:
        run = client.post(f"{base}/replay", {"version": version, "last": last})
        run = _wait(client, base, run)
        if run["state"].startswith("failed"):
            show.trouble(f"the replay {run['state']}", "Mend the release; what was compared so far is kept.")
            sys.exit(1)
        report = client.post(f"{base}/report", {"id": run["id"], "examples": examples})
    if file is not None:
        file.write_text(page(report), encoding="utf-8")
        show.errors.print(f"wrote {file}", markup=False)
    if as_json:
        show.as_json(report)
    else:
        print_report(report)
    compared = report["comparison"]["compared"]
    if most_changed is not None and compared and report["comparison"]["changed"] > most_changed * compared:
        sys.exit(1)


def _wait(client: Client, base: str, run: dict[str, Any]) -> dict[str, Any]:
    """Show the progress until the run is over. Ctrl-C leaves it running."""
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=show.errors,
        transient=True,
    )
    try:
        with bar:
            task = bar.add_task(f"replay through {run['version']}", total=run["wanted"])
            while run["state"] in ("running", "waiting"):
                bar.update(task, completed=run["done"])
                time.sleep(_ASK_EVERY_S)
                run = client.post(f"{base}/progress", {"id": run["id"]})
    except KeyboardInterrupt:
        show.errors.print("It goes on in the server; the same command shows it again.")
        sys.exit(130)
    return run


def print_report(report: dict[str, Any]) -> None:
    """Print what a replay or a shadow found."""
    found = report["comparison"]
    compared = found["compared"]
    show.console.print(
        show.plain(
            f"{report['service']}: {compared} records through {report['version']}"
            f" ({report['kind']}, {report['state']}):"
            f" {found['changed']} would change ({_part(found['changed'], compared)}),"
            f" {found['newly_failing']} fail anew, {found['newly_answered']} are answered anew,"
            f" {found['skipped']} could not be used"
        ),
        soft_wrap=True,
    )
    if found["failures"]:
        show.table("fails by", ["failure", "count"], sorted(found["failures"].items()))
    rows = [
        [
            name,
            one["changed"],
            _part(one["changed"], one["compared"]),
            f"{one['sum_abs'] / one['numbers']:.4g}" if one["numbers"] else "",
            f"{one['most_abs']:.4g}" if one["numbers"] else "",
            ", ".join(f"{move} ({count})" for move, count in _top(one["moves"])),
        ]
        for name, one in found["fields"].items()
    ]
    if rows:
        show.table("fields", ["field", "changed", "share", "mean change", "largest", "moves"], rows)
    if report["most_hit"]:
        show.table(
            "hit most",
            ["what", "value", "changed", "of", "times the share of all"],
            [
                [one["by"], one["value"], one["changed"], one["compared"], f"{one['times']:.1f}"]
                for one in report["most_hit"]
            ],
        )
    for number, example in enumerate(report["examples"][:_MOST_ROWS], 1):
        show.console.print(show.plain(f"example {number}: {example}"), soft_wrap=True)


def _top(moves: dict[str, int]) -> list[tuple[str, int]]:
    return sorted(moves.items(), key=lambda one: -one[1])[:3]


def _part(count: int, total: int) -> str:
    return f"{count / total:.1%}" if total else "-"
