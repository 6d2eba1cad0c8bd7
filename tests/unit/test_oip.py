"""Open Inference Protocol v2: what its real client writes becomes records, and answers it can read."""

import itertools
import json
import math
import struct
from datetime import datetime
from enum import IntEnum
from typing import Annotated, Any, Literal
from uuid import UUID

import numpy as np
import pytest
import tritonclient.http as triton
from pydantic import BaseModel, Field

from nightproof.base.errors import Refusal
from nightproof.gateway import oip


class Grade(IntEnum):
    low = 1
    high = 2


class Address(BaseModel):
    town: str


class Applicant(BaseModel):
    income: float = Field(ge=0)
    age: int
    member: bool
    purpose: Literal["car", "house"]
    debt: float | None = None
    children: int | None = None
    rate: float = 1.5
    as_of: datetime | None = None
    grade: Grade = Grade.low
    key: UUID | None = None
    address: Address | None = None
    history: list[int] = []
    account: int = Field(default=0, le=2**63 - 1)
    accounts: list[Annotated[int, Field(le=2**63 - 1)]] = []


class Decision(BaseModel):
    approve: bool
    score: float
    rank: int
    reason: str
    limit: float | None = None
    band: int | None = None
    note: str | None = None
    parts: dict[str, float] = {}


class Point(BaseModel):
    x: float
    y: float
    count: int
    z: float | None = None


GIVEN = Applicant.model_json_schema(mode="validation")
ANSWER = Decision.model_json_schema(mode="serialization")
POINT = Point.model_json_schema(mode="validation")

DECISION = {
    "approve": True,
    "score": 0.25,
    "rank": 3,
    "reason": "zoë",
    "limit": None,
    "band": None,
    "note": None,
}


def tensor(name: str, values: Any, datatype: str, *, binary: bool = True) -> triton.InferInput:
    """Fill a tensor as users of the real client do."""
    array = np.array(values, dtype={"BYTES": np.object_, "BOOL": np.bool_}.get(datatype) or _DTYPES[datatype])
    given = triton.InferInput(name, list(array.shape), datatype)
    given.set_data_from_numpy(array, binary_data=binary)
    return given


_DTYPES = {
    "FP16": np.float16, "FP32": np.float32, "FP64": np.float64, "INT8": np.int8, "INT16": np.int16,
    "INT32": np.int32, "INT64": np.int64, "UINT8": np.uint8, "UINT16": np.uint16, "UINT32": np.uint32,
    "UINT64": np.uint64,
}  # fmt: skip


def sent(*inputs: triton.InferInput, schema: dict[str, Any] = GIVEN, **options: Any) -> oip.Inference:
    """Decode what the real client would send."""
    body, header_length = triton.InferenceServerClient.generate_request_body(list(inputs), **options)
    return oip.decode(body, header_length=header_length, schema=schema)


def sent_json(request: Any, *, schema: dict[str, Any] = GIVEN, **options: Any) -> oip.Inference:
    return oip.decode(json.dumps(request).encode(), header_length=None, schema=schema, **options)


def with_tensor(**changes: Any) -> dict[str, Any]:
    return {"inputs": [{"name": "income", "shape": [2], "datatype": "FP64", "data": [1.0, 2.0]} | changes]}


def refused(request: Any, **options: Any) -> Refusal:
    with pytest.raises(Refusal) as caught:
        sent_json(request, **options)
    return caught.value


def answered(
    outputs: list[dict[str, Any]],
    wanted: list[oip.WantedOutput] | None = None,
    *,
    binary: bool = False,
    **options: Any,
) -> tuple[bytes, dict[str, str]]:
    inference = oip.Inference(id="mine", records=[{}], outputs=wanted, binary_data_output=binary)
    return oip.encode(
        inference,
        model_name="credit",
        release="dev-1",
        request_id="r-1",
        outputs=outputs,
        output_schema=ANSWER,
        **options,
    )


def read_by_client(body: bytes, headers: dict[str, str]) -> triton.InferResult:
    length = headers.get(oip.HEADER_LENGTH)
    return triton.InferenceServerClient.parse_response_body(body, header_length=length and int(length))


# ---- metadata


