"""Make the folders that stages serve: the user's own, with a model that misbehaves on cue.

The user's folder is read and never written. What is made lies in the stage and goes with it.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_WRITTEN = "service_as_written.py"
_LEFT_OUT = ("__pycache__", "*.pyc", ".*")
_SERVICE = '''"""A service as it was written, with a model that misbehaves on cue. Made by `nightproof drill`."""

import importlib.util
import json
import sys
from pathlib import Path

from nightproof import ChatService, Service
from nightproof.drills.misbehave import wrap

_spec = importlib.util.spec_from_file_location("service", Path(__file__).parent / "{written}")
_module = importlib.util.module_from_spec(_spec)
# Under the name that the user's file has when it is served: pickles of the model may ask for it.
sys.modules["service"] = _module
_spec.loader.exec_module(_module)
_found = {{name: value for name, value in vars(_module).items() if isinstance(value, Service | ChatService)}}
service = wrap(_found.get("service") or next(iter(_found.values())), {cue!r}, json.loads({declares!r}))
'''


def make_folder(
    source: Path, target: Path, *, cue_file: Path, declares: Mapping[str, Any] | None = None, note: str = ""
) -> Path:
    """Copy a service folder and wrap its model; `declares` changes what it declares, `note` makes it another one."""
    shutil.copytree(source, target, ignore=shutil.ignore_patterns(*_LEFT_OUT))
    for name, content in dict((declares or {}).get("files", {})).items():
        (target / name).write_text(content.replace("{cue!r}", repr(str(cue_file))), encoding="utf-8")
    if declares is not None and declares.get("output_checks") == []:
        _drop_answers(target / "golden.jsonl")
    (target / "service.py").rename(target / _WRITTEN)
    text = _SERVICE.format(written=_WRITTEN, cue=str(cue_file), declares=json.dumps(dict(declares or {})))
    (target / "service.py").write_text(text + (f"\n# {note}\n" if note else ""), encoding="utf-8")
    return target


def _drop_answers(golden: Path) -> None:
    """Take out the golden cases of a chat service that are about answers: their checks are taken out too."""
    if golden.is_file():
        lines = golden.read_text("utf-8").splitlines()
        kept = [line for line in lines if line.strip() and "answer" not in json.loads(line)["input"]]
        golden.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")


def set_cue(file: Path, cue: Mapping[str, Any] | None) -> None:
    """Tell the model of a folder what to do from now on; None: nothing but its work."""
    if cue is None:
        file.unlink(missing_ok=True)
        return
    beside = file.with_name(f".{file.name}.new")
    beside.write_text(json.dumps(dict(cue)), encoding="utf-8")
    os.replace(beside, file)
