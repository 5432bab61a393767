"""GVD: guided video dataset distillation with diffusion (Li, Chan Santiago, Samarasinghe, Liu, Shah; arXiv 2507.22360).

No code of the paper is released and its equations could not be read; this is the project's reading of it, step by step:

1. Latents: training clips pass through a codec (``codec``; asset latent_codec).
2. Modes: per class, k-means of the latents with k = IPC x videos per instance; the centres are the modes, or the real clips nearest to
   them (``modes``).
3. Guided denoising: a class-conditional video diffusion model (asset video_diffusion) generates one video for each mode. At every guided
   step the predicted clean latent is pulled to the mode, x0' = x0 + guidance * w_f * s * (mode - x0), strongly in the first frames and with
   a weight w_f that falls linearly to ``w_end`` in the last; s is 1, or MGD3's sigma^2 / alpha (``rule``). From the noise level ``stop``
   on the model is left alone.
4. Composition (MVIC): ``compose`` videos of the class share one instance of the budget, in time or in space (methods/compose.py). In time
   every video has the weights w_f over the frames that it keeps. All of its frames are generated: the backbones here take all frames of a
   clip at once, as channels or at the length they were trained for, and a shorter clip is not what they learned.
5. Soft labels: a teacher's logits of what is trained on are stored with the set (``soft``).

With every set it records whether the guidance arrived: how many videos are nearest to their own mode, and how much nearer than to others.

    python -m harness run --methods gvd,random --ipc 1,5,10
    python -m harness run --methods 'gvd,gvd[guidance=0],gvd[decay=none],gvd[compose=1],gvd[modes=real],gvd[init=mode]' --labels hard,soft
    python -m harness run --methods 'gvd[layout=grid,compose=4],random[layout=grid,compose=4],random' --ipc 1,5

Reported by the paper (abstract; accuracies derived from its percentages): IPC 20 and ConvNet3D give 44.8 % on MiniUCF (78.29 % of full
data with 1.98 % of the frames) and 21.1 % on HMDB51 (73.83 % with 3.30 %).
"""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn

from harness import Asset, Budget, Context, DatasetInfo, DistilledSet, Metric, Range, Split, method, predict_logits
from methods.compose import Videos, part
from methods.gvd.arrival import Arrival
from methods.gvd.clock import Clock
from methods.gvd.generating import Generating
from methods.gvd.guidance import Guidance
from methods.gvd.pipelines import load_pipeline, prompts_of
from methods.gvd.sampling import Sampling, StepDone
from methods.latents import Latents, codec_asset, latent_assets, latents_of

LABEL_BATCH = 16
"""Clips that the teacher labels at a time, so that memory does not grow with the set."""


