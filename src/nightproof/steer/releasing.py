"""Turn folders and bundles into signed, registered releases; open them again; collect the files of old ones.

Called by `runtime` for a server, and by the command line where no server has the state folder. Promises: nothing is
accepted whose signature, bytes, formats, schemas and golden cases were not judged (`releases.gate`); what was
accepted is whole, durable and recorded before the registry learns of it, so that a kill at any moment leaves a
release accepted or not at all; a refusal leaves nothing behind and is recorded too. Decides nothing itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from nightproof.base.clock import iso_us, monotonic_s, utc_us
from nightproof.base.errors import DeclarationError, NightproofError, StateError
from nightproof.declare.describe import Description
from nightproof.releases import chat_changes, gate, keeping, signing
from nightproof.releases.gate import Finding, Policy
from nightproof.releases.manifest import (
    MOST_FILES,
    Facts,
    Manifest,
    ManifestRefused,
    is_name,
    read_statement,
    statement,
)
from nightproof.settings.settings import Settings
from nightproof.steer import examine
from nightproof.steer.archive import Archive
from nightproof.steer.examine import Examined
from nightproof.steer.making import (
    Asked,
    ReleaseRefused,
    interpreter_for,
    make_manifest,
    policy_of,
    refuse_unfit,
)
from nightproof.storage import bundle_archive, bundles, environments
from nightproof.storage.bundle_archive import ArchiveRefused
from nightproof.storage.bundles import Bundle
from nightproof.storage.registry_store import RegisteredRelease, RegistryStore
from nightproof.storage.release_files import ReleaseFiles, TrustedKey, new_trusted
from nightproof.storage.remote_store import RemoteStore
from nightproof.storage.sqlite import NotFound
from nightproof.storage.statefolder import StateFolder
from nightproof.watch.log import log
from nightproof.workers.engine import Origin
from nightproof.workers.pool import Pool

OWN_KEY = "this server"
_SECRET = "release_key"  # noqa: S105 - its name
_LATELY_S = 7_200.0
"""For so long the files of a release that was opened stay: it is loading, and has no part in the registry yet."""
PoolOf = Callable[[Path, str, Origin], Pool]


class Released(msgspec.Struct, frozen=True, kw_only=True):
    """A release that is accepted and registered."""

    service: str
    version: str
    digest: str
    signed_by: str
    was_there: bool
    files: int
    size_bytes: int
    findings: list[Finding]
    """What was seen and does not refuse it."""


class Opened(msgspec.Struct, frozen=True):
    """A registered release whose signature holds: what its workers are started with."""

    path: Path
    facts: Facts
    origin: Origin


class Releasing:
    """The releases of one state folder. One lock: releases are taken in and collected one after the other."""

    def __init__(
        self,
        archive: Archive,
        registry: RegistryStore,
        state: StateFolder,
        settings: Settings,
        *,
        say: Callable[..., None] = log,
    ) -> None:
        self.files = ReleaseFiles(state)
        self._archive = archive
        self._registry = registry
        self._state = state
        self._settings = settings
        self._say = say
        self._door = asyncio.Lock()
        self._opened_s: dict[str, float] = {}
        """When the files of each digest were opened last."""

    # -- making and taking in -----------------------------------------------------------------

    async def release_folder(
        self, folder: Path, asked: Asked, *, pool_of: PoolOf | None = None
    ) -> tuple[Released, Pool | None]:
        """Make a release of a folder, signed with the state folder's own key. Raises ReleaseRefused.

        With `pool_of`, the pool that was made for the golden cases goes on running and is returned; None where
        the release was there already.
        """
        async with self._door:
            if asked.leaves_room:
                size = await asyncio.to_thread(bundles.size_of, folder, self._state.bundles)
                refuse_full_disk(self._state, size, self._settings)
            bundle = await asyncio.to_thread(bundles.snapshot, folder, self._state.bundles)
            return await self._take(bundle, asked, None, pool_of)

    async def take_in(self, archive: Path, asked: Asked) -> Released:
        """Take in a release that was made elsewhere, as a file. Raises ReleaseRefused."""
        async with self._door:
            try:
                signed = await asyncio.to_thread(self._read_signed, archive, asked)
                bundle = await asyncio.to_thread(self._unpack, archive, signed)
            except (ArchiveRefused, ManifestRefused) as error:
                finding = Finding("malformed", "", error.text, error.hint)
                raise await self._refuse([finding], asked, None) from error
            except signing.SignatureRefused as error:
                raise await self._refuse([_of_signature(error)], asked, None) from error
            except ReleaseRefused as error:
                raise await self._refuse(error.findings, asked, None) from error
            released, _ = await self._take(
                bundle, asked, signed if isinstance(signed, _Signed) else None, None
            )
            return released

    async def _take(
        self, bundle: Bundle, asked: Asked, signed: _Signed | None, pool_of: PoolOf | None
    ) -> tuple[Released, Pool | None]:
        """Judge a bundle and register it; where that fails, leave nothing of it behind."""
        pool: Pool | None = None
        try:
            version = signed.manifest.facts.version if signed else asked.version or f"dev-{bundle.digest[:8]}"
            refuse_unfit(bundle, version)
            findings = await examine.formats_of(bundle.path, bundle.sums)
            await self._decide(findings, asked, bundle, version=version)
            named = signed.manifest.facts.interpreter if signed else asked.python
            python, trouble = await interpreter_for(bundle, named, self._state.environments)
            findings += trouble
            await self._decide(findings, asked, bundle, version=version)
            versions = signed.manifest.facts.versions if signed else {}
            origin = Origin(digest=bundle.digest, versions=versions, python=python)
            pool = pool_of(bundle.path, version, origin) if pool_of else None
            examined = await examine.run(
                bundle.path, origin=origin, settings=self._settings.workers, pool=pool
            )
            described = examined.description
            findings += examined.findings
            if described is not None:
                findings += self._of_service(described, version, bundle, signed)
            await self._decide(findings, asked, bundle, version=version)
            if described is None:
                raise StateError("The release was loaded and told nothing of itself.")
            known = self._registry.find(described.service, version)
            if known is not None and self.is_signed(described.service, version):
                return _released(
                    bundle, described.service, version, self._signer_of(known), findings, True
                ), pool
            if signed is None:
                signed = await self._sign(bundle, version, described, examined, asked)
            await self._register(bundle, signed, asked)
            return _released(bundle, described.service, version, signed.key_id, findings, False), pool
        except BaseException:
            if pool is not None:
                await pool.stop()
            await asyncio.to_thread(self._drop_if_unneeded, bundle.digest)
            raise

    def _of_service(
        self, described: Description, version: str, bundle: Bundle, signed: _Signed | None
    ) -> list[Finding]:
        """Compare what the worker told with what was signed, with the version's name, and with what is live."""
        found = []
        name = described.service
        known = self._registry.find(name, version)
        if known is not None and known.digest != bundle.digest:
            text = f"{name} has a release {version} with other content ({known.digest[:8]})."
            found.append(
                Finding("version_taken", "", text, "A version names one content for good; choose another.")
            )
        if signed is not None:
            facts = signed.manifest.facts
            if name != facts.service:
                text = f"service.py declares {name!r}, and {facts.service!r} was signed."
                found.append(Finding("wrong_service", "", text, "Make the release again."))
            elif (described.input_schema, described.output_schema) != (
                facts.input_schema,
                facts.output_schema,
            ):
                text = "Its types are others here than those that were signed."
                found.append(
                    Finding("schema_lies", "service.py", text, "Make the release again, on this platform.")
                )
        live = self._registry.live(name)
        if live is not None and live.label != version:
            try:
                facts = self._verified(live).manifest.facts
            except NightproofError as error:
                text = f"The live {live.label} cannot be compared with: {error.text}"
                return [*found, Finding("evidence", "", text)]
            found += examine.compared(live.label, facts, described)
        return found

    async def _decide(
        self, findings: Sequence[Finding], asked: Asked, bundle: Bundle, *, version: str
    ) -> None:
        decision = gate.decide(findings, policy_of(self._settings.releases, asked))
        if not decision.accepted:
            raise await self._refuse(findings, asked, bundle, version=version)

    async def _refuse(
        self, findings: Sequence[Finding], asked: Asked, bundle: Bundle | None, *, version: str = ""
    ) -> ReleaseRefused:
        """Record a refusal and return it, to be raised."""
        decision = gate.decide(findings, policy_of(self._settings.releases, asked))
        kinds = sorted({one.kind for one in decision.refusing})
        digest = bundle.digest if bundle else ""
        self._say("release_refused", level="warning", failure=decision.failure, version=version, found=kinds)
        await self._archive.note(
            "operator",
            who=asked.who,
            act="release.refuse",
            failure=decision.failure,
            release=version,
            digest=digest,
            found=kinds,
            reason=asked.reason,
        )
        return ReleaseRefused(decision, findings)

    async def _sign(
        self, bundle: Bundle, version: str, described: Description, examined: Examined, asked: Asked
    ) -> _Signed:
        manifest = await make_manifest(
            bundle,
            described,
            examined.versions,
            version=version,
            made_by=asked.made_by or asked.who,
            reason=asked.reason,
            python=asked.python,
        )
        key = await asyncio.to_thread(self._own_key)
        signed = signing.sign(statement(manifest), key)
        return _Signed(manifest, signed, signing.key_id(key.public_key()))

    async def _register(self, bundle: Bundle, signed: _Signed, asked: Asked) -> None:
        """Make the release durable, then recorded, then known: what is known is always whole."""
        facts = signed.manifest.facts
        try:
            if self._settings.releases.store:
                await asyncio.to_thread(self._put_away, bundle, signed)
            await asyncio.to_thread(self.files.write_signed, facts.service, facts.version, signed.content)
            await self._archive.note(
                "operator",
                who=asked.who,
                act="release.register",
                service=facts.service,
                release=facts.version,
                digest=bundle.digest,
                signed_by=signed.key_id,
                made_by=facts.made_by,
                reason=asked.reason,
                allow_breaking=asked.allow_breaking,
            )
            self._registry.register(facts.service, facts.version, bundle.digest)
        except BaseException:
            if self._registry.find(facts.service, facts.version) is None:
                self.files.remove_signed(facts.service, facts.version)
            raise
        self._say("release_registered", service=facts.service, release=facts.version, digest=bundle.digest)

    # -- what was signed ----------------------------------------------------------------------

    def _read_signed(self, archive: Path, asked: Asked) -> _Signed | _Listed:
        """Return what an archive says of itself, once its signature holds; nothing is written before that."""
        name, first = bundle_archive.read_first(archive, most_bytes=signing.MOST_BYTES)
        if name == bundle_archive.LISTED:
            if not asked.may_be_unsigned:
                text = "It is not signed, and only who owns the state folder may have it signed here."
                hint = (
                    "Sign it: nightproof release FOLDER --key FILE; its public key is trusted here after "
                    "nightproof trust add PUBLIC-KEY-FILE."
                )
                raise ReleaseRefused(gate.decide([Finding("unsigned", "", text, hint)], Policy()))
            return _listing(first)
        service = _service_named(first)
        verified = signing.verify(first, self._trusted_for(service))
        manifest = read_statement(verified.payload)
        if asked.version and asked.version != manifest.facts.version:
            text = f"It is signed as version {manifest.facts.version}, not {asked.version}."
            raise ManifestRefused(text, hint="Leave --version out, or make a release of that name.")
        known = self._registry.find(service, manifest.facts.version)
        if known is not None and known.digest != manifest.facts.bundle:
            text = f"{service} has a release {known.label} with other content ({known.digest[:8]})."
            hint = "A version names one content for good; choose another."
            raise ReleaseRefused(gate.decide([Finding("version_taken", "", text, hint)], Policy()))
        return _Signed(manifest, first, verified.key_id)

    def _unpack(self, archive: Path, announced: _Signed | _Listed) -> Bundle:
        """Unpack an archive beside the bundles and give it its name. Raises ArchiveRefused or StateError."""
        if isinstance(announced, _Signed):
            sums, sizes = announced.manifest.sums, announced.manifest.facts.sizes
        else:
            sums, sizes = announced.sums, announced.sizes
        size = sum(sizes.values())
        if size > (most := self._settings.releases.bundle_bytes):
            raise ArchiveRefused(
                f"Its files have {size} bytes, more than {most}.", hint="Raise releases.bundle_bytes."
            )
        refuse_full_disk(self._state, size, self._settings)
        temporary = bundles.temporary_in(self._state.bundles)
        try:
            bundle_archive.unpack(archive, sums, sizes, temporary)
            return bundles.put_in_place(temporary, self._state.bundles)
        except OSError as error:
            raise StateError(
                f"The release cannot be unpacked: {error.strerror}.", hint="Free space; nothing was accepted."
            ) from error
        finally:
            bundles.discard(temporary)

    def _own_key(self) -> signing.PrivateKey:
        return signing.read_private_key(self._archive.vault.secret(_SECRET, signing.new_private_key))

    def _trusted_for(self, service: str) -> dict[str, signing.PublicKey]:
        own = self._own_key().public_key()
        trusted: dict[str, signing.PublicKey] = {signing.key_id(own): own}
        for one in self.files.trusted():
            if not one.services or service in one.services:
                key = signing.read_public_key(one.pem.encode())
                trusted[signing.key_id(key)] = key
        return trusted

    def _verified(self, release: RegisteredRelease) -> _Signed:
        """Return what was signed of a registered release. Raises NotFound, SignatureRefused or ManifestRefused."""
        content = self.files.read_signed(release.service, release.label)
        verified = signing.verify(content, self._trusted_for(release.service))
        manifest = read_statement(verified.payload)
        facts = manifest.facts
        if (facts.service, facts.version, facts.bundle) != (release.service, release.label, release.digest):
            raise ManifestRefused(
                f"What was signed is {facts.service} {facts.version} ({facts.bundle[:8]}), and registered is"
                f" {release.service} {release.label} ({release.digest[:8]}).",
                hint="Somebody changed the state folder. Make the release again under a new version.",
            )
        return _Signed(manifest, content, verified.key_id)

    def is_signed(self, service: str, version: str) -> bool:
        """Say whether something was signed of a release; whether it holds is asked when it is opened."""
        return self.files.signed_path(service, version).exists()

    def _signer_of(self, release: RegisteredRelease) -> str:
        return self._verified(release).key_id

    # -- opening ------------------------------------------------------------------------------

    async def open(self, release: RegisteredRelease) -> Opened:
        """Say how a registered release's workers are started, once its signature holds.

        Each worker reads every byte again itself. Files that are not here are fetched from the store. Raises
        DeclarationError with what to do.
        """
        named = f"{release.service} {release.label}"
        self._opened_s[release.digest] = monotonic_s()
        try:
            signed = await asyncio.to_thread(self._verified, release)
        except NotFound as error:
            raise DeclarationError(f"{named}: {error.text}", hint=error.hint) from error
        except (signing.SignatureRefused, ManifestRefused) as error:
            raise DeclarationError(f"{named}: {error.text}", hint=error.hint) from error
        path = self._state.bundles / release.digest
        if not await asyncio.to_thread(path.is_dir):
            await asyncio.to_thread(self._fetch, release, signed)
        facts = signed.manifest.facts
        bundle = Bundle(release.digest, path, signed.manifest.sums, facts.sizes)
        python, trouble = await interpreter_for(bundle, facts.interpreter, self._state.environments)
        if trouble:
            raise DeclarationError(f"{named}: {trouble[0].text}", hint=trouble[0].hint)
        return Opened(path, facts, Origin(digest=release.digest, versions=facts.versions, python=python))

    # -- the store, and what is collected -------------------------------------------------------

    def _put_away(self, bundle: Bundle, signed: _Signed) -> None:
        store, name = RemoteStore(self._settings.releases.store), f"{bundle.digest}.npb"
        if not store.has(name):
            store.put(
                name, bundle_archive.pack(bundle_archive.SIGNED, signed.content, bundle.path, bundle.sizes)
            )

    def _fetch(self, release: RegisteredRelease, signed: _Signed) -> None:
        """Bring a release's files back from the store, and hold them to what was signed."""
        url = self._settings.releases.store
        if not url:
            raise DeclarationError(
                f"The files of {release.service} {release.label} are not here.",
                hint=f"They were collected or removed. Release them again: nightproof release FOLDER --version"
                f" {release.label}",
            )
        arriving = bundles.arriving_in(self._state.bundles, release.digest[:16])
        facts = signed.manifest.facts
        # Another release may have brought these bytes there, with another manifest in front of them.
        most_bytes = signed.manifest.size_bytes + 2 * signing.MOST_BYTES + 2_048 * (len(facts.sizes) + 4)
        arriving.unlink(missing_ok=True)
        try:
            RemoteStore(url).get(f"{release.digest}.npb", arriving, most_bytes=most_bytes)
            self._unpack(arriving, signed)
        except ArchiveRefused as error:
            raise DeclarationError(
                f"What {url} holds of {release.service} {release.label} is not what was signed: {error.text}",
                hint=error.hint,
            ) from error
        finally:
            arriving.unlink(missing_ok=True)
        self._say("release_fetched", service=release.service, release=release.label, store=url)

    async def sweep(self) -> None:
        """Remove what a killed run left half done. Only for who holds the state folder."""
        swept = await asyncio.to_thread(bundles.sweep, self._state.bundles)
        for digest in await asyncio.to_thread(bundles.present, self._state.bundles):
            if not self._registry.of_digest(digest):
                await asyncio.to_thread(bundles.remove, self._state.bundles, digest)
                swept += 1
        for service, version in self.files.versions():
            if self._registry.find(service, version) is None:
                self.files.remove_signed(service, version)
                swept += 1
        if swept:
            self._say("release_leftovers_removed", level="warning", count=swept)

    async def collect(self, who: str, *, only_say: bool = False) -> list[dict[str, Any]]:
        """Remove the files of old releases; return which, with their sizes."""
        async with self._door:
            present = await asyncio.to_thread(bundles.present, self._state.bundles)
            releases = self._kept_releases()
            digests = self._collectable(present)
            told = [
                {
                    "digest": digest,
                    "bytes": present[digest],
                    "releases": [f"{one.service} {one.version}" for one in releases if one.digest == digest],
                }
                for digest in digests
            ]
            if only_say or not digests:
                return told
            await self._archive.note("operator", who=who, act="release.collect", digests=digests)
            gone: set[str] = set()
            for digest in digests:
                if digest not in self._collectable(present):
                    continue  # somebody has taken it up meanwhile
                gone.add(digest)
                await asyncio.to_thread(bundles.remove, self._state.bundles, digest)
                if store := self._settings.releases.store:
                    await asyncio.to_thread(RemoteStore(store).remove, f"{digest}.npb")
            await asyncio.to_thread(self._collect_environments, set(present) - gone)
            return [one for one in told if one["digest"] in gone]

    def _collectable(self, present: Iterable[str]) -> list[str]:
        """Return the digests whose files may go now. A release that is being loaded has no part yet, and stays."""
        knobs, since_s = self._settings.releases, monotonic_s() - _LATELY_S
        self._opened_s = {digest: at_s for digest, at_s in self._opened_s.items() if at_s > since_s}
        found = keeping.collectable(
            self._kept_releases(), present, now_us=utc_us(), newest=knobs.keep_newest, days=knobs.keep_days
        )
        return [digest for digest in found if digest not in self._opened_s]

    def _collect_environments(self, digests: set[str]) -> None:
        """Remove the environments of locks that no release has whose files are here."""
        locks = {
            bundles.sum_of(path)
            for digest in digests
            if (path := self._state.bundles / digest / environments.LOCK).is_file()
        }
        environments.collect(self._state.environments, {environments.name_of(lock) for lock in locks})

    def list_all(self, service: str = "") -> list[dict[str, Any]]:
        """Describe the releases of a service, or of all: who made what when, and whether its files are here."""
        present = bundles.present(self._state.bundles)
        kept = self._kept_releases()
        knobs = self._settings.releases
        reasons = keeping.reasons_to_keep(
            kept, now_us=utc_us(), newest=knobs.keep_newest, days=knobs.keep_days
        )
        told = []
        for one in kept:
            if service and one.service != service:
                continue
            told.append(
                {
                    "service": one.service,
                    "version": one.version,
                    "digest": one.digest,
                    "part": one.part,
                    "registered": iso_us(one.made_us),
                    "kept": reasons.get((one.service, one.version), ""),
                    "files_here": one.digest in present,
                    **self._told_of(one.service, one.version),
                }
            )
        return told

    def _told_of(self, service: str, version: str) -> dict[str, Any]:
        release = self._registry.find(service, version)
        try:
            signed = self._verified(release) if release else None
        except NightproofError as error:
            return {"signed_by": "", "made": "", "made_by": "", "reason": "", "trouble": error.text}
        if signed is None:
            return {}
        facts = signed.manifest.facts
        return {
            "signed_by": self._name_of_key(signed.key_id),
            "made": facts.made,
            "made_by": facts.made_by,
            "reason": facts.reason,
            "asks": chat_changes.asks(facts.chat),
            "versions": facts.versions,
            "bytes": signed.manifest.size_bytes,
            "trouble": "",
        }

    def _kept_releases(self) -> list[keeping.Kept]:
        found = []
        for service in self._registry.services():
            stay = {one.label for one in self._registry.kept(service)}
            for one in self._registry.releases(service):
                part = "live" if one.live else "in use" if one.label in stay else ""
                found.append(
                    keeping.Kept(
                        service=service,
                        version=one.label,
                        digest=one.digest,
                        made_us=one.created_us,
                        part=part,
                    )
                )
        return found

    def _drop_if_unneeded(self, digest: str) -> None:
        if not self._registry.of_digest(digest):
            bundles.remove(self._state.bundles, digest)

    # -- keys ---------------------------------------------------------------------------------

    def keys(self) -> list[TrustedKey]:
        """Return the trusted keys, the state folder's own first."""
        own = self._own_key().public_key()
        mine = TrustedKey(
            id=signing.key_id(own), name=OWN_KEY, pem=signing.public_pem(own).decode(), added="", added_by=""
        )
        return [mine, *self.files.trusted()]

    async def trust(self, who: str, pem: str, *, name: str, services: list[str], reason: str) -> TrustedKey:
        """Accept releases that are signed with this key from now on. Raises KeyRefused."""
        public = signing.read_public_key(pem.encode())
        key = new_trusted(
            signing.key_id(public), name, signing.public_pem(public), services=services, who=who
        )
        await self._archive.note(
            "operator", who=who, act="trust.add", target=key.id, name=name, services=services, reason=reason
        )
        await asyncio.to_thread(self.files.trust, key)
        return key

    async def distrust(self, who: str, key_id: str, *, reason: str) -> tuple[TrustedKey, list[str]]:
        """Accept releases of this key no longer; return it, and which releases no longer load. Raises NotFound."""
        named = [one for one in self.files.trusted() if one.id.startswith(key_id)]
        target = named[0].id if len(named) == 1 else key_id
        await self._archive.note("operator", who=who, act="trust.remove", target=target, reason=reason)
        key = await asyncio.to_thread(self.files.distrust, key_id)
        return key, [f"{one['service']} {one['version']}" for one in self.list_all() if one.get("trouble")]

    def _name_of_key(self, key_id: str) -> str:
        return next((one.name or one.id[:16] for one in self.keys() if one.id == key_id), key_id[:16])


