"""Turn a record's fields into named tensors and back, value by value.

Called by `gateway.oip` only. Promises that what it returns is what a JSON body could have carried: no
NaN, no infinity, no integer that JSON would bend. Never does I/O and never quotes a caller's value.

| field of the record | tensor | missing value |
|---|---|---|
| number | FP64 | NaN, or null in JSON |
| integer, boolean | INT64, BOOL | null in JSON; an answer's column with a gap goes out as FP64 with NaN |
| string, also enum, date, uuid | BYTES, UTF-8 | null in JSON; an answer's gap is empty in binary |
| anything else | BYTES of JSON text, `content_type: json` | the text `null` |
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import msgspec

from nightproof.base import strictjson
from nightproof.base.errors import FieldError, Refusal
from nightproof.base.schema import wide_integer_pointers

Kind = Literal["number", "integer", "boolean", "string", "json"]

_DATATYPE_OF: dict[Kind, str] = {
    "number": "FP64",
    "integer": "INT64",
    "boolean": "BOOL",
    "string": "BYTES",
    "json": "BYTES",
}
_FLOAT_CODES = {"FP16": "e", "FP32": "f", "FP64": "d"}
_INTEGER_CODES = {
    "INT8": "b",
    "INT16": "h",
    "INT32": "i",
    "INT64": "q",
    "UINT8": "B",
    "UINT16": "H",
    "UINT32": "I",
    "UINT64": "Q",
}
_CODES = {**_FLOAT_CODES, **_INTEGER_CODES}
_SIZE_BYTES = {"BOOL": 1} | {datatype: struct.calcsize(f"<{code}") for datatype, code in _CODES.items()}
_FITS: dict[Kind, frozenset[str]] = {
    "number": frozenset(_CODES),
    "integer": frozenset(_INTEGER_CODES),
    "boolean": frozenset({"BOOL"}),
    "string": frozenset({"BYTES"}),
    "json": frozenset({"BYTES"}),
}
DATATYPES = frozenset(_SIZE_BYTES) | {"BYTES"}
"""The datatypes of the protocol that we read."""

_REF_HOPS = 32
_DEEPEST_UNION = 6
_JSON_TYPES = {type(None): "null", bool: "boolean", int: "integer", float: "number", str: "string"}


class _LeftOut:
    """Marks the gap of a field that is not required and takes no null: the record goes without it."""


LEFT_OUT = _LeftOut()


class TensorSpec(msgspec.Struct, frozen=True, kw_only=True):
    """One field of a record, seen as a tensor."""

    name: str
    kind: Kind
    nullable: bool = False
    required: bool = True
    wide: frozenset[str] = frozenset()
    """Where below this field integers beyond ±(2^53-1) are declared, as pointers; "" is the field itself."""

    @property
    def datatype(self) -> str:
        """Name the datatype that the metadata declares and answers carry."""
        return _DATATYPE_OF[self.kind]

    @property
    def accepts(self) -> list[str]:
        """Name the datatypes that a caller may send for this field."""
        return sorted(_FITS[self.kind])

    def metadata(self) -> dict[str, Any]:
        """Describe the tensor as the model's metadata do; -1 stands for any number of records."""
        described: dict[str, Any] = {"name": self.name, "datatype": self.datatype, "shape": [-1]}
        if self.kind == "json":
            described["parameters"] = {"content_type": "json"}
        return described


def tensors_of(schema: dict[str, Any]) -> list[TensorSpec]:
    """Read the named tensors of a record from its JSON Schema, in the order of its fields."""
    record = _followed(schema, schema)
    required = set(record.get("required", ()))
    wide = wide_integer_pointers(schema)
    specs = []
    for name, field in record.get("properties", {}).items():
        types = {word for form in _forms_of(field, schema) for word in _types_of(form)}
        specs.append(
            TensorSpec(
                name=name,
                kind=_kind_of(types - {"null"}),
                nullable="null" in types or "any" in types,
                required=name in required,
                wide=_below(name, wide),
            )
        )
    return specs


def _followed(form: dict[str, Any], root: dict[str, Any]) -> dict[str, Any]:
    """Replace a reference by what it refers to, as often as needed; a reference to itself ends as {}."""
    for _ in range(_REF_HOPS):
        target = form.get("$ref")
        if not isinstance(target, str) or not target.startswith("#/"):
            return form
        place: Any = root
        for step in target[2:].split("/"):
            place = (
                place.get(step.replace("~1", "/").replace("~0", "~"), {}) if isinstance(place, dict) else {}
            )
        form = {key: value for key, value in form.items() if key != "$ref"} | place
    return {}


