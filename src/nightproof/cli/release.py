"""`nightproof release`: make a release of a folder, or hand one in that was made elsewhere.

Through the running server if there is one, else on the state folder itself. With `--key` a release is made and
signed here, whatever is running elsewhere.
"""

from __future__ import annotations

import asyncio
import contextlib
import getpass
import os
import platform
import shlex
import sys
import tempfile
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import click
import msgspec
import uvloop
from rich.progress import Progress

from nightproof.base.errors import NightproofError
from nightproof.cli import show
from nightproof.cli.client import Client
from nightproof.cli.main import reach_options
from nightproof.cli.offline import LOCAL, running
from nightproof.releases import gate, signing
from nightproof.releases.manifest import VERSION_FORM, is_version, statement
from nightproof.settings.load import load
from nightproof.settings.settings import Settings
from nightproof.steer.archive import archive_of
from nightproof.steer.intake import PART_MOST_BYTES
from nightproof.steer.making import Asked, ReleaseRefused, make_elsewhere
from nightproof.steer.releasing import Releasing
from nightproof.storage import bundle_archive, bundles
from nightproof.storage.bundle_archive import LISTED, SIGNED
from nightproof.storage.registry_store import RegistryStore
from nightproof.storage.statefolder import StateFolder

T = TypeVar("T")
_ASK_EVERY_S = 0.1
_JUDGED_WITHIN_S = 3_600.0
_SHOW_FROM_BYTES = 32 << 20
_SHOWN_NOTES = 12


@click.command()
@click.argument("what", type=click.Path(path_type=Path), metavar="FOLDER|FILE.npb")
@reach_options
@click.option("--version", help="Name of the release.  [default: dev- and the first digits of its digest]")
@click.option(
    "--key",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Private key, PEM, that signs it; without one the state folder's own does.",
)
@click.option("--reason", default="", help="Why; it is recorded.")
@click.option(
    "--python", default="", help="Another interpreter, by its full path, that its workers start with."
)
@click.option("--allow-breaking", is_flag=True, help="Accept types that break callers of the live release.")
@click.option(
    "--output",
    "-o",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Only write it into this file, FILE.npb, signed with --key.",
)
def release(
    what: Path,
    state: Path,
    url: str | None,
    as_json: bool,
    version: str | None,
    key: Path | None,
    reason: str,
    python: str,
    allow_breaking: bool,
    output: Path | None,
) -> None:
    """Make a signed release of a service folder, or hand in one that was made elsewhere.

    It is judged before it is accepted: signature, every byte, formats of files, types against those of the live
    release, golden cases in a worker with its limits. It is not live before `nightproof promote`. Exit 1 if it
    is refused.
    """
    if version is not None and not is_version(version):
        raise click.UsageError(f"{version!r} cannot be a version. Use {VERSION_FORM}.")
    if not what.exists():
        raise click.UsageError(f"{what} is neither a folder nor a file.")
    if output is not None and (key is None or not what.is_dir()):
        raise click.UsageError("--output writes a release of a FOLDER that is signed with --key.")
    if what.is_file() and (key is not None or python):
        raise click.UsageError("A release in a file is signed as it is; leave --key and --python out.")
    if python and not Path(python).is_absolute():
        raise click.UsageError("--python needs a full path.")
    asked = Asked(
        who=LOCAL,
        reason=reason,
        version=version or "",
        python=python,
        made_by=_whoami(),
        allow_breaking=allow_breaking,
        may_be_unsigned=url is None,
    )
    try:
        with contextlib.ExitStack() as stack:
            if key is not None:
                made = output or Path(stack.enter_context(tempfile.TemporaryDirectory()), "release.npb")
                _make(what, made, key, asked)
                if output is not None:
                    show.console.print(f"{output} holds the release; hand it in: nightproof release {output}")
                    return
                what = made
            told = _hand_in(what, state, url, asked, stack)
    except ReleaseRefused as error:
        told = {
            "state": "refused",
            "failure": error.failure,
            "text": error.text,
            "hint": error.hint,
            "findings": [msgspec.to_builtins(one) for one in error.findings],
        }
    _print(told, state, url, asked, as_json=as_json)
    if told["state"] != "accepted":
        sys.exit(1)


