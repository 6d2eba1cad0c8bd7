"""Speak Open Inference Protocol v2 over REST, with the binary tensor extension.

Called by the routes under `/v2`. Pure translation: bytes and plain data in, bytes and plain data out. A
request becomes records as a native body would carry them, so that everything behind the border is the
same for both protocols. Never does I/O, never knows the web framework, never quotes a caller's value.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from nightproof import __version__
from nightproof.base import strictjson
from nightproof.base.errors import FieldError, Refusal
from nightproof.declare.describe import Description
from nightproof.gateway.tensors import (
    DATATYPES,
    LEFT_OUT,
    TensorSpec,
    fitted,
    flat,
    malformed,
    outgoing,
    read_binary,
    read_json,
    tensors_of,
    unfit,
    write_binary,
)

__all__ = [
    "HEADER_LENGTH",
    "Inference",
    "TensorSpec",
    "WantedOutput",
    "decode",
    "encode",
    "error_body",
    "header_length_of",
    "model_metadata",
    "model_ready",
    "server_metadata",
    "tensors_of",
]

HEADER_LENGTH = "Inference-Header-Content-Length"
"""The header that says where the JSON part ends and binary data start."""

_NAMES_OF_THE_FORM = frozenset(
    {"id", "parameters", "inputs", "outputs", "name", "shape", "datatype", "data", "binary_data_size"}
)
_TENSOR_DATA = frozenset({"/inputs/*/data/*", "/inputs/*/data/*/*"})
_LONGEST_TIMEOUT_US = 10**12


class WantedOutput(msgspec.Struct, frozen=True):
    """One output that the caller asked for."""

    name: str
    binary: bool | None = None
    """Whether as binary data; None follows the request's `binary_data_output`."""


class Inference(msgspec.Struct, frozen=True, kw_only=True):
    """A decoded inference request."""

    id: str | None
    records: list[dict[str, Any]]
    outputs: list[WantedOutput] | None = None
    """None asks for all of them."""
    binary_data_output: bool = False
    timeout_ms: int | None = None
    """The caller's own deadline, from the scheduling parameter `timeout`."""


class _Tensor(msgspec.Struct, frozen=True, kw_only=True):
    """One input tensor of the form's right types, not yet held against the service's fields."""

    pointer: str
    name: str
    datatype: str
    shape: list[int]
    data: list[Any] | None
    raw: memoryview | None


def server_metadata() -> dict[str, Any]:
    """Describe the server, for `GET /v2`."""
    return {"name": "nightproof", "version": __version__, "extensions": ["binary_tensor_data"]}


def model_metadata(description: Description, release: str) -> dict[str, Any]:
    """Describe a service's live release, for `GET /v2/models/{name}`."""
    return {
        "name": description.service,
        "versions": [release],
        "platform": "nightproof",
        "inputs": [tensor.metadata() for tensor in tensors_of(description.input_schema)],
        "outputs": [tensor.metadata() for tensor in tensors_of(description.output_schema)],
    }


def model_ready(name: str, ready: bool) -> dict[str, Any]:
    """Say whether a service is ready, for `GET /v2/models/{name}/ready`."""
    return {"name": name, "ready": ready}


def error_body(text: str) -> bytes:
    """Write the protocol's error form."""
    return msgspec.json.encode({"error": text})


def header_length_of(header: str | bytes | None) -> int | None:
    """Read the value of `Inference-Header-Content-Length`; None where the request has no such header."""
    if header is None:
        return None
    text = header.decode("latin-1") if isinstance(header, bytes) else header
    if not (text.isascii() and text.isdigit() and len(text) <= 12):
        raise malformed(f"The header {HEADER_LENGTH} is not a number of bytes.")
    return int(text)


def decode(
    body: bytes,
    *,
    header_length: int | None,
    schema: dict[str, Any] | Sequence[TensorSpec],
    output_schema: dict[str, Any] | Sequence[TensorSpec] | None = None,
    max_items: int | None = None,
) -> Inference:
    """Turn an inference request into records, or raise Refusal.

    `schema` is the service's input schema, or its `tensors_of` where the caller keeps them. With
    `output_schema`, a wanted output that does not exist is refused here, before a model runs for it.
    More records than `max_items` are refused before any of them is built.
    """
    form, binary = _parts(body, header_length)
    specs = _specs(schema)
    parameters = _parameters(form, pointer="")
    wanted = _wanted_outputs(form)
    if output_schema is not None:
        _refuse_unknown_outputs(wanted, _specs(output_schema))
    return Inference(
        id=_text(form, "id", pointer="") if form.get("id") is not None else None,
        records=_records(_tensors(form, binary), specs, max_items),
        outputs=wanted,
        binary_data_output=_flag(parameters, "binary_data_output", pointer="/parameters") or False,
        timeout_ms=_timeout_ms(parameters),
    )


