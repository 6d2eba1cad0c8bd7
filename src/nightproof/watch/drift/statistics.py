"""The arithmetic of drift: chi-square with a tolerance, e-values, effect sizes. Pure, and without numpy.

Used by `detector`. Everything here works on integer counts, so that windows merge by addition. The tests and the
reasons for them: `docs/drift.md`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

LEAST_P = 1e-12
"""Below this no approximation is to be trusted: a p-value is never taken to be smaller."""
_LEAST_EXPECTED = 5.0
_RARE_TOLERANCE = 0.005
"""Half a percent of missing or never-seen values is nobody's business."""
_RARE_ROWS_UNSEEN = 3.0
"""What did not occur in N rows may well have a share of 3/N (the rule of three)."""
_MOST_TERMS = 20_000


def chi2_tail(x: float, df: float, nc: float = 0.0) -> float:
    """Return P[noncentral chi-square(df, nc) >= x], by the Poisson mixture of central ones.

    >>> round(chi2_tail(3.841459, 1), 4)
    0.05
    """
    if x <= 0.0:
        return 1.0
    if df <= 0.0:
        return 1.0
    half, mean = x / 2, nc / 2
    j = int(mean)
    a = df / 2 + j
    tail = gamma_tail(a, half)
    weight = math.exp(j * math.log(mean) - mean - math.lgamma(j + 1)) if mean > 0 else float(j == 0)
    step = math.exp(a * math.log(half) - half - math.lgamma(a + 1))  # tail(a + 1) - tail(a)
    total = weight * tail
    up_weight, up_tail, up_step, up = weight, tail, step, j
    for _ in range(_MOST_TERMS):
        up_tail = min(1.0, up_tail + up_step)
        up += 1
        up_weight *= mean / up
        up_step *= half / (df / 2 + up)
        part = up_weight * up_tail
        total += part
        if part <= 1e-17 * total and up > half:
            break
        if up_weight <= 1e-22 * total:
            break
    down_weight, down_tail, down_step = weight, tail, step
    for down in range(j, 0, -1):
        down_step *= (df / 2 + down) / half
        down_tail = max(0.0, down_tail - down_step)
        down_weight *= down / mean
        part = down_weight * down_tail
        total += part
        if part <= 1e-17 * total:
            break
    return min(1.0, total)


def gamma_tail(a: float, x: float) -> float:
    """Return the regularised upper incomplete gamma function Q(a, x)."""
    if x <= 0.0:
        return 1.0
    front = math.exp(a * math.log(x) - x - math.lgamma(a))
    if x < a + 1:
        term = total = 1 / a
        for n in range(1, _MOST_TERMS):
            term *= x / (a + n)
            total += term
            if term < total * 1e-16:
                break
        return max(0.0, 1.0 - total * front)
    b = x + 1 - a
    c, d = 1e300, 1 / b
    h = d
    for n in range(1, _MOST_TERMS):
        an = -n * (n - a)
        b += 2
        d = 1 / _not_zero(an * d + b)
        c = _not_zero(b + an / c)
        h *= d * c
        if abs(d * c - 1) < 1e-15:
            break
    return h * front


def _not_zero(value: float) -> float:
    return value if abs(value) > 1e-300 else 1e-300


def e_value(p: float) -> float:
    """Turn a p-value into an e-value, whose mean under no drift is at most 1.

    Half each of 0.5 p^-1/2, which gathers small hints, and of 0.25 p^-3/4, which takes a plain sign for one.
    """
    p = max(p, LEAST_P)
    root = math.sqrt(p)
    return 0.25 / root + 0.125 / (root * math.sqrt(root))


def merged(
    observed: Sequence[float], reference: Sequence[float], *, is_ordered: bool
) -> tuple[list[float], list[float]]:
    """Merge cells of which fewer than five rows are to be expected: with the neighbour, or all of them together."""
    n, size = sum(observed), sum(reference)
    if not n or not size:
        return [], []
    enough = _LEAST_EXPECTED * (n + size) / min(n, size)
    if is_ordered:
        return _merged_neighbours(observed, reference, enough)
    kept_o: list[float] = []
    kept_r: list[float] = []
    rest_o = rest_r = 0.0
    for o, r in zip(observed, reference, strict=True):
        if o + r >= enough:
            kept_o.append(o)
            kept_r.append(r)
        else:
            rest_o += o
            rest_r += r
    if rest_o + rest_r >= enough:
        kept_o.append(rest_o)
        kept_r.append(rest_r)
    elif (rest_o or rest_r) and kept_o:
        least = min(range(len(kept_o)), key=lambda place: kept_o[place] + kept_r[place])
        kept_o[least] += rest_o
        kept_r[least] += rest_r
    return kept_o, kept_r


def _merged_neighbours(
    observed: Sequence[float], reference: Sequence[float], enough: float
) -> tuple[list[float], list[float]]:
    kept_o: list[float] = []
    kept_r: list[float] = []
    running_o = running_r = 0.0
    for o, r in zip(observed, reference, strict=True):
        running_o += o
        running_r += r
        if running_o + running_r >= enough:
            kept_o.append(running_o)
            kept_r.append(running_r)
            running_o = running_r = 0.0
    if running_o or running_r:
        if kept_o:
            kept_o[-1] += running_o
            kept_r[-1] += running_r
        else:
            kept_o, kept_r = [running_o], [running_r]
    return kept_o, kept_r