def _make(folder: Path, target: Path, key_file: Path, asked: Asked) -> None:
    """Make a signed release of a folder in a file. Raises ReleaseRefused."""
    key = signing.read_private_key(read_key(key_file))
    settings = load(None, os.environ, {})

    async def work() -> None:
        with tempfile.TemporaryDirectory() as scratch:
            bundle = await asyncio.to_thread(bundles.snapshot, folder, Path(scratch))
            manifest = await make_elsewhere(bundle, asked, settings, Path(scratch, ".environments"))
            signed = signing.sign(statement(manifest), key)
            bundle_archive.packed_size(SIGNED, signed, bundle.sizes)
            _write(target, bundle_archive.pack(SIGNED, signed, bundle.path, bundle.sizes))

    run(work())


def _hand_in(
    what: Path, state: Path, url: str | None, asked: Asked, stack: contextlib.ExitStack
) -> dict[str, Any]:
    client = running(state, url)
    if client is None:
        return run(_offline_release(what, state, asked, is_folder=what.is_dir()))
    if what.is_dir():
        if url:
            raise NightproofError(
                "A folder that goes to another machine must be signed here.",
                hint="Give --key FILE; its public key is trusted there after `nightproof trust add`.",
            )
        found = bundles.fingerprint(what, StateFolder.open(state, create=False).bundles)
        listing = msgspec.json.encode({name: (found.sums[name], found.sizes[name]) for name in found.sums})
        size = bundle_archive.packed_size(LISTED, listing, found.sizes)
        return _upload(client, bundle_archive.pack(LISTED, listing, what, found.sizes), size, asked)
    file = stack.enter_context(what.open("rb"))
    chunks = iter(lambda: file.read(PART_MOST_BYTES), b"")
    return _upload(client, chunks, what.stat().st_size, asked)


async def _offline_release(what: Path, state: Path, asked: Asked, *, is_folder: bool) -> dict[str, Any]:
    async with offline(state) as room:
        if is_folder:
            released, _ = await room.release_folder(what, asked)
        else:
            released = await room.take_in(what, asked)
        return {"state": "accepted", "released": msgspec.to_builtins(released)}


@asynccontextmanager
async def offline(state: Path) -> AsyncIterator[Releasing]:
    """Hold the releases of a state folder while no server does."""
    folder = StateFolder.open(state)
    settings: Settings = load(None, os.environ, {"state": state})
    async with archive_of(settings, folder) as archive:
        with contextlib.closing(RegistryStore(folder.registry_db)) as registry:
            room = Releasing(archive, registry, folder, settings, say=_nothing)
            await room.sweep()
            yield room


def _upload(client: Client, chunks: Iterator[bytes], size: int, asked: Asked) -> dict[str, Any]:
    """Send a release in parts, have it judged, and wait for what comes of it."""
    body = {
        "size": size,
        "version": asked.version,
        "reason": asked.reason,
        "python": asked.python,
        "made_by": asked.made_by,
        "allow_breaking": asked.allow_breaking,
    }
    intake = client.post("/admin/releases", body)["id"]
    try:
        _send(client, intake, chunks, size)
    except BaseException:
        with contextlib.suppress(NightproofError):
            client.post(f"/admin/releases/{intake}/abandon")  # its place is free for others at once
        raise
    told: dict[str, Any] = client.post(f"/admin/releases/{intake}/finish")

    async def wait() -> dict[str, Any]:
        found = told
        async with asyncio.timeout(_JUDGED_WITHIN_S):
            while found["state"] == "judging":
                await asyncio.sleep(_ASK_EVERY_S)
                found = client.get(f"/admin/releases/{intake}")
        return found

    with show.errors.status("judging it: bytes, formats, types, golden cases"):
        return run(wait())


def _send(client: Client, intake: str, chunks: Iterator[bytes], size: int) -> None:
    at = 0
    with Progress(disable=size < _SHOW_FROM_BYTES, transient=True, console=show.errors) as progress:
        task = progress.add_task("sending", total=size)
        for part in _parts(chunks):
            client.post_bytes(f"/admin/releases/{intake}/part/{at}", part)
            at += len(part)
            progress.update(task, completed=at)


