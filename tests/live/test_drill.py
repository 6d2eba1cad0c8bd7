"""Drills on a small service: three of them held, and one where every protection is taken away, which says so."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import apsw
import pytest

from nightproof.drills import watchdog
from nightproof.drills.drill import USUAL, Drill
from nightproof.drills.promise import promised
from nightproof.drills.run import Suite, describe_folder
from nightproof.drills.scene import Scene
from nightproof.drills.stage import STAGE_SETTINGS, Setting, Stage
from nightproof.drills.suite import choose
from tests.serving import SERVICES, run_nightproof, wait_until

FOLDER = SERVICES / "last_resort"


def stages(place: Path) -> list[Path]:
    """Return the stages that lie in a folder for temporary files."""
    return list(place.glob("nightproof-drill-*"))


@pytest.mark.timeout(120)
def test_three_drills_run_from_the_command_line_and_leave_nothing_behind(tmp_path: Path):
    before = {path: path.stat().st_mtime_ns for path in FOLDER.rglob("*")}
    page, junit = tmp_path / "report.html", tmp_path / "report.xml"
    config = tmp_path / "mine.toml"
    config.write_text("port = 443\n[limits]\nwait_share = 0.4\nquota_per_s = 1.0\n")

    done = subprocess.run(
        [
            sys.executable, "-m", "nightproof", "drill", str(FOLDER), "--json",
            "--html", str(page), "--junit", str(junit), "--config", str(config),
            "--only", "model_answers_garbage", "--only", "malformed_corpus", "--only", "every_call_has_one_record",
        ],
        capture_output=True, text=True, timeout=110, env={**os.environ, "TMPDIR": str(tmp_path)}, check=False,
    )  # fmt: skip

    told: dict[str, Any] = json.loads(done.stdout)
    words = {one["name"]: (one["word"], one["why"]) for one in told["results"]}
    assert words == dict.fromkeys(words, ("held", "")), words
    assert len(words) == 3
    assert (done.returncode, told["held"]) == (0, True)
    garbage = next(one for one in told["results"] if one["name"] == "model_answers_garbage")
    assert [one["aspect"] for one in garbage["verdicts"]] == ["contained", "recorded", "alerted", "recovered"]
    assert garbage["harm"]["degraded"] > 0
    assert told["own_settings"] == {"limits.wait_share": "0.4"}
    assert told["own_left_out"] == ["server.port", "limits.quota_per_s"]
    assert page.read_text("utf-8").count("<article") >= 3
    assert "limits.wait_share=0.4" in page.read_text("utf-8")
    assert 'failures="0"' in junit.read_text("utf-8")
    assert stages(tmp_path) == []
    assert before == {path: path.stat().st_mtime_ns for path in FOLDER.rglob("*")}


def test_a_stage_is_served_with_the_users_settings_but_for_its_own():
    stage = Stage(FOLDER, USUAL, own_settings={"limits.wait_share": "0.4", "workers.restarts": "7"})
    try:
        command = stage.command()
    finally:
        stage.close()

    assert "limits.wait_share=0.4" in command
    assert f"workers.restarts={STAGE_SETTINGS['workers.restarts']}" in command
    assert "workers.restarts=7" not in command


def _break_everything(scene: Scene) -> None:
    """Have the model fail, and take a record out of the log for good; what should be undone cannot be."""
    with scene.fault():
        scene.undo("what cannot be undone", lambda: 1 / 0)
        scene.misbehave_on_marked("raise", rate_per_s=15.0)
        scene.hold(3.0)
        connection = apsw.Connection(str(scene.stage.state / "ledger.db"))
        connection.set_busy_timeout(5_000)
        connection.execute("DELETE FROM entries WHERE seq = 5")
        connection.close()


@pytest.mark.timeout(120)
def test_a_stage_whose_protections_are_taken_out_falls_short_in_every_verdict():
    """The negative control: no fallback where one is promised, no receiver, a log that was cut, a failing undo."""
    drill = Drill(
        name="control",
        group="model",
        breaks="everything",
        proves=("model_error",),
        promise=lambda declared: promised(declared, "model_error", alert_within_s=3.0),
        act=_break_everything,
        setting=Setting(
            name="without protection",
            declares={"fallbacks": []},
            settings={"notify.webhook": "http://127.0.0.1:9/nobody-listens"},
        ),
    )
    declared = describe_folder(FOLDER, Path("/tmp"))
    suite = Suite(FOLDER, declared, seed=1, say=lambda kind, words: None, on_result=lambda result: None)

    (result,) = suite.run([drill])

    verdicts = {one.aspect: (one.word, one.seen) for one in result.verdicts}
    assert {aspect: word for aspect, (word, _) in verdicts.items()} == {
        "contained": "fell short",
        "recorded": "fell short",
        "alerted": "fell short",
        "recovered": "not restored",
    }
    assert "model_error" in verdicts["contained"][1]
    assert "does not verify" in verdicts["recorded"][1]
    assert "did not arrive" in verdicts["alerted"][1]
    assert "ZeroDivisionError" in verdicts["recovered"][1]
    assert result.word == "not restored"


@pytest.mark.timeout(120)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_drill_that_is_ended_undoes_everything(tmp_path: Path, number: int):
    """By itself where it can; by its watchdog where it was killed."""
    process = subprocess.Popen(
        [sys.executable, "-m", "nightproof", "drill", str(FOLDER), "--only", "worker_killed"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={**os.environ, "TMPDIR": str(tmp_path)},
    )  # fmt: skip
    wait_until(lambda: any((stage / "server.log").exists() for stage in stages(tmp_path)), within_s=60)
    (stage,) = stages(tmp_path)
    began_s = time.monotonic()

    process.send_signal(number)
    process.wait(60)
    wait_until(lambda: not stage.exists(), within_s=30)

    wait_until(lambda: watchdog.processes_of(stage) == [], within_s=30)
    assert time.monotonic() - began_s < 60


def test_the_list_names_every_drill_of_the_catalogue():
    done = run_nightproof("drill", "--list", "--json")

    listed = {one["name"]: one for one in json.loads(done.stdout)}

    assert listed.keys() == {drill.name for drill in choose()}
    assert sum(one["runs"] for one in listed.values()) >= 60
    assert all(one["why_not"] for one in listed.values() if not one["runs"])


def test_what_is_no_drill_is_a_question_of_usage():
    assert run_nightproof("drill", str(FOLDER), "--only", "nonsense").returncode == 2
    assert run_nightproof("drill").returncode == 2
    assert run_nightproof("drill", str(FOLDER), "--soak", "long").returncode == 2
