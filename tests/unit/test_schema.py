"""Schemas: what holds, how a refusal is told without the caller's data, and that no value makes it slow."""

from datetime import datetime
from enum import Enum
from time import perf_counter
from typing import Annotated, Any, Literal, Optional
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field

from nightproof.base.errors import DeclarationError
from nightproof.base.schema import (
    FieldError,
    close_objects,
    compile,
    declared_names,
    wide_integer_pointers,
)


class Purpose(Enum):
    CAR = "car"
    HOME = "home"


class Address(BaseModel):
    street: str = Field(min_length=2, max_length=40)
    code: str = Field(pattern=r"^\d{5}$")


class Cat(BaseModel):
    kind: Literal["cat"]
    lives: int


class Dog(BaseModel):
    kind: Literal["dog"]
    weight: float


class Applicant(BaseModel):
    age: int = Field(ge=18, le=120)
    ratio: float = Field(gt=0.5, lt=1.5)
    income: float | None = Field(None, ge=0.25)
    purpose: Purpose = Purpose.CAR
    previous: Purpose | None = None
    grade: Literal["a", "b"] = "a"
    home: Address = Address(street="Main", code="12345")
    office: Address | None = None
    debts: list[float] = Field([], max_length=3)
    scores: dict[str, float] = {}
    at: datetime = datetime(2026, 1, 1)
    id: UUID | None = None
    pet: Annotated[Cat | Dog, Field(discriminator="kind")] | None = None
    code: int | str | None = None
    pair: tuple[int, str] = (1, "a")
    tags: set[str] = set()


SHORT_STREET = {"street": "M", "code": "12345"}
SHORT_CODE = {"street": "Main", "code": "1"}
GOOD = {"age": 30, "ratio": 1.0}
SCHEMA = close_objects(Applicant.model_json_schema())
APPLICANT = compile(SCHEMA)


def told(**fields: Any) -> list[tuple[str, str, str]]:
    """Return what is said of a good record with some fields replaced."""
    errors = APPLICANT.errors({**GOOD, **fields})
    return [(error.pointer, error.detail, error.kind) for error in errors]


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"income": None, "office": None, "pet": None, "code": None},
        {"income": 0.25, "ratio": 0.5000000001, "age": 18.0},
        {"at": "2026-01-31T03:00:00Z", "id": "12345678-1234-5678-1234-567812345678"},
        {"at": "2026-01-31t03:00:00.123456789+05:30"},
        {"pet": {"kind": "cat", "lives": 9}, "code": "x", "pair": [1, "a"], "tags": ["a", "b"]},
        {
            "scores": {"anything": 1, "": 2.5},
            "debts": [1, 2, 3],
            "office": {"street": "Main", "code": "12345"},
        },
    ],
)
def test_a_good_record_holds_and_has_no_errors(fields: dict[str, Any]):
    assert APPLICANT.holds({**GOOD, **fields})
    assert told(**fields) == []


