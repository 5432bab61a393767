"""Whether the guidance arrives: where the generated latents lie among the modes of their class."""

from __future__ import annotations

import torch
from torch import Tensor


class Arrival:
    """Two figures of the videos of a set, each generated for one of the k modes of its class, in latent space with Euclidean distances.

    hit_rate: share of the videos whose nearest mode among the k is their own. Chance is 1 / k; ties count as hits.
    pull: 1 - (mean distance to the own mode) / (mean distance to the k - 1 other modes of the class), means over all videos. Every mode is
    one's own mode once and another's k - 1 times, so that it is 0 in expectation where videos do not know their mode, as without guidance,
    whatever the modes' norms are; at 1 every video is its mode. It needs no second, unguided set to compare with.

    Both are None where k is 1: there is no other mode.
    """

    def __init__(self) -> None:
        self._hits = self._videos = 0
        self._own = self._others = 0.0

    def add(self, latents: Tensor, modes: Tensor, own: Tensor) -> None:
        """Note videos (n, ...) of one class, its modes (k, ...), and the numbers (n,) of the videos' own modes."""
        if len(modes) == 1:
            return
        # In float32 without the expansion into products, which rounds small distances away.
        distances = torch.cdist(
            latents.float().cpu().flatten(1), modes.float().cpu().flatten(1), compute_mode="donot_use_mm_for_euclid_dist"
        )
        mine = distances.gather(1, own[:, None])[:, 0]
        self._videos += len(latents)
        self._hits += int((mine <= distances.amin(1)).sum())
        self._own += float(mine.sum())
        self._others += float((distances.sum(1) - mine).sum()) / (len(modes) - 1)

    @property
    def hit_rate(self) -> float | None:
        return self._hits / self._videos if self._videos else None

    @property
    def pull(self) -> float | None:
        return 1 - self._own / self._others if self._others else None
