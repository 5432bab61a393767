from __future__ import annotations

from pathlib import Path

import torch

from harness.budget import Budget
from harness.registry import Registry
from methods.random import Random
from tests.tiny import SHAPE, ContextFactory, tiny_split


def test_uniform_without_replacement(tmp_path: Path) -> None:
    train = tiny_split((2, 1, 4, 4), classes=2, per_class=5)
    contexts, method = ContextFactory(Registry(), tmp_path), Random()
    every_clip = train.clips()
    counts = torch.zeros(len(train))
    draws = 400
    for seed in range(draws):
        result = method.distill(train, Budget(2, (2, 1, 4, 4), 2), contexts(method, train, seed))
        assert result.clips is not None
        assert result.labels.tolist() == [0, 0, 1, 1]
        rows = [int((every_clip == clip).flatten(1).all(1).nonzero()) for clip in result.clips]
        assert len(set(rows)) == 4
        counts[rows] += 1
    # each clip is drawn with probability 2/5: 160 of 400, standard deviation 9.8
    assert (counts - draws * 2 / 5).abs().max() < 5 * (draws * 0.4 * 0.6) ** 0.5


def test_ipc_up_to_the_whole_class_and_no_further(tmp_path: Path) -> None:
    train = tiny_split(per_class=4)
    contexts, method = ContextFactory(Registry(), tmp_path), Random()
    result = method.distill(train, Budget(4, SHAPE, 3), contexts(method, train))
    assert result.clips is not None
    assert sorted(c.sum().item() for c in result.clips) == sorted(c.sum().item() for c in train.clips())
    assert method.skip(train.info, Budget(4, SHAPE, 3)) is None
    assert method.skip(train.info, Budget(5, SHAPE, 3)) == "class 'class-0' has 4 training clips, IPC 5 needs 5"