@pytest.mark.parametrize(
    ("fields", "pointer", "detail", "kind"),
    [
        ({"age": "30"}, "/age", "expected a whole number", "type"),
        ({"age": 30.5}, "/age", "expected a whole number", "type"),
        ({"age": True}, "/age", "expected a whole number", "type"),
        ({"age": None}, "/age", "expected a whole number", "type"),
        ({"ratio": "1.0"}, "/ratio", "expected a number", "type"),
        ({"income": "a lot"}, "/income", "expected a number or null", "type"),
        ({"code": 1.5}, "/code", "expected a whole number, a string or null", "type"),
        ({"pet": 5}, "/pet", "expected an object or null", "type"),
        ({"office": []}, "/office", "expected an object or null", "type"),
        ({"debts": [1, "x"]}, "/debts/1", "expected a number", "type"),
        ({"pair": ["x", "a"]}, "/pair/0", "expected a whole number", "type"),
        ({"age": 17}, "/age", "must be at least 18", "range"),
        ({"age": 121}, "/age", "must be at most 120", "range"),
        ({"ratio": 0.5}, "/ratio", "must be more than 0.5", "range"),
        ({"ratio": 1.5}, "/ratio", "must be less than 1.5", "range"),
        ({"ratio": 2}, "/ratio", "must be less than 1.5", "range"),
        ({"income": 0.125}, "/income", "must be at least 0.25", "range"),
        ({"grade": "z"}, "/grade", 'must be one of "a", "b"', "enum"),
        ({"purpose": "Car"}, "/purpose", 'must be one of "car", "home"', "enum"),
        ({"previous": "boat"}, "/previous", 'must be one of "car", "home"', "enum"),
        ({"home": {"code": "12345"}}, "/home/street", "missing field 'street'", "missing"),
        ({"office": {"street": "Main"}}, "/office/code", "missing field 'code'", "missing"),
        ({"home": SHORT_STREET}, "/home/street", "must have at least 2 characters", "length"),
        ({"office": SHORT_CODE}, "/office/code", r"does not match the pattern ^\d{5}$", "pattern"),
        ({"debts": [1, 2, 3, 4]}, "/debts", "must have at most 3 items", "length"),
        ({"pair": [1]}, "/pair", "must have at least 2 items", "length"),
        ({"tags": ["a", "a"]}, "/tags", "must not have the same item twice", "other"),
        ({"id": "1234"}, "/id", "expected a UUID with its hyphens", "format"),
        ({"pet": {"kind": "cow"}}, "/pet/kind", 'must be one of "cat", "dog"', "enum"),
        ({"pet": {"lives": 9}}, "/pet/kind", "missing field 'kind'", "missing"),
        ({"pet": {"kind": "dog"}}, "/pet/weight", "missing field 'weight'", "missing"),
        ({"pet": {"kind": "dog", "weight": 1, "x": 1}}, "/pet", "unknown field", "unknown"),
        ({"x": 1}, "", "unknown field", "unknown"),
        ({"x": 1, "__proto__": 2, "$ref": 3}, "", "3 unknown fields", "unknown"),
        ({"scores": {"x": "y"}}, "/scores", "under one of its keys: expected a number", "type"),
    ],
)  # fmt: skip
def test_each_fault_is_told_where_it_is(fields: dict[str, Any], pointer: str, detail: str, kind: str):
    assert not APPLICANT.holds({**GOOD, **fields})
    assert told(**fields) == [(pointer, detail, kind)]


@pytest.mark.parametrize(
    "at",
    [
        "2026-01-31",
        "2026-01-31T03:00:00",
        "2026-02-30T03:00:00Z",
        "9999-12-31T23:59:60Z",
        "2026-01-31T24:00:00Z",
        "2026-01-31T03:00:00+25:00",
        "2026-01-31T03:00:00Zjunk",
        "٢٠٢٦-01-31T03:00:00Z",
        "20260131T030000Z",
        "0000-01-01T00:00:00Z",
        "-1",
        "",
    ],
)
def test_a_time_that_is_no_moment_is_refused(at: str):
    wanted = "expected a date and time with its offset, such as 2026-01-31T03:00:00Z"

    assert told(at=at) == [("/at", wanted, "format")]


@pytest.mark.parametrize(
    ("form", "good", "bad"),
    [
        ("date", "2026-01-31", "2026-02-30"),
        ("time", "03:00:00Z", "23:59:60Z"),
        ("email", "a@example.org", "a.example.org"),
        ("uuid", "12345678-1234-5678-1234-567812345678", "12345678123456781234567812345678"),
        ("uri", "https://example.org/a?b", "example"),
        ("ipv4", "127.0.0.1", "127.0.0.256"),
        ("ipv6", "::1", ":::1"),
        ("duration", "PT15M", "15 minutes"),
    ],
)
def test_formats_are_checked(form: str, good: str, bad: str):
    text = compile({"type": "string", "format": form})

    assert text.holds(good)
    assert [error.kind for error in text.errors(bad)] == ["format"]


def test_all_faults_of_a_record_are_told_up_to_the_limit():
    record = {"age": 1, "ratio": "x", "grade": "z", "x": 1}

    kinds = [error.kind for error in APPLICANT.errors(record)]

    assert sorted(kinds) == ["enum", "range", "type", "unknown"]
    assert len(APPLICANT.errors(record, limit=2)) == 2
    assert len(APPLICANT.errors({"ratio": 1})) == 1
    assert APPLICANT.errors({"ratio": 1})[0] == FieldError("/age", "missing field 'age'", "missing")


def test_a_root_that_is_no_object_is_told_so():
    for value in ([], "x", 5, None, True):
        assert APPLICANT.errors(value) == [FieldError("", "expected an object", "type")]


