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
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import msgspec

from nightproof.base.errors import DeclarationError, StateError
from nightproof.storage.statefolder import sync_folder

IGNORE_FILE = ".nightproofignore"

_CHUNK_BYTES = 1 << 20
_DIGEST_LENGTH = 64
_NEVER = ("__pycache__", "*.pyc")


class Bundle(msgspec.Struct, frozen=True):
    """A snapshot of a service folder."""

    digest: str
    """SHA-256, hex, over the sorted pairs of relative path and file's SHA-256."""
    path: Path
    sums: dict[str, str]
    """The SHA-256, hex, of each file by its path."""
    sizes: dict[str, int]

    @property
    def files(self) -> int:
        """Count the files."""
        return len(self.sums)


def snapshot(folder: Path, bundles_dir: Path) -> Bundle:
    """Copy what belongs to the service; the same content gives the same bundle again.

    Left out: hidden files, `__pycache__`, `*.pyc`, the state folder, and what `.nightproofignore` names (one
    pattern a line, against name or path). Raises DeclarationError for what cannot be part of a release.
    """
    if not folder.is_dir():
        raise DeclarationError(f"{folder} is not a folder.", hint="Name the service's folder.")
    temporary = temporary_in(bundles_dir)
    try:
        temporary.mkdir(mode=0o700, parents=True)
        for relative, source in _belonging(folder, away_from=bundles_dir):
            copy_file(source, temporary / relative)
        bundle = put_in_place(temporary, bundles_dir)
    except OSError as error:
        raise StateError(
            f"The snapshot of {folder} failed at {error.filename}: {error.strerror}.",
            hint="Free space, or make the file readable and the state folder writable.",
        ) from error
    finally:
        discard(temporary)
    return bundle


def size_of(folder: Path, bundles_dir: Path) -> int:
    """Return how many bytes belong to the service. Raises DeclarationError."""
    if not folder.is_dir():
        raise DeclarationError(f"{folder} is not a folder.", hint="Name the service's folder.")
    return sum(source.stat().st_size for _, source in _belonging(folder, away_from=bundles_dir))


def fingerprint(folder: Path, bundles_dir: Path) -> Bundle:
    """Say what bundle `snapshot` would make of the folder now, without copying a byte. Raises DeclarationError."""
    if not folder.is_dir():
        raise DeclarationError(f"{folder} is not a folder.", hint="Name the service's folder.")
    sums, sizes = {}, {}
    try:
        for relative, source in _belonging(folder, away_from=bundles_dir):
            sums[relative], sizes[relative] = _sum_of(source)
    except OSError as error:
        raise DeclarationError(
            f"{error.filename} cannot be read: {error.strerror}.", hint="Make the folder readable."
        ) from error
    digest = digest_of(sums)
    return Bundle(digest, bundles_dir / digest, sums, sizes)


def open_bundle(bundles_dir: Path, digest: str) -> Bundle:
    """Return the bundle of this digest, verified. Raises StateError where it is missing or changed."""
    path = bundles_dir / digest
    if not path.is_dir():
        raise StateError(
            f"The bundle {digest[:8]} is not in {bundles_dir}.", hint="Register the folder again."
        )
    bundle = _read(path)
    if bundle.digest != digest:
        raise _changed(path, bundle.digest)
    return bundle


def verify(bundle: Bundle) -> None:
    """Read every byte of the bundle again; raise StateError where it is not what its name says."""
    found = _read(bundle.path).digest
    if found != bundle.digest:
        raise _changed(bundle.path, found)


def verify_folder(path: Path, digest: str) -> None:
    """Read every byte of a folder; raise StateError where its content has another digest. For workers."""
    verify(Bundle(digest, path, {}, {}))


def sweep(bundles_dir: Path) -> int:
    """Remove what a killed release left half done; return how many. Only for who holds the state folder."""
    left = [one for one in bundles_dir.glob(".*") if one.name.startswith((".new-", ".in-"))]
    for one in left:
        if one.is_dir() and not one.is_symlink():
            shutil.rmtree(one, ignore_errors=True)
        else:
            one.unlink(missing_ok=True)
    return len(left)


def present(bundles_dir: Path) -> dict[str, int]:
    """Return the digests of the bundles that are there, each with its size in bytes."""
    found = {}
    for one in bundles_dir.iterdir():
        if len(one.name) == _DIGEST_LENGTH and one.is_dir():
            found[one.name] = sum(file.lstat().st_size for file in one.rglob("*") if not file.is_dir())
    return found