def test_fields_become_tensors_by_their_json_type():
    """Optional fields, references, enums and formats are looked through; the rest travels as JSON text."""
    by_name = {spec.name: spec for spec in oip.tensors_of(GIVEN)}

    assert {name: spec.datatype for name, spec in by_name.items()} == {
        "income": "FP64",
        "age": "INT64",
        "member": "BOOL",
        "purpose": "BYTES",
        "debt": "FP64",
        "children": "INT64",
        "rate": "FP64",
        "as_of": "BYTES",
        "grade": "INT64",
        "key": "BYTES",
        "address": "BYTES",
        "history": "BYTES",
        "account": "INT64",
        "accounts": "BYTES",
    }
    assert [name for name, spec in by_name.items() if spec.kind == "json"] == [
        "address",
        "history",
        "accounts",
    ]
    assert [name for name, spec in by_name.items() if spec.nullable] == [
        "debt",
        "children",
        "as_of",
        "key",
        "address",
    ]
    assert [name for name, spec in by_name.items() if spec.required] == ["income", "age", "member", "purpose"]


def test_json_fields_say_so_in_the_metadata():
    history = next(spec for spec in oip.tensors_of(GIVEN) if spec.name == "history")

    assert history.metadata() == {
        "name": "history",
        "datatype": "BYTES",
        "shape": [-1],
        "parameters": {"content_type": "json"},
    }


@pytest.mark.parametrize(
    ("field", "kind"),
    [
        ({"type": ["number", "null"]}, "number"),
        ({"anyOf": [{"type": "integer"}, {"type": "number"}]}, "number"),
        ({"anyOf": [{"type": "integer"}, {"type": "string"}]}, "json"),
        ({"enum": ["a", "b"]}, "string"),
        ({"enum": [1, "b"]}, "json"),
        ({"const": True}, "boolean"),
        ({}, "json"),
        (True, "json"),
        ({"$ref": "#/properties/field"}, "json"),
        ({"$ref": "#/$defs/nowhere"}, "json"),
    ],
)
def test_odd_schemas_still_have_a_tensor(field: Any, kind: str):
    (spec,) = oip.tensors_of({"properties": {"field": field}})

    assert spec.kind == kind


def test_the_server_announces_binary_tensors():
    assert oip.server_metadata()["extensions"] == ["binary_tensor_data"]
    assert oip.model_ready("credit", True) == {"name": "credit", "ready": True}
    assert json.loads(oip.error_body("no")) == {"error": "no"}


# ---- requests


@pytest.mark.parametrize("binary", [True, False])
def test_the_real_clients_tensors_become_records(binary: bool):
    """Numbers, booleans and text, as binary data and as JSON."""
    inference = sent(
        tensor("income", [1000.5, 0.0], "FP64", binary=binary),
        tensor("age", [41, -1], "INT64", binary=binary),
        tensor("member", [True, False], "BOOL", binary=binary),
        tensor("purpose", ["car", "häuser"], "BYTES", binary=binary),
    )

    assert inference.records == [
        {"income": 1000.5, "age": 41, "member": True, "purpose": "car"},
        {"income": 0.0, "age": -1, "member": False, "purpose": "häuser"},
    ]
    assert inference.binary_data_output is True


def test_records_keep_the_order_of_the_schemas_fields():
    inference = sent(tensor("age", [1], "INT64"), tensor("income", [2.0], "FP64"))

    assert list(inference.records[0]) == ["income", "age"]


@pytest.mark.parametrize("datatype", sorted(_DTYPES))
def test_every_numeric_datatype_fits_a_number(datatype: str):
    inference = sent(tensor("income", [1, 2], datatype))

    assert [record["income"] for record in inference.records] == [1, 2]


@pytest.mark.parametrize("datatype", sorted(name for name in _DTYPES if "INT" in name))
def test_every_integer_datatype_fits_an_integer(datatype: str):
    inference = sent(tensor("age", [1, 2], datatype), tensor("income", [1, 2], "FP32"))

    assert [record["age"] for record in inference.records] == [1, 2]


@pytest.mark.parametrize("shape", [[2], [2, 1]])
@pytest.mark.parametrize("binary", [True, False])
def test_one_value_per_record_may_be_a_list_or_a_column(shape: list[int], binary: bool):
    array = np.array([1.0, 2.0]).reshape(shape)

    inference = sent(tensor("income", array, "FP64", binary=binary))

    assert inference.records == [{"income": 1.0}, {"income": 2.0}]