def test_a_reference_in_an_odd_spelling_still_decides():
    odd = compile(
        {
            "$defs": {
                "a b": {
                    "anyOf": [{"type": "object", "properties": {"n": {"type": "null"}}}, {"type": "null"}]
                }
            },
            "properties": {"x": {"$ref": "#/$defs/a%20b"}},
        }
    )

    assert odd.holds({"x": {"n": None}})
    assert odd.errors({"x": {"n": 1}}) == [FieldError("/x", "does not fit its schema", "other")]


def test_long_options_are_cut():
    many = compile({"enum": [f"option {n}" for n in range(200)]})
    long = compile({"const": "x" * 10_000})

    assert many.errors(1)[0].detail.endswith('"option 9" or one of 190 more')
    assert len(long.errors(1)[0].detail) < 120


SECRET = "s3same"
JUNK = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 200) | st.floats(0, 2) | st.just(SECRET),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from([SECRET, "kind", "street", "lives"]), inner, max_size=3)
    ),
    max_leaves=8,
)


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.sampled_from([*Applicant.model_fields, SECRET]), JUNK, max_size=6) | JUNK)
def test_errors_are_told_exactly_when_a_value_does_not_hold_and_never_repeat_it(value: Any):
    errors = APPLICANT.errors(value)

    assert bool(errors) is not APPLICANT.holds(value)
    assert SECRET not in repr(errors)
    assert all(error.detail != "does not fit its schema" for error in errors)
    if isinstance(value, dict):
        errors = APPLICANT.errors({**GOOD, **value})
        assert bool(errors) is not APPLICANT.holds({**GOOD, **value})
        assert SECRET not in repr(errors)


LIMIT = st.floats(-3, 3).map(lambda x: round(x, 1)) | st.integers(-3, 3)
LIMITS = st.dictionaries(
    st.sampled_from(["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"]), LIMIT, min_size=1
)


@settings(max_examples=200, deadline=None)
@given(
    LIMITS,
    LIMIT | st.booleans() | st.just("x") | st.none(),
    st.sampled_from(["number", "optional", "untyped"]),
)
def test_limits_mean_the_same_on_the_quick_way_and_on_the_telling_one(
    limits: dict[str, float], value: Any, form: str
):
    number = limits if form == "untyped" else {"type": "number", **limits}
    field = {"anyOf": [number, {"type": "null"}]} if form == "optional" else number
    quick = compile({"properties": {"x": field, "y": field}})
    nested = compile({"properties": {"in": {"properties": {"x": field}}}})  # compared by the library

    assert quick.holds({"x": value}) is nested.holds({"in": {"x": value}})
    assert quick.holds({"y": value}) is quick.holds({"x": value})
    assert bool(quick.errors({"x": value})) is not quick.holds({"x": value})


def test_a_part_shared_within_a_schema_keeps_its_meaning_in_each_place():
    number = {"type": "number", "minimum": 0.5}
    both = compile({"type": "object", "properties": {"x": number, "y": number}})

    assert not both.holds({"x": 0.25})
    assert not both.holds({"y": 0.25})
    assert number == {"type": "number", "minimum": 0.5}


def test_unions_that_nothing_tells_apart_get_one_plain_error():
    two = compile({"anyOf": [{"type": "number", "minimum": 5}, {"type": "integer", "maximum": 0}]})
    one_only = compile({"oneOf": [{"type": "number"}, {"type": "integer"}]})

    assert two.errors(3) == [FieldError("", "fits none of the 2 allowed forms", "other")]
    assert one_only.errors(3) == [
        FieldError("", "fits more than one of the allowed forms, must fit exactly one", "other")
    ]
    assert one_only.errors(3.5) == []


