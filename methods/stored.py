"""Stored: a set that was distilled elsewhere, taken as it is. A paper's released set or another code base's result joins the comparison.

    python -m harness run --methods 'stored[path=my_set.npz,name=theirs],random' --ipc 1

The set is a .npz, .pt (loaded without pickles' code), .safetensors, or a folder with a folder of videos or of frames for each class;
methods/set_files.py says what stands in them. A folder with ``ipc1``, ``ipc5.npz`` ... holds a set for each budget. It is audited and
charged as every set is, and cached by the content of its files.

Nothing is cut, resized, chosen or reordered: a set of other clips, classes or instances per class than the run's is declined. So its IPC
is what it says; what it took to make it is not known here, and its seconds and memory are those of reading.

VDSD (Wang et al., CVPR 2024) keeps images, memories and a network, in .pt files whose layout is not documented: save the clips that its
code makes of them. Clips in its normalised space are scale=imagenet. Video-DC (arXiv 2412.21197) writes a JPEG for every frame: a folder
of these for each class and clip is read as it is; DATM's images_best.pt goes with labels=labels_best.pt.

Reported: nothing of its own; what a set reports stands with its paper.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Literal

import torch

from harness import Budget, Context, DataError, DatasetInfo, DistilledSet, Split, method
from methods.set_files import Scale, SetFile, open_set, to_unit


@method("stored")
class Stored:
    """A set that was distilled elsewhere: a .npz, .pt or .safetensors file, or a folder of videos for each class."""

    deterministic = True

    path: Path | None = None
    """The file or folder of the set, or a folder with one for each budget (ipc1, ipc5 ...)."""
    name: str = ""
    """What reports call it."""
    scale: Scale = "auto"
    """What float values are: auto (within [0, 1], or what the file says), bytes, unit, signed (-1 to 1), imagenet (normalised)."""
    labels: Path | str | None = None
    """A file with the labels where they lie beside the clips, or by_class: as many clips of each class, class after class."""

    @property
    def native_labels(self) -> Literal["hard", "soft"]:
        if self.path is None:
            return "hard"
        return "hard" if self._open(None).soft_labels is None else "soft"

    def skip(self, info: DatasetInfo, budget: Budget) -> str | None:
        if self.path is None:
            return "it needs the set: write stored[path=FILE]"
        try:
            found = self._open(budget.ipc)
            labels, soft = found.on(info.classes)
        except DataError as error:
            return str(error)
        if int(labels.min()) < 0 or int(labels.max()) >= budget.classes:
            return f"{found.path} has labels {int(labels.min())} to {int(labels.max())}, the dataset 0 to {budget.classes - 1}"
        if soft is not None and soft.shape[1] != budget.classes:
            return f"{found.path} has soft labels for {soft.shape[1]} classes, the dataset has {budget.classes}"
        counts = labels.bincount(minlength=budget.classes)
        if missing := [info.classes[i] for i in torch.nonzero(counts == 0).flatten().tolist()]:
            return f"{found.path} has no clip of {len(missing)} of {budget.classes} classes: {', '.join(missing[:5])}"
        if int(counts.max()) != budget.ipc:
            return f"{found.path} has up to {int(counts.max())} clips of a class: it is a set of IPC {int(counts.max())}, not {budget.ipc}"
        if found.shape is not None and found.shape[1:] != budget.clip_shape:
            t, c, h, w = budget.clip_shape
            hint = ", in the order N x C x T x H x W: swap T and C" if found.shape[1:] == (c, t, h, w) and c != t else ""
            shape = "x".join(map(str, found.shape[1:]))
            return f"{found.path} has clips of {shape}{hint}, the run {t}x{c}x{h}x{w} (T x C x H x W)"
        return None

    def distill(self, train: Split, budget: Budget, context: Context) -> DistilledSet:
        if reason := self.skip(context.info, budget):
            raise DataError(reason)
        found = self._open(budget.ipc)
        labels, soft = found.on(context.info.classes)
        scale = found.scale if self.scale == "auto" else self.scale
        clips = to_unit(found.read(lambda: context.writer(len(labels), budget.clip_shape)), scale, str(found.path))
        return DistilledSet.of_clips(clips, labels, soft)

    def _open(self, ipc: int | None) -> SetFile:
        """The set for a budget; for none, any of them."""
        assert self.path is not None
        path = self.path
        if path.is_dir():
            inside = {p.name.partition(".")[0]: p for p in sorted(path.iterdir()) if p.name.startswith("ipc")}
            if inside:
                chosen = next(iter(inside)) if ipc is None else f"ipc{ipc}"
                if chosen not in inside:
                    raise DataError(f"{path} has no set for IPC {ipc}; it has {', '.join(inside)}")
                path = inside[chosen]
        return _opened(path, self.labels, path.stat().st_mtime_ns)


@lru_cache(maxsize=8)
def _opened(path: Path, labels: Path | str | None, _modified: int) -> SetFile:
    """A set that was opened before: a plan asks for every seed and budget."""
    return open_set(path, labels)
