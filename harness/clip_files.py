"""Clips as files that need nothing of this project: .npz, .safetensors, an .mp4 or .gif for each clip, and a Dataset that reads them."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from harness.session import Distilled

FPS = 8
"""Frames in a second of an exported video; clips have no rate of their own."""
GIF_MILLISECONDS = 120
"""How long a frame of a GIF lasts, in the hundredths of a second that the format knows."""
FORMATS = ("npz", "safetensors", "mp4", "gif")
"""What a set can be written as. npz and safetensors hold it to the bit; videos are pictures of it in 8 bit, compressed."""


def write_clips(made: Distilled, folder: Path, form: str) -> list[str]:
    """Write a set in one of FORMATS; returns a path for each clip, relative to the folder."""
    return _WRITERS[form](made, folder)


def _arrays(made: Distilled) -> dict[str, np.ndarray]:
    arrays = {"clips": made.clips, "labels": made.labels}
    if made.soft_labels is not None:
        arrays["soft_labels"] = made.soft_labels
    return {name: tensor.detach().cpu().contiguous().numpy() for name, tensor in arrays.items()}


def scale(made: Distilled) -> str:
    """What the values are: "bytes" (uint8) or "unit" (floating point, [0, 1] is black to white)."""
    return "unit" if made.clips.is_floating_point() else "bytes"


def _write_npz(made: Distilled, folder: Path) -> list[str]:
    named = {"classes": np.array(made.classes), "scale": np.array(scale(made))}
    np.savez_compressed(folder / "set.npz", allow_pickle=False, **_arrays(made), **named)
    return ["set.npz"] * len(made.labels)


def _write_safetensors(made: Distilled, folder: Path) -> list[str]:
    from safetensors.numpy import save_file

    said = {"classes": json.dumps(made.classes), "scale": scale(made)}
    save_file(_arrays(made), folder / "set.safetensors", metadata=said)
    return ["set.safetensors"] * len(made.labels)


def _write_videos(form: str, encode: Callable[[np.ndarray], bytes]) -> Callable[[Distilled, Path], list[str]]:
    def write(made: Distilled, folder: Path) -> list[str]:
        pictures = made.clips if not made.clips.is_floating_point() else (made.clips.float().clamp(0, 1) * 255).round().byte()
        names = []
        for row, label in enumerate(made.labels.tolist()):
            name = f"{form}/{folder_name(made.classes[label])}/{row:05d}.{form}"
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(encode(pictures[row].permute(0, 2, 3, 1).contiguous().numpy()))
            names.append(name)
        return names

    return write


def folder_name(name: str) -> str:
    """A class name as a folder's: without what a file system reads.

    >>> folder_name("Pushing [something] left/right")
    'Pushing [something] left_right'
    """
    return "".join("_" if char in '/\\:*?"<>|\0' else char for char in name).strip(". ") or "_"


def _mp4(frames: np.ndarray) -> bytes:
    """H.264 of (T, H, W, C) uint8, at a quality at which the eye sees no loss."""
    import av

    buffer = io.BytesIO()
    _, height, width, channels = frames.shape
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=Fraction(FPS))
        stream.width, stream.height = width, height
        stream.pix_fmt = "yuv444p" if height % 2 or width % 2 else "yuv420p"  # the common one halves colours, and so needs even sides
        stream.options = {"crf": "12"}
        for picture in frames:
            frame = av.VideoFrame.from_ndarray(picture if channels == 3 else picture[..., 0], format="rgb24" if channels == 3 else "gray")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return buffer.getvalue()


def _gif(frames: np.ndarray) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    pictures = [Image.fromarray(frame if frame.shape[2] == 3 else frame[..., 0]) for frame in frames]
    # A frame that is like the one before it is not written: that one then lasts longer, which readers undo.
    pictures[0].save(buffer, "GIF", save_all=True, append_images=pictures[1:], duration=GIF_MILLISECONDS, loop=0)
    return buffer.getvalue()


_WRITERS: dict[str, Callable[[Distilled, Path], list[str]]] = {
    "npz": _write_npz,
    "safetensors": _write_safetensors,
    "mp4": _write_videos("mp4", _mp4),
    "gif": _write_videos("gif", _gif),
}

_READERS = {
    "npz": (
        "numpy",
        """
    import numpy

    with numpy.load(folder / "set.npz", allow_pickle=False) as file:
        found = {name: torch.from_numpy(file[name]) for name in ("clips", "labels", "soft_labels") if name in file}
