"""Diffusion: what the video diffusion model makes of its classes, unguided. The control that says what guidance by modes adds.

No part of the training split is used but by the training of the model. It is the row "DiT" of MGD3's tables (Chan-Santiago et al., ICML
2025, arXiv 2505.18963) moved to video, and GVD (methods/gvd/) without its guidance and its composition: the same model, sampler and noise.

    python -m harness run --methods diffusion,mgd3,d4m,gvd,random --ipc 1,5,10

Reported for images (MGD3, ImageNette, ResNetAP-10, hard labels): 59.1 / 64.8 / 73.3 % at IPC 10 / 20 / 50. For video: nothing confirmed.

The metrics of GVD stand beside it as its zero: a video is nearest to "its" mode as often as chance has it.
"""

from __future__ import annotations

from harness import Asset, Budget, Context, DatasetInfo, DistilledSet, Split, method
from methods.gvd import GVD
from methods.gvd.generating import Generating


@method("diffusion")
class Diffusion(Generating):
    """Samples of the video diffusion model, unguided: the control of methods that guide it."""

    metrics = GVD.metrics

    soft: bool = False
    """Store the teacher's logits with the set."""

    def assets(self, info: DatasetInfo) -> dict[str, Asset]:
        return self.as_gvd().assets(info)

    def distill(self, train: Split, budget: Budget, context: Context) -> DistilledSet:
        return self.as_gvd().distill(train, budget, context)

    def as_gvd(self) -> GVD:
        return GVD(guidance=0.0, **self.shared())
