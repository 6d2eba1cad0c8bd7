"""Environments of releases that bring locked requirements: made once for each lock, kept in the state folder.

Called by `steer.releasing` before a release's worker starts. Promises: only wheels whose hashes the lock names are
installed, and none of their code runs while they are; an environment is ready whole or not at all. What the lock does
not name comes from the server's own environment, behind it.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

from nightproof.base.errors import StateError
from nightproof.storage.statefolder import write_durably

LOCK = "requirements.lock"
_OURS = str(Path(__file__).parents[2])
_READY = "ready"
_WITHIN_S = 900.0
_PASSED_ON = ("PATH", "HOME", "LANG", "TMPDIR", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE")
_PASSED_PREFIXES = ("PIP_", "HTTP_", "HTTPS_", "http_", "https_", "NO_PROXY", "no_proxy")


def digest_of_lock(lock: bytes) -> str:
    """Name a lock by its content, hex."""
    return hashlib.sha256(lock).hexdigest()


def name_of(lock_digest: str) -> str:
    """Name the environment of a lock, for this Python and this installation of Nightproof."""
    text = f"{lock_digest} {sys.version} {_OURS}"
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def interpreter_of(environments: Path, lock: Path) -> Path:
    """Return the interpreter of a lock's environment; make it where it is new. Raises StateError."""
    home = environments / name_of(digest_of_lock(lock.read_bytes()))
    python = home / "bin" / "python"
    if (home / _READY).exists() and python.exists():
        return python
    shutil.rmtree(home, ignore_errors=True)
    try:
        environments.mkdir(mode=0o700, exist_ok=True)
        _run([sys.executable, "-m", "venv", "--without-pip", str(home)])
        _run(
            [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", str(python), "install",
             "--quiet", "--no-input", "--require-hashes", "--only-binary", ":all:", "--no-deps", "-r", str(lock)]
        )  # fmt: skip
        (site,) = home.glob("lib/python*/site-packages")
        (site / "zz-server.pth").write_text("".join(f"{path}\n" for path in _own_paths()), encoding="utf-8")
        write_durably(home / _READY, b"")
    except OSError as error:
        shutil.rmtree(home, ignore_errors=True)
        raise StateError(f"The environment of {LOCK} cannot be made: {error.strerror}.") from error
    except BaseException:
        shutil.rmtree(home, ignore_errors=True)
        raise
    return python


def collect(environments: Path, needed: set[str]) -> list[str]:
    """Remove the environments that no release needs, by their names; return which."""
    gone = []
    for home in environments.iterdir() if environments.is_dir() else ():
        if home.name not in needed:
            shutil.rmtree(home, ignore_errors=True)
            gone.append(home.name)
    return gone


def _own_paths() -> list[str]:
    """Return where the server's own packages are: ours first, since it may be installed for editing."""
    return [_OURS, *(path for path in sys.path if path.endswith("-packages") and path != _OURS)]


def _run(command: list[str]) -> None:
    environ = {
        name: value
        for name, value in os.environ.items()
        if name in _PASSED_ON or name.startswith(_PASSED_PREFIXES)
    }
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_WITHIN_S, env=environ, check=False
        )
    except subprocess.TimeoutExpired:
        raise StateError(
            f"Installing {LOCK} took over {_WITHIN_S:g} s.", hint="Is the package index slow?"
        ) from None
    if done.returncode:
        lines = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        raise StateError(
            f"{LOCK} cannot be installed: {' '.join(lines[-3:])[:600]}",
            hint="It needs a wheel and a hash for each package, as `pip-compile --generate-hashes` writes it; "
            "if it is not meant for the workers, name it in .nightproofignore.",
        )
