"""`nightproof promote`: bring a release forward, at once, as canary or as shadow."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from urllib.parse import quote

import click

from nightproof.cli import show
from nightproof.cli.client import from_options
from nightproof.cli.main import reach_options

_LOADS_WITHIN_S = 600.0
"""A model may take that long to load beside the live one."""


class Share(click.ParamType[float]):
    """A part of the traffic: `5%` or `0.05`."""

    name = "share"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Read the share; above 0 and below 100 %."""
        if isinstance(value, float):
            return value
        match = re.fullmatch(r"([0-9]{1,3}(?:\.[0-9]{1,6})?)(%?)", str(value).strip())
        share = float(match[1]) / (100 if match[2] else 1) if match else 0.0
        if not 0 < share < 1:
            self.fail(f"{value!r} is not a share above 0 % and below 100 %, like 5%.", param, ctx)
        return share


@click.command()
@click.argument("service")
@click.argument("version")
@reach_options
@click.option(
    "--canary", type=Share(), help="Give it this share of the requests, then more while it is not worse."
)
@click.option("--shadow", is_flag=True, help="Give it copies of requests; its answers go nowhere.")
@click.option("--now", is_flag=True, help="Make it live as soon as it is loaded. The default.")
@click.option(
    "--by",
    type=click.Choice(["subject", "request", "caller"]),
    help="What a canary splits by.  [default: subject where the service declares one, else request]",
)
@click.option("--reason", default="", help="Why; kept in the history and in the audit log.")
@click.option("--again", is_flag=True, help="Although it was taken back by itself before.")
def promote(
    service: str,
    version: str,
    state: Path,
    url: str | None,
    as_json: bool,
    canary: float | None,
    shadow: bool,
    now: bool,
    by: str | None,
    reason: str,
    again: bool,
) -> None:
    """Bring a release forward. The live one stays live until the new one is loaded, checked and durable."""
    if (canary is not None) + shadow + now > 1:
        raise click.UsageError("--canary, --shadow and --now exclude each other. Keep one.")
    if by and canary is None:
        raise click.UsageError("--by says how a canary splits. Give --canary 5% too.")
    body = {
        "version": version,
        "way": "canary" if canary is not None else "shadow" if shadow else "now",
        "share": canary or 0.05,
        "unit": by or "",
        "reason": reason,
        "again": again,
    }
    client = from_options(state, url, within_s=_LOADS_WITHIN_S)
    done = client.post(f"/admin/releases/{quote(service, safe='')}/promote", body)
    if as_json:
        show.as_json(done)
        return
    show.console.print(show.plain(done["text"]))
    if done["act"] == "live":
        show.console.print(f"back at once:  nightproof rollback {show.plain(service)}", soft_wrap=True)
    elif done["act"] == "canary":
        show.console.print(
            f"watch it:  nightproof status --watch    end it:  nightproof rollback {show.plain(service)}"
        )
    else:
        show.console.print(f"what differs:  nightproof replay {show.plain(service)} --shadow")
