"""The vault on its real file: what is sealed opens again, unless its key was destroyed or another was given."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from hashlib import sha256
from pathlib import Path

import apsw
import pytest

from nightproof.audit.vault import Opened, Part, Sealed, Vault
from nightproof.base.errors import StateError
from nightproof.storage.master_key import VaultLocked
from nightproof.storage.sqlite import StorageOutcomeUnknown, StorageUnavailable
from nightproof.storage.vault_store import Epoch, VaultStore, WrappedKey
from tests.serving import ROOT

MASTER, NEW_MASTER = bytes(range(32)), bytes(range(1, 33))
NOON_US = 1_800_000_000_000_000
DAY_US = 86_400_000_000
CONTENT = b"what nobody else may read"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[VaultStore]:
    """Give a new vault's store; its file is vault.db."""
    with closing(VaultStore(tmp_path / "vault.db")) as opened:
        yield opened


@pytest.fixture
def vault(store: VaultStore) -> Vault:
    """Give a new vault."""
    return Vault(store, MASTER, now_us=NOON_US)


def seal(vault: Vault, *parts: Part, at_us: int = NOON_US, caller: str = "key_1") -> Sealed:
    """Seal parts as one request's content, and keep the keys."""
    sealed = vault.seal(parts, entry_id="id", kind="request", caller=caller, at_us=at_us)
    if sealed.new_keys:
        vault.keep(sealed.new_keys)
    return sealed


def opened(vault: Vault, sealed: Sealed) -> Opened:
    """Open a request's content."""
    return vault.open(sealed.payload, entry_id="id", kind="request")


def bytes_of(folder: Path) -> bytes:
    """Return all bytes of the vault's files: the database and what lies beside it."""
    return b"".join(file.read_bytes() for file in sorted(folder.glob("vault.db*")))


def change(folder: Path, statement: str, *values: bytes) -> None:
    """Change the stored rows behind the vault's back."""
    with closing(apsw.Connection(str(folder / "vault.db"))) as db:
        db.execute(statement, values)


# -- seal and open -----------------------------------------------------------------------------


def test_what_is_sealed_opens_again_also_after_a_restart(store: VaultStore, vault: Vault) -> None:
    person = vault.pseudonym("Ada")
    sealed = seal(vault, Part("content", CONTENT), Part("items/0", b"hers", (person,)), Part("empty", b""))

    for one in (vault, Vault(store, MASTER, now_us=NOON_US + DAY_US)):
        found = opened(one, sealed)
        assert found.parts == {"content": CONTENT, "items/0": b"hers", "empty": b""}
        assert (found.erased, found.unreadable) == (False, False)


def test_nothing_of_the_content_or_of_a_key_in_the_clear_is_on_the_disk_or_in_a_repr(
    tmp_path: Path, vault: Vault
) -> None:
    sealed = seal(vault, Part("content", CONTENT, (vault.pseudonym("Ada"),)))

    assert CONTENT not in sealed.payload
    stored = bytes_of(tmp_path)
    assert MASTER not in stored
    assert CONTENT not in stored
    assert b"Ada" not in stored
    for one in (vault, Part("content", CONTENT), opened(vault, sealed)):
        assert "nobody" not in repr(one)
    assert repr(vault) == "<Vault epoch=1>"


def test_content_opens_only_as_part_of_the_entry_that_it_was_sealed_for(vault: Vault) -> None:
    sealed = seal(vault, Part("content", CONTENT))

    for found in (
        vault.open(sealed.payload, entry_id="another", kind="request"),
        vault.open(sealed.payload, entry_id="id", kind="operator"),
    ):
        assert found.parts == {"content": None}
        assert found.unreadable


def test_a_payload_with_any_byte_changed_gives_nothing_away_and_raises_nothing(vault: Vault) -> None:
    sealed = seal(vault, Part("content", CONTENT, (vault.pseudonym("Ada"), vault.pseudonym("Grace"))))

    for at in range(len(sealed.payload)):
        for bits in (1, 0x80, 0xFF):
            flipped = bytes([sealed.payload[at] ^ bits])
            found = vault.open(
                sealed.payload[:at] + flipped + sealed.payload[at + 1 :], entry_id="id", kind="request"
            )
            assert set(found.parts.values()) <= {None}, at
            assert found.unreadable or found.erased, at


