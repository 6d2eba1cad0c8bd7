"""Find out what a release is: its files' formats, its figures, and whether it loads and answers, in child processes.

Called by `steer.releasing` and, for a release that is made to be sent elsewhere, by the command line. Returns
findings; `releases.gate` decides on them. Nothing of the release runs outside of a child, and nothing of it runs at
all before its files' formats are known.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from nightproof import __version__
from nightproof.base.errors import DeclarationError, StateError
from nightproof.checks.input import InputChecks
from nightproof.checks.output import OutputChecks
from nightproof.declare.describe import Description
from nightproof.releases import chat_changes, compatibility
from nightproof.releases.formats import Looked
from nightproof.releases.gate import Finding, Kind
from nightproof.releases.inspect import PROFILED, LookedAt
from nightproof.releases.manifest import Facts
from nightproof.settings.settings import WorkerSettings
from nightproof.storage.proc import cause_of
from nightproof.storage.spawned import scrubbed_environment
from nightproof.workers.engine import NotLoaded, Origin
from nightproof.workers.pool import Pool

T = TypeVar("T")
_LOOKING_WITHIN_S = 300.0
_KIND_OF_FAILURE: dict[str, Kind] = {
    "golden_case_failed": "golden_failed",
    "model_out_of_memory": "out_of_memory",
    "release_incompatible": "versions_differ",
    "release_damaged": "damaged",
}
_HINTS: dict[Kind, str] = {
    "pickle": "Save the model as skops, ONNX or safetensors; or set releases.allow_pickle to signed.",
    "native_code": "Install it with the worker's packages instead; a release holds Python source and data.",
    "unknown_format": "Save it in a known format, list it in .nightproofignore, or its ending in releases.also_allow.",
    "disguised": "Find out how it came there: its name says one thing and its bytes another.",
}


class Examined(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker told of a release that it loaded, or why it did not."""

    findings: list[Finding]
    description: Description | None = None
    versions: dict[str, str] = {}


async def formats_of(folder: Path, names: Iterable[str]) -> list[Finding]:
    """Look at the formats of these files, in a child process."""
    try:
        looked = await _ask_child("formats", folder, list(names), list[LookedAt])
    except DeclarationError as error:
        return [Finding("not_looked_at", "", error.text, error.hint)]
    return [finding for one in looked for finding in findings_of(one.name, one.looked)]


def findings_of(name: str, looked: Looked) -> list[Finding]:
    """Say what a file's format means for the gate."""
    found = [Finding("evidence", name, f"{looked.format}: {text}.") for text in looked.evidence]
    if looked.problem and looked.kind in ("pickle", "native"):
        found.append(Finding("disguised", name, f"{_sentence(looked.problem)}.", _HINTS["disguised"]))
    elif looked.kind == "pickle":
        text = f"It is a {looked.format}, which runs code when it is loaded."
        found.append(Finding("pickle", name, text, _HINTS["pickle"]))
    elif looked.kind == "native":
        text = f"It is {looked.format}, which cannot be looked into."
        found.append(Finding("native_code", name, text, _HINTS["native_code"]))
    elif looked.problem or looked.kind == "unknown":
        text = _sentence(looked.problem or "its format is not known")
        found.append(Finding("unknown_format", name, f"{text}.", _HINTS["unknown_format"]))
    return found


async def profile_of(folder: Path, description: Description) -> dict[str, Any] | None:
    """Put the reference data into figures, in a child process; None where there is none.

    Raises DeclarationError where there is some and it cannot be read.
    """
    if not (folder / PROFILED).is_file():
        return None
    hidden = [
        pointer.removeprefix("/")
        for pointer in (*description.subject_pointers, *description.sensitive_pointers)
    ]
    try:
        return await _ask_child("profile", folder, hidden, dict[str, Any])
    except DeclarationError as error:
        raise DeclarationError(
            f"{PROFILED} cannot be read: {error.text}",
            hint="Write it with pandas, or take it out. `pip install 'nightproof[parquet]'` reads it.",
        ) from error


async def run(
    folder: Path, *, origin: Origin, settings: WorkerSettings, pool: Pool | None = None
) -> Examined:
    """Load a release in a worker with its limits, run its golden cases, and ask what it declares.

    A `pool` that is given is used for it, and goes on where all is well.
    """
    stays = pool is not None
    if origin.python and (trouble := await _trouble_with(origin.python)):
        return Examined(findings=[Finding("versions_differ", origin.python, trouble, _INTERPRETER_HINT)])
    pool = pool or Pool(
        folder,
        release="gate",
        settings=settings,
        on_poison=lambda job: None,
        observe=lambda event, **named: None,
        workers=(1, 1),
        spares=0,
        origin=origin,
    )
    try:
        await pool.start()
    except NotLoaded as error:
        kind = _KIND_OF_FAILURE.get(error.failure, "load_failed")
        return Examined(findings=[Finding(kind, "", _sentence(error.text), error.hint)])
    except DeclarationError as error:
        return Examined(findings=[Finding("load_failed", "", error.text, error.hint)])
    description, versions = pool.description, pool.versions
    if not stays:
        await pool.stop()
    return Examined(findings=_of_description(description), description=description, versions=versions)


