"""The child program that opens the user's model and data, and says what service they make.

Run as `python -P -m nightproof.cli.scaffold.probe ANSWER_FILE`, the question on stdin: what the model prints,
leaks or breaks stays in this process.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

import msgspec

from nightproof.base.errors import NightproofError
from nightproof.cli.scaffold.plan import Failed, Plan, Question, Unfit

_PACKAGES = ("pandas", "pyarrow", "numpy")


def answer(question: Question) -> Plan:
    """Plan the service. Raises Unfit, also where the packages for it are missing."""
    missing = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise Unfit(
            f"Reading data needs {' and '.join(missing)}.", hint="Run: pip install 'nightproof[sklearn]'"
        )
    from nightproof.cli.scaffold.planning import plan_service  # only now: it imports pandas

    return plan_service(question)


def main() -> None:
    """Answer one question."""
    question = msgspec.json.decode(sys.stdin.buffer.read(), type=Question)
    code, found = 0, b""
    try:
        found = msgspec.json.encode(answer(question))
    except NightproofError as error:
        code, found = 1, msgspec.json.encode(Failed(error.text, error.hint))
    Path(sys.argv[1]).write_bytes(found)
    sys.stderr.flush()
    os._exit(code)  # the model may have left threads or exit hooks that never end


if __name__ == "__main__":
    main()
