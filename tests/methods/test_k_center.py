from __future__ import annotations

from itertools import combinations

import torch

from methods.k_center import cover


def radius(features: torch.Tensor, centres: list[int]) -> float:
    return float(torch.cdist(features, features[centres]).min(1).values.max())


def test_by_hand_on_a_line() -> None:
    # mean 3.9: first 4.5; farthest from it 10 (5.5); then 0 (4.5 from 4.5); then 2 (2 from 0), 3 being only 1.5 from 4.5
    features = torch.tensor([[0.0], [2.0], [4.5], [10.0], [3.0]])
    assert cover(features, 4).tolist() == [2, 3, 0, 1]


def test_every_step_is_the_brute_force_choice() -> None:
    features = torch.randn(15, 4, generator=torch.Generator().manual_seed(3))
    distances = torch.cdist(features.double(), features.double())
    chosen = [int((features - features.mean(0)).norm(dim=1).argmin())]
    while len(chosen) < 15:
        rest = [i for i in range(15) if i not in chosen]
        nearest = [min(distances[i, c].item() for c in chosen) for i in rest]
        chosen.append(rest[nearest.index(max(nearest))])
    assert cover(features, 15).tolist() == chosen


def test_within_twice_the_best_radius() -> None:
    """Gonzalez's guarantee, which holds from any first centre."""
    for seed in range(5):
        features = torch.randn(9, 2, generator=torch.Generator().manual_seed(seed))
        for k in (2, 3, 4):
            best = min(radius(features, list(s)) for s in combinations(range(9), k))
            assert radius(features, cover(features, k).tolist()) <= 2 * best + 1e-6


def test_coinciding_clips_are_still_distinct_rows() -> None:
    assert sorted(cover(torch.ones(3, 2), 3).tolist()) == [0, 1, 2]
