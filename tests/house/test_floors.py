"""The house stands: imports go down only, modules stay of a size that can be read, assert is for tests."""

from __future__ import annotations

import ast
import io
import subprocess
import sys
import tokenize
from pathlib import Path

import pytest

from tests.serving import ROOT

SOURCE = ROOT / "src" / "nightproof"
MODULES = sorted(SOURCE.rglob("*.py"))
MOST_LINES = 600
_NO_CODE = {
    tokenize.COMMENT,
    tokenize.NL,
    tokenize.NEWLINE,
    tokenize.INDENT,
    tokenize.DEDENT,
    tokenize.ENDMARKER,
}


def name_of(path: Path) -> str:
    """Name a module for the test's report."""
    return str(path.relative_to(SOURCE))


def lines_of_code(text: str) -> int:
    """Count the lines that do something: no blank ones, no comments, no docstrings."""
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in _NO_CODE:
            lines.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            lines -= set(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return len(lines)


def test_imports_go_down_the_floors_only():
    program = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True))"

    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=100, check=False
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_module_can_be_read_in_one_sitting_and_says_what_it_promises(path: Path):
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)

    assert lines_of_code(text) <= MOST_LINES
    if text.strip():
        assert ast.get_docstring(tree), "a module begins by saying what it is for"


def test_assert_is_for_tests():
    found = [
        f"{name_of(path)}:{node.lineno}"
        for path in MODULES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Assert)
    ]

    assert found == []


def test_nothing_is_put_off_in_the_source():
    words = ("TO" + "DO", "FIX" + "ME", "XX" + "X")
    found = [
        f"{name_of(path)}:{number}"
        for path in MODULES
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if any(word in line for word in words)
    ]

    assert found == [], "open an issue, or write a decision page"


def test_only_the_clock_reads_the_time():
    found = []
    for path in MODULES:
        if path.name == "clock.py":
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            called = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
            if called in {
                "time.time",
                "time.monotonic",
                "time.perf_counter",
                "datetime.now",
                "datetime.utcnow",
            }:
                found.append(f"{name_of(path)}:{node.lineno}")  # type: ignore[attr-defined]

    assert found == []
