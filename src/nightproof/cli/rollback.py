"""`nightproof rollback`, also called `undo`: back to the release before, at once."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote

import click

from nightproof.cli import show
from nightproof.cli.client import from_options
from nightproof.cli.main import reach_options

_LOADS_WITHIN_S = 600.0
"""The standby is warm and takes milliseconds; an older release is loaded first."""


@click.command()
@click.argument("service")
@click.argument("version", required=False, default="")
@reach_options
@click.option("--reason", default="", help="Why; kept in the history and in the audit log.")
def rollback(service: str, version: str, state: Path, url: str | None, as_json: bool, reason: str) -> None:
    """Go back to the release that was live before, or to VERSION. Ends a canary or shadow, if one is on."""
    client = from_options(state, url, within_s=_LOADS_WITHIN_S)
    path = f"/admin/releases/{quote(service, safe='')}/rollback"
    done = client.post(path, {"version": version, "reason": reason})
    if as_json:
        show.as_json(done)
    else:
        show.console.print(show.plain(f"{done['text']} ({done['took_ms']:.0f} ms)"))
