from __future__ import annotations

from itertools import combinations

import torch

from methods.herding import herd


def test_by_hand_on_a_line() -> None:
    # mean 4; step 1: nearest to 4 is 5; step 2: 2*4 - 5 = 3, nearest is 2; step 3: 12 - 7 = 5 without 5, nearest is 9; then 0
    features = torch.tensor([[0.0], [2.0], [5.0], [9.0]])
    assert herd(features, 4).tolist() == [2, 1, 3, 0]


def test_every_step_is_the_brute_force_choice() -> None:
    features = torch.randn(12, 5, generator=torch.Generator().manual_seed(1))
    mean = features.mean(0)
    chosen: list[int] = []
    for step in range(1, 13):
        rest = [i for i in range(12) if i not in chosen]
        # the released objective, i * mean - sum - f, is i times the gap between the mean and the mean of what is chosen
        gaps = [(mean - features[[*chosen, i]].mean(0)).norm().item() * step for i in rest]
        chosen.append(rest[gaps.index(min(gaps))])
    assert herd(features, 12).tolist() == chosen


def test_follows_the_mean_better_than_most_sets() -> None:
    features = torch.randn(10, 3, generator=torch.Generator().manual_seed(2))
    gaps = sorted((features[list(s)].mean(0) - features.mean(0)).norm().item() for s in combinations(range(10), 4))
    gap = (features[herd(features, 4)].mean(0) - features.mean(0)).norm().item()
    assert gap <= gaps[len(gaps) // 10]


def test_coinciding_clips_are_still_distinct_rows() -> None:
    assert herd(torch.ones(3, 2), 3).tolist() == [0, 1, 2]
