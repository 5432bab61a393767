from __future__ import annotations

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import chi2
from torch import Tensor

from harness.budget import Budget, audit, charged_values
from harness.data.base import Split
from harness.distilled import DistilledSet
from harness.errors import BudgetError
from harness.plugin import Context
from harness.registry import Registry
from methods.gvd.codec import PatchCodec
from methods.gvd.vae import load_trained_codec, train_autoencoder
from methods.latents import latents_of
from methods.lvdd import COMPRESSED, LVDD, draw_k_dpp, expand, leading, most_likely, similarity, standard_moments, tucker
from tests.tiny import SHAPE, ContextFactory, tiny_split


@pytest.fixture
def contexts(tmp_path: Path) -> ContextFactory:
    return ContextFactory(Registry(), tmp_path)


def distill(contexts: ContextFactory, train: Split, ipc: int, method: LVDD, seed: int = 0) -> tuple[DistilledSet, Context]:
    context = contexts(method, train, seed)
    return method.distill(train, Budget(ipc, SHAPE, 3), context), context


def kernels() -> dict[str, Tensor]:
    points = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
    points[1] = points[0] + 0.01  # two that are all but equal
    return {"points": similarity(points, "released"), "identity": torch.eye(6, dtype=torch.float64)}


def determinants(kernel: Tensor, k: int) -> dict[tuple[int, ...], float]:
    return {s: float(torch.det(kernel[list(s)][:, list(s)])) for s in itertools.combinations(range(len(kernel)), k)}


@pytest.mark.parametrize("kernel", ["points", "identity"])
@pytest.mark.parametrize("k", [1, 2, 4])
def test_dpp_draws_every_subset_as_often_as_its_determinant_says(kernel: str, k: int) -> None:
    """Against the enumeration of all subsets, by a chi-square test at 1 in 10,000."""
    matrix, draws, generator = kernels()[kernel], 1500, torch.Generator().manual_seed(1)
    exact = determinants(matrix, k)
    total = sum(exact.values())
    counts = dict.fromkeys(exact, 0)
    for _ in range(draws):
        counts[tuple(sorted(draw_k_dpp(matrix, k, generator).tolist()))] += 1
    expected = {s: draws * d / total for s, d in exact.items()}
    large = [s for s in exact if expected[s] >= 3]
    rest = sum(expected[s] for s in exact if expected[s] < 3)
    statistic = sum((counts[s] - expected[s]) ** 2 / expected[s] for s in large)
    assert statistic < chi2.ppf(0.9999, len(large) - 1 + (rest > 0))
    assert abs(sum(counts[s] for s in exact if expected[s] < 3) - rest) < 5 * math.sqrt(rest) + 5


def test_dpp_of_many_items_and_of_identical_ones_gives_different_items() -> None:
    generator = torch.Generator().manual_seed(0)
    kernel = similarity(torch.randn(400, 5, generator=generator), "median")
    assert len(set(draw_k_dpp(kernel, 150, generator).tolist())) == 150
    same = torch.ones(6, 6, dtype=torch.float64)
    assert len(set(draw_k_dpp(same, 4, generator).tolist())) == 4
    assert sorted(draw_k_dpp(same, 6, generator).tolist()) == list(range(6))


def test_most_likely_adds_what_raises_the_determinant_most() -> None:
    kernel = kernels()["points"] + torch.diag(torch.tensor([0.0, 0.1, 0.2, 0.3, 0.4, 0.5], dtype=torch.float64))
    naive: list[int] = []
    for _ in range(4):
        left = [i for i in range(6) if i not in naive]
        naive.append(max(left, key=lambda i: float(torch.det(kernel[[*naive, i]][:, [*naive, i]]))))
    assert most_likely(kernel, 4).tolist() == naive


