"""Find records again: search, and one request's whole story. Each look is itself recorded, before it is answered.

Called by the operators' routes of a running server, and by the command line where none runs. Searching never opens
content. Reads happen in a thread with a reader of its own, at most two at a time, so that a slow one holds up
nobody's request.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
from collections.abc import Callable, Sequence
from typing import Annotated, Any, TypeVar

import msgspec
import orjson

from nightproof.audit.export import Exported
from nightproof.audit.ledger import AuditUnavailable
from nightproof.audit.record import make_entry
from nightproof.audit.seal import proof_file
from nightproof.audit.tree import inclusion_proof
from nightproof.base.clock import iso_us, monotonic_s, utc_us
from nightproof.base.errors import Refusal
from nightproof.base.failures import CATALOGUE
from nightproof.base.masking import MASK, mask, texts_at
from nightproof.steer.archive import Archive
from nightproof.steer.unread import as_the_model_read
from nightproof.storage.ledger_protocol import LedgerReading
from nightproof.storage.ledger_rows import Query, StoredEntry
from nightproof.storage.sqlite import NotFound

T = TypeVar("T")
MOST_RECORDS = 1_000
_AT_ONCE = 2
_SEALED_WITHIN_S = 10.0
_LEFT_OUT = frozenset({"body_b64", "reply", "output_text"})
_SHORTEST_QUOTED = 2
"""Shorter values are found in any text by chance, and masking them would only garble it."""

SensitiveOf = Callable[[str, str], Sequence[str]]
"""Pointers to the fields of a service's release that are shown masked."""


