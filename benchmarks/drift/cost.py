"""What watching costs: the same wide service with the drift watch off and on, in turns."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as arrow
import pyarrow.parquet as parquet

from benchmarks import envelopes, load, machine, ours
from benchmarks.systems import Running
from nightproof.watch.drift import measures
from nightproof.watch.drift.wire import Row

FEATURES = 100
REFERENCE_ROWS = 5_000
CONNECTIONS = 64
_NAMES = [f"f{place}" for place in range(FEATURES)]
_SERVICE = """
from pydantic import BaseModel, create_model

from nightproof import Confidence, Model, Service

Wide = create_model("Wide", **{f"f{place}": (float, ...) for place in range(%d)})


class Answer(BaseModel):
    label: bool
    confidence: Confidence


class Sum(Model[Wide, Answer]):
    def predict(self, batch: list[Wide]) -> list[Answer]:
        return [Answer(label=one.f0 > 0, confidence=0.9) for one in batch]


service = Service("wide", model=Sum, deadline_ms=2_000)
"""


@dataclass(frozen=True)
class Cost:
    """Throughput and memory with the watch off and on."""

    off_per_s: float
    on_per_s: float
    """Each the mean of two turns."""
    rounds: list[tuple[float, float]]
    off_us: float
    on_us: float
    """CPU of all processes per answer: what a busy machine disturbs least."""
    off_server_mb: float
    on_server_mb: float
    child_mb: float
    child_cores: float
    """CPU of the drift child while the load ran."""
    rows_watched: int
    us_per_row: float
    """In the child, all features, measured alone."""
    others_cores: float

    @property
    def share(self) -> float:
        """Throughput lost to watching."""
        return 1 - self.on_per_s / self.off_per_s

    @property
    def added_mb(self) -> float:
        """Memory added by watching."""
        return self.child_mb + max(0.0, self.on_server_mb - self.off_server_mb)


def make_service(folder: Path) -> Path:
    """Write a service with a hundred numbers, and its reference."""
    home = folder / "wide"
    home.mkdir(parents=True, exist_ok=True)
    (home / "service.py").write_text(_SERVICE % FEATURES)
    rng = np.random.default_rng(1)
    table = {name: rng.normal(size=REFERENCE_ROWS) for name in _NAMES}
    parquet.write_table(arrow.table(table), home / "reference.parquet")
    return home


def _wide(record: envelopes.Record) -> bytes:
    chance = random.Random(str(sorted(record.items())))
    return envelopes.plain({name: round(chance.gauss(0, 1), 4) for name in _NAMES})


def _child_of(server: Running) -> int:
    for pid in server.pids():
        try:
            if b"nightproof.watch.drift.child" in Path(f"/proc/{pid}/cmdline").read_bytes():
                return pid
        except OSError:
            continue
    return 0


def _mb(pid: int) -> float:
    found = machine.processes().get(pid)
    return found.rss_bytes / 1e6 if found else 0.0


def measure(results: Path, *, seconds: float, rounds: int) -> Cost:
    """Load both in turns and read what they did."""
    home = make_service(results)
    pairs: list[tuple[float, float]] = []
    spent: list[tuple[float, float]] = []
    child_mb = child_cores = others = 0.0
    rows = 0
    with (
        ours.serve("wide", results, "--set", "drift.watch=false", served=home, envelope=_wide) as off,
        ours.serve("wide", results, served=home, envelope=_wide) as on,
    ):
        load.drive(on, CONNECTIONS, 5, warm_up_s=1, quiet_s=0)  # the profile is made and the child is there
        for _ in range(rounds):
            before = load.drive(off, CONNECTIONS, seconds, warm_up_s=1, quiet_s=0)
            child = _child_of(on)
            spent_s = machine.own_cpu_s(child) if child else 0.0
            found = load.drive(on, CONNECTIONS, seconds, warm_up_s=1, quiet_s=0)
            if child:
                child_cores = (machine.own_cpu_s(child) - spent_s) / (seconds + 1)
                child_mb = max(child_mb, _mb(child))
            pairs.append((before.good_per_s, found.good_per_s))
            spent.append((before.tree_us, found.tree_us))
            others = max(others, before.others_cores, found.others_cores)
        rows = int(ours.drift_rows(on))
        off_mb, on_mb = _mb(off.pid), _mb(on.pid)
    return Cost(
        off_per_s=sum(one for one, _ in pairs) / rounds,
        on_per_s=sum(one for _, one in pairs) / rounds,
        rounds=pairs,
        off_us=sum(one for one, _ in spent) / rounds,
        on_us=sum(one for _, one in spent) / rounds,
        off_server_mb=off_mb,
        on_server_mb=on_mb,
        child_mb=child_mb,
        child_cores=child_cores,
        rows_watched=rows,
        us_per_row=us_per_row(),
        others_cores=others,
    )


def us_per_row() -> float:
    """Measure what one row of a hundred numbers costs the child, in batches of a quarter second."""
    import time

    from benchmarks.drift import truth

    rng = np.random.default_rng(2)
    records = [dict(zip(_NAMES, row, strict=True)) for row in rng.normal(size=(1_000, FEATURES)).tolist()]
    schema = {"properties": {name: {"type": "number"} for name in _NAMES}}
    reader = measures.Reader(truth.profile_of(records * 3, schema))
    batch = [Row(envelopes.plain(record)) for record in records[:125]]
    began = time.perf_counter()
    for _ in range(20):
        reader.codes(measures.parse(batch))
    return (time.perf_counter() - began) / (20 * len(batch)) * 1e6