@pytest.mark.parametrize(
    "payload", [b"", b"NPV1", b"NPV2\x90", b"NPV1\x93", b"plain text", b"NPV1\x91\x94\xa1a\x90"]
)
def test_what_is_no_payload_is_called_unreadable(vault: Vault, payload: bytes) -> None:
    assert vault.open(payload, entry_id="id", kind="request") == Opened({}, unreadable=True)


def test_a_key_that_seals_several_contents_is_given_until_it_is_kept_and_then_no_more(
    store: VaultStore, vault: Vault
) -> None:
    parts = [Part("content", CONTENT)]

    def sealed_at(at_us: int, caller: str = "key_1") -> tuple[WrappedKey, ...]:
        return vault.seal(parts, entry_id="id", kind="request", caller=caller, at_us=at_us).new_keys

    first, again = sealed_at(NOON_US), sealed_at(NOON_US + 1)
    vault.keep(first)

    assert len(first) == 1
    assert again == first, "nobody knows yet whether it is durable"
    assert store.get(first[0].kid) == first[0]
    assert sealed_at(NOON_US + 2) == ()
    assert len(sealed_at(NOON_US + 2, caller="key_2")) == 1, "another caller has another key"
    assert len(sealed_at(NOON_US + 2 * DAY_US)) == 1, "and another day too"


def test_keys_that_could_not_be_kept_are_given_again(tmp_path: Path) -> None:
    class Full(VaultStore):
        is_full = True

        def add(self, keys: Sequence[WrappedKey]) -> None:
            if self.is_full:
                raise StorageUnavailable("full")
            super().add(keys)

    with closing(Full(tmp_path / "vault.db")) as store:
        vault = Vault(store, MASTER, now_us=NOON_US)
        with pytest.raises(StorageUnavailable):
            seal(vault, Part("content", CONTENT))
        store.is_full = False

        sealed = seal(vault, Part("content", CONTENT))

        assert len(sealed.new_keys) == 1
        assert opened(Vault(store, MASTER, now_us=NOON_US), sealed).parts == {"content": CONTENT}


def test_a_pseudonym_is_the_same_after_a_restart_and_another_in_another_vault(
    tmp_path: Path, store: VaultStore, vault: Vault
) -> None:
    with closing(VaultStore(tmp_path / "other.db")) as other:
        elsewhere = Vault(other, MASTER, now_us=NOON_US)

        assert vault.pseudonym("Ada") == Vault(store, MASTER, now_us=NOON_US).pseudonym("Ada")
        assert len({vault.pseudonym("Ada"), vault.pseudonym("ada"), elsewhere.pseudonym("Ada")}) == 3


def test_what_other_rooms_keep_opens_for_its_own_purpose_only(store: VaultStore, vault: Vault) -> None:
    sealed = vault.seal_bytes(CONTENT, purpose="quarantine")

    assert Vault(store, MASTER, now_us=NOON_US).open_bytes(sealed, purpose="quarantine") == CONTENT
    with pytest.raises(StateError, match="cannot be opened"):
        vault.open_bytes(sealed, purpose="spill")
    with pytest.raises(StateError, match="cannot be opened"):
        vault.open_bytes(sealed[:-1], purpose="quarantine")


# -- the wrong master key, and damage ----------------------------------------------------------


def test_another_master_key_is_refused(store: VaultStore, vault: Vault) -> None:
    before = (store.epochs(), store.secrets())

    with pytest.raises(VaultLocked) as refused:
        Vault(store, NEW_MASTER, now_us=NOON_US)

    assert refused.value.exit_code == 78
    assert NEW_MASTER.hex() not in str(refused.value)
    assert (store.epochs(), store.secrets()) == before


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE epochs SET wrapped = zeroblob(60)",
        "UPDATE epochs SET wrapped = x''",
        "UPDATE epochs SET wrapped = substr(wrapped, 1, 59)",
        "UPDATE epochs SET number = 2",
        "UPDATE secrets SET wrapped = zeroblob(60) WHERE name = 'pseudonym_key'",
        "UPDATE secrets SET wrapped = (SELECT wrapped FROM epochs) WHERE name = 'pseudonym_key'",
    ],
)
def test_a_damaged_key_of_keys_or_secret_keeps_the_vault_locked(
    tmp_path: Path, store: VaultStore, vault: Vault, statement: str
) -> None:
    assert vault.pseudonym("Ada")
    change(tmp_path, statement)

    with pytest.raises(VaultLocked):
        Vault(store, MASTER, now_us=NOON_US)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE keys SET wrapped = zeroblob(60)",
        "UPDATE keys SET wrapped = x''",
        "UPDATE keys SET wrapped = x'00'",
        "UPDATE keys SET wrapped = substr(wrapped, 1, 40)",
        "UPDATE keys SET epoch = 7",
        "UPDATE keys SET subject = x'00'",
    ],
)
def test_a_damaged_data_key_makes_its_content_unreadable_and_says_so(
    tmp_path: Path, vault: Vault, statement: str
) -> None:
    sealed = seal(vault, Part("content", CONTENT))
    kept = vault.seal_bytes(CONTENT, purpose="quarantine")
    change(tmp_path, statement)

    found = opened(vault, sealed)

    assert found == Opened({"content": None}, erased=False, unreadable=True)
    with pytest.raises(StateError, match="cannot be opened"):
        vault.open_bytes(kept, purpose="quarantine")