def _specs(schema: dict[str, Any] | Sequence[TensorSpec]) -> Sequence[TensorSpec]:
    return tensors_of(schema) if isinstance(schema, dict) else schema


def _parts(body: bytes, header_length: int | None) -> tuple[dict[str, Any], memoryview | None]:
    """Split a body into its JSON object and, where the header announced them, the binary data."""
    if header_length is not None and not 0 < header_length <= len(body):
        raise malformed(
            f"The header {HEADER_LENGTH} does not fit the body.",
            hint="It is the size of the JSON part in bytes.",
        )
    try:
        form = strictjson.parse(
            body if header_length is None else body[:header_length],
            wide_pointers=_TENSOR_DATA,
            known_names=_NAMES_OF_THE_FORM,
        )
    except strictjson.JsonRefused as error:
        text = f"The request's JSON part cannot be read: {error.detail}."
        refusal = Refusal(
            text,
            failure="malformed_request",
            status=400,
            errors=[FieldError(error.pointer or "", error.detail, error.reason)],
        )
    else:
        if isinstance(form, dict):
            return form, None if header_length is None else memoryview(body)[header_length:]
        refusal = malformed("The request is not a JSON object.", hint='Send {"inputs": […]}.')
    raise refusal


def _tensors(form: dict[str, Any], binary: memoryview | None) -> list[_Tensor]:
    """Read the input tensors' form, and cut each one's piece off the binary data."""
    inputs = form.get("inputs")
    if not isinstance(inputs, list) or not inputs:
        raise malformed("The request has no input tensors.", pointer="/inputs", hint='Send {"inputs": […]}.')
    tensors = []
    used_bytes = 0
    for index, given in enumerate(inputs):
        pointer = f"/inputs/{index}"
        if not isinstance(given, dict):
            raise malformed(f"Input tensor {index} is not a JSON object.", pointer=pointer)
        parameters = _parameters(given, pointer=pointer)
        if any(name.startswith("shared_memory") for name in parameters):
            raise malformed(
                f"Input tensor {index} lies in shared memory, which is not served.",
                pointer=f"{pointer}/parameters",
                hint="Send it as binary data.",
            )
        size_bytes = parameters.get("binary_data_size")
        raw = None
        if size_bytes is not None:
            raw = _piece(binary, used_bytes, size_bytes, pointer=pointer)
            used_bytes += len(raw)
        tensors.append(_tensor(given, raw, pointer=pointer))
    if binary is not None and used_bytes != len(binary):
        raise malformed("The request has binary data that belong to no input tensor.")
    return tensors


def _piece(binary: memoryview | None, start: int, size_bytes: Any, *, pointer: str) -> memoryview:
    place = f"{pointer}/parameters/binary_data_size"
    if type(size_bytes) is not int or size_bytes < 0:
        raise malformed("A tensor's binary_data_size is not a number of bytes.", pointer=place)
    if binary is None:
        raise malformed(
            "A tensor has binary data, but the request does not say where they start.",
            pointer=place,
            hint=f"Send the size of the JSON part in the header {HEADER_LENGTH}.",
        )
    if start + size_bytes > len(binary):
        raise malformed("The request has less binary data than its tensors announce.", pointer=place)
    return binary[start : start + size_bytes]


def _tensor(given: dict[str, Any], raw: memoryview | None, *, pointer: str) -> _Tensor:
    shape = given.get("shape")
    if not isinstance(shape, list) or any(type(size) is not int or size < 0 for size in shape):
        raise malformed("A tensor's shape is not a list of sizes.", pointer=f"{pointer}/shape")
    data = given.get("data")
    if raw is None and not isinstance(data, list):
        raise malformed(
            "A tensor has no data.", pointer=f"{pointer}/data", hint="Send a list, or binary data."
        )
    if raw is not None and data is not None:
        raise malformed(
            "A tensor has both JSON and binary data.", pointer=f"{pointer}/data", hint="Send one of them."
        )
    return _Tensor(
        pointer=pointer,
        name=_text(given, "name", pointer=pointer),
        datatype=_text(given, "datatype", pointer=pointer),
        shape=shape,
        data=data,
        raw=raw,
    )


def _records(
    tensors: list[_Tensor], specs: Sequence[TensorSpec], max_items: int | None
) -> list[dict[str, Any]]:
    if _is_matrix(tensors, specs):
        columns = _matrix_columns(tensors[0], specs, max_items)
    else:
        columns = _named_columns(tensors, specs, max_items)
    ordered = [spec.name for spec in specs if spec.name in columns]
    records = [
        dict(zip(ordered, row, strict=True)) for row in zip(*(columns[name] for name in ordered), strict=True)
    ]
    if any(LEFT_OUT in column for column in columns.values()):
        return [
            {name: value for name, value in record.items() if value is not LEFT_OUT} for record in records
        ]
    return records


