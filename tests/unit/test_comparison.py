"""What a release answers otherwise: counted by field, by size and by whom; bounded, and without what is hidden."""

from __future__ import annotations

import msgspec
import pytest

from nightproof.cli.replay_page import page
from nightproof.releases.replay import Comparison, bin_bounds, bin_of, hidden_of, most_hit, same, whom_of


def test_equal_answers_change_nothing_and_others_are_counted_by_field():
    found = Comparison()

    found.add(old={"y": 1.0, "ok": True}, new={"y": 1.0 + 1e-9, "ok": True}, failure="", whom={})
    found.add(old={"y": 1.0, "ok": True}, new={"y": 3.5, "ok": False}, failure="", whom={})

    assert (found.compared, found.changed) == (2, 1)
    assert (found.fields["y"].changed, found.fields["y"].most_abs) == (1, 2.5)
    assert found.fields["y"].sum_abs == pytest.approx(2.5)
    assert found.fields["ok"].moves == {"true → false": 1}


def test_what_fails_anew_and_what_is_answered_anew_are_told_apart():
    found = Comparison()

    found.add(old={"y": 1}, new=None, failure="model_error", whom={})
    found.add(old=None, new={"y": 1}, failure="", whom={})
    found.add(old=None, new=None, failure="model_error", whom={})

    assert (found.newly_failing, found.newly_answered, found.changed) == (1, 1, 2)
    assert found.failures == {"model_error": 2}


def test_a_group_that_is_hit_harder_than_all_is_named():
    found = Comparison()
    for number in range(400):
        town = "Berlin" if number % 4 == 0 else "Rome"
        new = {"y": 2 if town == "Berlin" else 1}
        found.add(
            old={"y": 1}, new=new, failure="", whom=whom_of({"town": town, "x": float(number)}, "key_1")
        )

    (first, *_) = most_hit(found)

    assert (first.by, first.value, first.compared, first.changed, first.times) == (
        "town",
        "Berlin",
        100,
        100,
        4.0,
    )
    assert found.groups["caller"]["key_1"].compared == 400


def test_who_a_record_is_about_makes_no_group():
    record = {"person": "Jane", "address/home": "x", "purpose": "car", "caller": "somebody"}

    whom = whom_of(record, "key_1", hidden=hidden_of(["/person", "/address~1home/street"]))

    assert whom == {"caller": "key_1", "purpose": "car"}


def test_the_number_of_groups_and_moves_is_bounded():
    found = Comparison()
    for number in range(5_000):
        whom = {"caller": f"key_{number}", "name": f"n{number}"}
        found.add(old={"y": f"a{number}"}, new={"y": f"b{number}"}, failure="", whom=whom)

    assert len(found.groups["caller"]) <= 201
    assert len(found.groups["name"]) <= 13
    assert len(found.fields["y"].moves) <= 13
    assert sum(found.fields["y"].moves.values()) == 5_000


def test_a_comparison_can_be_put_away_and_taken_up_again():
    found = Comparison()
    found.add(old={"y": 1.0}, new={"y": 2.0}, failure="", whom={"caller": "key_1"})

    again = msgspec.json.decode(msgspec.json.encode(found), type=Comparison)
    again.add(old={"y": 1.0}, new={"y": 1.0}, failure="", whom={"caller": "key_1"})

    assert (again.compared, again.changed, again.groups["caller"]["key_1"].compared) == (2, 1, 2)
    assert sum(again.fields["y"].bins) == 2


@pytest.mark.parametrize(
    ("old", "new", "is_same"),
    [
        (1, 1.0, True), (1, True, False), (0.0, 1e-7, True), (1e9, 1e9 + 1, True), ("a", "a", True), (None, None, True),
        ({"a": [1, 2]}, {"a": [1, 2.0]}, True), ({"a": 1}, {"b": 1}, False), ([1], [1, 2], False), ("1", 1, False),
    ],
)  # fmt: skip
def test_numbers_are_the_same_within_a_millionth(old: object, new: object, is_same: bool):
    assert same(old, new) is is_same


def test_the_scale_of_changes_is_even_around_none():
    names = list(bin_bounds())

    assert names[bin_of(0.0)] == "0"
    assert bin_of(1.0) - bin_of(0.0) == bin_of(0.0) - bin_of(-1.0) > 0
    assert names[bin_of(1.0)] == "+1"
    assert 0 <= bin_of(-1e300) < bin_of(1e300) < len(names)


def test_a_page_shows_text_as_text():
    found = Comparison()
    found.add(old={"<b>y": "<script>"}, new={"<b>y": "x"}, failure="", whom={})
    report = {
        "service": "s", "version": "<i>", "live": "1", "kind": "replay", "id": "1", "state": "finished",
        "comparison": msgspec.to_builtins(found), "most_hit": [], "scale": list(bin_bounds()),
        "examples": [{"a": "<u>"}],
    }  # fmt: skip

    html = page(report)

    assert not any(tag in html for tag in ("<script>", "<i>", "<b>", "<u>"))
    assert "&lt;script&gt; → x" in html
