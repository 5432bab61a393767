"""Frame encoders with memory: CNN+GRU, CNN+LSTM and CNN+mean, the field's cross-architecture networks (VDSD, CVPR 2024).

Every frame, centre-cropped to at most 64x64, passes three blocks of a 3x3 convolution with 128 channels, instance normalisation with
learned scale, ReLU and 2x2 average pooling: 8,192 features of a frame. A one-layer recurrent network reads them from a zero state, its
outputs are averaged over time, and a linear layer gives the logits. GRU: hidden size features / 8 (28.67 M parameters for 50 classes);
LSTM: hidden size features (537.6 M); mean: no recurrence at all, so that it cannot see the order of frames.
Frames below 43 pixels get 16 channels by default, and a GRU as wide as their 256 features (32 units learn half as much).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor, nn

from evaluators.sizes import SMALLEST_EXACT, too_small
from harness import evaluator

CROP = 64


@dataclass(frozen=True)
class CnnPlugin:
    """The frame encoder with one of three memories; each is a plugin of its own."""

    memory: ClassVar[Literal["gru", "lstm", "mean"]]

    width: int = 0
    """Channels of the frame encoder; 0: 128 as released, 16 for frames below 43 pixels."""

    def __post_init__(self) -> None:
        if self.width < 0:
            raise ValueError(f"width must be 0 or more, got {self.width}")

    def skip(self, clip_shape: tuple[int, int, int, int]) -> str | None:
        return too_small(f"cnn_{self.memory}", clip_shape, frames=1, pixels=8)

    def build(self, clip_shape: tuple[int, int, int, int], classes: int) -> nn.Module:
        return FrameNet(clip_shape, classes, self.width or (16 if has_small_frames(clip_shape) else 128), self.memory)


@evaluator("cnn_gru")
class CnnGru(CnnPlugin):
    """CNN+GRU: a frame encoder and a one-layer GRU, averaged over time."""

    memory = "gru"


@evaluator("cnn_lstm")
class CnnLstm(CnnPlugin):
    """CNN+LSTM: a frame encoder and a one-layer LSTM as wide as its features, averaged over time."""

    memory = "lstm"


@evaluator("cnn_mean")
class CnnMean(CnnPlugin):
    """CNN+mean: frame features averaged over time, blind to the order of frames."""

    memory = "mean"


def has_small_frames(clip_shape: tuple[int, int, int, int]) -> bool:
    """Whether a side of the frames is below 43 pixels; the number of frames does not matter to these networks."""
    return min(clip_shape[2:]) < SMALLEST_EXACT[1]


class FrameNet(nn.Module):
    """Normalised clips (B, T, C, H, W) -> logits (B, classes)."""

    def __init__(self, clip_shape: tuple[int, int, int, int], classes: int, width: int, memory: str) -> None:
        super().__init__()
        _, c, h, w = clip_shape
        self.crop = (min(h, CROP), min(w, CROP))
        blocks: list[nn.Module] = []
        for _ in range(3):
            blocks += [nn.Conv2d(c, width, 3, padding=1), nn.GroupNorm(width, width), nn.ReLU(inplace=True), nn.AvgPool2d(2)]
            c = width
        self.encoder = nn.Sequential(*blocks)
        features = width * (self.crop[0] // 8) * (self.crop[1] // 8)
        hidden = features // 8 if memory == "gru" and not has_small_frames(clip_shape) else features
        self.memory = {"gru": nn.GRU, "lstm": nn.LSTM}[memory](features, hidden, batch_first=True) if memory != "mean" else None
        self.head = nn.Linear(hidden, classes)

    def embed(self, clips: Tensor) -> Tensor:
        """What the classifier sees: outputs of the recurrent network averaged over time, (B, D)."""
        b, t, _, h, w = clips.shape
        top, left = (h - self.crop[0]) // 2, (w - self.crop[1]) // 2
        frames = clips[..., top : top + self.crop[0], left : left + self.crop[1]].flatten(0, 1)
        features = self.encoder(frames).reshape(b, t, -1)
        if self.memory is not None:
            features, _ = self.memory(features)
        return features.mean(1)

    def forward(self, clips: Tensor) -> Tensor:
        return self.head(self.embed(clips))
