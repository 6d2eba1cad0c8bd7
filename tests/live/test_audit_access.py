"""Who looks is recorded, whatever the look finds; what is sensitive stays masked, whoever declared it and wherever."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.callers import entries_of, leaf_of
from tests.serving import Served, make_key, run_nightproof, serving

SECRET = "refuse-7c1e-unspeakable"


def looks_in(state: Path) -> list[dict[str, Any]]:
    """Return what the log says of who looked at it."""
    return [leaf_of(entry) for entry in entries_of(state) if entry.kind == "access"]


def ask_as(served: Served, token: str, verb: str, body: Any) -> httpx.Response:
    """Ask an audit route over the network with a key."""
    headers = {"authorization": f"Bearer {token}"}
    return served.client.post(f"/admin/audit/{verb}", json=body, headers=headers)


def test_each_page_of_an_export_is_recorded_wherever_it_begins(state: Path):
    """An auditor who makes up a cursor must not read unseen."""
    with serving("clinic", state) as served:
        for number in range(5):
            served.predict({"patient": f"p{number}", "note": "n", "age": 4})
        made = run_nightproof("keys", "create", "--role", "audit", "--state", str(state), "--json")
        token, key_id = json.loads(made.stdout)["key"], json.loads(made.stdout)["id"]
        first = ask_as(served, token, "export", {"asked": {"most": 2, "kind": "request"}, "content": True})
        after = first.json()["next"]
        second = ask_as(
            served,
            token,
            "export",
            {"asked": {"most": 2, "kind": "request", "after": after}, "content": True},
        )
        assert len(second.json()["records"]) == 2
        assert served.stop() == 0

    exports = [one for one in looks_in(state) if one["act"] == "audit.export"]
    assert [one["asked"].get("after") for one in exports] == [None, after]
    assert [one["who"] for one in exports] == [key_id, key_id]


def test_a_look_for_what_is_not_there_is_recorded_too(state: Path):
    with serving("mirror", state) as served:
        token = make_key(state, "audit")
        found = ask_as(served, token, "show", {"id": "0" * 11 + "-" + "0" * 20, "reveal": True})
        none = ask_as(served, token, "search", {"failure": "model_crash"})
        assert served.stop() == 0

    assert found.status_code == 404, found.text
    assert none.json()["records"] == []
    assert [one["act"] for one in looks_in(state)] == ["audit.show", "audit.search"]
    assert looks_in(state)[0]["asked"] == {"id": "0" * 11 + "-" + "0" * 20, "reveal": True}


def test_an_auditors_key_reads_and_does_nothing_else(state: Path):
    with serving("mirror", state) as served:
        token = make_key(state, "audit")
        told = {
            verb: ask_as(served, token, verb, body).status_code
            for verb, body in {
                "erase": {"subject": "Ada"},
                "hold": {"reason": "case"},
                "unhold": {},
                "expire": {},
                "rotate": {},
            }.items()
        }
        asked = served.client.post(
            f"/services/{served.service}/predict",
            json={"text": "a"},
            headers={"authorization": f"Bearer {token}"},
        )
        keyless = httpx.post(f"{served.base_url}/admin/audit/search", json={})
        caller = ask_as(served, served.key, "search", {})
        assert served.stop() == 0

    assert set(told.values()) == {403}, told
    assert asked.status_code == 403
    assert (keyless.status_code, caller.status_code) == (401, 403)


@pytest.fixture
def quoted(tmp_path: Path, state: Path) -> tuple[Path, list[str]]:
    """A stopped server's state: an answered record and one whose refusal quotes the field that may not be seen."""
    with serving("clinic", state) as served:
        good = served.predict({"patient": "Ada", "note": SECRET.replace("refuse", "keep"), "age": 36})
        bad = served.predict({"patient": "Ada", "note": SECRET, "age": 36})
        assert (good.status_code, bad.status_code) == (200, 422), bad.text
        ids = [one.headers["x-request-id"] for one in (good, bad)]
        shown = [run_nightproof("audit", "show", one, "--state", str(state)).stdout for one in ids]
        log = served.log.read_text()
        metrics = served.metrics()
        assert served.stop() == 0
    for text in (*shown, log, metrics):
        assert "7c1e-unspeakable" not in text
    assert "•••" in shown[0]
    assert "Ada" in shown[0], "what is not sensitive is shown"
    return state, ids


