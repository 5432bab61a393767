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
    from scipy import stats

    n = len(values)
    if n < 2:
        return None
    mean = float(np.mean(values))
    half = float(stats.t.ppf(0.5 + confidence / 2, n - 1)) * float(np.std(values, ddof=1)) / math.sqrt(n)
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
    from scipy import stats

    d = np.asarray(differences, dtype=float)
    if len(d) < 2:
        return None
    if np.ptp(d) <= 1e-12 * max(1.0, float(np.abs(d).max())):
        return sign_flip(d.tolist())
    return float(stats.ttest_1samp(d, 0.0).pvalue)


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
def _critical_range(methods: int, freedom: int, alpha: float) -> float:
    """Of the difference of two means in its standard errors, for all pairs of these methods."""
    from scipy import stats

    return float(stats.studentized_range.ppf(1 - alpha, methods, freedom)) / math.sqrt(2)


@functools.cache
def _critical_t(freedom: int, alpha: float) -> float:
    from scipy import stats

    return float(stats.t.ppf(1 - alpha / 2, freedom))


def mcnemar(correct_a: Sequence[bool] | np.ndarray, correct_b: Sequence[bool] | np.ndarray) -> float:
    """Exact two-sided McNemar p for two networks tested on the same clips, (n,) booleans each.

    Only clips that one gets right and the other wrong count; under the null each is a fair coin.

    >>> mcnemar([True] * 6 + [False], [False] * 6 + [False])
    0.03125
    >>> mcnemar([True, False], [True, False])
    1.0
    """
    from scipy import stats

    a, b = np.asarray(correct_a, dtype=bool), np.asarray(correct_b, dtype=bool)
    if a.shape != b.shape:
        raise ValueError(f"both networks need the same test clips, got {a.shape} and {b.shape}")
    only_a, only_b = int(np.sum(a & ~b)), int(np.sum(b & ~a))
    if only_a + only_b == 0:
        return 1.0
    return float(stats.binomtest(only_a, only_a + only_b, 0.5).pvalue)


def average_ranks(scores: np.ndarray) -> np.ndarray:
    """Mean rank of each method, (methods,), from scores (blocks, methods), higher is better; rank 1 is best, ties share.

    >>> average_ranks(np.array([[0.9, 0.5, 0.1], [0.8, 0.8, 0.2]])).tolist()
    [1.25, 1.75, 3.0]
    """
    from scipy import stats

    return np.asarray(stats.rankdata(-np.asarray(scores, dtype=float), axis=1)).mean(axis=0)


def friedman(scores: np.ndarray) -> float:
    """p of Friedman's test that all methods rank alike, from scores (blocks, methods) with at least 3 methods.

    >>> round(friedman(np.array([[3, 2, 1]] * 6)), 4)
    0.0025
    """
    from scipy import stats

    columns = np.asarray(scores, dtype=float).T
    if np.ptp(columns, axis=0).max() == 0:
        return 1.0
    return float(stats.friedmanchisquare(*columns).pvalue)


def critical_difference(methods: int, blocks: int, alpha: float = 0.05) -> float:
    """Nemenyi's critical difference of mean ranks (Demsar 2006): methods whose mean ranks differ by less are not separable.

    >>> round(critical_difference(4, 10), 3)
    1.483
    """
    from scipy import stats

    q = float(stats.studentized_range.ppf(1 - alpha, methods, np.inf)) / math.sqrt(2)
    return q * math.sqrt(methods * (methods + 1) / (6 * blocks))


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
