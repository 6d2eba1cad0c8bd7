"""The command `nightproof` and its verbs. Exit code 0 good, 1 the thing asked about is bad, 2 usage."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from nightproof import __version__
from nightproof.base.errors import NightproofError, SettingError, StateError
from nightproof.cli import show

Verb = TypeVar("Verb", bound=Callable[..., Any])

_STATE_HELP = "State folder of the server."


def state_option(verb: Verb) -> Verb:
    """Add `--state`, which every verb takes."""
    return click.option(
        "--state",
        type=click.Path(path_type=Path, file_okay=False),
        default=Path(".nightproof"),
        envvar="NIGHTPROOF_STATE",
        show_default=True,
        help=_STATE_HELP,
    )(verb)


def reach_options(verb: Verb) -> Verb:
    """Add `--state`, `--url` and `--json`: how to reach a server, and how to print."""
    verb = click.option("--json", "as_json", is_flag=True, help="Print JSON.")(verb)
    verb = click.option("--url", help="Reach the server by HTTP with the key in NIGHTPROOF_KEY.")(verb)
    return state_option(verb)


class _Verbs(click.Group):
    """Print our errors as what happened and what to do; import a verb's module when it is asked for."""

    _LAZY = {
        "new": ("nightproof.cli.new", "new"),
        "check": ("nightproof.cli.check", "check"),
        "serve": ("nightproof.cli.serve", "serve"),
        "audit": ("nightproof.cli.audit", "audit"),
        "release": ("nightproof.cli.release", "release"),
        "releases": ("nightproof.cli.releases", "releases"),
        "trust": ("nightproof.cli.releases", "trust"),
        "promote": ("nightproof.cli.promote", "promote"),
        "rollback": ("nightproof.cli.rollback", "rollback"),
        "undo": ("nightproof.cli.rollback", "rollback"),
        "history": ("nightproof.cli.history", "history"),
        "replay": ("nightproof.cli.replay", "replay"),
        "hold": ("nightproof.cli.history", "hold"),
        "alerts": ("nightproof.cli.alerts", "alerts"),
        "runbook": ("nightproof.cli.runbook", "runbook"),
        "drift": ("nightproof.cli.drift", "drift"),
        "feedback": ("nightproof.cli.feedback", "feedback"),
        "drill": ("nightproof.cli.drill", "drill"),
    }

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*super().list_commands(ctx), *self._LAZY})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in self._LAZY:
            import importlib

            module, name = self._LAZY[cmd_name]
            command: click.Command = getattr(importlib.import_module(module), name)
            return command
        return super().get_command(ctx, cmd_name)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except SettingError as error:
            show.trouble(error.text, error.hint)
            ctx.exit(2)
        except StateError as error:
            show.trouble(error.text, error.hint)
            ctx.exit(error.exit_code)
        except NightproofError as error:
            show.trouble(error.text, error.hint)
            ctx.exit(1)


@click.group(cls=_Verbs, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="nightproof")
def cli() -> None:
    """Serve a model so that it holds at three in the morning."""


@cli.command()
@reach_options
@click.option("--watch", is_flag=True, help="Repeat every second until Ctrl-C.")
@click.option("--since", help="Show what was since then instead: 15m, 24h, 90d.")
def status(state: Path, url: str | None, as_json: bool, watch: bool, since: str | None) -> None:
    """Show workers, rate, p99 and endings of the running server. Exit 1 if it is not ready."""
    from nightproof.cli.client import from_options
    from nightproof.cli.status import print_status

    if since is not None:
        from nightproof.cli.timeline import show_since

        sys.exit(0 if show_since(state, url, since, as_json=as_json) else 1)
    client = from_options(state, url)
    told = client.get("/admin/status")
    if as_json:
        show.as_json(told)
    elif watch:
        from nightproof.cli.status import watch_status

        watch_status(lambda: client.get("/admin/status"))
    else:
        print_status(told)
    if not told["ready"]:
        sys.exit(1)


@cli.group()
def keys() -> None:
    """Make, list and revoke API keys."""


