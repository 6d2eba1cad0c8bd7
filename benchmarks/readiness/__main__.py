"""`python -m benchmarks.readiness`: the same faults on each system, one after the other, and `docs/readiness.md`.

What was found of a system is kept under `results/readiness`, so that one can be measured again alone (`--only ray`);
the page is written from all that is kept. Each system is started afresh for each drill of its model, processes and
load, so that no drill meets what the one before left.
"""

import argparse
import dataclasses
import os
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import msgspec

from benchmarks import machine
from benchmarks.readiness import adapters, page, places
from benchmarks.systems import HERE, NotRun, Running
from nightproof.base.clock import utc_us
from nightproof.drills.observed import Result
from nightproof.drills.report.report import Target, as_json, make_target_report
from nightproof.drills.target.adapter import Adapter, read_adapter
from nightproof.drills.target.health import HealthPaths
from nightproof.drills.target.place import place_at
from nightproof.drills.target.run import TargetSuite, allow_many_connections, choose
from nightproof.drills.target.scene import TargetDrill

RESULTS = HERE / "results" / "readiness"
_NOT_AS_BEFORE = ("not restored", "could not run")
_LEAVES_NOTHING = ("callers", "network")


class Place:
    """One system that is started again when it must be."""

    def __init__(self, system: places.System, adapter: Adapter, say: Callable[[str, str], None]) -> None:
        self.starts = 0
        self.ready_s = 0.0
        self.paths = HealthPaths()
        self._system = system
        self._adapter = adapter
        self._say = say
        self._stack = ExitStack()
        self._running: Running | None = None

    def drill(self, drill: TargetDrill, *, seed: int) -> Result:
        """Run one drill on the system, started where it does not run."""
        if drill.group not in _LEAVES_NOTHING:
            self.stop()
        running = self._start()
        place = place_at(f"http://127.0.0.1:{running.port}", self._adapter)
        suite = TargetSuite(place, seed=seed, say=self._say, on_result=lambda result: None)
        (result,) = suite.run([drill])
        self.paths = suite.paths
        if result.word in _NOT_AS_BEFORE:
            self.stop()
        return result

    def stop(self) -> None:
        """Stop the system."""
        self._running = None
        self._stack.close()

    def _start(self) -> Running:
        if self._running is None:
            self._running = self._stack.enter_context(places.serve(self._system, RESULTS))
            places.set_key(self._running)
            self.starts += 1
            self.ready_s = self._running.ready_s
        return self._running


def measure(system: places.System, drills: list[TargetDrill], *, seed: int) -> page.Column:
    """Run all drills on one system."""
    adapter = read_adapter(adapters.ADAPTERS / f"{system.adapter or system.name}.toml")
    adapter = msgspec.structs.replace(adapter, crash_command=places.crash_command(system, RESULTS))
    began_us = utc_us()
    place = Place(system, adapter, lambda kind, words: None)
    results: list[Result] = []
    not_run = ""
    loads = [os.getloadavg()[0]]
    try:
        for drill in drills:
            result = place.drill(drill, seed=seed)
            results.append(result)
            loads.append(os.getloadavg()[0])
            print(f"  {result.word}: {result.name} ({result.took_s:.0f} s)  {result.why}", flush=True)
    except NotRun as reason:
        not_run = str(reason).rpartition(" | ")[2]
        print(f"  not run: {not_run}", flush=True)
    finally:
        place.stop()
    target = Target(
        url="http://127.0.0.1",
        adapter=adapter.name,
        health=dataclasses.asdict(place.paths),
        command=f"python -m benchmarks.readiness --only {system.name}",
    )
    made = make_target_report(target, results, deadline_ms=adapter.deadline.ms, seed=seed, began_us=began_us)
    (RESULTS / f"{system.name}.report.json").write_bytes(as_json(made))
    return page.Column(
        name=system.name,
        title=system.title,
        version=places.version_of(system) if not not_run or results else "",
        configured=system.configured,
        not_run=not_run,
        measured=made.began[:16].replace("T", " "),
        starts=place.starts,
        load=round(sum(loads) / len(loads), 1),
        results=results,
    )


def main() -> None:
    """Measure what is asked for, and write the page."""
    names = [system.name for system in places.SYSTEMS]
    parser = argparse.ArgumentParser(prog="python -m benchmarks.readiness", description=__doc__)
    parser.add_argument("--only", action="append", choices=names, help="this system; may be repeated")
    parser.add_argument(
        "--drill", action="append", default=[], help="this drill; the page is then not written"
    )
    parser.add_argument(
        "--page", action="store_true", help="write the page from what is kept, and measure nothing"
    )
    parser.add_argument(
        "--write-adapters", action="store_true", help="write the adapters, and measure nothing"
    )
    parser.add_argument("--seed", type=int, default=1)
    chosen = parser.parse_args()
    if chosen.write_adapters:
        adapters.write()
        return
    RESULTS.mkdir(parents=True, exist_ok=True)
    allow_many_connections()
    if not chosen.page:
        for system in places.SYSTEMS:
            if not chosen.only or system.name in chosen.only:
                print(f"{system.title}", flush=True)
                column = measure(system, choose(chosen.drill), seed=chosen.seed)
                if not chosen.drill:
                    (RESULTS / f"{system.name}.json").write_bytes(msgspec.json.encode(column))
    if chosen.drill:
        return
    columns = [
        msgspec.structs.replace(page.read(RESULTS / f"{system.name}.json"), configured=system.configured)
        for system in places.SYSTEMS
        if (RESULTS / f"{system.name}.json").exists()
    ]
    if not columns:
        sys.exit("Nothing was measured yet.")
    target = Path(__file__).parents[2] / "docs" / "readiness.md"
    target.write_text(page.as_markdown(columns, about=machine.describe()), encoding="utf-8")
    print(f"wrote {target}")


if __name__ == "__main__":
    main()
