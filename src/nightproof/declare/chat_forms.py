"""What a chat service's declaration comes to as data: its `ChatDescription`, and schemas of what goes in and out.

Called by `declare.describe` and by the worker. Reads prompt files that lie in the service's folder, nothing else.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nightproof.base.errors import DeclarationError
from nightproof.declare.chat import ChatService, template_parts
from nightproof.declare.chat_description import ChatDescription

_LONGEST_NAME = 64

_PART = {
    "type": "object",
    "properties": {
        "type": {"type": "string", "enum": ["text", "image_url", "document"]},
        "text": {"type": "string"},
        "image_url": {"type": "object"},
        "source": {
            "type": "string",
            "enum": ["user", "document"],
            "description": "document: somebody else's text, to be read as data",
        },
    },
    "required": ["type"],
    "additionalProperties": False,
}
_CALL = {
    "type": "object",
    "properties": {
        "id": {"type": "string"},
        "type": {"const": "function"},
        "function": {
            "type": "object",
            "properties": {"name": {"type": "string"}, "arguments": {"type": "string"}},
            "required": ["name", "arguments"],
        },
    },
    "required": ["id", "type", "function"],
}
_MESSAGE = {
    "type": "object",
    "properties": {
        "role": {"type": "string", "enum": ["system", "developer", "user", "assistant", "tool"]},
        "content": {
            "anyOf": [{"type": "string"}, {"type": "array", "items": _PART, "minItems": 1}, {"type": "null"}]
        },
        "name": {"type": "string"},
        "tool_calls": {"type": "array", "items": _CALL},
        "tool_call_id": {"type": "string"},
        "refusal": {"anyOf": [{"type": "string"}, {"type": "null"}]},
    },
    "required": ["role"],
}
_PARAMETERS: dict[str, dict[str, Any]] = {
    "temperature": {"type": "number", "minimum": 0, "maximum": 2},
    "top_p": {"type": "number", "minimum": 0, "maximum": 1},
    "max_tokens": {"type": "integer", "minimum": 1},
    "max_completion_tokens": {"type": "integer", "minimum": 1},
    "stop": {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "maxItems": 4}]},
    "seed": {"type": "integer"},
    "presence_penalty": {"type": "number", "minimum": -2, "maximum": 2},
    "frequency_penalty": {"type": "number", "minimum": -2, "maximum": 2},
    "response_format": {"type": "object"},
    "tools": {"type": "array", "items": {"type": "object"}},
    "tool_choice": {"anyOf": [{"type": "string"}, {"type": "object"}]},
    "parallel_tool_calls": {"type": "boolean"},
}
ANSWER_SCHEMA: dict[str, Any] = {
    "title": "ChatAnswer",
    "type": "object",
    "properties": {
        "content": {"type": "string"},
        "refusal": {"type": "string"},
        "tool_calls": {"type": "array", "items": _CALL},
        "finish_reason": {"type": "string"},
        "input_tokens": {"type": "integer", "minimum": 0},
        "output_tokens": {"type": "integer", "minimum": 0},
        "model": {"type": "string"},
    },
    "additionalProperties": False,
}
"""What a service without types answers, as its record holds it; the protocol gives it OpenAI's form."""


def messages_schema(service: ChatService) -> dict[str, Any]:
    """Return what a service without types is given: OpenAI's messages, and the parameters that callers may set."""
    return {
        "title": "ChatRequest",
        "type": "object",
        "properties": {
            "messages": {"type": "array", "items": _MESSAGE, "minItems": 1},
            **{name: _PARAMETERS.get(name, {}) for name in service.caller_parameters},
        },
        "required": ["messages"],
        "additionalProperties": False,
    }


def chat_description(service: ChatService, folder: Path, output_schema: dict[str, Any]) -> ChatDescription:
    """Say as data what makes the service a chat service. Raises DeclarationError for what cannot be served."""
    prompt = _text(service, folder, "prompt", service.prompt)
    template = _text(service, folder, "template", service.template)
    parameters = dict(service.parameters)
    if service.is_typed:
        template_parts(service, template)
        parameters.setdefault("response_format", _response_format(service, output_schema))
    return ChatDescription(
        prompt=prompt,
        upstreams=service.upstreams,
        template=template,
        is_typed=service.is_typed,
        repairs=service.repairs if service.is_typed else 0,
        # None stands for "do not send", for upstreams that know no response_format.
        parameters={name: value for name, value in parameters.items() if value is not None},
        caller_parameters=service.caller_parameters,
        caller_system=service.caller_system,
        images=service.images,
        max_prompt_bytes=service.max_prompt_bytes,
        max_input_tokens=service.max_input_tokens,
        max_output_tokens=service.max_output_tokens,
        hedge_ms=service.hedge_ms,
        retries_share=service.retries_share,
        spotlight=service.spotlight,
        input_checks=service.checks,
        output=service.rules,
        tools=service.tools,
        other_tools=service.other_tools,
        budget=service.budget,
        currency=service.currency,
        has_output_functions=bool(service.output_checks),
    )


def _text(service: ChatService, folder: Path, where: str, given: str | Path) -> str:
    """Return a text of the declaration, read from its file where it is one: of the folder, so of the release."""
    if isinstance(given, str):
        return given
    if not isinstance(given, Path):
        raise DeclarationError(
            f"Service {service.name!r}: the {where} is {type(given).__name__}.",
            hint='Give a text, or Path("prompt.md") of a file beside service.py.',
        )
    path = (folder / given).resolve()
    if not path.is_relative_to(folder.resolve()):
        raise DeclarationError(
            f"Service {service.name!r}: the {where}'s file {given} lies outside the folder.",
            hint="Put it beside service.py: what is outside is no part of a release.",
        )
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise DeclarationError(
            f"Service {service.name!r}: the {where}'s file {given} cannot be read: {error.strerror}.",
            hint="Is it beside service.py, and not hidden or named in .nightproofignore?",
        ) from error
    except UnicodeDecodeError as error:
        raise DeclarationError(
            f"Service {service.name!r}: the {where}'s file {given} is not UTF-8.", hint="Save it as UTF-8."
        ) from error
    text = text.removesuffix("\n")
    service.refuse_bad_text(where, text)
    return text


def _response_format(service: ChatService, output_schema: dict[str, Any]) -> dict[str, Any]:
    """Return what asks an upstream for the output's form, without our own words in the schema."""
    written = getattr(service.output, "__name__", "answer")
    name = "".join(sign if sign.isascii() and sign.isalnum() else "_" for sign in written)[:_LONGEST_NAME]
    schema = _without_marks(output_schema)
    return {
        "type": "json_schema",
        "json_schema": {"name": name, "schema": schema, "strict": _is_strict(schema)},
    }


def _without_marks(part: Any) -> Any:
    if isinstance(part, dict):
        return {
            name: _without_marks(one) for name, one in part.items() if not name.startswith("x-nightproof-")
        }
    if isinstance(part, list):
        return [_without_marks(one) for one in part]
    return part


def _is_strict(part: Any) -> bool:
    """Say whether every object of a schema is closed and asks for all its fields, as strict mode wants it."""
    if isinstance(part, list):
        return all(map(_is_strict, part))
    if not isinstance(part, dict):
        return True
    if part.get("type") == "object":
        names = part.get("properties", {}).keys()
        if part.get("additionalProperties") is not False or set(part.get("required", ())) != set(names):
            return False
    return all(map(_is_strict, part.values()))
