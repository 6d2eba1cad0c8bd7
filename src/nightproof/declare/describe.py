"""Turn a declared service into data: the `Description` that a worker hands to the server process."""

from __future__ import annotations

import inspect
import typing
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import msgspec
from pydantic import BaseModel, TypeAdapter

from nightproof.base.errors import DeclarationError
from nightproof.base.masking import marked_pointers
from nightproof.base.schema import close_objects
from nightproof.declare.chat import ChatService
from nightproof.declare.chat_description import ChatDescription
from nightproof.declare.chat_forms import ANSWER_SCHEMA, chat_description, messages_schema
from nightproof.declare.endpoint import AuditOnFailure, Endpoint
from nightproof.declare.fields import CONFIDENCE_WORD, SENSITIVE_WORD, SUBJECT_WORD
from nightproof.declare.service import Model, Service

BatchForm = Literal["list", "frame", "array"]


class FallbackDescription(msgspec.Struct, frozen=True):
    """A fallback as data: a rule is named by its place in the list and runs in a worker."""

    kind: str
    answer: bytes = b""
    """JSON of a constant's answer: of the output, or of a chat without types its text."""
    max_age_s: float = 0.0


class Description(msgspec.Struct, frozen=True, kw_only=True):
    """All that the server process knows of a release. Plain data, so it crosses process borders."""

    service: str
    input_schema: dict[str, Any]
    output_schema: dict[str, Any]
    deadline_ms: int
    predict_timeout_ms: int
    confidence_floor: float | None
    confidence_field: str
    """Name of the output field marked `Confidence`, or empty."""
    fallbacks: list[FallbackDescription]
    availability: float
    latency_p99_ms: float | None
    max_batch: int
    max_wait_ms: float
    max_items: int
    workers_min: int
    workers_max: int
    spares: int
    memory_mb: int
    load_timeout_s: float
    golden_cases: int
    input_checks: list[str]
    output_checks: list[str]
    subject_pointers: list[str] = []
    """Where an input names the person whom it is about."""
    sensitive_pointers: list[str] = []
    """Fields of inputs and outputs that are never shown."""
    audit_on_failure: AuditOnFailure = "refuse"
    keep_payload_days: float = 187.0
    chat: ChatDescription | None = None
    """What makes it a chat service; None for one that runs a model."""


def types_of(model: type[Model[Any, Any]]) -> tuple[type[BaseModel], type[BaseModel]]:
    """Return the input and output types that the class was declared with, as `Model[Input, Output]`."""
    for ancestor in model.__mro__:
        for base in getattr(ancestor, "__orig_bases__", ()):
            if get_origin(base) is Model:
                given, answer = get_args(base)
                for word, kind in (("input", given), ("output", answer)):
                    if not (isinstance(kind, type) and issubclass(kind, BaseModel)):
                        raise DeclarationError(
                            f"{model.__name__}: the {word} type {kind!r} is not a Pydantic model.",
                            hint="Declare class MyModel(nightproof.Model[MyInput, MyOutput]) of BaseModel types.",
                        )
                return given, answer
    raise DeclarationError(
        f"{model.__name__} does not say what goes in and what comes out.",
        hint="Inherit from nightproof.Model[MyInput, MyOutput].",
    )


def batch_form(model: type[Model[Any, Any]]) -> BatchForm:
    """Read from `predict`'s annotation what it wants: a list of inputs, a frame, or an array."""
    if model.predict is Model.predict:
        raise DeclarationError(f"{model.__name__} has no predict.", hint="Define predict(self, batch: …).")
    parameters = [p for p in inspect.signature(model.predict).parameters.values() if p.name != "self"]
    if len(parameters) != 1:
        raise DeclarationError(
            f"{model.__name__}.predict takes {len(parameters)} arguments.",
            hint="It is given one: the batch. Write predict(self, batch: list[MyInput]).",
        )
    try:
        hints = typing.get_type_hints(model.predict)
    except NameError as error:
        raise DeclarationError(
            f"{model.__name__}.predict has an annotation that cannot be read: {error}.",
            hint="Import the name at the top of service.py.",
        ) from error
    wanted = hints.get(parameters[0].name)
    given, _ = types_of(model)
    if wanted is None:
        raise DeclarationError(
            f"{model.__name__}.predict does not say what batch it wants.",
            hint=f"Annotate it: list[{given.__name__}], pandas.DataFrame or numpy.ndarray.",
        )
    origin = get_origin(wanted) or wanted
    if origin is list:
        inner = get_args(wanted)
        if inner and inner[0] is not given:
            raise DeclarationError(
                f"{model.__name__}.predict wants {wanted}, but the model is declared for {given.__name__}.",
                hint=f"Annotate it list[{given.__name__}].",
            )
        return "list"
    home, name = getattr(origin, "__module__", "").split(".")[0], getattr(origin, "__name__", "")
    if (home, name) == ("pandas", "DataFrame"):
        return "frame"
    if (home, name) == ("numpy", "ndarray"):
        _refuse_fields_that_are_not_numbers(given)
        return "array"
    raise DeclarationError(
        f"{model.__name__}.predict wants {wanted!r}, which Nightproof cannot make.",
        hint=f"Annotate it list[{given.__name__}], pandas.DataFrame or numpy.ndarray.",
    )


def _refuse_fields_that_are_not_numbers(given: type[BaseModel]) -> None:
    for name, field in given.model_fields.items():
        if field.annotation not in (float, int, bool):
            raise DeclarationError(
                f"{given.__name__}.{name} is {field.annotation!r}, and an array holds numbers only.",
                hint="Take a pandas.DataFrame or a list in predict, or make the field float, int or bool.",
            )


