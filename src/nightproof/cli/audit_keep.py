"""`nightproof audit erase | hold | unhold | holds | expire | rotate-key`: keep and destroy. Each act is recorded."""

from __future__ import annotations

import base64
import sys
from pathlib import Path
from typing import Any

import click

from nightproof.cli import show
from nightproof.cli.main import reach_options
from nightproof.cli.offline import LOCAL, ask
from nightproof.steer import keep
from nightproof.storage.master_key import read_key_file
from nightproof.storage.quarantine import QuarantineStore


@click.command("erase")
@reach_options
@click.option("--subject", help="Value of the service's Subject field; without it, read from standard input.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def erase_command(state: Path, url: str | None, as_json: bool, subject: str | None, yes: bool) -> None:
    """Destroy the keys of everything about a person. Nothing brings it back; the log still verifies."""
    named = subject if subject is not None else sys.stdin.readline().rstrip("\n")
    if not yes:
        if not sys.stdin.isatty():
            raise click.UsageError("Say --yes: there is no terminal to ask on.")
        click.confirm(f"Destroy everything about {named!r} for good?", abort=True)

    async def offline(archive: Any) -> keep.Erased:
        vault = archive.vault
        store = QuarantineStore(
            archive.state.quarantine_db,
            seal=lambda content, person: vault.seal_bytes(content, purpose="quarantine", subject=person),
            unseal=lambda sealed: vault.open_bytes(sealed, purpose="quarantine"),
        )
        try:
            return await keep.erase(archive, LOCAL, named, forget=store.forget)
        finally:
            store.close()

    told = ask(state, url, "erase", {"subject": named}, offline)
    if as_json:
        show.as_json(told)
    else:
        show.console.print(
            f"erased: {told['keys']} keys of {told['records']} records and {told['quarantined']} quarantined ones"
        )


@click.command("hold")
@reach_options
@click.option("--service", default="", help="Default: every service.")
@click.option("--reason", required=True, help="The case, for the record.")
def hold_command(state: Path, url: str | None, as_json: bool, service: str, reason: str) -> None:
    """Keep content beyond its time until `unhold`."""
    body = {"service": service, "reason": reason}
    told = ask(state, url, "hold", body, lambda archive: keep.hold(archive, LOCAL, service, reason))
    if as_json:
        show.as_json(told)
    else:
        show.console.print(f"held: {show.plain(service or 'every service')}")


@click.command("unhold")
@reach_options
@click.option("--service", default="", help="Default: the hold on every service.")
def unhold_command(state: Path, url: str | None, as_json: bool, service: str) -> None:
    """End a hold: content past its time is destroyed again."""

    async def offline(archive: Any) -> dict[str, Any]:
        await keep.unhold(archive, LOCAL, service)
        return {"service": service, "held": False}

    told = ask(state, url, "unhold", {"service": service}, offline)
    if as_json:
        show.as_json(told)
    else:
        show.console.print(f"no longer held: {show.plain(service or 'every service')}")


@click.command("holds")
@reach_options
def holds_command(state: Path, url: str | None, as_json: bool) -> None:
    """List the holds that stand."""

    async def offline(archive: Any) -> list[keep.Hold]:
        await archive.note("access", who=LOCAL, act="audit.holds")
        return keep.holds(archive)

    told = ask(state, url, "holds", None, offline)
    if as_json:
        show.as_json(told)
    else:
        rows = [[one["service"] or "every service", one["since"], one["by"], one["reason"]] for one in told]
        show.table("", ["service", "since", "by", "reason"], rows)


@click.command("expire")
@reach_options
def expire_command(state: Path, url: str | None, as_json: bool) -> None:
    """Destroy content past its time now; a running server does so every hour."""

    async def offline(archive: Any) -> keep.Expired:
        return await keep.expire(archive, LOCAL, archive.state.declared().keep_days)

    told = ask(state, url, "expire", {}, offline)
    if as_json:
        show.as_json(told)
        return
    for service, count in told["dropped"].items():
        show.console.print(f"{show.plain(service)}: {count:,} contents destroyed")
    for service in told["held"]:
        show.console.print(f"{show.plain(service)}: held, nothing destroyed")
    if not told["dropped"] and not told["held"]:
        show.console.print("nothing is past its time")


@click.command("rotate-key")
@reach_options
@click.option(
    "--new-master-file",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="Also change the master key to the one in this file (mode 0600).",
)
def rotate_command(state: Path, url: str | None, as_json: bool, new_master_file: Path | None) -> None:
    """Seal new content under a new key of keys; with a new master key, wrap all of them anew."""
    new_master = None if new_master_file is None else read_key_file(new_master_file)
    body = {} if new_master is None else {"new_master": base64.b64encode(new_master).decode()}

    async def offline(archive: Any) -> dict[str, int]:
        return {"epoch": await keep.rotate(archive, LOCAL, new_master=new_master)}

    told = ask(state, url, "rotate", body, offline)
    if as_json:
        show.as_json(told)
        return
    show.console.print(f"new content is sealed under epoch {told['epoch']}")
    if new_master is not None:
        show.console.print(
            f"The vault opens with the key in {new_master_file} only, from now on: put it where the server reads "
            "its master key before the next start."
        )


COMMANDS = [erase_command, hold_command, unhold_command, holds_command, expire_command, rotate_command]
