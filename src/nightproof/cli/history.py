"""`nightproof history` and `nightproof hold`: what was done to a service's releases, by whom and why."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import quote

import click

from nightproof.cli import show
from nightproof.cli.client import from_options
from nightproof.cli.main import reach_options


@click.command()
@click.argument("service")
@reach_options
def history(service: str, state: Path, url: str | None, as_json: bool) -> None:
    """Show a service's releases and every act on them, the newest first."""
    told = from_options(state, url).get(f"/admin/releases/{quote(service, safe='')}/history")
    if as_json:
        show.as_json(told)
        return
    show.table(
        f"releases of {service}",
        ["version", "part", "made", "digest", "kept because", "taken back because"],
        [
            [
                one["version"],
                one["part"] or "-",
                one["created"],
                one["digest"][:12],
                one["held"],
                one["latched"],
            ]
            for one in told["releases"]
        ],
    )
    show.table(
        "acts",
        ["at", "act", "version", "before", "who", "why"],
        [
            [one["at"], _act(one), one["version"], one["before"], one["who"], one["why"]]
            for one in told["acts"]
        ],
    )


@click.command()
@click.argument("service")
@click.argument("version")
@reach_options
@click.option("--reason", default="", help="Why it is kept.")
@click.option("--release", "let_go", is_flag=True, help="Let it go again.")
def hold(
    service: str, version: str, state: Path, url: str | None, as_json: bool, reason: str, let_go: bool
) -> None:
    """Keep a release and its bundle whatever happens, or let it go again."""
    if bool(reason) == let_go:
        raise click.UsageError("Give --reason to hold the release, or --release to let it go.")
    path = f"/admin/releases/{quote(service, safe='')}/hold"
    held = from_options(state, url).post(path, {"version": version, "reason": "" if let_go else reason})
    if as_json:
        show.as_json(held)
    else:
        show.console.print(
            show.plain(f"{service} {version} is {'held' if held['held'] else 'not held any more'}")
        )


def _act(act: dict[str, Any]) -> str:
    return str(act["act"]).replace("_", " ")