def test_a_data_key_in_the_place_of_another_opens_nothing(
    tmp_path: Path, store: VaultStore, vault: Vault
) -> None:
    first = seal(vault, Part("content", CONTENT), caller="key_1")
    second = seal(vault, Part("content", b"another"), caller="key_2")
    change(
        tmp_path,
        "UPDATE keys SET wrapped = (SELECT wrapped FROM keys WHERE kid = ?) WHERE kid = ?",
        second.new_keys[0].kid,
        first.new_keys[0].kid,
    )

    assert opened(vault, first).unreadable
    assert opened(vault, second).parts == {"content": b"another"}


# -- erasure -----------------------------------------------------------------------------------


def test_an_erasure_leaves_no_byte_of_the_persons_keys_and_closes_only_their_content(
    tmp_path: Path, store: VaultStore, vault: Vault
) -> None:
    ada, grace = vault.pseudonym("Ada"), vault.pseudonym("Grace")
    hers = [
        seal(vault, Part("content", CONTENT, (ada,)), at_us=NOON_US + month * 30 * DAY_US)
        for month in range(20)
    ]
    theirs = seal(vault, Part("both", CONTENT, (ada, grace)), Part("rest", b"open", (grace,)))
    others = seal(vault, Part("content", b"nobody's"))
    kept = vault.seal_bytes(b"her record", purpose="quarantine", subject=ada)
    keys = [key for sealed in [*hers, theirs] for key in sealed.new_keys if key.subject == ada]
    traces = {trace for key in keys for trace in (key.kid, key.wrapped, key.wrapped[12:])}
    assert len(keys) == 20
    before = bytes_of(tmp_path)
    assert all(trace in before for trace in traces), "what is searched for was there"

    gone = vault.erase(ada, NOON_US)

    after = bytes_of(tmp_path)
    assert gone == len(keys) + 1, "and the one of what other rooms keep"
    assert [trace for trace in traces if trace in after] == []
    assert ada not in after
    for one in (vault, Vault(store, MASTER, now_us=NOON_US)):
        assert all(opened(one, sealed) == Opened({"content": None}, erased=True) for sealed in hers)
        assert opened(one, theirs) == Opened({"both": None, "rest": b"open"}, erased=True)
        assert opened(one, others).parts == {"content": b"nobody's"}
        with pytest.raises(StateError, match="erased"):
            one.open_bytes(kept, purpose="quarantine")
    assert vault.erase(ada, NOON_US) == 0, "again is fine"


def test_an_erased_person_may_come_again_under_a_new_key(vault: Vault) -> None:
    ada = vault.pseudonym("Ada")
    old = seal(vault, Part("content", CONTENT, (ada,)))
    vault.erase(ada, NOON_US)

    new = seal(vault, Part("content", b"a new one", (ada,)))

    assert new.new_keys[0].kid != old.new_keys[0].kid
    assert opened(vault, new).parts == {"content": b"a new one"}
    assert opened(vault, old).erased


def test_an_erasure_that_a_backup_has_undone_takes_only_what_was_made_until_then(vault: Vault) -> None:
    ada = vault.pseudonym("Ada")
    old = seal(vault, Part("content", CONTENT, (ada,)), at_us=NOON_US)
    new = seal(vault, Part("content", b"a new one", (ada,)), at_us=NOON_US + 60 * DAY_US)

    gone = vault.erase_made_before(ada, NOON_US + DAY_US)

    assert gone == 1
    assert opened(vault, old).erased
    assert opened(vault, new).parts == {"content": b"a new one"}


