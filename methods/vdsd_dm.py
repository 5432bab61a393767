"""VDSD on DM: still images carry what a video looks like, one-channel memories how it moves, a shared convolution joins them.

Wang et al., "Dancing with Still Images: Video Distillation via Static-Dynamic Disentanglement" (VDSD), CVPR 2024. Stage 1 distills single
frames into still images s by gradient matching (DC, Zhao et al., ICLR 2021). In stage 2 the images are frozen; dynamic memories d, one
channel per frame, and the hallucinator H, a single 3x3x3 convolution for all classes, are learned by distribution matching of

    x = H([s repeated over time, d])

A clip of the budget owns two images and two memories of its class, drawn anew at every use, so it yields up to four videos.

    python -m harness run --dataset ucf101 --data-root DIR --methods vdsd_dm,dm,random --ipc 1,5

Reported (ConvNet3D; PRISM's table, arXiv 2505.22564): MiniUCF 17.5 / 27.2 % and HMDB51 6.0 / 8.2 % at IPC 1 / 5. The log of an independent
run is noisy across checkpoints: 16.9 / 11.8 / 12.7 / 16.3 % at iterations 400 / 800 / 1200 / 1600 (MiniUCF, IPC 1).

The set is stored as images, memories and H, and is charged for their bytes: at 16x3x112x112, 0.79 of the clips it stands for. Clips of
one channel leave no room for memories as large as the clips; fewer of them, in half precision, fit (dynamic_per_clip, half).

Named deviations: an evaluator is trained on all pairs of a clip's images and memories instead of one drawn at every use; the paper does
not give the parameters of stage 1, which here takes one gradient of a fresh network each time, as DC does for one image per class; the
last iterate is kept, not the best checkpoint on the test split.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from harness import Budget, Context, DatasetInfo, DistilledSet, Log, Split, method, normalise
from methods.pixels import denormalise, draw_batch, follow, random_embedding


@method("vdsd_dm")
class VDSD:
    """Static-dynamic disentanglement on distribution matching: still images, dynamic memories and one convolution (CVPR 2024)."""

    network: str = "convnet3d"
    """Evaluator that is drawn anew at every iteration of stage 2 to embed the clips."""
    static_per_clip: int = 2
    """Still images that a clip of the budget owns (paper: 2)."""
    dynamic_per_clip: int = 2
    """Dynamic memories that a clip of the budget owns (paper: 2)."""
    half: bool = False
    """Store images and memories in half precision (paper: float32)."""
    static_iterations: int = 1000
    """Steps of stage 1 (DC's number for images; the paper's is not known)."""
    static_lr: Annotated[float, Log(0.01, 10)] = 0.1
    """Learning rate of the still images, momentum 0.5 (DC's)."""
    static_width: int = 128
    """Channels of the 2-D network of stage 1: three blocks with instance norm (DC's)."""
    iterations: int = 5000
    """Steps of stage 2 (paper: 5,000)."""
    lr_dynamic: Annotated[float, Log(1e-4, 1e3)] = 1e-4
    """Learning rate of the memories, momentum 0.95 (released, MiniUCF: 1e-4 at IPC 1, 1e3 at IPC 5)."""
    lr_hallucinator: Annotated[float, Log(1e-6, 1e-2)] = 1e-5
    """Learning rate of the hallucinator, momentum 0.95 (released, MiniUCF: 1e-5 at IPC 1, 1e-6 at IPC 5)."""
    real_batch: int = 64
    """Real clips, in stage 1 real frames, of each class at every iteration (paper: 64)."""

    def __post_init__(self) -> None:
        if min(self.static_per_clip, self.dynamic_per_clip, self.real_batch, self.static_width) < 1:
            raise ValueError("vdsd_dm takes static_per_clip, dynamic_per_clip, real_batch and static_width of at least 1")
        if min(self.iterations, self.static_iterations) < 0:
            raise ValueError("vdsd_dm takes iterations and static_iterations of at least 0")

    def networks(self) -> dict[str, str]:
        return {"psi": self.network}

    def skip(self, info: DatasetInfo, budget: Budget) -> str | None:
        t, c, h, w = budget.clip_shape
        planes = self.static_per_clip * c + self.dynamic_per_clip * t
        needed = (2 if self.half else 4) * planes * h * w * budget.clips + 4 * (27 * (c + 1) * c + c)
        if needed <= budget.bytes:
            return None
        return (
            f"its images, memories and hallucinator take {needed} bytes, the budget allows {budget.bytes}: "
            "set dynamic_per_clip=1 or half=true"
        )

    def distill(self, train: Split, budget: Budget, context: Context) -> DistilledSet:
        device = context.device
        t, channels, height, width = budget.clip_shape
        torch.manual_seed(context.seed)
        rows_of_class = [train.indices_of(label) for label in range(budget.classes)]

        static = distill_frames(train, rows_of_class, budget, self, context)  # (classes, IPC, images, C, H, W)
        dynamic = torch.randn(budget.classes, budget.ipc, self.dynamic_per_clip, t, 1, height, width, device=device)
        with device:
            hallucinator = nn.Conv3d(channels + 1, channels, kernel_size=3, padding=1)

        optimizer = torch.optim.SGD(
            [
                {"params": [dynamic.requires_grad_()], "lr": self.lr_dynamic},
                {"params": hallucinator.parameters(), "lr": self.lr_hallucinator},
            ],
            lr=self.lr_dynamic,
            momentum=0.95,
        )
        slots = torch.arange(budget.ipc)
        for iteration in range(self.iterations):
            psi = random_embedding(context, "psi")
            optimizer.zero_grad(set_to_none=True)
            loss = torch.zeros((), device=device)
            for c in range(budget.classes):
                with torch.no_grad():
                    real = psi(draw_batch(train, rows_of_class[c], self.real_batch, context)).mean(0)
                image = torch.randint(self.static_per_clip, (budget.ipc,), generator=context.generator)
                memory = torch.randint(self.dynamic_per_clip, (budget.ipc,), generator=context.generator)
                clips = hallucinate(static[c, slots, image], dynamic[c, slots, memory], hallucinator.weight, hallucinator.bias)
                distance = (real - psi(clips).mean(0)).square().sum()
                distance.backward()
                loss += distance.detach()
            optimizer.step()
            follow(context, "matching_loss", iteration + 1, self.iterations, loss)

        assert hallucinator.bias is not None
        precision = torch.float16 if self.half else torch.float32
        tensors = {
            "static": static.to(precision).cpu(),
            "dynamic": dynamic.detach().to(precision).cpu(),
            "hallucinator.weight": hallucinator.weight.detach().cpu(),
            "hallucinator.bias": hallucinator.bias.detach().cpu(),
        }
        videos = budget.ipc * self.static_per_clip * self.dynamic_per_clip
        return DistilledSet(tensors, torch.arange(budget.classes).repeat_interleave(videos))

    def materialise(self, tensors: dict[str, Tensor]) -> Tensor:
        """All pairs of images and memories of each clip of the budget, joined: (classes * IPC * images * memories, T, C, H, W)."""
        static, dynamic = tensors["static"].float().flatten(0, 1), tensors["dynamic"].float().flatten(0, 1)
        images, memories = static.shape[1], dynamic.shape[1]
        clips = []
        for of_static, of_dynamic in zip(static, dynamic, strict=True):
            pairs = of_static.repeat_interleave(memories, 0), of_dynamic.repeat(images, 1, 1, 1, 1)
            clips.append(denormalise(hallucinate(*pairs, tensors["hallucinator.weight"], tensors["hallucinator.bias"])))
        return torch.cat(clips)


def hallucinate(static: Tensor, dynamic: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Clips (N, T, C, H, W) from images (N, C, H, W) and memories (N, T, 1, H, W): one 3-D convolution over both, side by side."""
    repeated = static[:, None].expand(-1, dynamic.shape[1], -1, -1, -1)
    return F.conv3d(torch.cat([repeated, dynamic], 2).transpose(1, 2), weight, bias, padding=1).transpose(1, 2)


def distill_frames(train: Split, rows_of_class: list[Tensor], budget: Budget, method: VDSD, context: Context) -> Tensor:
    """Stage 1, DC: images (classes, IPC, images, C, H, W), normalised, that give random 2-D networks the gradients of real frames."""
    _, channels, height, width = budget.clip_shape
    per_class = budget.ipc * method.static_per_clip
    images = torch.stack([draw_frames(train, rows, per_class, context, repeat=True) for rows in rows_of_class]).requires_grad_()
    optimizer = torch.optim.SGD([images], lr=method.static_lr, momentum=0.5)
    for iteration in range(method.static_iterations):
        with context.device:
            network = frame_network((channels, height, width), budget.classes, method.static_width)
        parameters = list(network.parameters())
        optimizer.zero_grad(set_to_none=True)
        loss = torch.zeros((), device=context.device)
        for c, rows in enumerate(rows_of_class):
            frames = draw_frames(train, rows, method.real_batch, context)
            label = torch.tensor(c, device=context.device)
            real = torch.autograd.grad(F.cross_entropy(network(frames), label.expand(len(frames))), parameters)
            made = torch.autograd.grad(F.cross_entropy(network(images[c]), label.expand(per_class)), parameters, create_graph=True)
            distance = gradient_distance(real, made)
            distance.backward(inputs=[images])
            loss += distance.detach()
        optimizer.step()
        follow(context, "static_matching_loss", iteration + 1, method.static_iterations, loss)
    return images.detach().view(budget.classes, budget.ipc, method.static_per_clip, channels, height, width)


def draw_frames(train: Split, rows: Tensor, count: int, context: Context, repeat: bool = False) -> Tensor:
    """One random frame of each of ``count`` random clips, (n, C, H, W) normalised; ``repeat``: clips again where there are too few."""
    times = -(-count // len(rows)) if repeat else 1
    order = torch.cat([torch.randperm(len(rows), generator=context.generator) for _ in range(times)])[:count]
    clips = train.clips(rows[order])
    frame = torch.randint(clips.shape[1], (len(clips),), generator=context.generator)
    return normalise(clips[torch.arange(len(clips)), frame], context.device)


def frame_network(shape: tuple[int, int, int], classes: int, width: int) -> nn.Module:
    """DC's ConvNet: three blocks of 3x3 convolution, instance norm, ReLU and average pooling, then a linear head."""
    channels, height, width_px = shape
    blocks: list[nn.Module] = []
    for c in (channels, width, width):
        blocks += [nn.Conv2d(c, width, 3, padding=1), nn.GroupNorm(width, width), nn.ReLU(), nn.AvgPool2d(2)]
    return nn.Sequential(*blocks, nn.Flatten(), nn.Linear(width * (height // 8) * (width_px // 8), classes))


def gradient_distance(real: Iterable[Tensor], made: Iterable[Tensor]) -> Tensor:
    """DC's distance: 1 - cosine, summed over the rows (outputs) of every weight; biases and norm scales are left out."""
    return sum(
        (1 - F.cosine_similarity(a.flatten(1), b.flatten(1), dim=1, eps=1e-6)).sum() for a, b in zip(real, made, strict=True) if a.dim() > 1
    )  # type: ignore[return-value]
