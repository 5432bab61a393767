"""Whether the guidance arrives: where the generated latents lie among the modes of their class."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor


class Arrival:
    """Two figures of the videos of a set, each generated for one of the k modes of its class, in latent space with Euclidean distances.

    hit_rate: share of the videos whose nearest mode among the k is their own. Chance is 1 / k; ties count as hits.
    pull: 1 - (mean distance to the own mode) / (mean distance to the k - 1 other modes of the class), means over all videos. Every mode is
    one's own mode once and another's k - 1 times, so that it is 0 in expectation where videos do not know their mode, as without guidance,
    whatever the modes' norms are; at 1 every video is its mode. It needs no second, unguided set to compare with.

    Both are None where k is 1: there is no other mode. What is noted of a video lies in a file beside its clip, so that an interrupted
    attempt goes on with it.
    """

    def __init__(self, path: Path, videos: int) -> None:
        shape = (videos, 3)
        if not path.is_file() or np.load(path, mmap_mode="r").shape != shape:
            partial = path.with_name(f"partial-{path.name}")
            np.save(partial, np.full(shape, np.nan))
            partial.rename(path)
        self._noted = np.load(path, mmap_mode="r+")  # a row for each video: distance to its own mode, mean distance to the others, a hit

    def note(self, numbers: Tensor, latents: Tensor, modes: Tensor, own: Tensor) -> None:
        """Note videos number numbers (n,): latents (n, ...) of one class, its modes (k, ...), and the numbers (n,) of their own modes."""
        if len(modes) == 1:
            return
        # In float32 without the expansion into products, which rounds small distances away.
        distances = torch.cdist(
            latents.float().cpu().flatten(1), modes.float().cpu().flatten(1), compute_mode="donot_use_mm_for_euclid_dist"
        )
        mine = distances.gather(1, own[:, None])[:, 0]
        others = (distances.sum(1) - mine) / (len(modes) - 1)
        self._noted[numbers.numpy()] = torch.stack([mine, others, (mine <= distances.amin(1)).float()], 1).numpy()

    @property
    def hit_rate(self) -> float | None:
        hits = self._rows()[:, 2]
        return float(hits.mean()) if len(hits) else None

    @property
    def pull(self) -> float | None:
        own, others, _ = self._rows().sum(0).tolist()
        return 1 - own / others if others else None

    def _rows(self) -> np.ndarray:
        return self._noted[~np.isnan(self._noted[:, 0])]