@pytest.mark.parametrize(
    ("schema", "value", "kind"),
    [
        ({"minProperties": 1}, {}, "length"),
        ({"maxProperties": 0}, {SECRET: 1}, "length"),
        ({"propertyNames": {"maxLength": 2}}, {SECRET: 1}, "other"),
        ({"patternProperties": {"^s": {"type": "null"}}}, {SECRET: 1}, "type"),
        ({"properties": {"a": False}}, {"a": 1}, "unknown"),
        ({"dependentRequired": {"a": ["b"]}}, {"a": 1}, "missing"),
        ({"unevaluatedProperties": False}, {SECRET: 1}, "unknown"),
        ({"contains": {"type": "null"}}, [SECRET], "other"),
        ({"prefixItems": [{}], "items": False}, [1, SECRET], "unknown"),
        ({"multipleOf": 0.5}, 0.75, "range"),
        ({"not": {"type": "string"}}, SECRET, "other"),
        ({"const": 5}, SECRET, "enum"),
        ({"if": {"type": "string"}, "then": {"maxLength": 2}}, SECRET, "length"),
        ({"anyOf": [{"required": ["a"]}, {"required": ["b"]}]}, {SECRET: 1}, "other"),
        (
            {"anyOf": [{"properties": {"a": {}}}, {"type": "null"}], "unevaluatedProperties": False},
            {SECRET: 1},
            "other",
        ),
    ],
)
def test_keywords_that_python_types_do_not_write_are_told_too(schema: dict[str, Any], value: Any, kind: str):
    errors = compile(schema).errors(value)

    assert [error.kind for error in errors] == [kind]
    assert SECRET not in repr(errors)


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({"properties": {"a": {"pattern": "(?=a)b"}}}, ["/properties/a/pattern", "linear engine"]),
        ({"pattern": r"(a)\1"}, ["/pattern", "linear engine"]),
        ({"type": "nope"}, ["/type"]),
        ({"$ref": "http://127.0.0.1:9/x.json"}, ["$defs", "never fetched"]),
        ({"$ref": "#/$defs/gone"}, ["$defs"]),
        ({"enum": {1, 2}}, ["cannot be used"]),
    ],
)
def test_a_schema_that_cannot_be_used_says_why(schema: dict[str, Any], words: list[str]):
    with pytest.raises(DeclarationError) as caught:
        compile(schema)

    assert all(word in str(caught.value) for word in words)


# --- nothing makes it slow ---------------------------------------------------


def seconds_for(schema: dict[str, Any], value: Any) -> float:
    compiled = compile(schema)
    started = perf_counter()
    assert compiled.errors(value)
    return perf_counter() - started


def test_a_catastrophic_pattern_takes_linear_time():
    assert seconds_for({"pattern": "^(a+)+$"}, "a" * 200_000 + "!") < 1
    assert seconds_for({"patternProperties": {"^(a|a)*$": {}}, "additionalProperties": False},
                       {"a" * 200_000 + "!": 1}) < 1  # fmt: skip


@pytest.mark.parametrize(
    "schema",
    [
        {"items": {"type": "number"}},
        {"anyOf": [{"type": "array", "items": {"type": "number"}}, {"type": "null"}]},
        {
            "anyOf": [
                {"type": "array", "items": {"type": "number"}},
                {"type": "array", "items": {"type": "null"}},
            ]
        },
        {"items": {"anyOf": [{"type": "number"}, {"type": "null"}]}},
    ],
)
def test_a_long_list_of_faults_takes_no_error_an_item(schema: dict[str, Any]):
    """Collected one by one they took 4 s."""
    assert seconds_for(schema, ["x"] * 100_000) < 1


def test_very_many_unknown_fields_are_refused_quickly():
    assert (
        seconds_for({"properties": {}, "additionalProperties": False}, dict.fromkeys(map(str, range(50_000))))
        < 1
    )


class Left(BaseModel):
    below: "Optional[Left | Right]" = None  # noqa: UP045


class Right(BaseModel):
    below: "Optional[Left | Right]" = None  # noqa: UP045


def test_a_recursive_union_is_decided_and_told_in_linear_time():
    """The library's own explanation doubles at every level: 12 of them took a second."""
    value: Any = {"below": 1}
    for _ in range(60):
        value = {"below": value}

    took_s = seconds_for(close_objects(Left.model_json_schema()), value)

    assert took_s < 1


def test_a_deep_fault_in_a_recursive_type_is_found():
    class Node(BaseModel):
        next: "Optional[Node]" = None  # noqa: UP045
        size: int = 0

    value: Any = {"size": "x"}
    for _ in range(40):
        value = {"next": value}

    errors = compile(close_objects(Node.model_json_schema())).errors(value)

    assert errors == [FieldError("/next" * 40 + "/size", "expected a whole number", "type")]


