"""Where keys of upstreams are: `env:NAME` or `file:PATH`. Read here, handed on for one header, and told nobody.

Called by the chain of a chat service at its start and for each call. Promises that a key never appears in an error,
a log or a `repr`, and that a file that was replaced is read again without a restart. A file that goes away or is
spoiled while the server runs leaves the key as it was: rotation may take a moment.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path

from nightproof.base.clock import monotonic_s
from nightproof.base.errors import DeclarationError

_LOOKED_AT_EACH_S = 1.0
_MOST_BYTES = 16_384
_HINT = "A secret is named by `env:NAME` or `file:PATH`, and is one line of printable ASCII."


class Secret:
    """The key behind one reference; `value()` is the only way to it."""

    __slots__ = ("_environ", "_looked_s", "_stamp", "_value", "reference", "warning")

    def __init__(self, reference: str, environ: Mapping[str, str] = os.environ) -> None:
        self.reference = reference
        self.warning = ""
        """What an operator should know of where it lies; names the reference, never the key."""
        self._environ = environ
        self._looked_s = monotonic_s()
        self._stamp: tuple[int, ...] = ()
        self._value = self._read()

    def value(self) -> str:
        """Return the key, as it is now: a file is looked at each second at most."""
        now = monotonic_s()
        if now - self._looked_s >= _LOOKED_AT_EACH_S:
            self._looked_s = now
            try:
                self._value = self._read()
            except DeclarationError as error:
                self.warning = f"{error.text} The key as it was before is used."
        return self._value

    def _read(self) -> str:
        kind, _, where = self.reference.partition(":")
        if kind == "env" and where:
            if where not in self._environ:
                raise DeclarationError(
                    f"The secret {self.reference} is not set in the environment.", hint=_HINT
                )
            return self._checked(self._environ[where])
        if kind == "file" and where:
            return self._read_file(Path(where))
        # Somebody may have written the key itself there: it is not repeated.
        raise DeclarationError("An upstream's secret is no reference.", hint=_HINT)

    def _read_file(self, path: Path) -> str:
        try:
            seen = path.stat()
            stamp = (seen.st_mtime_ns, seen.st_ino, seen.st_size)
            if stamp == self._stamp:
                return self._value
            with path.open("rb") as file:
                text = file.read(_MOST_BYTES).decode("ascii")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not ASCII"
            raise DeclarationError(
                f"The secret {self.reference} cannot be read: {reason}.", hint=_HINT
            ) from None
        value = self._checked(text)
        self._stamp = stamp
        self.warning = (
            f"The secret {self.reference} may be read by everybody (mode {stat.S_IMODE(seen.st_mode):04o})."
            if seen.st_mode & stat.S_IROTH
            else ""
        )
        return value

    def _checked(self, text: str) -> str:
        value = text.strip()
        if not value or not value.isascii() or not value.isprintable():
            raise DeclarationError(
                f"The secret {self.reference} is empty, or not one line of text.", hint=_HINT
            )
        return value

    def __repr__(self) -> str:
        return f"<Secret {self.reference}>" if self.reference.startswith(("env:", "file:")) else "<Secret>"
