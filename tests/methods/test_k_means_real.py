from __future__ import annotations

from pathlib import Path

import torch

from harness.budget import Budget
from harness.registry import Registry
from methods.k_means_real import KMeansReal, nearest_to_centroids
from tests.tiny import SHAPE, ContextFactory, tiny_split


def test_one_clip_of_each_blob_and_the_middle_one() -> None:
    centres = torch.tensor([[0.0, 0.0], [100.0, 0.0], [0.0, 100.0]])
    offsets = torch.tensor([[0.1, 0.1], [5.0, 0.0], [-5.0, 0.0], [0.0, 5.0], [0.0, -5.0]])
    points = (centres[:, None] + offsets).flatten(0, 1)
    assert sorted(nearest_to_centroids(points, 3, seed=0).tolist()) == [0, 5, 10]


def test_distinct_also_where_clips_coincide() -> None:
    points = torch.tensor([[0.0], [0.0], [0.0], [0.0], [9.0]])
    rows = nearest_to_centroids(points, 4, seed=0).tolist()
    assert len(set(rows)) == 4
    assert 4 in rows


def test_k_one_is_the_clip_nearest_to_the_mean() -> None:
    points = torch.randn(20, 6, generator=torch.Generator().manual_seed(0))
    assert nearest_to_centroids(points, 1, seed=3).tolist() == [int((points - points.mean(0)).norm(dim=1).argmin())]


def test_latent_space_is_the_codecs(tmp_path: Path) -> None:
    """The real clips nearest to the centres that GVD calls modes=real: the same clips, found in the same latents."""
    from methods.gvd.modes import find_modes
    from methods.latents import FreshLatents

    train, method = tiny_split(), KMeansReal(space="latent")
    assert set(method.assets(train.info)) == {"codec"}
    context = ContextFactory(Registry(), tmp_path)(method, train)
    stored = method.distill(train, Budget(2, SHAPE, 3), context).clips
    assert stored is not None
    codec = context.assets["codec"]
    for label in range(3):
        modes = find_modes(FreshLatents(codec, train, context.device), train.indices_of(label), 2, "real", context.seed)
        found = codec.encode(stored[2 * label : 2 * label + 2])
        assert torch.cdist(found.flatten(1), modes.flatten(1)).amin(1).max() < 1e-3


def test_pixel_space_needs_no_teacher_and_gives_real_clips(tmp_path: Path) -> None:
    train = tiny_split()
    method = KMeansReal(space="pixels")
    assert method.assets(train.info) == {}
    context = ContextFactory(Registry(), tmp_path)(method, train)
    result = method.distill(train, Budget(2, SHAPE, 3), context)
    assert result.clips is not None
    real = {clip.numpy().tobytes() for clip in train.clips()}
    stored = [clip.numpy().tobytes() for clip in result.clips]
    assert len(set(stored)) == 6
    assert set(stored) <= real
