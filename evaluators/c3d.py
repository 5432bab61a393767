"""C3D: eight 3x3x3 convolutions and three fully connected layers (Tran et al., ICCV 2015, figure 3).

With the default parameters this is the paper's network: convolutions of 64, 128, 256, 256, 512, 512, 512, 512 channels with padding 1,
max pooling after the 1st, 2nd, 4th, 6th and 8th, the first without time and the last with one pixel of padding, fc6 and fc7 of 4,096 with
dropout 0.5. 77,995,776 parameters before the classifier and 8,192 features at 16x3x112x112. Convolutions start as He et al. (2015) have
it, fully connected layers from a normal distribution of 0.005.

Clips below 8x43x43 get a small form: an eighth of the channels, the first three stages, batch normalisation after every convolution,
fc6 on the average over time and space (flattened it learns nothing from a hundred clips), fc6 and fc7 of 128 units and no dropout (with
0.5 it learns little from a hundred clips: 64 against 83 % of held-out digits at IPC 10). At any size, a pooling leaves a dimension of one
place as it is.
"""

from __future__ import annotations

from torch import Tensor, nn

from evaluators.sizes import is_small, too_small
from harness import evaluator

STAGES = ((1,), (2,), (4, 4), (8, 8), (8, 8))
"""Channels of every convolution in units of ``width``; a pooling follows each stage."""


@evaluator("c3d")
class C3DEvaluator:
    """C3D: eight 3x3x3 convolutions and three fully connected layers (Tran et al. 2015)."""

    width: int = 0
    """Channels of the first convolution, the others have 2, 4 and 8 times as many; 0: 64 as published, 8 for clips below 8x43x43."""
    depth: int = 0
    """Stages of convolutions that are kept, 1 to 5; 0: 5 as published, 3 for clips below 8x43x43."""
    hidden: int = 0
    """Units of fc6 and fc7; 0: 64 times the width, which is 4,096 as published, 16 times for clips below 8x43x43."""
    dropout: float = -1.0
    """Dropout after fc6 and fc7; below 0: 0.5 as published, none for clips below 8x43x43."""

    def __post_init__(self) -> None:
        if self.width < 0 or self.hidden < 0 or not 0 <= self.depth <= len(STAGES):
            raise ValueError(
                f"width and hidden must be 0 or more and depth 0 to {len(STAGES)}, "
                f"got width={self.width}, depth={self.depth}, hidden={self.hidden}"
            )

    def skip(self, clip_shape: tuple[int, int, int, int]) -> str | None:
        return too_small("c3d", clip_shape)

    def build(self, clip_shape: tuple[int, int, int, int], classes: int) -> nn.Module:
        small = is_small(clip_shape)
        width = self.width or (8 if small else 64)
        depth = self.depth or (3 if small else len(STAGES))
        hidden = self.hidden or (16 if small else 64) * width
        dropout = self.dropout if self.dropout >= 0 else 0.0 if small else 0.5
        return C3D(clip_shape, classes, width, depth, hidden, dropout)


class C3D(nn.Module):
    """Normalised clips (B, T, C, H, W) -> logits (B, classes)."""

    def __init__(
        self,
        clip_shape: tuple[int, int, int, int],
        classes: int,
        width: int = 64,
        depth: int = 5,
        hidden: int = 4096,
        dropout: float = 0.5,
    ) -> None:
        super().__init__()
        t, c, h, w = clip_shape
        small = is_small(clip_shape)
        size = [t, h, w]
        layers: list[nn.Module] = []
        for i, stage in enumerate(STAGES[:depth]):
            for factor in stage:
                layers.append(nn.Conv3d(c, factor * width, 3, padding=1, bias=not small))
                nn.init.kaiming_normal_(layers[-1].weight, nonlinearity="relu")  # type: ignore[arg-type]
                layers += [nn.BatchNorm3d(factor * width), nn.ReLU(inplace=True)] if small else [nn.ReLU(inplace=True)]
                c = factor * width
            pool = [1 if i == 0 else 2, 2, 2]
            pool = [min(k, n) for k, n in zip(pool, size, strict=True)]
            # The paper's last pooling pads 7x7 to 4x4; elsewhere an odd border is dropped.
            padding = [0, *(int(i == 4 and k == 2 and n % 2 == 1) for k, n in zip(pool[1:], size[1:], strict=True))]
            size = [(n + 2 * p - k) // k + 1 for n, p, k in zip(size, padding, pool, strict=True)]
            # The ReLU of the maximum is the maximum of the ReLUs, at a quarter or an eighth of the places.
            layers.insert(-1, nn.MaxPool3d(tuple(pool), tuple(pool), tuple(padding)))  # type: ignore[arg-type]
        if small:
            layers.append(nn.AvgPool3d(tuple(size)))  # type: ignore[arg-type]
            size = [1, 1, 1]
        self.stages = nn.Sequential(*layers)
        self.head = nn.Sequential(
            nn.Linear(c * size[0] * size[1] * size[2], hidden),
            nn.ReLU(inplace=True),
            nn.Dropout(dropout),
            nn.Linear(hidden, hidden),
            nn.ReLU(inplace=True),
            nn.Dropout(dropout),
            nn.Linear(hidden, classes),
        )
        if not small:
            for module in self.head:
                if isinstance(module, nn.Linear):
                    nn.init.normal_(module.weight, std=0.005)
                    nn.init.zeros_(module.bias)

    def embed(self, clips: Tensor) -> Tensor:
        """Flattened output of the last pooling (pool5), (B, D); its average in the small form."""
        return self.stages(clips.transpose(1, 2)).flatten(1)

    def forward(self, clips: Tensor) -> Tensor:
        return self.head(self.embed(clips))
