"""The OpenAPI document: valid, complete, and made of the services' own schemas."""

import copy
import json
from collections.abc import Iterator
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Annotated, Any, Literal

import jsonschema_rs
import msgspec
import pytest
import schemathesis
from pydantic import BaseModel, Field

from nightproof import Confidence, Fresh, Model, Service, Usual
from nightproof.base.failures import CATALOGUE
from nightproof.declare.describe import Description, describe
from nightproof.gateway import openapi


class Purpose(StrEnum):
    car = "car"
    house = "house"


class Cat(BaseModel):
    kind: Literal["cat"]
    lives: int = 9


class Dog(BaseModel):
    kind: Literal["dog"]
    friend: "Dog | None" = None


class Applicant(BaseModel):
    income: Annotated[float, Usual(ge=0, le=1e6)] = Field(ge=0, description="EUR per year")
    purpose: Purpose
    as_of: Annotated[datetime, Fresh(timedelta(days=30))]
    pet: Annotated[Cat | Dog, Field(discriminator="kind")]
    note: str = Field(default="#/$defs/Cat", examples=[{"$ref": "#/$defs/Cat"}])


class Decision(BaseModel):
    approve: bool
    confidence: Confidence
    pet: Cat | None = None


class CreditModel(Model[Applicant, Decision]):
    def predict(self, batch: list[Applicant]) -> list[Decision]:
        return []


class Tree(BaseModel):
    size: float
    branches: "list[Tree]" = []


class TreeModel(Model[Tree, Tree]):
    def predict(self, batch: list[Tree]) -> list[Tree]:
        return []


@pytest.fixture(scope="module")
def described(tmp_path_factory: pytest.TempPathFactory) -> list[Description]:
    folder = tmp_path_factory.mktemp("empty")
    credit = Service("credit", model=CreditModel, deadline_ms=300, max_items=50)
    return [describe(credit, folder), describe(Service("tree", model=TreeModel), folder)]


@pytest.fixture(scope="module")
def document(described: list[Description]) -> dict[str, Any]:
    services = [(description, f"dev-{number}") for number, description in enumerate(described)]
    return openapi.document(services, public_url="https://models.example/", version="1.2.3")


def inside(part: Any) -> Iterator[dict[str, Any]]:
    """Yield every object of the document."""
    if isinstance(part, dict):
        yield part
        for inner in part.values():
            yield from inside(inner)
    elif isinstance(part, list):
        for inner in part:
            yield from inside(inner)


def at(document: dict[str, Any], reference: str) -> Any:
    place: Any = document
    for step in reference.removeprefix("#/").split("/"):
        place = place[step]
    return place


def holding(document: dict[str, Any], schema: dict[str, Any]) -> jsonschema_rs.Validator:
    """Compile a schema of the document together with its components."""
    return jsonschema_rs.Draft202012Validator(schema | {"components": document["components"]})


def answers_schema(document: dict[str, Any]) -> dict[str, Any]:
    predict = document["paths"]["/services/credit/predict"]["post"]
    schema: dict[str, Any] = predict["responses"]["200"]["content"]["application/json"]["schema"]
    return schema


def test_the_document_is_valid_openapi(document: dict[str, Any]):
    """By the rules of the specification, as the tool that callers test with reads them."""
    schemathesis.openapi.from_dict(document).validate()


def test_a_server_without_services_has_a_valid_document_too():
    empty = openapi.document([], version="1.2.3")

    schemathesis.openapi.from_dict(empty).validate()
    assert empty["servers"] == [{"url": "/"}]
    assert not any(path.startswith("/services") for path in empty["paths"])


def test_every_reference_resolves_and_none_leads_outside(document: dict[str, Any]):
    references = {
        part["$ref"]
        for part in inside(document)
        if isinstance(part.get("$ref"), str) and part["$ref"] != "#/$defs/Cat"
    }

    assert references
    for reference in references:
        assert reference.startswith("#/components/")
        assert at(document, reference) is not None