async def name_of(folder: Path) -> str:
    """Ask a child process which service a folder declares. Raises DeclarationError."""
    try:
        code, out, said = await _run(
            [sys.executable, "-P", "-m", "nightproof.releases.naming", str(folder)], within_s=60.0
        )
    except StateError as error:
        raise DeclarationError(
            f"{folder}: service.py cannot be read: {error.text}", hint=error.hint
        ) from error
    if code:
        why = said.decode(errors="replace").strip()[-1_000:] or cause_of(code)
        raise DeclarationError(f"{folder}: {why}", hint="Run `nightproof check` on it.")
    return out.decode(errors="replace").strip()


def _of_description(description: Description) -> list[Finding]:
    """Hold what a release declares to the server's own checks."""
    try:
        InputChecks(description)
        checks = OutputChecks(description)
    except ValueError as error:
        text = f"A schema cannot be used: {error}."
        return [Finding("load_failed", "", text, "Simplify the type, or its pattern.")]
    found = []
    for way in description.fallbacks:
        if way.kind == "constant" and (verdict := checks.judge_constant(way.answer)).failure:
            text = f"fallback.constant would be refused by the service's own checks: {verdict.detail}."
            found.append(Finding("useless_fallback", "service.py", text))
    if not description.golden_cases:
        text = "It has no golden cases: that it answers rightly was not asked."
        found.append(Finding("no_golden_cases", "golden.jsonl", text))
    return found


def compared(live: str, old: Facts, new: Description) -> list[Finding]:
    """Compare a release with the live one: its schemas, and of a chat what makes its answers."""
    changes = [
        *compatibility.compare(old.input_schema, old.output_schema, new.input_schema, new.output_schema),
        *chat_changes.chat_changes(old.chat, chat_changes.stated(new.chat)),
    ]
    hint = "Take it as a service of another name, or accept it all the same with --allow-breaking."
    found = []
    for one in changes:
        kinds: tuple[Kind, Kind] = (
            ("chat_breaking", "chat_changed")
            if one.side == "chat"
            else ("schema_breaking", "schema_additive")
        )
        subject, text = f"{one.side} {one.pointer or '/'}", f"{one.text} (live: {live})."
        found.append(
            Finding(kinds[0], subject, text, hint)
            if one.kind == "breaking"
            else Finding(kinds[1], subject, text)
        )
    return found


_INTERPRETER_HINT = (
    "Name a Python in whose environment this Nightproof is installed: PYTHON -m pip install nightproof"
)


async def _trouble_with(python: str) -> str:
    """Say why an interpreter cannot run our workers; nothing if it can."""
    program = "import nightproof, nightproof.workers.child; print(nightproof.__version__)"
    try:
        code, out, _ = await _run([python, "-P", "-c", program], within_s=60.0)
    except OSError as error:
        return f"This Python cannot be started: {error.strerror}."
    except StateError as error:
        return error.text
    if code:
        return f"This Python cannot run Nightproof's workers ({cause_of(code)})."
    if (found := out.decode(errors="replace").strip()) != __version__:
        return f"This Python has Nightproof {found}, and the server is {__version__}."
    return ""


async def _ask_child(what: str, folder: Path, named: list[str], kind: type[T]) -> T:
    command = [sys.executable, "-P", "-m", "nightproof.releases.inspect", what, str(folder)]
    try:
        code, out, said = await _run(command, within_s=_LOOKING_WITHIN_S, given=msgspec.json.encode(named))
    except StateError as error:
        raise DeclarationError(error.text, hint=error.hint) from error
    if code:
        last = said.decode(errors="replace").strip().rpartition("\n")[2][:300]
        raise DeclarationError(f"Looking at the files ended with {cause_of(code)}: {last}")
    return msgspec.json.decode(out, type=kind)


async def _run(command: list[str], *, within_s: float, given: bytes = b"") -> tuple[int, bytes, bytes]:
    """Run a program to its end, which comes in any case. Raises StateError where it took too long."""
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=scrubbed_environment(),
        start_new_session=True,
    )
    try:
        out, said = await asyncio.wait_for(process.communicate(given), within_s)
    except TimeoutError:
        raise StateError(
            f"Looking at the release took over {within_s:g} s.", hint="Is a file of it broken?"
        ) from None
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
    return process.returncode or 0, out, said


def _sentence(text: str) -> str:
    """Let a text begin like a sentence, and keep names as they are."""
    return text[:1].upper() + text[1:] if text[:3] in ("it ", "its", "loo", "loa") else text
