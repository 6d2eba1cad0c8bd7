"""What changes for callers between two releases, in words: a table of types before and after."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field, TypeAdapter, create_model

from nightproof import Confidence, Fresh, Subject
from nightproof.base.schema import close_objects
from nightproof.base.schema import compile as compiled
from nightproof.releases.compatibility import breaking, compare


class Inner(BaseModel):
    a: int


class Wider(BaseModel):
    a: int
    b: str = ""


class Stricter(BaseModel):
    a: int
    b: str


class Answer(BaseModel):
    y: float
    kind: Literal["a", "b"]


def record(**fields: Any) -> type[BaseModel]:
    """Make a type of these fields; a tuple carries a default."""
    return create_model("R", **{k: v if isinstance(v, tuple) else (v, ...) for k, v in fields.items()})


def schema(
    kind: type[BaseModel], mode: Literal["validation", "serialization"] = "validation"
) -> dict[str, Any]:
    """Write the schema as a release does."""
    return close_objects(TypeAdapter(kind).json_schema(mode=mode))


def changes(
    old: type[BaseModel], new: type[BaseModel], old_out: Any = Answer, new_out: Any = Answer
) -> list[str]:
    """Compare, and write each change on a line."""
    found = compare(
        schema(old), schema(old_out, "serialization"), schema(new), schema(new_out, "serialization")
    )
    return [f"{one.kind} {one}" for one in found]


AGE = Annotated[int, Field(ge=0)]
ADULT = Annotated[int, Field(ge=18)]
INPUTS = {
    "nothing": (record(x=int), record(x=int), []),
    "wider number": (record(x=int), record(x=float), ["additive input /x: the type was integer and is now number"]),
    "narrower number": (record(x=float), record(x=int), ["breaking input /x: the type was number and is now integer"]),
    "higher bound": (record(x=AGE), record(x=ADULT), ["breaking input /x: the least value was 0 and is now 18"]),
    "lower bound": (record(x=ADULT), record(x=AGE), ["additive input /x: the least value was 18 and is now 0"]),
    "new required": (record(x=int), record(x=int, z=int), ["breaking input /z: is now required"]),
    "new optional": (record(x=int), record(x=int, z=(int, 3)), ["additive input /z: is new and may be left out"]),
    "gone": (record(x=int, z=(int, 3)), record(x=int), ["breaking input /z: is gone"]),
    "no longer required": (record(x=int), record(x=(int, 1)), ["additive input /x: is no longer required"]),
    "category gone": (
        record(x=Literal["a", "b"]), record(x=Literal["b"]),
        ['breaking input /x: the set of values was {"a", "b"} and is now {"b"}'],
    ),
    "category new": (
        record(x=Literal["a"]), record(x=Literal["a", "b"]),
        ['additive input /x: the set of values was {"a"} and is now {"a", "b"}'],
    ),
    "null no more": (
        record(x=int | None), record(x=int), ["breaking input /x: the type was integer or null and is now integer"],
    ),
    "inner field required": (record(i=Inner), record(i=Stricter), ["breaking input /i/b: is now required"]),
    "inner field optional": (record(i=list[Inner]), record(i=list[Wider]), ["additive input /i/*/b: is new"]),
    "fresher": (
        record(t=Annotated[datetime, Fresh(timedelta(days=30))]),
        record(t=Annotated[datetime, Fresh(timedelta(days=1))]),
        ["breaking input /t: the greatest age in seconds was 2592000.0 and is now 86400.0"],
    ),
    "another subject": (
        record(who=Annotated[str, Subject()]), record(who=str), ["breaking input /who: was the Subject field"],
    ),
}  # fmt: skip
OUTPUTS = {
    "new field": (Answer, record(y=float, kind=Literal["a", "b"], n=int), ["additive output /n: is new"]),
    "gone field": (Answer, record(y=float), ["breaking output /kind: is gone"]),
    "new category": (
        Answer, record(y=float, kind=Literal["a", "b", "c"]),
        ['breaking output /kind: the set of values was {"a", "b"} and is now {"a", "b", "c"}'],
    ),
    "fewer categories": (
        Answer, record(y=float, kind=Literal["a"]),
        ['additive output /kind: the set of values was {"a", "b"} and is now {"a"}'],
    ),
    "null": (
        Answer, record(y=float | None, kind=Literal["a", "b"]),
        ["breaking output /y: the type was number and is now number or null"],
    ),
    "narrower": (
        Answer, record(y=int, kind=Literal["a", "b"]), ["additive output /y: the type was number and is now integer"],
    ),
    "confidence": (
        record(y=float, c=Confidence), record(y=float, c=Annotated[float, Field(ge=0, le=1)]),
        ["breaking output /c: was the Confidence field"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", INPUTS)
def test_a_change_of_the_input_is_said_in_words(case: str):
    old, new, expected = INPUTS[case]

    found = changes(old, new)

    assert len(found) == len(expected)
    assert all(line.startswith(said) for line, said in zip(found, expected, strict=True)), found


@pytest.mark.parametrize("case", OUTPUTS)
def test_a_change_of_the_output_is_said_in_words(case: str):
    old, new, expected = OUTPUTS[case]

    found = changes(Inner, Inner, old, new)

    assert len(found) == len(expected)
    assert all(line.startswith(said) for line, said in zip(found, expected, strict=True)), found


SIMPLE = st.one_of(
    st.builds(lambda low: {"type": "integer", "minimum": low}, st.integers(-3, 3)),
    st.builds(lambda high: {"type": "number", "maximum": high}, st.integers(-3, 3)),
    st.builds(lambda some: {"enum": sorted(some)}, st.sets(st.integers(-3, 3), min_size=1)),
    st.just({"type": "null"}),
    st.just({"type": "string"}),
    st.just({"anyOf": [{"type": "integer"}, {"type": "null"}]}),
)
OBJECTS = st.builds(
    lambda fields, required: {
        "type": "object",
        "properties": fields,
        "required": sorted(required & fields.keys()),
        "additionalProperties": False,
    },
    st.dictionaries(st.sampled_from("abc"), SIMPLE, min_size=1),
    st.sets(st.sampled_from("abc")),
)
VALUES = st.one_of(
    st.integers(-4, 4), st.none(), st.sampled_from(["", "x"]), st.sampled_from([-2.5, 0.5, 2.5, 4.0])
)


@given(old=OBJECTS, new=OBJECTS, value=st.dictionaries(st.sampled_from("abc"), VALUES))
def test_what_is_called_not_breaking_never_refuses_what_was_taken(old: Any, new: Any, value: Any):
    said = breaking(compare(old, {}, new, {}))

    if not said and compiled(old).holds(value):
        assert compiled(new).holds(value)


@given(old=OBJECTS)
def test_nothing_changes_from_a_type_to_itself(old: Any):
    assert compare(old, old, old, old) == []
