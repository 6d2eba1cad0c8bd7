"""What is wrong with upstreams is said once for a service, and makes no server unready."""

from __future__ import annotations

from typing import Any

import msgspec

from nightproof.declare.chat_description import ChatDescription, UpstreamDescription
from nightproof.watch.health import Health
from nightproof.watch.upstreams import (
    UpstreamPicture,
    pictures_of,
    upstream_components,
    upstream_conditions,
    upstream_gauges,
)

WELL = UpstreamPicture(name="spare", model="m-2", in_flight=3, limit=16)
DOWN = UpstreamPicture(
    name="main", model="m-1", state="open", open_since_s=7.0, last_failure="upstream_error, status 500"
)


class Seen(msgspec.Struct, kw_only=True):
    """What the room that asks upstreams tells of one."""

    name: str = "main"
    model: str = "m-1"
    breaker: Any = "closed"
    open_since_s: float = 0.0
    in_flight: int = 2
    in_line: int = 1
    limit: int = 16
    pause_s: float = 1.5
    last_failure: str = ""
    last_detail: str = ""
    warning: str = ""


def test_all_open_breakers_of_a_service_are_one_condition_since_the_first_of_them():
    (condition,) = upstream_conditions({"desk": [DOWN, WELL], "other": [WELL]})

    assert (condition.failure, condition.service, condition.since_s) == ("upstream_down", "desk", 7.0)
    assert condition.detail == "1 of 2: main: its breaker is open: upstream_error, status 500"


def test_an_upstream_is_down_until_it_answered_again():
    tried = msgspec.structs.replace(DOWN, state="half_open")

    (condition,) = upstream_conditions({"desk": [tried, WELL]})

    assert condition.detail == "1 of 2: main: not seen to answer again yet: upstream_error, status 500"


def test_a_program_that_does_not_stay_up_is_a_condition_of_its_own():
    ended = msgspec.structs.replace(WELL, command_trouble="exit 1, 4 starts in 60 s")

    (condition,) = upstream_conditions({"desk": [ended]})

    assert condition.failure == "upstream_command_failed"
    assert "exit 1" in condition.detail


def test_an_upstream_that_is_down_is_a_component_that_is_not_needed():
    parts = upstream_components({"desk": [DOWN, WELL]}, Health())

    assert [(part.name, part.ok, part.needed) for part in parts] == [
        ("upstream:desk/main", False, False),
        ("upstream:desk/spare", True, False),
    ]


def test_a_picture_says_where_an_upstream_is_and_leaves_out_what_is_secret():
    chat = ChatDescription(
        prompt="",
        upstreams=[
            UpstreamDescription(name="main", base_url="https://u:secret@api.openai.com/v1", model="m-1")
        ],
    )

    (picture,) = pictures_of(
        chat, [Seen(last_failure="upstream_limited", last_detail="status 429")], {"main": "exit 1"}
    )

    assert (picture.provider, picture.address, picture.port) == ("openai", "api.openai.com", 443)
    assert (picture.in_flight, picture.in_line, picture.limit, picture.pause_s) == (2, 1, 16, 1.5)
    assert picture.last_failure == "upstream_limited, status 429"
    assert picture.trouble == "exit 1"
    assert "secret" not in repr(picture)


def test_the_state_of_a_breaker_is_one_of_three_and_the_others_are_zero():
    families = {one.name: one for one in upstream_gauges({"desk": [DOWN]})}

    states = {one.labels["state"]: one.value for one in families["nightproof_upstream_state"].samples}
    assert states == {"closed": 0.0, "half_open": 0.0, "open": 1.0}
    assert {one for one in families if one.startswith("nightproof_upstream_")} == set(families)
