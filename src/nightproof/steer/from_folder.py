"""Which release a folder leads to when it is served: the live one, or, where nothing is live yet, its own first one.

Called by `runtime` at the start, for each folder. Promises that a folder that differs from what is live, or cannot
even be read, changes nothing of what is served; it is only told, with the commands that would change it.
"""

from __future__ import annotations

import asyncio
import shlex
from collections.abc import Callable
from pathlib import Path

import msgspec

from nightproof.base.errors import DeclarationError
from nightproof.steer import examine
from nightproof.steer.making import Asked, ReleaseRefused
from nightproof.steer.releasing import PoolOf, Releasing
from nightproof.storage import bundles
from nightproof.storage.registry_store import RegisteredRelease, RegistryStore
from nightproof.storage.statefolder import StateFolder
from nightproof.workers.pool import Pool


class FolderState(msgspec.Struct, frozen=True, kw_only=True):
    """How a folder stands to what is live."""

    digest: str = ""
    service: str = ""
    live: RegisteredRelease | None = None
    registered: str = ""
    """The version under which the folder's present bytes are registered; empty: they are not."""
    trouble: str = ""
    """Why the folder could not be read."""


class Differing(msgspec.Struct, frozen=True):
    """A folder that is not served as it is: why, and what to type to have it served."""

    why: str
    commands: list[str]


async def release_of(
    folder: Path,
    releasing: Releasing,
    registry: RegistryStore,
    state: StateFolder,
    *,
    pool_of: PoolOf,
    on_differs: Callable[[Differing, RegisteredRelease], None],
) -> tuple[RegisteredRelease, Pool]:
    """Return the release to serve for a folder, with its first worker up. Raises DeclarationError.

    Where nothing is live, the folder is signed and registered; it is for the caller to make it live.
    """
    folder = await asyncio.to_thread(folder.resolve)
    stands = await how_it_stands(folder, releasing, registry, state.bundles)
    release = stands.live
    if release is not None:
        if stands.digest != release.digest:
            on_differs(differing(folder, stands, release, state.path), release)
        await adopt(release, releasing, state)
    elif stands.registered:
        release = registry.find(stands.service, stands.registered)
    if release is None:
        release, pool = await _first_release(folder, releasing, registry, pool_of)
    else:
        pool = None
    if pool is None:
        opened = await releasing.open(release)
        pool = pool_of(opened.path, release.label, opened.origin)
        try:
            await pool.start()
        except DeclarationError as error:
            named = f"{release.service} {release.label}"
            raise DeclarationError(f"{named} ({folder}): {error.text}", hint=error.hint) from error
    if not stands.trouble:
        await asyncio.to_thread(releasing.files.remember, folder, release.service)
    return release, pool


async def _first_release(
    folder: Path, releasing: Releasing, registry: RegistryStore, pool_of: PoolOf
) -> tuple[RegisteredRelease, Pool | None]:
    """Sign and register a folder of whose service nothing is live yet; its worker goes on."""
    asked = Asked(who="serve", reason="nothing was live", made_by=f"serve {folder}", leaves_room=False)
    try:
        released, pool = await releasing.release_folder(folder, asked, pool_of=pool_of)
    except (DeclarationError, ReleaseRefused) as error:
        raise DeclarationError(f"{folder}: {error.text}", hint=error.hint) from error
    release = registry.find(released.service, released.version)
    if release is None:
        raise DeclarationError(f"{folder}: its release {released.version} is not registered.")
    return release, pool


async def how_it_stands(
    folder: Path, releasing: Releasing, registry: RegistryStore, bundles_dir: Path
) -> FolderState:
    """Compare a folder, by its full path, with what is live: it is only served itself where nothing is."""
    if not registry.services():
        return FolderState()
    try:
        found = await asyncio.to_thread(bundles.fingerprint, folder, bundles_dir)
        registered = registry.of_digest(found.digest)
        if registered:
            service = registered[0].service
        else:
            service = await examine.name_of(folder)
    except DeclarationError as error:
        service = releasing.files.remembered(folder)
        live = registry.live(service) if service else None
        if live is None:
            raise
        return FolderState(service=service, live=live, trouble=error.text)
    live = registry.live(service)
    label = next((one.label for one in registered if one.service == service), "")
    return FolderState(digest=found.digest, service=service, live=live, registered=label)


async def adopt(release: RegisteredRelease, releasing: Releasing, state: StateFolder) -> None:
    """Sign a development release that an earlier Nightproof registered without a signature."""
    if releasing.is_signed(release.service, release.label) or not release.label.startswith("dev-"):
        return
    asked = Asked(
        who="serve", reason="registered before releases were signed", version=release.label, leaves_room=False
    )
    try:
        await releasing.release_folder(state.bundles / release.digest, asked)
    except ReleaseRefused as error:
        raise DeclarationError(f"{release.service} {release.label}: {error.text}", hint=error.hint) from error


def differing(folder: Path, stands: FolderState, live: RegisteredRelease, state: Path) -> Differing:
    """Say that a folder is not what is live, and give the exact commands that would make it so."""
    where = "" if state == Path(".nightproof").absolute() else f" --state {shlex.quote(str(state))}"
    if stands.trouble:
        why = f"{live.service} {live.label} is served; {folder} cannot be read: {stands.trouble}"
        return Differing(why, [f"nightproof check {shlex.quote(str(folder))}"])
    version = stands.registered or f"dev-{stands.digest[:8]}"
    promote = f"nightproof promote {live.service} {version} --now{where}"
    if stands.registered:
        why = f"{live.service} {live.label} is live and served; {folder} is {version}, which is released and not live."
        return Differing(why, [promote])
    why = f"{live.service} {live.label} is live and served; {folder} differs from it and is not."
    return Differing(why, [f"nightproof release {shlex.quote(str(folder))}{where}", promote])
