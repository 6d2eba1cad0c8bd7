"""`nightproof drill FOLDER`: break the service on purpose, in a stage of its own, and say what held."""

from __future__ import annotations

import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import click
from rich.markup import escape

from nightproof.base.clock import utc_us
from nightproof.base.errors import NightproofError
from nightproof.cli import drill_target, show
from nightproof.drills.drill import Drill, NotRun
from nightproof.drills.observed import Result
from nightproof.drills.own_settings import for_a_stage
from nightproof.drills.report import report as reports
from nightproof.drills.report.junit import as_junit
from nightproof.drills.report.page import as_html
from nightproof.drills.report.table import print_report
from nightproof.drills.run import Suite, describe_folder
from nightproof.drills.soak import soak, span_s
from nightproof.drills.stage import STAGE_SETTINGS
from nightproof.drills.suite import all_drills, choose
from nightproof.drills.target.scene import TargetDrill
from nightproof.settings.load import chosen_in_file


@click.command()
@click.argument("folder", required=False, type=click.Path(path_type=Path))
@click.option("--only", multiple=True, metavar="NAME", help="This drill, group or failure; may be repeated.")
@click.option("--list", "list_them", is_flag=True, help="List the drills, and run none.")
@click.option("--quick", is_flag=True, help="A choice that takes under three minutes.")
@click.option("--soak", "span", metavar="8h", help="Random faults for so long: 90s, 30min, 8h.")
@click.option("--seed", type=int, default=1, show_default=True, help="Spreads arrivals and random faults.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON, and nothing else.")
@click.option("--junit", type=click.Path(path_type=Path, dir_okay=False), help="Also write JUnit XML.")
@click.option("--html", type=click.Path(path_type=Path, dir_okay=False), help="Also write one page of HTML.")
@click.option(
    "--against", type=click.Path(path_type=Path, dir_okay=False), help="An earlier report: what got worse?"
)
@click.option(
    "--config",
    type=click.Path(path_type=Path, dir_okay=False),
    envvar="NIGHTPROOF_CONFIG",
    help="Settings file of your server; nightproof.toml if there is one. Its bounds and times are used.",
)
@drill_target.options
@click.option("--keep-stage", is_flag=True, hidden=True, help="Leave the stage's folder, to look at it.")
def drill(
    folder: Path | None,
    only: tuple[str, ...],
    list_them: bool,
    quick: bool,
    span: str | None,
    seed: int,
    as_json: bool,
    junit: Path | None,
    html: Path | None,
    against: Path | None,
    config: Path | None,
    keep_stage: bool,
    **target: Any,
) -> None:
    """Break a service on purpose, and report what was contained, recorded, alerted and recovered from.

    The service is started in a stage of its own: own state, own ports on loopback, own receiver of alerts. Your
    folder, state and servers are not touched, no root is needed, and all is undone, also on Ctrl-C. Exit 0 when all
    that applied held, 1 when something fell short.

    With --target a server that runs already is drilled from outside, any server: what callers and its health paths
    can show of it.
    """
    if target["target"] is not None:
        if folder is not None or quick or span is not None:
            raise click.UsageError("--target takes no folder, no --quick and no --soak.")
        wanted = drill_target.Wanted(**target, only=only, seed=seed)
        if list_them:
            _list(drill_target.chosen(wanted), as_json=as_json)
            return
        earlier = reports.read_report(against) if against is not None else None
        progress = _Progress(len(drill_target.chosen(wanted)), is_quiet=as_json)
        with progress:
            made = drill_target.run(wanted, say=progress.say, done=progress.done)
        _tell(made, earlier, as_json=as_json, junit=junit, html=html)
        return
    chosen = choose(only, quick=quick)
    if list_them:
        _list(all_drills() if not only and not quick else chosen, as_json=as_json)
        return
    if folder is None:
        raise click.UsageError("Name the service's folder, or give --list.")
    soak_s = None if span is None else span_s(span)
    if span is not None and soak_s is None:
        raise click.UsageError(f"--soak {span!r} is no span. Write 90s, 30min or 8h.")
    earlier = reports.read_report(against) if against is not None else None
    own_settings, left_out = for_a_stage(chosen_in_file(config))
    signal.signal(signal.SIGTERM, _end)
    began_us = utc_us()
    declared = describe_folder(folder.resolve(), Path(tempfile.gettempdir()))
    progress = _Progress(len(chosen) if soak_s is None else 0, is_quiet=as_json)
    suite = Suite(
        folder.resolve(),
        declared,
        seed=seed,
        say=progress.say,
        own_settings=own_settings,
        keep=keep_stage,
        closes_books=soak_s is not None,
        on_result=progress.done,
    )
    with progress:
        if soak_s is None:
            results = suite.run(chosen)
        else:
            try:
                results = soak(suite, chosen, seconds=soak_s, seed=seed)
            finally:
                suite.close()
    made = reports.make_report(
        folder.resolve(),
        declared,
        results,
        seed=seed,
        began_us=began_us,
        quick=quick,
        stage_settings=STAGE_SETTINGS,
        own_settings=own_settings,
        own_left_out=left_out,
    )
    _tell(made, earlier, as_json=as_json, junit=junit, html=html)