def _forms_of(field: Any, root: dict[str, Any], depth: int = 0) -> Iterator[dict[str, Any]]:
    """Yield the alternatives of a field's schema, references followed."""
    form = _followed(field, root) if isinstance(field, dict) and depth < _DEEPEST_UNION else {}
    branches = [branch for word in ("anyOf", "oneOf", "allOf") for branch in form.get(word, ())]
    if branches and "type" not in form:
        for branch in branches:
            yield from _forms_of(branch, root, depth + 1)
    else:
        yield form


def _types_of(form: dict[str, Any]) -> list[str]:
    """Name the JSON types of one alternative; `any` where it does not say."""
    if "type" in form:
        return [form["type"]] if isinstance(form["type"], str) else list(form["type"])
    values = form.get("enum", [form["const"]] if "const" in form else None)
    if values is None:
        return ["any"]
    return [_JSON_TYPES.get(type(value), "object") for value in values]


def _below(name: str, pointers: frozenset[str]) -> frozenset[str]:
    start = "/" + name.replace("~", "~0").replace("/", "~1")
    return frozenset(pointer[len(start) :] for pointer in pointers if f"{pointer}/".startswith(f"{start}/"))


def _kind_of(types: set[str]) -> Kind:
    if types == {"number", "integer"}:
        return "number"
    for kind in ("number", "integer", "boolean", "string"):
        if types == {kind}:
            return kind
    return "json"


def malformed(text: str, *, pointer: str = "", hint: str = "") -> Refusal:
    """Make the refusal of a request that does not have the protocol's form (status 400)."""
    errors = [FieldError(pointer, text, "other")]
    return Refusal(text, failure="malformed_request", status=400, errors=errors, hint=hint)


def unfit(text: str, *, pointer: str, kind: str = "other", hint: str = "") -> Refusal:
    """Make the refusal of a well-formed request whose tensors do not fit the service's input."""
    return Refusal(text, failure="invalid_input", errors=[FieldError(pointer, text, kind)], hint=hint)


def flat(data: list[Any], rows: int, columns: int, *, pointer: str) -> list[Any]:
    """Return the elements of a JSON `data`, which may be flat or nested by the shape, row by row."""
    if data and isinstance(data[0], list):
        if len(data) != rows or any(not isinstance(row, list) or len(row) != columns for row in data):
            raise unfit(
                "The tensor's nested data do not have its shape.", pointer=f"{pointer}/data", kind="length"
            )
        return [value for row in data for value in row]
    if len(data) != rows * columns:
        raise unfit(
            "The tensor has another number of elements than its shape says.",
            pointer=f"{pointer}/data",
            kind="length",
        )
    return data


def read_binary(raw: bytes | memoryview, count: int, datatype: str, *, pointer: str) -> list[Any]:
    """Read `count` little-endian elements; what is NaN in a tensor of floats becomes None."""
    if datatype == "BYTES":
        return _read_byte_strings(raw, count, pointer=pointer)
    if len(raw) != count * _SIZE_BYTES[datatype]:
        raise unfit(
            "The tensor's binary data have another size than its shape says.", pointer=pointer, kind="length"
        )
    if datatype == "BOOL":
        if any(byte > 1 for byte in raw):
            raise unfit("A BOOL tensor holds a byte that is neither 0 nor 1.", pointer=pointer, kind="format")
        return [byte == 1 for byte in raw]
    values: list[Any] = list(struct.unpack(f"<{count}{_CODES[datatype]}", raw))
    if datatype in _FLOAT_CODES and not all(map(math.isfinite, values)):
        # Infinity is left in, so that the refusal can name its place; see `fitted`.
        return [None if value != value else value for value in values]
    return values


def _read_byte_strings(raw: bytes | memoryview, count: int, *, pointer: str) -> list[Any]:
    texts: list[Any] = []
    at = 0
    if 4 * count <= len(raw):
        for index in range(count):
            (size_bytes,) = struct.unpack_from("<I", raw, at) if at + 4 <= len(raw) else (len(raw) + 1,)
            at += 4 + size_bytes
            if at > len(raw):
                break
            try:
                texts.append(str(raw[at - size_bytes : at], "utf-8"))
            except UnicodeDecodeError:
                raise unfit(
                    f"Element {index} of a BYTES tensor is not UTF-8 text.",
                    pointer=f"{pointer}/data/{index}",
                    kind="format",
                ) from None
    if len(texts) != count or at != len(raw):
        raise unfit(
            "The tensor's binary data do not hold as many elements as its shape says.",
            pointer=pointer,
            kind="length",
            hint="Each BYTES element is its length in 4 bytes, little-endian, then its bytes.",
        )
    return texts


