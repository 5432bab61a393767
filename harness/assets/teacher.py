"""The teacher: an evaluator network trained on the full training split. It is what ``full`` tests and what soft labels come from."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from harness.data.base import Split
from harness.plugin import Context, asset
from harness.training import place, train_network


@asset("teacher")
class Teacher:
    """An evaluator network trained on the full training split, by the run's protocol with its overrides for the full split."""

    uses_protocol = True  # the recipe is part of its key

    evaluator: str = "convnet3d"
    """The network, an evaluator spec such as convnet3d or c3d[width=32]."""
    seed: int = 0
    """Seed of initialisation, batch order and dropout."""

    def networks(self) -> dict[str, str]:
        return {"network": self.evaluator}

    def build(self, train: Split, context: Context) -> dict[str, Tensor]:
        """The network's parameters and buffers after training, on the CPU. Puts the loss curve into the record."""
        trained = train_network(
            context.networks["network"],
            train,
            train.labels,
            context.protocol.on(context.info),
            seed=self.seed,
            device=context.device,
            progress=context.progress,
        )
        context.curves["loss"] = trained.curve
        return {name: tensor.detach().cpu().contiguous() for name, tensor in trained.model.state_dict().items()}

    def load(self, tensors: dict[str, Tensor], context: Context) -> nn.Module:
        """The trained network on the context's device, in eval mode, without gradients to its parameters."""
        with torch.random.fork_rng(devices=[]):  # its initialisation is thrown away
            model = context.networks["network"]()
        model.load_state_dict(tensors)
        return place(model, context.device).eval().requires_grad_(False)