def _is_matrix(tensors: list[_Tensor], specs: Sequence[TensorSpec]) -> bool:
    """Say whether the request is one tensor of all fields side by side, under any name."""
    if len(tensors) != 1 or len(tensors[0].shape) != 2:
        return False
    if any(spec.kind not in ("number", "integer") for spec in specs):
        return False
    return tensors[0].shape[1] == len(specs) and tensors[0].name not in {spec.name for spec in specs}


def _matrix_columns(
    tensor: _Tensor, specs: Sequence[TensorSpec], max_items: int | None
) -> dict[str, list[Any]]:
    rows, width = tensor.shape
    _refuse_wrong_count(rows, rows, max_items, pointer=tensor.pointer)
    values = _elements(tensor, rows, width)
    return {
        spec.name: fitted(
            spec, tensor.datatype, values[at::width], pointer=tensor.pointer, matrix=(at, width)
        )
        for at, spec in enumerate(specs)
    }


def _named_columns(
    tensors: list[_Tensor], specs: Sequence[TensorSpec], max_items: int | None
) -> dict[str, list[Any]]:
    by_name = {spec.name: spec for spec in specs}
    columns: dict[str, list[Any]] = {}
    expected = tensors[0].shape[0] if tensors[0].shape else 0
    for tensor in tensors:
        spec = by_name.get(tensor.name)
        if spec is None:
            raise unfit(
                "An input tensor has a name that is no field of this service.",
                pointer=f"{tensor.pointer}/name",
                kind="unknown",
                hint=_hint_for_names(specs),
            )
        if spec.name in columns:
            raise malformed(f"Input tensor {spec.name!r} is there twice.", pointer=f"{tensor.pointer}/name")
        if len(tensor.shape) not in (1, 2) or tensor.shape[1:] not in ([], [1]):
            raise unfit(
                f"Input tensor {spec.name!r} has the wrong shape.",
                pointer=f"{tensor.pointer}/shape",
                kind="length",
                hint="Send one value per record: [n] or [n, 1].",
            )
        _refuse_wrong_count(tensor.shape[0], expected, max_items, pointer=tensor.pointer)
        values = _elements(tensor, tensor.shape[0], 1)
        columns[spec.name] = fitted(spec, tensor.datatype, values, pointer=tensor.pointer)
    return columns


def _hint_for_names(specs: Sequence[TensorSpec]) -> str:
    hint = "The model's metadata list the names."
    if all(spec.kind in ("number", "integer") for spec in specs):
        hint += f" One matrix of all fields side by side, [n, {len(specs)}], may have any name."
    return hint


def _refuse_wrong_count(rows: int, expected: int, max_items: int | None, *, pointer: str) -> None:
    place = f"{pointer}/shape"
    if rows == 0:
        raise unfit("An input tensor holds no record.", pointer=place, kind="length")
    if rows != expected:
        raise unfit("The input tensors do not hold the same number of records.", pointer=place, kind="length")
    if max_items is not None and rows > max_items:
        text = f"The request holds more than {max_items} records."
        errors = [FieldError(place, text, "length")]
        raise Refusal(text, failure="oversized_request", hint="Send them in several requests.", errors=errors)


def _elements(tensor: _Tensor, rows: int, columns: int) -> list[Any]:
    if tensor.datatype not in DATATYPES:
        raise unfit(
            "An input tensor has a datatype that is not read here.",
            pointer=f"{tensor.pointer}/datatype",
            kind="type",
            hint=f"These are: {', '.join(sorted(DATATYPES))}.",
        )
    if tensor.raw is not None:
        return read_binary(tensor.raw, rows * columns, tensor.datatype, pointer=tensor.pointer)
    values = flat(tensor.data or [], rows, columns, pointer=tensor.pointer)
    return read_json(values, tensor.datatype, pointer=tensor.pointer)


def _wanted_outputs(form: dict[str, Any]) -> list[WantedOutput] | None:
    given = form.get("outputs")
    if given is None or given == []:
        return None
    if not isinstance(given, list) or any(not isinstance(one, dict) for one in given):
        raise malformed("The wanted outputs are not a list of objects.", pointer="/outputs")
    wanted: list[WantedOutput] = []
    for index, one in enumerate(given):
        pointer = f"/outputs/{index}"
        parameters = _parameters(one, pointer=pointer)
        if "classification" in parameters or any(name.startswith("shared_memory") for name in parameters):
            raise malformed(
                f"Wanted output {index} asks for classification or shared memory, which are not served.",
                pointer=f"{pointer}/parameters",
            )
        name = _text(one, "name", pointer=pointer)
        if any(name == other.name for other in wanted):
            raise malformed("A wanted output is named twice.", pointer=f"{pointer}/name")
        wanted.append(WantedOutput(name, _flag(parameters, "binary_data", pointer=f"{pointer}/parameters")))
    return wanted


