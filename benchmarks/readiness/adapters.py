"""The adapters of the readiness table, one a system: written to `adapters/`, so that they can be used by hand as well.

    nightproof drill --target http://127.0.0.1:8000 --adapter benchmarks/readiness/adapters/fastapi.toml

Bodies hold the same records for all; only their wrapping is each system's own.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import envelopes
from benchmarks.make_model import records
from benchmarks.readiness import misbehaving

ADAPTERS = Path(__file__).parent / "adapters"
DEADLINE_MS = 2_000
_GOOD = 8
_HANGING = 5


@dataclass(frozen=True, kw_only=True)
class Form:
    """What one system's adapter says beside the records."""

    name: str
    path: str = "/predict"
    envelope: envelopes.Envelope = envelopes.plain
    has: tuple[str, ...] = ("/label", "/probability")
    live: tuple[str, ...]
    ready: tuple[str, ...]
    headers: dict[str, str] = field(default_factory=dict)
    deadline_header: str = ""


FORMS = (
    Form(
        name="nightproof",
        path="/services/tumour/predict",
        has=("/output/label", "/output/probability"),
        live=("/livez",),
        ready=("/readyz",),
        headers={"authorization": "Bearer ${NIGHTPROOF_KEY}"},
        deadline_header="x-request-timeout-ms",
    ),
    Form(name="fastapi", live=("/health",), ready=("/health",)),
    Form(name="bentoml", envelope=envelopes.bento, live=("/livez",), ready=("/readyz",)),
    Form(name="litserve", live=("/health",), ready=("/health",)),
    Form(
        name="mlserver",
        path="/v2/models/tumour/infer",
        envelope=envelopes.open_inference,
        has=("/outputs/0/data",),
        live=("/v2/health/live",),
        ready=("/v2/models/tumour/ready", "/v2/health/ready"),
    ),
    Form(name="ray", live=("/-/healthz",), ready=("/-/healthz",)),
)


def cue(value: float, *, number: int = 0) -> dict[str, float]:
    """Give a record on which the model does as this value says."""
    return {**records()[number], "mean_radius": value}


def text_of(form: Form) -> str:
    """Write one adapter."""

    def bodies(given: list[dict[str, float]]) -> list[Any]:
        return [json.loads(form.envelope(one)) for one in given]

    parts = {
        "request": {"path": form.path, "headers": form.headers, "good": bodies(records()[:_GOOD])},
        "answer": {"has": list(form.has)},
        "health": {"live": list(form.live), "ready": list(form.ready)},
        "deadline": {"ms": DEADLINE_MS, "header": form.deadline_header},
        "records": {
            "slow": bodies([cue(misbehaving.SLOW)]),
            "hang": bodies([cue(misbehaving.HANG, number=number) for number in range(_HANGING)]),
            "crash": bodies([cue(misbehaving.CRASH)]),
            "nonsense": bodies([cue(misbehaving.NONSENSE)]),
        },
    }
    lines = ["# Written by `python -m benchmarks.readiness --write-adapters`.", f'name = "{form.name}"']
    for name, part in parts.items():
        lines += ["", f"[{name}]"]
        for key, value in part.items():
            if isinstance(value, list) and value and isinstance(value[0], dict):
                lines += [f"{key} = [", *(f"  {_toml(one)}," for one in value), "]"]
            elif value:
                lines.append(f"{key} = {_toml(value)}")
    return "\n".join(lines) + "\n"


def write() -> None:
    """Write them all."""
    ADAPTERS.mkdir(exist_ok=True)
    for form in FORMS:
        (ADAPTERS / f"{form.name}.toml").write_text(text_of(form))


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name} = {_toml(inner)}" for name, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return json.dumps(value)
