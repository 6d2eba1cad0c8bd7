"""Laws of the leaf: its encoding is RFC 8785's, it is never too long, and its columns are its own."""

from __future__ import annotations

from hashlib import sha256
from typing import Any

import orjson
import rfc8785
from hypothesis import example, given, settings
from hypothesis import strategies as st

from nightproof.audit.record import LEAF_MOST_BYTES, LEAF_VERSION, make_entry
from nightproof.base.ids import RUN_ID
from nightproof.storage.ledger_rows import Row

LAW = settings(max_examples=300, deadline=None)
LARGEST = 2**53 - 1
"""The largest whole number that RFC 8785 knows; leaves hold none beyond it."""

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
"""Any text that is JSON's: all planes, control characters, no half of a surrogate pair."""
numbers = st.integers(-LARGEST, LARGEST)
names = st.from_regex(r"[a-z][a-z0-9_]{0,15}", fullmatch=True)
"""Names of facts are ours: none comes from a caller, so they are plain ASCII."""
values = st.recursive(
    st.booleans() | numbers | texts,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(names, inner, max_size=5),
    max_leaves=15,
)
"""What a fact may be: leaves have no floats and no nulls."""
columns = st.fixed_dictionaries(
    {},
    optional=dict.fromkeys(("service", "release", "key", "who", "ending", "failure"), texts),
)
facts_of = st.builds(
    lambda named, others: others | named, columns, st.dictionaries(names, values, max_size=8)
)
payloads = st.none() | st.binary(max_size=200)
idems = st.none() | st.binary(min_size=32, max_size=32)
subjects_of = st.lists(st.binary(min_size=16, max_size=16), max_size=4, unique=True).map(tuple)

TRICKY = [
    "\U0001f600\uffff\ue000",  # sorted otherwise in UTF-16 than by code point
    "\x00\x01\x08\x09\x0a\x0b\x0c\x0d\x1f\x7f\x80\x85\xa0",
    '"\\/\u2028\u2029</script>',
    "e\u0301 and \u00e9 are two texts",
    "\ufeff",
]


def canonical(leaf: bytes) -> bytes:
    """Return what RFC 8785 makes of what a leaf says."""
    return rfc8785.dumps(orjson.loads(leaf))


@LAW
@example(text=TRICKY[0])
@example(text=TRICKY[1])
@example(text=TRICKY[2])
@example(text=TRICKY[3])
@example(text=TRICKY[4])
@given(text=texts)
def test_every_text_is_written_as_rfc_8785_writes_it(text: str) -> None:
    leaf = make_entry("request", "id", 1, {"decisions": [text], "detail": text}).row.leaf

    assert leaf == canonical(leaf)
    assert orjson.loads(leaf)["decisions"] == [text], "nothing is lost or normalised"


@LAW
@example(number=LARGEST)
@example(number=-LARGEST)
@example(number=0)
@given(number=numbers)
def test_every_whole_number_is_written_as_rfc_8785_writes_it(number: int) -> None:
    leaf = make_entry("request", "id", number, {"count": number, "items": [number]}).row.leaf

    assert leaf == canonical(leaf)
    assert b'"count":%d,' % number in leaf


@LAW
@given(
    kind=names,
    entry_id=texts,
    at_us=st.integers(0, LARGEST),
    facts=facts_of,
    payload=payloads,
    idem=idems,
    subjects=subjects_of,
)
def test_every_leaf_is_canonical_and_says_what_its_columns_say(
    kind: str,
    entry_id: str,
    at_us: int,
    facts: dict[str, Any],
    payload: bytes | None,
    idem: bytes | None,
    subjects: tuple[bytes, ...],
) -> None:
    given_facts = dict(facts)

    row = make_entry(kind, entry_id, at_us, facts, payload=payload, idem=idem, subjects=subjects).row

    assert row.leaf == canonical(row.leaf)
    told = orjson.loads(row.leaf)
    assert_columns_agree(row, told)
    ours = {"v": LEAF_VERSION, "kind": kind, "id": entry_id, "at": at_us, "boot": RUN_ID}
    assert ours.items() <= told.items(), "no fact can pass for what names the entry"
    if payload is not None:
        assert (told["ct"], told["ct_bytes"]) == (sha256(payload).hexdigest(), len(payload))
    if subjects:
        assert told["sub"] == [subject.hex() for subject in subjects]
    for name, value in given_facts.items():
        assert name in ours or name in ("ct", "ct_bytes", "idem", "sub") or told[name] == value


@settings(max_examples=60, deadline=None)
@example(length=LEAF_MOST_BYTES, text="\x00", many=1)
@example(length=LEAF_MOST_BYTES, text="\U0001f600", many=3)
@given(
    length=st.integers(0, 3 * LEAF_MOST_BYTES),
    text=st.characters(exclude_categories=["Cs"]),
    many=st.integers(1, 20),
)
def test_a_leaf_of_any_length_fits_and_what_is_cut_is_named_by_its_digest(
    length: int, text: str, many: int
) -> None:
    facts: dict[str, Any] = {
        "service": "credit",
        "release": "r1",
        "key": "key_1",
        "ending": "refused",
        "failure": "invalid_input",
        "decisions": [text * (length // many)] * many,
    }
    whole = {
        **facts, "v": LEAF_VERSION, "kind": "request", "id": "id", "at": 7, "boot": RUN_ID,
        "ct": sha256(b"content").hexdigest(), "ct_bytes": 7, "sub": ["61" * 16],
    }  # fmt: skip

    row = make_entry("request", "id", 7, facts, payload=b"content", subjects=(b"a" * 16,)).row

    uncut = rfc8785.dumps(whole)
    assert len(row.leaf) <= LEAF_MOST_BYTES
    assert row.leaf == canonical(row.leaf)
    told = orjson.loads(row.leaf)
    assert_columns_agree(row, told)
    if len(uncut) <= LEAF_MOST_BYTES:
        assert row.leaf == uncut
    else:
        assert told["truncated"] is True
        assert told["whole_sha256"] == sha256(uncut).hexdigest()
        assert (told["ct"], told["ct_bytes"], told["sub"]) == (whole["ct"], 7, ["61" * 16])
        assert "decisions" not in told


def assert_columns_agree(row: Row, told: dict[str, Any]) -> None:
    """Assert what verification asserts of each record: every column stands in the leaf."""
    assert (row.id, row.at_us, row.kind) == (told["id"], told["at"], told["kind"])
    assert (row.service, row.release) == (told.get("service", ""), told.get("release", ""))
    assert row.caller == (told.get("key") or told.get("who", ""))
    assert (row.ending, row.failure) == (told.get("ending", ""), told.get("failure", ""))
    assert (None if row.idem is None else row.idem.hex()) == told.get("idem")
