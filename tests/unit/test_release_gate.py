"""The gate's decision, what garbage collection keeps, and which versions go together: tables."""

from __future__ import annotations

from typing import get_args

import pytest

from nightproof.base.failures import CATALOGUE
from nightproof.base.versions import incompatibilities
from nightproof.releases.gate import Finding, Kind, Policy, decide
from nightproof.releases.keeping import Kept, collectable, reasons_to_keep

STRICT = Policy(allow_pickle=False)
DAY = 86_400 * 1_000_000


@pytest.mark.parametrize("kind", get_args(Kind))
def test_every_kind_of_finding_refuses_under_a_name_of_the_catalogue_or_never(kind: Kind):
    decision = decide([Finding(kind, "x.bin", "Something.", "Do something.")], STRICT)

    assert decision.accepted or CATALOGUE[decision.failure].code.startswith("release_")
    assert decision.accepted == (
        kind in ("evidence", "schema_additive", "chat_changed", "no_golden_cases", "useless_fallback")
    )


@pytest.mark.parametrize(
    ("finding", "policy", "accepted"),
    [
        (Finding("pickle", "m.joblib", ""), Policy(), True),
        (Finding("pickle", "m.joblib", ""), Policy(allow_pickle=False), False),
        (Finding("disguised", "m.json", ""), Policy(), False),
        (Finding("unknown_format", "m.bin", ""), Policy(), False),
        (Finding("unknown_format", "m.BIN", ""), Policy(also_allow=frozenset({".bin"})), True),
        (Finding("native_code", "m.so", ""), Policy(also_allow=frozenset({".so"})), False),
        (Finding("schema_breaking", "/x", ""), Policy(), False),
        (Finding("schema_breaking", "/x", ""), Policy(allow_breaking=True), True),
        (Finding("chat_breaking", "chat /images", ""), Policy(), False),
        (Finding("chat_breaking", "chat /images", ""), Policy(allow_breaking=True), True),
        (Finding("evidence", "m.joblib", "imports os.system"), Policy(), True),
    ],
)
def test_the_policy_allows_what_it_names_and_nothing_else(finding: Finding, policy: Policy, accepted: bool):
    assert decide([finding], policy).accepted == accepted


def test_a_refusal_tells_the_first_finding_and_how_many_more_there_are():
    found = [
        Finding("evidence", "a", "seen"),
        *(Finding("golden_failed", "", f"Line {n}.", "Mend.") for n in (1, 2)),
    ]

    decision = decide(found, Policy())

    assert (decision.failure, decision.hint) == ("release_refused", "Mend.")
    assert decision.text == "Line 1. (1 more findings refuse it.)"


def kept(
    version: str, *, age_days: float = 100, part: str = "", held: bool = False, digest: str = ""
) -> Kept:
    """Describe a release."""
    made_us = int((1_000 - age_days) * DAY)
    return Kept(
        service="s", version=version, digest=digest or version, made_us=made_us, part=part, is_held=held
    )


def test_what_is_in_use_held_new_or_young_stays_and_the_rest_may_go():
    releases = [
        kept("live", part="live"), kept("canary", part="canary"), kept("shadow", part="shadow"),
        kept("standby", part="standby", age_days=900), kept("held", held=True, age_days=900),
        kept("newest", age_days=1), kept("old", age_days=300), kept("older", age_days=400),
    ]  # fmt: skip

    reasons = reasons_to_keep(releases, now_us=1_000 * DAY, newest=1, days=7)

    assert {version: why for (_, version), why in reasons.items()} == {
        "live": "live", "canary": "canary", "shadow": "shadow", "standby": "standby", "held": "held",
        "newest": "one of the 1 newest",
    }  # fmt: skip


def test_a_young_release_stays_however_many_there_are():
    releases = [kept(str(n), age_days=n) for n in range(10)]

    reasons = reasons_to_keep(releases, now_us=1_000 * DAY, newest=2, days=4.5)

    assert sorted(int(version) for _, version in reasons) == [0, 1, 2, 3, 4]


def test_bytes_that_two_releases_share_stay_as_long_as_one_of_them_does():
    releases = [
        kept("live", part="live", digest="x"),
        kept("old", digest="x"),
        kept("gone", digest="y", age_days=200),
    ]

    found = collectable(releases, ["x", "y", "stray"], now_us=1_000 * DAY, newest=1, days=7)

    assert found == ["stray", "y"]


@pytest.mark.parametrize(
    ("recorded", "present", "differs"),
    [
        ({"python": "3.11.2"}, {"python": "3.11.9", "pandas": "2.0"}, []),
        ({"python": "3.11.2"}, {"python": "3.12.0"}, ["Python is 3.12.0 here"]),
        ({"numpy": "2.4.6"}, {"numpy": "2.4.1"}, []),
        ({"numpy": "2.4.6"}, {"numpy": "2.5.0"}, ["numpy is 2.5.0 here"]),
        ({"torch": "2.7.1+cpu"}, {"torch": "2.7.1+cu128"}, []),
        ({"xgboost": "3.0.0"}, {}, ["xgboost is not installed here"]),
    ],
)
def test_the_first_two_parts_of_a_version_count(recorded: dict, present: dict, differs: list):  # type: ignore[type-arg]
    found = incompatibilities(recorded, present)

    assert len(found) == len(differs)
    assert all(line.startswith(said) for line, said in zip(found, differs, strict=True))
