"""What is watched of answers: decided from the schema, bounded whatever the schema or the model says."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Literal

import orjson
import pytest
from pydantic import BaseModel, Field

from nightproof import Confidence
from nightproof.watch.outputs import (
    MOST_FIELDS,
    MOST_VALUES,
    OTHER,
    OutputCounts,
    OutputField,
    OutputPlan,
    number_bounds,
    plan_of,
)


class Inner(BaseModel):
    score: Annotated[float, Field(ge=0, le=1)]
    grade: int | None = None


class Answer(BaseModel):
    approve: bool
    colour: Literal["red", "green"]
    stars: Annotated[int, Field(ge=1, le=5)]
    amount: float
    text: str
    tags: list[str]
    inner: Inner
    confidence: Confidence


def plan(**more: object) -> OutputPlan:
    return plan_of(Answer.model_json_schema(), confidence_field="confidence", **more)  # type: ignore[arg-type]


def kinds(watched: OutputPlan) -> dict[str, str]:
    return {field.name: field.kind for field in watched.fields}


def test_the_schema_decides_how_a_field_is_watched():
    assert kinds(plan()) == {
        "approve": "category",
        "colour": "category",
        "stars": "number",
        "amount": "number",
        "text": "length",
        "tags": "length",
        "inner.score": "number",
        "inner.grade": "number",
    }


def test_what_is_marked_sensitive_is_not_watched_nor_what_lies_in_it():
    assert kinds(plan(sensitive=["/colour", "/inner"])).keys() == {
        "approve",
        "stars",
        "amount",
        "text",
        "tags",
    }


def test_five_hundred_fields_are_watched_up_to_the_bound_and_the_others_are_told_of():
    schema = {"type": "object", "properties": {f"y{place}": {"type": "number"} for place in range(500)}}

    watched = plan_of(schema)

    assert [field.name for field in watched.fields] == [f"y{place}" for place in range(MOST_FIELDS)]
    assert watched.left_out == 500 - MOST_FIELDS


def test_a_text_of_the_answer_is_never_a_label():
    counts = OutputCounts(plan())

    counts.add(orjson.dumps({"text": "Mrs Smith, 44", "colour": "a secret", "approve": "Mrs Smith"}))

    assert counts.values == {"approve": {OTHER: 1}, "colour": {OTHER: 1}}
    assert sum(counts.numbers["text"][1]) == 1
    assert "Smith" not in repr((counts.values, counts.numbers))


def test_an_enum_of_a_thousand_is_counted_for_its_first_values_and_the_rest_as_other():
    field = OutputField("y", ("y",), "category", values=frozenset(str(place) for place in range(1_000)))
    counts = OutputCounts(OutputPlan((field,)))

    for place in range(1_000):
        counts.add(orjson.dumps({"y": str(place)}))

    assert len(counts.values["y"]) == MOST_VALUES + 1
    assert counts.values["y"][OTHER] == 1_000 - MOST_VALUES


@pytest.mark.parametrize(
    "output",
    [b"", b"[]", b"7", b"null", b'{"stars": null}', b'{"stars": "x"}', b'{"inner": 3}', b"{", b"\xff"],
)
def test_an_answer_that_does_not_fit_is_passed_over(output: bytes):
    counts = OutputCounts(plan())

    counts.add(output)

    assert sum(counts.numbers["stars"][1]) == 0


def test_numbers_fall_into_their_buckets():
    counts = OutputCounts(plan())

    for stars in (1, 5, 5, 3):
        counts.add(orjson.dumps({"stars": stars, "approve": True, "colour": "red"}))

    bounds, places, total = counts.numbers["stars"]
    assert list(bounds) == [1.0, 2.0, 3.0, 4.0, 5.0]
    assert places == [1, 0, 1, 0, 2, 0]
    assert total == [14.0]
    assert counts.values == {"approve": {"true": 4}, "colour": {"red": 4}}


@pytest.mark.parametrize("least", [None, 0, -5, 3])
@pytest.mark.parametrize("most", [None, 0, 3, 1e9])
@pytest.mark.parametrize("is_integer", [True, False])
def test_bounds_rise_and_are_few(least: float | None, most: float | None, is_integer: bool):
    bounds = number_bounds(least, most, is_integer=is_integer)

    assert all(one < other for one, other in pairwise(bounds))
    assert 1 <= len(bounds) <= 21


def test_a_schema_that_refers_to_itself_ends():
    schema = {
        "$ref": "#/$defs/A",
        "$defs": {"A": {"type": "object", "properties": {"next": {"$ref": "#/$defs/A"}}}},
    }

    assert plan_of(schema) == OutputPlan()
