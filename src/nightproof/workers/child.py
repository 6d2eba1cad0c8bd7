"""The worker program: load one service, answer batches, say `Pong`. One thread, one socket.

Started by `workers.process` as `python -m nightproof.workers.child FD PARENT_PID`. It owns its
process: user code may print, exit, leak or hang here and nowhere else. It dies with the server.
"""

from __future__ import annotations

import gc
import operator
import os
import platform
import resource
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Iterable, Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, TypeAdapter, ValidationError

from nightproof.base.clock import monotonic_s, utc_now
from nightproof.base.errors import DeclarationError, FieldError, StateError
from nightproof.base.frames import FrameReader
from nightproof.base.strictjson import parse
from nightproof.base.versions import PYTHON, incompatibilities
from nightproof.declare.chat import ChatService
from nightproof.declare.describe import batch_form, describe, types_of
from nightproof.declare.folder import GoldenCase, load_service, read_golden
from nightproof.declare.service import Model, Service
from nightproof.storage import proc
from nightproof.storage.bundles import verify_folder
from nightproof.workers import wire
from nightproof.workers.usercode import WrongAnswer, ask, failed, field_errors, is_finite, plain, same
from nightproof.workers.wire import Answer

if TYPE_CHECKING:
    from nightproof.workers.chat_child import LoadedChat

_OOM_SCORE = "500"
_READ_BYTES = 1 << 16
"""Large enough for a usual batch; a buffer of a megabyte would be mapped and unmapped for each frame."""
_FRAMEWORKS = {
    "numpy": "numpy",
    "pandas": "pandas",
    "polars": "polars",
    "scipy": "scipy",
    "scikit-learn": "sklearn",
    "joblib": "joblib",
    "skops": "skops",
    "onnxruntime": "onnxruntime",
    "mlflow": "mlflow",
    "mlflow-skinny": "mlflow",
    "torch": "torch",
    "safetensors": "safetensors",
    "transformers": "transformers",
    "tensorflow": "tensorflow",
    "keras": "keras",
    "jax": "jax",
    "xgboost": "xgboost",
    "lightgbm": "lightgbm",
    "catboost": "catboost",
    "statsmodels": "statsmodels",
    "pydantic": "pydantic",
}
"""Distributions whose version an answer may depend on, by the module that shows that they are in use."""


