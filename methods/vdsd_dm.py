"""VDSD on DM: still images carry what a video looks like, one-channel memories how it moves, a shared convolution joins them.

Wang et al., "Dancing with Still Images: Video Distillation via Static-Dynamic Disentanglement" (VDSD), CVPR 2024. Stage 1 distills single
frames into still images s by gradient matching (DC, Zhao et al., ICLR 2021). In stage 2 the images are frozen; dynamic memories d, one
channel per frame, and the hallucinator H, a single 3x3x3 convolution for all classes, are learned by distribution matching of

    x = H([s repeated over time, d])

A clip of the budget owns two images and two memories of its class, drawn anew at every use, so it yields up to four videos.

    python -m harness run --dataset ucf101 --data-root DIR --methods vdsd_dm,dm,random --ipc 1,5

Reported (ConvNet3D; PRISM's table, arXiv 2505.22564): MiniUCF 17.5 / 27.2 % and HMDB51 6.0 / 8.2 % at IPC 1 / 5. The log of an independent
run is noisy across checkpoints: 16.9 / 11.8 / 12.7 / 16.3 % at iterations 400 / 800 / 1200 / 1600 (MiniUCF, IPC 1).

The set is stored as images, memories and H, and is charged for its images by their pixels and for the rest by bytes: at 16x3x112x112,
0.79 of the clips it stands for. Clips of one channel leave no room for memories as large as the clips; fewer of them, in half precision,
fit (dynamic_per_clip, half). An evaluator takes as many steps as on the budget's clips, though it sees four times as many.

The distillation draws one pair of each clip at every use, as published. An evaluator's steps are those of the budget's clips, and the pairs
of a clip take turns in them.

Released, an image says what is seen and a memory starts as noise N(0, 1). Where motion alone tells the classes apart, as on moving-digits,
nothing of the class is there at the start: the untrained convolution leaves 0.36 of the image's contrast and adds noise of 1.24 times the
standard deviation of the clips (means of 20 draws). 60 steps then lower the matching loss from 2.6 to 0.6, where real clips begin at 0.2,
and a network trained on the set recognises 4 % of held-out clips. ``start=real`` is for such data: memories start as what real clips have
beside their middle frame, and the convolution as their sum, so that the first clips are real ones, as DM's are (89 and 86 % at IPC 5).

Named deviations: pairs take turns in place of a draw at every use of an evaluator; the paper does not give the parameters of stage 1, which
here takes one gradient of a fresh network each time, as DC does for one image per class; the last iterate is kept, not the best checkpoint
on the test split; ``start=real``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from harness import Budget, Context, DatasetInfo, DistilledSet, Log, Split, method, normalise
from methods.pixels import RandomNetwork, RealBatches, class_groups, denormalise, follow, mean_of_classes, real_clips

RELEASED_RATES = {1: (1e-4, 1e-5), 5: (1e3, 1e-6)}
"""IPC -> learning rates of the memories and of the hallucinator (MiniUCF)."""


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
    """Store images and memories in half precision (paper: float32); of the images the audit charges the pixels all the same."""
    static_iterations: int = 1000
    """Steps of stage 1 (DC's number for images; the paper's is not known)."""
    static_lr: Annotated[float, Log(0.01, 10)] = 0.1
    """Learning rate of the still images, momentum 0.5 (DC's)."""
    static_width: int = 128
    """Channels of the 2-D network of stage 1: three blocks with instance norm (DC's)."""
    iterations: int = 5000
    """Steps of stage 2 (paper: 5,000)."""
    lr_dynamic: Annotated[float, Log(1e-4, 1e3)] = 0.0
    """Learning rate of the memories, momentum 0.95; 0: as released for MiniUCF, 1e-4, and 1e3 from IPC 5 on."""
    lr_hallucinator: Annotated[float, Log(1e-6, 1e-2)] = 0.0
    """Learning rate of the hallucinator, momentum 0.95; 0: as released for MiniUCF, 1e-5, and 1e-6 from IPC 5 on."""
    start: Literal["noise", "real"] = "noise"
    """Memories that start as noise beside an untrained hallucinator (released), or with it as real clips, see above."""
    real_batch: int = 64
    """Real clips, in stage 1 real frames, of each class at every iteration (paper: 64)."""

    def __post_init__(self) -> None:
        if min(self.static_per_clip, self.dynamic_per_clip, self.real_batch, self.static_width) < 1:
            raise ValueError("vdsd_dm takes static_per_clip, dynamic_per_clip, real_batch and static_width of at least 1")
        if min(self.iterations, self.static_iterations, self.lr_dynamic, self.lr_hallucinator) < 0:
            raise ValueError("vdsd_dm takes iterations, static_iterations, lr_dynamic and lr_hallucinator of at least 0")

    def networks(self) -> dict[str, str]:
        return {"psi": self.network}

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

    def distill(self, train: Split, budget: Budget, context: Context) -> DistilledSet:
        device = context.device
        t, channels, height, width = budget.clip_shape
        torch.manual_seed(context.seed)

        clips, _ = real_clips(train, Budget(budget.ipc * self.static_per_clip, budget.clip_shape, budget.classes), context)
        clips = clips.unflatten(0, (budget.classes, budget.ipc, self.static_per_clip))
        frames = clips[..., t // 2, :, :, :]
        static = distill_frames(frames, train, budget, self, context)  # (classes, IPC, images, C, H, W)
        dynamic = torch.randn(budget.classes, budget.ipc, self.dynamic_per_clip, t, 1, height, width, device=device)
        with device:
            hallucinator = nn.Conv3d(channels + 1, channels, kernel_size=3, padding=1)
        if self.start == "real":
            as_sum(hallucinator)
            image_of = torch.arange(self.dynamic_per_clip) % self.static_per_clip
            dynamic = (clips - frames.unsqueeze(3))[:, :, image_of].mean(4, keepdim=True)

        released = RELEASED_RATES[max(ipc for ipc in RELEASED_RATES if ipc <= budget.ipc)]
        rates = self.lr_dynamic or released[0], self.lr_hallucinator or released[1]
        optimizer = torch.optim.SGD(
            [{"params": [dynamic.requires_grad_()], "lr": rates[0]}, {"params": hallucinator.parameters(), "lr": rates[1]}],
            lr=rates[0],
            momentum=0.95,
        )
        real, psi = RealBatches(train, budget, self.real_batch, context), RandomNetwork(context, "psi")
        groups = list(class_groups(budget, self.real_batch, device))
        images = static.flatten(0, 2)
        for iteration in range(self.iterations):
            psi.draw()
            optimizer.zero_grad(set_to_none=True)
            loss = torch.zeros((), device=device)
            for classes in groups:
                with torch.no_grad():
                    batch, counts = real.of(classes)
                    target = mean_of_classes(psi.embed(batch), counts)
                slots = torch.arange(classes.start * budget.ipc, classes.stop * budget.ipc)
                image = draw_one(slots, self.static_per_clip, context)
                memory = draw_one(slots, self.dynamic_per_clip, context)
                made = hallucinate(images[image], dynamic.flatten(0, 2)[memory], hallucinator.weight, hallucinator.bias)
                distance = (target - mean_of_classes(psi.embed(made), [budget.ipc] * len(classes))).square().sum()
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
        labels = torch.arange(budget.classes).repeat_interleave(videos)
        return DistilledSet(tensors, labels, not_pixels=frozenset(tensors) - {"static"})  # memories of motion are no pictures

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


def distill_frames(frames: Tensor, train: Split, budget: Budget, method: VDSD, context: Context) -> Tensor:
    """Stage 1, DC: images (classes, IPC, images, C, H, W), normalised, that give random 2-D networks the gradients of real frames.

    frames: real ones of the same shape, where they start."""
    _, channels, height, width = budget.clip_shape
    per_class = budget.ipc * method.static_per_clip
    rows_of_class = [train.indices_of(label) for label in range(budget.classes)]
    images = frames.flatten(1, 2).clone().requires_grad_()
    optimizer = torch.optim.SGD([images], lr=method.static_lr, momentum=0.5)
    for iteration in range(method.static_iterations):
        with context.device:
            network = frame_network((channels, height, width), budget.classes, method.static_width)
        parameters = list(network.parameters())
        optimizer.zero_grad(set_to_none=True)
        loss = torch.zeros((), device=context.device)
        for c, rows in enumerate(rows_of_class):
            drawn = draw_frames(train, rows, method.real_batch, context)
            label = torch.full((max(len(drawn), per_class),), c, device=context.device)
            real = torch.autograd.grad(F.cross_entropy(network(drawn), label[: len(drawn)]), parameters)
            made = torch.autograd.grad(F.cross_entropy(network(images[c]), label[:per_class]), parameters, create_graph=True)
            distance = gradient_distance(real, made)
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


def gradient_distance(real: Iterable[Tensor], made: Iterable[Tensor]) -> Tensor:
    """DC's distance: 1 - cosine, summed over the rows (outputs) of every weight; biases and norm scales are left out."""
    return sum(
        (1 - F.cosine_similarity(a.flatten(1), b.flatten(1), dim=1, eps=1e-6)).sum() for a, b in zip(real, made, strict=True) if a.dim() > 1
    )  # type: ignore[return-value]
