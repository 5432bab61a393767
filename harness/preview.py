"""Pictures of a distilled set: a contact sheet (PNG, one clip a row, its frames in columns) and the same clips moving (GIF)."""

from __future__ import annotations

import io
import math

import torch
from PIL import Image, ImageDraw
from torch import Tensor

_LABEL_WIDTH, _MARGIN, _MAX_CLASSES, _MAX_PER_CLASS = 118, 2, 12, 2


def pick_rows(labels: Tensor) -> list[int]:
    """Indices of the clips that are shown: the first two of each of the first 12 classes that the set holds, in class order."""
    rows = []
    for label in labels.unique().tolist()[:_MAX_CLASSES]:
        rows += torch.nonzero(labels == label).flatten()[:_MAX_PER_CLASS].tolist()
    return rows


def contact_sheet(clips: Tensor, names: list[str], frames: int = 16) -> bytes:
    """PNG of clips (N, T, C, H, W), with a name before each; at most ``frames`` of each, evenly spaced."""
    pictures = _to_pictures(clips)
    n, t, h, w, _ = pictures.shape
    columns = torch.linspace(0, t - 1, min(t, frames)).round().long()
    sheet = Image.new("RGB", (_LABEL_WIDTH + len(columns) * (w + _MARGIN), n * (h + _MARGIN)), "white")
    draw = ImageDraw.Draw(sheet)
    for row in range(n):
        top = row * (h + _MARGIN)
        draw.text((4, top + max(0, h // 2 - 6)), names[row][:18], fill="black")
        for column, frame in enumerate(columns.tolist()):
            sheet.paste(Image.fromarray(pictures[row, frame].numpy()), (_LABEL_WIDTH + column * (w + _MARGIN), top))
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG")
    return buffer.getvalue()


def animation(clips: Tensor, milliseconds: int = 125) -> bytes:
    """GIF of clips (N, T, C, H, W) side by side in a square grid."""
    pictures = _to_pictures(clips)
    n, t, h, w, _ = pictures.shape
    columns = math.ceil(math.sqrt(n))
    frames = []
    for step in range(t):
        grid = Image.new("RGB", (columns * (w + _MARGIN), math.ceil(n / columns) * (h + _MARGIN)), "white")
        for i in range(n):
            grid.paste(Image.fromarray(pictures[i, step].numpy()), ((i % columns) * (w + _MARGIN), (i // columns) * (h + _MARGIN)))
        frames.append(grid)
    buffer = io.BytesIO()
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:], duration=milliseconds, loop=0)
    return buffer.getvalue()


def _to_pictures(clips: Tensor) -> Tensor:
    """(N, T, H, W, 3) uint8 on the CPU; small clips are enlarged by a whole factor to at least 48 pixels."""
    if clips.dtype != torch.uint8:
        clips = (clips.float().clamp(0, 1) * 255).round().to(torch.uint8)
    pictures = clips.cpu().permute(0, 1, 3, 4, 2)
    pictures = pictures.expand(*pictures.shape[:-1], 3) if pictures.shape[-1] == 1 else pictures[..., :3]
    factor = math.ceil(48 / pictures.shape[2])
    return pictures.repeat_interleave(factor, 2).repeat_interleave(factor, 3).contiguous()