def test_nested_data_are_read_by_their_shape():
    inference = sent_json(with_tensor(shape=[2, 1], data=[[1.0], [2.0]]))

    assert inference.records == [{"income": 1.0}, {"income": 2.0}]


def test_objects_and_lists_travel_as_json_text():
    inference = sent(
        tensor("address", ['{"town": "Bonn"}', "null"], "BYTES"), tensor("history", ["[1, 2]", "[]"], "BYTES")
    )

    assert inference.records == [
        {"address": {"town": "Bonn"}, "history": [1, 2]},
        {"address": None, "history": []},
    ]


def test_a_gap_is_null_where_null_is_allowed_and_left_out_where_the_field_has_a_default():
    """NaN in binary data and null in JSON mean the same."""
    binary = sent(tensor("debt", [math.nan, 2.0], "FP64"), tensor("rate", [1.0, math.nan], "FP32"))
    spoken = sent_json(
        {
            "inputs": [
                {"name": "debt", "shape": [2], "datatype": "FP64", "data": [None, 2.0]},
                {"name": "rate", "shape": [2], "datatype": "FP32", "data": [1.0, None]},
                {"name": "children", "shape": [2], "datatype": "INT64", "data": [None, 2]},
            ]
        }
    )

    assert binary.records == [{"debt": None, "rate": 1.0}, {"debt": 2.0}]
    assert spoken.records == [{"debt": None, "children": None, "rate": 1.0}, {"debt": 2.0, "children": 2}]


def test_a_gap_in_a_required_field_is_refused_with_its_place():
    with pytest.raises(Refusal) as caught:
        sent(tensor("income", [1.0, math.nan], "FP64"))

    assert (caught.value.failure, caught.value.errors[0].pointer) == ("invalid_input", "/inputs/0/data/1")
    assert caught.value.errors[0].kind == "missing"


@pytest.mark.parametrize("name", ["income", "debt"])
def test_infinity_is_refused_with_its_place(name: str):
    with pytest.raises(Refusal) as caught:
        sent(tensor(name, [1.0, math.inf], "FP32"))

    assert (caught.value.failure, caught.value.errors[0].pointer) == ("invalid_input", "/inputs/0/data/1")


@pytest.mark.parametrize("name", ["input-0", "predict"])
@pytest.mark.parametrize(
    ("datatype", "binary"),
    [("FP16", True), *itertools.product(["FP32", "FP64", "INT64"], [True, False])],
)
def test_one_matrix_of_all_fields_may_have_any_name(name: str, datatype: str, binary: bool):
    """As users of scikit-learn servers send it: columns in the order of the fields."""
    inference = sent(tensor(name, [[1, 2, 3, 4], [5, 6, 7, 8]], datatype, binary=binary), schema=POINT)

    assert inference.records == [{"x": 1, "y": 2, "count": 3, "z": 4}, {"x": 5, "y": 6, "count": 7, "z": 8}]
    assert type(inference.records[0]["count"]) is int


def test_a_matrix_may_have_gaps_and_names_its_bad_elements():
    with_gap = sent(tensor("input-0", [[1.0, 2.0, 3.0, math.nan]], "FP64"), schema=POINT)
    with pytest.raises(Refusal) as caught:
        sent(tensor("input-0", [[1, 2, 3, 4], [1, 2, 3.5, 4]], "FP64"), schema=POINT)

    assert with_gap.records == [{"x": 1.0, "y": 2.0, "count": 3, "z": None}]
    assert caught.value.errors[0].pointer == "/inputs/0/data/6"


def test_a_matrix_of_another_width_is_refused_with_the_width_that_fits():
    with pytest.raises(Refusal) as caught:
        sent(tensor("input-0", [[1.0, 2.0]], "FP64"), schema=POINT)

    assert caught.value.failure == "invalid_input"
    assert "[n, 4]" in str(caught.value)


def test_a_matrix_is_not_for_services_with_text():
    with pytest.raises(Refusal) as caught:
        sent(tensor("input-0", np.zeros((1, 14)), "FP64"))

    assert caught.value.errors[0].kind == "unknown"


def test_the_request_says_how_it_wants_its_outputs():
    inference = sent(
        tensor("income", [1.0], "FP64"),
        outputs=[
            triton.InferRequestedOutput("score"),
            triton.InferRequestedOutput("rank", binary_data=False),
        ],
        request_id="mine",
        timeout=1_500,
        priority=2,
    )

    assert inference.outputs == [oip.WantedOutput("score", True), oip.WantedOutput("rank", False)]
    assert (inference.id, inference.timeout_ms, inference.binary_data_output) == ("mine", 2, False)


