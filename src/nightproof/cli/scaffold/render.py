"""Write service.py and the README of a planned service, as a person would who knows the house.

Pure: takes a Plan, returns text. The text is formatted as `ruff format` would (88 columns), and says in short
comments what to review.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator, Sequence

from nightproof.cli.scaffold.literals import WIDTH, literal, number, quoted
from nightproof.cli.scaffold.modelclass import model_lines, needs_numpy, table_lines
from nightproof.cli.scaffold.names import class_name, type_name
from nightproof.cli.scaffold.plan import AnswerPlan, Column, Mlflow, Onnx, Plan, Proof, Sklearn


def service_text(name: str, plan: Plan, proof: Proof | None = None) -> str:
    """Return the text of service.py; with a proof, its times set the deadline."""
    types = _types(plan.columns)
    parts = [
        _opening(name, plan),
        "\n".join(_imports(plan)),
        "\n".join(_type_lines(plan.columns, types)),
        "\n\n" + "\n".join(_input_lines(plan.columns, types)),
        "\n\n" + "\n".join(_answer_lines(plan.answer)),
        "\n\n" + "\n".join(table_lines(plan)) if any(table_lines(plan)) else "",
        "\n\n" + "\n".join(model_lines(name, plan)),
        "\n\n" + "\n".join(_service_lines(name, plan, proof)),
    ]
    return "\n".join(part for part in parts if part).rstrip() + "\n"


def _opening(name: str, plan: Plan) -> str:
    count = len(plan.columns)
    first = (
        f"The service `{name}`: {count} {'field' if count == 1 else 'fields'} in, `{plan.answer.field}` out."
    )
    review = "Written by `nightproof new`; it is yours now. What deserves a look says `Review`."
    if plan.reading_words:
        review += f"\nThe data was read as for training: {plan.reading_words}."
    return f'"""{first}\n\n{review}\n"""\n'


def _imports(plan: Plan) -> Iterator[str]:
    columns, answer, family = plan.columns, plan.answer, plan.family
    if isinstance(family, Mlflow):
        yield "import os"
    if any(column.kind == "datetime" for column in columns):
        yield "from datetime import datetime"
    yield "from pathlib import Path"
    typing = ["Annotated"] if any(_marks(column) for column in columns) else []
    if answer.classes and answer.kind != "bool":
        typing.append("Literal")
    if typing:
        yield f"from typing import {', '.join(typing)}"
    yield ""
    if isinstance(family, Sklearn):
        yield "import joblib"
    if needs_numpy(plan):
        yield "import numpy as np"
    if isinstance(family, Onnx):
        yield "import onnxruntime"
    yield "import pandas as pd"
    ours = ["Model", "Objective", "Service", "fallback"]
    if answer.confidence:
        ours.append("Confidence")
    if any(_usual(column) for column in columns):
        ours.append("Usual")
    yield f"from nightproof import {', '.join(sorted(ours, key=lambda word: (word.islower(), word)))}"
    needs_field = any(column.name != column.field or column.pattern or column.is_wide for column in columns)
    yield f"from pydantic import BaseModel{', Field' if needs_field else ''}"


def _types(columns: Sequence[Column]) -> dict[str, str]:
    """Name a type of its own for each column whose type would not fit on the field's line."""
    taken: set[str] = set()
    return {
        column.field: type_name(column.field, taken)
        for column in columns
        if column.among is not None or len(_field_line(column, _type_of(column))) > WIDTH
    }


def _type_lines(columns: Sequence[Column], types: dict[str, str]) -> Iterator[str]:
    if not any(_usual(column) for column in columns):
        yield from (f"{types[c.field]} = {_type_of(c)}" for c in columns if c.field in types)
        return
    yield ""
    yield "# What the data had. A sample is not the world: what lies outside is served and flagged."
    yield '# Review: to refuse it, write Literal["a", "b"] in place of Annotated[str, Usual(…)],'
    yield "# and Field(ge=0, le=9) in place of Usual(ge=0, le=9)."
    if not types:
        return
    yield "# fmt: off"
    for column in columns:
        if column.field not in types:
            continue
        whole = f"{types[column.field]} = {_type_of(column)}"
        if column.among is None or len(whole) <= WIDTH:
            yield whole
        else:
            opening = f"{types[column.field]} = Annotated[{_plain_type(column)}, Usual(among=["
            yield from _wrapped(opening, column.among)
    yield "# fmt: on"


def _wrapped(opening: str, values: Sequence[str]) -> Iterator[str]:
    """Write the values behind the opening, and close its brackets, on as many lines as it takes."""
    line, indent = opening, ""
    for place, value in enumerate(values):
        word = f"{quoted(value)}{'])]' if place == len(values) - 1 else ','}"
        if len(line) + 1 + len(word) > WIDTH and line != opening:
            yield line
            line, indent = "   ", " "
        line += f"{indent}{word}"
        indent = " "
    yield line


def _input_lines(columns: Sequence[Column], types: dict[str, str]) -> Iterator[str]:
    yield "class Input(BaseModel):"
    yield '    """One record, as a caller sends it; the model\'s columns, in its order."""'
    yield ""
    for column in columns:
        line = _field_line(column, types.get(column.field) or _type_of(column))
        if column.note:
            comment = f"# Review: {column.note}"
            if len(line) + 2 + len(comment) <= WIDTH:
                line = f"{line}  {comment}"
            else:
                yield f"    {comment}"
        if len(line) <= WIDTH or "  # " in line or column.name == column.field:
            yield line
        else:
            yield f"    {column.field}: {types.get(column.field) or _type_of(column)} = Field("
            yield f"        alias={quoted(column.name)}"
            yield "    )"


