"""The form of a ledger entry: a small leaf that names what happened, and a payload with the content.

The leaf is JSON with sorted keys, of strings, integers, booleans and lists only, at most a few hundred
bytes: it is what the audit log's tree will hash. Content (inputs, outputs) is in the payload alone, so
that it can be encrypted and erased without touching the leaf.
"""

from __future__ import annotations

from typing import Any

import msgspec
import orjson

LEAF_VERSION = 1


class Entry(msgspec.Struct, frozen=True):
    """One entry on its way to the ledger; its sequence number is given at the commit."""

    id: str
    at_us: int
    kind: str
    """request, summary, start, stop, recovery, operator."""
    leaf: bytes
    payload: bytes | None = None
    idem: bytes | None = None
    """HMAC of caller, service and idempotency key; None where none was sent."""

    @property
    def size_bytes(self) -> int:
        """The bytes that the entry brings to a commit."""
        return len(self.leaf) + len(self.payload or b"")


def make_entry(
    kind: str,
    entry_id: str,
    at_us: int,
    facts: dict[str, Any],
    *,
    payload: bytes | None = None,
    idem: bytes | None = None,
) -> Entry:
    """Build an entry: the leaf from the facts, which are completed in place, and the content apart."""
    facts["v"] = LEAF_VERSION
    facts["kind"] = kind
    facts["id"] = entry_id
    facts["at"] = at_us
    return Entry(entry_id, at_us, kind, orjson.dumps(facts, option=orjson.OPT_SORT_KEYS), payload, idem)
