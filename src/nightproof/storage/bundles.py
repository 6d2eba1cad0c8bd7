"""Keep snapshots of service folders, named by what is in them.

Called by the releases room and by `runtime`; workers run from a bundle, never from the folder that somebody
may be editing. Promises: the digest covers every byte and every name; a bundle is there whole or not at all;
its files are read-only. Never follows a link out of the folder, never runs what it copies.
"""

from __future__ import annotations

import fnmatch
import hashlib
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

import msgspec

from nightproof.base.errors import DeclarationError, StateError
from nightproof.storage.statefolder import sync_folder

IGNORE_FILE = ".nightproofignore"

_CHUNK_BYTES = 1 << 20
_NEVER = ("__pycache__", "*.pyc")


class Bundle(msgspec.Struct, frozen=True):
    """A snapshot of a service folder."""

    digest: str
    """SHA-256, hex, over the sorted pairs of relative path and file's SHA-256."""
    path: Path
    files: int


def snapshot(folder: Path, bundles_dir: Path) -> Bundle:
    """Copy what belongs to the service; the same content gives the same bundle again.

    Left out: hidden files, `__pycache__`, `*.pyc`, the state folder, and what `.nightproofignore` names (one
    pattern a line, against name or path). Raises DeclarationError for what cannot be part of a release.
    """
    if not folder.is_dir():
        raise DeclarationError(f"{folder} is not a folder.", hint="Name the service's folder.")
    temporary = bundles_dir / f".new-{os.getpid()}-{secrets.token_hex(4)}"
    try:
        temporary.mkdir(mode=0o700, parents=True)
        sums = {
            relative: _copy(source, temporary / relative)
            for relative, source in _belonging(folder, away_from=bundles_dir)
        }
        bundle = Bundle(_digest(sums), bundles_dir / _digest(sums), len(sums))
        _sync_folders(temporary)
        _put_in_place(temporary, bundle)
        sync_folder(bundles_dir)
    except OSError as error:
        raise StateError(
            f"The snapshot of {folder} failed at {error.filename}: {error.strerror}.",
            hint="Free space, or make the file readable and the state folder writable.",
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return bundle


def open_bundle(bundles_dir: Path, digest: str) -> Bundle:
    """Return the bundle of this digest, verified. Raises StateError where it is missing or changed."""
    path = bundles_dir / digest
    if not path.is_dir():
        raise StateError(
            f"The bundle {digest[:8]} is not in {bundles_dir}.", hint="Register the folder again."
        )
    bundle = Bundle(digest, path, sum(1 for _ in _files_of(path)))
    verify(bundle)
    return bundle


def verify(bundle: Bundle) -> None:
    """Read every byte of the bundle again; raise StateError where it is not what its name says."""
    try:
        sums = {relative: _sum_of(source) for relative, source in _files_of(bundle.path)}
    except OSError as error:
        raise StateError(
            f"The bundle {bundle.path} cannot be read: {error.strerror}.", hint="Register the folder again."
        ) from error
    if _digest(sums) != bundle.digest:
        raise StateError(
            f"The bundle {bundle.path} was changed: its content is {_digest(sums)[:8]}.",
            hint="Do not serve it; find out who changed it, and register the folder again.",
        )


def _digest(sums: dict[str, str]) -> str:
    # A path holds no zero byte and a sum has one length, so no two folders give the same text.
    text = b"".join(os.fsencode(relative) + b"\0" + sums[relative].encode() for relative in sorted(sums))
    return hashlib.sha256(text).hexdigest()


def _belonging(folder: Path, *, away_from: Path) -> Iterator[tuple[str, Path]]:
    """Yield relative path and real file of all that belongs to the service."""
    root = folder.resolve()
    patterns = [*_NEVER, *_ignored_names(folder)]
    avoided = {away_from.resolve(), away_from.resolve().parent} - {root, *root.parents}
    yield from _walk(folder, "", root=root, patterns=patterns, above=(root,), avoided=avoided)


def _walk(
    folder: Path, inside: str, *, root: Path, patterns: list[str], above: tuple[Path, ...], avoided: set[Path]
) -> Iterator[tuple[str, Path]]:
    for one in sorted(os.scandir(folder), key=lambda entry: entry.name):
        relative = f"{inside}{one.name}"
        if one.name.startswith(".") or any(
            fnmatch.fnmatchcase(one.name, pattern) or fnmatch.fnmatchcase(relative, pattern)
            for pattern in patterns
        ):
            continue
        real = _real(Path(one.path), root)
        if real in avoided:
            continue
        if real.is_dir():
            if real in above:
                raise DeclarationError(
                    f"{one.path} leads back to a folder above it.", hint="Remove the link."
                )
            yield from _walk(
                Path(one.path),
                f"{relative}/",
                root=root,
                patterns=patterns,
                above=(*above, real),
                avoided=avoided,
            )
        elif real.is_file():
            yield relative, real
        else:
            raise DeclarationError(
                f"{one.path} is neither a file nor a folder.", hint=f"Remove it, or name it in {IGNORE_FILE}."
            )


def _real(path: Path, root: Path) -> Path:
    try:
        real = path.resolve(strict=True)
    except (OSError, RuntimeError) as error:
        raise DeclarationError(
            f"{path} is a link to nothing.", hint=f"Remove it, or name it in {IGNORE_FILE}."
        ) from error
    if not real.is_relative_to(root):
        raise DeclarationError(
            f"{path} leads out of the service's folder, to {real}.",
            hint=f"Copy the file into the folder, or name the link in {IGNORE_FILE}.",
        )
    return real


def _ignored_names(folder: Path) -> list[str]:
    path = folder / IGNORE_FILE
    if not path.is_file():
        return []
    lines = (line.strip() for line in path.read_text(encoding="utf-8").splitlines())
    return [line.rstrip("/") for line in lines if line and not line.startswith("#")]


def _copy(source: Path, target: Path) -> str:
    """Copy one file durably and return the SHA-256 of the bytes that were copied."""
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = hashlib.sha256()
    # Without following a link: what was a file a moment ago may be one now.
    with (
        open(os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb") as given,
        open(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o400), "wb") as taken,
    ):
        while chunk := given.read(_CHUNK_BYTES):
            found.update(chunk)
            taken.write(chunk)
        taken.flush()
        os.fsync(taken.fileno())
    return found.hexdigest()


def _sum_of(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _files_of(path: Path) -> Iterator[tuple[str, Path]]:
    """Yield all that is in a bundle and is no folder."""
    for one in sorted(path.rglob("*")):
        mode = one.lstat().st_mode
        if stat.S_ISLNK(mode):
            raise StateError(
                f"The bundle {path} was changed: {one} is a link.", hint="Register the folder again."
            )
        if not stat.S_ISDIR(mode):
            yield one.relative_to(path).as_posix(), one


def _sync_folders(path: Path) -> None:
    for one in path.rglob("*"):
        if one.is_dir():
            sync_folder(one)
    sync_folder(path)


def _put_in_place(temporary: Path, bundle: Bundle) -> None:
    """Give the copy its name. A bundle that is there and good stays; one that was changed makes way."""
    if bundle.path.exists():
        try:
            verify(bundle)
            return
        except StateError:
            bundle.path.rename(bundle.path.with_name(f".changed-{bundle.digest}-{secrets.token_hex(4)}"))
    try:
        temporary.rename(bundle.path)
    except OSError:
        # Another process was quicker with the same content.
        verify(bundle)
