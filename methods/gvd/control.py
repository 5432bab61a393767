"""Random clips through GVD's codec: a control that separates what the latents lose from what generation adds.

It encodes what it keeps, which needs no latents of the whole split.

Reported by no paper: MGD3 (arXiv 2505.18963) and GVD (arXiv 2507.22360) show generated sets only.

    python -m harness run --methods 'random,codec_random,codec_random[codec=autoencoder],gvd' --ipc 5
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from harness import Asset, Budget, Context, DatasetInfo, DistilledSet, Split, method
from methods.latents import BATCH, codec_asset
from methods.selection import choose_rows, too_few_clips


@method("codec_random")
class CodecRandom:
    """Real clips drawn uniformly, encoded and decoded by a codec of GVD: the control for its latents."""

    codec: Path | str = "patch"
    """The kind of the asset latent_codec: patch, identity, autoencoder, or a diffusers autoencoder (folder or hub id)."""
    size: tuple[int, int, int] = (0, 0, 0)
    """Frames, height and width at which a pretrained autoencoder works; 0: its own."""

    def assets(self, info: DatasetInfo) -> dict[str, Asset]:
        return {"codec": codec_asset(self.codec, self.size)}

    def skip(self, info: DatasetInfo, budget: Budget) -> str | None:
        return too_few_clips(info, budget)

    def distill(self, train: Split, budget: Budget, context: Context) -> DistilledSet:
        def choose(rows: Tensor) -> Tensor:
            return rows[torch.randperm(len(rows), generator=context.generator)[: budget.ipc]]

        codec, rows = context.assets["codec"], choose_rows(train, budget, choose)
        clips, done = context.writer(budget.clips, budget.clip_shape), 0
        for part in rows.split(BATCH):
            if not clips.has(done, len(part)):
                clips.write(done, codec.decode(codec.encode(train.clips(part).to(context.device))).cpu())
            done += len(part)
            context.progress(done, budget.clips)
        return DistilledSet.of_clips(clips, train.labels[rows])
