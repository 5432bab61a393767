"""LVDD: diverse real clips as compressed latents, with the decoder that turns them back into clips. Nothing is optimised.

Li et al., "Latent Video Dataset Distillation", CVPR workshops 2025, arXiv 2504.17132, and its released code. (1) Every training clip is
encoded by a video or image autoencoder. (2) Of each class some are drawn by a determinantal point process (DPP): a subset S of k clips has
the probability det(L_S) / e_k(L), L = exp(-distance) between latents, so that clips that are alike are seldom drawn together. (3) Tucker's
decomposition of the latents (N, F, c, h, w) keeps a share of the places in time and space,

    z = core x_F U_F x_h U_h x_w U_w

with orthonormal U. Core, factors and decoder are what is kept; an evaluator is trained on the decoded clips.

    python -m harness run --methods 'lvdd,lvdd[select=random],random[layout=grid,compose=4],random' --ipc 1,5,10

**Budgets.** The paper's IPC 1 are 24 latent clips of each class, about as many bytes as one clip in pixels. Here the budget is the byte
audit's: with ``clips=0`` each class gets as many clips as fit beside the decoder, which is charged too, and the table says how many an
evaluator saw. A decoder that fits in no budget of the run is refused with its figures. ``latent_error`` and ``decoder_share`` say what the
compression loses and what the decoder takes.

Reported: gains of 7.8 points on MiniUCF at IPC 5 and 2.6 on HMDB51 at IPC 1 over earlier methods (abstract); its tables could not be read.

**The DPP as released draws uniformly.** Its distances are Euclidean over all standardised latent values, some thousands of them: no two
clips of a class of moving-digits are nearer than 59 (half of them 127 or more), so that nothing beside the diagonal of L is above 2e-26 and
every subset is as likely as any other. ``distance=median`` divides by the median distance within the class; the entries are then 0.37 in
the middle and 0.63 at most.

Named deviations: latents by patches (``codec``) unless an autoencoder is named, such as the paper's sd-vae-ft-mse; latents are posterior
means of unit variance, not samples; of an autoencoder only the decoder is kept, in half precision (released: int8 weights of all of it,
which the audit would charge as pixels); all clips are decomposed together, not 400 at a time; modes that keep their full rank (clips,
channels) have no factor, which gives the same latents. ``select=map`` is the most likely subset, greedily (Chen et al., NeurIPS 2018).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from torch import Tensor

from harness import Asset, Budget, BudgetError, Choice, Context, DatasetInfo, DistilledSet, Metric, Range, Split, method
from methods.gvd.codec import BATCH, Codec, PatchCodec, encode_in_parts, load_codec
from methods.gvd.described import pack_json, unpack_json

COMPRESSED = {"time": 1, "height": 3, "width": 4}
"""The modes of latents (N, F, c, h, w) whose ranks are cut."""
SWEEPS, TOLERANCE = 100, 1e-4
"""Tucker: most sweeps over the modes, and the change of the relative error that ends them (tensorly's, as released)."""


@method("lvdd")
class LVDD:
    """Diverse real clips in a latent space, compressed by Tucker's decomposition and stored with their decoder (CVPR workshops 2025)."""

    metrics = (
        Metric("latent_error", better="lower", doc="Relative error of the latents after Tucker's decomposition (Frobenius norm)."),
        Metric("decoder_share", unit="fraction", doc="Part of the budget that the stored decoder is charged for."),
    )

    codec: Path | str = "patch"
    """The latents: the kind of the asset latent_codec (patch, identity, autoencoder, or a diffusers autoencoder; paper: sd-vae-ft-mse)."""
    clips: int = 0
    """Clips of each class, the paper's IPC (released: 24 for an IPC of 1); 0: as many as the budget holds. All where a class has fewer."""
    select: Annotated[Literal["dpp", "map", "random"], Choice("dpp", "map", "random")] = "dpp"
    """Draw clips by the DPP (paper), take its greedily most likely subset, or draw uniformly."""
    distance: Annotated[Literal["released", "median"], Choice("released", "median")] = "released"
    """Distances in L as they are (released), or in units of their median within the class."""
    ratio: Annotated[float, Range(0.3, 0.9)] = 0.75
    """Share of the places in time, height and width that Tucker's decomposition keeps (paper: 0.75)."""

    def __post_init__(self) -> None:
        if self.clips < 0 or not 0 < self.ratio <= 1:
            raise ValueError(f"lvdd takes clips >= 0 and ratio in (0, 1], got {self}")

    @property
    def deterministic(self) -> bool:
        return self.select == "map"

    def assets(self, info: DatasetInfo) -> dict[str, Asset]:
        return {"codec": Asset("latent_codec", {"kind": self.codec})}

    def distill(self, train: Split, budget: Budget, context: Context) -> DistilledSet:
        codec: Codec = context.assets["codec"]
        decoder = {f"decoder.{name}": tensor for name, tensor in decoder_tensors(codec).items()}
        ranks = {name: max(1, int(self.ratio * codec.latent_shape[mode - 1])) for name, mode in COMPRESSED.items()}
        k = self.clips or self.clips_that_fit(codec, decoder, ranks, budget)

        rows = torch.cat(list(self.selected(train, codec, k, context)))
        latents = torch.cat(list(encode_in_parts(codec, train, rows, context.device)))
        core, factors = tucker(latents, ranks)
        context.metrics["latent_error"] = float((1 - (core.norm() / latents.norm()) ** 2).clamp(min=0).sqrt())
        context.metrics["decoder_share"] = charge(decoder) / charged_at_most(budget)
        # The shape of an empty tensor says what clips to make and costs nothing.
        kept = {"core": core, **factors, **decoder, "clip": torch.empty(0, *budget.clip_shape)}
        weights = frozenset(name for name, tensor in decoder.items() if tensor.is_floating_point())
        return DistilledSet({name: t.cpu().contiguous() for name, t in kept.items()}, train.labels[rows], not_pixels=weights)

    def materialise(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """The decoded clips (N, T, C, H, W) uint8."""
        stored = {name.removeprefix("decoder."): t for name, t in tensors.items() if name.startswith("decoder.")}
        codec = load_decoder(stored, tuple(tensors["clip"].shape[1:]))
        factors = {name: tensors[name] for name in COMPRESSED}
        return torch.cat([codec.decode(expand(part, factors)).cpu() for part in tensors["core"].split(BATCH)])

    def clips_that_fit(self, codec: Codec, decoder: Mapping[str, Tensor], ranks: Mapping[str, int], budget: Budget) -> int:
        """Clips of each class that the budget holds beside decoder and factors. Raises BudgetError where it holds none."""
        factors = sum(rank * codec.latent_shape[COMPRESSED[name] - 1] for name, rank in ranks.items())
        clip = codec.latent_shape[1] * math.prod(ranks.values())
        k = int((charged_at_most(budget) - charge(decoder) - factors) / clip) // budget.classes
        if k < 1:
            of_decoder, of_clips = (math.ceil(v / math.prod(budget.clip_shape[1:])) for v in (charge(decoder), clip * budget.classes))
            raise BudgetError(
                f"nothing fits beside the decoder of codec {str(self.codec)!r}: it is charged {of_decoder} frames of the {budget.frames} "
                f"that the budget allows, a clip of each class {of_clips}"
            )
        return k

    def selected(self, train: Split, codec: Codec, k: int, context: Context) -> Iterator[Tensor]:
        """The rows of k clips of one class after the other."""
        moments = None if self.select == "random" else standard_moments(train, codec, context)
        for label in range(len(train.info.classes)):
            rows = train.indices_of(label)
            size = min(k, len(rows))
            if moments is None:
                chosen = torch.randperm(len(rows), generator=context.generator)[:size]
            else:
                latents = torch.cat(list(encode_in_parts(codec, train, rows, context.device)))
                kernel = similarity(((latents - moments[0]) / moments[1]).flatten(1).cpu(), self.distance)
                chosen = most_likely(kernel, size) if self.select == "map" else draw_k_dpp(kernel, size, context.generator)
            yield rows[chosen]
            context.progress(label + 1, len(train.info.classes))


def similarity(points: Tensor, distance: str) -> Tensor:
    """L = exp(-d) of the Euclidean distances d between the rows of ``points`` (n, D), or of d in units of its median: (n, n) float64."""
    apart = torch.cdist(points.double(), points.double())
    if distance == "median" and len(points) > 1:
        apart = apart / apart[~torch.eye(len(points), dtype=torch.bool)].median().clamp(min=1e-12)
    return torch.exp(-apart)


def draw_k_dpp(kernel: Tensor, k: int, generator: torch.Generator) -> Tensor:
    """Indices (k,) of a subset S of k items, drawn with probability det(L_S) / e_k(L) from L (n, n) (Kulesza and Taskar, ICML 2011).

    e_k is the elementary symmetric polynomial of the eigenvalues. Where fewer than k items differ, equal ones are drawn too.
    """
    values, vectors = torch.linalg.eigh(kernel)
    values = values.clamp(min=1e-10 * float(values.max()))  # rank below k: identical clips
    n, log_values = len(values), values.log()
    # log e_l of the first m eigenvalues, (k + 1, n + 1): the polynomials themselves leave the range of floats
    log_e = torch.full((k + 1, n + 1), -math.inf, dtype=torch.float64)
    log_e[0] = 0
    for m in range(1, n + 1):
        log_e[1:, m] = torch.logaddexp(log_e[1:, m - 1], log_values[m - 1] + log_e[:-1, m - 1])
    kept: list[int] = []
    for m in range(n, 0, -1):
        left = k - len(kept)
        if left and float(_uniform(generator).log()) < float(log_values[m - 1] + log_e[left - 1, m - 1] - log_e[left, m]):
            kept.append(m - 1)
    basis = vectors[:, kept]
    # a projection DPP: item by item with probability |its row|^2, each time in what is orthogonal to the items before
    chosen: list[int] = []
    for _ in range(k):
        weight = basis.square().sum(1)
        weight[chosen] = 0
        item = int(torch.searchsorted(weight.cumsum(0), _uniform(generator) * weight.sum()).clamp(max=n - 1))
        chosen.append(item)
        row = basis[item] / basis[item].norm().clamp(min=1e-12)
        basis = basis - (basis @ row).outer(row)
    return torch.tensor(chosen)


def _uniform(generator: torch.Generator) -> Tensor:
    return torch.rand((), generator=generator, dtype=torch.float64)


def most_likely(kernel: Tensor, k: int) -> Tensor:
    """Indices (k,): item by item what raises det(L_S) most, by updates of a Cholesky factor (Chen et al., NeurIPS 2018, Algorithm 1)."""
    gain = kernel.diagonal().clone()
    rows = torch.zeros(k, len(kernel), dtype=kernel.dtype)
    chosen: list[int] = []
    for i in range(k):
        item = int(gain.argmax())
        rows[i] = (kernel[item] - rows[:i, item] @ rows[:i]) / gain[item].clamp(min=1e-12).sqrt()
        gain = gain - rows[i].square()
        chosen.append(item)
        gain[chosen] = -math.inf
    return torch.tensor(chosen)


def standard_moments(train: Split, codec: Codec, context: Context) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of every latent value over the training split; 1 for those that are constant."""
    total, square = torch.zeros(2, *codec.latent_shape, dtype=torch.float64, device=context.device)
    for z in encode_in_parts(codec, train, torch.arange(len(train)), context.device):
        total, square = total + z.double().sum(0), square + z.double().square().sum(0)
    mean = total / len(train)
    deviation = (square / len(train) - mean.square()).clamp(min=0).sqrt()
    return mean.float(), torch.where(deviation > 1e-6, deviation, 1.0).float()


def tucker(latents: Tensor, ranks: Mapping[str, int]) -> tuple[Tensor, dict[str, Tensor]]:
    """Core (N, f, c, h', w') and orthonormal factors (size, rank) of the modes of ``COMPRESSED``: the leading singular vectors of every
    mode (HOSVD), then improved in turn on what the others keep (HOOI, De Lathauwer et al., 2000)."""
    factors = {name: leading(latents, mode, ranks[name]) for name, mode in COMPRESSED.items()}
    core, before = project(latents, factors), math.inf
    for _ in range(SWEEPS):
        for name, mode in COMPRESSED.items():
            others = {other: factor for other, factor in factors.items() if other != name}
            factors[name] = leading(project(latents, others), mode, ranks[name])
        core = project(latents, factors)
        error = float((1 - (core.norm() / latents.norm()) ** 2).clamp(min=0).sqrt())
        if before - error < TOLERANCE:
            break
        before = error
    return core, factors


def leading(tensor: Tensor, mode: int, rank: int) -> Tensor:
    """The leading left singular vectors (size, rank) of the unfolding of a tensor along a mode, the largest entry of each positive."""
    unfolded = tensor.movedim(mode, 0).flatten(1).double()
    vectors = torch.linalg.eigh(unfolded @ unfolded.T).eigenvectors.flip(1)[:, :rank]
    return (vectors * vectors.gather(0, vectors.abs().argmax(0, keepdim=True)).sign()).float()


def project(latents: Tensor, factors: Mapping[str, Tensor]) -> Tensor:
    """Latents in the coordinates of these factors."""
    for name, factor in factors.items():
        latents = torch.tensordot(latents, factor, ([COMPRESSED[name]], [0])).movedim(-1, COMPRESSED[name])
    return latents


def expand(core: Tensor, factors: Mapping[str, Tensor]) -> Tensor:
    """Latents (N, F, c, h, w) of a core and its factors."""
    return project(core, {name: factor.T for name, factor in factors.items()})


def charged_at_most(budget: Budget) -> int:
    """Values that the audit lets a set store."""
    return budget.frames * math.prod(budget.clip_shape[1:])


def charge(decoder: Mapping[str, Tensor]) -> float:
    """Values that the audit charges a decoder for: weights by their bytes, anything else a byte each."""
    return sum(t.numel() * t.element_size() / (4 if t.is_floating_point() else 1) for t in decoder.values())


def decoder_tensors(codec: Any) -> dict[str, Tensor]:
    """What it takes to decode: the components of patches, or an autoencoder's configuration and its weights behind the latents."""
    if isinstance(codec, PatchCodec):
        return codec.tensors()
    vae = codec.space.vae
    weights = {name: t.half() for name, t in vae.state_dict().items() if not is_encoder(name)}
    # Without diffusers' notes: by them from_config would set back values that were registered later.
    config = {name: value for name, value in vae.config.items() if not name.startswith("_")}
    return {"class": pack_json([type(vae).__name__, config]), **weights}


def load_decoder(tensors: dict[str, Tensor], clip_shape: tuple[int, ...]) -> Codec:
    """The codec behind ``decoder_tensors``; an autoencoder's encoder is untrained. An autoencoder decodes on a GPU where there is one."""
    if "class" not in tensors:
        return load_codec(tensors, clip_shape, torch.device("cpu"))  # type: ignore[arg-type]
    import diffusers

    from methods.gvd.vae import LatentSpace, fit_codec

    name, config = unpack_json(tensors["class"])
    with torch.random.fork_rng(devices=[]):
        vae = getattr(diffusers, name).from_config(config)
    result = vae.load_state_dict({n: t.float() for n, t in tensors.items() if n != "class"}, strict=False)
    assert not result.unexpected_keys and all(is_encoder(key) for key in result.missing_keys)
    return fit_codec(LatentSpace(vae.to("cuda" if torch.cuda.is_available() else "cpu")), clip_shape)  # type: ignore[arg-type]


def is_encoder(name: str) -> bool:
    """Whether a weight of a diffusers autoencoder lies before the latents."""
    return name.startswith(("encoder.", "quant_conv."))
