"""The arithmetic of drift: against scipy's figures, against simulation, and at its edges."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import binom, chi2, ncx2

from nightproof.watch.drift import statistics
from nightproof.watch.drift.statistics import chi2_tail


@pytest.mark.parametrize("df", [1, 2, 13, 66])
@pytest.mark.parametrize("nc", [0.0, 0.3, 5.0, 400.0, 3_000.0])
@pytest.mark.parametrize("p", [0.9, 0.1, 1e-3, 1e-12])
def test_the_tail_of_the_noncentral_chi_square_is_scipys(df: int, nc: float, p: float):
    x = float(ncx2.isf(p, df, nc)) if nc else float(chi2.isf(p, df))

    assert chi2_tail(x, df, nc) == pytest.approx(p, rel=1e-8)


def test_what_lies_beyond_all_reach_is_nought_and_not_an_error():
    assert chi2_tail(1e7, 13, 20) == 0.0
    assert chi2_tail(0.0, 13, 20) == 1.0
    assert chi2_tail(5, 0) == 1.0


def test_an_e_value_is_one_on_average_when_nothing_moved():
    p = np.geomspace(1e-16, 1.0, 20_001)
    e = np.array([statistics.e_value(one) for one in p])

    mean = float(np.trapezoid(e, p))

    assert 0.98 < mean <= 1.0 + 1e-6


def test_an_e_value_never_rests_on_a_p_value_that_no_approximation_can_carry():
    assert statistics.e_value(0.0) == statistics.e_value(statistics.LEAST_P)
    assert math.isfinite(statistics.e_value(0.0))


@pytest.mark.parametrize(("seen", "rows", "share"), [(75, 500, 0.0725), (20, 200, 0.01), (3, 100, 0.02)])
def test_the_tail_of_the_binomial_is_scipys(seen: int, rows: int, share: float):
    assert statistics.binomial_tail(seen, rows, share) == pytest.approx(
        float(binom.sf(seen - 1, rows, share)), rel=1e-9
    )


def test_a_rare_value_within_the_tolerance_says_nothing():
    assert statistics.rare_p(2, 500, 0, 5_000, tolerance=0.01) == 1.0
    assert statistics.rare_p(50, 500, 0, 5_000, tolerance=0.01) < 1e-12


def test_cells_with_few_rows_are_merged_and_no_row_is_lost():
    observed, reference = [0, 1, 250, 240, 9], [3, 12, 2_500, 2_400, 85]

    for is_ordered in (True, False):
        kept_o, kept_r = statistics.merged(observed, reference, is_ordered=is_ordered)

        assert sum(kept_o) == 500
        assert sum(kept_r) == 5_000
        assert len(kept_o) < 5
        assert all(o + r >= 55 for o, r in zip(kept_o, kept_r, strict=True))


def test_a_difference_within_the_tolerance_is_no_difference_however_many_rows_come():
    reference = [1_000_000, 1_000_000]
    near, far = [520_000, 480_000], [600_000, 400_000]

    assert statistics.differ_p(near, reference, tolerance=0.01) > 0.5
    assert statistics.differ_p(far, reference, tolerance=0.01) < 1e-12
    assert statistics.differ_p(near, reference, tolerance=0.0) < 1e-12


def test_p_values_of_equal_distributions_are_not_too_small():
    rng = np.random.default_rng(5)
    shares = np.array([0.3, 0.25, 0.2, 0.15, 0.1])
    small = 0
    for _ in range(2_000):
        reference = rng.multinomial(2_000, shares).tolist()
        window = rng.multinomial(500, shares).tolist()
        small += statistics.differ_p(window, reference, tolerance=0.0) <= 0.05

    assert small / 2_000 < 0.06


def test_effect_is_nought_by_chance_and_the_share_that_moved_otherwise():
    assert statistics.effect([50, 50], [500, 500]) == 0.0
    assert statistics.effect([10_000, 0], [0, 10_000]) == pytest.approx(1.0, abs=0.01)
    assert statistics.effect([7_000, 3_000], [50_000, 50_000]) == pytest.approx(0.2, abs=0.02)


def test_psi_of_the_same_shares_is_nearly_nought():
    assert statistics.psi([100, 200, 300], [1_000, 2_000, 3_000]) < 1e-3
    assert statistics.psi([300, 200, 100], [1_000, 2_000, 3_000]) > 0.2
    assert statistics.psi([], []) == 0.0


def test_a_mixture_of_segments_is_worth_as_many_rows_as_it_can_carry():
    counts = [[100, 0], [0, 900]]

    night, worth = statistics.weighed_reference(counts, [10, 0])
    half, half_worth = statistics.weighed_reference(counts, [5, 5])

    assert (night, worth) == ([pytest.approx(100), 0.0], pytest.approx(100))
    assert half[0] == pytest.approx(half[1])
    assert half_worth == pytest.approx(360)


def test_a_mixture_for_hours_that_the_reference_never_had_falls_back_to_all_of_it():
    mixed, worth = statistics.weighed_reference([[10, 20], [0, 0]], [0, 7])

    assert (mixed, worth) == ([10.0, 20.0], 30.0)
