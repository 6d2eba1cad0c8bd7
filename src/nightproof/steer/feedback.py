"""Take labels in: find the prediction that each is about, hold it against the answer, and judge its source.

`pipeline.feedback` calls `offer` for each request; operators ask `status` and decide about sources.
Promises: only predictions of the ledger can be labelled, once each; a key labels what it asked itself, unless its
role may operate; labels are sealed; what looks poisoned is set aside, never dropped and never counted.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import msgspec
import orjson

from nightproof.audit.vault import Vault
from nightproof.base import schema as json_schema
from nightproof.base.clock import iso_us, monotonic_of, utc_us
from nightproof.base.conditions import Condition
from nightproof.base.errors import Fault, FieldError, Refusal
from nightproof.base.ids import is_request_id
from nightproof.base.labels import GivenLabel, LabelOutcome
from nightproof.base.roles import Action, allows
from nightproof.base.schemashape import resolved
from nightproof.base.values import Caller
from nightproof.declare.describe import Description
from nightproof.settings.settings import FeedbackSettings
from nightproof.storage.feedback_store import FeedbackStore, Label
from nightproof.storage.ledger_protocol import LedgerReading
from nightproof.storage.sqlite import StorageOutcomeUnknown, StorageUnavailable
from nightproof.watch import feedback as judge
from nightproof.watch.feedback import Counted, Quality, Source
from nightproof.watch.log import log

_PURPOSE = "feedback"
_MOST_JUDGED = 20_000
_MOST_WAITING = 16


class Prediction(msgspec.Struct, frozen=True):
    """An answer of ours that a label is about."""

    key: str
    release: str
    answered_us: int
    input: bytes
    output: dict[str, Any] | None
    """None where not the release itself answered."""
    subject: bytes


class SourceShown(msgspec.Struct, frozen=True, kw_only=True):
    """A source of labels, for operators."""

    key: str
    state: str
    why: str
    since: str
    counted: int
    held: int
    rejected: int
    duplicates: int
    conflicts: int
    disagrees: float | None


class FeedbackStatus(msgspec.Struct, frozen=True, kw_only=True):
    """What labels say of one service."""

    service: str
    release: str
    quality: Quality
    estimated_accuracy: float | None
    """Mean confidence over all rows of the last hour, corrected by the labelled ones."""
    estimate_valid: bool
    sources: list[SourceShown]


class FeedbackDesk:
    """Everything about labels. One lock: labels are taken in one request after the other."""

    def __init__(
        self,
        store: FeedbackStore,
        vault: Vault,
        settings: FeedbackSettings,
        *,
        open_reader: Callable[[], LedgerReading],
        on_event: Callable[[str, str], None],
    ) -> None:
        self._store = store
        self._vault = vault
        self._settings = settings
        self._open_reader = open_reader
        self._on_event = on_event
        self._reader: LedgerReading | None = None
        self._door = threading.Lock()
        self._lane = ThreadPoolExecutor(1, thread_name_prefix="feedback")
        """A thread of its own: a flood of labels must not take those that requests need."""
        self._places = threading.BoundedSemaphore(_MOST_WAITING)
        """For requests with labels that are not through."""
        self._sources: dict[str, dict[str, Source]] = {}
        self._schemas: dict[str, tuple[Description, json_schema.Schema]] = {}
        for service in store.services():
            known = [msgspec.msgpack.decode(one, type=Source) for one in store.sources(service)]
            self._sources[service] = {one.source: one for one in known}

    # -- taking in ----------------------------------------------------------------------------

    def offer(
        self,
        labels: Sequence[GivenLabel],
        *,
        description: Description,
        caller: Caller,
        expected_error: float | None,
    ) -> Future[list[LabelOutcome]]:
        """Have labels taken behind those that wait; who leaves gives his place back. Raises Refusal when full."""
        if not self._places.acquire(blocking=False):
            raise Refusal(
                "More labels wait than are taken in a moment.",
                failure="overloaded",
                hint="Send them again after the given delay; a label that is known already does no harm.",
                retry_after_s=1.0,
            )
        try:
            taken = self._lane.submit(
                self.take, labels, description=description, caller=caller, expected_error=expected_error
            )
        except RuntimeError:  # the server stops, and the lane with it
            self._places.release()
            raise
        taken.add_done_callback(lambda _: self._places.release())  # also of a caller who left before his turn
        return taken

    def take(
        self,
        labels: Sequence[GivenLabel],
        *,
        description: Description,
        caller: Caller,
        expected_error: float | None,
        now_us: int | None = None,
    ) -> list[LabelOutcome]:
        """Take labels of one request in; say what became of each, in their order. Blocks: call it in a thread."""
        now_us = utc_us() if now_us is None else now_us
        with self._door:
            source = self._source(description.service, caller.key_id)
            was = msgspec.structs.replace(source)
            try:
                with self._store.at_once():
                    outcomes = [
                        self._take_one(label, description, caller, source, expected_error, now_us)
                        for label in labels
                    ]
                    self._keep_source(description.service, source)
                    self._store.trim(description.service)
            except BaseException as error:
                self._sources[description.service][source.source] = was  # what is not kept was not said
                if isinstance(error, StorageUnavailable | StorageOutcomeUnknown):
                    raise Fault(
                        "The labels could not be kept.",
                        failure=error.code,
                        hint="Send them again; a label that is known already does no harm.",
                        retry_after_s=5.0,
                    ) from error
                raise
        if source.state == "held" and was.state != "held":
            self._on_event("feedback_poisoned", description.service)
            log(
                "feedback_poisoned",
                level="warning",
                service=description.service,
                key=source.source,
                why=source.why,
            )
        return outcomes

    def _take_one(
        self,
        given: GivenLabel,
        description: Description,
        caller: Caller,
        source: Source,
        expected_error: float | None,
        now_us: int,
    ) -> LabelOutcome:
        service = description.service
        errors = self._wrong(given, description)
        if errors:
            return LabelOutcome("refused", "invalid_input", errors=errors)
        prediction = self._find(service, given)
        if prediction is None:
            return _refused("/id", "names no answer of this service that is on record")
        if prediction.key != caller.key_id and not allows(caller.role, Action.QUARANTINE):
            return LabelOutcome("refused", "forbidden", "Another key asked for this prediction.")
        if prediction.output is None:
            return _refused("/id", "names a request that the release itself did not answer")
        content = orjson.dumps(given.label, option=orjson.OPT_SORT_KEYS)
        digest = self._vault.mac(b"label\0" + content)
        known = self._store.digest_of(service, given.request, given.item)
        if known is not None and known[0] == digest:
            source.duplicates += 1
            return LabelOutcome("duplicate", subject=prediction.subject)
        if known is not None:
            source.conflicts += 1
            if judge.conflicts_too_often(source):
                self._hold(service, source, "it takes back what it said", from_us=0, now_us=now_us)
            return _refused("/label", "differs from the label that this prediction has already")
        correct, error = compare(given.label, prediction.output)
        record = self._vault.mac(b"record\0" + prediction.input)[:16]
        state, why = self._judge(service, source, correct, record, expected_error, now_us)
        confidence = (
            prediction.output.get(description.confidence_field) if description.confidence_field else None
        )
        self._store.keep(
            service,
            Label(
                request=given.request,
                item=given.item,
                release=prediction.release,
                source=source.source,
                at_us=now_us,
                answered_us=prediction.answered_us,
                correct=correct,
                error=error,
                confidence=float(confidence) if isinstance(confidence, int | float) else None,
                digest=digest,
                record=record,
                content=self._vault.seal_bytes(content, purpose=_PURPOSE, subject=prediction.subject),
                subject=prediction.subject,
                state=state,
                why=why,
            ),
        )
        return LabelOutcome(
            "counted" if state == "counted" else "held", detail=why, subject=prediction.subject
        )

    def _wrong(self, given: GivenLabel, description: Description) -> list[FieldError]:
        """Say what is wrong with a label by itself: its id, its fields, their values."""
        if not is_request_id(given.request):
            return [FieldError("/id", "is not a request's id", "value_error")]
        if given.item < 0:
            return [FieldError("/item", "is not a place in the request's list", "value_error")]
        if not given.label:
            return [FieldError("/label", "names no field of the output", "missing")]
        if description.confidence_field in given.label:
            pointer = f"/label/{description.confidence_field}"
            return [FieldError(pointer, "is the model's own confidence, which has no label", "value_error")]
        kept = self._schemas.get(description.service)
        if kept is None or kept[0] is not description:
            whole = resolved(description.output_schema, description.output_schema)
            some = {**description.output_schema, **whole, "required": []}
            kept = description, json_schema.compile(some)
            self._schemas[description.service] = kept
        if kept[1].holds(given.label):
            return []
        return [
            FieldError(f"/label{error.pointer}", error.detail, error.kind)
            for error in kept[1].errors(given.label)
        ]

    def _find(self, service: str, given: GivenLabel) -> Prediction | None:
        """Find the answer on record. Content that was erased or has expired cannot be labelled any more."""
        if self._reader is None:
            self._reader = self._open_reader()
        entries = [entry for entry in self._reader.by_id(given.request) if entry.kind == "request"]
        if not entries:
            return None
        entry, payload = entries[-1], entries[-1].payload
        if payload is None:
            return None
        facts = orjson.loads(entry.leaf)
        if facts.get("service") != service or facts.get("protocol") == "feedback":
            return None
        if facts.get("ending") not in ("answered", "degraded"):
            return None
        parts = self._vault.open(payload, entry_id=entry.id, kind=entry.kind).parts
        item: Any = None
        if (alone := parts.get(f"items/{given.item}")) is not None:
            item = orjson.loads(alone)
        elif (whole := parts.get("content")) is not None:
            items = orjson.loads(whole).get("items", [])
            item = items[given.item] if given.item < len(items) else None
        if not isinstance(item, dict) or "input" not in item:
            return None
        subjects = [bytes.fromhex(one) for one in facts.get("sub", [])]
        output = item.get("output")
        # A leaf that had to be cut does not say which of its records a fallback answered.
        fallback = f"degraded:{given.item} "
        is_own = "truncated" not in facts and not any(
            decision.startswith(fallback) for decision in facts.get("decisions", [])
        )
        return Prediction(
            key=facts.get("key", ""),
            release=facts.get("release", ""),
            answered_us=int(facts.get("at", 0)),
            input=orjson.dumps(item["input"], option=orjson.OPT_SORT_KEYS),
            output=output if is_own and isinstance(output, dict) else None,
            subject=subjects[0] if len(subjects) == 1 else b"",
        )

    # -- judging ------------------------------------------------------------------------------

    def _judge(
        self,
        service: str,
        source: Source,
        correct: bool | None,
        record: bytes,
        expected_error: float | None,
        now_us: int,
    ) -> tuple[str, str]:
        if source.state == "rejected":
            return "rejected", source.why
        if source.state == "held":
            return "held", source.why
        if judge.floods(source, now_us, self._settings.burst_per_min):
            return "held", "a flood of labels"
        if self._store.count_record(service, source.source, record) >= judge.SAME_RECORD_MOST:
            return "held", "the same record again and again"
        if correct is None:
            source.labels += 1
            return "counted", ""
        others = [one for one in self._all(service) if one.source != source.source]
        usual = judge.usual_disagreement(source, others, expected_error)
        if usual is not None and judge.weigh(source, not correct, usual, now_us=now_us):
            why = f"its labels contradict the model far more than the usual {usual:.0%}"
            self._hold(service, source, why, from_us=source.run_from_us, now_us=now_us)
            return "held", why
        source.labels += 1
        source.disagreed += not correct
        return "counted", ""

    def _hold(self, service: str, source: Source, why: str, *, from_us: int, now_us: int) -> None:
        """Set a source aside, with what it gave since the evidence began."""
        if source.state == "held":
            return
        source.state, source.why, source.since_us = "held", why, now_us
        self._store.move(service, source.source, old="counted", new="held", why=why, from_us=from_us)
        source.labels, source.disagreed = self._store.disagreements(service, source.source)

    # -- what operators ask and decide --------------------------------------------------------

    def status(
        self, service: str, release: str, *, mean_confidence: float | None, is_drifting: bool
    ) -> FeedbackStatus:
        """Say what labels tell of a service's release. Blocks: call it in a thread."""
        rows = self._store.newest(service, release, most=_MOST_JUDGED)
        labels = [
            Counted(
                row[0],
                None if row[1] is None else bool(row[1]),
                row[2],
                row[3],
                max(0.0, (row[4] - row[5]) / 1e6),
            )
            for row in rows
        ]
        counts = self._store.counts(service)
        return FeedbackStatus(
            service=service,
            release=release,
            quality=judge.quality(labels, source_share=self._settings.source_share),
            estimated_accuracy=judge.corrected_estimate(mean_confidence, labels),
            estimate_valid=not is_drifting,
            sources=[
                SourceShown(
                    key=one.source,
                    state=one.state,
                    why=one.why,
                    since=iso_us(one.since_us) if one.since_us else "",
                    counted=counts.get((one.source, "counted"), 0),
                    held=counts.get((one.source, "held"), 0),
                    rejected=counts.get((one.source, "rejected"), 0),
                    duplicates=one.duplicates,
                    conflicts=one.conflicts,
                    disagrees=one.disagreed / one.labels if one.labels else None,
                )
                for one in self._all(service)
            ],
        )

    def decide(self, service: str, key: str, *, accept: bool) -> int:
        """Count a source's held labels, or reject them; return how many. Blocks: call it in a thread."""
        with self._door:
            source = self._sources.get(service, {}).get(key)
            if source is None:
                raise Refusal(
                    f"No key {key!r} has given labels to {service!r}.",
                    failure="unknown_service",
                    hint=f"`nightproof feedback {service}` shows them.",
                )
            new = "counted" if accept else "rejected"
            with self._store.at_once():
                moved = self._store.move(service, key, old="held", new=new, why="an operator decided")
                source.state = "accepted" if accept else "rejected"
                source.why, source.since_us, source.wealth = "an operator decided", utc_us(), 1.0
                source.labels, source.disagreed = self._store.disagreements(service, key)
                self._keep_source(service, source)
            return moved

    def conditions(self) -> list[Condition]:
        """Return what holds now, for alerts."""
        return [
            Condition(
                failure="feedback_poisoned",
                service=service,
                since_s=monotonic_of(one.since_us),
                detail=f"key {one.source}: {one.why}",
            )
            for service, sources in self._sources.items()
            for one in list(sources.values())
            if one.state == "held"
        ]

    def forget(self, subject: bytes) -> int:
        """Drop every label about an erased person."""
        return self._store.forget(subject)

    def close(self) -> None:
        """Finish what is being taken, then let go of the store and the log's reader."""
        self._lane.shutdown(wait=True, cancel_futures=True)
        if self._reader is not None:
            self._reader.close()
        self._store.close()

    def _all(self, service: str) -> list[Source]:
        return list(self._sources.get(service, {}).values())

    def _source(self, service: str, key: str) -> Source:
        return self._sources.setdefault(service, {}).setdefault(key, Source(source=key))

    def _keep_source(self, service: str, source: Source) -> None:
        self._store.keep_source(service, source.source, msgspec.msgpack.encode(source))


def compare(label: dict[str, Any], output: dict[str, Any]) -> tuple[bool | None, float | None]:
    """Hold a label against the answer: whether it agrees, and of fractional numbers how far they lie apart."""
    agree: list[bool] = []
    distances: list[float] = []
    for name, right in label.items():
        got = output.get(name)
        if isinstance(right, bool) or not (isinstance(right, float) or isinstance(got, float)):
            agree.append(type(right) is type(got) and right == got)
        elif isinstance(got, int | float) and isinstance(right, int | float):
            distances.append(abs(float(got) - float(right)))
        else:
            agree.append(False)
    error = sum(distances) / len(distances) if distances else None
    return (all(agree) if agree else None), error


def _refused(pointer: str, detail: str) -> LabelOutcome:
    return LabelOutcome("refused", "invalid_input", errors=[FieldError(pointer, detail, "value_error")])
