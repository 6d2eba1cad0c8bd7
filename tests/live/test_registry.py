"""The registry: who is live, who is on trial, what was before; one transaction each, and nobody writes over another."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import apsw
import pytest

from nightproof.storage.registry_store import Changed, RegistryStore
from nightproof.storage.sqlite import APPLICATION_ID, NotFound

FIRST_FORM = """
CREATE TABLE schema(store TEXT NOT NULL, version INTEGER NOT NULL) STRICT;
INSERT INTO schema VALUES ('registry', 1);
CREATE TABLE releases(
  service TEXT NOT NULL, label TEXT NOT NULL, digest TEXT NOT NULL, created_us INTEGER NOT NULL,
  live INTEGER NOT NULL CHECK (live IN (0, 1)), PRIMARY KEY (service, label)
) STRICT;
CREATE UNIQUE INDEX releases_live ON releases(service) WHERE live = 1;
CREATE TABLE history(
  at INTEGER PRIMARY KEY, service TEXT NOT NULL, label TEXT NOT NULL, digest TEXT NOT NULL,
  at_us INTEGER NOT NULL, act TEXT NOT NULL
) STRICT;
CREATE INDEX history_service ON history(service, at);
INSERT INTO releases VALUES ('credit', 'dev-1', 'd1', 1, 0), ('credit', 'dev-2', 'd2', 2, 1);
INSERT INTO history(service, label, digest, at_us, act) VALUES
  ('credit', 'dev-1', 'd1', 1, 'registered'), ('credit', 'dev-1', 'd1', 1, 'live'),
  ('credit', 'dev-2', 'd2', 2, 'registered'), ('credit', 'dev-2', 'd2', 2, 'live');
"""


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[RegistryStore]:
    opened = RegistryStore(tmp_path / "registry.db")
    for number in range(5):
        opened.register("credit", f"v{number}", f"d{number}")
    yield opened
    opened.close()


def labels(registry: RegistryStore) -> tuple[str, str]:
    """Return the live release and where a rollback would lead."""
    live, previous = registry.live("credit"), registry.previous("credit")
    return (live.label if live else ""), (previous.label if previous else "")


def test_a_file_of_the_first_form_is_taken_over_with_its_history(tmp_path: Path):
    old = apsw.Connection(str(tmp_path / "registry.db"))
    old.pragma("application_id", APPLICATION_ID)
    old.execute(FIRST_FORM)
    old.close()

    registry = RegistryStore(tmp_path / "registry.db")
    before, acts, unrecorded = labels(registry), registry.history("credit"), registry.unrecorded()
    registry.begin_trial("credit", "dev-1", "canary", "{}")
    registry.close()

    again = RegistryStore(tmp_path / "registry.db")
    trial = again.trial("credit")
    again.close()
    assert before == ("dev-2", "dev-1")
    assert [(act.label, act.act, act.who) for act in acts][:2] == [
        ("dev-2", "live", ""),
        ("dev-2", "registered", ""),
    ]
    assert unrecorded == (), "what an older server did, it recorded itself"
    assert trial is not None
    assert trial.label == "dev-1"


def test_promotions_pile_up_and_rollbacks_take_from_the_pile(registry: RegistryStore):
    for label in ("v0", "v1", "v2"):
        registry.set_live("credit", label)

    pairs = [labels(registry)]
    for label in ("v1", "v0"):
        registry.set_live("credit", label, act="rollback")
        pairs.append(labels(registry))

    assert pairs == [("v2", "v1"), ("v1", "v0"), ("v0", "")]


def test_what_was_taken_back_by_itself_is_no_way_back(registry: RegistryStore):
    registry.set_live("credit", "v0")
    registry.set_live("credit", "v1")
    registry.set_live("credit", "v0", act="rolled_back", latch="errors")
    registry.set_live("credit", "v2")

    first = labels(registry)
    registry.set_live("credit", "v0", act="rollback")
    registry.unlatch("credit", "v1", why="it was the network")

    assert first == ("v2", "v0")
    assert registry.find("credit", "v1").latched == ""  # type: ignore[union-attr]


def test_who_decided_on_what_is_no_longer_so_is_told_who_was_quicker(registry: RegistryStore):
    registry.set_live("credit", "v0")
    seen = registry.generation("credit")
    registry.set_live("credit", "v1", who="ann", expected=seen)

    with pytest.raises(Changed, match="live v1 by ann"):
        registry.set_live("credit", "v2", who="bob", expected=seen)
    with pytest.raises(Changed):
        registry.begin_trial("credit", "v2", "canary", "{}", expected=seen)

    assert labels(registry) == ("v1", "v0")
    assert registry.trial("credit") is None
    assert registry.history("credit")[0].who == "ann"


def test_registering_changes_nothing_that_was_decided_on(registry: RegistryStore):
    registry.set_live("credit", "v0")
    seen = registry.generation("credit")
    registry.register("credit", "v9", "d9")

    registry.set_live("credit", "v9", expected=seen)

    assert labels(registry) == ("v9", "v0")


def test_two_registries_on_one_file_see_each_others_changes(registry: RegistryStore, tmp_path: Path):
    """A release made by another process is there at once; both cannot decide on the same state."""
    other = RegistryStore(tmp_path / "registry.db")
    seen = other.generation("credit")
    registry.set_live("credit", "v1")

    with pytest.raises(Changed):
        other.set_live("credit", "v2", expected=seen)
    live = other.live("credit")
    other.close()

    assert live is not None
    assert live.label == "v1"


def test_a_trial_has_one_release_and_ends_with_its_going_live(registry: RegistryStore):
    registry.set_live("credit", "v0")
    registry.begin_trial("credit", "v1", "canary", "5%")
    moved = registry.move_trial("credit", "20%")
    before = registry.trial("credit")
    registry.set_live("credit", "v1")

    assert before == moved
    assert moved.plan == "20%"
    assert registry.trial("credit") is None
    assert [act.act for act in registry.history("credit", most=3)] == ["live", "canary_step", "canary"]


def test_a_trial_that_ends_badly_latches_its_release(registry: RegistryStore):
    registry.set_live("credit", "v0")
    registry.begin_trial("credit", "v1", "canary", "5%")

    registry.end_trial("credit", "canary_worse", who="nightproof", why="slower", latch="slower")

    assert registry.find("credit", "v1").latched == "slower"  # type: ignore[union-attr]
    assert labels(registry) == ("v0", "")
    with pytest.raises(NotFound):
        registry.end_trial("credit", "withdrawn")


def test_what_must_be_kept_is_live_standby_on_trial_and_held(registry: RegistryStore):
    registry.set_live("credit", "v0")
    registry.set_live("credit", "v1")
    registry.begin_trial("credit", "v2", "shadow", "{}")
    registry.hold("credit", "v3", "the auditor asked")

    kept = {one.label for one in registry.kept("credit")}
    registry.hold("credit", "v3", "")

    assert kept == {"v0", "v1", "v2", "v3"}
    assert {one.label for one in registry.kept("credit")} == {"v0", "v1", "v2"}


def test_what_the_log_does_not_have_yet_is_known_until_it_has(registry: RegistryStore):
    registry.set_live("credit", "v0", who="ann", why="first")
    first = registry.unrecorded()

    registry.mark_recorded(first[-2].at)
    left = registry.unrecorded()
    registry.mark_recorded(first[-1].at)

    assert [(act.act, act.who, act.why) for act in left] == [("live", "ann", "first")]
    assert registry.unrecorded() == ()