def test_a_sensitive_value_is_masked_also_where_a_check_quotes_it(quoted: tuple[Path, list[str]]):
    state, ids = quoted

    masked = run_nightproof("audit", "show", ids[1], "--state", str(state), "--json").stdout
    revealed = run_nightproof("audit", "show", ids[1], "--reveal", "--state", str(state), "--json").stdout

    assert "7c1e-unspeakable" not in masked
    assert "is not taken" in masked, "the rest of what was told is shown"
    assert "7c1e-unspeakable" in revealed
    assert [one["asked"].get("reveal") for one in looks_in(state)] == [False, False, False, True]


def test_records_of_a_release_that_is_served_no_longer_are_masked_as_it_declared(
    quoted: tuple[Path, list[str]],
):
    state, ids = quoted

    with serving("mirror", state) as served:
        told = run_nightproof("audit", "show", ids[0], "--state", str(state), "--json").stdout
        assert served.stop() == 0
    (state / "declared.json").unlink()
    forgotten = json.loads(run_nightproof("audit", "show", ids[0], "--state", str(state), "--json").stdout)

    assert "7c1e-unspeakable" not in told
    assert "Ada" in told
    assert forgotten[0]["content_state"] == "masked"
    assert "Ada" not in json.dumps(forgotten), "where nobody knows what is sensitive, all is masked"


def test_the_readers_verbs_write_nothing_and_work_on_a_copy_that_cannot_be_written(
    quoted: tuple[Path, list[str]], tmp_path: Path
):
    state, ids = quoted
    copy = tmp_path / "copy"
    copy.mkdir()
    for name in ("ledger.db", "ledger.vkey", "checkpoint.note"):
        shutil.copy(state / name, copy / name)
    before = {file.name: file.read_bytes() for file in copy.iterdir()}
    copy.chmod(0o500)
    try:
        ledger, note = str(copy / "ledger.db"), str(copy / "checkpoint.note")
        verified = run_nightproof("audit", "verify", "--ledger", ledger, "--checkpoint", note, cwd=tmp_path)
        proved = run_nightproof("audit", "prove", ids[0], "--ledger", ledger, cwd=tmp_path)
        grown = run_nightproof("audit", "prove", "--from", "2", "--ledger", ledger, cwd=tmp_path)
        (tmp_path / "proof").write_text(grown.stdout)
        key = str(copy / "ledger.vkey")
        checked = run_nightproof("audit", "check-proof", str(tmp_path / "proof"), "--key", key, cwd=tmp_path)
        (tmp_path / "proof").write_text(_spoilt(grown.stdout))
        spoilt = run_nightproof("audit", "check-proof", str(tmp_path / "proof"), "--key", key, cwd=tmp_path)
    finally:
        copy.chmod(0o700)

    assert verified.returncode == 0, verified.stdout + verified.stderr
    assert proved.stdout.startswith("c2sp.org/tlog-proof@v1\n"), proved.stderr
    assert checked.returncode == 0, checked.stderr
    assert "begins with" in checked.stdout
    assert spoilt.returncode == 1
    assert {file.name: file.read_bytes() for file in copy.iterdir()} == before


def _spoilt(proof: str) -> str:
    """Change the first sign of the first hash in a proof."""
    lines = proof.splitlines(keepends=True)
    place = next(at for at, line in enumerate(lines) if re.fullmatch(r"[A-Za-z0-9+/]{43}=\n", line))
    lines[place] = ("B" if lines[place][0] == "A" else "A") + lines[place][1:]
    return "".join(lines)