def test_a_vault_learns_that_another_one_has_erased_a_person(tmp_path: Path, vault: Vault) -> None:
    ada = vault.pseudonym("Ada")
    old = seal(vault, Part("content", CONTENT, (ada,)))
    with closing(VaultStore(tmp_path / "vault.db")) as another:
        Vault(another, MASTER, now_us=NOON_US).erase(ada, NOON_US)

    vault.refresh()
    new = seal(vault, Part("content", b"a new one", (ada,)))

    assert opened(vault, old).erased
    assert opened(vault, new).parts == {"content": b"a new one"}, "not under the key that is gone"


# -- rotation ----------------------------------------------------------------------------------


def test_a_new_key_of_keys_seals_what_comes_and_the_old_one_opens_what_was(
    store: VaultStore, vault: Vault
) -> None:
    old = seal(vault, Part("content", CONTENT))

    number = vault.rotate_epoch(NOON_US + DAY_US)
    new = seal(vault, Part("content", b"a new one"))

    assert (number, repr(vault)) == (2, "<Vault epoch=2>")
    assert (old.new_keys[0].epoch, new.new_keys[0].epoch) == (1, 2)
    for one in (vault, Vault(store, MASTER, now_us=NOON_US)):
        assert opened(one, old).parts == {"content": CONTENT}
        assert opened(one, new).parts == {"content": b"a new one"}


def test_a_rotation_is_due_when_the_present_key_of_keys_is_old_enough(vault: Vault) -> None:
    assert not vault.is_rotation_due(NOON_US + 90 * DAY_US, after_days=90)
    assert vault.is_rotation_due(NOON_US + 90 * DAY_US + 1, after_days=90)

    vault.rotate_epoch(NOON_US + 91 * DAY_US)

    assert not vault.is_rotation_due(NOON_US + 92 * DAY_US, after_days=90)


def test_a_vault_opens_what_another_one_has_sealed_under_a_newer_key_of_keys(
    tmp_path: Path, vault: Vault
) -> None:
    with closing(VaultStore(tmp_path / "vault.db")) as another:
        elsewhere = Vault(another, MASTER, now_us=NOON_US)
        elsewhere.rotate_epoch(NOON_US)
        sealed = seal(elsewhere, Part("content", CONTENT))

    assert opened(vault, sealed).parts == {"content": CONTENT}


def test_another_master_key_opens_all_that_was_and_the_old_one_nothing(
    tmp_path: Path, store: VaultStore, vault: Vault
) -> None:
    first, ada = seal(vault, Part("content", CONTENT)), vault.pseudonym("Ada")
    vault.rotate_epoch(NOON_US)
    second = seal(vault, Part("content", b"second"))
    kept = vault.seal_bytes(b"third", purpose="quarantine")
    signing = vault.secret("signing_key", lambda: os.urandom(32))
    wrapped = [*(epoch.wrapped for epoch in store.epochs()), *store.secrets().values()]

    vault.change_master(NEW_MASTER)
    third = seal(vault, Part("content", b"after it"), caller="key_3")

    for one in (vault, Vault(store, NEW_MASTER, now_us=NOON_US)):
        assert opened(one, first).parts == {"content": CONTENT}
        assert opened(one, second).parts == {"content": b"second"}
        assert opened(one, third).parts == {"content": b"after it"}
        assert one.open_bytes(kept, purpose="quarantine") == b"third"
        assert one.pseudonym("Ada") == ada
        assert one.secret("signing_key", lambda: b"another") == signing
    with pytest.raises(VaultLocked):
        Vault(store, MASTER, now_us=NOON_US)
    left = bytes_of(tmp_path)
    assert [one for one in wrapped if one in left] == [], "what the old key opens is wiped"


def test_a_rotation_that_fails_half_way_changes_nothing_and_can_be_run_again(
    tmp_path: Path, store: VaultStore, vault: Vault
) -> None:
    sealed = seal(vault, Part("content", CONTENT))
    before = (store.epochs(), store.secrets())
    # The epochs are written before the secrets.
    change(tmp_path, "CREATE TRIGGER stop BEFORE UPDATE ON secrets BEGIN SELECT RAISE(ABORT, 'no'); END")

    with pytest.raises((StorageUnavailable, StorageOutcomeUnknown)):
        vault.change_master(NEW_MASTER)

    assert (store.epochs(), store.secrets()) == before
    later = seal(vault, Part("content", b"later"), caller="key_2")
    vault.rotate_epoch(NOON_US)
    assert opened(Vault(store, MASTER, now_us=NOON_US), later).parts == {"content": b"later"}
    change(tmp_path, "DROP TRIGGER stop")
    vault.change_master(NEW_MASTER)
    again = Vault(store, NEW_MASTER, now_us=NOON_US)
    assert opened(again, sealed).parts == {"content": CONTENT}
    assert opened(again, later).parts == {"content": b"later"}


