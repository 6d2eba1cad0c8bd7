"""`nightproof serve FOLDER…`: start the server, and on a terminal say how to use it."""

from __future__ import annotations

import os
import shlex
import sys
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nightproof.base.roles import Role
from nightproof.cli import show
from nightproof.cli.main import state_option
from nightproof.gateway import server as gateway
from nightproof.settings.load import load
from nightproof.steer import keys
from nightproof.steer.tick import note
from nightproof.watch import log as logs

if TYPE_CHECKING:
    from nightproof.gateway.server import Server


@click.command()
@click.argument("folders", nargs=-1, required=True, type=click.Path(path_type=Path))
@state_option
@click.option(
    "--config",
    type=click.Path(path_type=Path, dir_okay=False),
    envvar="NIGHTPROOF_CONFIG",
    help="Settings file; nightproof.toml if there is one.",
)
@click.option("--host", help="Address to listen on.  [default: 127.0.0.1]")
@click.option("--port", type=int, help="Port to listen on; 0 takes a free one.  [default: 8000]")
@click.option(
    "--tls-cert", type=click.Path(path_type=Path), help="Certificate chain, PEM. Read again on SIGHUP."
)
@click.option("--tls-key", type=click.Path(path_type=Path), help="The certificate's key, PEM.")
@click.option(
    "--tls-client-ca",
    type=click.Path(path_type=Path),
    help="Authorities of callers' certificates: mutual TLS.",
)
@click.option("--insecure", is_flag=True, default=None, help="Allow listening beyond loopback without TLS.")
@click.option(
    "--set", "chosen", multiple=True, metavar="SECTION.KNOB=VALUE", help="Any other setting; may be repeated."
)
def serve(
    folders: tuple[Path, ...], state: Path, config: Path | None, chosen: tuple[str, ...], **flags: Any
) -> None:
    """Serve one or more service folders until told to stop.

    The first time, a folder is signed, registered and live. From then on the live release is served, and a
    folder that differs is only reported, with the commands that release and promote it. Settings come from
    nightproof.toml, then NIGHTPROOF_*, then flags; docs/settings.md lists them all.
    """
    for one in chosen:
        name, separator, value = one.partition("=")
        if not separator:
            raise click.UsageError(f"--set {one!r} has no '='. Write --set limits.quota_per_s=100.")
        if flags.get(name.strip()) is not None:
            raise click.UsageError(f"{name.strip()} is set twice. Keep one of the two.")
        flags[name.strip()] = value.strip()
    settings = load(config, os.environ, {**flags, "state": state})
    logs.set_up(settings.server.log_format, settings.server.log_level)
    sys.exit(gateway.serve(settings, folders, _say_how_to_use))


async def _say_how_to_use(server: Server) -> None:
    """Print where the server listens, and on a terminal a key and a line to paste."""
    runtime = server.runtime
    first = not keys.list_all(runtime.keyring, now_us=0)
    if not sys.stdout.isatty():
        # Never a secret where output may be kept: the operator makes a key with the verb.
        logs.log("listening", url=server.url, services=sorted(runtime.house.services))
        if first:
            logs.log(
                "no_keys_yet",
                hint=f"nightproof keys create --role predict --state {shlex.quote(str(runtime.settings.state))}",
            )
        return
    out = show.console
    names, state = ", ".join(sorted(runtime.house.services)), shlex.quote(str(runtime.settings.state))
    # Soft-wrapped, all of it: a line that is broken by us cannot be pasted.
    out.print(
        f"[bold green]nightproof[/] serves {names} at [bold]{server.url}[/]  (docs: {server.url}/docs)",
        soft_wrap=True,
    )
    for notice in runtime.notices:
        out.print(f"[yellow]note:[/] {show.plain(notice.why)}", soft_wrap=True)
        for command in notice.commands:
            out.print(f"  {command}", soft_wrap=True, markup=False)
    key = "$KEY"
    if first:
        made = keys.create(
            runtime.keyring, role=Role.ADMIN, name="first start", expires_in=timedelta(days=90)
        )
        await note(
            runtime.house.ledger,
            runtime.house.ids,
            "operator",
            who="first start",
            act="keys.create",
            target=made.id,
            role="admin",
        )
        key = made.key
        out.print("admin key, shown once; keep it now:")
        out.print(f"  {key}", soft_wrap=True)
    else:
        out.print("make a key, shown once:", soft_wrap=True)
        make = f"  KEY=$(nightproof keys create --role predict --state {state}); echo $KEY"
        out.print(make, soft_wrap=True, markup=False)
    for name in sorted(runtime.house.services):
        example = runtime.example_call(name)
        if example is None:
            continue
        path, body = example
        insecure = " --insecure" if server.url.startswith("https") else ""
        out.print(f"try {name}:", soft_wrap=True)
        out.print(
            f'  curl{insecure} -s {server.url}{path} -H "Authorization: Bearer {key}"'
            f" -H 'Content-Type: application/json' -d {shlex.quote(body)}",
            soft_wrap=True,
            markup=False,
        )
    flag = "" if state == ".nightproof" else f" --state {state}"
    out.print(f"watch it:  nightproof status{flag}", soft_wrap=True, markup=False)
