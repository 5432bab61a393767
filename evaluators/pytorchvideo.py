"""Networks of pytorchvideo.models, from scratch: I3D-R50, R(2+1)D-50, SlowFast-R50, X3D-S/M and MViT-B.

Each is the network of pytorchvideo's model zoo (same blocks, strides and parameter counts) with its global pooling written for any clip
size. ``width`` scales all channels and ``depth`` keeps the first stages; where they are 0, clips below 8x43x43 get a quarter of the
channels and two stages of one block each, all others the published network. Only ``pytorchvideo.models`` is imported: the package is
unmaintained and its transforms no longer import on current torchvision.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from evaluators.sizes import is_small
from harness import evaluator

STAGES = 4


@evaluator("i3d_r50")
class I3DR50:
    """I3D on ResNet-50: 3-D convolutions inflated from a residual network."""

    width: int = 0
    """Channels of the stem; 0: 64 as published, 16 for clips below 8x43x43."""
    depth: int = 0
    """Residual stages kept, 1 to 4; 0: all 4, and 2 of one block each for clips below 8x43x43."""

    def skip(self, clip_shape: tuple[int, int, int, int]) -> str | None:
        return needs("i3d_r50", clip_shape)

    def build(self, clip_shape: tuple[int, int, int, int], classes: int) -> nn.Module:
        from pytorchvideo.models.resnet import create_resnet

        net = create_resnet(
            input_channel=clip_shape[1],
            stem_dim_out=self.width or (16 if is_small(clip_shape) else 64),
            stem_conv_kernel_size=(5, 7, 7),
            stage1_pool=nn.MaxPool3d,
            stage_conv_a_kernel_size=(
                ((3, 1, 1),),
                ((3, 1, 1), (1, 1, 1)),
                ((3, 1, 1), (1, 1, 1)),
                ((1, 1, 1), (3, 1, 1)),
            ),
        )
        # Stem, stage 1, a pooling over time, stages 2 to 4, head.
        blocks = list(net.blocks[:-1])
        return Pooled([blocks[0], nn.Sequential(blocks[1], blocks[2]), *blocks[3:]], clip_shape, classes, self.depth)


@evaluator("r2plus1d")
class R2Plus1D:
    """R(2+1)D-50: convolutions factored into space and time (Tran et al. 2018)."""

    width: int = 0
    """Channels of the stem; 0: 64 as published, 16 for clips below 8x43x43."""
    depth: int = 0
    """Residual stages kept, 1 to 4; 0: all 4, and 2 of one block each for clips below 8x43x43."""

    def skip(self, clip_shape: tuple[int, int, int, int]) -> str | None:
        return needs("r2plus1d", clip_shape)

    def build(self, clip_shape: tuple[int, int, int, int], classes: int) -> nn.Module:
        from pytorchvideo.models.r2plus1d import create_r2plus1d

        width = self.width or (16 if is_small(clip_shape) else 64)
        net = create_r2plus1d(input_channel=clip_shape[1], stem_dim_out=width, dropout_rate=0.5)
        return Pooled(list(net.blocks[:-1]), clip_shape, classes, self.depth)


@evaluator("slowfast")
class SlowFast:
    """SlowFast-R50: a slow pathway of every fourth frame and a narrow one of all frames (Feichtenhofer et al. 2019)."""

    width: int = 0
    """Channels of the slow stem, a multiple of 8; 0: 64 as published, 16 for clips below 8x43x43."""
    depth: int = 0
    """Residual stages kept, 1 to 4; 0: all 4, and 2 of one block each for clips below 8x43x43."""

    def __post_init__(self) -> None:
        if self.width % 8:
            raise ValueError(f"width must be a multiple of 8, got {self.width}")

    def skip(self, clip_shape: tuple[int, int, int, int]) -> str | None:
        return needs("slowfast", clip_shape, frames=SlowFastNet.ALPHA + 1)

    def build(self, clip_shape: tuple[int, int, int, int], classes: int) -> nn.Module:
        from pytorchvideo.models.slowfast import create_slowfast

        width = self.width or (16 if is_small(clip_shape) else 64)
        net = create_slowfast(input_channels=(clip_shape[1],) * 2, stem_dim_outs=(width, width // 8))
        # Stem, four stages, pooling, head: the last two are replaced.
        return SlowFastNet(list(net.blocks[:-2]), clip_shape, classes, self.depth)


@evaluator("x3d")
class X3D:
    """X3D-S/M: a network expanded along width, depth and time, with few parameters (Feichtenhofer 2020)."""

    width: float = 0
    """Factor on the width; 0: 2 as published, 1 for clips below 8x43x43."""
    depth: float = 0
    """Factor on the depth; 0: 2.2 as published, 0.5 (one to four blocks a stage) for clips below 8x43x43."""

    def skip(self, clip_shape: tuple[int, int, int, int]) -> str | None:
        return needs("x3d", clip_shape)

    def build(self, clip_shape: tuple[int, int, int, int], classes: int) -> nn.Module:
        return X3DNet(clip_shape, classes, *self._factors(clip_shape))

    def _factors(self, clip_shape: tuple[int, int, int, int]) -> tuple[float, float]:
        small = is_small(clip_shape)
        return self.width or (1.0 if small else 2.0), self.depth or (0.5 if small else 2.2)


@evaluator("mvit")
class MViT:
    """MViT-B: a multiscale vision transformer (Fan et al. 2021)."""

    width: int = 0
    """Channels of the patch embedding; 0: 96 as published, 24 for clips below 8x43x43."""
    depth: int = 0
    """Transformer blocks; 0: 16 as published, 4 for clips below 8x43x43."""

    def skip(self, clip_shape: tuple[int, int, int, int]) -> str | None:
        t, _, h, w = clip_shape
        if h != w or h % 4 or t % 2:
            return f"mvit needs an even number of square frames with a multiple of 4 pixels, the clips are {t}x{h}x{w}"
        return needs("mvit", clip_shape)

    def build(self, clip_shape: tuple[int, int, int, int], classes: int) -> nn.Module:
        small = is_small(clip_shape)
        return MViTNet(clip_shape, classes, self.width or (24 if small else 96), self.depth or (4 if small else 16))


def needs(name: str, clip_shape: tuple[int, int, int, int], frames: int = 2) -> str | None:
    t, _, h, w = clip_shape
    return None if t >= frames and min(h, w) >= 16 else f"{name} needs {frames} frames of 16x16 or more, the clips are {t}x{h}x{w}"


def kept_stages(blocks: Sequence[nn.Module], clip_shape: tuple[int, int, int, int], depth: int) -> nn.ModuleList:
    """Stem and the first ``depth`` stages; where depth is 0, all of them, or for small clips two of one residual block each."""
    if not 0 <= depth <= STAGES:
        raise ValueError(f"depth must be 0 to {STAGES}, got {depth}")
    trim = depth == 0 and is_small(clip_shape)
    kept = nn.ModuleList(blocks[: 1 + (2 if trim else depth or STAGES)])
    if trim:
        for module in kept.modules():
            residual = getattr(module, "res_blocks", None)
            if residual is not None:
                module.res_blocks = residual[:1]
    return kept


class Pooled(nn.Module):
    """A trunk of 3-D convolutions, global average pooling, dropout 0.5 and a linear classifier."""

    def __init__(self, blocks: Sequence[nn.Module], clip_shape: tuple[int, int, int, int], classes: int, depth: int) -> None:
        super().__init__()
        self.blocks = kept_stages(blocks, clip_shape, depth)
        self.dropout = nn.Dropout(0.5)
        self.head = nn.Linear(last_channels(self.blocks[-1]), classes)

    def embed(self, clips: Tensor) -> Tensor:
        """Features averaged over time and space, (B, D)."""
        x = clips.transpose(1, 2)
        for block in self.blocks:
            x = block(x)
        return x.mean(dim=(2, 3, 4))

    def forward(self, clips: Tensor) -> Tensor:
        return self.head(self.dropout(self.embed(clips)))


class SlowFastNet(nn.Module):
    """Two pathways, pooled apart and concatenated; the slow one sees every fourth frame."""

    ALPHA = 4

    def __init__(self, blocks: Sequence[nn.Module], clip_shape: tuple[int, int, int, int], classes: int, depth: int) -> None:
        super().__init__()
        self.blocks = kept_stages(blocks, clip_shape, depth)
        last: Any = self.blocks[-1]
        channels = sum(last_channels(path) for path in last.multipathway_blocks)
        # The last stage that is kept hands its pathways to the pooling, without another fusion.
        last.multipathway_fusion = nn.Identity()
        self.dropout = nn.Dropout(0.5)
        self.head = nn.Linear(channels, classes)

    def embed(self, clips: Tensor) -> Tensor:
        """Features of both pathways averaged over time and space, (B, D)."""
        fast = clips.transpose(1, 2)
        x = [fast[:, :, :: self.ALPHA], fast]
        for block in self.blocks:
            x = block(x)
        return torch.cat([path.mean(dim=(2, 3, 4)) for path in x], 1)

    def forward(self, clips: Tensor) -> Tensor:
        return self.head(self.dropout(self.embed(clips)))


class X3DNet(nn.Module):
    """X3D with its own head: expansion to 2.25 times the channels, pooling, 2,048 features."""

    def __init__(self, clip_shape: tuple[int, int, int, int], classes: int, width: float, depth: float) -> None:
        from pytorchvideo.models.x3d import create_x3d

        super().__init__()
        t, c, h, w = clip_shape
        net = create_x3d(
            input_channel=c,
            input_clip_length=t,
            input_crop_size=max(32, min(h, w)),  # decides the pooling alone, which is replaced below
            model_num_class=classes,
            width_factor=width,
            depth_factor=depth,
            inner_act=nn.SiLU,  # its own Swish uses an autograd interface that torch has deprecated
            head_activation=None,
        )
        self.blocks, head = net.blocks[:-1], net.blocks[-1]
        self.pool = head.pool
        self.pool.pool = nn.AdaptiveAvgPool3d(1)
        self.dropout = nn.Dropout(0.5)
        self.head = head.proj

    def embed(self, clips: Tensor) -> Tensor:
        """Output of the head's first layer, (B, 2048)."""
        x = clips.transpose(1, 2)
        for block in self.blocks:
            x = block(x)
        return self.pool(x).flatten(1)

    def forward(self, clips: Tensor) -> Tensor:
        return self.head(self.dropout(self.embed(clips)))


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


def last_channels(block: nn.Module) -> int:
    """Channels that a block ends with: those of its last normalisation."""
    return [m.num_features for m in block.modules() if isinstance(m, nn.BatchNorm3d)][-1]
