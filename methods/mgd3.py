"""MGD3: mode-guided diffusion. One clip is generated for each k-means centre of its class, and pulled to it in the first denoising steps.

Chan-Santiago et al., "MGD3: Mode-Guided Dataset Distillation using Diffusion Models", ICML 2025 (arXiv 2505.18963), for images; moved here
to video, where its GVD is its successor. Three steps for each class:

1. Mode discovery: the latents of the training clips are clustered by k-means with k = IPC; the centres are the modes m.
2. Mode guidance (Algorithm 1): at every step of deterministic DDIM, with x0 the clean latent that eps stands for,

       g = m - x0,      eps' = eps - sqrt(1 - abar) * guidance * g,

   and the step is taken with eps'. eps is the classifier-free guided prediction.
3. Stop guidance: after half of the steps the model is left alone.

The steps run along the paper's own noise schedule (sampler ddim-linear), so that the pull and the stop are at its noise levels. All frames
are pulled alike: what GVD adds is the decay over frames, the composition and the soft labels.

    python -m harness run --methods mgd3,diffusion,'k_means_real[space=latent]',random --ipc 1,5,10

Reported for images (ImageNette, ResNetAP-10, hard labels): 66.4 / 71.2 / 79.5 % at IPC 10 / 20 / 50, unguided 59.1 / 64.8 / 73.3, the real
images nearest to the modes 57.1 at IPC 10. For video: nothing confirmed.

Named deviations: a class-conditional video diffusion model that is trained on the training split (or a pretrained pipeline) stands for
DiT-XL/2; the deterministic sampler of Algorithm 1 (66.6 % in the paper's ablation) for the released ancestral one (66.4 %), whose update
adds guidance * g * sigma_t to the sample. Equation 6 of the paper has the other sign; Algorithm 1 is what pulls toward the mode.
"""

from __future__ import annotations

from typing import Annotated, Literal

from harness import Asset, Budget, Context, DatasetInfo, DistilledSet, Log, Range, Split, method
from methods.gvd import GVD
from methods.gvd.generating import Generating


@method("mgd3")
class MGD3(Generating):
    """Mode-guided diffusion: every clip is pulled to a k-means centre of its class's latents while it is denoised (ICML 2025)."""

    metrics = GVD.metrics

    guidance: Annotated[float, Log(0.01, 0.5)] = 0.1
    """lambda (paper: 0.1, more is "catastrophic")."""
    stop: Annotated[float, Range(0.3, 1)] = 0.793
    """Noise level sigma / (alpha + sigma) from which on nothing is guided; 0.793: after 24 of 50 steps (released: t_stop = 25 of 50)."""
    modes: Literal["kmeans", "real", "random", "gmm"] = "kmeans"
    """k-means centres, the real clips nearest to them, random real clips, or means of a Gaussian mixture (the paper's ablation)."""
    soft: bool = False
    """Store the teacher's logits with the set (paper: for ImageNet-1k alone)."""
    cfg: Annotated[float, Range(1, 6)] = 4.0
    """Scale of classifier-free guidance (paper: 4)."""
    sampler: Literal["euler", "dpm++", "unipc", "ddim", "ddim-linear"] = "ddim-linear"
    """Sampler; ddim-linear is the paper's: DDIM on 1,000 betas from 1e-4 to 0.02."""
    steps: int = 50
    """Denoising steps (paper: 50)."""

    def assets(self, info: DatasetInfo) -> dict[str, Asset]:
        return self.as_gvd().assets(info)

    def distill(self, train: Split, budget: Budget, context: Context) -> DistilledSet:
        return self.as_gvd().distill(train, budget, context)

    def as_gvd(self) -> GVD:
        return GVD(guidance=self.guidance, rule="mgd3", decay="none", stop=self.stop, modes=self.modes, **self.shared())