def test_most_likely_is_the_best_subset_of_three_pairs_of_near_equals() -> None:
    points = torch.tensor([[0.0, 0], [0.01, 0], [5, 0], [5.02, 0], [0, 9], [0, 9.03]])
    kernel = similarity(points, "released")
    exact = determinants(kernel, 3)
    found = tuple(sorted(most_likely(kernel, 3).tolist()))
    assert exact[found] == pytest.approx(max(exact.values()), rel=0.05)
    assert {i // 2 for i in found} == {0, 1, 2}


def test_similarity_is_exp_of_the_negative_distance() -> None:
    points = torch.tensor([[0.0, 0.0], [3.0, 4.0], [0.0, 1.0]])
    expected = np.exp(-np.array([[0, 5, 1], [5, 0, 18**0.5], [1, 18**0.5, 0]]))
    np.testing.assert_allclose(similarity(points, "released").numpy(), expected, rtol=1e-6)
    np.testing.assert_allclose(similarity(points, "median").numpy(), expected ** (1 / 18**0.5), rtol=1e-6)


def numpy_project(x: np.ndarray, factors: dict[str, np.ndarray]) -> np.ndarray:
    for name, factor in factors.items():
        x = np.moveaxis(np.tensordot(factor.T, x, (1, COMPRESSED[name])), 0, COMPRESSED[name])
    return x


def numpy_leading(x: np.ndarray, mode: int, rank: int) -> np.ndarray:
    return np.linalg.svd(np.moveaxis(x, mode, 0).reshape(x.shape[mode], -1), full_matrices=False)[0][:, :rank]


def test_tucker_against_numpy() -> None:
    """Beside HOOI by numpy's singular vectors, swept until nothing moves: as good, no worse than HOSVD, no better than any mode allows."""
    latents = torch.randn(5, 6, 2, 7, 8, generator=torch.Generator().manual_seed(3)).cumsum(1).cumsum(3)
    ranks = {"time": 3, "height": 4, "width": 5}
    x = latents.double().numpy()
    factors = {name: numpy_leading(x, mode, ranks[name]) for name, mode in COMPRESSED.items()}
    hosvd = np.linalg.norm(numpy_project(x, factors))
    for _ in range(200):
        for name, mode in COMPRESSED.items():
            others = {other: f for other, f in factors.items() if other != name}
            factors[name] = numpy_leading(numpy_project(x, others), mode, ranks[name])
    best = np.linalg.norm(numpy_project(x, factors))

    core, ours = tucker(latents, ranks)
    assert core.shape == (5, 3, 2, 4, 5)
    for name, factor in ours.items():
        torch.testing.assert_close(factor.T @ factor, torch.eye(ranks[name]), atol=1e-5, rtol=0)
    assert hosvd <= float(core.norm()) * (1 + 1e-6)
    assert float(core.norm()) == pytest.approx(best, rel=1e-3)
    error = float((expand(core, ours) - latents).norm())
    assert error == pytest.approx(math.sqrt(float(latents.norm()) ** 2 - float(core.norm()) ** 2), rel=1e-4)
    for name, mode in COMPRESSED.items():
        lost = np.linalg.svd(np.moveaxis(x, mode, 0).reshape(x.shape[mode], -1), compute_uv=False)[ranks[name] :]
        assert error >= np.linalg.norm(lost) * (1 - 1e-5)


def test_leading_vectors_are_numpys_up_to_their_sign() -> None:
    tensor = torch.randn(4, 5, 3, 6, 7, generator=torch.Generator().manual_seed(0))
    for mode in COMPRESSED.values():
        ours, theirs = leading(tensor, mode, 3).numpy(), numpy_leading(tensor.double().numpy(), mode, 3)
        np.testing.assert_allclose(np.abs((ours * theirs).sum(0)), 1, atol=1e-5)
        assert (ours[np.abs(ours).argmax(0), range(3)] > 0).all()


def test_tucker_of_full_rank_or_of_what_has_that_rank_loses_nothing() -> None:
    latents = torch.randn(4, 6, 2, 5, 5)
    core, factors = tucker(latents, {"time": 6, "height": 5, "width": 5})
    torch.testing.assert_close(expand(core, factors), latents, atol=1e-4, rtol=1e-4)
    low = expand(torch.randn(4, 2, 2, 3, 3), {"time": torch.randn(6, 2), "height": torch.randn(5, 3), "width": torch.randn(5, 3)})
    core, factors = tucker(low, {"time": 2, "height": 3, "width": 3})
    torch.testing.assert_close(expand(core, factors), low, atol=1e-4, rtol=1e-3)


def test_moments_are_those_of_all_latents(contexts: ContextFactory) -> None:
    train, method = tiny_split(), LVDD()
    context = contexts(method, train)
    codec = context.assets["codec"]
    z = codec.encode(train.clips())
    mean, deviation = standard_moments(latents_of(codec, train, context), len(train))
    torch.testing.assert_close(mean, z.mean(0), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(deviation, z.std(0, unbiased=False), atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("ipc", [1, 2])
def test_the_budget_is_filled_and_never_passed(contexts: ContextFactory, ipc: int) -> None:
    train, budget = tiny_split(per_class=20), Budget(ipc, SHAPE, 3)
    stored, context = distill(contexts, train, ipc, LVDD())
    per_class = stored.labels.bincount().tolist()
    assert len(set(per_class)) == 1
    assert per_class[0] > ipc
    assert audit(stored, budget)["frames_stored"] <= budget.frames
    clip = stored.tensors["core"][0].numel()
    allowed = budget.frames * 32 * 32
    assert charged_values(stored) <= allowed < charged_values(stored) + 3 * clip
    assert 0 < context.metrics["decoder_share"] < 0.01  # type: ignore[operator]
    one_more, _ = distill(contexts, train, ipc, LVDD(clips=per_class[0] + 1))
    with pytest.raises(BudgetError, match="the set stores"):
        audit(one_more, budget)


def test_a_class_with_fewer_clips_gives_all_of_them(contexts: ContextFactory) -> None:
    stored, _ = distill(contexts, tiny_split(per_class=4), 5, LVDD())
    assert stored.labels.bincount().tolist() == [4, 4, 4]


@pytest.mark.parametrize("select", ["dpp", "map", "random"])
def test_uncompressed_it_stores_real_clips_of_their_class(contexts: ContextFactory, select: str) -> None:
    train = tiny_split()
    method = LVDD(clips=2, select=select, distance="median", ratio=1.0)  # type: ignore[arg-type]
    stored, context = distill(contexts, train, 3, method)
    assert context.metrics["latent_error"] == pytest.approx(0, abs=2e-3)
    clips = method.materialise(dict(DistilledSet.from_bytes(stored.to_bytes()).tensors)).float()
    codec = context.assets["codec"]
    seen = codec.decode(codec.encode(train.clips())).float()
    nearest = torch.cdist(clips.flatten(1), seen.flatten(1)).min(1)
    assert nearest.values.max() < 0.6 * math.sqrt(8 * 32 * 32), "less than a gray value a pixel"
    assert torch.equal(train.labels[nearest.indices], stored.labels)
    assert len(set(nearest.indices.tolist())) == 6


def test_the_most_likely_clips_are_diverse(contexts: ContextFactory) -> None:
    """Every clip of a class twice: greedily most likely ones are no copies of each other."""
    single = tiny_split(per_class=4)
    both = np.concatenate([single.clips().numpy()] * 2)
    twice = Split(both, single.labels.repeat(2), single.native_frames.repeat(2), ["x"] * 24, single.info)
    method = LVDD(clips=4, select="map", distance="median", ratio=1.0)
    stored = method.distill(twice, Budget(5, SHAPE, 3), contexts(method, twice))
    clips = method.materialise(dict(stored.tensors)).float().flatten(1)
    assert torch.cdist(clips, clips)[~torch.eye(12, dtype=torch.bool)].min() > 100
    assert method.deterministic


def test_an_autoencoder_is_charged_with_its_decoder_alone(contexts: ContextFactory) -> None:
    train, method = tiny_split(), LVDD(codec="autoencoder", clips=2, ratio=1.0)
    context = contexts.bare(train)
    codec = load_trained_codec(train_autoencoder(train, context, steps=2, width=8), SHAPE, torch.device("cpu"))
    context.assets = {"codec": codec}
    budget = Budget(30, SHAPE, 3)
    stored = method.distill(train, budget, context)
    weights = sum(p.numel() for n, p in codec.space.vae.named_parameters() if n.startswith(("decoder.", "post_quant_conv.")))
    config = stored.tensors["decoder.class"].numel()
    share = context.metrics["decoder_share"]
    assert share == pytest.approx((weights / 2 + config) / (budget.frames * 32 * 32))
    rest = sum(stored.tensors[name].numel() for name in ("core", *COMPRESSED))
    assert charged_values(stored) == pytest.approx(weights / 2 + config + rest)
    assert not any("encoder." in name and "decoder." not in name.removeprefix("decoder.") for name in stored.tensors)
    clips = method.materialise(dict(DistilledSet.from_bytes(stored.to_bytes()).tensors))
    expected = codec.decode(expand(stored.tensors["core"], {name: stored.tensors[name] for name in COMPRESSED}))
    assert (clips.float() - expected.float()).abs().max() <= 1, "weights in half precision, latents in float32"
    with pytest.raises(BudgetError, match=r"nothing fits beside the decoder of codec 'autoencoder': it is charged \d+ frames of the 8"):
        LVDD(codec="autoencoder").distill(train, Budget(1, SHAPE, 1), context)


def test_patches_without_loss_fit_in_no_budget_of_one(contexts: ContextFactory) -> None:
    train = tiny_split()
    codec = PatchCodec.fit(train, 1, 1, 1.0)
    context = contexts.bare(train, assets={"codec": codec})
    with pytest.raises(BudgetError, match="nothing fits beside"):
        LVDD(codec="identity", ratio=1.0).distill(train, Budget(1, SHAPE, 3), context)


def test_unfit_parameters_are_refused() -> None:
    with pytest.raises(ValueError, match="lvdd takes clips >= 0 and ratio"):
        LVDD(ratio=0.0)
