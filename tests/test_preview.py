from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image
from PIL.GifImagePlugin import GifImageFile

from harness.preview import animation, contact_sheet, pick_rows


def clips(n: int, size: int = 32, frames: int = 8) -> torch.Tensor:
    return torch.zeros(n, frames, 1, size, size)


def test_every_class_is_shown() -> None:
    few, many = torch.arange(12).repeat(5), torch.arange(27).repeat(5)
    assert len(pick_rows(few)) == 24 and len(pick_rows(many)) == 27
    assert sorted(many[pick_rows(many)].tolist()) == list(range(27)) and len(pick_rows(torch.arange(400))) == 120


@pytest.mark.parametrize(("n", "size"), [(4, 32), (27, 32), (101, 112), (4, 112)])
def test_the_gif_has_all_frames_and_a_name_under_each_clip(n: int, size: int) -> None:
    moving = clips(n, size) + torch.linspace(0, 1, 8).view(1, 8, 1, 1, 1)
    made = Image.open(io.BytesIO(animation(moving, [f"class {i}" for i in range(n)])))
    assert isinstance(made, GifImageFile) and made.n_frames == 8 and max(made.size) <= 1300
    columns = int(np.ceil(np.sqrt(n)))
    tile_w, tile_h = made.size[0] / columns, made.size[1] / np.ceil(n / columns)
    grey = np.asarray(made.convert("L"))
    for i in range(n):
        top, left = int(i // columns * tile_h), int(i % columns * tile_w)
        under = grey[int(top + tile_w - 2) : int(top + tile_h), left : int(left + tile_w)]
        assert (under < 128).any(), f"no name under clip {i}"


def test_labels_of_small_clips_are_legible_and_do_not_run_into_the_frames() -> None:
    names = ["a", "a very long name of a class that does not fit the room"]
    made = Image.open(io.BytesIO(contact_sheet(clips(2, 16) + 1.0, names)))
    assert made.size[1] >= 2 * 96, "small clips are enlarged"
    grey = np.asarray(made.convert("L"))
    dark = np.argwhere(grey < 128)
    assert dark[:, 1].max() < 150, "what is too long is cut before the frames, which are white here"
    rows = dark[dark[:, 0] < 96][:, 0]
    assert rows.max() - rows.min() >= 5, "letters of a size that can be read"