def test_every_component_is_used(document: dict[str, Any]):
    """What nobody refers to only makes the document longer."""
    text = json.dumps(document)

    for kind in ("schemas", "responses", "headers"):
        for name in document["components"][kind]:
            assert f'"#/components/{kind}/{name}"' in text, name


def test_every_schema_compiles(document: dict[str, Any]):
    for name, schema in document["components"]["schemas"].items():
        jsonschema_rs.meta.validate(schema)
        assert holding(document, schema), name


def test_definitions_get_names_of_their_service_and_side(document: dict[str, Any]):
    schemas = document["components"]["schemas"]

    assert {"credit.input", "credit.input.Cat", "credit.input.Dog", "credit.output.Cat"} <= set(schemas)
    assert {"tree.input", "tree.input.Tree", "tree.output.Tree"} <= set(schemas)
    assert not any("$defs" in schema for schema in schemas.values())


def test_discriminators_and_recursion_follow_to_the_new_place(document: dict[str, Any]):
    schemas = document["components"]["schemas"]

    assert schemas["credit.input"]["properties"]["pet"]["discriminator"]["mapping"] == {
        "cat": "#/components/schemas/credit.input.Cat",
        "dog": "#/components/schemas/credit.input.Dog",
    }
    tree = holding(document, {"$ref": "#/components/schemas/tree.input"})
    assert tree.is_valid({"size": 1.0, "branches": [{"size": 2.0}]})
    assert not tree.is_valid({"size": 1.0, "branches": [{"size": "2"}]})


def test_constants_that_look_like_references_stay_as_they_are(document: dict[str, Any]):
    note = document["components"]["schemas"]["credit.input"]["properties"]["note"]

    assert note["default"] == "#/$defs/Cat"
    assert note["examples"] == [{"$ref": "#/$defs/Cat"}]


def test_a_root_that_refers_to_itself_follows_as_well(described: list[Description]):
    schema = {"type": "object", "properties": {"next": {"$ref": "#"}, "last": {"$ref": "#/properties/next"}}}
    odd = msgspec.structs.replace(described[1], input_schema=schema)

    moved = openapi.document([(odd, "dev-1")], version="1")["components"]["schemas"]["tree.input"]

    assert moved["properties"] == {
        "next": {"$ref": "#/components/schemas/tree.input"},
        "last": {"$ref": "#/components/schemas/tree.input/properties/next"},
    }


def test_our_own_words_are_kept(document: dict[str, Any]):
    schemas = document["components"]["schemas"]

    assert schemas["credit.input"]["properties"]["income"]["x-nightproof-usual"] == {
        "minimum": 0,
        "maximum": 1e6,
    }
    assert "x-nightproof-fresh" in schemas["credit.input"]["properties"]["as_of"]
    assert schemas["credit.output"]["properties"]["confidence"]["x-nightproof-confidence"] is True


def test_the_descriptions_are_left_as_they_were(described: list[Description]):
    before = copy.deepcopy(described)

    openapi.document([(description, "dev-1") for description in described], version="1")

    assert described == before


def test_a_body_is_one_record_or_a_bounded_list(document: dict[str, Any]):
    predict = document["paths"]["/services/credit/predict"]["post"]
    body = holding(document, predict["requestBody"]["content"]["application/json"]["schema"])
    record = {
        "income": 1.0,
        "purpose": "car",
        "as_of": "2026-01-01T00:00:00Z",
        "pet": {"kind": "cat"},
    }

    assert body.is_valid(record)
    assert body.is_valid([record] * 50)
    assert not body.is_valid([record] * 51)
    assert not body.is_valid([])
    assert not body.is_valid(record | {"extra": 1})


ANSWER = {
    "id": "r",
    "service": "credit",
    "release": "dev-0",
    "output": {"approve": True, "confidence": 0.5, "pet": None},
    "degraded": None,
}