class _Signed(msgspec.Struct, frozen=True):
    """A manifest with the bytes under whose signature it came, and the key that signed."""

    manifest: Manifest
    content: bytes
    key_id: str


class _Listed(msgspec.Struct, frozen=True):
    """What an unsigned archive says of its files."""

    sums: dict[str, str]
    sizes: dict[str, int]


def refuse_full_disk(state: StateFolder, size_bytes: int, settings: Settings) -> None:
    """Raise StateError where a release would take the room that records need."""
    free = state.disk_free_bytes()
    if size_bytes + settings.ledger.disk_low_bytes > free:
        raise StateError(
            f"The release needs {size_bytes} bytes, and {free} are free, of which"
            f" {settings.ledger.disk_low_bytes} are kept for records.",
            hint="Free space, or collect old releases: nightproof releases gc",
        )


def _released(
    bundle: Bundle, service: str, version: str, key_id: str, findings: list[Finding], was_there: bool
) -> Released:
    return Released(
        service=service,
        version=version,
        digest=bundle.digest,
        signed_by=key_id,
        was_there=was_there,
        files=bundle.files,
        size_bytes=sum(bundle.sizes.values()),
        findings=findings,
    )


def _service_named(signed: bytes) -> str:
    """Read which service a signed manifest says it is, to know whose keys are asked; its signature is asked next."""
    payload, _ = signing.unverified_payload(signed)
    return read_statement(payload).facts.service


def _listing(first: bytes) -> _Listed:
    try:
        read = msgspec.json.decode(first, type=dict[str, tuple[str, int]])
    except msgspec.DecodeError:
        raise ManifestRefused("Its list of files cannot be read.") from None
    if not read or len(read) > MOST_FILES or not all(is_name(name) for name in read):
        raise ManifestRefused("Its list of files names none, too many, or one that is not inside.")
    return _Listed({n: one[0] for n, one in read.items()}, {n: max(0, one[1]) for n, one in read.items()})


def _of_signature(error: signing.SignatureRefused) -> Finding:
    if error.why == "malformed":
        return Finding("malformed", "", error.text, error.hint)
    kind: gate.Kind = "untrusted_key" if error.why == "unknown_key" else "wrong_signature"
    return Finding(kind, "", error.text, error.hint)
