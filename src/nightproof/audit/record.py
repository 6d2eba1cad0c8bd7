"""The form of a ledger entry: a small leaf that names what happened, and a payload with the content.

The leaf is JSON with sorted keys, of strings, integers, booleans and lists only, a few hundred bytes: it is
what the audit log's tree hashes, and it names the payload by its SHA-256. Content (inputs, outputs) is in the
payload alone, sealed by the vault, so that it can be erased without touching the leaf. An entry's place is
not in its leaf: the place in the tree binds the order.
"""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec
import orjson

from nightproof.base.ids import RUN_ID
from nightproof.storage.ledger_rows import Row
from nightproof.storage.vault_store import WrappedKey

LEAF_VERSION = 2
OPENED = "opened"
"""Kind of the first of a stream's two entries, which have one id."""
LEAF_MOST_BYTES = 65_535
"""What an entry of a C2SP tile log may have; a longer leaf is cut to what names it."""
_KEPT_WHEN_CUT = frozenset(
    {"service", "release", "key", "who", "act", "ending", "failure", "count", "protocol"}
)


class Entry(msgspec.Struct, frozen=True, array_like=True):
    """One entry on its way to the ledger; its place in the log is given at the commit."""

    row: Row
    keys: tuple[WrappedKey, ...] = ()
    """Data keys that were made for its content, to be kept before it is."""

    @property
    def size_bytes(self) -> int:
        """The bytes that the entry brings to a commit."""
        return len(self.row.leaf) + len(self.row.payload or b"")


def make_entry(
    kind: str,
    entry_id: str,
    at_us: int,
    facts: dict[str, Any],
    *,
    payload: bytes | None = None,
    idem: bytes | None = None,
    subjects: tuple[bytes, ...] = (),
    keys: tuple[WrappedKey, ...] = (),
) -> Entry:
    """Build an entry: the leaf from the facts, which are completed in place, and the sealed content apart."""
    facts["v"] = LEAF_VERSION
    facts["kind"] = kind
    facts["id"] = entry_id
    facts["at"] = at_us
    facts["boot"] = RUN_ID
    if payload is not None:
        facts["ct"] = hashlib.sha256(payload).hexdigest()
        facts["ct_bytes"] = len(payload)
    if idem is not None:
        facts["idem"] = idem.hex()
    if subjects:
        facts["sub"] = [subject.hex() for subject in subjects]
    leaf = orjson.dumps(facts, option=orjson.OPT_SORT_KEYS)
    if len(leaf) > LEAF_MOST_BYTES:
        leaf = _cut(facts, leaf)
    get = facts.get
    row = Row(
        entry_id,
        at_us,
        kind,
        get("service", ""),
        get("release", ""),
        get("key") or get("who", ""),
        get("ending", ""),
        get("failure", ""),
        idem,
        leaf,
        payload,
        subjects,
    )
    return Entry(row, keys)


def _cut(facts: dict[str, Any], leaf: bytes) -> bytes:
    """Keep what names the entry, and the digest of what is left out."""
    kept = {name: value for name, value in facts.items() if name in _KEPT_WHEN_CUT or name in _ALWAYS}
    kept |= {"truncated": True, "whole_sha256": hashlib.sha256(leaf).hexdigest()}
    return orjson.dumps(kept, option=orjson.OPT_SORT_KEYS)


_ALWAYS = frozenset({"v", "kind", "id", "at", "boot", "ct", "ct_bytes", "idem", "sub"})
