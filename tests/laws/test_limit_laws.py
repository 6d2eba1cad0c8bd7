"""Laws of admission: a quota is never exceeded, and every place is given back exactly once."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from nightproof.base.errors import Refusal
from nightproof.limits.decide import next_arrival_s
from nightproof.limits.limiter import Limiter, Place
from nightproof.settings.settings import LimitSettings

LAW = settings(max_examples=100, deadline=None)
pauses_s = st.lists(st.floats(0, 5, allow_nan=False), min_size=1, max_size=80)


@LAW
@given(pauses_s=pauses_s, rate=st.floats(0.01, 1_000), burst=st.integers(1, 20))
def test_no_window_of_time_lets_in_more_than_rate_times_its_length_plus_the_burst(
    pauses_s: list[float], rate: float, burst: int
):
    due_s, now, admitted_s = 0.0, 100.0, []
    for pause_s in pauses_s:
        now += pause_s
        due_s, wait_s = next_arrival_s(due_s, now=now, interval_s=1 / rate, burst=burst)
        if not wait_s:
            admitted_s.append(now)

    for first, began_s in enumerate(admitted_s):
        for last in range(first, len(admitted_s)):
            assert last - first + 1 <= rate * (admitted_s[last] - began_s) + burst + 1e-3


@LAW
@given(pauses_s=pauses_s, rate=st.floats(0.01, 1_000), burst=st.integers(1, 20))
def test_a_refusal_names_a_wait_after_which_the_same_caller_gets_in(
    pauses_s: list[float], rate: float, burst: int
):
    due_s, now = 0.0, 100.0
    for pause_s in pauses_s:
        now += pause_s
        before_s = due_s
        due_s, wait_s = next_arrival_s(due_s, now=now, interval_s=1 / rate, burst=burst)

        assert wait_s >= 0
        if wait_s:
            assert due_s == before_s, "what is refused costs nothing"
            assert next_arrival_s(due_s, now=now + wait_s, interval_s=1 / rate, burst=burst)[1] == 0


@LAW
@given(pause_s=st.floats(0, 10), rate=st.floats(0.1, 100), sent=st.integers(1, 50))
def test_who_keeps_to_the_rate_is_never_refused(pause_s: float, rate: float, sent: int):
    due_s, now = 0.0, 100.0
    for _ in range(sent):
        due_s, wait_s = next_arrival_s(due_s, now=now, interval_s=1 / rate, burst=1)
        assert wait_s == 0
        now += 1 / rate + pause_s


Act = tuple[str, int]
acts = st.lists(
    st.tuples(st.sampled_from(["ask", "give back", "leave by an exception"]), st.integers(0, 30)),
    max_size=100,
)


def ask(limiter: Limiter, *, service: str, size_bytes: int) -> Place | None:
    """Ask for a place; None when there is none."""
    try:
        return limiter.grant(service, size_bytes=size_bytes, queue_s=0.0, own_s=0.0, remaining_s=1.0)
    except Refusal:
        return None


@LAW
@given(acts=acts, most=st.integers(1, 8))
def test_places_in_use_never_exceed_the_limit_and_each_is_given_back_once(acts: list[Act], most: int):
    limiter = Limiter(LimitSettings(max_in_flight=most, queue_bytes=64 * 1024))
    inside: list[Place] = []
    ever: list[Place] = []

    for act, number in acts:
        if act == "ask":
            place = ask(limiter, service=f"s{number % 3}", size_bytes=number)
            if place is not None:
                inside.append(place)
                ever.append(place)
            else:
                assert len(inside) == most
        elif act == "give back" and ever:
            place = ever[number % len(ever)]  # it may have been given back before
            place.give_back()
            inside = [one for one in inside if one is not place]
        elif act == "leave by an exception" and inside:
            place = inside.pop(number % len(inside))
            try:
                with place:
                    raise TimeoutError
            except TimeoutError:
                pass

        picture = limiter.snapshot()
        assert picture.in_flight == len(inside) == sum(picture.in_flight_by_service.values()) <= most
        assert picture.bytes_inside == sum(place.size_bytes for place in inside)

    for place in ever:
        place.give_back()
    assert limiter.snapshot().in_flight == limiter.snapshot().bytes_inside == 0
