"""A PostgreSQL for tests: the one that NIGHTPROOF_TEST_POSTGRES names, or a cluster of our own."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.serving import free_port

psycopg = pytest.importorskip("psycopg")

_STARTS_WITHIN_S = "60"


@dataclass(frozen=True)
class Cluster:
    """A running server: its address, and the command that stops and starts it (None of one that is not ours)."""

    url: str
    control: tuple[str, ...] | None

    def run(self, verb: str) -> None:
        """Stop or start it: `stop -m immediate`, `start`, `restart`."""
        assert self.control is not None
        subprocess.run([*self.control, *verb.split()], check=True, capture_output=True, timeout=90)


@dataclass(frozen=True)
class Postgres:
    """A database of a test's own."""

    url: str
    cluster: Cluster


def _programs() -> Path | None:
    for place in sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True):
        if (place / "initdb").exists():
            return place
    found = shutil.which("initdb")
    return Path(found).resolve().parent if found else None


@pytest.fixture(scope="session")
def postgres_cluster() -> Iterator[Cluster]:
    """Give a running PostgreSQL."""
    given = os.environ.get("NIGHTPROOF_TEST_POSTGRES")
    if given:
        yield Cluster(given, None)
        return
    programs = _programs()
    if programs is None:
        pytest.skip(
            "PostgreSQL is not installed: apt-get install postgresql, or set NIGHTPROOF_TEST_POSTGRES"
        )
    # PostgreSQL does not run as root; Debian's package brings a user for it.
    as_user: tuple[str, ...] = ()
    folder = Path(tempfile.mkdtemp(prefix="nightproof-pg-"))
    if os.geteuid() == 0:
        user = pwd.getpwnam("postgres")
        os.chown(folder, user.pw_uid, user.pw_gid)
        as_user = ("runuser", "-u", "postgres", "--")
    port = free_port()
    data = folder / "data"
    subprocess.run(
        [*as_user, str(programs / "initdb"), "-D", str(data), "-A", "trust", "-U", "nightproof", "--no-instructions"],
        check=True, capture_output=True, timeout=90, cwd=folder,
    )  # fmt: skip
    options = f"-p {port} -h 127.0.0.1 -k {folder} -c max_connections=60"
    control = (
        *as_user, str(programs / "pg_ctl"), "-D", str(data), "-o", options, "-w", "-t", _STARTS_WITHIN_S,
        "-l", str(folder / "log"),
    )  # fmt: skip
    cluster = Cluster(f"postgresql://nightproof@127.0.0.1:{port}/postgres", control)
    cluster.run("start")
    try:
        yield cluster
    finally:
        subprocess.run([*control, "stop", "-m", "immediate"], check=False, capture_output=True, timeout=90)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def postgres(postgres_cluster: Cluster) -> Iterator[Postgres]:
    """Give an empty database, and drop it afterwards."""
    name = f"nightproof_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(postgres_cluster.url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    head, _, _ = postgres_cluster.url.rpartition("/")
    yield Postgres(f"{head}/{name}", postgres_cluster)
    with psycopg.connect(postgres_cluster.url, autocommit=True) as connection:
        connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
