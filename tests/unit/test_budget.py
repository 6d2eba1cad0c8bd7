"""Token and cost budgets: counted per key and service, by the day and minute of the clock."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nightproof.base.errors import Refusal
from nightproof.declare.chat_description import BudgetDescription
from nightproof.limits.budget import Budgets

NOON_US = 20_000 * 86_400_000_000 + 43_200_000_000
MINUTE_US = 60_000_000
DAY_US = 86_400_000_000


def refused(
    budgets: Budgets, budget: BudgetDescription, key: str = "ada", at_us: int = NOON_US
) -> Refusal | None:
    try:
        budgets.refuse_beyond("chat", key, budget, at_us=at_us)
    except Refusal as refusal:
        return refusal
    return None


def test_without_a_budget_nobody_is_refused():
    budgets = Budgets()
    budgets.count("chat", "ada", tokens=10**9, cost=1e6, at_us=NOON_US)
    assert refused(budgets, BudgetDescription()) is None


@pytest.mark.parametrize(
    ("budget", "wait_s"),
    [
        (BudgetDescription(tokens_per_minute=100), 60),
        (BudgetDescription(tokens_per_day=100), 43_200),
        (BudgetDescription(cost_per_day=0.5), 43_200),
        (BudgetDescription(service_tokens_per_day=100), 43_200),
        (BudgetDescription(service_cost_per_day=0.5), 43_200),
    ],
)
def test_a_used_up_budget_refuses_until_there_is_a_new_one(budget: BudgetDescription, wait_s: float):
    budgets = Budgets()
    budgets.count("chat", "ada", tokens=99, cost=0.49, at_us=NOON_US)
    assert refused(budgets, budget) is None
    budgets.count("chat", "ada", tokens=1, cost=0.01, at_us=NOON_US)
    no = refused(budgets, budget)
    assert no is not None
    assert no.failure == "budget_exceeded"
    assert no.retry_after_s == pytest.approx(wait_s)
    assert refused(budgets, budget, at_us=NOON_US + int(wait_s * 1e6)) is None


def test_one_key_does_not_use_up_anothers_budget_but_the_services():
    budgets = Budgets()
    budgets.count("chat", "ada", tokens=100, cost=0, at_us=NOON_US)
    assert refused(budgets, BudgetDescription(tokens_per_day=100), "bob") is None
    assert refused(budgets, BudgetDescription(service_tokens_per_day=100), "bob") is not None


def test_what_is_left_is_told_for_the_shorter_time_that_is_limited():
    budgets = Budgets()
    budgets.count("chat", "ada", tokens=30, cost=0, at_us=NOON_US + 15_000_000)
    both = BudgetDescription(tokens_per_minute=100, tokens_per_day=1_000)
    left = budgets.left("chat", "ada", both, at_us=NOON_US + 15_000_000)
    assert left is not None
    assert (left.limit, left.remaining, left.reset_s) == (100, 70, 45)
    assert budgets.left("chat", "ada", BudgetDescription(), at_us=NOON_US) is None


def test_what_was_used_is_there_again_after_a_restart():
    before, after = Budgets(), Budgets()
    before.count("chat", "ada", tokens=100, cost=0.25, at_us=NOON_US)
    after.restore(before.changed())
    assert before.changed() == []
    assert after.used("chat", "ada", at_us=NOON_US) == before.used("chat", "ada", at_us=NOON_US)
    assert refused(after, BudgetDescription(tokens_per_day=100)) is not None


@given(
    st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 500), st.integers(0, 3 * 24 * 60)), max_size=50)
)
def test_a_day_counts_exactly_what_was_used_on_it(calls: list[tuple[str, int, int]]):
    budgets, used = Budgets(), {}
    last = 0
    for key, tokens, minutes in sorted(calls, key=lambda call: call[2]):
        last = NOON_US + minutes * MINUTE_US
        budgets.count("chat", key, tokens=tokens, cost=0, at_us=last)
        used[key, last // DAY_US] = used.get((key, last // DAY_US), 0) + tokens
    for key in "ab":
        assert budgets.used("chat", key, at_us=last).tokens_today == used.get((key, last // DAY_US), 0)
