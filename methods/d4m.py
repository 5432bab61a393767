"""D4M: prototypes of each class, noised and denoised by a diffusion model. Image-to-image, for video.

Su et al., "D4M: Dataset Distillation via Disentangled Diffusion Model", CVPR 2024 (arXiv 2407.15138), for images; moved here to video.
For each class:

1. Prototypes: the latents of the training clips are clustered by k-means with k = IPC; the centres z are the prototypes.
2. Synthesis: a prototype is noised to a level short of pure noise, x = alpha z + sigma eps, and denoised from there, conditioned on its
   class with a high scale of classifier-free guidance. The prototype is the start, and guides nothing after it.
3. Labels: a teacher's logits (training-time matching). A protocol with ``relabel`` has the teacher label every crop anew, as the paper
   does; else a clip keeps the logits that were stored with it.

    python -m harness run --methods d4m,mgd3,diffusion,gvd,random --ipc 1,5,10 --labels native,hard

Reported for video: nothing.

Named deviations: a class-conditional video diffusion model that is trained on the training split stands for Stable Diffusion 1.5, and its
class for the prompt and for the negative prompt "cartoon, anime, painting"; a class is clustered whole, by mini-batches only where it is
large (released: mini-batches always); latents are their posteriors' means.
"""

from __future__ import annotations

from typing import Annotated, Literal

from harness import Asset, Budget, Context, DatasetInfo, DistilledSet, Range, Split, method
from methods.gvd import GVD
from methods.gvd.generating import Generating


@method("d4m")
class D4M(Generating):
    """Class prototypes, k-means centres of the latents, noised and denoised by a diffusion model, with soft labels (CVPR 2024)."""

    metrics = GVD.metrics

    start: Annotated[float, Range(0.3, 1)] = 0.769
    """Noise level sigma / (alpha + sigma) to which a prototype is noised (released: strength 0.7, which is 0.769 on Stable Diffusion's
    schedule)."""
    cfg: Annotated[float, Range(1, 10)] = 8.0
    """Scale of classifier-free guidance (released: 8, of a text prompt)."""
    sampler: Literal["euler", "dpm++", "unipc", "ddim", "ddim-linear"] = "ddim-linear"
    """Sampler (released: Stable Diffusion's own PNDM, whose noise schedule ddim-linear is near to)."""
    steps: int = 50
    """Denoising steps from pure noise, of which those below ``start`` are taken (released: 50)."""

    def skip(self, info: DatasetInfo, budget: Budget) -> str | None:
        if self.backbone != "trained":
            return "a pretrained pipeline starts from noise, D4M from a prototype: leave backbone=trained"
        return super().skip(info, budget)

    def assets(self, info: DatasetInfo) -> dict[str, Asset]:
        return self.as_gvd().assets(info)

    def distill(self, train: Split, budget: Budget, context: Context) -> DistilledSet:
        return self.as_gvd().distill(train, budget, context)

    def as_gvd(self) -> GVD:
        return GVD(init="mode", init_level=self.start, **self.shared())
