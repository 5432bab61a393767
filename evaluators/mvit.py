"""MViT-B: a transformer whose pooling attention halves the resolution (Fan et al., ICCV 2021; pytorchvideo's model zoo, from scratch).

36.61 million parameters for 400 classes. Clips below 8x43x43 get a quarter of the channels and four blocks. Only ``pytorchvideo.models``
is imported, and only when a network is built: see ``evaluators/pooled.py``.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from evaluators.sizes import is_small, too_small
from harness import evaluator


@evaluator("mvit")
class MViT:
    """MViT-B: a multiscale vision transformer (Fan et al. 2021)."""

    width: int = 0
    """Channels of the patch embedding; 0: 96 as published, 24 for clips below 8x43x43."""
    depth: int = 0
    """Transformer blocks; 0: 16 as published, 4 for clips below 8x43x43."""

    def __post_init__(self) -> None:
        if self.width < 0 or self.depth < 0:
            raise ValueError(f"width and depth must be 0 or more, got width={self.width}, depth={self.depth}")

    def skip(self, clip_shape: tuple[int, int, int, int]) -> str | None:
        t, _, h, w = clip_shape
        if h != w or h % 4 or t % 2:
            return f"mvit needs an even number of square frames with a multiple of 4 pixels, the clips are {t}x{h}x{w}"
        return too_small("mvit", clip_shape)

    def build(self, clip_shape: tuple[int, int, int, int], classes: int) -> nn.Module:
        small = is_small(clip_shape)
        return MViTNet(clip_shape, classes, self.width or (24 if small else 96), self.depth or (4 if small else 16))


class MViTNet(nn.Module):
    """MViT-B: pooling attention that halves the resolution and doubles the channels at blocks 1, 3 and 14 of 16."""

    def __init__(self, clip_shape: tuple[int, int, int, int], classes: int, width: int, depth: int) -> None:
        from pytorchvideo.models.vision_transformers import create_multiscale_vision_transformers

        super().__init__()
        t, c, h, _ = clip_shape
        doubled = [i for i in (1, 3, 14) if i < depth]
        device = torch.get_default_device()
        with torch.device("cpu"):  # its constructor reads tensor values, which the meta device has not
            net = create_multiscale_vision_transformers(
                spatial_size=h,
                temporal_size=t,
                input_channels=c,
                depth=depth,
                patch_embed_dim=width,
                embed_dim_mul=[[i, 2.0] for i in doubled],
                atten_head_mul=[[i, 2.0] for i in doubled],
                pool_q_stride_size=[[i, 1, 2, 2] for i in doubled],
                pool_kv_stride_adaptive=[1, 8, 8],
                pool_kvq_kernel=[3, 3, 3],
                head=None,
            )
        self.net = net.to(device)
        self.dropout = nn.Dropout(0.5)
        self.head = nn.Linear(width * 2 ** len(doubled), classes)

    def embed(self, clips: Tensor) -> Tensor:
        """The class token after the last block, (B, D)."""
        return self.net(clips.transpose(1, 2))[:, 0]

    def forward(self, clips: Tensor) -> Tensor:
        return self.head(self.dropout(self.embed(clips)))