@method("gvd")
class GVD(Generating):
    """Guided video diffusion: latents are pulled to class-wise modes while they are denoised, several videos make one instance."""

    metrics = (
        Metric("videos_generated", unit="count", doc="Videos that the diffusion model made for the set."),
        Metric("mode_hit_rate", "nearest to its mode", "fraction", "higher",
               doc="Share of the generated videos whose nearest mode of their class, in latents, is their own; chance is 1 / modes."),
        Metric("effective_pull", "pull that arrived", "fraction", "higher",
               doc="1 - mean distance of videos to their own mode / to the other modes of their class; 0 without guidance, 1 at the mode."),
    )  # fmt: skip

    compose: int = 2
    """Videos that share one instance (MVIC); 1: off. A grid takes 4, 9, 16 ..."""
    guidance: Annotated[float, Range(0, 0.5)] = 0.1
    """Scale of the pull toward the mode at each guided step; 0 is unguided diffusion."""
    rule: Literal["x0", "mgd3"] = "x0"
    """How the pull depends on the noise: x0: not at all; mgd3: as sigma^2 / alpha, MGD3's Algorithm 1 (with decay=none all of it)."""
    w_end: Annotated[float, Range(0, 1)] = 0.0
    """Weight of the guidance in the last frame; the first frame has 1."""
    decay: Literal["linear", "none", "cosine"] = "linear"
    """How the weight falls from the first frame to the last; none: it does not."""
    stop: Annotated[float, Range(0.3, 1)] = 0.75
    """Noise level sigma / (alpha + sigma) at which guidance stops, from 1 (noise, nothing is guided) to 0 (the end); 0.75: after 6 of 12
    steps that are shifted by 3."""
    modes: Literal["auto", "kmeans", "real", "random", "gmm"] = "auto"
    """What guides: k-means centres, the real clips nearest to them, random real clips, or means of a Gaussian mixture. auto: centres where
    the backbone is trained here, real clips with a pretrained pipeline. 40 centres of some 93 clips, as UCF101 has in a class, are blends
    of two or three of them, and what an autoencoder decodes from a blend is a double exposure, which no pretrained model would make."""
    features: Literal["latent", "teacher"] = "latent"
    """Where a class is clustered: in its flattened latents, or in the teacher's logits; a mode is a latent either way."""
    init: Literal["noise", "mode"] = "noise"
    """noise: denoising starts from noise and is guided; mode: it starts from the noised mode instead of being guided by it."""
    init_level: float = 0.75
    """Noise level at which denoising starts from the mode."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.guidance < 0 or not 0 <= self.stop <= 1 or not 0 < self.init_level <= 1:
            raise ValueError(
                f"guidance must not be negative, stop in [0, 1] and init_level in (0, 1], "
                f"got {self.guidance}, {self.stop} and {self.init_level}"
            )

    @property
    def source(self) -> str:
        """What guides, where ``modes`` leaves it to the backbone."""
        if self.modes != "auto":
            return self.modes
        return "kmeans" if self.backbone == "trained" else "real"

    def assets(self, info: DatasetInfo) -> dict[str, Asset]:
        needed: dict[str, Asset] = {}
        if self.backbone == "trained":
            needed |= {"backbone": Asset("video_diffusion", {"codec": self.codec}), **latent_assets(self.codec)}
        else:
            needed |= {"codec": codec_asset(self.backbone, self.size), **latent_assets(self.backbone, self.size)}
        if self.finetune != "none":
            params = {"backbone": self.backbone, "how": self.finetune, "prompt": self.prompt, "size": self.size}
            needed["tuned"] = Asset("pipeline_tuning", params)
        if self.soft or self.features == "teacher":
            needed["teacher"] = Asset("teacher", {"evaluator": self.teacher})
        return needed

    def distill(self, train: Split, budget: Budget, context: Context) -> DistilledSet:
        backbone = self._backbone(context)
        per_class, videos = budget.ipc * self.compose, budget.clips * self.compose
        instances, arrival = self.room(budget, context), Arrival(context.scratch / "arrival.npy", videos)
        latents_of_train, clock = latents_of(backbone.codec, train, context), Clock("gvd", "video")
        modes: dict[int, Tensor] = {}
        steps = self.steps or backbone.steps
        for first in range(0, videos, self.batch):
            numbers = torch.arange(first, min(first + self.batch, videos))
            if instances.has(first, len(numbers)):  # an interrupted attempt made them
                self._tell(context, first, len(numbers), videos, steps, steps)
                continue
            classes, own = numbers // per_class, numbers % per_class
            modes = self._modes(classes.unique().tolist(), modes, latents_of_train, train, per_class, context)
            guided_by = torch.stack([modes[c][i] for c, i in zip(classes.tolist(), own.tolist(), strict=True)])
            progress = partial(self._tell, context, first, len(numbers), videos)
            latents = self._latents(backbone, numbers, guided_by, classes, context, progress)
            for label, of_label in modes.items():
                mine = classes == label
                arrival.note(numbers[mine], latents[mine], of_label, own[mine])
            self.place(instances, backbone.codec.decode(latents).cpu(), first)
            clock.tell(len(numbers), videos - first - len(numbers))
        context.metrics |= {"videos_generated": float(videos), "mode_hit_rate": arrival.hit_rate, "effective_pull": arrival.pull}
        soft = label_clips(context.assets["teacher"], self.clips_of(instances), context) if self.soft else None
        return self.stored(instances, torch.arange(budget.classes).repeat_interleave(budget.ipc), soft)

    @staticmethod
    def _tell(context: Context, done: int, batch: int, total: int, step: int, steps: int) -> None:
        """Progress in denoising steps of single videos: a batch of a large model takes longer than a task may be silent."""
        context.progress(done * steps + batch * step, total * steps)

    def _guidance(self) -> tuple[Guidance, float]:
        """The guidance, and the noise level to start at."""
        if self.init == "mode":
            return Guidance(0.0), self.init_level
        return Guidance(self.guidance, self.w_end, self.decay, self.stop, self.rule), 1.0

    def _runs(self, frames: int, numbers: Tensor) -> list[slice] | None:
        """The latent frames of each of these videos that its instance keeps; None where it keeps them all."""
        if self.is_mosaic or self.compose == 1:
            return None
        return [part(frames, self.compose, number % self.compose) for number in numbers.tolist()]

    def _backbone(self, context: Context) -> Any:
        """What generates: the asset that was trained here, or a pretrained pipeline."""
        if self.backbone == "trained":
            return context.assets["backbone"]
        tuned = context.assets["tuned"] if self.finetune != "none" else None
        how = (context.device, self.precision, self.offload, self.compiled, tuned)
        return load_pipeline(str(self.backbone), context.assets["codec"], prompts_of(context.info, self.prompt), *how)

    def _latents(self, backbone: Any, numbers: Tensor, modes: Tensor, classes: Tensor, context: Context, progress: StepDone) -> Tensor:
        """Videos number numbers (n,), each from noise of its own, so that what is made does not depend on how far an attempt came."""
        guidance, start = self._guidance()
        how = Sampling(self.sampler, self.steps or backbone.steps, self.cfg or backbone.cfg, start, self.shift)
        noise = torch.stack([torch.randn(modes.shape[1:], generator=context.generator_of(number)) for number in numbers.tolist()])
        weights = guidance.weights(modes.shape[1], self._runs(modes.shape[1], numbers))
        modes, classes, noise = (tensor.to(context.device) for tensor in (modes, classes, noise))
        latents: Tensor = backbone.generate(modes, classes, noise, guidance, how, weights, progress)
        return latents

    def _modes(
        self, classes: list[int], known: dict[int, Tensor], latents: Latents, train: Split, k: int, context: Context
    ) -> dict[int, Tensor]:
        """The k modes of each of these classes, found where they are not known; those of other classes are let go."""
        from methods.gvd.modes import find_modes  # imports scikit-learn

        modes = {label: known[label] for label in classes if label in known}
        for label in classes:
            if label not in modes:
                features, rows = None, train.indices_of(label)
                if self.features == "teacher":
                    features = label_clips(context.assets["teacher"], train.subset(rows), context)
                modes[label] = find_modes(latents, rows, k, self.source, context.seed + label, features)
        return modes


def label_clips(teacher: nn.Module, clips: Split | Videos, context: Context) -> Tensor:
    """The teacher's logits (N, classes) of clips (N, T, C, H, W), in small batches."""
    protocol = context.protocol.model_copy(update={"test_batch": min(LABEL_BATCH, context.protocol.test_batch)})
    return predict_logits(teacher, clips, protocol, context.device)
