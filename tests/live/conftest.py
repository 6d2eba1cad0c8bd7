"""Servers that live tests share: started once, and left whole by every test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.serving import Served, serving


@pytest.fixture(scope="session")
def mirror(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Serve the service that says back what it was told."""
    with serving("mirror", tmp_path_factory.mktemp("mirror") / "state") as served:
        yield served