class LoadedService:
    """The user's service with its model loaded: turns record bytes into answers."""

    def __init__(self, service: Service, folder: Path, *, output_most_bytes: int) -> None:
        self._service = service
        given, answer = types_of(service.model)
        self._form = batch_form(service.model)
        self._input = TypeAdapter(given)
        self._output = TypeAdapter(answer)
        self._output_type = answer
        self._output_most_bytes = output_most_bytes
        attributes = list(given.model_fields)
        self._columns = [_json_name(name, given) for name in attributes]
        self._output_names = [_json_name(name, answer) for name in answer.model_fields]
        self._row: Callable[[Any], Any] = operator.attrgetter(*attributes)
        if len(attributes) == 1:
            single = self._row
            self._row = lambda record: (single(record),)
        self._golden: list[GoldenCase] = read_golden(folder, utc_now())
        self._folder = folder
        self._model: Model[Any, Any] = service.model()
        self._model.load(folder / "artifacts")

    def answer(self, items: Sequence[bytes]) -> tuple[list[Answer], bool]:
        """Answer each record. The flag asks for each record alone: the batch as a whole went wrong."""
        answers: list[Answer | None] = [None] * len(items)
        given: list[BaseModel] = []
        places: list[int] = []
        flags: list[list[str]] = []
        for place, item in enumerate(items):
            try:
                record = self._input.validate_json(item, strict=True)
            except ValidationError as error:
                answers[place] = Answer(failure="invalid_input", errors=field_errors(error))
                continue
            except (Exception, SystemExit) as error:  # noqa: BLE001
                # A validator of the user's may raise anything; it must not cost a worker.
                answers[place] = failed(error)
                continue
            findings, refused = self._check_input(record)
            if refused is not None:
                answers[place] = refused
                continue
            given.append(record)
            places.append(place)
            flags.append(findings)
        if given:
            try:
                outputs = self._rows_of(self._model.predict(self._batch_of(given)))
                if len(outputs) != len(given):
                    raise WrongAnswer(f"predict was given {len(given)} rows and returned {len(outputs)}")
            except (Exception, SystemExit) as error:  # noqa: BLE001
                # The model's own exception: whatever it is, it becomes a named answer. If mates are
                # aboard, each is tried alone, so that only the guilty one fails.
                if len(given) > 1:
                    return [], True
                answers[places[0]] = failed(error)
            else:
                for place, record, output, findings in zip(places, given, outputs, flags, strict=True):
                    answers[place] = self._answer_of(record, output, findings)
        return [answer or Answer(failure="internal_error") for answer in answers], False

    def answer_by_rule(self, items: Sequence[bytes], number: int) -> list[Answer]:
        """Answer each record by the service's fallback of this number."""
        rule = self._service.fallbacks[number].rule
        answers = []
        for item in items:
            try:
                if rule is None:
                    raise WrongAnswer(f"fallback {number} is no rule")
                record = self._input.validate_json(item, strict=True)
                answers.append(self._answer_of(record, rule(record), []))
            except (Exception, SystemExit) as error:  # noqa: BLE001
                # As above: the user's rule may raise anything.
                answers.append(failed(error))
        return answers

    def trouble_with_golden(self) -> str:
        """Run the golden cases; return what does not hold, or nothing."""
        for case in self._golden:
            answers, alone = self.answer([case.input])
            if alone or answers[0].failure:
                answer = answers[0] if answers else Answer(failure="model_error")
                told = "; ".join(f"{error.pointer or '/'} {error.detail}" for error in answer.errors)
                return f"golden.jsonl line {case.line}: {answer.failure} {answer.detail} {told}".strip()
            got = parse(answers[0].output)
            for name, expected in case.expect.items():
                if not same(got.get(name), expected):
                    return (
                        f"golden.jsonl line {case.line}: {name} is {got.get(name)!r}, expected {expected!r}"
                        " (numbers within 1e-6)"
                    )
        return ""

    @property
    def golden_cases(self) -> int:
        """Count the golden cases."""
        return len(self._golden)

    def _batch_of(self, given: list[BaseModel]) -> Any:
        if self._form == "list":
            return given
        rows = [self._row(record) for record in given]
        if self._form == "array":
            import numpy as np  # workers of other forms need not have it

            return np.array(rows, dtype=np.float64)
        import pandas as pd

        columns = zip(*rows, strict=True)
        return pd.DataFrame(dict(zip(self._columns, map(list, columns), strict=True)))

    def _rows_of(self, outputs: Any) -> list[Any]:
        if hasattr(outputs, "to_dict") and hasattr(outputs, "columns"):
            return list(outputs.to_dict("records"))
        if hasattr(outputs, "tolist") and hasattr(outputs, "shape"):
            rows = outputs.tolist()
            if len(self._output_names) == 1 and outputs.ndim == 1:
                rows = [[value] for value in rows]
            if outputs.ndim == 0:
                raise WrongAnswer("predict returned a single number")
            return [dict(zip(self._output_names, row, strict=True)) for row in rows]
        if isinstance(outputs, list | tuple):
            return list(outputs)
        raise WrongAnswer(f"predict returned {type(outputs).__name__}, not a list, frame or array")

    def _answer_of(self, record: BaseModel, output: Any, findings: list[str]) -> Answer:
        try:
            if not isinstance(output, self._output_type):
                output = self._output.validate_python(plain(output))
            written = self._output.dump_json(output, by_alias=True, warnings=False)
        except ValidationError as error:
            return Answer(failure="invalid_output", errors=field_errors(error))
        except Exception as error:  # noqa: BLE001
            # A custom serializer of the user's may raise anything.
            return Answer(
                failure="invalid_output", detail=f"the output cannot be written: {type(error).__name__}"
            )
        if len(written) > self._output_most_bytes:
            return Answer(failure="invalid_output", detail=f"the output has {len(written)} bytes")
        # Pydantic writes NaN and infinity as null, silently: where there is a null, look at the values.
        if b"null" in written and not is_finite(self._output.dump_python(output, warnings=False)):
            return Answer(failure="invalid_output", detail="the output holds NaN or infinity")
        return self._check_output(record, output, written, findings)

    def _check_input(self, record: BaseModel) -> tuple[list[str], Answer | None]:
        findings: list[str] = []
        for check in self._service.input_checks:
            found = ask(check, record)
            if isinstance(found, Answer):
                return findings, found
            if found and check.action == "refuse":
                return findings, Answer(failure="invalid_input", errors=[FieldError("", found, check.name)])
            if found:
                findings.append(check.name)
        return findings, None

    def _check_output(self, record: BaseModel, output: Any, written: bytes, findings: list[str]) -> Answer:
        for check in self._service.output_checks:
            found = ask(check, record, output)
            if isinstance(found, Answer):
                return self._misshapen(written) or found
            if found and check.action == "fall_back":
                return Answer(failure="unsafe_output", detail=f"{check.name}: {found}")
            if found:
                findings.append(check.name)
        return Answer(output=written, findings=findings)

    def _misshapen(self, written: bytes) -> Answer | None:
        """Say what is wrong with an output that a check stumbled over; instances are not validated before."""
        try:
            self._output.validate_json(written)
        except ValidationError as error:
            return Answer(failure="invalid_output", errors=field_errors(error))
        except Exception:  # noqa: BLE001
            # The user's own validator failed as well: what its check did is told.
            return None
        return None


def _json_name(name: str, kind: type[BaseModel]) -> str:
    field = kind.model_fields[name]
    for alias in (field.alias, field.validation_alias, field.serialization_alias):
        if isinstance(alias, str):
            return alias
    return name


