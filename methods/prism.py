"""PRISM: distribution matching on key frames. A clip is a few frames with straight lines between them; frames are added where that fails.

Choi et al., "PRISM: Video Dataset Condensation with Progressive Refinement and Insertion for Sparse Motion", arXiv 2505.22564. A distilled
clip starts as its first and last frame. A frame at time t between the neighbouring key frames at k < t < l is

    s_t = a s_k + (1 - a) s_l,   a = (l - t) / (l - k)                                                   (interpolation)

and DM's loss of the whole clips is lowered in the key frames alone. A frame becomes a key frame, from its interpolated value on, where the
loss pulls it elsewhere than both of its neighbours:

    cos(g_t, g_k) < epsilon  and  cos(g_t, g_l) < epsilon,   g = gradient of the loss by a frame of the clip   (insertion)

None is added in the first and the last fifth of the iterations. What is stored are key frames and their places, so that simple motion costs
less than complex motion; ``key_frames`` says how many a clip came to, of T.

    python -m harness run --dataset miniucf --data-root DIR --methods prism,dm,vdsd_dm,random --ipc 1,5,10

Reported (ConvNet3D): MiniUCF 17.9 / 28.0 / 31.0 % and HMDB51 7.5 / 10.5 / 12.8 % at IPC 1 / 5 / 10, in 20 / 133 / 324 MB and
22 / 137 / 287 MB, which is 3 to 5 frames of 16 as float32. At IPC 1 (MiniUCF): no insertion 15.8 %, random insertion 16.8, no first pause
16.1, no last pause 16.9, 8 frames at the start 15.3.

Not known, own choices: the learning rate, the number of iterations (DM's), how often insertion is tried and how many frames it adds (here
``tries`` times, at most one frame a clip, the one that differs most; tried after every iteration it would soon make all frames key frames,
and the reported sizes say otherwise), and where key frames start: one account of the paper says frames of real segments, another Gaussian
noise; real ones are DM's start too. The gradient passes through the interpolation to the key frames. The last iterate is kept, not the best
checkpoint on the test split. Insertion ends where the budget is full, which holds the places too.

On moving-digits straight lines between frames are cross-fades, not motion: with two key frames of real clips a network learns next to
nothing (bench.toml has the figures), and what insertion and matching add does not make up for it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from harness import Budget, Choice, Context, DatasetInfo, DistilledSet, Log, Metric, Range, Split, method
from methods.pixels import RandomNetwork, RealBatches, class_groups, denormalise, follow, mean_of_classes, real_clips


@method("prism")
class Prism:
    """Distribution matching on key frames with linear interpolation between them, and more of them where motion asks for it (2025)."""

    metrics = (Metric("key_frames", title="key frames", doc="Stored frames of a clip, mean over the set; the others are interpolated."),)

    network: str = "convnet3d"
    """Evaluator that is drawn anew at every iteration to embed the clips."""
    start: Annotated[Literal["real", "noise"], Choice("real", "noise")] = "real"
    """Key frames that start as frames of random real clips, or as Gaussian noise."""
    initial: Annotated[int, Range(2, 6)] = 2
    """Key frames of a clip at the start, evenly spaced, its ends among them (paper: 2)."""
    epsilon: Annotated[float, Range(-0.2, 0.2)] = 0.0
    """Cosine under which a frame parts from its neighbours (paper: 0)."""
    pause: Annotated[float, Range(0, 0.4)] = 0.2
    """Share of the iterations at the start, and again at the end, in which no frame is added (paper: 0.2)."""
    tries: Annotated[int, Range(0, 6)] = 4
    """Times that frames may be added, evenly spread over the other iterations; with 4 a clip has at most 6 key frames (paper: 3 to 5)."""
    iterations: int = 5000
    """Optimisation steps, one network each (DM's; the paper's is not known)."""
    lr: Annotated[float, Log(0.1, 100)] = 3.0
    """Learning rate of the pixels; with this momentum as large a step as DM's 30 with 0.5 (the paper's is not known)."""
    momentum: Annotated[float, Range(0, 0.95)] = 0.95
    """Momentum of SGD on the pixels (paper: 0.95)."""
    real_batch: int = 64
    """Real clips of each class at every iteration (DM: 64)."""

    def __post_init__(self) -> None:
        if self.iterations < 0 or self.lr <= 0 or not 0 <= self.momentum < 1 or self.real_batch < 1:
            raise ValueError(f"prism takes iterations >= 0, lr > 0, momentum in [0, 1), real_batch >= 1, got {self}")
        if self.initial < 2 or self.tries < 0 or not -1 <= self.epsilon <= 1 or not 0 <= self.pause <= 0.5:
            raise ValueError(f"prism takes initial >= 2, tries >= 0, epsilon in [-1, 1], pause in [0, 0.5], got {self}")

    def networks(self) -> dict[str, str]:
        return {"psi": self.network}

    def skip(self, info: DatasetInfo, budget: Budget) -> str | None:
        if self.initial * budget.clips <= most_key_frames(budget):
            return None
        return f"initial={self.initial} key frames of {budget.clip_shape[0]} and their places are more than the budget holds"

    def distill(self, train: Split, budget: Budget, context: Context) -> DistilledSet:
        device, length = context.device, budget.clip_shape[0]
        torch.manual_seed(context.seed)  # networks initialise themselves from the global generator

        # s: the frames, in normalised pixels, clip by clip; those that are no key frames are not looked at
        frames, labels = real_clips(train, budget, context)
        if self.start == "noise":
            frames = torch.randn(frames.shape, generator=context.generator).to(device)
        is_key = torch.zeros(budget.clips, length, dtype=torch.bool)
        is_key[:, torch.linspace(0, length - 1, self.initial).round().long()] = True
        frames.requires_grad_()
        optimizer = torch.optim.SGD([frames], lr=self.lr, momentum=self.momentum)
        real, psi = RealBatches(train, budget, self.real_batch, context), RandomNetwork(context, "psi")
        groups = list(class_groups(budget, self.real_batch, device))
        weights = interpolation(is_key).to(device)
        limit, tries = most_key_frames(budget), self.insertions()

        for iteration in range(self.iterations):
            psi.draw()
            optimizer.zero_grad(set_to_none=True)
            clips = interpolate(weights, frames)
            leaf = clips.detach().requires_grad_()  # where the gradients of all frames arrive
            loss = torch.zeros((), device=device)
            for classes in groups:
                with torch.no_grad():
                    batch, counts = real.of(classes)
                    target = mean_of_classes(psi.embed(batch), counts)
                made = leaf[classes.start * budget.ipc : classes.stop * budget.ipc]
                distance = (target - mean_of_classes(psi.embed(made), [budget.ipc] * len(classes))).square().sum()
                distance.backward()
                loss += distance.detach()
            clips.backward(leaf.grad)
            optimizer.step()
            if iteration in tries:
                assert leaf.grad is not None
                clip, place = frames_to_insert(leaf.grad, is_key, self.epsilon)[: limit - int(is_key.sum())].unbind(1)
                if len(clip):
                    with torch.no_grad():
                        frames[clip, place] = interpolate(weights, frames)[clip, place]
                    is_key[clip, place] = True
                    weights = interpolation(is_key).to(device)
            follow(context, "matching_loss", iteration + 1, self.iterations, loss)

        context.metrics["key_frames"] = float(is_key.sum()) / budget.clips
        kept = denormalise(frames.detach())[is_key.to(device)].cpu()
        return DistilledSet({"frames": kept, "is_key": is_key.to(torch.uint8)}, labels)

    def insertions(self) -> set[int]:
        """The iterations after which frames may be added."""
        pause = math.ceil(self.pause * self.iterations)
        between = range(pause, self.iterations - pause)
        return {between[i * len(between) // self.tries] for i in range(self.tries)} if between else set()

    def materialise(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """Clips (N, T, C, H, W) of key frames (K, C, H, W), which stand clip by clip, and their places (N, T)."""
        is_key = tensors["is_key"].bool()
        frames = tensors["frames"].new_zeros(*is_key.shape, *tensors["frames"].shape[1:])
        frames[is_key] = tensors["frames"]
        return interpolate(interpolation(is_key), frames)


def most_key_frames(budget: Budget) -> int:
    """Key frames that fit into the budget beside their places, one byte for each frame of a clip, each charged as a pixel."""
    return budget.frames - math.ceil(budget.frames / math.prod(budget.clip_shape[1:]))


def neighbours(is_key: Tensor) -> tuple[Tensor, Tensor]:
    """For every frame the key frame at or before it and the one at or after it, (N, T) each; both ends of a clip are key frames."""
    places = torch.arange(is_key.shape[1]).expand(is_key.shape)
    before = torch.where(is_key, places, 0).cummax(1).values
    after = torch.where(is_key, places, is_key.shape[1]).flip(1).cummin(1).values.flip(1)
    return before, after


def interpolation(is_key: Tensor) -> Tensor:
    """The weights (N, T, T) with which frames of a clip are made of its key frames (N, T): a row each, which sums to 1."""
    before, after = neighbours(is_key)
    places = torch.arange(is_key.shape[1])
    gap = (after - before).clamp(min=1)
    of_before = torch.where(is_key, 1.0, (after - places) / gap)
    weights = torch.zeros(*is_key.shape, is_key.shape[1])
    weights.scatter_add_(2, before.unsqueeze(2), of_before.unsqueeze(2))
    return weights.scatter_add_(2, after.unsqueeze(2), 1 - of_before.unsqueeze(2))


def interpolate(weights: Tensor, frames: Tensor) -> Tensor:
    """Clips (N, T, C, H, W) from frames of this shape, of which those that are no key frames have no weight."""
    return torch.bmm(weights, frames.flatten(2)).view_as(frames)


def frames_to_insert(gradients: Tensor, is_key: Tensor, epsilon: float) -> Tensor:
    """Frames (n, 2), as clip and place, that part from both neighbouring key frames: at most one of a clip, the most different first.

    gradients: of the loss by every frame of the clips, (N, T, C, H, W).
    """
    direction = F.normalize(gradients.flatten(2), dim=2)
    cosines = torch.bmm(direction, direction.transpose(1, 2)).cpu()  # (N, T, T)
    before, after = neighbours(is_key)
    larger = torch.maximum(cosines.gather(2, before.unsqueeze(2)), cosines.gather(2, after.unsqueeze(2))).squeeze(2)
    larger = torch.where(is_key, math.inf, larger)
    value, place = larger.min(1)
    chosen = torch.nonzero(value < epsilon).flatten()
    chosen = chosen[value[chosen].argsort(stable=True)]
    return torch.stack([chosen, place[chosen]], 1)
