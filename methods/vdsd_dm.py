"""VDSD on DM: static-dynamic disentanglement, its memories and its hallucinator learned by distribution matching.

Wang et al., "Dancing with Still Images: Video Distillation via Static-Dynamic Disentanglement" (VDSD), CVPR 2024. What the images, memories
and hallucinator are, how they start and what is stored of them stands in methods/static_dynamic.py. In stage 2 a network is drawn anew at
every iteration, one pair of each clip of the budget is made into a clip x, and DM's loss (methods/dm.py) of the clips x is lowered.

    python -m harness run --dataset ucf101 --data-root DIR --methods vdsd_dm,dm,random --ipc 1,5

Reported (ConvNet3D; PRISM's table, arXiv 2505.22564): MiniUCF 17.5 / 27.2 % and HMDB51 6.0 / 8.2 % at IPC 1 / 5. The log of an independent
run is noisy across checkpoints: 16.9 / 11.8 / 12.7 / 16.3 % at iterations 400 / 800 / 1200 / 1600 (MiniUCF, IPC 1).

On moving-digits 60 steps from the released start lower the matching loss from 2.6 to 0.6, where real clips begin at 0.2, and a network
trained on the set recognises 4 % of held-out clips; with ``start=real`` 89 and 86 % at IPC 5.

Named deviations, beside those of methods/static_dynamic.py: the last iterate is kept, not the best checkpoint on the test split.
"""

from __future__ import annotations

from typing import Annotated

import torch

from harness import Budget, Context, DistilledSet, Log, Split, method
from methods.pixels import RandomNetwork, RealBatches, class_groups, follow, mean_of_classes
from methods.static_dynamic import StaticDynamic

RELEASED_RATES = {1: (1e-4, 1e-5), 5: (1e3, 1e-6)}
"""IPC -> learning rates of the memories and of the hallucinator (MiniUCF)."""


@method("vdsd_dm")
class VDSD(StaticDynamic):
    """Static-dynamic disentanglement on distribution matching: still images, dynamic memories and one convolution (CVPR 2024)."""

    network: str = "convnet3d"
    """Evaluator that is drawn anew at every iteration of stage 2 to embed the clips."""
    iterations: int = 5000
    """Steps of stage 2 (paper: 5,000)."""
    lr_dynamic: Annotated[float, Log(1e-4, 1e3)] = 0.0
    """Learning rate of the memories, momentum 0.95; 0: as released for MiniUCF, 1e-4, and 1e3 from IPC 5 on."""
    lr_hallucinator: Annotated[float, Log(1e-6, 1e-2)] = 0.0
    """Learning rate of the hallucinator, momentum 0.95; 0: as released for MiniUCF, 1e-5, and 1e-6 from IPC 5 on."""
    real_batch: int = 64
    """Real clips of each class at every iteration (paper: 64)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.iterations, self.lr_dynamic, self.lr_hallucinator) < 0 or self.real_batch < 1:
            raise ValueError("vdsd_dm takes iterations, lr_dynamic and lr_hallucinator of at least 0, real_batch of at least 1")

    def networks(self) -> dict[str, str]:
        return {"psi": self.network}

    def distill(self, train: Split, budget: Budget, context: Context) -> DistilledSet:
        device = context.device
        torch.manual_seed(context.seed)
        memories = self.begin(train, budget, context)
        released = RELEASED_RATES[max(ipc for ipc in RELEASED_RATES if ipc <= budget.ipc)]
        rates = self.lr_dynamic or released[0], self.lr_hallucinator or released[1]
        optimizer = torch.optim.SGD(memories.learned(*rates), lr=rates[0], momentum=0.95)
        real, psi = RealBatches(train, budget, self.real_batch, context), RandomNetwork(context, "psi")
        groups = list(class_groups(budget, self.real_batch, device))

        for iteration in range(self.iterations):
            psi.draw()
            optimizer.zero_grad(set_to_none=True)
            loss = torch.zeros((), device=device)
            for classes in groups:
                with torch.no_grad():
                    batch, counts = real.of(classes)
                    target = mean_of_classes(psi.embed(batch), counts)
                made = memories.clips(torch.arange(classes.start * budget.ipc, classes.stop * budget.ipc))
                distance = (target - mean_of_classes(psi.embed(made), [budget.ipc] * len(classes))).square().sum()
                distance.backward()
                loss += distance.detach()
            optimizer.step()
            follow(context, "matching_loss", iteration + 1, self.iterations, loss)

        return self.stored(memories)