def _parts(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Cut a stream into parts of the size that the server takes."""
    held = bytearray()
    for chunk in chunks:
        held += chunk
        while len(held) >= PART_MOST_BYTES:
            yield bytes(held[:PART_MOST_BYTES])
            del held[:PART_MOST_BYTES]
    if held:
        yield bytes(held)


def _print(told: dict[str, Any], state: Path, url: str | None, asked: Asked, *, as_json: bool) -> None:
    if as_json:
        show.as_json(told)
        return
    findings = (told["released"] if told["state"] == "accepted" else told).get("findings", [])
    if told["state"] == "accepted":
        made = told["released"]
        how = "was there already" if made["was_there"] else "is released"
        show.console.print(
            f"[bold green]{made['service']} {made['version']}[/] {how}:"
            f" {made['files']} files, {size_in_words(made['size_bytes'])}, digest {made['digest'][:16]},"
            f" signed by key {made['signed_by'][:16]}"
        )
    refusing = [one for one in findings if told["state"] == "refused" and _refuses(one, asked)]
    if told["state"] == "refused":
        show.errors.print(f"[bold red]refused:[/] {told['failure']}  (its page: /runbooks/{told['failure']})")
        for one in refusing:
            show.trouble(f"{one['subject']}: {one['text']}" if one["subject"] else one["text"], one["hint"])
    elif told["state"] == "failed":
        show.trouble(told["text"], told["hint"])
    notes = [one for one in findings if one not in refusing and one["kind"] != "pickle"]
    for one in notes[:_SHOWN_NOTES]:
        word = _NOTES.get(one["kind"], "note")
        subject = f"{one['subject']}: " if one["subject"] else ""
        show.console.print(f"[yellow]{word}:[/] {show.plain(subject + one['text'])}", soft_wrap=True)
    if len(notes) > _SHOWN_NOTES:
        show.console.print(f"… and {len(notes) - _SHOWN_NOTES} more; --json has all")
    if told["state"] == "accepted":
        where = (
            f" --url {url}"
            if url
            else ""
            if state == Path(".nightproof")
            else f" --state {shlex.quote(str(state))}"
        )
        made = told["released"]
        show.console.print(
            f"make it live: nightproof promote {made['service']} {made['version']}{where}",
            soft_wrap=True,
            markup=False,
        )


_NOTES = {
    "evidence": "seen",
    "schema_additive": "types",
    "schema_breaking": "types",
    "chat_changed": "chat",
    "chat_breaking": "chat",
}


def _refuses(finding: dict[str, Any], asked: Asked) -> bool:
    """Say whether a finding is among those that refused it, as far as can be told without the server's settings."""
    policy = gate.Policy(allow_pickle=True, allow_breaking=asked.allow_breaking)
    read = msgspec.convert(finding, gate.Finding)
    return not gate.decide([read], policy).accepted


def size_in_words(size_bytes: float) -> str:
    """Say a number of bytes: 12.3 KiB."""
    for unit in ("B", "KiB", "MiB"):
        if size_bytes < 1_024:
            return f"{size_bytes:.4g} {unit}"
        size_bytes /= 1_024
    return f"{size_bytes:.4g} GiB"


def _write(target: Path, chunks: Iterator[bytes]) -> None:
    try:
        with target.open("wb") as file:
            for chunk in chunks:
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        target.unlink(missing_ok=True)
        raise NightproofError(f"{target} cannot be written: {error.strerror}.", hint="Free space.") from error


def read_key(path: Path) -> bytes:
    """Return a key file's content. Raises NightproofError."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise NightproofError(
            f"{path} cannot be read: {error.strerror}.", hint="Name a key in PEM."
        ) from error


def _nothing(event: str, **named: Any) -> None:
    """Take the place of the server's log: what happened is printed here."""


def _whoami() -> str:
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = str(os.geteuid())
    return f"{user}@{platform.node()}"


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run to its end what needs an event loop."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(work)
