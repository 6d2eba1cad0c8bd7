"""Make a release of a folder's snapshot: what is asked for, what is allowed, and the manifest that is signed.

Called by `steer.releasing` on a state folder, and by the command line for a release that is signed elsewhere.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import msgspec

from nightproof import __version__
from nightproof.base.clock import iso_us, utc_us
from nightproof.base.errors import DeclarationError, NightproofError, StateError
from nightproof.declare.describe import Description
from nightproof.releases import gate
from nightproof.releases.chat_changes import stated
from nightproof.releases.gate import Finding, Policy
from nightproof.releases.manifest import MOST_FILES, VERSION_FORM, Facts, Manifest, is_name, is_version
from nightproof.settings.settings import ReleaseSettings, Settings
from nightproof.steer import examine
from nightproof.storage import bundles, environments
from nightproof.storage.bundles import Bundle
from nightproof.workers.engine import Origin


class ReleaseRefused(NightproofError):
    """The gate's no: `failure` is the catalogue's name, `findings` all that was found."""

    def __init__(self, decision: gate.Decision, findings: Sequence[Finding] = ()) -> None:
        super().__init__(decision.text, hint=decision.hint)
        self.failure = decision.failure
        self.findings = list(findings) or decision.refusing


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """What somebody wants of a release that is made or taken in."""

    who: str
    reason: str = ""
    version: str = ""
    """Empty: `dev-` and the first digits of the digest."""
    python: str = ""
    """Another interpreter for its workers."""
    made_by: str = ""
    allow_breaking: bool = False
    leaves_room: bool = True
    """Whether the room that records need must stay free on the disk."""
    may_be_unsigned: bool = False
    """Whether the state folder's own key may sign it: for those who own the folder."""


async def interpreter_for(bundle: Bundle, python: str, environments_dir: Path) -> tuple[str, list[Finding]]:
    """Return the interpreter that a release's workers start with, and what keeps it from being had.

    The one it names, or that of its locked requirements' environment; empty is the server's own.
    """
    if python or environments.LOCK not in bundle.sums:
        return python, []
    try:
        found = await asyncio.to_thread(
            environments.interpreter_of, environments_dir, bundle.path / environments.LOCK
        )
    except StateError as error:
        return "", [Finding("versions_differ", environments.LOCK, error.text, error.hint)]
    return str(found), []


async def make_elsewhere(bundle: Bundle, asked: Asked, settings: Settings, scratch: Path) -> Manifest:
    """Judge a bundle where it is made, as far as that can be known there, and describe it. Raises ReleaseRefused."""
    version = asked.version or f"dev-{bundle.digest[:8]}"
    refuse_unfit(bundle, version)
    policy = policy_of(settings.releases, asked)
    findings = await examine.formats_of(bundle.path, bundle.sums)
    if not (decision := gate.decide(findings, policy)).accepted:
        raise ReleaseRefused(decision, findings)
    python, trouble = await interpreter_for(bundle, asked.python, scratch)
    findings += trouble
    if not (decision := gate.decide(findings, policy)).accepted:
        raise ReleaseRefused(decision, findings)
    origin = Origin(digest=bundle.digest, python=python)
    examined = await examine.run(bundle.path, origin=origin, settings=settings.workers)
    findings += examined.findings
    if not (decision := gate.decide(findings, policy)).accepted or examined.description is None:
        raise ReleaseRefused(decision, findings)
    return await make_manifest(
        bundle,
        examined.description,
        examined.versions,
        version=version,
        made_by=asked.made_by or asked.who,
        reason=asked.reason,
        python=asked.python,
    )


async def make_manifest(
    bundle: Bundle,
    described: Description,
    versions: dict[str, str],
    *,
    version: str,
    made_by: str,
    reason: str,
    python: str,
) -> Manifest:
    """Describe a release, ready to be signed."""
    facts = Facts(
        service=described.service,
        version=version,
        bundle=bundle.digest,
        made=iso_us(utc_us()),
        made_by=made_by,
        reason=reason,
        nightproof=__version__,
        versions=versions,
        interpreter=python,
        requirements="" if python else bundle.sums.get(environments.LOCK, ""),
        input_schema=described.input_schema,
        output_schema=described.output_schema,
        golden_cases=described.golden_cases,
        memory_mb=described.memory_mb,
        sizes=bundle.sizes,
        profile=await examine.profile_of(bundle.path, described),
        chat=stated(described.chat),
    )
    return Manifest(facts, bundle.sums)


def policy_of(settings: ReleaseSettings, asked: Asked) -> Policy:
    """Return what the operator allows."""
    endings = (one.strip().lower() for one in settings.also_allow.split(","))
    return Policy(
        allow_pickle=settings.allow_pickle == "signed",
        also_allow=frozenset(one for one in endings if one),
        allow_breaking=asked.allow_breaking,
    )


def refuse_unfit(bundle: Bundle, version: str) -> None:
    """Raise DeclarationError for what cannot be listed in a manifest."""
    if not is_version(version):
        raise DeclarationError(f"{version!r} cannot be a version.", hint=f"Use {VERSION_FORM}.")
    if not 0 < bundle.files <= MOST_FILES:
        raise DeclarationError(
            f"The folder has {bundle.files} files that belong to it; 1 to {MOST_FILES} are taken.",
            hint=f"Name what does not belong to it in {bundles.IGNORE_FILE}.",
        )
    for name in bundle.sums:
        if not is_name(name):
            raise DeclarationError(
                f"{name[:120]!r} cannot be the name of a file in a release.",
                hint="Use printable characters without a backslash, at most 240 bytes.",
            )
