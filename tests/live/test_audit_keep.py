"""What is destroyed is gone: by erasure, by time; and what a hold keeps, stays."""

from __future__ import annotations

import asyncio
import hmac
import json
import os
from hashlib import sha256
from pathlib import Path
from typing import Any

from nightproof.audit.vault import Vault
from nightproof.base.clock import utc_us
from nightproof.drills.stage import SHIM
from nightproof.settings.load import load
from nightproof.steer import keep
from nightproof.steer.archive import archive_of
from nightproof.steer.clockwatch import ClockWatch, Reading
from nightproof.storage.ledger_store import LedgerReader
from nightproof.storage.master_key import read_master_key
from nightproof.storage.statefolder import StateFolder
from nightproof.storage.vault_store import VaultStore
from tests.callers import entries_of, leaf_of
from tests.serving import Served, run_nightproof, serving, wait_until

MARK = "unforgettable-7c1e"
YEAR_US = 365 * 86_400 * 1_000_000
NO_WAIT = {"NIGHTPROOF_RETENTION_EVERY_S": "86400"}


def sealed_payloads(state: Path) -> dict[str, bytes]:
    """Return the sealed contents by request id, as they stand in the ledger."""
    reader = LedgerReader(state / "ledger.db")
    try:
        return {one.id: one.payload for one in reader.all_entries() if one.payload and one.kind == "request"}
    finally:
        reader.close()


def bytes_in(state: Path) -> bytes:
    """Return every byte of the databases and what lies beside them."""
    return b"".join(one.read_bytes() for one in sorted(state.rglob("*")) if one.is_file())


def ask(served: Served, patient: str, **headers: str) -> str:
    """Ask about somebody; return the request's id."""
    answer = served.predict({"patient": patient, "note": MARK, "age": 40}, **headers)
    assert answer.status_code == 200, answer.text
    return answer.headers["x-request-id"]


def shown(state: Path, request_id: str) -> list[dict[str, Any]]:
    """Return what an auditor sees under an id, sensitive fields too."""
    done = run_nightproof("audit", "show", request_id, "--reveal", "--json", "--state", str(state))
    assert done.returncode == 0, done.stderr
    told: list[dict[str, Any]] = json.loads(done.stdout)
    return told


def test_contents_past_their_time_are_gone_from_file_and_log(state: Path):
    with serving("clinic", state, env=NO_WAIT) as served:
        ids = [ask(served, f"p{number}") for number in range(30)]
        before = sealed_payloads(state)
        (state / "declared.json").write_text(
            '{"keep_days": {"clinic": 0}}'
        )  # as a service that is served no longer declared it
        assert served.stop() == 0
    with serving("ward", state, env=NO_WAIT) as served:
        told = served.operate("POST", "/admin/audit/expire", {})
        after = bytes_in(state)
        assert served.stop() == 0

    assert told.json()["dropped"] == {"clinic": 30}
    assert set(before) == set(ids)
    assert [one for one in ids if before[one][40:] in after] == [], "not in the file, nor in its log"
    assert (state / "ledger.db-wal").exists() is False, "a clean stop leaves no log behind"
    assert shown(state, ids[0])[0]["content_state"] == "expired"
    assert run_nightproof("audit", "verify", "--state", str(state)).returncode == 0


def test_a_clock_that_jumps_ahead_destroys_nothing_until_somebody_has_looked(state: Path, tmp_path: Path):
    """The server's own look for content past its time, on a machine whose clock was set a year ahead."""
    ahead = tmp_path / "ahead"
    env = {
        "NIGHTPROOF_RETENTION_EVERY_S": "0.2",
        "JUMPING_CLOCK": str(ahead),
        "PYTHONPATH": f"{SHIM}:{os.environ.get('PYTHONPATH', '')}",
    }
    with serving("clinic", state, env=env) as served:
        request_id = ask(served, "p1")
        ahead.write_text(str(400 * 86_400))
        wait_until(lambda: "clock" in {one["name"] for one in unwell(served)})
        wait_until(lambda: jumps_in(state))
        looks = served.metrics()
        assert request_id in sealed_payloads(state), "a year and more later its time is over"
        shown_unwell = run_nightproof("status", "--state", str(state)).stdout
        trusted = served.operate("POST", "/admin/audit/expire", {})
        assert "clock" not in {one["name"] for one in unwell(served)}
        assert served.stop() == 0

    assert len(jumps_in(state)) == 1, "it is said once, not at each look"
    assert abs(jumps_in(state)[0]["ahead_s"] - 400 * 86_400) < 60
    assert 'event="clock_jumped"' in looks
    assert "✗ clock" in shown_unwell
    assert trusted.json()["dropped"] == {"clinic": 1}, trusted.text
    assert request_id not in sealed_payloads(state)
    assert run_nightproof("audit", "verify", "--state", str(state)).returncode == 0


def unwell(served: Served) -> list[dict[str, Any]]:
    """Return the components that are not well."""
    return [one for one in served.status()["components"] if not one["ok"]]


def jumps_in(state: Path) -> list[dict[str, Any]]:
    """Return what the log says of jumps of the clock."""
    told = [leaf_of(one) for one in entries_of(state) if one.kind == "server"]
    return [one for one in told if one["event"] == "clock_jumped"]