def remove(bundles_dir: Path, digest: str) -> None:
    """Remove a bundle: out of its place first, so that none is ever there by half."""
    doomed = temporary_in(bundles_dir)
    try:
        (bundles_dir / digest).rename(doomed)
        sync_folder(bundles_dir)
    except FileNotFoundError:
        return
    except OSError as error:
        raise StateError(f"The bundle {digest[:8]} cannot be removed: {error.strerror}.") from error
    shutil.rmtree(doomed, ignore_errors=True)


def discard(temporary: Path) -> None:
    """Remove what was gathered and did not become a bundle."""
    shutil.rmtree(temporary, ignore_errors=True)


def arriving_in(bundles_dir: Path, name: str) -> Path:
    """Return the path of a file in which a release arrives; `sweep` removes it if nobody else does."""
    return bundles_dir / f".in-{name}"


def append_at(path: Path, at: int, part: bytes) -> None:
    """Write a part of a file at its place. Raises OSError."""
    fd = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        written = 0
        while written < len(part):
            written += os.pwrite(fd, part[written:], at + written)
    finally:
        os.close(fd)


def temporary_in(bundles_dir: Path) -> Path:
    """Return a path in which a bundle may be gathered; `sweep` removes it if nobody else does."""
    return bundles_dir / f".new-{os.getpid()}-{secrets.token_hex(4)}"


def _read(path: Path) -> Bundle:
    sums, sizes = {}, {}
    try:
        for relative, source in _files_of(path):
            sums[relative], sizes[relative] = _sum_of(source)
    except OSError as error:
        raise StateError(
            f"The bundle {path} cannot be read: {error.strerror}.", hint="Register the folder again."
        ) from error
    return Bundle(digest_of(sums), path, sums, sizes)


def _changed(path: Path, found: str) -> StateError:
    return StateError(
        f"The bundle {path} was changed: its content is {found[:8]}.",
        hint="Do not serve it; find out who changed it, and register the folder again.",
    )


def digest_of(sums: Mapping[str, str]) -> str:
    """Name a set of files by what is in it and under which paths: SHA-256, hex."""
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


def copy_file(source: Path, target: Path) -> None:
    """Copy one file."""
    # Without following a link: what was a file a moment ago may be one now.
    with open(os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb") as given:
        write_new(target, iter(lambda: given.read(_CHUNK_BYTES), b""))


def write_new(target: Path, chunks: Iterable[bytes]) -> None:
    """Write a new file durably, read-only from the start. Raises FileExistsError."""
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    fd = os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW, 0o400)
    with open(fd, "wb") as taken:
        for chunk in chunks:
            taken.write(chunk)
        taken.flush()
        os.fsync(taken.fileno())


def sum_of(path: Path) -> str:
    """Return the SHA-256 of a file, hex."""
    return _sum_of(path)[0]


def _sum_of(path: Path) -> tuple[str, int]:
    with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest(), os.fstat(file.fileno()).st_size


def _files_of(path: Path) -> Iterator[tuple[str, Path]]:
    """Yield all that is in a bundle and is no folder."""
    for one in sorted(path.rglob("*")):
        mode = one.lstat().st_mode
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
            what = "a link" if stat.S_ISLNK(mode) else "no file"
            raise StateError(
                f"The bundle {path} was changed: {one} is {what}.", hint="Register the folder again."
            )
        if stat.S_ISREG(mode):
            yield one.relative_to(path).as_posix(), one


def _sync_folders(path: Path) -> None:
    for one in path.rglob("*"):
        if one.is_dir():
            sync_folder(one)
    sync_folder(path)


def put_in_place(temporary: Path, bundles_dir: Path) -> Bundle:
    """Give what was gathered its name, durably. A bundle that is there and good stays; a changed one makes way.

    What is on the disk is read once more for it: not what was meant to be written, but what was. Raises OSError.
    """
    gathered = _read(temporary)
    bundle = Bundle(gathered.digest, bundles_dir / gathered.digest, gathered.sums, gathered.sizes)
    _sync_folders(temporary)
    if bundle.path.exists():
        try:
            verify(bundle)
            return bundle
        except StateError:
            bundle.path.rename(bundle.path.with_name(f".changed-{bundle.digest}-{secrets.token_hex(4)}"))
    try:
        temporary.rename(bundle.path)
    except OSError:
        # Another process was quicker with the same content.
        verify(bundle)
    sync_folder(bundles_dir)
    return bundle