class Asked(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """What is searched for; empty fields do not narrow. Times are microseconds since 1970, UTC."""

    since_us: int | None = None
    until_us: int | None = None
    id: str = ""
    kind: str = ""
    caller: str = ""
    service: str = ""
    release: str = ""
    ending: str = ""
    failure: str = ""
    subject: str = ""
    oldest_first: bool = False
    after: str = ""
    """Cursor of the page before."""
    most: Annotated[int, msgspec.Meta(ge=1, le=MOST_RECORDS)] = 50


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """A record in a list: what happened, never what was said."""

    seq: int
    id: str
    at: str
    kind: str
    service: str
    release: str
    caller: str
    ending: str
    failure: str
    what: str
    """Of an operator's act: which."""


class Page(msgspec.Struct, frozen=True, kw_only=True):
    """Some records, and where to go on."""

    records: list[Found]
    next: str
    """Give it as `after` for the next page; empty at the end."""


class Shown(msgspec.Struct, frozen=True, kw_only=True):
    """One entry in full."""

    seq: int
    id: str
    at: str
    kind: str
    facts: dict[str, Any]
    title: str
    """The failure in words, of the catalogue."""
    content: dict[str, Any] | None
    """None where there is none, or none that can be opened."""
    content_state: str
    """none, open, masked, partly_erased, erased, expired or unreadable."""
    gone_by: str
    """Which entry erased or expired the content."""
    covered_by: int | None
    """Size of the signed checkpoint that covers it."""


class Desk:
    """Where an archive is searched: bounds how many look at once."""

    def __init__(self, archive: Archive, sensitive_of: SensitiveOf) -> None:
        self._archive = archive
        self._sensitive_of = sensitive_of
        self._places = asyncio.Semaphore(_AT_ONCE)

    async def search(self, who: str, asked: Asked) -> Page:
        """Return a page of records, newest first unless asked otherwise. That it was asked for is recorded first."""
        query = self._query(asked)
        told = msgspec.to_builtins(asked)
        if asked.subject:
            told["subject"] = query.subject.hex()  # the log must not learn a name that it hides
        if asked.id:
            found = await self._read(lambda reader: reader.by_id(asked.id))
        else:
            found = await self._read(lambda reader: reader.search(query))
        await self._archive.note("access", who=who, act="audit.search", asked=_plain(told), found=len(found))
        more = not asked.id and len(found) == asked.most
        return Page(records=[_found(one) for one in found], next=_cursor(found[-1]) if more else "")

    async def show(self, who: str, entry_id: str, *, reveal: bool = False) -> list[Shown]:
        """Return the entries under an id with their content; masked, unless `reveal`, is what may not be seen by all.

        That is the fields that the release says are sensitive, and of a chat what its model was not to read.
        """
        # First: that somebody looked is known also where there was nothing to be seen.
        await self._archive.note(
            "access", who=who, act="audit.show", asked=_plain({"id": entry_id, "reveal": reveal})
        )
        found = await self._read(lambda reader: self._entries(reader, entry_id))
        return [
            await asyncio.to_thread(self._shown, one, covered, gone, reveal) for one, covered, gone in found
        ]

    async def export_page(self, who: str, asked: Asked, *, content: bool) -> tuple[list[Exported], str]:
        """Return a page of an export and the cursor of the next. Each page is recorded: any may be the first."""
        query = self._query(asked)
        told = msgspec.to_builtins(asked)
        if asked.subject:
            told["subject"] = query.subject.hex()
        await self._archive.note(
            "access", who=who, act="audit.export", asked=_plain({**told, "content": content})
        )
        found = await self._read(lambda reader: reader.search(query))
        page = await asyncio.to_thread(lambda: [self._exported(one, content=content) for one in found])
        return page, _cursor(found[-1]) if len(found) == asked.most else ""

    async def exported(self, who: str, manifest_sha256: str, records: int) -> bytes:
        """Record a finished export, and return the proof of that record once a checkpoint covers it."""
        entry_id = self._archive.ids.draw()
        entry = make_entry(
            "access",
            entry_id,
            utc_us(),
            {"who": who, "act": "audit.exported", "manifest_sha256": manifest_sha256, "records": records},
        )
        seq = await self._archive.ledger.append(entry)
        deadline_s = monotonic_s() + _SEALED_WITHIN_S
        while (newest := self._archive.last_checkpoint) is None or newest.size <= seq:
            if monotonic_s() > deadline_s:
                raise AuditUnavailable("No checkpoint was signed in time.", hint="Ask for the export again.")
            await asyncio.sleep(0.05)
        size, note = newest.size, newest.note
        path = await self._read(lambda reader: inclusion_proof(reader, seq, size))
        return proof_file(entry.row.leaf, seq, path, note)

    def _exported(self, entry: StoredEntry, *, content: bool) -> Exported:
        return Exported(
            seq=entry.seq,
            id=entry.id,
            at_us=entry.at_us,
            kind=entry.kind,
            service=entry.service,
            release=entry.release,
            caller=entry.caller,
            ending=entry.ending,
            failure=entry.failure,
            leaf=entry.leaf.decode(),
            content=self._content(entry, reveal=False)[0] if content else None,
        )

    def _entries(self, reader: LedgerReading, entry_id: str) -> list[tuple[StoredEntry, int | None, str]]:
        with reader.snapshot():
            found = reader.by_id(entry_id)
            if not found:
                raise NotFound(
                    f"No record has the id {entry_id!r}.",
                    hint="The id is the answer's x-request-id; `nightproof audit search` finds others.",
                )
            answer: list[tuple[StoredEntry, int | None, str]] = []
            for entry in found:
                covered = reader.checkpoint_at_or_after(entry.seq + 1)
                answer.append((entry, None if covered is None else covered.size, _gone_by(reader, entry)))
            return answer

    def _shown(self, entry: StoredEntry, covered: int | None, gone_by: str, reveal: bool) -> Shown:
        facts: dict[str, Any] = orjson.loads(entry.leaf)
        content, state = self._content(entry, reveal=reveal)
        if state == "erased" and not gone_by:
            state = "unreadable"  # a key is missing, and nobody erased it: another vault, or a lost one
        return Shown(
            seq=entry.seq,
            id=entry.id,
            at=iso_us(entry.at_us),
            kind=entry.kind,
            facts=facts,
            title=CATALOGUE[entry.failure].title if entry.failure in CATALOGUE else "",
            content=content,
            content_state=state if content or entry.payload is not None or "ct" not in facts else "expired",
            gone_by=gone_by,
            covered_by=covered,
        )

    def _content(self, entry: StoredEntry, *, reveal: bool) -> tuple[dict[str, Any] | None, str]:
        if entry.payload is None:
            return None, "none"
        opened = self._archive.vault.open(entry.payload, entry_id=entry.id, kind=entry.kind)
        whole = opened.parts.get("content")
        rest = opened.parts.get("rest")
        content: dict[str, Any] = orjson.loads(whole or rest or b"{}")
        content.pop("idem_body", None)  # a keyed digest, which tells nobody anything
        places = {
            int(name.partition("/")[2]): part
            for name, part in opened.parts.items()
            if name.startswith("items/")
        }
        if places:
            content["items"] = [
                {"erased": True} if part is None else orjson.loads(part) for _, part in sorted(places.items())
            ]
        is_some = any(part is not None for part in opened.parts.values())
        if not is_some:
            return None, "unreadable" if opened.unreadable else "erased"
        if reveal:
            return content, "partly_erased" if opened.erased else "open"
        content, is_masked = as_the_model_read(content, orjson.loads(entry.leaf))
        pointers = self._sensitive_of(entry.service, entry.release)
        if pointers:
            content = _masked(content, pointers)
        state = "masked" if pointers or is_masked else "open"
        return content, "partly_erased" if opened.erased else state

    def _query(self, asked: Asked) -> Query:
        return Query(
            since_us=asked.since_us,
            until_us=asked.until_us,
            kind=asked.kind,
            caller=asked.caller,
            service=asked.service,
            release=asked.release,
            ending=asked.ending,
            failure=asked.failure,
            subject=self._archive.vault.pseudonym(asked.subject) if asked.subject else b"",
            newest_first=not asked.oldest_first,
            before_seq=_seq_of(asked.after) if asked.after else None,
            most=asked.most,
        )

    async def _read(self, look: Callable[[LedgerReading], T]) -> T:
        def work() -> T:
            reader = self._archive.reader()
            try:
                return look(reader)
            finally:
                reader.close()

        async with self._places:
            return await asyncio.to_thread(work)


def _found(entry: StoredEntry) -> Found:
    what = ""
    if entry.kind != "request":
        facts = orjson.loads(entry.leaf)
        what = str(facts.get("act", "") or facts.get("event", ""))
    return Found(
        seq=entry.seq,
        id=entry.id,
        at=iso_us(entry.at_us),
        kind=entry.kind,
        service=entry.service,
        release=entry.release,
        caller=entry.caller,
        ending=entry.ending,
        failure=entry.failure,
        what=what,
    )


def _gone_by(reader: LedgerReading, entry: StoredEntry) -> str:
    """Name the entry that erased or expired this one's content, the last one if there are several."""
    facts = orjson.loads(entry.leaf)
    subjects = set(facts.get("sub", ()))
    gone = ""
    if subjects:
        for one in reader.of_kind("erasure"):
            if one.seq > entry.seq and subjects & set(orjson.loads(one.leaf).get("sub", ())):
                gone = f"erased on {iso_us(one.at_us)} by {one.caller or 'the server'} ({one.id})"
    if entry.payload is None and "ct" in facts:
        for one in reader.of_kind("retention"):
            said = orjson.loads(one.leaf)
            if said.get("service") == entry.service and entry.at_us < said.get("before_us", 0):
                gone = gone or f"expired on {iso_us(one.at_us)} ({one.id})"
    return gone


def _masked(content: dict[str, Any], pointers: Sequence[str]) -> dict[str, Any]:
    """Mask inputs, outputs, and what was told about them where it quotes what is masked.

    Bodies that could not be read as records, replies and broken outputs are left out whole.
    """
    items = content.get("items", [])
    hidden = [
        text
        for item in items
        for name in ("input", "output")
        for text in texts_at(item.get(name), pointers)
        if len(text) > _SHORTEST_QUOTED
    ]

    def told(value: Any) -> Any:
        if isinstance(value, list):
            return [told(one) for one in value]
        for text in hidden if isinstance(value, str) else ():
            value = value.replace(text, MASK)
        return value

    shown = {
        name: told(value) for name, value in content.items() if name not in _LEFT_OUT and name != "items"
    }
    if "items" in content:
        shown["items"] = [
            {
                name: mask(value, pointers) if name in ("input", "output") else told(value)
                for name, value in item.items()
                if name not in _LEFT_OUT
            }
            for item in items
        ]
    return shown


def _plain(asked: dict[str, Any]) -> dict[str, Any]:
    """Keep what a leaf may hold, and no long texts."""
    return {
        name: value[:200] if isinstance(value, str) else value
        for name, value in asked.items()
        if value not in ("", None) and not isinstance(value, float)
    }


def _cursor(entry: StoredEntry) -> str:
    return base64.urlsafe_b64encode(f"seq:{entry.seq}".encode()).decode().rstrip("=")


def _seq_of(cursor: str) -> int:
    try:
        text = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode()
        word, _, number = text.partition(":")
        if word == "seq" and number.isascii() and number.isdigit() and len(number) <= 18:
            return int(number)
    except (binascii.Error, UnicodeDecodeError, ValueError):
        pass
    raise Refusal(
        "The cursor is none of ours.", failure="invalid_input", hint="Give `next` of the page before."
    )
