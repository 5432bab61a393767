from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from harness.budget import Budget
from harness.plugin import Context
from harness.registry import Registry
from methods.rded import RDED
from tests.tiny import SHAPE, ContextFactory, tiny_split


class Brightness(nn.Module):
    """A teacher that sees class 0 in bright clips and classes 1 and 2, alike, in dark ones."""

    def forward(self, clips: Tensor) -> Tensor:
        light = clips.mean(dim=(1, 2, 3, 4))
        return 10 * torch.stack([light, -light, -light], 1)


@pytest.fixture
def context(tmp_path: Path) -> Context:
    return ContextFactory(Registry(), tmp_path).bare(tiny_split(), assets={"teacher": Brightness()})


def test_keeps_the_videos_and_crops_the_teacher_is_surest_of(context: Context) -> None:
    train = tiny_split(per_class=6)
    result = RDED(crops=30, smallest_crop=0.1).distill(train, Budget(2, SHAPE, 3), context)
    assert result.clips is not None
    assert result.labels.tolist() == [0, 0, 1, 1, 2, 2]
    light = result.clips.float().mean(dim=(1, 2, 3, 4))
    whole = train.clips().float().mean(dim=(1, 2, 3, 4))
    assert light[:2].min() > whole.max(), "the bright crops of class 0"
    assert light[2:].max() < whole.min(), "the dark crops of the others"


def test_labels_are_the_teachers_logits_of_the_stored_clips(context: Context) -> None:
    result = RDED(crops=2).distill(tiny_split(), Budget(1, SHAPE, 3), context)
    assert result.clips is not None
    assert result.soft_labels is not None
    expected = Brightness()((result.clips.float() / 255 - 0.5) / 0.5)
    torch.testing.assert_close(result.soft_labels, expected)
    assert result.label_bytes == 3 * 3 * 4


def test_whole_frames_of_the_pool_without_crops(context: Context) -> None:
    """A crop of everything is the clip itself; with a pool of all videos the brightest of class 0 must win."""
    train = tiny_split()
    result = RDED(crops=1, smallest_crop=1.0).distill(train, Budget(1, SHAPE, 3), context)
    assert result.clips is not None
    rows = train.indices_of(0)
    brightest = train.clips(rows).float().mean(dim=(1, 2, 3, 4)).argmax()
    difference = (result.clips[0].float() - train.clips(rows[brightest : brightest + 1])[0].float()).abs()
    assert difference.float().mean() < 30, "boxes vary in aspect a little, the video is the same"


def test_flips_only_where_they_keep_the_label(context: Context) -> None:
    train = tiny_split()
    method = RDED(crops=8, smallest_crop=1.0)
    ramp = torch.arange(32, dtype=torch.uint8).expand(1, *SHAPE) * 8
    teacher = nn.Sequential()
    teacher.forward = lambda clips: torch.stack([clips[..., 0].mean((1, 2, 3)), clips[..., -1].mean((1, 2, 3))], 1)  # type: ignore[method-assign]
    kept = method.easiest_crop(ramp, 0, teacher, context).cut(ramp)[0]
    assert kept[..., 0].float().mean() < kept[..., -1].float().mean()
    context.info = replace(train.info, flip=True)
    flipped = method.easiest_crop(ramp, 0, teacher, context).cut(ramp)[0]
    assert flipped[..., 0].float().mean() > flipped[..., -1].float().mean()