@keys.command("create")
@reach_options
@click.option("--role", type=click.Choice(["predict", "operate", "audit", "admin"]), required=True)
@click.option("--name", default="", help="Who or what it is for.")
@click.option("--service", "services", multiple=True, help="Narrow the key to this service; may be repeated.")
@click.option(
    "--expires-days",
    type=click.FloatRange(0, 36_500),
    default=90.0,
    show_default=True,
    help="0 never expires.",
)
def keys_create(
    state: Path,
    url: str | None,
    as_json: bool,
    role: str,
    name: str,
    services: tuple[str, ...],
    expires_days: float,
) -> None:
    """Make a key. It is shown once, now."""
    from nightproof.cli import keys as verbs

    made = verbs.create(
        state, url, role=role, name=name, services=services, expires_days=expires_days or None
    )
    if as_json:
        show.as_json(made)
    else:
        show.console.print(f"{made['key']}", soft_wrap=True)
        show.errors.print(
            f"key {made['id']}, role {made['role']}, expires {made['expires'] or 'never'}; shown once, keep it now"
        )


@keys.command("list")
@reach_options
def keys_list(state: Path, url: str | None, as_json: bool) -> None:
    """List the keys, never their secrets."""
    from nightproof.cli import keys as verbs

    found = verbs.list_all(state, url)
    if as_json:
        show.as_json(found)
        return
    rows = [
        [
            key["id"],
            key["role"],
            key["name"],
            ", ".join(key["services"]) or "all",
            key["state"],
            key["expires"] or "never",
            key["last_used"],
        ]
        for key in found
    ]
    show.table("", ["id", "role", "name", "services", "state", "expires", "last used"], rows)


@keys.command("revoke")
@reach_options
@click.argument("key_id")
def keys_revoke(state: Path, url: str | None, as_json: bool, key_id: str) -> None:
    """End a key at once."""
    from nightproof.cli import keys as verbs

    revoked = verbs.revoke(state, url, key_id)
    if as_json:
        show.as_json(revoked)
    else:
        show.console.print(f"key {revoked['id']} is revoked")


@cli.group()
def quarantine() -> None:
    """See to the records that ended workers."""


@quarantine.command("list")
@reach_options
def quarantine_list(state: Path, url: str | None, as_json: bool) -> None:
    """List quarantined records, without their content."""
    from nightproof.cli.client import from_options

    found = from_options(state, url).get("/admin/quarantine")
    if as_json:
        show.as_json(found)
        return
    rows = [
        [
            one["id"],
            one["service"],
            one["release"],
            one["reason"],
            one["at"],
            one["state"],
            "yes" if one["refused_now"] else "no",
        ]
        for one in found
    ]
    show.table("", ["id", "service", "release", "reason", "at", "state", "refused now"], rows)


@quarantine.command("show")
@reach_options
@click.argument("entry_id")
def quarantine_show(state: Path, url: str | None, as_json: bool, entry_id: str) -> None:
    """Show one record with its input. That you looked is recorded."""
    from nightproof.cli.client import from_options

    show.as_json(from_options(state, url).get(f"/admin/quarantine/{entry_id}"))


@quarantine.command("release")
@reach_options
@click.argument("entry_id")
def quarantine_release(state: Path, url: str | None, as_json: bool, entry_id: str) -> None:
    """Let a record through again."""
    from nightproof.cli.client import from_options

    released = from_options(state, url).post(f"/admin/quarantine/{entry_id}/release")
    if as_json:
        show.as_json(released)
    else:
        show.console.print(f"{released['id']} is let through again")


@quarantine.command("replay")
@reach_options
@click.argument("entry_id")
def quarantine_replay(state: Path, url: str | None, as_json: bool, entry_id: str) -> None:
    """Run a record through the live release; let it through if it is answered. Exit 1 if it is not."""
    from nightproof.cli.client import from_options

    outcome = from_options(state, url).post(f"/admin/quarantine/{entry_id}/replay")
    if as_json:
        show.as_json(outcome)
    elif outcome["answered"]:
        show.console.print(f"{outcome['id']} was answered and is let through again")
    else:
        show.console.print(f"{outcome['id']} fails still: {outcome['failure']}")
    if not outcome["answered"]:
        sys.exit(1)


def main() -> None:
    """Run the command line."""
    try:
        cli.main(prog_name="nightproof")
    except BrokenPipeError:
        os._exit(1)  # the reader of our output has left


if __name__ == "__main__":
    main()