def _versions(names: Iterable[str]) -> dict[str, str]:
    """Return the Python and those of the named distributions that are installed; imports none of them."""
    found = {PYTHON: platform.python_version()}
    for package in names:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def _frameworks_in_use() -> list[str]:
    return [package for package, module in _FRAMEWORKS.items() if module in sys.modules]


def _refuse_another(message: wire.Load) -> wire.LoadFailed | None:
    """Say what keeps a release from running here: other frameworks, or other bytes than were registered."""
    if message.versions and (differ := incompatibilities(message.versions, _versions(message.versions))):
        return wire.LoadFailed(
            "release_incompatible",
            "; ".join(differ) + ".",
            "Install what it was made with, or make the release again here: nightproof release FOLDER",
        )
    if message.digest:
        try:
            verify_folder(Path(message.folder), message.digest)
        except StateError as error:
            return wire.LoadFailed("release_damaged", error.text, error.hint)
    return None


def _lower_own_standing(memory_mb: int) -> None:
    """Bound the memory, and let the kernel's memory killer take this process before the server."""
    limit = memory_mb * 1024 * 1024
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        with open("/proc/self/oom_score_adj", "w", encoding="ascii") as score:
            score.write(_OOM_SCORE)
    except OSError:
        pass  # a container may forbid it; the memory limit above still holds


class Worker:
    """The loop: read a frame, do it, write the answer."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._reader = FrameReader()
        self._loaded: LoadedService | LoadedChat | None = None

    def run(self) -> None:
        """Serve frames until the server closes the socket."""
        while arrived := self._connection.recv(_READ_BYTES):
            for body in self._reader.feed(arrived):
                self._do(wire.to_worker.decode(body))

    def _do(self, message: wire.ToWorker) -> None:
        if isinstance(message, wire.Run):
            self._send(self._run(message))
        elif isinstance(message, wire.Ping):
            trouble = self._service.trouble_with_golden() if message.golden else ""
            self._send(wire.Pong(message.number, trouble))
        else:
            self._load(message)

    @property
    def _service(self) -> LoadedService | LoadedChat:
        if self._loaded is None:
            raise RuntimeError("a batch came before the service was loaded")
        return self._loaded

    def _run(self, message: wire.Run) -> wire.Done:
        began = monotonic_s()
        if message.rule >= 0:
            answers, alone = self._service.answer_by_rule(message.items, message.rule), False
        else:
            answers, alone = self._service.answer(message.items)
        return wire.Done(message.batch, answers, int((monotonic_s() - began) * 1e6), alone)

    def _load(self, message: wire.Load) -> None:
        folder = Path(message.folder)
        if (refused := _refuse_another(message)) is not None:
            self._send(refused)
            return
        try:
            service = load_service(folder)
            _lower_own_standing(service.memory_mb)
            description = describe(service, folder)
            self._send(wire.Described(description))
            if isinstance(service, ChatService):
                # Its detectors take half a second to load: a worker that runs a model need not wait for them.
                from nightproof.workers.chat_child import LoadedChat

                self._loaded = LoadedChat(service, folder, description)
            else:
                self._loaded = LoadedService(service, folder, output_most_bytes=message.output_most_bytes)
            trouble = self._loaded.trouble_with_golden()
        except DeclarationError as error:
            self._send(wire.LoadFailed("model_unavailable", error.text, error.hint))
        except MemoryError:
            self._send(wire.LoadFailed("model_out_of_memory", "load ran out of memory", "raise memory_mb"))
        except (Exception, SystemExit) as error:  # noqa: BLE001
            # load() is user code and may raise anything; the engineer gets its traceback.
            text = "".join(traceback.format_exception(error)[-6:]).strip()
            told = f"load raised {type(error).__name__}\n{text}"
            self._send(wire.LoadFailed("model_unavailable", told, "mend load; the last lines name the place"))
        else:
            if trouble:
                self._send(
                    wire.LoadFailed("golden_case_failed", trouble, "mend the model, or the golden case")
                )
            else:
                gc.collect()
                gc.freeze()  # what the model loaded stays: the collector need not walk it again
                self._send(wire.Loaded(self._loaded.golden_cases, _versions(_frameworks_in_use())))

    def _send(self, message: wire.FromWorker) -> None:
        self._connection.sendall(wire.frame(message))


def main() -> None:
    """Take over the socket named on the command line and serve it."""
    descriptor, parent_pid = int(sys.argv[1]), int(sys.argv[2])
    proc.die_with(parent_pid)
    proc.give_way()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.dup2(2, 1)  # what the model prints goes to stderr, which the server shows or drops
    connection = socket.socket(fileno=descriptor)
    try:
        Worker(connection).run()
    except (BrokenPipeError, ConnectionResetError):
        pass  # the server is gone
    # User code may have left threads or exit hooks that never end; nothing here needs them.
    os._exit(0)


if __name__ == "__main__":
    main()
