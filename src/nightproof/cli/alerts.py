"""`nightproof alerts …`: what fires, silences, a test of the receivers, and the rules for Prometheus and Grafana."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import click
import msgspec
from click.core import ParameterSource

from nightproof.cli import show
from nightproof.cli.client import Client, from_options
from nightproof.cli.main import reach_options
from nightproof.watch.alerts.grafana import dashboard
from nightproof.watch.alerts.prometheus import rule_file, rule_groups
from nightproof.watch.alerts.rules import Promise

_SPAN = re.compile(r"(\d+(?:\.\d+)?)(s|min|m|h|d)")
_UNITS_S = {"s": 1, "m": 60, "min": 60, "h": 3_600, "d": 86_400}
_COLOURS = {"firing": "bold red", "pending": "yellow", "resolved": "green"}


@click.group(invoke_without_command=True)
@reach_options
@click.pass_context
def alerts(ctx: click.Context, state: Path, url: str | None, as_json: bool) -> None:
    """Show what fires, since when, why, and the page that says what to do. Exit 1 if something fires."""
    if ctx.invoked_subcommand is not None:
        typed = [name for name in ctx.params if ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE]
        if typed:  # the verb has these options too, and would not see them here
            raise click.UsageError(
                f"Write --{typed[0].removeprefix('as_')} after {ctx.invoked_subcommand!r}."
            )
        return
    told = from_options(state, url).get("/admin/alerts")
    if as_json:
        show.as_json(told)
    else:
        _print(told)
    if told["firing"]:
        sys.exit(1)


@alerts.command()
@reach_options
@click.option(
    "--scale", type=click.FloatRange(0.0001, 1), default=1.0, show_default=True, help="Shorten all windows."
)
def rules(state: Path, url: str | None, as_json: bool, scale: float) -> None:
    """Print a rule file for Prometheus, of the running services' objectives and every failure mode."""
    promises, runbooks_url = _objectives(from_options(state, url))
    groups = rule_groups(promises, runbooks_url=runbooks_url, scale=scale)
    if as_json:
        show.as_json({"groups": groups})
    else:
        sys.stdout.write(rule_file(groups))


@alerts.command("dashboard")
@reach_options
def print_dashboard(state: Path, url: str | None, as_json: bool) -> None:
    """Print a dashboard for Grafana, of the same metrics and objectives."""
    promises, _ = _objectives(from_options(state, url))
    show.as_json(dashboard(promises))


@alerts.command()
@reach_options
def test(state: Path, url: str | None, as_json: bool) -> None:
    """Send a test alert to every receiver now, and say what came back. Exit 1 if one did not take it."""
    outcomes = from_options(state, url).post("/admin/alerts/test")
    if as_json:
        show.as_json(outcomes)
    elif not outcomes:
        show.trouble(
            "No receiver is set.", "Set alertmanager, notify.webhook or notify.apprise; see docs/alerts.md."
        )
    else:
        rows = [
            [
                "arrived" if one["arrived"] else "NOT", one["receiver"], one["answer"],
                f"{one['took_ms']:.0f} ms", one["hint"],
            ]
            for one in outcomes
        ]  # fmt: skip
        show.table("", ["", "receiver", "answer", "took", "hint"], rows)
    if not outcomes or not all(one["arrived"] for one in outcomes):
        sys.exit(1)


@alerts.command()
@reach_options
@click.argument("name", default="")
@click.option("--service", default="", help="Only this service's.")
@click.option(
    "--all", "everything", is_flag=True, help="Silence every alert (of the service, if one is given)."
)
@click.option("--for", "span", required=True, help="How long: 30min, 2h, 1d.")
@click.option("--reason", required=True, help="Why; it is recorded.")
def silence(
    state: Path,
    url: str | None,
    as_json: bool,
    name: str,
    service: str,
    everything: bool,
    span: str,
    reason: str,
) -> None:
    """Keep an alert quiet for a while, by its name or its failure's. It is judged and shown all the same."""
    if bool(name) == everything:
        raise click.UsageError("Name an alert, or give --all.")
    body = {"alert": name, "service": service, "for_s": _seconds(span), "reason": reason}
    made = from_options(state, url).post("/admin/alerts/silence", body)
    if as_json:
        show.as_json(made)
    else:
        show.console.print(f"silence {made['id']} until {made['until'][:19]}Z")


@alerts.command()
@reach_options
@click.argument("silence_id")
def unsilence(state: Path, url: str | None, as_json: bool, silence_id: str) -> None:
    """End a silence: what still fires is told now."""
    ended = from_options(state, url).post("/admin/alerts/unsilence", {"id": silence_id})
    if as_json:
        show.as_json(ended)
    else:
        show.console.print(f"silence {ended['id']} is over")


def _objectives(client: Client) -> tuple[list[Promise], str]:
    told = client.get("/admin/alerts/objectives")
    return msgspec.convert(told["promises"], list[Promise]), str(told["runbooks_url"])


def _seconds(span: str) -> float:
    match = _SPAN.fullmatch(span.strip())
    if match is None:
        raise click.UsageError(f"--for {span!r} is no span. Write 30min, 2h or 1d.")
    return float(match[1]) * _UNITS_S[match[2]]


def _print(told: dict[str, Any]) -> None:
    shown = told["alerts"]
    if not any(one["state"] == "firing" for one in shown):
        show.console.print(
            f"[bold green]nothing fires[/] at {show.plain(told['instance'])} ({told['rules']} rules)"
        )
    for one in shown:
        _print_alert(one)
    for one in told["silences"]:
        what = " ".join(part for part in (one["alert"] or "every alert", one["service"]) if part)
        show.console.print(
            f"silence {one['id']}: {show.plain(what)} until {one['until'][:19]}Z, by {show.plain(one['who'])}:"
            f" {show.plain(one['reason'])}"
        )
    for one in told["receivers"]:
        if one["why"]:
            show.console.print(
                f"[red]✗[/] {show.plain(one['receiver'])}: {show.plain(one['why'])}; {one['waiting']} waiting"
                f" for {one['oldest_s']:.0f} s"
            )
    if not told["receivers"]:
        show.console.print("[yellow]no receiver is set:[/] nobody is told. See docs/alerts.md.")


def _print_alert(one: dict[str, Any]) -> None:
    whose = f" {show.plain(one['service'])}" if one["service"] else ""
    state = f"[{_COLOURS[one['state']]}]{one['state']}[/]"
    line = f"{state} {one['severity']} [bold]{one['alertname']}[/]{whose} since {one['since'][:19]}Z"
    why = f"{show.plain(one['title'])}: {show.plain(one['why'])}"
    if one["held_by"].startswith("cause"):  # one line: the cause, above, is what to see to
        show.console.print(f"{line}  [dim]not told: {show.plain(one['held_by'])}[/]", soft_wrap=True)
        return
    held = f"  [dim]not told: {show.plain(one['held_by'])}[/]" if one["held_by"] else ""
    unknown = "" if one["known"] else "  [dim]nothing to judge it by now[/]"
    show.console.print(f"{line}{held}{unknown}", soft_wrap=True)
    show.console.print(f"  {why}", soft_wrap=True)
    service = f" --service {one['service']}" if one["service"] else ""
    page = f"  → nightproof runbook {one['failure']}{show.plain(service)}   {one['runbook']}"
    show.console.print(page, soft_wrap=True)
