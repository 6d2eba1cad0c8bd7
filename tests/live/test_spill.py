"""A service that says `audit_on_failure="spill"` answers while the ledger takes nothing, and loses no record."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from nightproof.drills.stage import SHIM
from nightproof.storage.spill_file import SpillFile
from tests.callers import entries_of, leaf_of
from tests.serving import Served, run_nightproof, serving

SECRET = 271_828.0
"""A value that must not be readable in the side file."""


def failing(tmp_path: Path, **more: str) -> dict[str, str]:
    """Return the environment of a server whose disk fails on cue."""
    path = f"{SHIM}:{os.environ.get('PYTHONPATH', '')}"
    return {"PYTHONPATH": path.rstrip(":"), "FAILING_DISK": str(tmp_path), **more}


def requests_in(state: Path) -> list[str]:
    """Return the ids of the recorded requests, in the log's order."""
    return [entry.id for entry in entries_of(state) if entry.kind == "request"]


def spills_in(state: Path) -> list[dict[str, Any]]:
    """Return what the log says of merges."""
    return [leaf_of(entry) for entry in entries_of(state) if entry.kind == "spill"]


def spill_some(served: Served, tmp_path: Path, *, count: int) -> list[str]:
    """Fill the ledger's disk and ask; return the ids that were answered, in their order."""
    (tmp_path / "fault").write_text("full")
    answers = [served.predict({"x": SECRET}) for _ in range(count)]
    assert [answer.status_code for answer in answers] == [200] * count
    return [answer.headers["x-request-id"] for answer in answers]


def spilled(state: Path) -> Path:
    """Name the side file."""
    (found,) = state.rglob("spill.log")
    return found


def test_records_are_spilled_and_merged_in_order_once_and_marked(tmp_path: Path, state: Path):
    with serving("ward", state, env=failing(tmp_path)) as served:
        before = served.predict({"x": 1}).headers["x-request-id"]
        ids = spill_some(served, tmp_path, count=12)

        parts = {part["name"]: part for part in served.client.get("/healthz").json().get("components", [])}
        assert b"271828" not in spilled(state).read_bytes(), "it is sealed"
        assert spilled(state).stat().st_size > 0
        assert "nightproof_spilled_bytes 0" not in served.metrics()
        (tmp_path / "fault").unlink()
        served.wait_until(lambda: spilled(state).stat().st_size == 0)
        assert served.stop() == 0

    assert "spill" not in parts or not parts["spill"]["ok"]
    recorded = requests_in(state)
    assert [one for one in recorded if one in ids] == ids, "all of them, once, in their order"
    assert recorded[0] == before
    named = [one for leaf in spills_in(state) for one in leaf["spilled"]]
    assert set(named) <= set(ids)
    assert named, "what came that way is marked"
    shown = run_nightproof("audit", "show", ids[0], "--reveal", "--state", str(state), "--json")
    assert "271828" in shown.stdout, "and its content opens"
    assert run_nightproof("audit", "verify", "--state", str(state)).returncode == 0


def test_a_kill_while_records_are_spilled_loses_none(tmp_path: Path, state: Path):
    with serving("ward", state, env=failing(tmp_path)) as served:
        ids = spill_some(served, tmp_path, count=8)
        served.process.kill()
        served.process.wait(10)
        (tmp_path / "fault").unlink()
        with spilled(state).open("ab") as torn:
            torn.write(b"\0\0\1\0half a frame")

    with serving("ward", state) as again:
        again.wait_until(lambda: spilled(state).stat().st_size == 0)
        assert again.predict({"x": 1}).status_code == 200
        assert again.stop() == 0

    assert [one for one in requests_in(state) if one in ids] == ids
    assert [leaf["torn_bytes"] for leaf in spills_in(state)] == [16]
    assert spilled(state).with_name("spill.torn").read_bytes() == b"\0\0\1\0half a frame"
    assert run_nightproof("audit", "verify", "--state", str(state)).returncode == 0


def test_a_merge_that_was_cut_short_is_finished_without_doubles(tmp_path: Path, state: Path):
    with serving("ward", state, env=failing(tmp_path)) as served:
        ids = spill_some(served, tmp_path, count=6)
        kept = spilled(state).read_bytes()
        (tmp_path / "fault").unlink()
        served.wait_until(lambda: spilled(state).stat().st_size == 0)
        assert served.stop() == 0
    spilled(state).write_bytes(
        kept
    )  # as if the server had been killed after the merge and before the clearing

    with serving("ward", state) as again:
        again.wait_until(lambda: spilled(state).stat().st_size == 0)
        assert again.stop() == 0

    assert sorted(one for one in requests_in(state) if one in ids) == sorted(ids)
    assert spills_in(state)[-1]["passed_over"] >= 1
    assert spills_in(state)[-1]["spilled"] == []