# --- the shape of schemas ----------------------------------------------------


def test_closing_reaches_every_object_and_changes_no_other_word():
    class Open(BaseModel):
        model_config = ConfigDict(extra="allow")
        a: int = 0

    class Outer(BaseModel):
        inner: Address
        many: list[Address] = []
        named: dict[str, Address] = {}
        either: Address | Cat | None = None
        open: Open = Open()
        free: dict[str, float] = {}
        properties: int = 0

    before = Outer.model_json_schema()
    outer = compile(close_objects(before))
    home = {"street": "Main", "code": "12345"}
    worse = {**home, "x": 1}

    assert before == Outer.model_json_schema()
    assert outer.holds({"inner": home, "open": {"a": 1, "b": 2}, "free": {"b": 1}, "properties": 5})
    for record in (
        {"inner": home, "x": 1},
        {"inner": worse},
        {"inner": home, "many": [worse]},
        {"inner": home, "named": {"n": worse}},
        {"inner": home, "either": worse},
    ):
        assert not outer.holds(record)
        assert compile(before).holds(record)


def test_closing_leaves_data_alone_that_looks_like_a_schema():
    schema = {
        "properties": {"a": {"default": {"properties": {}}, "const": {"properties": {}}}, "properties": {}},
        "examples": [{"properties": {}}],
    }

    closed = close_objects(schema)

    assert closed == {**schema, "additionalProperties": False}


def test_an_object_told_by_several_schemas_is_closed_as_a_whole():
    base = {"type": "object", "properties": {"a": {}}}
    schema = {
        "$defs": {"Base": base},
        "type": "object",
        "properties": {
            "both": {"allOf": [{"$ref": "#/$defs/Base"}, {"properties": {"b": {}}}]},
            "plain": {"$ref": "#/$defs/Base"},
            "mixed": {"properties": {"c": {}}, "anyOf": [{"required": ["c"]}, {"properties": {"d": {}}}]},
            "denied": {"not": {"properties": {"e": {"const": 1}}, "required": ["e"]}},
        },
    }
    closed = compile(close_objects(schema))

    for good in (
        {"both": {"a": 1, "b": 2}},
        {"plain": {"a": 1}},
        {"mixed": {"c": 1, "d": 2}},
        {"denied": {"e": 2}},
    ):
        assert closed.holds(good), good
    for bad in (
        {"x": 1},
        {"both": {"a": 1, "x": 2}},
        {"plain": {"b": 1}},
        {"mixed": {"c": 1, "x": 1}},
        {"denied": {"e": 1, "x": 1}},
    ):
        assert not closed.holds(bad), bad


def test_wide_integers_are_where_limits_or_options_reach_beyond_the_safe_ones():
    class Line(BaseModel):
        number: int = Field(0, lt=2**64)
        count: int = Field(0, ge=0, le=2**53 - 1)
        weight: float = Field(0, le=1e300)

    class Tree(BaseModel):
        hash: int = Field(0, ge=-(2**63))
        left: "Optional[Tree]" = None  # noqa: UP045

    class Order(BaseModel):
        id: int = Field(ge=0, le=2**63 - 1)
        plain: int = 0
        maybe: Annotated[int, Field(gt=-(2**60))] | None = None
        lines: list[Line] = []
        pair: tuple[Line, int] | None = None
        named: dict[str, Line] = {}
        level: Literal[1, 2**60] = 1
        tree: Tree = Tree()

    pointers = wide_integer_pointers(Order.model_json_schema())

    assert pointers == {
        "/id", "/maybe", "/lines/*/number", "/pair/*/number", "/named/*/number", "/level", "/tree/hash",
        "/tree/**/hash",
    }  # fmt: skip
    assert wide_integer_pointers({"properties": {"a/b~": {"type": "integer", "maximum": 2**60}}}) == {
        "/a~1b~0"
    }
    assert wide_integer_pointers({"type": "integer", "exclusiveMaximum": 2**53}) == frozenset()


def test_declared_names_are_the_schemas_own_words():
    names = declared_names(SCHEMA)

    assert {"age", "street", "kind", "lives"} <= names
    assert SECRET not in names
    assert "Address" not in names


def test_the_repr_says_how_much_it_knows():
    assert repr(compile({"properties": {"a": {}, "b": {}}})) == "<Schema of 2 names>"
