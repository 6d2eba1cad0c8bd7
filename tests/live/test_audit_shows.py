"""What the audit log promises, shown on real servers as an operator and an auditor would see it."""

from __future__ import annotations

import json
import re
import shutil
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.callers import Asker
from tests.postgres import Postgres
from tests.serving import Served, make_key, run_nightproof, serving

MIXED = [
    {"text": "a good one"},
    {"text": "unusual", "size": 1_000.0},
    {"text": 7},
    {"text": "forbidden"},
    [{"text": "two"}, {"text": "in one"}],
    [{"text": "half good"}, {"wrong": 1}],
]


def ask_mixed(served: Served, count: int) -> int:
    """Send mixed requests over eight connections; return how many were acknowledged, whatever the answer."""

    def some(first: int) -> int:
        asker = Asker(served)
        try:
            return sum(
                asker.ask(MIXED[number % len(MIXED)]).status in (200, 422)
                for number in range(first, count, 8)
            )
        finally:
            asker.close()

    with ThreadPoolExecutor(8) as threads:
        return sum(threads.map(some, range(8)))


def verify(state: Path, *more: str) -> tuple[int, dict[str, Any]]:
    """Run `audit verify` as an auditor would; return its exit code and what it says."""
    done = run_nightproof("audit", "verify", "--state", str(state), "--json", *more)
    assert done.returncode in (0, 1), done.stderr
    return done.returncode, json.loads(done.stdout)


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state folder with ten thousand mixed requests, its server stopped."""
    state = tmp_path_factory.mktemp("kept") / "state"
    with serving("mirror", state) as served:
        assert ask_mixed(served, 10_000) == 10_000
        assert served.predict({"text": "the last"}).status_code == 200
        assert served.stop() == 0
    return state


@pytest.fixture
def copied(kept: Path, tmp_path: Path) -> Path:
    """A copy of that folder, to be tampered with."""
    return Path(shutil.copytree(kept, tmp_path / "state", ignore=shutil.ignore_patterns("*.sock")))


def test_verify_says_how_many_records_the_root_and_that_all_hold(kept: Path):
    code, told = verify(kept)

    assert code == 0
    assert told["records"] >= 10_000
    assert len(told["root"]) in (44, 64)
    assert told["ok"] is True


def flip(name: str) -> Callable[[sqlite3.Connection], None]:
    """Change one byte in the middle of a column of record 5,000."""

    def change(db: sqlite3.Connection) -> None:
        (old,) = db.execute(f"SELECT {name} FROM entries WHERE seq = 5000").fetchone()
        if isinstance(old, bytes):
            at = len(old) // 2
            new: Any = old[:at] + bytes([old[at] ^ 1]) + old[at + 1 :]
        elif isinstance(old, str):
            new = old[:-1] + chr(ord(old[-1]) ^ 1)
        else:
            new = old ^ 1
        db.execute(f"UPDATE entries SET {name} = ? WHERE seq = 5000", (new,))

    return change


def swap(db: sqlite3.Connection) -> None:
    """Swap two records."""
    for old, new in ((5000, -1), (5001, 5000), (-1, 5001)):
        db.execute("UPDATE entries SET seq = ? WHERE seq = ?", (new, old))


def delete(db: sqlite3.Connection) -> None:
    """Take one record out."""
    db.execute("DELETE FROM entries WHERE seq = 5000")


@pytest.mark.parametrize(
    "change",
    [flip("leaf"), flip("payload"), flip("at_us"), flip("service"), flip("id"), swap, delete],
    ids=["leaf", "payload", "time", "service", "id", "swapped", "deleted"],
)
def test_verify_names_a_record_that_was_tampered_with(
    copied: Path, change: Callable[[sqlite3.Connection], None]
):
    with sqlite3.connect(copied / "ledger.db") as db:
        change(db)
    db.close()

    code, told = verify(copied)

    assert code == 1
    assert told["ok"] is False
    assert told["first_bad"]["seq"] == 5000, told


def test_verify_finds_a_tail_that_was_cut_off_even_with_its_checkpoints(copied: Path):
    with sqlite3.connect(copied / "ledger.db") as db:
        (size,) = db.execute("SELECT max(seq) + 1 FROM entries").fetchone()
        db.execute("DELETE FROM entries WHERE seq >= ?", (size - 10,))
        db.execute("DELETE FROM checkpoints WHERE size > ?", (size - 10,))
    db.close()

    code, told = verify(copied)

    assert code == 1
    assert "checkpoint.note" in json.dumps(told)


def test_a_proof_file_verifies_with_only_the_public_key(kept: Path, tmp_path: Path):
    found = run_nightproof(
        "audit", "search", "--state", str(kept), "--limit", "1", "--kind", "request", "--json"
    )
    (one,) = json.loads(found.stdout)["records"]
    proof = tmp_path / "proof"
    made = run_nightproof("audit", "prove", one["id"], "--state", str(kept), "-o", str(proof))
    assert made.returncode == 0, made.stderr
    vkey = (kept / "ledger.vkey").read_text().strip()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()

    good = run_nightproof("audit", "check-proof", str(proof), "--key", vkey, cwd=elsewhere)
    text = proof.read_text()
    at = text.index("\n") + 1
    spoilt = re.sub(r"[A-Za-z0-9+/]{43}=", lambda found: "A" * 43 + "=", text, count=1)
    assert spoilt != text, text[:at]
    proof.write_text(spoilt)
    bad = run_nightproof("audit", "check-proof", str(proof), "--key", vkey, cwd=elsewhere)

    assert good.returncode == 0, good.stderr
    assert one["id"] in good.stdout
    assert bad.returncode == 1


def test_an_erased_subject_is_gone_from_every_file_and_the_log_still_verifies(tmp_path: Path):
    state = tmp_path / "state"
    secret = "the note that nobody may find"
    with serving("clinic", state) as served:
        mine = served.predict({"patient": "Ada Lovelace", "note": secret, "age": 36}).json()["id"]
        other = served.predict({"patient": "Grace Hopper", "note": "hers stays", "age": 85}).json()["id"]
        refused = served.predict({"patient": "Ada Lovelace", "note": secret, "age": 999})
        assert refused.status_code == 422
        erased = run_nightproof("audit", "erase", "--subject", "Ada Lovelace", "--yes", "--state", str(state))
        assert erased.returncode == 0, erased.stderr
        shown = run_nightproof("audit", "show", mine, "--reveal", "--state", str(state))
        also = run_nightproof("audit", "show", other, "--reveal", "--state", str(state))
        backup = Path(shutil.copytree(state, tmp_path / "backup", ignore=shutil.ignore_patterns("*.sock")))
        again = served.predict({"patient": "Ada Lovelace", "note": "a new one", "age": 36})
        assert served.stop() == 0

    assert shown.returncode == 0, shown.stderr
    assert "erased" in shown.stdout
    assert secret not in shown.stdout
    assert "hers stays" in also.stdout
    assert again.status_code == 200, "an erased person may come again"
    for place in (state, backup):
        for file in place.rglob("*"):
            if file.is_file():
                found = file.read_bytes()
                assert secret.encode() not in found, file
                assert b"Ada Lovelace" not in found, file
        assert verify(place)[0] == 0


def test_two_gateways_write_one_log_on_postgresql(postgres: Postgres, tmp_path: Path):
    env = {"NIGHTPROOF_LEDGER_URL": postgres.url, "NIGHTPROOF_MASTER_KEY": "A" * 43 + "="}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in env.items():
            patch.setenv(name, value)
        with serving("mirror", tmp_path / "one") as one, serving("mirror", tmp_path / "two") as two:
            with ThreadPoolExecutor(2) as threads:
                acknowledged = list(threads.map(lambda served: ask_mixed(served, 1_000), (one, two)))
            key = make_key(tmp_path / "one")
            assert key
            code_while_running, _ = verify(tmp_path / "one")
            assert (one.stop(), two.stop()) == (0, 0)
        code, told = verify(tmp_path / "two")

    assert acknowledged == [1_000, 1_000]
    assert (code_while_running, code) == (0, 0)
    assert told["records"] >= 2_000