def test_without_a_wish_all_outputs_come_as_json():
    inference = sent_json(with_tensor())

    assert (inference.id, inference.outputs, inference.binary_data_output, inference.timeout_ms) == (
        None,
        None,
        False,
        None,
    )


def test_an_output_that_does_not_exist_is_refused_before_the_model_runs():
    fault = refused(with_tensor() | {"outputs": [{"name": "secret-name"}]}, output_schema=ANSWER)

    assert (fault.failure, fault.status) == ("malformed_request", 400)
    assert "secret-name" not in str(fault)


def test_declared_wide_integers_are_found_inside_json_fields_too():
    wide = sent(tensor("accounts", [f"[{2**62}]"], "BYTES"))

    assert wide.records == [{"accounts": [2**62]}]
    with pytest.raises(Refusal) as caught:
        sent(tensor("history", [f"[{2**62}]"], "BYTES"))
    assert caught.value.failure == "invalid_input"


def test_integers_that_json_would_bend_are_refused_unless_the_field_is_wider():
    wide = sent(tensor("account", [2**62], "INT64"))

    assert wide.records == [{"account": 2**62}]
    for name in ("age", "income"):
        with pytest.raises(Refusal) as caught:
            sent(tensor(name, [2**62], "INT64"))
        assert caught.value.errors[0].kind == "range"


MALFORMED: dict[str, Any] = {
    "not an object": [],
    "no inputs": {},
    "inputs is empty": {"inputs": []},
    "inputs is an object": {"inputs": {}},
    "an input is no object": {"inputs": [1]},
    "no name": {"inputs": [{"shape": [1], "datatype": "FP64", "data": [1.0]}]},
    "no datatype": {"inputs": [{"name": "income", "shape": [1], "data": [1.0]}]},
    "no shape": {"inputs": [{"name": "income", "datatype": "FP64", "data": [1.0]}]},
    "no data": {"inputs": [{"name": "income", "datatype": "FP64", "shape": [1]}]},
    "data is a number": with_tensor(data=1.0),
    "shape holds a text": with_tensor(shape=["2"]),
    "shape holds a boolean": with_tensor(shape=[True]),
    "shape is negative": with_tensor(shape=[-1]),
    "the same name twice": {"inputs": with_tensor()["inputs"] * 2},
    "parameters is a list": with_tensor() | {"parameters": []},
    "binary without a header": with_tensor(parameters={"binary_data_size": 16}),
    "shared memory": with_tensor(parameters={"shared_memory_region": "r"}),
    "half precision as JSON": with_tensor(datatype="FP16"),
    "id is a number": with_tensor() | {"id": 7},
    "outputs is an object": with_tensor() | {"outputs": {}},
    "an output is no object": with_tensor() | {"outputs": ["score"]},
    "an output without a name": with_tensor() | {"outputs": [{}]},
    "an output twice": with_tensor() | {"outputs": [{"name": "score"}, {"name": "score"}]},
    "a wish that is no boolean": with_tensor()
    | {"outputs": [{"name": "score", "parameters": {"binary_data": 1}}]},
    "classification": with_tensor() | {"outputs": [{"name": "score", "parameters": {"classification": 2}}]},
    "timeout is a text": with_tensor() | {"parameters": {"timeout": "soon"}},
    "timeout is negative": with_tensor() | {"parameters": {"timeout": -1}},
    "timeout is a boolean": with_tensor() | {"parameters": {"timeout": True}},
}


@pytest.mark.parametrize("case", MALFORMED)
def test_what_is_not_the_protocols_form_is_malformed(case: str):
    fault = refused(MALFORMED[case])

    assert (fault.failure, fault.status) == ("malformed_request", 400)


