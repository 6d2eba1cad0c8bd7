"""Keep bundles outside of the state folder too: at any URL that fsspec reaches (S3 and others).

Needs the extra `remote`. Called in threads, never on the event loop. What comes back is not trusted: whoever
fetches a bundle holds it to its signed manifest. A bundle is written under a passing name and then moved.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from nightproof.base.errors import StateError

_CHUNK_BYTES = 4 << 20


class RemoteStore:
    """A folder somewhere else. Raises StateError where it does not answer."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        try:
            import fsspec
        except ImportError:
            raise StateError(
                f"releases.store is {url}, and fsspec is not installed.",
                hint="pip install 'nightproof[remote]'",
            ) from None
        try:
            self._files, self._root = fsspec.core.url_to_fs(self.url)
        except (ImportError, ValueError) as error:
            raise StateError(
                f"releases.store {url} cannot be used: {error}.", hint="Install what fsspec needs for it."
            ) from error

    def put(self, name: str, chunks: Iterable[bytes]) -> None:
        """Keep a file; one of that name is replaced at once, when all of it is there."""
        passing = f"{self._root}/.new-{secrets.token_hex(8)}"

        def write() -> None:
            self._files.makedirs(self._root, exist_ok=True)
            with self._files.open(passing, "wb") as file:
                for chunk in chunks:
                    file.write(chunk)
            self._files.mv(passing, f"{self._root}/{name}")

        self._do(write, f"{name} cannot be written to {self.url}")

    def get(self, name: str, target: Path, *, most_bytes: int) -> None:
        """Bring a file here, not more of it than was said."""

        def read() -> None:
            with self._files.open(f"{self._root}/{name}", "rb") as file, target.open("xb") as taken:
                left = most_bytes
                while left > 0 and (chunk := file.read(min(_CHUNK_BYTES, left))):
                    left -= len(chunk)
                    taken.write(chunk)

        self._do(read, f"{name} cannot be fetched from {self.url}")

    def has(self, name: str) -> bool:
        """Say whether a file is there."""
        return bool(
            self._do(lambda: self._files.exists(f"{self._root}/{name}"), f"{self.url} does not answer")
        )

    def remove(self, name: str) -> None:
        """Remove a file; one that is not there is fine."""

        def drop() -> None:
            try:
                self._files.rm(f"{self._root}/{name}")
            except FileNotFoundError:
                pass

        self._do(drop, f"{name} cannot be removed from {self.url}")

    def _do(self, act: Any, said: str) -> Any:
        try:
            return act()
        except Exception as error:
            # Each file system of fsspec raises what its own library does; the operator reads which it was.
            raise StateError(
                f"{said}: {type(error).__name__}.", hint="Is the store up, and are its credentials set?"
            ) from error