def test_a_hold_keeps_contents_until_it_ends(state: Path):
    with serving("clinic", state, env=NO_WAIT) as served:
        request_id = ask(served, "p1")
        held = served.operate("POST", "/admin/audit/hold", {"service": "clinic", "reason": "case 7"})
        assert held.status_code == 200, held.text
        assert served.stop() == 0
    (state / "declared.json").write_text('{"keep_days": {"clinic": 0}}')
    with serving("ward", state, env=NO_WAIT) as served:
        kept = served.operate("POST", "/admin/audit/expire", {}).json()
        assert request_id in sealed_payloads(state)
        served.operate("POST", "/admin/audit/unhold", {"service": "clinic"})
        dropped = served.operate("POST", "/admin/audit/expire", {}).json()
        assert served.stop() == 0

    assert (kept["held"], kept["dropped"]) == (["clinic"], {})
    assert dropped["dropped"] == {"clinic": 1}
    assert request_id not in sealed_payloads(state)


def test_a_repeated_and_a_conflicting_request_leave_no_copy_that_an_erasure_misses(state: Path):
    with serving("clinic", state, env=NO_WAIT) as served:
        first = ask(served, "Ada", idempotency_key="k1")
        again = served.predict({"patient": "Ada", "note": MARK, "age": 40}, idempotency_key="k1")
        other = served.predict({"patient": "Ada", "note": MARK, "age": 41}, idempotency_key="k1")
        assert (again.status_code, other.status_code) == (200, 422)
        assert served.operate("POST", "/admin/audit/erase", {"subject": "Ada"}).status_code == 200
        assert served.stop() == 0

    for request_id in (first, again.headers["x-request-id"], other.headers["x-request-id"]):
        assert MARK not in json.dumps(shown(state, request_id))
        assert "Ada" not in json.dumps(shown(state, request_id))


def test_a_vault_from_a_backup_does_not_bring_an_erased_person_back(state: Path):
    with serving("clinic", state, env=NO_WAIT) as served:
        request_id = ask(served, "Ada")
        assert served.stop() == 0
    backup = (state / "vault.db").read_bytes()
    with serving("clinic", state, env=NO_WAIT) as served:
        served.operate("POST", "/admin/audit/erase", {"subject": "Ada"})
        assert served.stop() == 0
    (state / "vault.db").write_bytes(backup)
    payload = sealed_payloads(state)[request_id]
    restored = VaultStore(state / "vault.db")
    vault = Vault(restored, read_master_key({}, state), now_us=utc_us())
    was_back = vault.open(payload, entry_id=request_id, kind="request")
    restored.close()

    with serving("clinic", state, env=NO_WAIT) as served:
        assert served.stop() == 0

    assert MARK.encode() in b"".join(part or b"" for part in was_back.parts.values()), (
        "the backup held the key"
    )
    assert MARK not in json.dumps(shown(state, request_id))


def test_content_past_its_time_goes_without_a_server_too(state: Path):
    with serving("clinic", state, env=NO_WAIT) as served:
        request_id = ask(served, "p1")
        assert served.stop() == 0
    declared = json.loads((state / "declared.json").read_text())
    assert declared["keep_days"]["clinic"] > 180
    (state / "declared.json").write_text(json.dumps({**declared, "keep_days": {"clinic": 0}}))

    done = run_nightproof("audit", "expire", "--state", str(state), "--json")

    assert json.loads(done.stdout)["dropped"] == {"clinic": 1}, done.stderr
    assert request_id not in sealed_payloads(state)
    assert run_nightproof("audit", "verify", "--state", str(state)).returncode == 0


def test_nothing_is_destroyed_by_a_clock_that_jumped_ahead_until_somebody_has_looked(state: Path):
    with serving("clinic", state, env=NO_WAIT) as served:
        request_id = ask(served, "p1")
        assert served.stop() == 0
    clocks = [Reading(utc_us(), 100.0)]

    async def expire_twice() -> tuple[keep.Expired | None, bool, keep.Expired | None]:
        settings = load(None, {}, {"state": state})
        async with archive_of(settings, StateFolder.open(state)) as archive:
            watch = ClockWatch(lambda: clocks[-1])
            clocks.append(Reading(clocks[0].wall_us + 10 * YEAR_US, 200.0))
            first = await keep.expire_by_clock(archive, watch, {"clinic": 0})
            is_there = request_id in sealed_payloads(state)
            watch.trust()
            return first, is_there, await keep.expire_by_clock(archive, watch, {"clinic": 0})

    first, is_there, second = asyncio.run(expire_twice())

    assert first is None
    assert is_there
    assert second is not None
    assert second.dropped == {"clinic": 1}


def test_a_leaf_holds_nothing_by_which_a_body_could_be_guessed(state: Path):
    body = {"patient": "Ada", "note": MARK, "age": 40}
    with serving("clinic", state, env=NO_WAIT) as served:
        request_id = ask(served, "Ada", idempotency_key="k1")
        assert served.stop() == 0
    reader = LedgerReader(state / "ledger.db")
    (entry,) = reader.by_id(request_id)
    reader.close()

    facts = json.loads(entry.leaf)
    guesses = [json.dumps(body, separators=form).encode() for form in ((",", ":"), (", ", ": "))]
    digests = {
        sha256(prefix + guess).hexdigest() for guess in guesses for prefix in (b"", b"native\0", b"predict\0")
    }
    assert "idem" in facts
    assert (
        facts["idem"]
        != hmac.digest(b"nightproof idempotency", f"{facts['key']}\0clinic\0k1".encode(), "sha256").hex()
    ), "it is keyed"
    assert not {name for name, value in facts.items() if str(value) in digests or name == "idem_body"}
