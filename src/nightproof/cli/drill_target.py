"""`nightproof drill --target URL`: drill a server that runs already, from outside, with an adapter."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import msgspec

from nightproof.base.clock import utc_us
from nightproof.base.errors import SettingError
from nightproof.drills.observed import Result
from nightproof.drills.report.report import Report, Target, make_target_report
from nightproof.drills.run import Say
from nightproof.drills.target import builtin
from nightproof.drills.target.adapter import Adapter, RequestForm, checked, read_adapter
from nightproof.drills.target.health import ask_page
from nightproof.drills.target.place import TargetPlace, place_at
from nightproof.drills.target.run import TargetSuite, choose, restart_by
from nightproof.drills.target.scene import TargetDrill

_OPTIONS = (
    click.option("--target", metavar="URL", help="Drill this server from outside, instead of a folder."),
    click.option(
        "--adapter", metavar="oip|openai|FILE", help="How the target is asked; with --target.  [default: oip]"
    ),
    click.option("--model", metavar="NAME", help="The target's model, for the adapters that are built in."),
    click.option(
        "--body",
        type=click.Path(path_type=Path, dir_okay=False),
        help="A good request of the target as JSON, or a list of them.",
    ),
    click.option("--crash-command", metavar="COMMAND", help="Kills the target's model, or the target."),
    click.option(
        "--restart-command", metavar="COMMAND", help="Starts a target again that did not come back."
    ),
    click.option(
        "--deadline-ms", type=click.IntRange(50, 600_000), help="How long the target's callers wait at most."
    ),
    click.option("--allow-remote", is_flag=True, help="The target is another machine, and may be broken."),
)


def options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that belong to `--target`."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What was asked for on the command line."""

    target: str
    adapter: str | None
    model: str | None
    body: Path | None
    crash_command: str | None
    restart_command: str | None
    deadline_ms: int | None
    allow_remote: bool
    only: tuple[str, ...]
    seed: int


def chosen(wanted: Wanted) -> list[TargetDrill]:
    """Return the drills that are asked for. Raises SettingError."""
    return choose(wanted.only)


def run(wanted: Wanted, *, say: Say, done: Callable[[Result], None]) -> Report:
    """Drill the target and gather the report. Raises SettingError where it cannot be asked."""
    began_us = utc_us()
    drills = chosen(wanted)
    _refuse_remote(wanted)
    adapter = _adapter(wanted)
    place = place_at(wanted.target, adapter)
    status, _, headers = ask_page(place, (adapter.health.live or adapter.health.ready or ["/"])[0])
    if not status:
        raise SettingError(
            f"No server answers at {wanted.target}.", hint="Start it first: a target is never started."
        )
    restart = restart_by(wanted.restart_command) if wanted.restart_command else None
    suite = TargetSuite(place, seed=wanted.seed, say=say, on_result=done, restart=restart)
    results = suite.run(drills)
    target = Target(
        url=wanted.target,
        adapter=adapter.name,
        server=headers.get("server", ""),
        health={"live": suite.paths.live, "ready": suite.paths.ready},
        command=_command(wanted),
    )
    return make_target_report(
        target, results, deadline_ms=adapter.deadline.ms, seed=wanted.seed, began_us=began_us
    )


def _refuse_remote(wanted: Wanted) -> None:
    """Refuse to overload and break another machine by a slip of the hand."""
    asker = Adapter(name="asking", request=RequestForm(path="/"))
    place: TargetPlace = place_at(wanted.target, asker)
    if not place.is_local and not wanted.allow_remote:
        raise SettingError(
            f"{place.host} is another machine, and drills overload and break what they are pointed at.",
            hint="Where you may do that, add --allow-remote.",
        )


def _adapter(wanted: Wanted) -> Adapter:
    """Return the adapter, with what the command line says otherwise."""
    name = wanted.adapter or "oip"
    bodies = _bodies(wanted.body)
    if name in builtin.NAMES:
        # `${NIGHTPROOF_KEY}` is filled in when the target is asked; it stands in no report.
        headers = {"authorization": "Bearer ${NIGHTPROOF_KEY}"} if os.environ.get("NIGHTPROOF_KEY") else {}
        adapter = builtin.built_in(
            name, wanted.target, model=wanted.model or "", bodies=bodies, headers=headers
        )
    else:
        adapter = read_adapter(Path(name))
        if bodies:
            request = msgspec.structs.replace(adapter.request, good=bodies)
            adapter = checked(msgspec.structs.replace(adapter, request=request))
    if wanted.deadline_ms is not None:
        deadline = msgspec.structs.replace(adapter.deadline, ms=wanted.deadline_ms)
        adapter = msgspec.structs.replace(adapter, deadline=deadline)
    if wanted.crash_command:
        adapter = msgspec.structs.replace(adapter, crash_command=wanted.crash_command)
    return adapter


def _bodies(file: Path | None) -> list[Any]:
    if file is None:
        return []
    try:
        told = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SettingError(
            f"{file} holds no JSON: {error}.", hint="Write one good request into it."
        ) from error
    return told if isinstance(told, list) else [told]


def _command(wanted: Wanted) -> str:
    """Write the command line that makes the report again."""
    words: Sequence[tuple[str, object]] = (
        ("--target", wanted.target), ("--adapter", wanted.adapter), ("--model", wanted.model), ("--body", wanted.body),
        ("--crash-command", wanted.crash_command), ("--restart-command", wanted.restart_command),
        ("--deadline-ms", wanted.deadline_ms), ("--seed", wanted.seed), *(("--only", name) for name in wanted.only),
    )  # fmt: skip
    told = [f"{name} {shlex.quote(str(value))}" for name, value in words if value not in (None, "")]
    return " ".join(["nightproof drill", *told, *(["--allow-remote"] if wanted.allow_remote else [])])