def test_a_full_spill_refuses_and_takes_again_after_the_merge(tmp_path: Path, state: Path):
    with serving("ward", state, env=failing(tmp_path, NIGHTPROOF_LEDGER_SPILL_BYTES="65536")) as served:
        (tmp_path / "fault").write_text("full")
        answers = [served.predict({"x": 1.0}) for _ in range(150)]
        last = answers[-1]

        assert answers[0].status_code == 200
        assert (last.status_code, last.json()["failure"]) == (503, "audit_unavailable")
        (tmp_path / "fault").unlink()
        served.wait_until(lambda: served.predict({"x": 2.0}).status_code == 200)
        served.wait_until(lambda: spilled(state).stat().st_size == 0)
        assert served.stop() == 0

    answered = {one.headers["x-request-id"] for one in answers if one.status_code == 200}
    assert answered <= set(requests_in(state))


def test_an_answer_that_a_key_must_find_again_is_not_spilled(tmp_path: Path, state: Path):
    with serving("ward", state, env=failing(tmp_path)) as served:
        spill_some(served, tmp_path, count=2)
        keyed = served.predict({"x": 3}, idempotency_key="once")
        (tmp_path / "fault").unlink()
        served.wait_until(
            lambda: served.predict({"x": 3}, idempotency_key="once").status_code == 200, within_s=20
        )

    assert (keyed.status_code, keyed.json()["failure"]) == (503, "audit_unavailable")


def test_a_disk_that_is_full_for_every_file_stops_no_spill_also_after_a_rotation_of_keys(
    tmp_path: Path, state: Path
):
    """The side file's own key is there before it is needed: a full disk takes no new one."""
    with serving("ward", state, env=failing(tmp_path)) as served:
        assert served.operate("POST", "/admin/audit/rotate", {}).json()["epoch"] == 2
        served.wait_until(lambda: keys_of_epoch(state, 2) > 0)
        (tmp_path / "fault").write_text("full for all")
        answers = [served.predict({"x": 1.0}) for _ in range(5)]
        (tmp_path / "fault").unlink()
        served.wait_until(lambda: spilled(state).stat().st_size == 0)
        assert served.stop() == 0

    assert [one.status_code for one in answers] == [200] * 5
    assert {one.headers["x-request-id"] for one in answers} <= set(requests_in(state))


def keys_of_epoch(state: Path, number: int) -> int:
    """Count the data keys that are wrapped by a key of keys."""
    with closing(sqlite3.connect(f"file:{state / 'vault.db'}?mode=ro", uri=True)) as db:
        return int(db.execute("SELECT count(*) FROM keys WHERE epoch = ?", (number,)).fetchone()[0])


def test_a_person_erased_while_their_records_wait_in_the_side_file_does_not_come_back(
    tmp_path: Path, state: Path
):
    with serving("ward", state, env=failing(tmp_path)) as served:
        (tmp_path / "fault").write_text("full")
        answer = served.predict({"x": SECRET, "patient": "Ada"})
        assert answer.status_code == 200
        served.process.kill()
        served.process.wait(10)
        (tmp_path / "fault").unlink()
    erased = run_nightproof("audit", "erase", "--subject", "Ada", "--yes", "--state", str(state))
    assert erased.returncode == 0, erased.stderr

    with serving("ward", state) as again:
        again.wait_until(lambda: spilled(state).stat().st_size == 0)
        again.wait_until(lambda: "erase.reapplied" in str(entries_of(state)))
        assert again.stop() == 0

    request_id = answer.headers["x-request-id"]
    shown = run_nightproof("audit", "show", request_id, "--reveal", "--state", str(state), "--json")
    assert "271828" not in shown.stdout
    assert "Ada" not in shown.stdout
    assert run_nightproof("audit", "verify", "--state", str(state)).returncode == 0


# -- the file -----------------------------------------------------------------------------------


@pytest.fixture
def file(tmp_path: Path) -> Iterator[SpillFile]:
    opened = SpillFile(tmp_path)
    yield opened
    opened.close()


def test_frames_come_back_in_order_and_whole(file: SpillFile):
    contents = [b"", b"a", bytes(range(256)) * 300]
    for content in contents:
        file.append(content)

    assert file.frames() == contents
    file.clear()
    assert (file.frames(), file.size_bytes) == ([], 0)


@pytest.mark.parametrize("cut", [1, 7, 8, 9, 20])
def test_a_torn_frame_hides_nothing_that_is_written_behind_it(file: SpillFile, cut: int):
    file.append(b"first")
    whole = file.size_bytes
    file.append(b"second, which the power cut")
    os.truncate(file.path, whole + cut)

    reopened = SpillFile(file.path.parent)
    reopened.append(b"third")

    assert reopened.frames() == [b"first", b"third"]
    assert reopened.torn_bytes == cut
    assert len(file.path.with_name("spill.torn").read_bytes()) == cut
    reopened.close()


def test_a_changed_byte_ends_what_is_read_and_the_rest_is_kept_aside(file: SpillFile):
    file.append(b"first")
    whole = file.size_bytes
    file.append(b"second")
    file.append(b"third")
    with file.path.open("r+b") as spoiled:
        spoiled.seek(whole + 9)
        spoiled.write(b"X")

    assert file.frames() == [b"first"]
    assert b"third" in file.path.with_name("spill.torn").read_bytes()