def differ_p(
    observed: Sequence[float],
    reference: Sequence[float],
    *,
    tolerance: float,
    inflation: float = 1.0,
    is_ordered: bool = False,
) -> float:
    """Return how likely counts this far from the reference are, if the difference is within the tolerance.

    Two-sample chi-square, held against the noncentral distribution that a difference of `tolerance` and the
    reference's own sampling error would give. `inflation` is the variance that rows of one time share.
    """
    kept_o, kept_r = merged(observed, reference, is_ordered=is_ordered)
    df = len(kept_o) - 1
    if df <= 0:
        return 1.0
    n, size = sum(kept_o), sum(kept_r)
    x2 = chi2_statistic(kept_o, kept_r)
    return chi2_tail(x2 * (1 + n / size) / inflation, df, n * (tolerance / inflation + df / size))


def chi2_statistic(observed: Sequence[float], reference: Sequence[float]) -> float:
    """Return the two-sample chi-square statistic of cells, of which none is empty in both."""
    n, size = sum(observed), sum(reference)
    up, down = math.sqrt(size / n), math.sqrt(n / size)
    return sum((up * o - down * r) ** 2 / (o + r) for o, r in zip(observed, reference, strict=True) if o or r)


def rare_p(
    seen: float, rows: float, reference_seen: float, reference_rows: float, *, tolerance: float
) -> float:
    """Return how likely that many rows with a rare value are (missing, never seen, out of range), by binomial.

    Held against the largest share that is nobody's business: the reference's, its own error, and the tolerance.
    """
    if rows <= 0 or reference_rows <= 0:
        return 1.0
    usual = min(1.0, (reference_seen + _RARE_ROWS_UNSEEN) / reference_rows)
    allowed = (
        usual + math.sqrt(usual / reference_rows) + max(_RARE_TOLERANCE, math.sqrt(tolerance * usual) / 2)
    )
    return 1.0 if seen <= allowed * rows else binomial_tail(seen, rows, min(0.999, allowed))


def binomial_tail(seen: float, rows: float, share: float) -> float:
    """Return P[Binomial(rows, share) >= seen], for `seen` above what is to be expected."""
    seen, rows = math.floor(seen), math.ceil(rows)
    log_term = (
        math.lgamma(rows + 1)
        - math.lgamma(seen + 1)
        - math.lgamma(rows - seen + 1)
        + seen * math.log(share)
        + (rows - seen) * math.log1p(-share)
    )
    odds = share / (1 - share)
    total = part = 1.0
    for k in range(seen, rows):
        part *= (rows - k) / (k + 1) * odds
        total += part
        if part < 1e-12 * total:
            break
    return min(1.0, math.exp(min(0.0, log_term + math.log(total))))


def psi(observed: Sequence[float], reference: Sequence[float]) -> float:
    """Return the population stability index, with half a row added to each cell."""
    cells = len(observed)
    n, size = sum(observed), sum(reference)
    if not n or not size or not cells:
        return 0.0
    total = 0.0
    for o, r in zip(observed, reference, strict=True):
        p, q = (o + 0.5) / (n + cells / 2), (r + 0.5) / (size + cells / 2)
        total += (p - q) * math.log(p / q)
    return total


def effect(observed: Sequence[float], reference: Sequence[float]) -> float:
    """Return the share of rows that would have to move for the two to agree (total variation), less its noise.

    0 is no difference, 1 is nothing in common. What chance alone gives on that many rows is taken off.
    """
    n, size = sum(observed), sum(reference)
    if not n or not size:
        return 0.0
    total = noise = 0.0
    for o, r in zip(observed, reference, strict=True):
        q = (o + r) / (n + size)
        total += abs(o / n - r / size)
        noise += math.sqrt(2 / math.pi * q * (1 - q) * (1 / n + 1 / size))
    return max(0.0, (total - noise) / 2)


def weighed_reference(counts: Sequence[Sequence[int]], rows: Sequence[float]) -> tuple[list[float], float]:
    """Mix a reference's segments as `rows` are spread over them; return its counts, scaled to what they are worth.

    The worth of a mixture is 1 / sum(weight^2 / segment's rows). Segments without reference rows are left out.
    """
    cells = len(counts[0])
    sizes = [float(sum(one)) for one in counts]
    if len(counts) == 1:
        return [float(one) for one in counts[0]], sizes[0]
    total = sum(r for r, size in zip(rows, sizes, strict=True) if size)
    if not total:
        flat = [float(sum(one[cell] for one in counts)) for cell in range(cells)]
        return flat, sum(flat)
    shares = [0.0] * cells
    inverse = 0.0
    for one, size, live in zip(counts, sizes, rows, strict=True):
        if not size or not live:
            continue
        weight = live / total
        inverse += weight * weight / size
        for cell, count in enumerate(one):
            if count:
                shares[cell] += weight * count / size
    worth = 1 / inverse
    return [share * worth for share in shares], worth
