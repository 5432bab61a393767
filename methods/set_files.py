"""Sets of clips as other code bases write them: .npz, .pt and .safetensors files, and a folder of videos or frames for each class.

Only data is read: pickles are refused, .pt files are loaded with ``weights_only``. The entries of a file are known by their names:

    clips           (N, T, C, H, W), or (classes, IPC, T, C, H, W) in class order; also called videos, images, data or x
    labels          (N,) class numbers or names, or (N, classes) soft ones; also called targets or y
    soft_labels     (N, classes); also called logits
    classes         names of the classes that numbers and columns stand for; without them they are the dataset's, in its order
    scale           what the values mean, one of ``SCALES``
    any class name  in a file without clips: (n, T, C, H, W) of that class

A .pt file may also be one tensor of clips, or a list of clips and labels. Soft labels whose rows are probabilities become logits.
"""

from __future__ import annotations

import json
import math
import pickle
import re
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
import torch
from torch import Tensor

from harness import ClipWriter, DataError, read_video

Scale = Literal["auto", "bytes", "unit", "signed", "imagenet"]
BY_CLASS = "by_class"
BATCH = 16
"""Clips that are copied at a time."""
_NAMES = {
    "clips": ("clips", "videos", "images", "data", "x"),
    "labels": ("labels", "targets", "y", "__labels__"),
    "soft_labels": ("soft_labels", "logits", "__soft_labels__"),
    "classes": ("classes", "class_names"),
    "scale": ("scale",),
}
_FILES = (".safetensors", ".npz", ".pt", ".pth")
_PICTURES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
_SMALL = 10.0
"""Optimised pixels may leave [0, 1], but not by as much."""


@dataclass(frozen=True)
class Entry:
    """One entry of a file, read when it is asked for: a tensor, or a list of names."""

    shape: tuple[int, ...]
    read: Callable[[], Any]
    stream: Callable[[ClipWriter], None] | None = None
    """Writes its clips where it can read them a few at a time: compressed uint8, which no memory map shows."""