def _field_line(column: Column, kind: str) -> str:
    alias = f" = Field(alias={quoted(column.name)})" if column.name != column.field else ""
    return f"    {column.field}: {kind}{alias}"


def _type_of(column: Column) -> str:
    marks = _marks(column)
    return f"Annotated[{', '.join([_plain_type(column), *marks])}]" if marks else _plain_type(column)


def _plain_type(column: Column) -> str:
    return f"{column.kind} | None" if column.nullable else column.kind


def _marks(column: Column) -> list[str]:
    marks = []
    if usual := _usual(column):
        marks.append(usual)
    if column.pattern:
        marks.append(f'Field(pattern=r"{column.pattern}")')
    if column.is_wide:
        marks.append("Field(ge=-(2**63), le=2**63 - 1)")
    return marks


def _usual(column: Column) -> str:
    if column.among is not None:
        return f"Usual(among=[{', '.join(map(quoted, column.among))}])"
    if column.low is not None and column.high is not None:
        return f"Usual(ge={number(column.low)}, le={number(column.high)})"
    return ""


def _answer_lines(answer: AnswerPlan) -> Iterator[str]:
    yield "class Answer(BaseModel):"
    called = [
        f"{label!r} is mostly {meaning!r}"
        for label, meaning in zip(answer.classes, answer.meanings, strict=False)
        if meaning
    ]
    if called:
        lines = textwrap.wrap(f"# In the data's target {', '.join(called)}.", WIDTH - 4)
        yield from (f"    {line if line.startswith('#') else f'# {line}'}" for line in lines)
    if answer.classes and answer.kind != "bool":
        listed = f"Literal[{', '.join(map(literal, answer.classes))}]"
        if len(f"    {answer.field}: {listed}") <= WIDTH:
            yield f"    {answer.field}: {listed}"
        else:
            yield f"    {answer.field}: Literal["
            yield from (f"        {literal(label)}," for label in answer.classes)
            yield "    ]"
    else:
        yield f"    {answer.field}: {answer.kind}"
    if answer.confidence:
        yield f"    {answer.confidence}: Confidence  # the model's own probability of its answer"


def _service_lines(name: str, plan: Plan, proof: Proof | None) -> Iterator[str]:
    answer = plan.answer
    deadline_ms = deadline_for(proof.many_rows_ms if proof else 0.0)
    measured = (
        f"  # a row took {proof.one_row_ms:.3g} ms here, a batch of 64 {proof.many_rows_ms:.3g}"
        if proof
        else ""
    )
    yield "service = Service("
    yield f"    {quoted(name)},"
    yield f"    model={class_name(name)},"
    yield f"    deadline_ms={number(deadline_ms)},{measured}"
    if isinstance(plan.family, Onnx) and plan.family.one_by_one:
        yield "    max_batch=1,  # the graph takes exactly one row"
    if answer.confidence:
        yield "    # Review: below the floor a fallback answers. What does a wrong answer cost?"
        yield "    # confidence_floor=0.6,"
    yield "    fallbacks=["
    yield "        fallback.previous_release(),"
    if answer.kind == "float" and not answer.confidence:
        yield "        # Review: the median of the answers. Is it a safe one?"
    else:
        yield f"        # Review: the most common answer ({answer.typical_share:.0%}). Is it the safe one?"
    value = f"{answer.field}={literal(answer.typical)}"
    if answer.confidence:
        value += f", {answer.confidence}={answer.typical_share}"
    line = f"        fallback.constant(Answer({value})),"
    if len(line) <= WIDTH:
        yield line
    else:
        yield from ("        fallback.constant(", f"            Answer({value})", "        ),")
    yield "    ],"
    yield "    # Review: what you promise; alerts follow from it."
    yield f"    objective=Objective(availability=0.999, latency_p99_ms={number(deadline_ms // 2)}),"
    yield ")"
    yield ""
    yield "# Review: rules that no answer may break. Where one is broken, a fallback answers."
    yield "# @service.output_check"
    yield "# def name_of_the_rule(given: Input, answer: Answer) -> str | None: ..."


def deadline_for(many_rows_ms: float) -> int:
    """Return a deadline with room for ten full batches in the model's half of it."""
    return max(1_000, math.ceil(many_rows_ms * 20 / 100) * 100)


def readme_text(name: str, plan: Plan, proof: Proof) -> str:
    """Return the README of the folder."""
    copies = f"`golden.jsonl` ({proof.golden_cases} rows)"
    if plan.reference_rows:
        copies += f" and `reference.parquet` ({plan.reference_rows:,} rows)"
    masked = (
        f"Masked: {', '.join(plan.masked)}."
        if plan.masked
        else "`nightproof new --mask COLUMN` leaves a column's values out."
    )
    pickle = (
        "Loading the model file, a pickle, runs the code inside it: serve only files whose maker you trust."
        if isinstance(plan.family, Sklearn)
        else "Serve only model files whose maker you trust."
    )
    return f"""# {name}

A service of Nightproof, written by `nightproof new` from {plan.model_words.split(";")[0]}.

    nightproof check {name}    # loads it, and runs the golden cases
    nightproof serve {name}    # prints a curl line that works as pasted

| file | is |
|---|---|
| `service.py` | the declaration: types, model, fallbacks, promises. Look at each `Review` |
| `artifacts/` | the model, copied |
| `golden.jsonl` | inputs with the model's own answers; each worker must give them before it serves |
| `reference.parquet` | inputs that drift is measured against |

{copies} copy rows of your data.
{masked}
{pickle}
Data: {plan.data_words}.
"""
