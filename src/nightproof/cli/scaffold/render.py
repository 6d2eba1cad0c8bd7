"""Write service.py and the README of a planned service, as a person would who knows the house.

Pure: takes a Plan, returns text. The text is formatted as `ruff format` would (88 columns), and says in short
comments what to review.
"""

from __future__ import annotations

import json
import math
import textwrap
from collections.abc import Iterator, Sequence

from nightproof.cli.scaffold.names import class_name, type_name
from nightproof.cli.scaffold.plan import AnswerPlan, Column, Label, Mlflow, Onnx, Plan, Proof, Sklearn

_WIDTH = 88
_HOLDS_NONE = ("object",)


def service_text(name: str, plan: Plan, proof: Proof | None = None) -> str:
    """Return the text of service.py; with a proof, its times set the deadline."""
    types = _types(plan.columns)
    parts = [
        _opening(name, plan),
        "\n".join(_imports(plan)),
        "\n".join(_type_lines(plan.columns, types)),
        "\n\n" + "\n".join(_input_lines(plan.columns, types)),
        "\n\n" + "\n".join(_answer_lines(plan.answer)),
        "\n\n" + "\n".join(_table_lines(plan)) if any(_table_lines(plan)) else "",
        "\n\n" + "\n".join(_model_lines(name, plan)),
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
    if _needs_numpy(plan):
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


def _needs_numpy(plan: Plan) -> bool:
    family = plan.family
    if isinstance(family, Sklearn) and family.calls != "shares":
        return True
    return "object" in _gaps(plan).values() or (isinstance(family, Onnx) and family.needs_softmax)


def _types(columns: Sequence[Column]) -> dict[str, str]:
    """Name a type of its own for each column whose type would not fit on the field's line."""
    taken: set[str] = set()
    return {
        column.field: type_name(column.field, taken)
        for column in columns
        if column.among is not None or len(_field_line(column, _type_of(column))) > _WIDTH
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
        if column.among is None or len(whole) <= _WIDTH:
            yield whole
        else:
            opening = f"{types[column.field]} = Annotated[{_plain_type(column)}, Usual(among=["
            yield from _wrapped(opening, column.among)
    yield "# fmt: on"


def _wrapped(opening: str, values: Sequence[str]) -> Iterator[str]:
    """Write the values behind the opening, and close its brackets, on as many lines as it takes."""
    line, indent = opening, ""
    for place, value in enumerate(values):
        word = f"{_quoted(value)}{'])]' if place == len(values) - 1 else ','}"
        if len(line) + 1 + len(word) > _WIDTH and line != opening:
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
            if len(line) + 2 + len(comment) <= _WIDTH:
                line = f"{line}  {comment}"
            else:
                yield f"    {comment}"
        if len(line) <= _WIDTH or "  # " in line or column.name == column.field:
            yield line
        else:
            yield f"    {column.field}: {types.get(column.field) or _type_of(column)} = Field("
            yield f"        alias={_quoted(column.name)}"
            yield "    )"


def _field_line(column: Column, kind: str) -> str:
    alias = f" = Field(alias={_quoted(column.name)})" if column.name != column.field else ""
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
        return f"Usual(among=[{', '.join(map(_quoted, column.among))}])"
    if column.low is not None and column.high is not None:
        return f"Usual(ge={_number(column.low)}, le={_number(column.high)})"
    return ""


def _answer_lines(answer: AnswerPlan) -> Iterator[str]:
    yield "class Answer(BaseModel):"
    called = [
        f"{label!r} is mostly {meaning!r}"
        for label, meaning in zip(answer.classes, answer.meanings, strict=False)
        if meaning
    ]
    if called:
        lines = textwrap.wrap(f"# In the data's target {', '.join(called)}.", _WIDTH - 4)
        yield from (f"    {line if line.startswith('#') else f'# {line}'}" for line in lines)
    if answer.classes and answer.kind != "bool":
        listed = f"Literal[{', '.join(map(_literal, answer.classes))}]"
        if len(f"    {answer.field}: {listed}") <= _WIDTH:
            yield f"    {answer.field}: {listed}"
        else:
            yield f"    {answer.field}: Literal["
            yield from (f"        {_literal(label)}," for label in answer.classes)
            yield "    ]"
    else:
        yield f"    {answer.field}: {answer.kind}"
    if answer.confidence:
        yield f"    {answer.confidence}: Confidence  # the model's own probability of its answer"


def _gaps(plan: Plan) -> dict[str, str]:
    """Map columns to the dtype that a single batch may not show; ONNX takes arrays, which need none."""
    if isinstance(plan.family, Onnx):
        return {}
    return {column.name: column.dtype for column in plan.columns if column.dtype}


def _dtype(column: Column) -> str:
    if column.dtype == "category" and column.among:
        return f"pd.CategoricalDtype([{', '.join(map(_quoted, column.among))}])"
    return _quoted(column.dtype)


def _model_lines(name: str, plan: Plan) -> Iterator[str]:
    yield f"class {class_name(name)}(Model[Input, Answer]):"
    family = plan.family
    if isinstance(family, Sklearn):
        yield "    def load(self, artifacts: Path) -> None:"
        yield f"        self.model = joblib.load(artifacts / {_quoted(family.file)})"
        yield ""
        yield "    def predict(self, batch: pd.DataFrame) -> list[Answer]:"
        yield from _settle_lines(plan)
        yield from _sklearn_lines(family, plan.answer)
    elif isinstance(family, Onnx):
        yield from _onnx_lines(family, plan)
    else:
        yield "    def load(self, artifacts: Path) -> None:"
        yield '        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")'
        yield "        import mlflow.pyfunc  # only now, so that it reads the line above"
        yield ""
        yield f"        self.model = mlflow.pyfunc.load_model(str(artifacts / {_quoted(family.file)}))"
        yield ""
        yield "    def predict(self, batch: pd.DataFrame) -> list[Answer]:"
        yield from _settle_lines(plan)
        given = "batch.to_numpy()" if family.takes_array else "batch"
        yield f"        answers = pd.DataFrame(self.model.predict({given})).iloc[:, 0].tolist()"
        yield from _return_lines(plan.answer, "answers", "")


def _settle_lines(plan: Plan) -> Iterator[str]:
    gaps = _gaps(plan)
    if not gaps:
        return
    yield "        for name, dtype in GAPS.items():"
    if any(dtype.startswith("datetime") for dtype in gaps.values()):
        yield '            if str(dtype).startswith("datetime"):'
        yield "                times = pd.to_datetime(batch[name], utc=True)"
        yield "                batch[name] = times.dt.tz_localize(None).astype(dtype)"
        yield "                continue"
    if any(dtype in _HOLDS_NONE for dtype in gaps.values()):
        yield "            filled = batch[name].where(batch[name].notna(), np.nan)"
        yield "            batch[name] = filled.astype(dtype)"
    else:
        yield "            if batch[name].dtype != dtype:"
        yield "                batch[name] = batch[name].astype(dtype)"


def _sklearn_lines(family: Sklearn, answer: AnswerPlan) -> Iterator[str]:
    given = "batch.to_numpy()" if family.takes_array else "batch"
    if family.calls in ("numbers", "labels"):
        yield f"        answers = np.ravel(self.model.predict({given})).tolist()"
        yield from _return_lines(answer, "answers", "")
    elif family.calls == "shares":
        yield f"        shares = self.model.predict_proba({given})"
        yield "        answers = self.model.classes_[shares.argmax(axis=1)].tolist()"
        yield "        sure = shares.max(axis=1).clip(0, 1).tolist()"
        yield from _return_lines(answer, "answers", "sure")
    else:
        if family.takes_array:
            yield "        rows = batch.to_numpy()"
        rows = "rows" if family.takes_array else "batch"
        yield "        # predict does not always take the most probable class, so both are asked."
        yield f"        answers = np.ravel(self.model.predict({rows})).tolist()"
        yield "        places = {label: place for place, label in enumerate(self.model.classes_)}"
        yield f"        shares = self.model.predict_proba({rows}).clip(0, 1).tolist()"
        yield "        sure = [row[places[a]] for row, a in zip(shares, answers, strict=True)]"
        yield from _return_lines(answer, "answers", "sure")


def _return_lines(answer: AnswerPlan, labels: str, shares: str) -> Iterator[str]:
    if answer.kind == "float":
        made = f"Answer({answer.field}=float(a)"
    elif answer.kind == "bool":
        made = f"Answer({answer.field}=bool(a)"
    else:
        made = f"Answer({answer.field}=a"
    if not shares:
        yield from _comprehension(f"{made})", f"for a in {labels}")
        return
    yield f"        pairs = zip({labels}, {shares}, strict=True)"
    yield from _comprehension(f"{made}, {answer.confidence}=c)", "for a, c in pairs")


def _comprehension(made: str, over: str) -> Iterator[str]:
    line = f"        return [{made} {over}]"
    if len(line) <= _WIDTH:
        yield line
    else:
        yield from ("        return [", f"            {made}", f"            {over}", "        ]")


def _onnx_lines(family: Onnx, plan: Plan) -> Iterator[str]:
    yield "    def load(self, artifacts: Path) -> None:"
    yield "        options = onnxruntime.SessionOptions()"
    yield "        options.intra_op_num_threads = 1  # the workers share the processors"
    yield f"        path = artifacts / {_quoted(family.file)}"
    yield "        self.session = onnxruntime.InferenceSession(path, options)"
    yield ""
    yield "    def predict(self, batch: pd.DataFrame) -> list[Answer]:"
    yield from _feed_lines(family)
    wanted = ", ".join(_quoted(output) for output in (family.labels, family.shares) if output)
    if family.labels and family.shares:
        yield f"        labels, shares = self.session.run([{wanted}], feeds)"
        yield "        answers = labels.ravel().tolist()"
        if family.shares_are_maps:
            yield "        rows = zip(shares, answers, strict=True)"
            yield "        sure = [min(1.0, float(row[a])) for row, a in rows]"
        else:
            yield "        sure = shares.max(axis=1).clip(0, 1).tolist()"
        yield from _return_lines(plan.answer, "answers", "sure")
    elif family.labels:
        yield f"        (labels,) = self.session.run([{wanted}], feeds)"
        yield from _return_lines(plan.answer, "labels.ravel().tolist()", "")
    else:
        yield f"        (shares,) = self.session.run([{wanted}], feeds)"
        if family.needs_softmax:
            yield "        powers = np.exp(shares - shares.max(axis=1, keepdims=True))"
            yield "        shares = powers / powers.sum(axis=1, keepdims=True)"
        yield "        answers = [LABELS[best] for best in shares.argmax(axis=1)]"
        yield "        sure = shares.max(axis=1).clip(0, 1).tolist()"
        yield from _return_lines(plan.answer, "answers", "sure")


def _feed_lines(family: Onnx) -> Iterator[str]:
    first = family.inputs[0]
    if not first.column:
        rows = f'batch.to_numpy("{first.dtype}")'
        if first.dtype == "object":
            rows = 'batch.fillna("").to_numpy(object)'
        yield f"        feeds = {{{_quoted(first.tensor)}: {rows}}}"
        return
    flat = ".ravel()" if first.is_flat else ""
    yield "        feeds = {}"
    yield "        tensors = self.session.get_inputs()  # in the order of Input's fields"
    yield "        for tensor, column in zip(tensors, batch.columns, strict=True):"
    yield "            values = batch[[column]]"
    if any(one.dtype == "object" for one in family.inputs):
        yield '            if tensor.type == "tensor(string)":'
        yield '                values = values.fillna("")'
    yield f"            feeds[tensor.name] = values.to_numpy(DTYPES[tensor.type]){flat}"


def _table_lines(plan: Plan) -> Iterator[str]:
    """Write the tables that predict reads: dtypes of gaps, the graph's inputs, its labels."""
    gaps, family = _gaps(plan), plan.family
    if gaps:
        yield "# Types in training; a batch in which one of these columns is all gaps shows none."
        yield "GAPS = {"
        yield from (f"    {_quoted(c.name)}: {_dtype(c)}," for c in plan.columns if c.name in gaps)
        yield "}"
    if isinstance(family, Onnx) and family.inputs[0].column:
        used = sorted({(one.tensor_type, one.dtype) for one in family.inputs})
        yield f"DTYPES = {{{', '.join(f'{_quoted(kind)}: {_quoted(dtype)}' for kind, dtype in used)}}}"
    if isinstance(family, Onnx) and not family.labels:
        yield "# Review: the graph gives a score per label; the order of the sorted target is assumed."
        yield "LABELS = ["
        yield from (f"    {_literal(label)}," for label in plan.answer.classes)
        yield "]"


def _service_lines(name: str, plan: Plan, proof: Proof | None) -> Iterator[str]:
    answer = plan.answer
    deadline_ms = deadline_for(proof.many_rows_ms if proof else 0.0)
    measured = (
        f"  # a row took {proof.one_row_ms:.3g} ms here, a batch of 64 {proof.many_rows_ms:.3g}"
        if proof
        else ""
    )
    yield "service = Service("
    yield f"    {_quoted(name)},"
    yield f"    model={class_name(name)},"
    yield f"    deadline_ms={_number(deadline_ms)},{measured}"
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
    value = f"{answer.field}={_literal(answer.typical)}"
    if answer.confidence:
        value += f", {answer.confidence}={answer.typical_share}"
    line = f"        fallback.constant(Answer({value})),"
    if len(line) <= _WIDTH:
        yield line
    else:
        yield from ("        fallback.constant(", f"            Answer({value})", "        ),")
    yield "    ],"
    yield "    # Review: what you promise; alerts follow from it."
    yield f"    objective=Objective(availability=0.999, latency_p99_ms={_number(deadline_ms // 2)}),"
    yield ")"
    yield ""
    yield "# Review: rules that no answer may break. Where one is broken, a fallback answers."
    yield "# @service.output_check"
    yield "# def name_of_the_rule(given: Input, answer: Answer) -> str | None: ..."


def deadline_for(many_rows_ms: float) -> int:
    """Return a deadline with room for ten full batches in the model's half of it."""
    return max(1_000, math.ceil(many_rows_ms * 20 / 100) * 100)


def _quoted(text: str) -> str:
    """Write a text as ruff does: double quotes, unless that means more escapes."""
    if '"' in text and "'" not in text:
        return repr(text)
    return json.dumps(text, ensure_ascii=False) if text.isprintable() else _escaped(text)


def _escaped(text: str) -> str:
    return '"' + repr("'" + text)[2:-1].replace('"', '\\"') + '"'


def _literal(label: Label) -> str:
    if isinstance(label, str):
        return _quoted(label)
    return repr(label) if isinstance(label, bool) else _number(label)


def _number(value: float) -> str:
    """Write a number shortly: whole thousands with low lines, floats as they are."""
    if isinstance(value, int):
        return f"{value:_}" if abs(value) >= 10_000 else str(value)
    return repr(float(value))


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
