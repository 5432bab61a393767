"""DistilledSet: what a method returns and what is stored, as safetensors and never as a pickle."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load, save
from torch import Tensor

from harness.errors import DistilledSetError, StoreError


@dataclass(frozen=True)
class DistilledSet:
    """Stored tensors with labels.

    tensors: what is kept. The plain form has one entry ``clips``, (N, T, C, H, W): uint8 in [0, 255], or floating point where [0, 1]
        is black to white (optimised pixels may leave that range). Any other form is turned into clips by the method's own
        ``materialise(tensors) -> clips``, as many as it likes, and is charged for the values it stores (``harness.budget``).
    labels: (N,) int64 class indices, one per clip the set materialises to.
    soft_labels: (N, classes) float logits of a teacher, or None; they count as label bytes.
    not_pixels: names of floating-point tensors that hold no pictures: the audit charges them by their bytes. Not stored with the set.
    """

    tensors: Mapping[str, Tensor]
    labels: Tensor
    soft_labels: Tensor | None = None
    not_pixels: frozenset[str] = frozenset()

    @classmethod
    def of_clips(cls, clips: Tensor, labels: Tensor, soft_labels: Tensor | None = None) -> DistilledSet:
        """The plain form: clips (N, T, C, H, W) and labels (N,)."""
        return cls({"clips": clips}, labels, soft_labels)

    @property
    def clips(self) -> Tensor | None:
        """The clips of the plain form, None for any other."""
        return self.tensors.get("clips")

    @property
    def stored_bytes(self) -> int:
        """Bytes of the stored tensors, without labels."""
        return sum(t.numel() * t.element_size() for t in self.tensors.values())

    @property
    def label_bytes(self) -> int:
        """Bytes of the soft labels; hard labels are an order and cost nothing."""
        return 0 if self.soft_labels is None else self.soft_labels.numel() * self.soft_labels.element_size()

    def validate(self, clip_shape: tuple[int, int, int, int], classes: int) -> None:
        """Raise DistilledSetError unless shapes, ranges and labels are those of the dataset."""
        if not self.tensors or self.labels.numel() == 0:
            raise DistilledSetError("the set is empty: at least one clip is needed")
        for name, tensor in self.tensors.items():
            if name.startswith("__"):
                raise DistilledSetError(f"a stored tensor may not start with '__', got {name!r}")
            if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
                raise DistilledSetError(f"stored tensor {name!r} holds NaN or infinite values")
        for name in self.not_pixels:
            if name not in self.tensors or not self.tensors[name].is_floating_point():
                raise DistilledSetError(f"not_pixels names {name!r}, which is no stored floating-point tensor")
        if self.labels.dtype != torch.int64 or self.labels.dim() != 1:
            raise DistilledSetError(f"labels must be int64 of shape (N,), got {self.labels.dtype} of shape {tuple(self.labels.shape)}")
        low, high = int(self.labels.min()), int(self.labels.max())
        if low < 0 or high >= classes:
            raise DistilledSetError(f"labels must be in [0, {classes}), got {low} to {high}")
        n = int(self.labels.shape[0])
        if self.clips is not None:
            check_clips(self.clips, n, clip_shape)
        if self.soft_labels is not None:
            if tuple(self.soft_labels.shape) != (n, classes):
                raise DistilledSetError(f"soft labels must have shape {(n, classes)}, got {tuple(self.soft_labels.shape)}")
            if not bool(torch.isfinite(self.soft_labels).all()):
                raise DistilledSetError("the soft labels hold NaN or infinite values")

    def to_bytes(self) -> bytes:
        """The set as one safetensors file."""
        tensors = {name: t.detach().cpu().contiguous() for name, t in self.tensors.items()}
        tensors["__labels__"] = self.labels.cpu().contiguous()
        if self.soft_labels is not None:
            tensors["__soft_labels__"] = self.soft_labels.detach().cpu().contiguous()
        return save(tensors)

    @classmethod
    def from_bytes(cls, data: bytes) -> DistilledSet:
        """Inverse of ``to_bytes``. Raises StoreError when the file is not a distilled set."""
        tensors = load(data)
        if "__labels__" not in tensors:
            raise StoreError("not a distilled set: the file has no labels")
        labels = tensors.pop("__labels__")
        return cls(tensors, labels, tensors.pop("__soft_labels__", None))


def map_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, by a private memory map: read when they are used, and a change never reaches the file.

    Raises StoreError where it is no such file.
    """
    try:
        with safe_open(path, "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise StoreError(f"{path.name} is no safetensors file: {error}") from error


def check_clips(clips: Tensor, n: int, clip_shape: tuple[int, int, int, int]) -> None:
    """Raise DistilledSetError unless clips are (n, *clip_shape), uint8 or finite floating point."""
    if tuple(clips.shape) != (n, *clip_shape):
        raise DistilledSetError(f"clips must have shape {(n, *clip_shape)} (N, T, C, H, W), got {tuple(clips.shape)}")
    if clips.dtype != torch.uint8 and not clips.is_floating_point():
        raise DistilledSetError(f"clips must be uint8 or floating point, got {clips.dtype}")
    if clips.is_floating_point() and not bool(torch.isfinite(clips).all()):
        raise DistilledSetError("clips hold NaN or infinite values")
