"""Remember which texts of earlier turns were looked at and had nothing in them: a conversation is sent whole each turn.

Only texts before the last message profit, so what is new is always looked at. Kept are keyed digests, never texts, in
bounded number; what had a finding, or was not looked at by every check, is looked at again.
"""

from __future__ import annotations

import hashlib
import os
from collections import OrderedDict
from collections.abc import Iterable, Sequence

from nightproof.checks.inspecting import Inspection, Inspector, Untrusted

_MOST = 16_384
_DIGEST_BYTES = 16


class SeenBefore:
    """An inspector with a memory. Of one worker, on its one thread."""

    def __init__(self, inspector: Inspector, *, remembers: bool) -> None:
        self._inspector = inspector
        self._remembers = remembers
        self._key = os.urandom(32)
        self._clean: OrderedDict[bytes, None] = OrderedDict()

    def __repr__(self) -> str:
        return f"<SeenBefore: {len(self._clean)} clean texts>"

    def inspect(self, texts: Sequence[Untrusted], *, last_message: str) -> Inspection:
        """Look at texts; those that lie not under the pointer `last_message` may be known from an earlier turn."""
        if not self._remembers or not last_message:
            return self._inspector.inspect(texts)
        digests = [self._digest(one) for one in texts]
        new = [
            one
            for one, digest in zip(texts, digests, strict=True)
            if one.pointer.startswith(last_message) or not self._knows(digest)
        ]
        told = self._inspector.inspect(new)
        if not told.failure and not told.bypassed:
            found = {finding.pointer for finding in told.findings}
            for one, digest in zip(texts, digests, strict=True):
                if one.pointer not in found:
                    self._clean[digest] = None
            while len(self._clean) > _MOST:
                self._clean.popitem(last=False)
        return told

    def look_ahead(self, conversations: Iterable[tuple[Sequence[Untrusted], str]]) -> None:
        """Look at what is new in several requests at once, each given as its texts and its last message's pointer."""
        self._inspector.look_ahead(
            one
            for texts, last_message in conversations
            for one in texts
            if not (self._remembers and last_message)
            or one.pointer.startswith(last_message)
            or self._digest(one) not in self._clean
        )

    def forget_ahead(self) -> None:
        """Forget what was looked at ahead."""
        self._inspector.forget()

    def _knows(self, digest: bytes) -> bool:
        if digest not in self._clean:
            return False
        self._clean.move_to_end(digest)
        return True

    def _digest(self, one: Untrusted) -> bytes:
        written = f"{one.channel}\0{one.text}".encode("utf-8", "surrogatepass")
        return hashlib.blake2b(written, digest_size=_DIGEST_BYTES, key=self._key).digest()
