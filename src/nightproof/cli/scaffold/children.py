"""Ask a child program, and come back in any case: a model that hangs or crashes ends its own process only.

Called by the command `new`. Promises an answer, or Unfit with what the child's end says.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TypeVar

import msgspec

from nightproof.cli.scaffold.plan import Failed, Unfit

Answer = TypeVar("Answer", bound=msgspec.Struct)
_TOLD_LINES = 12
_ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def ask(program: str, question: msgspec.Struct, answer: type[Answer], *, timeout_s: float) -> Answer:
    """Run `nightproof.cli.scaffold.<program>` with the question and return its answer. Raises Unfit."""
    with tempfile.TemporaryDirectory(prefix="nightproof-new-") as scratch:
        answer_file, said_file = Path(scratch, "answer"), Path(scratch, "said")
        # -P: the current folder must not come before installed packages on the import path.
        command = [sys.executable, "-P", "-m", f"nightproof.cli.scaffold.{program}", str(answer_file)]
        with (
            said_file.open("wb") as said,
            subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=said,
                stderr=said,
                env=_environment(),
                start_new_session=True,
            ) as child,
        ):
            try:
                child.communicate(msgspec.json.encode(question), timeout=timeout_s)
            except subprocess.TimeoutExpired:
                _end(child)
                raise Unfit(
                    f"The model was stopped: loading it and answering a sample took over {timeout_s:g} s."
                    f"{_end_of(said_file)}",
                    hint="Does it wait for something? If it is only slow, raise --timeout SECONDS.",
                ) from None
            except BaseException:
                _end(child)
                raise
        if answer_file.exists():
            body = answer_file.read_bytes()
            if child.returncode == 0:
                return msgspec.json.decode(body, type=answer)
            failed = msgspec.json.decode(body, type=Failed)
            raise Unfit(failed.text, hint=failed.hint)
        raise Unfit(
            f"The process that opened the model {_how_it_ended(child.returncode)}.{_end_of(said_file)}",
            hint="Load the model and call its predict in Python; when that holds, run this again.",
        )


def _environment() -> dict[str, str]:
    """Make relative places on PYTHONPATH whole, and give one thread, as workers have: times are measured."""
    environment = dict.fromkeys(_ONE_THREAD, "1") | os.environ | {"PYTHONUNBUFFERED": "1"}
    if path := environment.get("PYTHONPATH"):
        parts = (str(Path(part).resolve()) for part in path.split(os.pathsep) if part)
        environment["PYTHONPATH"] = os.pathsep.join(parts)
    return environment


def _end(child: subprocess.Popen[bytes]) -> None:
    """Kill the child and all that it started."""
    try:
        os.killpg(child.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    child.wait()


def _how_it_ended(code: int) -> str:
    if code >= 0:
        return f"ended by itself with exit code {code}"
    try:
        return f"was ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"was ended by signal {-code}"


def _end_of(said_file: Path) -> str:
    lines = [
        line for line in said_file.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()
    ]
    return "".join(f"\n    {line}" for line in lines[-_TOLD_LINES:])