UNFIT: dict[str, Any] = {
    "unknown name": with_tensor(name="canary-7"),
    "wrong datatype": with_tensor(name="age", datatype="FP64"),
    "a boolean for a number": with_tensor(datatype="BOOL", data=[True, False]),
    "text for a number": with_tensor(datatype="BYTES", data=["1", "2"]),
    "a number for text": with_tensor(name="purpose", datatype="FP64"),
    "unknown datatype": with_tensor(datatype="canary-7"),
    "ragged": with_tensor(shape=[2, 1], data=[[1.0], [2.0, 3.0]]),
    "nested and flat mixed": with_tensor(shape=[2, 1], data=[[1.0], 2.0]),
    "nested too deep": with_tensor(shape=[2, 1], data=[[[1.0]], [[2.0]]]),
    "too few elements": with_tensor(data=[1.0]),
    "too many elements": with_tensor(data=[1.0, 2.0, 3.0]),
    "no records": with_tensor(shape=[0], data=[]),
    "a scalar": with_tensor(shape=[], data=[1.0]),
    "a cube": with_tensor(shape=[2, 1, 1]),
    "two columns": with_tensor(shape=[1, 2]),
    "a huge shape": with_tensor(shape=[10**15]),
    "text as a number": with_tensor(data=[1.0, "canary-7"]),
    "a boolean as a number": with_tensor(data=[1.0, True]),
    "a fraction as an integer": with_tensor(name="age", datatype="INT64", data=[1, 2.5]),
    "beyond eight bits": with_tensor(name="age", datatype="INT8", data=[1, 128]),
    "negative but unsigned": with_tensor(name="age", datatype="UINT8", data=[1, -1]),
    "a number as a boolean": with_tensor(name="member", datatype="BOOL", data=[1, 0]),
    "not JSON text": with_tensor(name="history", datatype="BYTES", data=["[]", "[canary-7"]),
    "null in a required field": with_tensor(data=[1.0, None]),
    "different numbers of records": {
        "inputs": [
            {"name": "income", "shape": [2], "datatype": "FP64", "data": [1.0, 2.0]},
            {"name": "age", "shape": [1], "datatype": "INT64", "data": [1]},
        ]
    },
}


@pytest.mark.parametrize("case", UNFIT)
def test_tensors_that_do_not_fit_the_service_are_invalid_input(case: str):
    fault = refused(UNFIT[case])

    assert fault.failure == "invalid_input"
    assert fault.errors[0].pointer.startswith("/inputs/")
    assert "canary" not in f"{fault} {fault.errors}"


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"\xff", b'{"inputs": NaN}', b'{"inputs": [], "inputs": []}', b"[" * 100_000],
    ids=["empty", "cut off", "not text", "NaN", "a key twice", "deep"],
)
def test_what_is_not_strict_json_is_malformed(body: bytes):
    with pytest.raises(Refusal) as caught:
        oip.decode(body, header_length=None, schema=GIVEN)

    assert (caught.value.failure, caught.value.status) == ("malformed_request", 400)


def binary_request(
    raw: bytes, *, size_bytes: Any = None, name: str = "income", **changes: Any
) -> tuple[bytes, int]:
    parameters = {"binary_data_size": len(raw) if size_bytes is None else size_bytes}
    given = {"name": name, "shape": [2], "datatype": "FP64", "parameters": parameters} | changes
    head = json.dumps({"inputs": [given]}).encode()
    return head + raw, len(head)


@pytest.mark.parametrize("offset", [-1_000, 10_000])
def test_a_header_length_outside_the_body_is_malformed(offset: int):
    body, length = binary_request(struct.pack("<2d", 1, 2))

    with pytest.raises(Refusal) as caught:
        oip.decode(body, header_length=length + offset, schema=GIVEN)

    assert caught.value.failure == "malformed_request"


@pytest.mark.parametrize(
    ("raw", "changes", "failure"),
    [
        (struct.pack("<2d", 1, 2), {"size_bytes": 17}, "malformed_request"),
        (struct.pack("<2d", 1, 2), {"size_bytes": 8}, "malformed_request"),
        (struct.pack("<2d", 1, 2), {"size_bytes": -16}, "malformed_request"),
        (struct.pack("<2d", 1, 2), {"size_bytes": "16"}, "malformed_request"),
        (struct.pack("<2d", 1, 2), {"data": [1.0, 2.0]}, "malformed_request"),
        (struct.pack("<3d", 1, 2, 3), {}, "invalid_input"),
        (b"", {"shape": [10**15]}, "invalid_input"),
        (b"\x02\x01", {"name": "member", "datatype": "BOOL"}, "invalid_input"),
        (b"\x01\0\0\0a\xff\xff\xff\xffb", {"name": "purpose", "datatype": "BYTES"}, "invalid_input"),
        (b"\x01\0\0\0a\x01\0\0", {"name": "purpose", "datatype": "BYTES"}, "invalid_input"),
        (b"\x01\0\0\0a\x01\0\0\0bc", {"name": "purpose", "datatype": "BYTES"}, "invalid_input"),
        (b"\x01\0\0\0a\x01\0\0\0\xff", {"name": "purpose", "datatype": "BYTES"}, "invalid_input"),
    ],
)
def test_binary_data_that_do_not_add_up_are_refused(raw: bytes, changes: dict[str, Any], failure: str):
    body, length = binary_request(raw, **changes)

    with pytest.raises(Refusal) as caught:
        oip.decode(body, header_length=length, schema=GIVEN)

    assert caught.value.failure == failure


