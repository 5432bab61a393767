"""Static-dynamic disentanglement: what VDSD's methods share, whatever they match (methods/vdsd_dm.py, vdsd_mtt.py, vdsd_frepo.py).

Wang et al., "Dancing with Still Images: Video Distillation via Static-Dynamic Disentanglement" (VDSD), CVPR 2024. Still images s carry what
a video looks like, dynamic memories d, one channel per frame, how it moves; a single convolution H over both, the hallucinator, makes

    x = H([s repeated over time, d])

Stage 1 distills frames into the images by gradient matching (methods/dc.py); then they are frozen. In stage 2 d and H are learned. A clip
of the budget owns two images and two memories of its class, one pair of which is drawn at every use: up to four videos.

The set is stored as images, memories and H, and is charged for its images by their pixels and for the rest by bytes: at 16x3x112x112,
0.79 of the clips it stands for. Clips of one channel leave no room for memories as large as the clips; fewer of them, in half precision,
fit (dynamic_per_clip, half). An evaluator takes as many steps as on the budget's clips, though it sees four times as many: the pairs of a
clip take turns in them.

Released, an image says what is seen and a memory starts as noise N(0, 1). Where motion alone tells the classes apart, as on moving-digits,
nothing of the class is there at the start: the untrained convolution leaves 0.36 of the image's contrast and adds noise of 1.24 times the
standard deviation of the clips (means of 20 draws). ``start=real`` is for such data: memories start as what real clips have beside their
middle frame, and the convolution as their sum, so that the first clips are real ones, as DM's are.

Named deviations: pairs take turns in place of a draw at every use of an evaluator; the paper does not give the parameters of stage 1, which
here takes one gradient of a fresh network each time, as DC does for one image per class; ``start=real``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from harness import Budget, Context, DatasetInfo, DistilledSet, Log, Split, normalise
from methods.dc import class_gradient, gradient_distance
from methods.pixels import FreshNetwork, denormalise, follow, real_clips


@dataclass(frozen=True)
class StaticDynamic:
    """The parameters of the images and memories, their start, and what is stored of them."""

    static_per_clip: int = 2
    """Still images that a clip of the budget owns (paper: 2)."""
    dynamic_per_clip: int = 2
    """Dynamic memories that a clip of the budget owns (paper: 2)."""
    half: bool = False
    """Store images and memories in half precision (paper: float32); of the images the audit charges the pixels all the same."""
    static_iterations: int = 1000
    """Steps of stage 1 (DC's number for images; the paper's is not known)."""
    static_lr: Annotated[float, Log(0.01, 10)] = 0.1
    """Learning rate of the still images, momentum 0.5 (DC's)."""
    static_width: int = 128
    """Channels of the 2-D network of stage 1: three blocks with instance norm (DC's)."""
    static_batch: int = 64
    """Real frames of each class at every step of stage 1 (DC for images: 256)."""
    start: Literal["noise", "real"] = "noise"
    """Memories that start as noise beside an untrained hallucinator (released), or with it as real clips, see above."""

    def __post_init__(self) -> None:
        if min(self.static_per_clip, self.dynamic_per_clip, self.static_batch, self.static_width) < 1 or self.static_iterations < 0:
            raise ValueError(
                "static_per_clip, dynamic_per_clip, static_batch and static_width must be at least 1, static_iterations at least 0"
            )

    def skip(self, info: DatasetInfo, budget: Budget) -> str | None:
        t, c, h, w = budget.clip_shape
        planes = 4 * self.static_per_clip * c + (2 if self.half else 4) * self.dynamic_per_clip * t
        needed = planes * h * w * budget.clips + 4 * (27 * (c + 1) * c + c)
        if needed <= budget.bytes:
            return None
        return (
            f"its images, memories and hallucinator are charged {needed} bytes, the budget allows {budget.bytes}: "
            "set dynamic_per_clip=1 or half=true"
        )

    def begin(self, train: Split, budget: Budget, context: Context) -> Memories:
        """The images of stage 1, and what stage 2 learns, at its start."""
        t, channels, height, width = budget.clip_shape
        clips, _ = real_clips(train, Budget(budget.ipc * self.static_per_clip, budget.clip_shape, budget.classes), context)
        clips = clips.unflatten(0, (budget.classes, budget.ipc, self.static_per_clip))
        frames = clips[..., t // 2, :, :, :]
        static = distill_frames(frames, train, budget, self, context)  # (classes, IPC, images, C, H, W)
        dynamic = torch.randn(budget.classes, budget.ipc, self.dynamic_per_clip, t, 1, height, width, device=context.device)
        with context.device:
            hallucinator = nn.Conv3d(channels + 1, channels, kernel_size=3, padding=1)
        if self.start == "real":
            as_sum(hallucinator)
            image_of = torch.arange(self.dynamic_per_clip) % self.static_per_clip
            dynamic = (clips - frames.unsqueeze(3))[:, :, image_of].mean(4, keepdim=True)
        return Memories(static, dynamic.requires_grad_(), hallucinator, context)

    def stored(self, memories: Memories, soft_labels: Tensor | None = None) -> DistilledSet:
        """The set; soft_labels (clips of the budget, classes) are those of all pairs of a clip."""
        hallucinator = memories.hallucinator
        assert hallucinator.bias is not None
        precision = torch.float16 if self.half else torch.float32
        tensors = {
            "static": memories.static.to(precision).cpu(),
            "dynamic": memories.dynamic.detach().to(precision).cpu(),
            "hallucinator.weight": hallucinator.weight.detach().cpu(),
            "hallucinator.bias": hallucinator.bias.detach().cpu(),
        }
        classes, ipc = memories.static.shape[:2]
        pairs = self.static_per_clip * self.dynamic_per_clip
        labels = torch.arange(classes).repeat_interleave(ipc * pairs)
        soft = None if soft_labels is None else soft_labels.repeat_interleave(pairs, 0)
        return DistilledSet(tensors, labels, soft, not_pixels=frozenset(tensors) - {"static"})  # memories of motion are no pictures

    def materialise(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """All pairs of images and memories of each clip of the budget, joined: (classes * IPC * images * memories, T, C, H, W)."""
        classes, ipc, images = tensors["static"].shape[:3]
        return self.materialise_rows(tensors, torch.arange(classes * ipc * images * tensors["dynamic"].shape[2]))

    def materialise_rows(self, tensors: Mapping[str, Tensor], rows: Tensor) -> Tensor:
        """The pairs at these rows alone; those of a clip are joined together, as always, so that they are the same to the digit."""
        static, dynamic = tensors["static"].flatten(0, 1), tensors["dynamic"].flatten(0, 1)
        images, memories = static.shape[1], dynamic.shape[1]
        pairs, of_clip = images * memories, {}
        for i in (rows // pairs).unique().tolist():
            joined = static[i].float().repeat_interleave(memories, 0), dynamic[i].float().repeat(images, 1, 1, 1, 1)
            of_clip[i] = denormalise(hallucinate(*joined, tensors["hallucinator.weight"], tensors["hallucinator.bias"]))
        return torch.stack([of_clip[row // pairs][row % pairs] for row in rows.tolist()])


class Memories:
    """Frozen images (classes, IPC, images, C, H, W), and what is learned: memories (classes, IPC, memories, T, 1, H, W), hallucinator."""

    def __init__(self, static: Tensor, dynamic: Tensor, hallucinator: nn.Conv3d, context: Context) -> None:
        self.static, self.dynamic, self.hallucinator, self._context = static, dynamic, hallucinator, context

    def learned(self, lr_dynamic: float, lr_hallucinator: float) -> list[dict[str, object]]:
        """Groups of parameters for an optimiser."""
        return [{"params": [self.dynamic], "lr": lr_dynamic}, {"params": list(self.hallucinator.parameters()), "lr": lr_hallucinator}]

    def clips(self, slots: Tensor) -> Tensor:
        """Normalised clips (n, T, C, H, W) of clips of the budget, by their numbers (n,) on the CPU: of each one pair, drawn anew."""
        image = draw_one(slots, self.static.shape[2], self._context)
        memory = draw_one(slots, self.dynamic.shape[2], self._context)
        pair = self.static.flatten(0, 2)[image], self.dynamic.flatten(0, 2)[memory]
        return hallucinate(*pair, self.hallucinator.weight, self.hallucinator.bias)


def draw_one(slots: Tensor, count: int, context: Context) -> Tensor:
    """For each slot, one of the ``count`` rows that it owns of a tensor with ``count`` rows for every slot; on the device."""
    return (slots * count + torch.randint(count, (len(slots),), generator=context.generator)).to(context.device, non_blocking=True)


def as_sum(hallucinator: nn.Conv3d) -> None:
    """Make the convolution the sum of the image and the memory, in every channel."""
    with torch.no_grad():
        hallucinator.weight.zero_()
        hallucinator.weight[:, -1, 1, 1, 1] = 1
        for c in range(hallucinator.out_channels):
            hallucinator.weight[c, c, 1, 1, 1] = 1
        if hallucinator.bias is not None:
            hallucinator.bias.zero_()


def hallucinate(static: Tensor, dynamic: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Clips (N, T, C, H, W) from images (N, C, H, W) and memories (N, T, 1, H, W): one 3-D convolution over both, side by side."""
    repeated = static[:, None].expand(-1, dynamic.shape[1], -1, -1, -1)
    return F.conv3d(torch.cat([repeated, dynamic], 2).transpose(1, 2), weight, bias, padding=1).transpose(1, 2)


def distill_frames(frames: Tensor, train: Split, budget: Budget, method: StaticDynamic, context: Context) -> Tensor:
    """Stage 1, DC: images (classes, IPC, images, C, H, W), normalised, that give random 2-D networks the gradients of real frames.

    frames: real ones of the same shape, where they start."""
    if method.static_iterations == 0:
        return frames.clone()
    _, channels, height, width = budget.clip_shape
    rows_of_class = [train.indices_of(label) for label in range(budget.classes)]
    images = frames.flatten(1, 2).clone().requires_grad_()
    optimizer = torch.optim.SGD([images], lr=method.static_lr, momentum=0.5)
    theta = FreshNetwork(lambda: frame_network((channels, height, width), budget.classes, method.static_width), context.device)
    for iteration in range(method.static_iterations):
        network = theta.draw()
        optimizer.zero_grad(set_to_none=True)
        loss = torch.zeros((), device=context.device)
        for c, rows in enumerate(rows_of_class):
            real = class_gradient(network, draw_frames(train, rows, method.static_batch, context), c)
            distance = gradient_distance(real, class_gradient(network, images[c], c, graph=True))
            distance.backward(inputs=[images])
            loss += distance.detach()
        optimizer.step()
        follow(context, "static_matching_loss", iteration + 1, method.static_iterations, loss)
    return images.detach().view_as(frames)


def draw_frames(train: Split, rows: Tensor, count: int, context: Context) -> Tensor:
    """One random frame of each of ``count`` random clips (all where there are fewer), (n, C, H, W) normalised."""
    clips = train.clips(rows[torch.randperm(len(rows), generator=context.generator)[:count]])
    frame = torch.randint(clips.shape[1], (len(clips),), generator=context.generator)
    return normalise(clips[torch.arange(len(clips)), frame], context.device)


def frame_network(shape: tuple[int, int, int], classes: int, width: int) -> nn.Module:
    """DC's ConvNet: three blocks of 3x3 convolution, instance norm, ReLU and average pooling, then a linear head."""
    channels, height, width_px = shape
    blocks: list[nn.Module] = []
    for c in (channels, width, width):
        blocks += [nn.Conv2d(c, width, 3, padding=1), nn.GroupNorm(width, width), nn.ReLU(), nn.AvgPool2d(2)]
    return nn.Sequential(*blocks, nn.Flatten(), nn.Linear(width * (height // 8) * (width_px // 8), classes))
