"""What live tests share: servers, started once and left whole by every test, and places for ledgers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.ledger_places import ledger_place as ledger_place
from tests.postgres import postgres as postgres
from tests.postgres import postgres_cluster as postgres_cluster
from tests.serving import Served, serving


@pytest.fixture(scope="session")
def mirror(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Serve the service that says back what it was told."""
    with serving("mirror", tmp_path_factory.mktemp("mirror") / "state", is_cold=True) as served:
        yield served
