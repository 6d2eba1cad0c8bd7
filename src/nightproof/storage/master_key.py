"""Find the master key: in the environment, printed by a command, or in a file that only its owner may read.

Called once at the start, and by the verb that changes the key. Promises that a key never appears in an error,
and that a file which others may read is refused. Without any of the three it makes the file `master.key` in the
state folder: content is then sealed against who gets a copy of the databases alone, not of the whole folder.
"""

from __future__ import annotations

import base64
import binascii
import os
import shlex
import stat
import subprocess
from collections.abc import Mapping
from pathlib import Path

from nightproof.base.errors import StateError
from nightproof.storage.statefolder import write_durably

VARIABLE = "NIGHTPROOF_MASTER_KEY"
FILE_NAME = "master.key"
KEY_BYTES = 32
_COMMAND_WITHIN_S = 30.0
_FORM = "It is 32 random bytes in base64; `openssl rand -base64 32` makes one."


class VaultLocked(StateError):
    """The master key is not to be had, or does not open this vault."""

    exit_code = 78  # EX_CONFIG: starting again does not help

    def __init__(self, text: str, *, hint: str = "") -> None:
        # Whoever is called at night needs the page's name: no alert can carry it, since nothing starts.
        super().__init__(text, hint=f"{hint} See the runbook vault_locked.".strip())


def read_master_key(
    environ: Mapping[str, str], folder: Path, *, command: str = "", file: Path | None = None
) -> bytes:
    """Return the master key, 32 bytes: from the environment, a command, a file, or the one in the state folder.

    Raises VaultLocked with what to do.
    """
    if VARIABLE in environ:
        return _decoded(environ[VARIABLE], VARIABLE)
    if command:
        return _decoded(_printed_by(command), "vault.master_key_command")
    path = file
    if path is None:
        path = folder / FILE_NAME
        if not path.exists():
            if (folder / "vault.db").exists():
                raise VaultLocked(
                    f"{path} is missing, and the vault beside it was made with it.",
                    hint="Put it back, or say where the key is: vault.master_key_file. Without it no content opens.",
                )
            write_durably(path, base64.b64encode(os.urandom(KEY_BYTES)) + b"\n")
    return read_key_file(path)


def read_key_file(path: Path) -> bytes:
    """Return the key in a file. Raises VaultLocked where others may read it, or it is no key."""
    try:
        mode = path.stat().st_mode
        text = path.read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise VaultLocked(f"The master key {path} cannot be read: {reason}.", hint=_FORM) from None
    if stat.S_IMODE(mode) & 0o077:
        raise VaultLocked(
            f"The master key {path} may be read by others (mode {stat.S_IMODE(mode):04o}).",
            hint=f"chmod 600 {shlex.quote(str(path))}; if others were there, `nightproof audit rotate-key` changes it.",
        )
    return _decoded(text, str(path))


def _decoded(text: str, where: str) -> bytes:
    try:
        key = base64.b64decode(text.strip(), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if len(key) != KEY_BYTES:
        raise VaultLocked(f"What {where} holds is no master key.", hint=_FORM)
    return key


def _printed_by(command: str) -> str:
    try:
        done = subprocess.run(
            shlex.split(command), capture_output=True, text=True, timeout=_COMMAND_WITHIN_S, check=False
        )
    except (OSError, ValueError) as error:
        raise VaultLocked(
            f"vault.master_key_command cannot be run: {error}.", hint="Give the program with its full path."
        ) from None
    except subprocess.TimeoutExpired:
        raise VaultLocked(
            f"vault.master_key_command did not end within {_COMMAND_WITHIN_S:g} s.", hint="Run it by hand."
        ) from None
    if done.returncode:
        raise VaultLocked(
            f"vault.master_key_command ended with {done.returncode}.",
            hint="Run it by hand, as the server's user.",
        )
    return done.stdout
