"""Keys are shown once, found fast, and end when they are told to."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from nightproof.base.errors import StateError
from nightproof.base.roles import ALLOWED, Action, Role, allows
from nightproof.steer import keys
from nightproof.storage.keyring import KeyRecord, Keyring, checksum, is_token, new_token
from nightproof.storage.sqlite import NotFound

NOON_US = 1_800_000_000_000_000
DAY_US = 86_400_000_000


@pytest.fixture
def keyring(tmp_path: Path) -> Iterator[Keyring]:
    opened = Keyring(tmp_path / "keyring.db", tmp_path / "keyring.pepper")
    yield opened
    opened.close()


def test_a_new_key_is_found_by_its_token_and_by_nothing_else(keyring: Keyring):
    record, token = keyring.create(Role.PREDICT, "till 7", ["credit"], now_us=NOON_US)

    assert keyring.find(token, NOON_US) == record
    assert keyring.find(new_token(), NOON_US) is None
    assert record.covers("credit")
    assert not record.covers("fraud")


def test_a_key_without_services_covers_all(keyring: Keyring):
    record, _ = keyring.create(Role.PREDICT, now_us=NOON_US)

    assert record.covers("anything")


def test_the_token_has_prefix_chance_and_checksum():
    token = new_token()

    assert token.startswith("npk_live_")
    assert len(token) == 9 + 32 + 6
    assert token[-6:] == checksum(token[:-6])
    # 0xCBF43926, the check value of CRC-32, in base 62.
    assert checksum("123456789") == "3jZRME"


@pytest.mark.parametrize(
    "spoil",
    [
        lambda token: token[:-1] + ("a" if token[-1] != "a" else "b"),
        lambda token: token[:12] + ("a" if token[12] != "a" else "b") + token[13:],
        lambda token: token.replace("live", "test"),
        lambda token: token + "0",
        lambda token: token[:-1],
        lambda token: token[:-1] + "\u0661",
        lambda token: token[:20] + "\ud800" + token[21:],
        lambda token: "",
    ],
)
def test_a_spoilt_token_fails_before_any_lookup(keyring: Keyring, spoil):
    _, token = keyring.create(Role.PREDICT, now_us=NOON_US)

    assert is_token(token)
    assert not is_token(spoil(token))
    assert keyring.find(spoil(token), NOON_US) is None


def test_a_key_ends_at_its_hour(keyring: Keyring):
    _, token = keyring.create(Role.PREDICT, expires_in=timedelta(days=90), now_us=NOON_US)
    _, lasting = keyring.create(Role.PREDICT, expires_in=None, now_us=NOON_US)

    assert keyring.find(token, NOON_US + 90 * DAY_US - 1) is not None
    assert keyring.find(token, NOON_US + 90 * DAY_US) is None
    assert keyring.find(lasting, NOON_US + 9_000 * DAY_US) is not None


def test_a_revoked_key_is_gone_at_once_and_stays_in_the_list(keyring: Keyring):
    record, token = keyring.create(Role.ADMIN, now_us=NOON_US)

    first = keyring.revoke(record.id, now_us=NOON_US + 5)
    again = keyring.revoke(record.id, now_us=NOON_US + 99)

    assert keyring.find(token, NOON_US + 6) is None
    assert first.revoked_us == again.revoked_us == NOON_US + 5
    assert [one.id for one in keyring.list()] == [record.id]


def test_revoking_what_is_not_there_says_so(keyring: Keyring):
    with pytest.raises(NotFound, match="no key key_nope"):
        keyring.revoke("key_nope")


def test_neither_token_nor_pepper_is_in_the_database(keyring: Keyring, tmp_path: Path):
    _, token = keyring.create(Role.PREDICT, now_us=NOON_US)
    pepper = (tmp_path / "keyring.pepper").read_bytes()

    stored = b"".join(one.read_bytes() for one in tmp_path.glob("keyring.db*"))

    assert token.encode() not in stored
    assert token[9:30].encode() not in stored
    assert pepper not in stored
    assert {oct(one.stat().st_mode & 0o777) for one in tmp_path.iterdir()} == {"0o600"}


def test_keys_survive_a_restart(keyring: Keyring, tmp_path: Path):
    record, token = keyring.create(Role.AUDIT, "auditor", ["a", "b"], now_us=NOON_US)
    keyring.close()

    reopened = Keyring(tmp_path / "keyring.db", tmp_path / "keyring.pepper")
    found = reopened.find(token, NOON_US)
    reopened.close()

    assert found == record


def test_what_another_process_creates_and_revokes_is_seen_within_half_a_second(
    keyring: Keyring, tmp_path: Path
):
    mine, token = keyring.create(Role.PREDICT, now_us=NOON_US)
    keyring.refresh(100.0)

    made = _in_another_process(
        tmp_path, f"keyring.revoke({mine.id!r}); print(keyring.create(Role.ADMIN, now_us={NOON_US})[1])"
    )

    assert not keyring.refresh(100.4)
    assert keyring.find(token, NOON_US) is not None
    assert keyring.refresh(100.5)
    assert keyring.find(token, NOON_US) is None
    assert keyring.find(made, NOON_US) is not None
    assert not keyring.refresh(101.0)


def _in_another_process(folder: Path, act: str) -> str:
    program = (
        "from pathlib import Path\n"
        "from nightproof.base.roles import Role\n"
        "from nightproof.storage.keyring import Keyring\n"
        f"keyring = Keyring(Path({str(folder / 'keyring.db')!r}), Path({str(folder / 'keyring.pepper')!r}))\n"
        f"{act}\nkeyring.close()\n"
    )
    return subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    ).stdout.strip()


def test_the_day_of_the_last_use_is_written_down_once(keyring: Keyring):
    _, token = keyring.create(Role.PREDICT, now_us=NOON_US)
    assert keyring.list()[0].last_used_day == ""

    keyring.find(token, NOON_US)
    keyring.refresh(1.0)

    assert keyring.list()[0].last_used_day == "2027-01-15"
    assert not keyring.refresh(2.0)


def test_a_lost_pepper_is_told_and_not_replaced(keyring: Keyring, tmp_path: Path):
    keyring.create(Role.PREDICT, now_us=NOON_US)
    keyring.close()
    (tmp_path / "keyring.pepper").unlink()

    with pytest.raises(StateError, match="no key can be recognised"):
        Keyring(tmp_path / "keyring.db", tmp_path / "keyring.pepper")

    assert not (tmp_path / "keyring.pepper").exists()


def test_a_pepper_that_others_can_read_is_refused(keyring: Keyring, tmp_path: Path):
    keyring.close()
    (tmp_path / "keyring.pepper").chmod(0o644)

    with pytest.raises(StateError, match="read by other users"):
        Keyring(tmp_path / "keyring.db", tmp_path / "keyring.pepper")


def test_a_file_of_another_program_is_refused(tmp_path: Path):
    other = sqlite3.connect(tmp_path / "keyring.db")
    other.execute("CREATE TABLE theirs(a)")
    other.commit()
    other.close()

    with pytest.raises(StateError, match="database of another program"):
        Keyring(tmp_path / "keyring.db", tmp_path / "keyring.pepper")


@pytest.mark.parametrize(
    ("role", "may", "may_not"),
    [
        (Role.PREDICT, {Action.PREDICT}, {Action.READ_STATUS, Action.READ_AUDIT, Action.KEYS}),
        (
            Role.OPERATE,
            {Action.PREDICT, Action.QUARANTINE, Action.DRAIN},
            {Action.READ_AUDIT, Action.KEYS, Action.ERASE},
        ),
        (Role.AUDIT, {Action.READ_AUDIT}, {Action.PREDICT, Action.QUARANTINE, Action.KEYS}),
        (Role.ADMIN, set(Action), set()),
    ],
)
def test_a_role_allows_its_row_of_the_table(role: Role, may: set[Action], may_not: set[Action]):
    assert all(allows(role, action) for action in may)
    assert not any(allows(role, action) for action in may_not)
    assert set(ALLOWED) == set(Role)


def test_the_operators_verbs_create_list_and_revoke(keyring: Keyring):
    made = keys.create(keyring, role=Role.OPERATE, name="night shift", services=["credit"], expires_in=None)
    listed = keys.list_all(keyring, now_us=NOON_US)
    ended = keys.revoke(keyring, made.id, now_us=NOON_US)

    assert is_token(made.key)
    assert made.key not in repr(made)
    assert [(one.id, one.state, one.name, one.services, one.expires) for one in listed] == [
        (made.id, "active", "night shift", ["credit"], None)
    ]
    assert (ended.state, ended.revoked) == ("revoked", "2027-01-15T08:00:00.000000Z")


def test_the_state_of_a_key_is_told_by_its_times():
    record = KeyRecord(
        id="k",
        name="",
        role=Role.PREDICT,
        services=(),
        created_us=0,
        expires_us=10,
        revoked_us=None,
        last_used_day="",
    )

    assert [keys.state_of(record, now_us) for now_us in (9, 10)] == ["active", "expired"]
