"""`nightproof releases` and `nightproof trust`: look after releases that are there, and say whose are accepted.

Through the running server if there is one, else on the state folder itself. `releases verify` needs neither.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import click
import msgspec

from nightproof.base.errors import NightproofError
from nightproof.cli import show
from nightproof.cli.main import reach_options, state_option
from nightproof.cli.offline import LOCAL, running
from nightproof.cli.release import offline, read_key, run, size_in_words
from nightproof.releases import signing
from nightproof.releases.manifest import read_statement
from nightproof.storage import bundle_archive
from nightproof.storage.bundle_archive import SIGNED


@click.group()
def releases() -> None:
    """List, verify and collect releases."""


@releases.command("list")
@reach_options
@click.argument("service", default="")
def releases_list(state: Path, url: str | None, as_json: bool, service: str) -> None:
    """List the releases of a service, or of all, the newest first."""
    client = running(state, url)
    found = client.get("/admin/releases") if client else run(_listed(state))
    found = [one for one in found if service in ("", one["service"])]
    if as_json:
        show.as_json(found)
        return
    has_chats = any(one.get("asks") for one in found)
    rows = [
        [
            one["service"],
            one["version"],
            one["part"] or "-",
            one["digest"][:12],
            one.get("made", "") or one["registered"],
            one.get("made_by", ""),
            one.get("signed_by", ""),
            ("yes" if one["files_here"] else "collected"),
            *([one.get("asks", "")] if has_chats else []),
            one.get("trouble", "") or one.get("reason", ""),
        ]
        for one in found
    ]
    columns = [
        "service",
        "version",
        "part",
        "digest",
        "made",
        "by",
        "signed by",
        "files",
        *(["asks"] if has_chats else []),
        "reason or trouble",
    ]
    show.table("", columns, rows)


async def _listed(state: Path) -> Any:
    async with offline(state) as room:
        return room.list_all()


@releases.command("gc")
@reach_options
@click.option("--dry-run", is_flag=True, help="Only say what would be removed.")
def releases_gc(state: Path, url: str | None, as_json: bool, dry_run: bool) -> None:
    """Remove the files of old releases. What plays a part, is held, new or young stays; so does what was signed."""
    client = running(state, url)
    body = {"only_say": dry_run}
    told = client.post("/admin/releases/collect", body) if client else run(_collected(state, dry_run))
    if as_json:
        show.as_json(told)
        return
    for one in told:
        named = ", ".join(one["releases"]) or "no release"
        show.console.print(
            f"{'would remove' if dry_run else 'removed'} {one['digest'][:16]} ({named}), {size_in_words(one['bytes'])}"
        )
    if not told:
        show.console.print("nothing to remove")


async def _collected(state: Path, only_say: bool) -> Any:
    async with offline(state) as room:
        return await room.collect(LOCAL, only_say=only_say)


@releases.command("verify")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE.npb")
@click.option(
    "--key",
    type=click.Path(path_type=Path, dir_okay=False),
    required=True,
    help="Public key, PEM, that must have signed it.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def releases_verify(file: Path, key: Path, as_json: bool) -> None:
    """Verify a release in a file: its signature and every byte. Needs no server and runs nothing of it.

    Exit 1 if it does not hold.
    """
    public = signing.read_public_key(read_key(key))
    with tempfile.TemporaryDirectory() as scratch:
        name, first = bundle_archive.read_first(file, most_bytes=signing.MOST_BYTES)
        if name != SIGNED:
            raise NightproofError(
                "It is not signed.", hint="Make it with `nightproof release FOLDER --key FILE`."
            )
        verified = signing.verify(first, {signing.key_id(public): public})
        manifest = read_statement(verified.payload)
        bundle_archive.unpack(file, manifest.sums, manifest.facts.sizes, Path(scratch, "files"))
    facts = manifest.facts
    if as_json:
        show.as_json({"ok": True, "signed_by": verified.key_id, "facts": facts, "sums": manifest.sums})
        return
    show.console.print(
        f"[bold green]holds[/]  {facts.service} {facts.version}: {len(manifest.sums)} files,"
        f" {size_in_words(manifest.size_bytes)}, signed by key {verified.key_id[:16]}"
    )
    show.console.print(
        f"made {facts.made} by {show.plain(facts.made_by)}: {show.plain(facts.reason) or 'no reason given'}"
    )
    show.console.print(
        "with " + ", ".join(f"{name} {version}" for name, version in sorted(facts.versions.items()))
    )


@click.group()
def trust() -> None:
    """Say whose releases are accepted."""


@trust.command("add")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@reach_options
@click.option("--name", default="", help="Whose key it is.")
@click.option("--service", "services", multiple=True, help="Only for this service; may be repeated.")
@click.option("--reason", default="", help="Why; it is recorded.")
def trust_add(
    file: Path,
    state: Path,
    url: str | None,
    as_json: bool,
    name: str,
    services: tuple[str, ...],
    reason: str,
) -> None:
    """Trust a public key: whoever holds its private one may bring code onto this server."""
    pem = read_key(file)
    key_id = signing.key_id(signing.read_public_key(pem))
    body: dict[str, Any] = {
        "pem": pem.decode(),
        "name": name or file.stem,
        "services": list(services),
        "reason": reason,
    }
    client = running(state, url)
    told = client.post("/admin/trust", body) if client else run(_trusted(state, body))
    if as_json:
        show.as_json(told)
    else:
        show.console.print(f"key {key_id[:16]} ({show.plain(body['name'])}) is trusted")


async def _trusted(state: Path, body: dict[str, Any]) -> Any:
    async with offline(state) as room:
        return msgspec.to_builtins(
            await room.trust(
                LOCAL, body["pem"], name=body["name"], services=body["services"], reason=body["reason"]
            )
        )


@trust.command("list")
@reach_options
def trust_list(state: Path, url: str | None, as_json: bool) -> None:
    """List the trusted keys, this server's own first."""
    client = running(state, url)
    found = client.get("/admin/trust") if client else run(_keys(state))
    if as_json:
        show.as_json(found)
        return
    rows = [
        [
            one["id"][:16],
            one["name"],
            ", ".join(one["services"]) or "all",
            one["added"] or "-",
            one["added_by"] or "-",
        ]
        for one in found
    ]
    show.table("", ["key", "name", "services", "added", "by"], rows)