def read_json(values: list[Any], datatype: str, *, pointer: str) -> list[Any]:
    """Check that the elements of a JSON `data` are of the tensor's datatype; null stands for a gap."""
    if datatype == "FP16":
        raise malformed(
            "FP16 has no JSON form.",
            pointer=f"{pointer}/datatype",
            hint="Send the tensor as binary data, or as FP32.",
        )
    fits: tuple[type, ...] = {"BOOL": (bool,), "BYTES": (str,)}.get(datatype) or (
        (int, float) if datatype in _FLOAT_CODES else (int,)
    )
    low, high = _range_of(datatype)
    for index, value in enumerate(values):
        if value is None or (type(value) in fits and (type(value) is not int or low <= value <= high)):
            continue
        raise unfit(
            f"Element {index} of a tensor is no {datatype}.", pointer=f"{pointer}/data/{index}", kind="type"
        )
    return values


def _range_of(datatype: str) -> tuple[float, float]:
    if datatype not in _INTEGER_CODES:
        return -math.inf, math.inf
    bits = 8 * _SIZE_BYTES[datatype]
    return (0, 2**bits - 1) if datatype.startswith("U") else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)


def fitted(
    spec: TensorSpec,
    datatype: str,
    values: Sequence[Any],
    *,
    pointer: str,
    matrix: tuple[int, int] | None = None,
) -> list[Any]:
    """Turn a tensor's elements into values of the field, or refuse them with the place of the first bad one.

    `matrix` is (column, width) where the values are one column of a matrix. A matrix has one datatype for
    all its columns, so there a float without a fraction may stand for an integer.
    """
    if datatype not in _FITS[spec.kind] and not (
        matrix and spec.kind == "integer" and datatype in _FLOAT_CODES
    ):
        raise unfit(
            f"Input tensor {spec.name!r} has the wrong datatype.",
            pointer=f"{pointer}/datatype",
            kind="type",
            hint=f"Send {spec.datatype}.",
        )
    column, width = matrix or (0, 1)
    fitting = []
    for row, value in enumerate(values):
        try:
            fitting.append(_fitted_value(spec, value))
        except _Unfit as error:
            raise unfit(
                f"Element {row * width + column} of the input tensor for {spec.name!r} {error}.",
                pointer=f"{pointer}/data/{row * width + column}",
                kind=error.kind,
            ) from None
    return fitting


class _Unfit(Exception):
    """What is wrong with one element; its place is known further up."""

    def __init__(self, text: str, kind: str) -> None:
        super().__init__(text)
        self.kind = kind


def _fitted_value(spec: TensorSpec, value: Any) -> Any:
    if value is None:
        if spec.nullable:
            return None
        if not spec.required:
            return LEFT_OUT
        raise _Unfit("is missing (NaN or null), and the field is required", "missing")
    if spec.kind == "json":
        try:
            return strictjson.parse(value.encode(), wide_pointers=spec.wide)
        except strictjson.JsonRefused:
            raise _Unfit("is not JSON text", "format") from None
    if type(value) is float:
        if not math.isfinite(value):
            raise _Unfit("is infinite", "range")
        if spec.kind == "number":
            return value
        if not value.is_integer():
            raise _Unfit("is not a whole number", "type")
        value = int(value)
    if type(value) is int and abs(value) > strictjson.SAFE_INTEGER and "" not in spec.wide:
        raise _Unfit("is an integer beyond ±(2**53-1)", "range")
    return value


def outgoing(spec: TensorSpec, values: Sequence[Any]) -> tuple[str, list[Any]]:
    """Return the datatype and the elements of an answer's column; None stands for a gap."""
    if spec.kind == "json":
        return "BYTES", [msgspec.json.encode(value).decode() for value in values]
    if spec.kind in ("integer", "boolean") and None in values:
        return "FP64", [None if value is None else float(value) for value in values]
    return spec.datatype, list(values)


def write_binary(datatype: str, values: Sequence[Any]) -> bytes | None:
    """Write the elements as binary data; None if an integer is too wide for that."""
    if datatype == "BYTES":
        texts = [("" if value is None else str(value)).encode() for value in values]
        return b"".join(struct.pack("<I", len(text)) + text for text in texts)
    if datatype == "BOOL":
        return bytes(bool(value) for value in values)
    if datatype in _FLOAT_CODES:
        values = [math.nan if value is None else value for value in values]
    try:
        return struct.pack(f"<{len(values)}{_CODES[datatype]}", *values)
    except (struct.error, OverflowError):
        return None
