"""TSN: a frame backbone of timm, pooled over time (Wang et al., ECCV 2016: segment consensus by averaging).

``tsn[backbone=convnext_atto]`` takes any model of timm, from scratch. With ``pooling=gru`` the frame features are read by a one-layer GRU
in place of the average, so that the order of frames counts.
"""

from __future__ import annotations

import inspect
from typing import Any, Literal

from torch import Tensor, nn

from evaluators.sizes import too_small
from harness import evaluator


@evaluator("tsn")
class TsnEvaluator:
    """TSN: any frame backbone of timm, averaged over time or read by a GRU."""

    backbone: str = "resnet18"
    """Name of a timm model, from scratch."""
    pooling: Literal["mean", "gru"] = "mean"
    """Over time: mean of the frame features, or the mean output of a one-layer GRU of the same size."""
    dropout: float = 0.5
    """Dropout before the classifier."""

    def __post_init__(self) -> None:
        import timm

        if not timm.is_model(self.backbone):
            import difflib

            near = difflib.get_close_matches(self.backbone, timm.list_models(), 3)
            raise ValueError(f"timm has no model {self.backbone!r}" + (f"; did you mean {', '.join(near)}?" if near else ""))

    def skip(self, clip_shape: tuple[int, int, int, int]) -> str | None:
        return too_small("tsn", clip_shape, frames=1, pixels=32)

    def build(self, clip_shape: tuple[int, int, int, int], classes: int) -> nn.Module:
        return Tsn(clip_shape, classes, self.backbone, self.pooling, self.dropout)


class Tsn(nn.Module):
    """Normalised clips (B, T, C, H, W) -> logits (B, classes)."""

    def __init__(self, clip_shape: tuple[int, int, int, int], classes: int, backbone: str, pooling: str, dropout: float) -> None:
        import timm

        super().__init__()
        _, c, h, w = clip_shape
        # Models with position embeddings have to know the size of a frame; most others do not take it.
        entry = timm.model_entrypoint(backbone)
        sized = "vision_transformer" in inspect.getmodule(entry).__name__ or "swin" in backbone  # type: ignore[union-attr]
        size: dict[str, Any] = {"img_size": (h, w)} if sized else {}
        self.backbone = timm.create_model(backbone, pretrained=False, num_classes=0, in_chans=c, **size)
        features = int(self.backbone.num_features)  # type: ignore[arg-type]
        self.memory = nn.GRU(features, features, batch_first=True) if pooling == "gru" else None
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(features, classes)

    def embed(self, clips: Tensor) -> Tensor:
        """Frame features pooled over time, (B, D)."""
        b, t = clips.shape[:2]
        features = self.backbone(clips.flatten(0, 1)).view(b, t, -1)
        if self.memory is not None:
            features, _ = self.memory(features)
        return features.mean(1)

    def forward(self, clips: Tensor) -> Tensor:
        return self.head(self.dropout(self.embed(clips)))
