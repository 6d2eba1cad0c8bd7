"""What tests of all kinds share: real servers on real service folders."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.serving import ROOT, Served, serving


@pytest.fixture(scope="session")
def served_credit(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Serve the credit example, built by `make setup`."""
    folder = ROOT / "examples" / "credit"
    assert (folder / "artifacts" / "model.joblib").exists(), "run `make setup`: it builds the examples"
    with serving(folder, tmp_path_factory.mktemp("credit") / "state") as served:
        yield served


@pytest.fixture(scope="session")
def shared_faulty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Serve the service that misbehaves on cue, for tests that leave it whole."""
    with serving("faulty", tmp_path_factory.mktemp("faulty") / "state") as served:
        yield served


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """Name a state folder that does not exist yet."""
    return tmp_path / "state"
