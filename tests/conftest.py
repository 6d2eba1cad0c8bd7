"""What tests of all kinds share: real servers on real service folders."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.serving import ROOT, Served, cool_down, serving


@pytest.fixture(scope="session")
def served_credit(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Serve the credit example, built by `make setup`."""
    folder = ROOT / "examples" / "credit"
    assert (folder / "artifacts" / "model.joblib").exists(), "run `make setup`: it builds the examples"
    with serving(folder, tmp_path_factory.mktemp("credit") / "state", is_cold=True) as served:
        yield served


@pytest.fixture(scope="session")
def shared_faulty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Serve the service that misbehaves on cue, for tests that leave it whole."""
    with serving("faulty", tmp_path_factory.mktemp("faulty") / "state", is_cold=True) as served:
        yield served


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """Name a state folder that does not exist yet."""
    return tmp_path / "state"


_STARTS = re.compile(r"\b(?:serving|run_nightproof)\(")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that start most processes: a long one at the end would keep one core waiting."""
    starts = {path: len(_STARTS.findall(path.read_text())) for path in {item.path for item in items}}
    items.sort(key=lambda item: -starts[item.path])


_skipped: list[str] = []


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Note each skipped test."""
    if report.skipped and not hasattr(report, "wasxfail"):
        _skipped.append(report.nodeid)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """In CI a skip is a failure: what a test needs, the project's files must install."""
    cool_down()
    if _skipped and os.environ.get("CI") and session.exitstatus == 0:
        print(f"\nskipped in CI, which counts as failed: {', '.join(_skipped)}")
        session.exitstatus = 1