async def _keys(state: Path) -> Any:
    async with offline(state) as room:
        return msgspec.to_builtins(room.keys())


@trust.command("remove")
@click.argument("key_id")
@reach_options
@click.option("--reason", default="", help="Why; it is recorded.")
def trust_remove(key_id: str, state: Path, url: str | None, as_json: bool, reason: str) -> None:
    """Trust a key no longer. Its releases are not loaded again; what runs goes on until it is stopped."""
    client = running(state, url)
    if client:
        told = client.post("/admin/trust/remove", {"id": key_id, "reason": reason})
    else:
        told = run(_distrusted(state, key_id, reason))
    if as_json:
        show.as_json(told)
        return
    show.console.print(
        f"key {told['key']['id'][:16]} ({show.plain(told['key']['name'])}) is no longer trusted"
    )
    for one in told["no_longer_loads"]:
        show.console.print(
            f"[yellow]note:[/] {show.plain(one)} will not load again; release it under another key"
        )


async def _distrusted(state: Path, key_id: str, reason: str) -> Any:
    async with offline(state) as room:
        key, affected = await room.distrust(LOCAL, key_id, reason=reason)
        return {"key": msgspec.to_builtins(key), "no_longer_loads": affected}


@trust.command("show")
@click.argument("key_id", default="")
@state_option
@click.option("--url", help="Reach the server by HTTP with the key in NIGHTPROOF_KEY.")
def trust_show(key_id: str, state: Path, url: str | None) -> None:
    """Print a trusted public key as PEM; this server's own, unless another is named."""
    client = running(state, url)
    found = client.get("/admin/trust") if client else run(_keys(state))
    chosen = [one for one in found if one["id"].startswith(key_id)]
    if not chosen:
        raise NightproofError(f"No trusted key begins with {key_id!r}.", hint="See `nightproof trust list`.")
    sys.stdout.write(chosen[0]["pem"])