""",
    ),
    "safetensors": (
        "safetensors",
        """
    from safetensors.torch import load_file

    found = load_file(folder / "set.safetensors")
""",
    ),
    "mp4": (
        "av",
        """
    import av

    def frames(path):
        with av.open(str(path)) as video:
            return torch.stack([torch.from_numpy(frame.to_ndarray(format=COLOURS)) for frame in video.decode(video=0)])

    found = _decoded(folder, "mp4", frames)
""",
    ),
    "gif": (
        "pillow",
        """
    from PIL import Image, ImageSequence

    def frames(path):
        with Image.open(path) as picture:
            shown = []
            for frame in ImageSequence.Iterator(picture):  # frames that are alike are stored once, and last longer
                shown += [frame.convert("RGB" if COLOURS == "rgb24" else "L")] * round(frame.info["duration"] / 120)
        return torch.stack([torch.frombuffer(bytearray(f.tobytes()), dtype=torch.uint8).view(f.height, f.width, -1) for f in shown])

    found = _decoded(folder, "gif", frames)
""",
    ),
}
_DECODED = """

def _decoded(folder, form, frames):
    with open(folder / "labels.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    clips = [frames(folder / row[form]).view(-1, *SIZE, CHANNELS).permute(0, 3, 1, 2) for row in rows]
    return {"clips": torch.stack(clips), "labels": torch.tensor([int(row["label"]) for row in rows])}
"""
_DATASET = '''"""This set as a PyTorch Dataset. Needs torch and {library}, nothing else.

    from dataset import DistilledClips
    loader = torch.utils.data.DataLoader(DistilledClips(), batch_size=16, shuffle=True)
    for clips, labels in loader:
        clips = ({normalised}).transpose(1, 2)  # as the harness normalises, and (N, C, T, H, W) for torch's 3-D layers
"""

{imports}from pathlib import Path

import torch

CLASSES = {classes}
{constants}

class DistilledClips(torch.utils.data.Dataset):
    """(clip, label): float32 (T, C, H, W) in which [0, 1] is black to white, and the class number; with soft=True its row of logits."""

    def __init__(self, folder=Path(__file__).parent, soft=False):
        found = _read(Path(folder))
        self.clips, self.labels, self.soft_labels = found["clips"], found["labels"], found.get("soft_labels")
        if soft and self.soft_labels is None:
            raise ValueError("this set has no soft labels in this format")
        self.soft = soft

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        clip = self.clips[index]
        clip = clip.float() / 255 if clip.dtype == torch.uint8 else clip.float()
        return clip, self.soft_labels[index] if self.soft else int(self.labels[index])


def _read(folder):{reader}
    return found
{decoded}'''


def dataset_source(made: Distilled, forms: Sequence[str]) -> str:
    """The text of dataset.py, which reads the most exact of the formats."""
    form = next(form for form in ("safetensors", "npz", "mp4", "gif") if form in forms)
    library, reader = _READERS[form]
    _, _, channels, height, width = made.clips.shape
    video = form in ("mp4", "gif")
    colours = "rgb24" if channels == 3 else "gray"
    normalised = "(clips - 0.5) / 0.5"
    if channels == 3:
        from harness.training import IMAGENET_MEAN, IMAGENET_STD

        mean, std = (f"torch.tensor({values}).view(3, 1, 1)" for values in (IMAGENET_MEAN, IMAGENET_STD))
        normalised = f"(clips - {mean}) / {std}"
    constants = f'COLOURS, CHANNELS, SIZE = "{colours}", {channels}, ({height}, {width})\n' if video else ""
    return _DATASET.format(
        library=library,
        normalised=normalised,
        imports="import csv\n" if video else "",
        classes=repr(tuple(made.classes)),
        constants=constants,
        reader=reader,
        decoded=_DECODED if video else "",
    )
