"""The adapters that are built in: the Open Inference Protocol, and OpenAI's chat completions.

Both ask the server what it serves, so that a URL is enough; a body of the user's own is better where he has one.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from nightproof.base.errors import SettingError
from nightproof.drills.target.adapter import (
    Adapter,
    AnswerForm,
    DeadlineForm,
    HealthForm,
    RequestForm,
    checked,
)
from nightproof.drills.target.health import ask_page
from nightproof.drills.target.place import place_at

NAMES = ("oip", "openai")
_VALUES: dict[str, Any] = {"BOOL": True, "BYTES": "drill"}
_HEALTH = ("/livez", "/healthz", "/health")
_READY = ("/readyz", "/healthz", "/health")
_MOST_VALUES = 100_000


def built_in(
    name: str, url: str, *, model: str = "", bodies: Sequence[Any] = (), headers: dict[str, str] | None = None
) -> Adapter:
    """Make the adapter of that name for the server at the URL. Raises SettingError."""
    make = {"oip": _oip, "openai": _openai}[name]
    return checked(make(url, model, list(bodies), headers or {}))


def _oip(url: str, model: str, bodies: list[Any], headers: dict[str, str]) -> Adapter:
    model = model or _only_model(url, headers)
    if not bodies:
        bodies = [body_for(_json_at(url, f"/v2/models/{model}", headers))]
    return Adapter(
        name="oip",
        request=RequestForm(path=f"/v2/models/{model}/infer", headers=headers, good=bodies),
        answer=AnswerForm(has=["/outputs/0/data"]),
        health=HealthForm(live=["/v2/health/live"], ready=[f"/v2/models/{model}/ready", "/v2/health/ready"]),
        deadline=DeadlineForm(),
    )


def _openai(url: str, model: str, bodies: list[Any], headers: dict[str, str]) -> Adapter:
    if not bodies:
        model = model or str(_first(_json_at(url, "/v1/models", headers).get("data"), "id", "/v1/models"))
        said = {"role": "user", "content": "Answer with the one word: ready"}
        bodies = [{"model": model, "messages": [said], "max_tokens": 8, "temperature": 0}]
    return Adapter(
        name="openai",
        request=RequestForm(path="/v1/chat/completions", headers=headers, good=bodies),
        answer=AnswerForm(has=["/choices/0/message/content"], same=False),
        health=HealthForm(live=list(_HEALTH), ready=[*_READY, "/v1/models"]),
        deadline=DeadlineForm(ms=30_000),
    )


def body_for(metadata: dict[str, Any]) -> dict[str, Any]:
    """Make a request of the Open Inference Protocol from a model's metadata: ones of every input. Pure.

    Raises SettingError where the metadata names no inputs.
    """
    inputs = metadata.get("inputs") or []
    if not inputs:
        raise SettingError(
            "The model's metadata names no inputs, so no request can be made of it.",
            hint="Give a good one: --body request.json",
        )
    tensors = []
    for one in inputs:
        shape = [max(1, int(size)) for size in one.get("shape") or [1]]
        count = 1
        for size in shape:
            count *= size
        if count > _MOST_VALUES:
            raise SettingError(
                f"The model's input {one.get('name')!r} has {count} values.",
                hint="Give a body: --body request.json",
            )
        kind = str(one.get("datatype", "FP32"))
        value = _VALUES.get(kind, 1.0 if kind.startswith(("FP", "BF")) else 1)
        tensors.append({"name": one["name"], "shape": shape, "datatype": kind, "data": [value] * count})
    return {"inputs": tensors}


def _only_model(url: str, headers: dict[str, str]) -> str:
    """Ask a server of many models which one it has."""
    listed = _json_at(url, "/v2/repository/index", headers, method="POST")
    return str(_first(listed, "name", "/v2/repository/index"))


def _first(listed: object, key: str, path: str) -> object:
    if isinstance(listed, list) and listed and isinstance(listed[0], dict) and listed[0].get(key):
        return listed[0][key]
    raise SettingError(f"{path} of the target names no model.", hint="Name it: --model NAME")


def _json_at(url: str, path: str, headers: dict[str, str], *, method: str = "GET") -> Any:
    asker = Adapter(name="asking", request=RequestForm(path=path, headers=headers))
    status, body, _ = ask_page(place_at(url, asker), path, method=method)
    try:
        told = json.loads(body) if 200 <= status < 300 else None
    except ValueError:
        told = None
    if not status:
        raise SettingError(f"No server answers at {url}.", hint="Start it first: a target is never started.")
    if told is None:
        raise SettingError(
            f"{url} answers {status} to {path}.",
            hint="Name the model (--model) and a good request (--body FILE).",
        )
    return told
