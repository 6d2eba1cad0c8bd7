"""What is signed of a release: every file's digest, and what the release is.

The form is the statement of OpenSSF Model Signing v1.0, whose predicate may carry more than its own fields: ours
is `nightproof`. So the reference tool verifies a bundle with the same file. Pure: never reads a file or the clock.
"""

from __future__ import annotations

import hashlib
import re
from typing import Any, Literal

import msgspec

from nightproof.base.errors import NightproofError
from nightproof.base.strictjson import JsonRefused, parse
from nightproof.storage.bundles import digest_of

STATEMENT_TYPE = "https://in-toto.io/Statement/v1"
PREDICATE_TYPE = "https://model_signing/signature/v1.0"
MOST_FILES = 10_000
LONGEST_NAME_BYTES = 240
VERSION_FORM = "letters, digits and . _ + -, at most 64, the first a letter or digit"

_ANYWHERE = frozenset({"/**"})
"""Schemas may hold integers beyond those that a double keeps."""
_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}")
_SERVICE = re.compile(r"[a-z][a-z0-9_-]{0,62}")
_DIGEST = re.compile(r"[0-9a-f]{64}")


class ManifestRefused(NightproofError):
    """A signed statement is no release of ours, or contradicts itself."""


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What a release says of itself, under its signature."""

    form: Literal[1] = 1
    service: str
    version: str
    bundle: str
    """The digest of the files: SHA-256, hex, over the sorted pairs of path and file's SHA-256."""
    made: str
    made_by: str
    reason: str = ""
    nightproof: str
    versions: dict[str, str]
    """Of Python and of the frameworks that the release uses, as its worker saw them."""
    interpreter: str = ""
    """The Python that its workers start with; empty: the server's own."""
    requirements: str = ""
    """The digest of its locked requirements, in whose environment its workers start; empty: it has none."""
    input_schema: dict[str, Any]
    output_schema: dict[str, Any]
    golden_cases: int
    memory_mb: int
    sizes: dict[str, int]
    """Bytes of each file."""
    profile: dict[str, Any] | None = None
    """The reference data in figures, if the release has some."""
    chat: dict[str, Any] | None = None
    """Of a chat service: upstreams, checks, rules, tools; prompt and template by their digest."""


class Manifest(msgspec.Struct, frozen=True):
    """A release as it was signed: what it is, and the SHA-256 of each file by its path."""

    facts: Facts
    sums: dict[str, str]

    @property
    def size_bytes(self) -> int:
        """All files together."""
        return sum(self.facts.sizes.values())


def is_version(text: str) -> bool:
    """Say whether this may be the version of a release."""
    return _VERSION.fullmatch(text) is not None


def is_name(name: str) -> bool:
    """Say whether this may be a file's path in a release: relative, plain, and inside."""
    parts = name.split("/")
    return (
        0 < len(name.encode("utf-8", "surrogatepass")) <= LONGEST_NAME_BYTES
        and name.isprintable()
        and "\\" not in name
        and all(part not in ("", ".", "..") for part in parts)
    )


def statement(manifest: Manifest) -> bytes:
    """Return the statement to sign."""
    names = sorted(manifest.sums)
    return msgspec.json.encode(
        {
            "_type": STATEMENT_TYPE,
            "subject": [
                {
                    "name": manifest.facts.service,
                    "digest": {"sha256": _root([manifest.sums[n] for n in names])},
                }
            ],
            "predicateType": PREDICATE_TYPE,
            "predicate": {
                "serialization": {
                    "method": "files",
                    "hash_type": "sha256",
                    "allow_symlinks": False,
                    "ignore_paths": [],
                },
                "resources": [
                    {"name": name, "algorithm": "sha256", "digest": manifest.sums[name]} for name in names
                ],
                "nightproof": msgspec.to_builtins(manifest.facts),
            },
        }
    )


def read_statement(payload: bytes) -> Manifest:
    """Return the release in a statement whose signature holds. Raises ManifestRefused."""
    try:
        read = msgspec.convert(parse(payload, wide_pointers=_ANYWHERE), _Statement)
    except (JsonRefused, msgspec.ValidationError, RecursionError) as error:
        raise _refused(f"it does not have the form of one ({error})") from None
    if read.type != STATEMENT_TYPE or read.predicate_type != PREDICATE_TYPE:
        raise _refused("it is a statement of another type")
    signed, facts = read.predicate, read.predicate.nightproof
    if signed.serialization.method != "files" or signed.serialization.hash_type != "sha256":
        raise _refused("its files are not named by SHA-256, one by one")
    if not 0 < len(signed.resources) <= MOST_FILES:
        raise _refused(f"it lists {len(signed.resources)} files; 1 to {MOST_FILES} are taken")
    sums = {one.name: one.digest for one in signed.resources}
    if len(sums) != len(signed.resources):
        raise _refused("it lists a file twice")
    for one in signed.resources:
        if not is_name(one.name):
            raise _refused(f"it lists a file whose path is not plain and inside: {one.name[:100]!r}")
        if one.algorithm != "sha256" or not _DIGEST.fullmatch(one.digest):
            raise _refused(f"{one.name} has no SHA-256")
    folders = {name[:at] for name in sums for at, sign in enumerate(name) if sign == "/"}
    if clash := sorted(folders & sums.keys()):
        raise _refused(f"{clash[0]} is a file and a folder")
    if len(read.subject) != 1 or read.subject[0].digest.get("sha256") != _root(
        [one.digest for one in signed.resources]
    ):
        raise _refused("its one digest is not that of the files it lists")
    if facts.bundle != digest_of(sums) or facts.sizes.keys() != sums.keys():
        raise _refused("what it says of its files is not about the files it lists")
    if min(facts.sizes.values()) < 0:
        raise _refused("a file has less than no bytes")
    if not _SERVICE.fullmatch(facts.service) or not is_version(facts.version):
        raise _refused("its service or its version has no usable name")
    return Manifest(facts, sums)


def _root(digests: list[str]) -> str:
    """Return the digest over all digests in the order of the list, as the format wants it."""
    return hashlib.sha256(b"".join(bytes.fromhex(digest) for digest in digests)).hexdigest()


def _refused(what: str) -> ManifestRefused:
    return ManifestRefused(f"This is no release: {what}.", hint="Make it with `nightproof release FOLDER`.")


class _Subject(msgspec.Struct):
    name: str
    digest: dict[str, str]


class _Serialization(msgspec.Struct):
    method: str
    hash_type: str


class _Resource(msgspec.Struct):
    name: str
    algorithm: str
    digest: str


class _Predicate(msgspec.Struct):
    serialization: _Serialization
    resources: list[_Resource]
    nightproof: Facts


class _Statement(msgspec.Struct, rename={"type": "_type", "predicate_type": "predicateType"}):
    type: str
    subject: list[_Subject]
    predicate_type: str
    predicate: _Predicate
