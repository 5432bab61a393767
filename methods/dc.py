"""DC: gradient matching. A network's gradient on the distilled clips of a class must point where that on real ones does.

Zhao, Mopuri and Bilen, "Dataset Condensation with Gradient Matching", ICLR 2021; moved here from images to clips. With ``dsa`` real and
distilled clips pass the same random augmentation first (Zhao and Bilen, "Dataset Condensation with Differentiable Siamese Augmentation",
ICML 2021). A network theta is drawn anew K times. For each, ``outer`` times over,

    L = sum_c D(grad_theta l(T_c), grad_theta l(S_c)),      D(A, B) = sum_layers sum_rows (1 - A_i . B_i / (|A_i| |B_i|))

is lowered by one step of SGD on the clips S, T_c a batch of real clips of class c, l the mean cross-entropy, and rows the outputs of a
layer (biases are left out); then theta is trained on S for ``inner`` epochs.

    python -m harness run --methods 'dc,dc[dsa=true],dm,random' --ipc 1,5,10

Reported for video: nothing; VDSD (CVPR 2024) distills its still images by it. For images (CIFAR-10, ConvNet, IPC 1 / 10): DC 28.3 / 44.9 %,
DSA 52.1 % at IPC 10.

Named deviations: dropout is off where gradients are compared (the released networks have none), and batch norm has the statistics it
starts with (released: those of a real batch); clips start from random real ones, as in DSA and on video (DC: from noise).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Annotated, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from harness import Budget, Choice, Context, DistilledSet, Log, Split, method, parts
from methods.pixels import FreshNetwork, RealBatches, denormalise, follow, real_clips
from methods.siamese import STRATEGIES, augment_each, draw

RELEASED_LOOPS = {1: (1, 1), 10: (10, 50), 20: (20, 25), 30: (30, 20), 40: (40, 15), 50: (50, 10)}
"""IPC -> steps on the clips for each network, and epochs that it is trained between them."""
NETWORK_BATCH = 256
"""Distilled clips of a step of the network (released: 256)."""


@method("dc")
class DC:
    """Gradient matching: a network's gradients on distilled clips follow those on real ones (ICLR 2021); with DSA as an option."""

    network: str = "convnet3d"
    """Evaluator whose gradients are matched, drawn anew at every iteration."""
    iterations: int = 1000
    """K, networks that are drawn (released: 1,000)."""
    outer: int = 0
    """Steps on the clips for each network; 0: as released, 1, and 10 from IPC 10 on, 20 from 20 on ..."""
    inner: int = 0
    """Epochs that the network is trained on the clips between two steps; 0: as released, 1, and 50 from IPC 10 on, 25 from 20 on ..."""
    lr: Annotated[float, Log(0.01, 10)] = 0.1
    """Learning rate of the pixels, momentum 0.5 (released: 0.1)."""
    network_lr: Annotated[float, Log(1e-3, 0.1)] = 0.01
    """Learning rate of SGD on the networks (released: 0.01)."""
    real_batch: int = 256
    """Real clips of each class at every step (released: 256); all where a class has fewer."""
    dsa: Annotated[bool, Choice(False, True)] = False
    """Pass real and distilled clips through the same augmentation (color, crop, cutout, flip where it keeps the label, scale, rotate)."""
    start: Literal["real", "noise"] = "real"
    """Random real clips (DSA), or noise N(0, 1) (DC)."""

    def __post_init__(self) -> None:
        if min(self.iterations, self.outer, self.inner) < 0 or min(self.lr, self.network_lr) <= 0 or self.real_batch < 1:
            raise ValueError(f"dc takes iterations, outer, inner >= 0, lr, network_lr > 0 and real_batch >= 1, got {self}")

    def networks(self) -> dict[str, str]:
        return {"theta": self.network}

    def distill(self, train: Split, budget: Budget, context: Context) -> DistilledSet:
        device, generator = context.device, context.generator
        torch.manual_seed(context.seed)

        clips, labels = real_clips(train, budget, context)
        if self.start == "noise":
            clips = torch.randn(clips.shape, generator=generator).to(device)
        clips, targets = clips.requires_grad_(), labels.to(device)
        optimizer = torch.optim.SGD([clips], lr=self.lr, momentum=0.5)
        real, theta = RealBatches(train, budget, self.real_batch, context), FreshNetwork(context.networks["theta"], device)
        strategies = [name for name in STRATEGIES if name != "flip" or context.info.flip]
        outer, inner = self.loops(budget.ipc)

        for iteration in range(self.iterations):
            network = theta.draw()
            trainer = torch.optim.SGD(network.parameters(), lr=self.network_lr)
            total = torch.zeros((), device=device)
            for step in range(outer):
                network.eval()
                optimizer.zero_grad(set_to_none=True)
                for c in range(budget.classes):
                    batch, _ = real.of([c])
                    made = clips[c * budget.ipc : (c + 1) * budget.ipc]
                    if self.dsa:
                        (augmentation,) = draw(1, strategies, generator)
                        batch, made = augmentation(batch), augmentation(made)
                    distance = gradient_distance(class_gradient(network, batch, c), class_gradient(network, made, c, graph=True))
                    distance.backward(inputs=[clips])
                    total += distance.detach()
                optimizer.step()
                if step + 1 < outer:
                    augmented = (lambda batch: augment_each(batch, strategies, generator)) if self.dsa else (lambda batch: batch)
                    train_on(network, clips.detach(), targets, trainer, inner, generator, augmented)
            follow(context, "matching_loss", iteration + 1, self.iterations, total / (outer * budget.classes))

        return DistilledSet.of_clips(denormalise(clips.detach()).cpu(), labels)

    def loops(self, ipc: int) -> tuple[int, int]:
        """Steps on the clips for each network, and epochs of the network between them."""
        outer, inner = RELEASED_LOOPS[max(known for known in RELEASED_LOOPS if known <= ipc)]
        return self.outer or outer, self.inner or inner


