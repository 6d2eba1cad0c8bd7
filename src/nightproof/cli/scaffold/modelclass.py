"""Write the model's class of a service: how the file is loaded, called, and its answer unpacked.

Pure; called by `render`. One branch per family of models; the text must stay readable to who has never seen this.
"""

from __future__ import annotations

from collections.abc import Iterator

from nightproof.cli.scaffold.literals import WIDTH, literal, quoted
from nightproof.cli.scaffold.names import class_name
from nightproof.cli.scaffold.plan import AnswerPlan, Column, Onnx, Plan, Sklearn

_HOLDS_NONE = ("object",)


def model_lines(name: str, plan: Plan) -> Iterator[str]:
    yield f"class {class_name(name)}(Model[Input, Answer]):"
    family = plan.family
    if isinstance(family, Sklearn):
        yield "    def load(self, artifacts: Path) -> None:"
        yield f"        self.model = joblib.load(artifacts / {quoted(family.file)})"
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
        yield f"        self.model = mlflow.pyfunc.load_model(str(artifacts / {quoted(family.file)}))"
        yield ""
        yield "    def predict(self, batch: pd.DataFrame) -> list[Answer]:"
        yield from _settle_lines(plan)
        given = "batch.to_numpy()" if family.takes_array else "batch"
        yield f"        answers = pd.DataFrame(self.model.predict({given})).iloc[:, 0].tolist()"
        yield from _return_lines(plan.answer, "answers", "")


def table_lines(plan: Plan) -> Iterator[str]:
    """Write the tables that predict reads: dtypes of gaps, the graph's inputs, its labels."""
    gaps, family = _gaps(plan), plan.family
    if gaps:
        yield "# Types in training; a batch in which one of these columns is all gaps shows none."
        yield "GAPS = {"
        yield from (f"    {quoted(c.name)}: {_dtype(c)}," for c in plan.columns if c.name in gaps)
        yield "}"
    if isinstance(family, Onnx) and family.inputs[0].column:
        used = sorted({(one.tensor_type, one.dtype) for one in family.inputs})
        yield f"DTYPES = {{{', '.join(f'{quoted(kind)}: {quoted(dtype)}' for kind, dtype in used)}}}"
    if isinstance(family, Onnx) and not family.labels:
        yield "# Review: the graph gives a score per label; the order of the sorted target is assumed."
        yield "LABELS = ["
        yield from (f"    {literal(label)}," for label in plan.answer.classes)
        yield "]"


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


def _onnx_lines(family: Onnx, plan: Plan) -> Iterator[str]:
    yield "    def load(self, artifacts: Path) -> None:"
    yield "        options = onnxruntime.SessionOptions()"
    yield "        options.intra_op_num_threads = 1  # the workers share the processors"
    yield f"        path = artifacts / {quoted(family.file)}"
    yield "        self.session = onnxruntime.InferenceSession(path, options)"
    yield ""
    yield "    def predict(self, batch: pd.DataFrame) -> list[Answer]:"
    yield from _feed_lines(family)
    wanted = ", ".join(quoted(output) for output in (family.labels, family.shares) if output)
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
        yield f"        feeds = {{{quoted(first.tensor)}: {rows}}}"
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
    if len(line) <= WIDTH:
        yield line
    else:
        yield from ("        return [", f"            {made}", f"            {over}", "        ]")


def _gaps(plan: Plan) -> dict[str, str]:
    """Map columns to the dtype that a single batch may not show; ONNX takes arrays, which need none."""
    if isinstance(plan.family, Onnx):
        return {}
    return {column.name: column.dtype for column in plan.columns if column.dtype}


def _dtype(column: Column) -> str:
    if column.dtype == "category" and column.among:
        return f"pd.CategoricalDtype([{', '.join(map(quoted, column.among))}])"
    return quoted(column.dtype)


def needs_numpy(plan: Plan) -> bool:
    family = plan.family
    if isinstance(family, Sklearn) and family.calls != "shares":
        return True
    return "object" in _gaps(plan).values() or (isinstance(family, Onnx) and family.needs_softmax)
