"""`nightproof check FOLDER`: everything that would keep a folder from being served, each with what to do."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import click
import msgspec
import uvloop

from nightproof.base.clock import monotonic_s
from nightproof.base.errors import DeclarationError
from nightproof.checks.input import InputChecks
from nightproof.checks.output import OutputChecks
from nightproof.cli import show
from nightproof.cli.check_chat import Findings, look_closer_at_chat, upstream_rows
from nightproof.declare.describe import Description
from nightproof.releases.gate import Finding, Policy, decide
from nightproof.settings.settings import WorkerSettings
from nightproof.steer.examine import formats_of
from nightproof.storage.bundles import fingerprint
from nightproof.workers.pool import Pool


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def check(folder: Path, as_json: bool) -> None:
    """Load a service folder in a worker, run its golden cases, and say what is wrong. Exit 1 if it cannot be served."""
    found = Findings()
    try:
        formats, description, load_s = _run(folder)
        _tell_formats(formats, found)
        _look_closer(description, folder, found)
        if description.chat is not None:
            look_closer_at_chat(description, folder, found)
    except DeclarationError as error:
        found.errors.append({"what": error.text, "do": error.hint})
        description, load_s = None, 0.0
    _print(folder, description, load_s, found, as_json=as_json)
    if found.errors:
        sys.exit(1)


def _run(folder: Path) -> tuple[list[Finding], Description, float]:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_load(folder.resolve()))


async def _load(folder: Path) -> tuple[list[Finding], Description, float]:
    # The folder as a release would have it: what is ignored is not looked at.
    belonging = await asyncio.to_thread(fingerprint, folder, folder / ".nightproof" / "bundles")
    formats = await formats_of(folder, belonging.sums)
    pool = Pool(
        folder,
        release="check",
        settings=WorkerSettings(show_output=True),
        on_poison=lambda job: None,
        observe=lambda event, **named: None,
        workers=(1, 1),
        spares=0,
    )
    began_s = monotonic_s()
    await pool.start()
    took_s = monotonic_s() - began_s
    description = pool.description
    await pool.stop()
    return formats, description, took_s


def _tell_formats(formats: list[Finding], found: Findings) -> None:
    """Say what the gate of releases would say of the files, with the usual settings."""
    for one in decide(formats, Policy()).refusing:
        found.errors.append({"what": f"{one.subject}: {one.text}", "do": one.hint})


def _look_closer(description: Description, folder: Path, found: Findings) -> None:
    """Check what needs no worker, and advise on what would be missed at night."""
    try:
        InputChecks(description)
        checks = OutputChecks(description)
    except ValueError as error:
        raise DeclarationError(
            f"A schema cannot be used: {error}", hint="Simplify the type, or its pattern."
        ) from error
    for way in description.fallbacks:
        if way.kind == "constant" and (verdict := checks.judge_constant(way.answer)).failure:
            found.errors.append(
                {
                    "what": f"fallback.constant would be refused by the service's own checks: {verdict.detail}.",
                    "do": "Give an answer that fits the output's schema and is at or above confidence_floor.",
                }
            )
    if not description.golden_cases and description.chat is None:
        found.advice.append(
            {
                "what": "golden.jsonl is missing or empty: a worker that answers wrongly would not be noticed.",
                "do": f'Write {folder}/golden.jsonl: lines of {{"input": {{…}}, "expect": {{"field": value}}}}.',
            }
        )
    if not description.fallbacks:
        found.advice.append(
            {
                "what": "No fallback is declared: when the model fails, callers get an error.",
                "do": "Declare fallbacks=[fallback.constant(…)] or another, if a degraded answer beats none.",
            }
        )
    if description.latency_p99_ms is not None and description.latency_p99_ms > description.deadline_ms:
        found.advice.append(
            {
                "what": f"latency_p99_ms ({description.latency_p99_ms:g}) is beyond"
                f" deadline_ms ({description.deadline_ms}).",
                "do": "Promise less than the deadline, or raise deadline_ms.",
            }
        )


def _print(
    folder: Path, description: Description | None, load_s: float, found: Findings, *, as_json: bool
) -> None:
    if as_json:
        told: dict[str, Any] = {
            "folder": str(folder),
            "ok": not found.errors,
            "errors": found.errors,
            "advice": found.advice,
        }
        if description is not None:
            told |= {"load_s": round(load_s, 3), "description": msgspec.to_builtins(description)}
        show.as_json(told)
        return
    for one in found.errors:
        show.trouble(one["what"], one["do"])
    if description is not None and not found.errors:
        show.console.print(
            f"[bold green]ok[/] {show.plain(str(folder))} declares service {description.service!r}:"
            f" loaded in {load_s:.1f} s, {description.golden_cases} golden cases hold"
        )
        if description.chat is not None:
            columns = ["upstream", "model", "at", "key"]
            show.table("asked in this order", columns, upstream_rows(description.chat))
    for one in found.advice:
        show.console.print("[yellow]advice:[/]", end=" ")
        show.console.print(f"{one['what']}\n  → {one['do']}", markup=False)
