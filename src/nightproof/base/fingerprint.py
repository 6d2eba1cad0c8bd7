"""Know a record again: the SHA-256 of its JSON with sorted keys."""

from __future__ import annotations

import hashlib

import orjson


def fingerprint_of(record: bytes) -> bytes:
    """Return 32 bytes that are equal for records equal but for the order of keys and white space."""
    return hashlib.sha256(orjson.dumps(orjson.loads(record), option=orjson.OPT_SORT_KEYS)).digest()