def _tell(
    made: reports.Report,
    earlier: reports.Report | None,
    *,
    as_json: bool,
    junit: Path | None,
    html: Path | None,
) -> None:
    """Write and print a report; exit with 1 where something fell short or got worse."""
    changes = reports.compare(earlier, made) if earlier is not None else []
    for file, content in ((junit, as_junit(made)), (html, as_html(made, changes).encode())):
        if file is not None:
            _write(file, content)
    if as_json:
        sys.stdout.write(reports.as_json(made).decode() + "\n")
    else:
        print_report(made, show.console, changes)
    if not made.held or any(change.is_worse for change in changes):
        sys.exit(1)


def _write(file: Path, content: bytes) -> None:
    try:
        file.write_bytes(content)
    except OSError as error:
        raise NightproofError(
            f"{file} cannot be written: {error.strerror}.", hint="Name another file."
        ) from error


def _end(number: int, frame: FrameType | None) -> None:
    """Take SIGTERM for a Ctrl-C: everything is undone on the way out."""
    raise KeyboardInterrupt


class _Progress:
    """Say on standard error what is being broken now."""

    def __init__(self, total: int, *, is_quiet: bool) -> None:
        """Begin; `total` 0: nobody knows how many there will be."""
        self._of_total = f"/{total}" if total else ""
        self._number = 0
        self._name = ""
        self._status = show.errors.status("setting up")
        self._is_quiet = is_quiet

    def __enter__(self) -> None:
        if sys.stderr.isatty():
            self._status.start()

    def __exit__(self, *_: Any) -> None:
        self._status.stop()

    def say(self, kind: str, words: str) -> None:
        """Show what happens now."""
        if kind == "drill":
            self._number += 1
            self._name = words
        self._status.update(f"{self._number}{self._of_total} [bold]{self._name}[/] {kind}: {escape(words)}")
        if not sys.stderr.isatty() and kind == "breaking" and not self._is_quiet:
            show.errors.print(f"{self._number}{self._of_total} {self._name}: {escape(words)}")

    def done(self, result: Result) -> None:
        """Show how a drill came out, for now: whether its alert ends is seen later."""
        if not self._is_quiet:
            colour = {"held": "green", "fell short": "red", "not restored": "red"}.get(result.word, "dim")
            why = f"  {escape(result.why)}" if result.word != "held" else ""
            show.errors.print(f"  [{colour}]{result.word}[/] {result.name}{why}")


def _list(drills: Sequence[Drill | NotRun | TargetDrill], *, as_json: bool) -> None:
    told = [
        {
            "name": one.name,
            "group": one.group,
            "breaks": one.breaks,
            "proves": list(one.proves),
            "runbook": one.runbook,
            "frameworks": list(one.frameworks),
            "quick": isinstance(one, Drill) and one.is_quick,
            "runs": not isinstance(one, NotRun),
            "why_not": one.why if isinstance(one, NotRun) else "",
        }
        for one in drills
    ]
    if as_json:
        show.as_json(told)
        return
    rows = [
        [
            one["name"],
            one["group"],
            "quick" if one["quick"] else "" if one["runs"] else "not run",
            one["breaks"],
        ]
        for one in told
    ]
    show.table("", ["drill", "group", "", "breaks"], rows)
