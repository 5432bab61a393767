"""Pictures of a distilled set: a contact sheet (PNG, one clip a row, its frames in columns) and the same clips moving (GIF), with names."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

_LABEL_WIDTH, _MARGIN, _FONT_SIZE = 150, 3, 13
_MAX_CLASSES, _MANY, _PAIRS = 120, 60, 12
"""Classes that are shown at all; clips from which on tiles are small; classes up to which each shows two clips."""


def pick_rows(labels: Tensor) -> list[int]:
    """Indices of the clips that are shown, in class order: one of every class, two where there are at most 12, of at most 120 classes."""
    classes = labels.unique().tolist()
    each = 2 if len(classes) <= _PAIRS else 1
    return [row for label in classes[:_MAX_CLASSES] for row in torch.nonzero(labels == label).flatten()[:each].tolist()]


def contact_sheet(clips: Tensor, names: Sequence[str], frames: int = 16) -> bytes:
    """PNG of clips (N, T, C, H, W), with a name before each; at most ``frames`` of each, evenly spaced, half of them of many clips."""
    pictures = _to_pictures(clips, frames if len(clips) <= _MANY // 2 else frames // 2)
    w, h = pictures[0][0].size
    sheet = Image.new("RGB", (_LABEL_WIDTH + len(pictures[0]) * (w + _MARGIN), len(pictures) * (h + _MARGIN)), "white")
    draw = ImageDraw.Draw(sheet)
    for row, (name, clip) in enumerate(zip(names, pictures, strict=True)):
        top = row * (h + _MARGIN)
        draw.text((4, top + (h - _FONT_SIZE) // 2), _shorten(draw, name, _LABEL_WIDTH - 8), fill="black", font=_font())
        for column, picture in enumerate(clip):
            sheet.paste(picture, (_LABEL_WIDTH + column * (w + _MARGIN), top))
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG")
    return buffer.getvalue()


def animation(clips: Tensor, names: Sequence[str], milliseconds: int = 125) -> bytes:
    """GIF of clips (N, T, C, H, W) side by side in a square grid, each over its name."""
    pictures = _to_pictures(clips, clips.shape[1])
    w, h = pictures[0][0].size
    columns = math.ceil(math.sqrt(len(pictures)))
    across, down = w + _MARGIN, h + _FONT_SIZE + 5
    ground = Image.new("RGB", (columns * across, math.ceil(len(pictures) / columns) * down), "white")
    draw = ImageDraw.Draw(ground)
    for i, name in enumerate(names):
        where = (i % columns * across, i // columns * down + h + 1)
        draw.text(where, _shorten(draw, name, w), fill="black", font=_font())
    frames = []
    for step in range(len(pictures[0])):
        grid = ground.copy()
        for i, clip in enumerate(pictures):
            grid.paste(clip[step], (i % columns * across, i // columns * down))
        frames.append(grid)
    buffer = io.BytesIO()
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:], duration=milliseconds, loop=0)
    return buffer.getvalue()


def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(_FONT_SIZE)


def _shorten(draw: ImageDraw.ImageDraw, name: str, width: int) -> str:
    """The name, cut where it is wider than so many pixels."""
    if draw.textlength(name, font=_font()) <= width:
        return name
    while name and draw.textlength(name + "...", font=_font()) > width:
        name = name[:-1]
    return name + "..."


def _to_pictures(clips: Tensor, frames: int) -> list[list[Image.Image]]:
    """At most ``frames`` pictures of each clip, evenly spaced. Small clips are enlarged by a whole factor to at least 96 pixels; of many
    clips the pictures are about 64 high."""
    if clips.dtype != torch.uint8:
        clips = (clips.float().clamp(0, 1) * 255).round().to(torch.uint8)
    pixels = clips.cpu().permute(0, 1, 3, 4, 2)
    pixels = pixels.expand(*pixels.shape[:-1], 3) if pixels.shape[-1] == 1 else pixels[..., :3]
    n, t, h, w, _ = pixels.shape
    scale = 64 / h if n > _MANY and h > 64 else math.ceil((96 if n <= _MANY else 64) / h)
    size, how = (round(w * scale), round(h * scale)), Image.Resampling.BOX if scale < 1 else Image.Resampling.NEAREST
    shown = torch.linspace(0, t - 1, min(t, frames)).round().long().tolist()
    return [[Image.fromarray(clip[step].contiguous().numpy()).resize(size, how) for step in shown] for clip in pixels]