def test_too_many_records_are_refused_before_they_are_built():
    fault = refused(with_tensor(), max_items=1)

    assert fault.failure == "oversized_request"


@pytest.mark.parametrize("text", ["", "-1", "1.5", "abc", "１２", "9" * 5_000, "+3"])
def test_a_header_length_that_is_no_number_is_malformed(text: str):
    with pytest.raises(Refusal) as caught:
        oip.header_length_of(text)

    assert caught.value.failure == "malformed_request"


def test_a_header_length_is_read():
    assert (oip.header_length_of(None), oip.header_length_of("154"), oip.header_length_of(b"7")) == (
        None,
        154,
        7,
    )


# ---- answers


@pytest.mark.parametrize("binary", [True, False])
def test_the_real_client_reads_the_answer(binary: bool):
    body, headers = answered(
        [DECISION, DECISION | {"approve": False, "limit": 10.0, "note": "hi"}], binary=binary
    )

    result = read_by_client(body, headers)

    assert result.as_numpy("approve").tolist() == [True, False]
    assert result.as_numpy("score").tolist() == [0.25, 0.25]
    assert result.as_numpy("rank").tolist() == [3, 3]
    assert [_text(value) for value in result.as_numpy("reason")] == ["zoë", "zoë"]
    assert math.isnan(result.as_numpy("limit")[0])
    assert result.as_numpy("limit")[1] == 10.0
    assert np.isnan(result.as_numpy("band")).all()
    assert [_text(value) for value in result.as_numpy("note")] == ["", "hi"]
    assert [json.loads(_text(value)) for value in result.as_numpy("parts")] == [None, None]


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else value or ""


def test_the_answer_names_model_release_record_and_the_callers_own_id():
    body, headers = answered([DECISION], degraded=True)
    answer = json.loads(body)

    assert headers == {"Content-Type": "application/json"}
    assert (answer["model_name"], answer["model_version"], answer["id"]) == ("credit", "dev-1", "mine")
    assert answer["parameters"] == {"request_id": "r-1", "degraded": True}
    assert [output["name"] for output in answer["outputs"]] == list(Decision.model_fields)
    assert {tuple(output["shape"]) for output in answer["outputs"]} == {(1,)}


def test_binary_and_json_outputs_can_be_mixed_and_only_the_wanted_ones_come():
    body, headers = answered(
        [DECISION], [oip.WantedOutput("rank", True), oip.WantedOutput("score", False)], binary=True
    )

    head = json.loads(body[: int(headers[oip.HEADER_LENGTH])])

    assert headers["Content-Type"] == "application/octet-stream"
    assert head["outputs"] == [
        {"name": "rank", "datatype": "INT64", "shape": [1], "parameters": {"binary_data_size": 8}},
        {"name": "score", "datatype": "FP64", "shape": [1], "data": [0.25]},
    ]
    assert body[int(headers[oip.HEADER_LENGTH]) :] == struct.pack("<q", 3)


def test_an_integer_wider_than_64_bits_goes_out_as_json_even_where_binary_was_asked():
    body, headers = answered([DECISION | {"rank": 2**70}], [oip.WantedOutput("rank", True)])

    assert headers == {"Content-Type": "application/json"}
    assert json.loads(body)["outputs"][0]["data"] == [2**70]


def test_an_answer_with_an_output_that_does_not_exist_is_refused():
    with pytest.raises(Refusal) as caught:
        answered([DECISION], [oip.WantedOutput("secret-name")])

    assert (caught.value.failure, caught.value.status) == ("malformed_request", 400)