def _schema_of(kind: type[BaseModel], *, mode: Literal["validation", "serialization"]) -> dict[str, Any]:
    try:
        schema = TypeAdapter(kind).json_schema(mode=mode)
    except Exception as error:
        # Pydantic raises several types here; whichever it is, the engineer reads it.
        raise DeclarationError(
            f"{kind.__name__} has no JSON Schema: {error}.",
            hint="Use types that JSON can carry, or add WithJsonSchema.",
        ) from error
    return close_objects(schema)


def _confidence_field(service: Endpoint, floor: float | None, schema: dict[str, Any]) -> str:
    marked = [name for name, field in schema.get("properties", {}).items() if field.get(CONFIDENCE_WORD)]
    if len(marked) > 1:
        raise DeclarationError(
            f"Service {service.name!r}: the fields {', '.join(marked)} are all Confidence.",
            hint="Mark exactly one.",
        )
    if floor is not None and not marked:
        raise DeclarationError(
            f"Service {service.name!r} has a confidence_floor, but its output has no Confidence field.",
            hint="Declare `confidence: Confidence` in the output, or take the floor out.",
        )
    return marked[0] if marked else ""


def _subject(service: Endpoint, schema: dict[str, Any]) -> list[str]:
    """Return the pointer to the input's one Subject field, if there is one."""
    marked = marked_pointers(schema, SUBJECT_WORD)
    if len(marked) > 1:
        raise DeclarationError(
            f"Service {service.name!r}: the fields {', '.join(marked)} are all Subject.",
            hint="Mark the one that names the person; several people in one record cannot be told apart.",
        )
    for pointer in marked:
        name = pointer[1:]
        field = schema.get("properties", {}).get(name)
        kinds = {one.get("type") for one in (field or {}).get("anyOf", [field or {}])}
        if field is None or not kinds <= {"string", "integer", "null"}:
            raise DeclarationError(
                f"Service {service.name!r}: the Subject field {pointer} is not a text or whole number at the top.",
                hint="Mark a field of the input itself, of type str or int.",
            )
    return marked


def _fallbacks(service: Endpoint, answer: type[BaseModel] | None) -> list[FallbackDescription]:
    described = []
    for way in service.fallbacks:
        body = b""
        if way.kind == "constant":
            body = _constant(service, way.answer, answer)
        described.append(FallbackDescription(way.kind, body, way.max_age_s))
    return described


def _constant(service: Endpoint, given: BaseModel | str | None, answer: type[BaseModel] | None) -> bytes:
    """Write the constant's answer as the service's output: an instance, or of a chat without types a text."""
    if answer is None:
        if not isinstance(given, str) or not given.strip():
            raise DeclarationError(
                f"Service {service.name!r}: fallback.constant is given {type(given).__name__}.",
                hint="Give the text that callers are to read.",
            )
        return msgspec.json.encode(given)
    if not isinstance(given, answer):
        raise DeclarationError(
            f"Service {service.name!r}: fallback.constant is given {type(given).__name__}.",
            hint=f"Give an instance of the output type {answer.__name__}.",
        )
    return TypeAdapter(answer).dump_json(given, by_alias=True)


class _Kind(msgspec.Struct, frozen=True, kw_only=True):
    """What the kinds of service differ in."""

    input_schema: dict[str, Any]
    output_schema: dict[str, Any]
    answer: type[BaseModel] | None
    confidence_floor: float | None = None
    chat: ChatDescription | None = None


def _kind_of(service: Service | ChatService, folder: Path) -> _Kind:
    if isinstance(service, ChatService):
        if service.input is None or service.output is None:
            given, told = messages_schema(service), ANSWER_SCHEMA
        else:
            given = _schema_of(service.input, mode="validation")
            told = _schema_of(service.output, mode="serialization")
        chat = chat_description(service, folder, told)
        return _Kind(input_schema=given, output_schema=told, answer=service.output, chat=chat)
    takes, answer = types_of(service.model)
    batch_form(service.model)
    return _Kind(
        input_schema=_schema_of(takes, mode="validation"),
        output_schema=_schema_of(answer, mode="serialization"),
        answer=answer,
        confidence_floor=service.confidence_floor,
    )


def describe(service: Service | ChatService, folder: Path) -> Description:
    """Say as data what the service declares. Raises DeclarationError for what cannot be served."""
    kind = _kind_of(service, folder)
    input_schema, output_schema = kind.input_schema, kind.output_schema
    golden = folder / "golden.jsonl"
    return Description(
        service=service.name,
        input_schema=input_schema,
        output_schema=output_schema,
        deadline_ms=service.deadline_ms,
        predict_timeout_ms=service.predict_timeout_ms,
        confidence_floor=kind.confidence_floor,
        confidence_field=_confidence_field(service, kind.confidence_floor, output_schema),
        fallbacks=_fallbacks(service, kind.answer),
        availability=service.objective.availability,
        latency_p99_ms=service.objective.latency_p99_ms,
        max_batch=service.max_batch,
        max_wait_ms=service.max_wait_ms,
        max_items=service.max_items,
        workers_min=service.workers[0],
        workers_max=service.workers[1],
        spares=service.spares,
        memory_mb=service.memory_mb,
        load_timeout_s=service.load_timeout_s,
        golden_cases=sum(1 for line in golden.read_bytes().splitlines() if line.strip())
        if golden.exists()
        else 0,
        input_checks=[check.name for check in service.input_checks],
        output_checks=[check.name for check in service.output_checks],
        subject_pointers=_subject(service, input_schema),
        sensitive_pointers=sorted(
            {*marked_pointers(input_schema, SENSITIVE_WORD), *marked_pointers(output_schema, SENSITIVE_WORD)}
        ),
        audit_on_failure=service.audit_on_failure,
        keep_payload_days=service.keep_payload_days,
        chat=kind.chat,
    )
