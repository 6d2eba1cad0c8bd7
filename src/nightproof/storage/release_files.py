"""What was signed of each release, and whose keys are trusted: small files in the state folder.

Used by `steer.releasing`. A release's signed manifest is written once, durably, before the registry learns of the
release, and never changed after. Judges nothing: whether a signature holds is asked above, each time it is read.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from nightproof.base.clock import iso_us, utc_us
from nightproof.base.errors import StateError
from nightproof.storage.sqlite import NotFound
from nightproof.storage.statefolder import StateFolder, sync_folder, write_durably


class TrustedKey(msgspec.Struct, frozen=True, kw_only=True):
    """A public key whose releases are accepted."""

    id: str
    name: str
    pem: str
    services: list[str] = []
    """The services whose releases it may sign; empty: all."""
    added: str
    added_by: str


class ReleaseFiles:
    """The folders `releases/` and `trusted/` of a state folder."""

    def __init__(self, state: StateFolder) -> None:
        self._releases = state.releases
        self._trusted = state.trusted_keys

    def write_signed(self, service: str, version: str, signed: bytes) -> None:
        """Keep what was signed of a release, durably. Raises StateError."""
        _make(self._releases)
        _make(self._releases / service)
        write_durably(self.signed_path(service, version), signed)

    def signed_path(self, service: str, version: str) -> Path:
        """Return where what was signed of a release lies."""
        return self._releases / service / f"{version}.sigstore.json"

    def read_signed(self, service: str, version: str) -> bytes:
        """Return what was signed of a release. Raises NotFound."""
        try:
            return self.signed_path(service, version).read_bytes()
        except FileNotFoundError:
            raise NotFound(
                f"What was signed of {service} {version} is missing.",
                hint=f"Make the release again: nightproof release FOLDER --version {version}",
            ) from None
        except OSError as error:
            raise StateError(f"{self.signed_path(service, version)}: {error.strerror}.") from error

    def remove_signed(self, service: str, version: str) -> None:
        """Forget what was signed of a release that was never registered."""
        self.signed_path(service, version).unlink(missing_ok=True)

    def versions(self) -> list[tuple[str, str]]:
        """Return service and version of everything that was signed."""
        found = self._releases.glob("*/*.sigstore.json") if self._releases.is_dir() else ()
        return sorted((one.parent.name, one.name.removesuffix(".sigstore.json")) for one in found)

    def remember(self, folder: Path, service: str) -> None:
        """Note which service a folder declares: one that is broken at a restart is still known."""
        known = self._folders()
        if known.get(str(folder)) != service:
            _make(self._releases)
            write_durably(
                self._releases / "folders.json", msgspec.json.encode({**known, str(folder): service})
            )

    def remembered(self, folder: Path) -> str:
        """Return the service that a folder declared when it was last read; empty: it never was."""
        return self._folders().get(str(folder), "")

    def _folders(self) -> dict[str, str]:
        try:
            return msgspec.json.decode((self._releases / "folders.json").read_bytes(), type=dict[str, str])
        except (FileNotFoundError, msgspec.DecodeError):
            return {}

    def trust(self, key: TrustedKey) -> None:
        """Trust a key from now on."""
        _make(self._trusted)
        write_durably(self._trusted / f"{key.id}.json", msgspec.json.encode(key))

    def distrust(self, key_id: str) -> TrustedKey:
        """Trust a key no longer, by its id or the first digits of it. Raises NotFound."""
        found = [one for one in self.trusted() if len(key_id) >= 8 and one.id.startswith(key_id)]
        if len(found) != 1:
            raise NotFound(
                f"{len(found)} trusted keys begin with {key_id!r}.", hint="See `nightproof trust list`."
            )
        (self._trusted / f"{found[0].id}.json").unlink()
        sync_folder(self._trusted)
        return found[0]

    def trusted(self) -> list[TrustedKey]:
        """Return the keys that are trusted. Raises StateError where a file of them cannot be read."""
        found = sorted(self._trusted.glob("*.json")) if self._trusted.is_dir() else []
        try:
            return [msgspec.json.decode(one.read_bytes(), type=TrustedKey) for one in found]
        except (OSError, msgspec.DecodeError) as error:
            raise StateError(
                f"The trusted keys in {self._trusted} cannot be read: {error}.",
                hint="Remove the damaged file, and add its key again: nightproof trust add FILE",
            ) from error


def new_trusted(key_id: str, name: str, pem: bytes, *, services: list[str], who: str) -> TrustedKey:
    """Describe a key that is to be trusted."""
    return TrustedKey(
        id=key_id, name=name, pem=pem.decode(), services=services, added=iso_us(utc_us()), added_by=who
    )


def _make(folder: Path) -> None:
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        sync_folder(folder.parent)
    except OSError as error:
        raise StateError(f"{folder} cannot be made: {error.strerror}.", hint="Free space.") from error
