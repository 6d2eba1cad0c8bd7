"""Open Inference Protocol v2: any request is decoded or refused, any answer reads back the same."""

import json
import struct
from contextlib import suppress
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from nightproof.base.errors import Refusal
from nightproof.gateway import oip

SCHEMA = {
    "type": "object",
    "properties": {
        "number": {"type": "number"},
        "whole": {"type": "integer"},
        "flag": {"type": "boolean"},
        "text": {"type": "string"},
        "maybe": {"anyOf": [{"type": "number"}, {"type": "null"}]},
        "rest": {"type": "array", "items": {}},
    },
    "required": ["number", "whole", "flag", "text", "rest"],
}

WHOLE = st.integers(-(2**53) + 1, 2**53 - 1)
NUMBER = st.floats(allow_nan=False, allow_infinity=False)
RECORDS = st.lists(
    st.fixed_dictionaries(
        {
            "number": NUMBER,
            "whole": WHOLE,
            "flag": st.booleans(),
            "text": st.text(st.characters(exclude_categories=["Cs"])),
            "maybe": st.none() | NUMBER,
            "rest": st.lists(WHOLE | st.booleans() | st.none(), max_size=3),
        }
    ),
    min_size=1,
    max_size=5,
)

ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers(-300, 300) | st.floats(allow_nan=False) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)
ODD = st.one_of(
    ANYTHING, st.sampled_from(["number", "text", "rest", "FP64", "FP16", "BOOL", "BYTES", "INT8"])
)


def _maybe(*usual: Any) -> st.SearchStrategy[Any]:
    return st.sampled_from(usual) | ODD


TENSOR = st.fixed_dictionaries(
    {
        "name": _maybe("number", "whole", "flag", "text", "maybe", "rest"),
        "datatype": _maybe("FP64", "FP32", "INT64", "UINT8", "BOOL", "BYTES"),
        "shape": st.lists(_maybe(0, 1, 2), max_size=2) | ODD,
    },
    optional={
        "data": st.lists(ODD, max_size=3) | ODD,
        "parameters": st.fixed_dictionaries({"binary_data_size": st.integers(-1, 20) | ODD}) | ODD,
    },
)
REQUEST = st.fixed_dictionaries(
    {"inputs": st.lists(TENSOR, max_size=3) | ODD},
    optional={"id": ODD, "outputs": st.lists(ODD, max_size=2) | ODD, "parameters": ODD},
)


@given(records=RECORDS, binary=st.booleans())
@settings(max_examples=100, deadline=None)
def test_what_is_written_as_an_answer_reads_back_as_the_same_records(
    records: list[dict[str, Any]], binary: bool
):
    """An answer's tensors, sent back as a request's, are the records again."""
    asked = oip.Inference(id=None, records=[], binary_data_output=binary)
    body, headers = oip.encode(
        asked, model_name="m", release="r", request_id="i", outputs=records, output_schema=SCHEMA
    )
    cut = int(headers.get(oip.HEADER_LENGTH, len(body)))
    head = json.dumps({"inputs": json.loads(body[:cut])["outputs"]}).encode()

    inference = oip.decode(head + body[cut:], header_length=len(head) if binary else None, schema=SCHEMA)

    assert inference.records == records


@given(request=REQUEST, raw=st.binary(max_size=24), is_binary=st.booleans())
@settings(max_examples=300, deadline=None)
def test_any_request_is_decoded_or_refused(request: dict[str, Any], raw: bytes, is_binary: bool):
    """No form of a request ends in anything but records or a refusal."""
    head = json.dumps(request).encode()

    with suppress(Refusal):
        oip.decode(head + raw, header_length=len(head) if is_binary else None, schema=SCHEMA)


@given(
    count=st.integers(1, 4),
    datatype=st.sampled_from(["BOOL", "BYTES", "FP16", "FP32", "FP64", "INT8", "INT64", "UINT16"]),
    name=st.sampled_from(["number", "whole", "flag", "text", "maybe", "rest"]),
    raw=st.binary(max_size=40) | st.lists(NUMBER, max_size=4).map(lambda v: struct.pack(f"<{len(v)}d", *v)),
)
@settings(max_examples=300, deadline=None)
def test_any_binary_data_are_decoded_or_refused(count: int, datatype: str, name: str, raw: bytes):
    tensor = {
        "name": name,
        "shape": [count],
        "datatype": datatype,
        "parameters": {"binary_data_size": len(raw)},
    }
    head = json.dumps({"inputs": [tensor]}).encode()

    with suppress(Refusal):
        inference = oip.decode(head + raw, header_length=len(head), schema=SCHEMA)

        assert len(inference.records) == count