def class_gradient(network: nn.Module, clips: Tensor, label: int, graph: bool = False) -> tuple[Tensor, ...]:
    """Gradient in the network's parameters of the mean cross-entropy of clips of one class; with ``graph`` differentiable in the clips.

    Without one a CPU takes the clips in parts: the gradient is the same, the memory that of a part.
    """
    parameters = list(network.parameters())

    def of(part: Tensor) -> tuple[Tensor, ...]:
        targets = torch.full((len(part),), label, device=part.device)
        loss = F.cross_entropy(network(part), targets, reduction="sum") / len(clips)
        return torch.autograd.grad(loss, parameters, create_graph=graph)

    if graph:
        return of(clips)
    first, *others = clips.chunk(parts(network, clips))
    total = of(first)
    for part in others:
        torch._foreach_add_(total, of(part))
    return total


def gradient_distance(real: Iterable[Tensor], made: Iterable[Tensor]) -> Tensor:
    """DC's distance: 1 - cosine, summed over the rows (outputs) of every weight; biases and norm scales are left out."""
    distance = None
    for a, b in zip(real, made, strict=True):
        if a.dim() > 1:
            a, b = a.flatten(1), b.flatten(1)
            of_layer = (1 - (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1) + 1e-6)).sum()
            distance = of_layer if distance is None else distance + of_layer
    assert distance is not None, "a network has weights"
    return distance


def train_on(
    network: nn.Module,
    clips: Tensor,
    targets: Tensor,
    optimizer: torch.optim.Optimizer,
    epochs: int,
    generator: torch.Generator,
    augmented: Callable[[Tensor], Tensor],
) -> None:
    """So many epochs of the network on the clips in train mode."""
    network.train()
    for _ in range(epochs):
        for rows in torch.randperm(len(clips), generator=generator).to(clips.device, non_blocking=True).split(NETWORK_BATCH):
            loss = F.cross_entropy(network(augmented(clips[rows])), targets[rows])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