def test_a_rotation_by_a_vault_with_a_damaged_key_of_keys_changes_nothing(
    tmp_path: Path, store: VaultStore, vault: Vault
) -> None:
    vault.rotate_epoch(NOON_US)
    sealed = seal(vault, Part("content", CONTENT))
    change(tmp_path, "UPDATE epochs SET wrapped = zeroblob(60) WHERE number = 1")
    before = (store.epochs(), store.secrets())

    with pytest.raises(VaultLocked):
        vault.change_master(NEW_MASTER)

    assert (store.epochs(), store.secrets()) == before
    assert opened(vault, sealed).parts == {"content": CONTENT}
    assert vault.secret("pseudonym_key", lambda: b"another") != b"another", "the old master key still counts"


class DyingStore(VaultStore):
    """A store whose process is gone in the middle of a rotation, its transaction open."""

    def rewrap(self, epochs: Sequence[Epoch], secrets: Mapping[str, bytes]) -> None:
        """Write the epochs, and be gone before the secrets."""

        class Dying(dict[str, bytes]):
            def items(self) -> object:  # type: ignore[override]
                os._exit(9)

        super().rewrap(epochs, Dying(secrets))


def rotate_and_die(path: str) -> None:
    """Begin a rotation that does not come to its end; runs in a process of its own."""
    Vault(DyingStore(Path(path)), MASTER, now_us=NOON_US).change_master(NEW_MASTER)


def test_a_rotation_whose_process_was_killed_half_way_can_be_run_again(
    tmp_path: Path, store: VaultStore, vault: Vault
) -> None:
    sealed = seal(vault, Part("content", CONTENT))
    before = (store.epochs(), store.secrets())
    store.close()

    code = f"from tests.unit.test_audit_vault import rotate_and_die; rotate_and_die({str(tmp_path / 'vault.db')!r})"
    died = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False, timeout=30)

    assert died.returncode == 9
    with closing(VaultStore(tmp_path / "vault.db")) as recovered:
        assert (recovered.epochs(), recovered.secrets()) == before
        again = Vault(recovered, MASTER, now_us=NOON_US)
        again.change_master(NEW_MASTER)
        assert opened(Vault(recovered, NEW_MASTER, now_us=NOON_US), sealed).parts == {"content": CONTENT}


# -- what other rooms keep ---------------------------------------------------------------------


def test_one_key_lasts_for_what_other_rooms_keep_until_the_key_of_keys_changes(
    tmp_path: Path, vault: Vault, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the first record to be spilled on a new day would need a new key from a full disk."""

    def keys() -> int:
        with closing(apsw.Connection(str(tmp_path / "vault.db"))) as db:
            return int(db.execute("SELECT count(*) FROM keys").get)

    vault.seal_bytes(b"one", purpose="spill")
    assert keys() == 1
    for days in (1, 40, 400):
        monkeypatch.setattr("nightproof.audit.vault.utc_us", lambda days=days: NOON_US + days * DAY_US)
        vault.seal_bytes(b"another", purpose="spill")
    assert keys() == 1

    vault.rotate_epoch(NOON_US)
    vault.seal_bytes(b"after", purpose="spill")

    assert keys() == 2


def test_a_keyed_digest_is_the_same_after_a_restart_and_another_in_another_vault(
    store: VaultStore, vault: Vault, tmp_path: Path
) -> None:
    """So that who has the log, and not the vault, cannot try out what was sent."""
    again = Vault(store, MASTER, now_us=NOON_US)
    with closing(VaultStore(tmp_path / "other.db")) as other_store:
        other = Vault(other_store, MASTER, now_us=NOON_US)

        assert vault.mac(CONTENT) == again.mac(CONTENT)
        assert (
            len({vault.mac(CONTENT), other.mac(CONTENT), vault.mac(b"else"), sha256(CONTENT).digest()}) == 4
        )
