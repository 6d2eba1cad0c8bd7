"""A release as one file, `NAME.npb`: a plain tar whose first member is what was signed, then the files in order.

`tar -xf` opens it. We read it ourselves, member by member: only regular files, only under the names that the
signed manifest lists, in its order, of its sizes, with its digests. So nothing of an archive decides where a byte
is written: no path out of the folder, no link, no device, no bomb. Never follows a name that it has not been given.
"""

from __future__ import annotations

import hashlib
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

from nightproof.base.errors import DeclarationError, NightproofError
from nightproof.storage.bundles import write_new

SIGNED = "release.sigstore.json"
"""The first member of a signed archive."""
LISTED = "files.json"
"""The first member of an unsigned one, which only the state folder's owner may hand in: digests and sizes."""
FILES = "files/"

_BLOCK = tarfile.BLOCKSIZE
_CHUNK_BYTES = 1 << 20
_END = b"\0" * _BLOCK


class ArchiveRefused(NightproofError):
    """A file is no archive of a release, or holds something else than its manifest says."""


def pack(first_name: str, first: bytes, folder: Path, sizes: Mapping[str, int]) -> Iterator[bytes]:
    """Yield the bytes of an archive; the same release gives the same bytes. Raises DeclarationError."""
    yield _header(first_name, len(first)) + first + _padding(len(first))
    for name in sorted(sizes):
        yield _header(FILES + name, sizes[name])
        with (folder / name).open("rb") as file:
            sent = 0
            while chunk := file.read(_CHUNK_BYTES):
                sent += len(chunk)
                yield chunk
        if sent != sizes[name]:
            raise DeclarationError(f"{name} changed its size while it was read.", hint="Try again.")
        yield _padding(sent)
    yield _END * 2


def packed_size(first_name: str, first: bytes, sizes: Mapping[str, int]) -> int:
    """Return how many bytes `pack` yields. Raises DeclarationError where a file cannot be in an archive."""
    members = {first_name: len(first), **{FILES + name: size for name, size in sizes.items()}}
    for name, size in members.items():
        _header(name, size)
    return sum(_BLOCK + size + len(_padding(size)) for size in members.values()) + 2 * _BLOCK


def read_first(archive: Path, *, most_bytes: int) -> tuple[str, bytes]:
    """Return name and content of the first member. Raises ArchiveRefused."""
    try:
        with archive.open("rb") as file:
            name, size = _next(file)
            if name not in (SIGNED, LISTED):
                raise ArchiveRefused(f"It begins with {name[:80]!r}, not with {SIGNED}.", hint=_HINT)
            if size > most_bytes:
                raise ArchiveRefused(f"Its manifest has {size} bytes, more than {most_bytes}.", hint=_HINT)
            return name, _exactly(file, size)
    except OSError as error:
        raise ArchiveRefused(f"{archive} cannot be read: {error.strerror}.", hint="Name a file.") from error


def unpack(archive: Path, sums: Mapping[str, str], sizes: Mapping[str, int], into: Path) -> None:
    """Write the files that were announced into a new folder, each held to its size and digest while it is written.

    Raises ArchiveRefused at the first thing that is not as announced, and OSError where the disk does not take it.
    """
    into.mkdir(mode=0o700, parents=True)
    with archive.open("rb") as file:
        _, size = _next(file)
        file.seek(size + len(_padding(size)), 1)
        for name in sorted(sums):
            found, size = _next(file)
            if found != FILES + name:
                raise ArchiveRefused(_unexpected(found, name, sums), hint=_HINT)
            if size != sizes[name]:
                raise ArchiveRefused(f"{name} has {size} bytes; its manifest says {sizes[name]}.", hint=_HINT)
            digest = hashlib.sha256()
            write_new(into / name, _read(file, size, digest))
            if digest.hexdigest() != sums[name]:
                raise ArchiveRefused(f"{name} is not what was signed: its digest differs.", hint=_HINT)
            _skip_padding(file, size)
        rest = file.read(2 * _BLOCK + 1)
        if rest[:_BLOCK] != _END or rest.strip(b"\0"):
            name = (
                _header_of(rest[:_BLOCK])[0]
                if len(rest) >= _BLOCK and rest[:_BLOCK] != _END
                else "more bytes"
            )
            raise ArchiveRefused(f"It holds {name[:80]!r}, which its manifest does not list.", hint=_HINT)


_HINT = "Nothing of it was accepted. Get the release again from whoever made it, by a way that you trust."


def _unexpected(found: str, name: str, sums: Mapping[str, str]) -> str:
    if found.removeprefix(FILES) in sums:
        return f"{name} is missing."
    return f"It holds {found[:80]!r}, which its manifest does not list."


def _header(name: str, size: int) -> bytes:
    member = tarfile.TarInfo(name)
    member.size, member.mode, member.mtime = size, 0o644, 0
    try:
        return member.tobuf(tarfile.USTAR_FORMAT, "utf-8", "strict")
    except ValueError as error:
        raise DeclarationError(
            f"{name[:120]} cannot be in an archive: {error}.",
            hint="A file must be smaller than 8 GiB, its name shorter than 100 bytes.",
        ) from error


def _next(file: BinaryIO) -> tuple[str, int]:
    return _header_of(_exactly(file, _BLOCK))


def _header_of(block: bytes) -> tuple[str, int]:
    """Return a plain file's name and size; whatever else a tar may hold is refused."""
    if block == _END:
        raise ArchiveRefused("It ends before its last file.", hint=_HINT)
    try:
        member = tarfile.TarInfo.frombuf(block, "utf-8", "strict")
    except (tarfile.HeaderError, UnicodeDecodeError, ValueError):
        raise ArchiveRefused("It is no archive of a release, or damaged.", hint=_HINT) from None
    if member.type != tarfile.REGTYPE or member.size < 0:
        raise ArchiveRefused(f"It holds {member.name[:80]!r}, which is no plain file.", hint=_HINT)
    return member.name, member.size


def _exactly(file: BinaryIO, size: int) -> bytes:
    found = file.read(size)
    if len(found) != size:
        raise ArchiveRefused("It ends too early.", hint=_HINT)
    return found


def _read(file: BinaryIO, size: int, digest: hashlib._Hash) -> Iterator[bytes]:
    left = size
    while left:
        chunk = _exactly(file, min(left, _CHUNK_BYTES))
        left -= len(chunk)
        digest.update(chunk)
        yield chunk


def _padding(size: int) -> bytes:
    return b"\0" * (-size % _BLOCK)


def _skip_padding(file: BinaryIO, size: int) -> None:
    if _exactly(file, -size % _BLOCK).strip(b"\0"):
        raise ArchiveRefused("It holds bytes between its files.", hint=_HINT)