@pytest.mark.parametrize(
    ("answer", "fits"),
    [
        (ANSWER, True),
        (ANSWER | {"degraded": {"failure": "model_timeout", "by": "constant"}}, True),
        (ANSWER | {"degraded": {"failure": "no_such_failure", "by": "constant"}}, False),
        (ANSWER | {"service": "other"}, False),
        (ANSWER | {"output": {"approve": True}}, False),
        ({key: part for key, part in ANSWER.items() if key != "degraded"}, False),
    ],
)
def test_an_answer_to_one_record_has_the_promised_form(document: dict[str, Any], answer: Any, fits: bool):
    assert holding(document, answers_schema(document)).is_valid(answer) is fits


def test_an_answer_to_a_list_has_items_with_an_output_or_a_failure(document: dict[str, Any]):
    head = {key: ANSWER[key] for key in ("id", "service", "release")}
    answered = {"output": ANSWER["output"], "degraded": None}
    refused = {"failure": "invalid_input", "errors": [{"pointer": "/income", "detail": "missing"}]}
    validator = holding(document, answers_schema(document))

    assert validator.is_valid(head | {"items": [answered, refused]})
    assert not validator.is_valid(head | {"items": [answered | refused]})
    assert not validator.is_valid(head | {"items": [{"output": ANSWER["output"]}]})


def test_every_status_of_the_catalogue_is_documented_with_its_failures(document: dict[str, Any]):
    responses = document["paths"]["/services/credit/predict"]["post"]["responses"]

    for failure in CATALOGUE.values():
        for status in set(failure.statuses) - {499}:
            response = at(document, responses[str(status)]["$ref"])
            schema = response["content"]["application/problem+json"]["schema"]
            assert failure.code in schema["allOf"][1]["properties"]["failure"]["enum"]
            assert failure.meaning in response["description"]


def test_callers_learn_of_the_headers(document: dict[str, Any]):
    predict = document["paths"]["/services/credit/predict"]["post"]
    asked = {parameter["name"] for parameter in predict["parameters"]}
    overloaded = at(document, predict["responses"]["503"]["$ref"])

    assert asked == {"x-request-timeout-ms", "Idempotency-Key"}
    assert {"x-request-id", "Server-Timing", "nightproof-degraded"} <= set(
        predict["responses"]["200"]["headers"]
    )
    assert "Retry-After" in overloaded["headers"]


def test_services_need_a_key_and_probes_do_not(document: dict[str, Any]):
    paths = document["paths"]

    assert document["security"] == [{"key": []}]
    for path in ("/services/credit/predict", "/v2/models/credit/infer"):
        assert "security" not in paths[path]["post"]
    for path in ("/livez", "/readyz", "/startupz", "/v2/health/live"):
        assert paths[path]["get"]["security"] == []


def test_the_inference_protocols_routes_are_there_with_the_services_tensors(document: dict[str, Any]):
    paths = document["paths"]
    infer = paths["/v2/models/credit/infer"]["post"]
    request = holding(document, infer["requestBody"]["content"]["application/json"]["schema"])
    income = {"name": "income", "shape": [1], "datatype": "FP64", "data": [1.0]}

    assert {
        "/v2",
        "/v2/models/tree",
        "/v2/models/tree/ready",
        "/v2/models/tree/versions/{version}/infer",
    } <= set(paths)
    assert request.is_valid({"inputs": [income], "outputs": [{"name": "approve"}]})
    assert not request.is_valid({"inputs": [income | {"name": "no such field"}]})
    assert not request.is_valid({"inputs": [income | {"datatype": "BYTES"}]})
    assert not request.is_valid({"inputs": [income], "outputs": [{"name": "income"}]})


def test_operation_ids_are_unique(document: dict[str, Any]):
    names = [part["operationId"] for part in inside(document["paths"]) if "operationId" in part]

    assert len(names) == len(set(names))


def test_links_lead_to_the_public_address(document: dict[str, Any]):
    assert document["servers"] == [{"url": "https://models.example"}]
    assert document["info"]["version"] == "1.2.3"
