"""`nightproof runbook NAME`: the page, with the present values of the running server; without one, the page alone."""

from __future__ import annotations

import difflib
import sys
from pathlib import Path
from typing import Any

import click

from nightproof.base.failures import CATALOGUE
from nightproof.cli import show
from nightproof.cli.client import NotRunning, from_options
from nightproof.cli.main import reach_options
from nightproof.gateway import runbooks
from nightproof.steer.runbook import Present, rename


class _FailureName(click.ParamType[str]):
    """A name of the catalogue, or of an alert."""

    name = "NAME"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the failure's name."""
        by_alert = {one.alert: code for code, one in CATALOGUE.items()}
        found = by_alert.get(value, value)
        if found not in CATALOGUE:
            close = difflib.get_close_matches(found, CATALOGUE, n=3, cutoff=0.5)
            self.fail(
                f"no runbook {value!r}. " + (f"Did you mean {', '.join(close)}?" if close else ""), param, ctx
            )
        return str(found)


@click.command()
@reach_options
@click.argument("name", type=_FailureName())
@click.option("--service", default="", help="Whose values, where several services are served.")
def runbook(state: Path, url: str | None, as_json: bool, name: str, service: str) -> None:
    """Print what to do about a failure, with what is true now on the running server."""
    try:
        path = f"/admin/runbooks/{name}" + (f"/{service}" if service else "")
        told = from_options(state, url).get(path)
    except NotRunning as error:
        page = (runbooks.page(name) or b"").decode()
        present = Present(service=service, state=str(state.absolute()))
        told = {"failure": name, "page": rename(page, present)}
        show.errors.print(f"[yellow]no live values:[/] {show.plain(error.text)}")
    if as_json:
        show.as_json(told)
    else:
        sys.stdout.write(told["page"])
