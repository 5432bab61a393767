from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from harness.report.statistics import (
    average_ranks,
    critical_difference,
    friedman,
    holm,
    mcnemar,
    paired_t,
    sample_std,
    sign_flip,
    sign_flips,
    smallest_sign_flip_p,
    studentised_range,
    t_interval,
)

SAMPLES = [np.random.default_rng(n).normal(0.03, 0.02, n).tolist() for n in (3, 5, 8, 12)]


@pytest.mark.parametrize("values", SAMPLES, ids=len)
def test_interval_and_paired_test_agree_with_scipy(values: list[float]) -> None:
    reference = stats.ttest_1samp(values, 0.0)
    assert t_interval(values) == pytest.approx(tuple(reference.confidence_interval(0.95)))
    assert t_interval(values, 0.8) == pytest.approx(tuple(reference.confidence_interval(0.8)))
    assert paired_t(values) == pytest.approx(reference.pvalue)
    assert sample_std(values) == pytest.approx(stats.tstd(values))


def test_the_interval_covers_95_percent_at_three_seeds() -> None:
    rng = np.random.default_rng(0)
    covered = sum(low <= 0 <= high for low, high in (t_interval(rng.normal(0, 1, 3).tolist()) or (1, 1) for _ in range(1000)))
    assert 930 <= covered <= 970


def test_too_few_values_have_no_interval_and_no_test() -> None:
    assert t_interval([0.5]) is None and t_interval([]) is None
    assert paired_t([0.5]) is None and paired_t([]) is None
    assert sample_std([0.5]) is None


def test_equal_differences_never_claim_more_than_their_number_carries() -> None:
    assert paired_t([0.02] * 3) == 0.25
    assert paired_t([0.0] * 5) == 1.0


@pytest.mark.parametrize("values", SAMPLES, ids=len)
def test_sign_flip_agrees_with_scipys_permutation_test(values: list[float]) -> None:
    def statistic(x: np.ndarray, axis: int) -> np.ndarray:
        return np.sum(x, axis=axis)

    reference = stats.permutation_test((np.array(values),), statistic, permutation_type="samples", n_resamples=np.inf, vectorized=True)
    assert sign_flip(values) == pytest.approx(reference.pvalue)
    assert sign_flip([-v for v in values]) == sign_flip(values)


@pytest.mark.parametrize("n", range(1, 10))
def test_the_smallest_p_is_that_of_differences_of_one_sign(n: int) -> None:
    assert sign_flip([0.1 * (i + 1) for i in range(n)]) == smallest_sign_flip_p(n) == 2 / 2**n


def test_many_differences_are_drawn_not_counted() -> None:
    values = np.random.default_rng(1).normal(0.2, 1.0, 40)
    p = sign_flip(values.tolist())
    assert p == sign_flip(values.tolist()), "the draw is seeded"
    assert p == pytest.approx(stats.ttest_1samp(values, 0.0).pvalue, abs=0.02), "large samples: permutation and t agree"
    assert sign_flip([1.0] * 60, draws=999) == 1 / 1000, "never 0"


def test_holm_on_a_worked_case() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []
    raw = np.random.default_rng(2).uniform(0, 0.2, 7).tolist()
    adjusted = [p for p in holm(raw) if p is not None]
    assert all(a >= p for a, p in zip(adjusted, raw, strict=True))
    in_order = [adjusted[i] for i in np.argsort(raw)]
    assert in_order == sorted(in_order), "the order of the tests is kept"


def test_mcnemar_is_the_binomial_tail_of_the_discordant_clips() -> None:
    rng = np.random.default_rng(3)
    a, b = rng.random(200) < 0.7, rng.random(200) < 0.6
    first, second = int((a & ~b).sum()), int((b & ~a).sum())
    n, k = first + second, min(first, second)
    tail = sum(math.comb(n, i) for i in range(k + 1)) / 2**n
    assert mcnemar(a, b) == pytest.approx(min(1.0, 2 * tail))
    assert mcnemar(a, a) == 1.0
    with pytest.raises(ValueError, match="same test clips"):
        mcnemar(a, b[:-1])


@pytest.mark.parametrize(
    ("methods", "q"),
    [(2, 1.960), (3, 2.343), (4, 2.569), (5, 2.728), (6, 2.850), (7, 2.949), (8, 3.031), (9, 3.102), (10, 3.164)],
)
def test_critical_difference_uses_the_printed_quantiles(methods: int, q: float) -> None:
    """q of the two-tailed Nemenyi test at 0.05, Demsar (2006), table 5a."""
    assert critical_difference(methods, 20) == pytest.approx(q * math.sqrt(methods * (methods + 1) / (6 * 20)), rel=1e-3)


def test_ranks_and_friedman() -> None:
    scores = np.array([[0.9, 0.5, 0.1], [0.7, 0.8, 0.2], [0.9, 0.4, 0.4], [0.6, 0.5, 0.1]])
    assert average_ranks(scores).tolist() == [1.25, 1.875, 2.875]
    assert friedman(scores) == pytest.approx(stats.friedmanchisquare(*scores.T).pvalue)
    assert friedman(np.ones((6, 3))) == 1.0


def test_several_sign_flip_tests_are_the_single_ones() -> None:
    """In one product as in many, exact and drawn, of any lengths."""
    rng = np.random.default_rng(3)
    several = [rng.normal(0.3, 1, n).tolist() for n in (5, 20, 0, 5, 20, 1, *[20] * 40)]
    assert sign_flips(several, draws=2000) == [sign_flip(d, draws=2000) for d in several]
    exact = np.array(several[0])
    every = [abs(float(exact @ np.array(s))) for s in itertools.product((1, -1), repeat=5)]
    assert sign_flips(several)[0] == pytest.approx(np.mean(np.array(every) >= abs(exact.sum()) - 1e-9))


@pytest.mark.parametrize("groups", [2, 3, 12])
@pytest.mark.parametrize("freedom", [1, 2, 4, 22, 243, math.inf])
def test_the_studentised_range_is_that_of_scipy(groups: int, freedom: float) -> None:
    for q in (1.0, 3.0, 6.0, 20.0):
        assert studentised_range(q, groups, freedom) == pytest.approx(stats.studentized_range.cdf(q, groups, freedom), abs=1e-7)


def test_friedman_and_ranks_are_those_of_scipy_with_ties_too() -> None:
    rng = np.random.default_rng(1)
    for scores in (rng.random((9, 4)), rng.integers(0, 4, (12, 5)).astype(float)):
        assert friedman(scores) == pytest.approx(stats.friedmanchisquare(*scores.T).pvalue, rel=1e-9)
        assert average_ranks(scores) == pytest.approx(stats.rankdata(-scores, axis=1).mean(axis=0))
