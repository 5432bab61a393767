"""What every method shares whose clips a video diffusion model generates: which model, and how it is sampled."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal

from harness import Budget, DatasetInfo, Range
from methods.compose import Composed


@dataclass(frozen=True)
class Generating(Composed):
    """The parameters of the model and of its sampling; GVD and the methods that are parts of it add how modes are used."""

    soft: bool = True
    """Store the teacher's logits with the set."""
    teacher: str = ""
    """Evaluator network of the teacher, trained on the full training split; empty: the run's teacher."""
    cfg: Annotated[float, Range(1, 6)] = 0.0
    """Scale of classifier-free guidance; 1: off, and half the time; 0: the backbone's own, 2.5 where it is trained here."""
    sampler: Literal["euler", "dpm++", "unipc", "ddim", "ddim-linear"] = "dpm++"
    """Sampler; ddim-linear has the noise schedule of DiT, ddim a cosine."""
    steps: int = 0
    """Denoising steps; 0: the backbone's own, 12 where it is trained here."""
    shift: float = 3.0
    """Shift of the timesteps toward high noise, where motion and extent are decided; 1: even steps. The two ddim and pipelines have
    their own."""
    backbone: Path | str = "trained"
    """trained: the asset video_diffusion; else a pretrained Latte, Wan, CogVideoX or AnimateDiff pipeline, a folder or hub id."""
    prompt: str = "a video of {}"
    """What a pretrained pipeline is asked for; {} is the class name."""
    size: tuple[int, int, int] = (0, 0, 0)
    """Frames, height and width at which a pretrained pipeline works; 0: its own."""
    finetune: Literal["none", "lora", "full"] = "none"
    """Whether a pretrained denoiser is trained on the training split first: the asset pipeline_tuning."""
    precision: Literal["bfloat16", "float16", "float32"] = "bfloat16"
    """What a pretrained denoiser computes in; everything around it is float32."""
    offload: bool = False
    """Keep a pretrained denoiser in the memory of the CPU and bring a layer to the GPU when it computes: less GPU memory, slower."""
    compiled: bool = False
    """Compile a pretrained denoiser (torch.compile): minutes at first, then faster."""
    codec: Path | str = "patch"
    """Latents of a backbone that is trained here: patch, identity, autoencoder, or a diffusers autoencoder (folder or hub id). A pretrained
    pipeline has its own autoencoder."""
    batch: int = 12
    """Videos that are generated at a time; memory depends on this, not on the budget. A GPU takes many more."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps < 0 or self.batch < 1:
            raise ValueError(f"steps must not be negative and batch at least 1, got {self.steps} and {self.batch}")
        if self.cfg != 0 and self.cfg < 1:
            raise ValueError(f"cfg must be at least 1, or 0 for the backbone's own, got {self.cfg}")
        if min(self.size) < 0:
            raise ValueError(f"size must not be negative, got {list(self.size)}")
        if self.finetune != "none" and self.backbone == "trained":
            raise ValueError(f"finetune={self.finetune} is for a pretrained backbone: name its folder by backbone=FOLDER")
        if self.shift <= 0:
            raise ValueError(f"shift must be above 0, got {self.shift}")

    @property
    def native_labels(self) -> Literal["hard", "soft"]:
        """Soft where the logits are stored."""
        return "soft" if self.soft else "hard"

    def skip(self, info: DatasetInfo, budget: Budget) -> str | None:
        return self.unfit(budget)

    def shared(self) -> dict[str, Any]:
        """These parameters by name, for a method that lets GVD do its work."""
        return {f.name: getattr(self, f.name) for f in fields(Generating)}
