"""Backbones that come with the project: trained once, used for exactly the data they were trained on."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path

from torch import Tensor

WEIGHTS = Path(__file__).parent / "weights"
SHIPPED: dict[str, tuple[str, str]] = {
    "9d0de4134a0c11e6b0f6cb5a9eccd38d8dee5f3dc8554bb22dfcdbb08c233346": (
        "moving-digits.safetensors",
        "30833eed25f177e5f0741fce665c67e84b5e638c86bc46e0f132b87c6e88e958",
    ),
}
"""Digest of the dataset (with its clip shape) -> file in weights/ and its SHA-256. weights/README.md is the model card."""


@lru_cache(maxsize=1)
def shipped_tensors(dataset_digest: str) -> dict[str, Tensor] | None:
    """The tensors shipped for this dataset, or None. Raises ValueError when the file is not the one that was published."""
    from safetensors.torch import load

    if dataset_digest not in SHIPPED:
        return None
    name, checksum = SHIPPED[dataset_digest]
    data = (WEIGHTS / name).read_bytes()
    if hashlib.sha256(data).hexdigest() != checksum:
        raise ValueError(f"{WEIGHTS / name} is damaged: its SHA-256 is not {checksum}; restore the file")
    return load(data)
