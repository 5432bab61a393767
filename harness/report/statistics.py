"""Statistics for few seeds: intervals, paired tests, corrections. Pure functions of numbers.

What is used where, and why:
    one cell                    mean, sample std (ddof 1), Student-t interval; percentile bootstraps cover only 73 % at n = 3
    two methods, one cell       paired t-test over shared seeds (the training seed does not depend on the method, so pairs are real)
    two methods, many cells     sign-flip permutation of the paired differences: exact, no distribution assumed
    several tests at once       Holm
    one pair, one seed          exact McNemar over the test clips: about two trained networks, not about the methods
    one column of methods       studentised range over shared seeds (``separate``): the best is chosen from the data, so all pairs count
    many methods, many blocks   Friedman ranks with Nemenyi's critical difference
A test that cannot reach alpha with the n at hand says so (``smallest_sign_flip_p``): "n too small" is not "no difference".

Distributions are those of scipy.special: the import of scipy.stats takes more than a second, a quarter of a report of 5,000 records. What
that lacks is written here, and tests hold it to scipy.stats.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_TOGETHER = 32
"""Lists of differences of one product: 6 MB of sums where patterns are drawn."""
EXACT_SIGN_FLIPS = 16
"""Up to so many differences every sign pattern is counted (65,536); above it, patterns are drawn."""


def sample_std(values: Sequence[float]) -> float | None:
    """Standard deviation with ddof 1; None for fewer than two values.

    >>> sample_std([1.0, 2.0, 3.0])
    1.0
    >>> sample_std([1.0]) is None
    True
    """
    return float(np.std(np.asarray(values, dtype=float), ddof=1)) if len(values) > 1 else None


def t_interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float] | None:
    """Student-t confidence interval of the mean, (low, high); None for fewer than two values.

    >>> low, high = t_interval([1.0, 2.0, 3.0])
    >>> round(low, 3), round(high, 3)
    (-0.484, 4.484)
    """
    from scipy.special import stdtrit

    n = len(values)
    if n < 2:
        return None
    mean = float(np.mean(values))
    half = float(stdtrit(n - 1, 0.5 + confidence / 2)) * float(np.std(values, ddof=1)) / math.sqrt(n)
    return mean - half, mean + half


def paired_t(differences: Sequence[float]) -> float | None:
    """Two-sided p of the paired t-test on differences; None for fewer than two.

    Where all differences are equal the t statistic is undefined (0/0) or infinite; then the exact sign-flip p is returned, which is
    never smaller than the data can carry.

    >>> round(paired_t([0.01, 0.03, 0.02]), 4)
    0.0742
    >>> paired_t([0.02, 0.02])
    0.5
    >>> paired_t([0.02]) is None
    True
    """
    from scipy.special import stdtr

    d = np.asarray(differences, dtype=float)
    if len(d) < 2:
        return None
    if np.ptp(d) <= 1e-12 * max(1.0, float(np.abs(d).max())):
        return sign_flip(d.tolist())
    t = float(d.mean()) / (float(d.std(ddof=1)) / math.sqrt(len(d)))
    return float(2 * stdtr(len(d) - 1, -abs(t)))


def smallest_sign_flip_p(n: int) -> float:
    """The smallest two-sided p that a sign-flip (or Wilcoxon signed-rank) test of n differences can give: 2 / 2^n.

    >>> smallest_sign_flip_p(3), smallest_sign_flip_p(5), smallest_sign_flip_p(6)
    (0.25, 0.0625, 0.03125)
    """
    return min(1.0, 2.0 / 2.0**n)


def sign_flip(differences: Sequence[float], *, draws: int = 50_000, seed: int = 0) -> float:
    """Two-sided p of the sign-flip permutation test of a zero mean.

    Under the null each difference is as likely as its negative. Exact up to 16 differences; above, ``draws`` random patterns with
    the observed one counted in, (hits + 1) / (draws + 1), so that p is never 0. An empty list gives 1.

    >>> sign_flip([0.1, 0.2, 0.3])
    0.25
    >>> sign_flip([0.1, -0.1])
    1.0
    """
    return sign_flips([differences], draws=draws, seed=seed)[0]


def sign_flips(several: Sequence[Sequence[float]], *, draws: int = 50_000, seed: int = 0) -> list[float]:
    """``sign_flip`` of several lists of differences; those of one length share a product, which is many times faster."""
    by_length: dict[int, list[int]] = {}
    for i, differences in enumerate(several):
        by_length.setdefault(len(differences), []).append(i)
    found = [1.0] * len(several)
    for n, places in by_length.items():
        exact = n <= EXACT_SIGN_FLIPS
        for part in (places[start : start + _TOGETHER] for start in range(0, len(places) if n else 0, _TOGETHER)):
            d = np.asarray([several[i] for i in part], dtype=float).T
            d = d / np.maximum(np.abs(d).sum(axis=0), 1e-300)
            observed = np.abs(d.sum(axis=0)) - 1e-6  # sums of single precision: what is equal counts as equal
            hits = (np.abs(_signs(n, 0 if exact else draws, seed) @ d.astype(np.float32)) >= observed).sum(axis=0)
            for i, count in zip(part, hits.tolist(), strict=True):
                found[i] = count / 2**n if exact else (count + 1) / (draws + 1)
    return found


@functools.lru_cache(maxsize=2)
def _signs(n: int, draws: int, seed: int) -> np.ndarray:
    """Sign patterns of n differences, (patterns, n), kept because many tests of a report have the same n; draws 0: every pattern."""
    if not draws:
        return (1 - 2 * ((np.arange(2**n)[:, None] >> np.arange(n)) & 1)).astype(np.float32)
    return (np.random.default_rng(seed).integers(0, 2, size=(draws, n), dtype=np.int8) * 2 - 1).astype(np.float32)


def holm(ps: Sequence[float | None]) -> list[float | None]:
    """Holm's step-down adjusted p-values, in the order given; None stays None and is not counted as a test.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    >>> holm([None, 0.01])
    [None, 0.01]
    """
    order = sorted((p, i) for i, p in enumerate(ps) if p is not None)
    adjusted: list[float | None] = [None] * len(ps)
    running = 0.0
    for rank, (p, i) in enumerate(order):
        running = max(running, min(1.0, p * (len(order) - rank)))
        adjusted[i] = running
    return adjusted


@dataclass(frozen=True)
class Separation:
    """Which of k methods n shared seeds tell apart. means: (k,). apart: (k, k), symmetric. least: the difference of two means that
    methods of equal spread must exceed to be told apart."""

    means: np.ndarray
    apart: np.ndarray
    least: float


def separate(scores: np.ndarray, alpha: float = 0.05) -> Separation | None:
    """All pairs of methods from scores (n seeds, k methods), with an error of ``alpha`` for all pairs together.

    Tukey's studentised range for blocks (the seeds): residuals after taking out methods and seeds have (n - 1)(k - 1) degrees of freedom,
    so that three seeds still carry something, and what all methods gain from a seed does not count. Because every pair counts, the best may
    be chosen from the same data. The range assumes one spread for all methods; where a pair's own differences spread more, they decide,
    with the larger of the range's and Student's critical value. None where n < 2, k < 2, or nothing varies but the means.

    >>> made = separate(np.array([[0.50, 0.51, 0.70], [0.53, 0.50, 0.72], [0.51, 0.53, 0.71]]))
    >>> made.apart[2].tolist(), made.apart[0, 1].item(), round(made.least, 3)
    ([True, True, False], False, 0.041)
    """
    x = np.asarray(scores, dtype=float)
    n, k = x.shape
    if n < 2 or k < 2:
        return None
    means = x.mean(axis=0)
    residuals = x - means - x.mean(axis=1, keepdims=True) + x.mean()
    freedom = (n - 1) * (k - 1)
    pooled = 2 * float((residuals**2).sum()) / freedom  # variance of a difference
    if pooled < 1e-12:
        return None
    critical, student = _critical_range(k, freedom, alpha), _critical_t(n - 1, alpha)
    own = (x[:, :, None] - x[:, None, :]).var(axis=0, ddof=1)
    least = critical * math.sqrt(pooled / n)
    needed = np.maximum(least, max(critical, student) * np.sqrt(own / n))
    return Separation(means, np.abs(means[:, None] - means) > needed, least)


@functools.cache
def _critical_range(methods: int, freedom: float, alpha: float) -> float:
    """Of the difference of two means in its standard errors, for all pairs of these methods: the studentised range over the root of 2."""
    low, high = 0.0, 1.0
    while studentised_range(high, methods, freedom) < 1 - alpha:
        low, high = high, 2 * high
    for _ in range(50):  # bisection, to the last digits of a double
        middle = (low + high) / 2
        low, high = (middle, high) if studentised_range(middle, methods, freedom) < 1 - alpha else (low, middle)
    return high / math.sqrt(2)


def studentised_range(q: float, groups: int, freedom: float) -> float:
    """Probability that the range of ``groups`` standard normal draws, over an independent estimate of their standard deviation with
    ``freedom`` degrees of freedom (math.inf: known), is at most q (Tukey 1953; Copenhaver and Holland 1988).

    The integral over the smallest draw z and over the estimate s, by Gauss-Legendre.

    >>> round(studentised_range(3.3145, 3, math.inf), 4), round(studentised_range(6.0849, 2, 2), 4)
    (0.95, 0.95)
    """
    from scipy.special import gammaln, ndtr

    x, weights = _nodes()
    z = 8 * x
    density = 8 * weights * np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)
    if math.isinf(freedom):
        s, mass = np.ones(1), np.ones(1)
    else:
        centre, reach = math.sqrt(max(freedom - 1, 0) / freedom), 9 / math.sqrt(2 * freedom) * (1 if freedom > 3 else 1.5)
        low, high = max(0.0, centre - reach), centre + reach
        s = low + (high - low) * (x + 1) / 2
        log = freedom / 2 * math.log(freedom / 2) - gammaln(freedom / 2) + math.log(2) + (freedom - 1) * np.log(s) - freedom * s**2 / 2
        mass = np.exp(log) * weights * (high - low) / 2
    between = ndtr(z + (q * s)[:, None]) - ndtr(z)
    return float(mass @ (groups * between ** (groups - 1) @ density))


@functools.cache
def _nodes() -> tuple[np.ndarray, np.ndarray]:
    x, weights = np.polynomial.legendre.leggauss(160)
    return x, weights


@functools.cache
def _critical_t(freedom: int, alpha: float) -> float:
    from scipy.special import stdtrit

    return float(stdtrit(freedom, 1 - alpha / 2))


def mcnemar(correct_a: Sequence[bool] | np.ndarray, correct_b: Sequence[bool] | np.ndarray) -> float:
    """Exact two-sided McNemar p for two networks tested on the same clips, (n,) booleans each.

    Only clips that one gets right and the other wrong count; under the null each is a fair coin.

    >>> mcnemar([True] * 6 + [False], [False] * 6 + [False])
    0.03125
    >>> mcnemar([True, False], [True, False])
    1.0
    """
    from scipy.special import bdtr

    a, b = np.asarray(correct_a, dtype=bool), np.asarray(correct_b, dtype=bool)
    if a.shape != b.shape:
        raise ValueError(f"both networks need the same test clips, got {a.shape} and {b.shape}")
    only_a, only_b = int(np.sum(a & ~b)), int(np.sum(b & ~a))
    if only_a + only_b == 0:
        return 1.0
    return min(1.0, 2 * float(bdtr(min(only_a, only_b), only_a + only_b, 0.5)))


def average_ranks(scores: np.ndarray) -> np.ndarray:
    """Mean rank of each method, (methods,), from scores (blocks, methods), higher is better; rank 1 is best, ties share.

    >>> average_ranks(np.array([[0.9, 0.5, 0.1], [0.8, 0.8, 0.2]])).tolist()
    [1.25, 1.75, 3.0]
    """
    return _ranks(np.asarray(scores, dtype=float)).mean(axis=0)


def _ranks(scores: np.ndarray) -> np.ndarray:
    """Rank of each method in its block, (blocks, methods); ties share the mean of their ranks."""
    above = (scores[:, None, :] > scores[:, :, None]).sum(axis=2)
    alike = (scores[:, None, :] == scores[:, :, None]).sum(axis=2)
    return np.asarray(above + (alike + 1) / 2)


def friedman(scores: np.ndarray) -> float:
    """p of Friedman's test that all methods rank alike, from scores (blocks, methods) with at least 3 methods.

    >>> round(friedman(np.array([[3, 2, 1]] * 6)), 4)
    0.0025
    """
    from scipy.special import chdtrc

    x = np.asarray(scores, dtype=float)
    blocks, k = x.shape
    if np.ptp(x, axis=1).max() == 0:
        return 1.0
    ranks = _ranks(x)
    ties = ((x[:, None, :] == x[:, :, None]).sum(axis=2) ** 2 - 1).sum()  # the sum of t (t^2 - 1) over groups of t alike
    statistic = 12 / (k * blocks * (k + 1)) * float((ranks.sum(axis=0) ** 2).sum()) - 3 * blocks * (k + 1)
    return float(chdtrc(k - 1, statistic / (1 - float(ties) / (k * (k**2 - 1) * blocks))))


def critical_difference(methods: int, blocks: int, alpha: float = 0.05) -> float:
    """Nemenyi's critical difference of mean ranks (Demsar 2006): methods whose mean ranks differ by less are not separable.

    >>> round(critical_difference(4, 10), 3)
    1.483
    """
    return _critical_range(methods, math.inf, alpha) * math.sqrt(methods * (methods + 1) / (6 * blocks))


@functools.cache
def rank_range(methods: int, blocks: int, alpha: float = 0.05, draws: int = 10_000) -> float:
    """What the range of mean ranks of equal methods exceeds in at most ``alpha`` of ``draws`` tables of random ranks.

    With few methods and blocks the ranks are coarse and Nemenyi's formula, which is for many blocks, errs in up to 7 %; this is exact but
    for the draw, which is seeded.

    >>> round(rank_range(3, 9), 3), round(critical_difference(3, 9), 3)
    (1.111, 1.105)
    """
    ranks = np.random.default_rng(0).random((draws, blocks, methods)).argsort(axis=2).mean(axis=1)
    return float(np.quantile(np.ptp(ranks, axis=1), 1 - alpha, method="higher")) + 1e-9