@dataclass(frozen=True)
class SetFile:
    """A set as it lies on disk, with what is known before its clips are read.

    shape: (N, T, C, H, W), or None where videos have to be decoded for it. read: all clips as they are, (N, T, C, H, W): memory-mapped; or
    written to a writer of their number and shape, which it asks for; or, where neither can be, in memory.
    labels: class numbers (N,), or None where clips come class after class. soft_labels: logits (N, columns) or None.
    classes: names that these numbers stand for, empty: the dataset's. scale: what the file says of it, or "auto".
    """

    path: Path
    shape: tuple[int, ...] | None
    read: Callable[[Callable[[], ClipWriter]], Tensor]
    labels: Tensor | None
    soft_labels: Tensor | None
    classes: tuple[str, ...]
    scale: str = "auto"

    def on(self, classes: Sequence[str]) -> tuple[Tensor, Tensor | None]:
        """Labels (N,) int64 and soft labels (N, classes) in the order of a dataset's classes. Raises DataError where they do not fit."""
        if self.labels is None:
            n = 0 if self.shape is None else self.shape[0]
            if n % len(classes):
                raise DataError(f"{self.path} has {n} clips, no multiple of {len(classes)} classes: labels={BY_CLASS} does not fit")
            return torch.arange(len(classes)).repeat_interleave(n // len(classes)), self.soft_labels
        if not self.classes:
            return self.labels, self.soft_labels
        if int(self.labels.max()) >= len(self.classes):
            raise DataError(f"{self.path} has label {int(self.labels.max())}, but names {len(self.classes)} classes")
        index = torch.tensor(class_numbers(self.classes, classes, str(self.path)))
        soft = self.soft_labels
        if soft is not None:
            if soft.shape[1] != len(index) or len(index) != len(classes):
                raise DataError(f"{self.path}: soft labels need a column for each of the {len(classes)} classes, got {soft.shape[1]}")
            soft = soft[:, torch.argsort(index)]
        return index[self.labels], soft


def open_set(path: Path, labels: Path | str | None = None) -> SetFile:
    """A set on disk. labels: a file with its labels, or BY_CLASS: as many clips of each class, class after class.

    Raises DataError with what is wrong, and what the file holds.
    """
    if path.is_dir():
        inside = [p for p in sorted(path.iterdir()) if p.suffix in _FILES]
        if inside:  # one set in several formats: the first of _FILES
            return open_set(min(inside, key=lambda p: _FILES.index(p.suffix)), labels)
        exported = [path / name for name in ("mp4", "gif") if (path / name).is_dir() and (path / "labels.csv").is_file()]
        return _open_folder(exported[0] if exported else path)
    entries = _open_file(path)
    found = {role: next((entries[n] for n in names if n in entries), None) for role, names in _NAMES.items()}
    clips = found["clips"]
    names = tuple(str(name) for name in found["classes"].read()) if found["classes"] else ()
    scale = str(found["scale"].read()[0]) if found["scale"] else "auto"
    if clips is None:
        return _by_class_name(path, entries, scale)
    shape, hard = clips.shape, None
    if len(shape) == 6:
        hard = torch.arange(shape[0]).repeat_interleave(shape[1])
        shape = (shape[0] * shape[1], *shape[2:])
    if len(shape) != 5:
        raise DataError(f"{path}: clips must be N x T x C x H x W or classes x IPC x T x C x H x W, got {_by(clips.shape)}")
    soft = found["soft_labels"].read().flatten(0, -2) if found["soft_labels"] else None
    given = None if labels == BY_CLASS else _read_labels(found["labels"], labels)
    if isinstance(given, list):
        names = tuple(dict.fromkeys(given))
        hard = torch.tensor([names.index(name) for name in given])
    elif given is not None and given.numel() > shape[0]:
        of_rows, soft = _split_soft(given.flatten(0, -2))
        hard = of_rows if hard is None else hard
    elif given is not None:
        hard = given.flatten()
    elif hard is None and soft is not None and labels != BY_CLASS:
        hard = soft.argmax(1)
    if hard is None and labels != BY_CLASS:
        raise DataError(
            f"{path} has no labels: name a file of them with labels=FILE, or say labels={BY_CLASS} where clips come class after class"
        )
    for what, found_labels in (("labels", hard), ("soft labels", soft)):
        if found_labels is not None and len(found_labels) != shape[0]:
            raise DataError(f"{path} has {shape[0]} clips and {len(found_labels)} {what}")
    if hard is not None and not bool((hard == hard.round()).all()):
        raise DataError(f"{path}: labels must be whole numbers of classes, or a row of soft labels for each clip")

    def read(room: Callable[[], ClipWriter]) -> Tensor:
        if clips.stream is None:
            return clips.read().reshape(shape)  # type: ignore[no-any-return]
        clips.stream(writer := room())
        return writer.whole()

    return SetFile(path, shape, read, None if hard is None else hard.long(), _logits(soft), names, scale)


def class_numbers(names: Sequence[str], classes: Sequence[str], where: str) -> list[int]:
    """The number of each name among a dataset's classes: by the name, its letters and digits alone, or the number itself."""
    plain = [_plain(name) for name in classes]
    if len(set(plain)) < len(plain):
        plain = list(classes)
    found = []
    for name in names:
        if name in classes:
            found.append(classes.index(name))
        elif _plain(name) in plain:
            found.append(plain.index(_plain(name)))
        elif name.isdecimal() and int(name) < len(classes):
            found.append(int(name))
        else:
            raise DataError(f"{where}: {name!r} is no class of the dataset. Valid: {', '.join(classes)}, or their numbers from 0")
    if len(set(found)) < len(found):
        raise DataError(f"{where}: two names stand for one class of the dataset: {', '.join(names)}")
    return found


def to_unit(clips: Tensor, scale: str, where: str) -> Tensor:
    """Clips as a distilled set holds them: uint8, or floating point in which [0, 1] is black to white.

    scale: what the values are. auto: uint8, or within [0, 1]; bytes: [0, 255]; unit: [0, 1], which optimised pixels may leave; signed:
    [-1, 1]; imagenet: normalised by ImageNet's mean and standard deviation. Raises DataError where the values do not fit.
    """
    low, high = float(clips.min()), float(clips.max())
    reach = f"{where}: the values reach from {low:.4g} to {high:.4g}"
    if not clips.is_floating_point():
        if scale not in ("auto", "bytes"):
            raise DataError(f"{where}: whole numbers ({clips.dtype}) are bytes, not scale={scale}")
        if low < 0 or high > 255:
            raise DataError(f"{reach}, bytes are 0 to 255")
        return clips.to(torch.uint8)
    if not (np.isfinite(low) and np.isfinite(high)):
        raise DataError(f"{where} holds NaN or infinite values")
    clips = clips.float() if clips.dtype == torch.float64 else clips
    if scale == "auto":
        if low < 0 or high > 1:
            raise DataError(
                f"{reach}, so they are not black to white in [0, 1]: say what they are with scale=bytes (0 to 255), unit (optimised pixels "
                "around [0, 1]), signed (-1 to 1) or imagenet (normalised by its mean and standard deviation)"
            )
        return clips
    if scale == "bytes":
        if low < 0 or high > 255 or high <= 1:
            raise DataError(f"{reach}, which are no bytes (0 to 255)")
        return clips.to(torch.uint8) if bool((clips == clips.round()).all()) else clips / 255
    if scale == "signed":
        if low < -1.001 or high > 1.001 or low >= 0:
            raise DataError(f"{reach}, scale=signed is -1 to 1")
        return (clips + 1) / 2
    if scale == "imagenet":
        if clips.shape[-3] != 3:
            raise DataError(f"{where}: scale=imagenet is of three channels, the clips have {clips.shape[-3]}")
        if low >= 0:
            raise DataError(f"{reach}: nothing is below 0, so they are not normalised")
        mean, std = (torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
        clips = clips.float() * std + mean
    inside = float(((clips > -0.01) & (clips < 1.01)).float().mean())
    if inside < 0.5 or float(clips.abs().max()) > _SMALL:
        raise DataError(f"{reach}, as scale={scale} only {100 * inside:.0f} % of them lie between black and white")
    return clips


# Files


def _open_file(path: Path) -> dict[str, Entry]:
    try:
        match path.suffix:
            case ".npz":
                return _open_npz(path)
            case ".safetensors":
                return _open_safetensors(path)
            case ".pt" | ".pth":
                return _open_pt(path)
    except (OSError, ValueError, RuntimeError, zipfile.BadZipFile, pickle.UnpicklingError, EOFError) as error:
        raise DataError(f"{path} cannot be read as {path.suffix} without running code in it: {str(error).splitlines()[0]}") from error
    raise DataError(f"{path}: a set is a file {', '.join(_FILES)} or a folder with a folder for each class")


def _open_npz(path: Path) -> dict[str, Entry]:
    def reader(name: str) -> Callable[[], Any]:
        def read() -> Any:
            with np.load(path, allow_pickle=False) as archive:
                array = archive[name]
            return [str(v) for v in array.reshape(-1)] if array.dtype.kind == "U" else torch.from_numpy(np.ascontiguousarray(array))

        return read

    entries = {}
    with zipfile.ZipFile(path) as archive:
        for file in archive.namelist():
            with archive.open(file) as handle:
                shape, fortran, dtype = _npy_header(handle)
            if dtype.kind not in "biufU":
                raise ValueError(f"entry {file} is of type {dtype}")
            name = file.removesuffix(".npy")
            in_order = dtype == np.uint8 and not fortran
            entries[name] = Entry(tuple(shape), reader(name), partial(_stream_npy, path, file) if in_order else None)
    return entries


def _npy_header(handle: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    version = np.lib.format.read_magic(handle)
    return (np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0)(handle)


def _stream_npy(path: Path, file: str, room: ClipWriter) -> None:
    """Write the clips of a member of a .npz file, uint8 in C order, a few at a time."""
    with zipfile.ZipFile(path) as archive, archive.open(file) as handle:
        _npy_header(handle)
        for first in range(0, len(room), BATCH):
            count = min(BATCH, len(room) - first)
            data = bytearray(handle.read(count * math.prod(room.clip_shape)))
            room.write(first, torch.frombuffer(data, dtype=torch.uint8).view(count, *room.clip_shape))


def _open_safetensors(path: Path) -> dict[str, Entry]:
    from safetensors import SafetensorError, safe_open

    def reader(name: str) -> Callable[[], Tensor]:
        def read() -> Tensor:
            with safe_open(path, "pt") as file:
                return file.get_tensor(name)  # type: ignore[no-any-return]

        return read

    try:
        with safe_open(path, "pt") as file:
            entries = {name: Entry(tuple(file.get_slice(name).get_shape()), reader(name)) for name in file.keys()}  # noqa: SIM118
            said = file.metadata() or {}
    except SafetensorError as error:
        raise ValueError(str(error)) from error
    if "classes" in said:
        entries["classes"] = Entry((), lambda: json.loads(said["classes"]))
    if "scale" in said:
        entries["scale"] = Entry((), lambda: [said["scale"]])
    return entries


def _open_pt(path: Path) -> dict[str, Entry]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except RuntimeError:  # files of old versions cannot be mapped
        content = torch.load(path, map_location="cpu", weights_only=True)
    if isinstance(content, Mapping) and isinstance(content.get("data"), list | tuple) and len(content["data"]):
        content = content["data"][-1]  # {"data": [[clips, labels], ...]}: the last of several runs
    if isinstance(content, Tensor):
        content = {"clips": content}
    if isinstance(content, list | tuple) and len(content) == 2:
        content = {"clips": content[0], "labels": content[1]}
    if not isinstance(content, Mapping):
        raise ValueError(f"it holds a {type(content).__name__}, not tensors by name")
    return {str(name): entry for name, value in content.items() if (entry := _entry(value)) is not None}


def _entry(value: Any) -> Entry | None:
    if isinstance(value, Tensor):
        return Entry(tuple(value.shape), lambda: value.detach())
    if isinstance(value, str):
        return Entry((), lambda: [value])
    if isinstance(value, list | tuple) and value and all(isinstance(v, str) for v in value):
        return Entry((len(value),), lambda: list(value))
    return None


def _by_class_name(path: Path, entries: Mapping[str, Entry], scale: str) -> SetFile:
    members = {name: entry for name, entry in entries.items() if name not in ("scale", "classes")}
    shapes = {entry.shape[1:] for entry in members.values()}
    if len(shapes) != 1 or any(len(entry.shape) != 5 for entry in members.values()):
        holds = ", ".join(f"{name} {_by(entry.shape)}" for name, entry in list(members.items())[:8]) or "nothing"
        raise DataError(
            f"{path} holds {holds}: neither an entry 'clips' nor clips (n x T x C x H x W) under the name of each class. Sets that are not "
            "stored as clips (images and memories with a network, latents) have to be turned into clips by the code that made them"
        )
    counts = torch.tensor([entry.shape[0] for entry in members.values()])
    shape = (int(counts.sum()), *next(iter(shapes)))
    numbers = torch.arange(len(members)).repeat_interleave(counts)
    return SetFile(path, shape, lambda _: torch.cat([e.read() for e in members.values()]), numbers, None, tuple(members), scale)


def _read_labels(entry: Entry | None, labels: Path | str | None) -> Any:
    if labels:
        file = Path(labels)
        if not file.is_file():
            raise DataError(f"labels={labels} is no file; valid: a file of labels, or {BY_CLASS}")
        entries = _open_file(file)
        found = next((entries[n] for n in (*_NAMES["labels"], *_NAMES["soft_labels"], "clips") if n in entries), None)
        if found is None:
            raise DataError(f"{file} has no labels; it holds {', '.join(entries) or 'nothing'}")
        return found.read()
    return None if entry is None else entry.read()


def _split_soft(rows: Tensor) -> tuple[Tensor, Tensor | None]:
    """Class numbers, and the rows where they are more than one-hot."""
    one_hot = bool(((rows == 0) | (rows == 1)).all()) and bool((rows.sum(1) == 1).all())
    return rows.argmax(1), None if one_hot else rows


def _logits(soft: Tensor | None) -> Tensor | None:
    """Soft labels as logits; rows of probabilities become their logarithms."""
    if soft is None:
        return None
    soft = soft.float()
    if float(soft.min()) >= 0 and torch.allclose(soft.sum(1), torch.ones(len(soft)), atol=1e-3):
        return soft.clamp_min(1e-8).log()
    return soft


# Folders


def _open_folder(path: Path) -> SetFile:
    """DIR/<class>/<video>, DIR/<class>/<folder of frames>, or DIR/<class>/<frames> for one clip."""
    folders = sorted((p for p in path.iterdir() if p.is_dir() and not p.name.startswith(".")), key=lambda p: _natural(p.name))
    clips = [(number, clip) for number, folder in enumerate(folders) for clip in _clips_in(folder)]
    if not clips:
        raise DataError(f"{path} holds no set: expected {', '.join(_FILES)}, or a folder for each class with videos or folders of frames")

    def read(room: Callable[[], ClipWriter]) -> Tensor:
        writer = room()
        for i, (_, clip) in enumerate(clips):
            writer.write(i, _read_clip(clip, writer.clip_shape)[None])
        return writer.whole()

    return SetFile(path, None, read, torch.tensor([number for number, _ in clips]), None, tuple(f.name for f in folders))


def _clips_in(folder: Path) -> list[Path]:
    inside = sorted((p for p in folder.iterdir() if not p.name.startswith(".")), key=lambda p: _natural(p.name))
    if any(p.suffix.lower() in _PICTURES for p in inside):
        return [folder]
    return inside


def _read_clip(path: Path, shape: tuple[int, int, int, int]) -> Tensor:
    """The clip (T, C, H, W) uint8 of a video, which has just so many frames of just this size."""
    frames, _, height, width = shape
    if (size := _size(path)) != (height, width):
        raise DataError(f"{path} is {_by(size)} pixels (H x W), a clip of this run {_by((height, width))}")

    def choose(length: int, seconds: float) -> list[np.ndarray]:
        if length != frames:
            raise DataError(f"{path} has {length} frames, a clip of this run {frames}")
        return [np.arange(frames)]

    try:
        return torch.from_numpy(read_video(path, shape, choose, "squash")[0].frames)
    except DataError as error:
        raise DataError(str(error) if str(path) in str(error) else f"{path} {error}") from error


def _size(path: Path) -> tuple[int, int]:
    import av
    from PIL import Image

    try:
        if path.is_dir():
            with Image.open(next(p for p in sorted(path.iterdir()) if p.suffix.lower() in _PICTURES)) as picture:
                return picture.height, picture.width
        with av.open(str(path)) as container:
            return container.streams.video[0].height, container.streams.video[0].width
    except (OSError, ValueError, IndexError, StopIteration) as error:
        raise DataError(f"{path} is neither a video nor a folder of frames ({', '.join(_PICTURES)})") from error


def _natural(name: str) -> list[Any]:
    return [(1, int(t), "") if t.isdecimal() else (0, 0, t) for t in re.split(r"(\d+)", name) if t]


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _by(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape)) or "text"
