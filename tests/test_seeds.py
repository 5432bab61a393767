"""Seeds are decided by their role and axes, and stay what they are: they decide every number."""

from __future__ import annotations

from harness.seeds import derive_seed


def test_seeds_of_earlier_records() -> None:
    assert derive_seed("train", "moving-digits", "convnet3d", 0) == 1556620631
    assert derive_seed("distil", "moving-digits", "gvd", 5, 1) == 292950649
    assert derive_seed("asset", "moving-digits", "teacher") == 1200699573


def test_role_and_every_axis_count() -> None:
    seeds = {
        derive_seed("train", "a", "b", 0),
        derive_seed("asset", "a", "b", 0),
        derive_seed("train", "a", "b", 1),
        derive_seed("train", "a", "c", 0),
        derive_seed("train", "a", "b"),
    }
    assert len(seeds) == 5 and all(0 <= seed < 2**31 for seed in seeds)