def _refuse_unknown_outputs(wanted: list[WantedOutput] | None, specs: Sequence[TensorSpec]) -> None:
    known = {spec.name for spec in specs}
    for index, one in enumerate(wanted or ()):
        if one.name not in known:
            raise malformed(
                "A wanted output has a name that is no output of this service.",
                pointer=f"/outputs/{index}/name",
                hint=f"These are: {', '.join(sorted(known))}.",
            )


def _parameters(form: dict[str, Any], *, pointer: str) -> dict[str, Any]:
    parameters = form.get("parameters")
    if parameters is None:
        return {}
    if not isinstance(parameters, dict):
        raise malformed("The parameters are not a JSON object.", pointer=f"{pointer}/parameters")
    return parameters


def _flag(parameters: dict[str, Any], name: str, *, pointer: str) -> bool | None:
    value = parameters.get(name)
    if value is None or isinstance(value, bool):
        return value
    raise malformed(f"The parameter {name} is not true or false.", pointer=f"{pointer}/{name}")


def _text(form: dict[str, Any], name: str, *, pointer: str) -> str:
    value = form.get(name)
    if isinstance(value, str):
        return value
    raise malformed(f"The field {name} is missing, or not a text.", pointer=f"{pointer}/{name}")


def _timeout_ms(parameters: dict[str, Any]) -> int | None:
    """Read the scheduling parameter `timeout`, in microseconds; 0 is the protocol's word for none."""
    timeout_us = parameters.get("timeout")
    if timeout_us is None or (type(timeout_us) is int and timeout_us == 0):
        return None
    if type(timeout_us) is not int or not 0 < timeout_us <= _LONGEST_TIMEOUT_US:
        raise malformed(
            "The parameter timeout is not a number of microseconds.", pointer="/parameters/timeout"
        )
    return -(-timeout_us // 1_000)


def encode(
    inference: Inference,
    *,
    model_name: str,
    release: str,
    request_id: str,
    outputs: Sequence[dict[str, Any]],
    output_schema: dict[str, Any] | Sequence[TensorSpec],
    degraded: bool | None = None,
) -> tuple[bytes, dict[str, str]]:
    """Write the answer to an inference: the body, and the headers that say how to read it.

    `outputs` are the answers of the records, in their order. Raises Refusal for a wanted output that
    does not exist.
    """
    specs = {spec.name: spec for spec in _specs(output_schema)}
    _refuse_unknown_outputs(inference.outputs, list(specs.values()))
    wanted = inference.outputs if inference.outputs is not None else [WantedOutput(name) for name in specs]
    described: list[dict[str, Any]] = []
    pieces: list[bytes] = []
    for one in wanted:
        binary = inference.binary_data_output if one.binary is None else one.binary
        tensor, piece = _written(specs[one.name], [answer.get(one.name) for answer in outputs], binary=binary)
        described.append(tensor)
        if piece is not None:
            pieces.append(piece)
    form = {"model_name": model_name, "model_version": release}
    if inference.id is not None:
        form["id"] = inference.id
    parameters: dict[str, Any] = {"request_id": request_id}
    if degraded is not None:
        parameters["degraded"] = degraded
    head = msgspec.json.encode({**form, "parameters": parameters, "outputs": described})
    if any("data" not in tensor for tensor in described):
        return b"".join([head, *pieces]), {
            "Content-Type": "application/octet-stream",
            HEADER_LENGTH: str(len(head)),
        }
    return head, {"Content-Type": "application/json"}


def _written(spec: TensorSpec, column: list[Any], *, binary: bool) -> tuple[dict[str, Any], bytes | None]:
    """Describe one output tensor, with its data inside, or beside it as binary."""
    datatype, values = outgoing(spec, column)
    tensor: dict[str, Any] = {"name": spec.name, "datatype": datatype, "shape": [len(values)]}
    parameters: dict[str, Any] = {"content_type": "json"} if spec.kind == "json" else {}
    piece = write_binary(datatype, values) if binary else None
    if piece is not None:
        parameters["binary_data_size"] = len(piece)
    if parameters:
        tensor["parameters"] = parameters
    if piece is None:
        tensor["data"] = values
    return tensor, piece
