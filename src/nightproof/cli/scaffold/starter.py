"""The starter: a whole service folder with a small model in plain Python, for those who have no model yet.

Pure text. It needs no package beside Nightproof's own, and every line in it is meant to be replaced.
"""

from __future__ import annotations

import json
import math

from nightproof.cli.scaffold.names import class_name

_WEIGHTS = {"bias": -3.0, "hours_late": 0.25, "visits": -0.1, "is_new": 1.2}
_INPUTS = (
    {"hours_late": 0.0, "visits": 12, "is_new": False},
    {"hours_late": 4.5, "visits": 3, "is_new": False},
    {"hours_late": 12.0, "visits": 0, "is_new": True},
    {"hours_late": 30.0, "visits": 1, "is_new": True},
)

_SERVICE = '''"""The service `{name}`: will this order be cancelled?

A starter that runs. Replace the fields, the model and the golden cases with yours.
"""

import json
import math
from pathlib import Path

from pydantic import BaseModel, Field

from nightproof import Confidence, Model, Objective, Service, fallback


class Order(BaseModel):
    """One record, as a caller sends it. What does not fit these types is refused."""

    hours_late: float = Field(ge=0, le=1000)
    visits: int = Field(ge=0, description="earlier orders of this customer")
    is_new: bool


class Answer(BaseModel):
    cancelled: bool
    confidence: Confidence  # watched, and held to the service's floor


class {model}(Model[Order, Answer]):
    def load(self, artifacts: Path) -> None:
        """Read what predict needs; called once per worker."""
        self.weights = json.loads((artifacts / "weights.json").read_text())

    def predict(self, batch: list[Order]) -> list[Answer]:
        """Answer every order of the batch, in order."""
        return [self.answer(order) for order in batch]

    def answer(self, order: Order) -> Answer:
        fields = order.model_dump()
        score = self.weights["bias"]
        score += sum(self.weights[name] * value for name, value in fields.items())
        share = 1 / (1 + math.exp(-score))
        return Answer(cancelled=share >= 0.5, confidence=max(share, 1 - share))


service = Service(
    "{name}",
    model={model},
    deadline_ms=1000,
    confidence_floor=0.5,
    fallbacks=[
        fallback.previous_release(),
        fallback.constant(Answer(cancelled=False, confidence=0.5)),
    ],
    objective=Objective(availability=0.999, latency_p99_ms=250),
)


@service.output_check
def new_customers_are_not_sure(given: Order, answer: Answer) -> str | None:
    """Withhold what cannot be right; the text says why, without the caller's values."""
    if given.visits == 0 and not given.is_new and answer.confidence > 0.99:
        return "nobody is that sure of a customer without a past"
    return None
'''

_README = """# {name}

A service of Nightproof, written by `nightproof new` as a starter: replace the parts with yours.

    nightproof check {name}    # loads it, and runs the golden cases
    nightproof serve {name}    # prints a curl line that works as pasted

| file | is |
|---|---|
| `service.py` | the declaration: types, model, checks, fallbacks, promises |
| `artifacts/` | what the model's `load` reads |
| `golden.jsonl` | inputs with the answers that each worker must give before it serves |

From a trained model and a CSV file, `nightproof new NAME --model FILE --data CSV --target COLUMN`
writes all of this by itself, with the types, ranges and golden cases taken from the data.
"""


def starter_files(name: str) -> dict[str, str]:
    """Return the text of each file of a starter folder."""
    return {
        "service.py": _SERVICE.format(name=name, model=class_name(name)),
        "README.md": _README.format(name=name),
        "artifacts/weights.json": json.dumps(_WEIGHTS, indent=2) + "\n",
        "golden.jsonl": "".join(
            json.dumps({"input": given, "expect": _answer(given)}) + "\n" for given in _INPUTS
        ),
    }


def _answer(given: dict[str, float]) -> dict[str, float]:
    score = _WEIGHTS["bias"] + sum(_WEIGHTS[name] * value for name, value in given.items())
    share = 1 / (1 + math.exp(-score))
    return {"cancelled": share >= 0.5, "confidence": round(max(share, 1 - share), 9)}
