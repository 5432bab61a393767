"""Looks at a dataset and its cache: facts, problems, pictures."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from harness.data.cache import SPLITS, ClipCache
from harness.errors import DataError, did_you_mean
from harness.plugin import DatasetPlugin, Progress
from harness.preview import contact_sheet


def dataset_facts(cache: ClipCache) -> list[tuple[str, str]]:
    """Classes, clips, native frames, size and digest, as (name, value) for people."""
    info = cache.info
    t, c, h, w = info.clip_shape
    facts = [
        ("dataset", info.name),
        ("digest", info.digest[:16]),
        ("classes", f"{len(info.classes)}: {', '.join(info.classes[:6])}{', ...' if len(info.classes) > 6 else ''}"),
        ("clip", f"{t} frames of {h} x {w}, {c} channel{'s' if c > 1 else ''}"),
        ("flip keeps the label", "yes" if info.flip else "no"),
    ]
    for split, counts in zip(SPLITS, (info.train_per_class, info.test_per_class), strict=True):
        facts.append((f"{split} clips", f"{sum(counts):,} ({min(counts)} to {max(counts)} per class)"))
    if not cache.is_prepared():
        return [*facts, ("cache", "not prepared")]
    data = cache.load()
    frames = {"train": data.native_train_frames, "test": int(data.test.native_frames.sum())}
    facts += [(f"native {split} frames", f"{n:,}") for split, n in frames.items()]
    facts.append(("left out", f"{len(data.left_out):,} clips"))
    size = sum(path.stat().st_size for path in cache.folder.iterdir())
    return [*facts, ("cache", f"{cache.folder} ({size / 2**20:,.1f} MiB)")]


def verify_dataset(plugin: DatasetPlugin, cache: ClipCache, progress: Progress | None = None) -> tuple[list[str], str]:
    """One line for everything that is missing, broken or damaged, and a closing line with the counts.

    Before the dataset is prepared only the lists and the presence of the files are known.
    """
    info = cache.info
    problems = [
        f"class {info.classes[label]}: no {split} clip"
        for split, counts in zip(SPLITS, (info.train_per_class, info.test_per_class), strict=True)
        for label, count in enumerate(counts)
        if count == 0
    ]
    counts = f"{len(info.classes)} classes, {sum(info.train_per_class):,} train and {sum(info.test_per_class):,} test clips"
    if not cache.is_prepared():
        problems += [f"{split} {item.id}: {item.problem}" for split in SPLITS for item in plugin.items(split) if item.problem]
        return problems, f"{counts} listed; not prepared, so no video has been decoded: {_state(problems)}"
    problems += cache.verify(progress)
    try:
        data = cache.load()
    except DataError as error:
        return list(dict.fromkeys([*problems, str(error)])), f"{counts} listed; the cache is damaged"
    problems += [f"{left.split} {left.id}: {left.reason}" for left in data.left_out]
    frames = f"{data.native_train_frames:,} native train frames, {int(data.test.native_frames.sum()):,} native test frames"
    kept = f"{len(info.classes)} classes, {len(data.train):,} train and {len(data.test):,} test clips in the cache"
    return problems, f"{kept}, {frames}: {_state(problems)}"


def write_previews(cache: ClipCache, target: Path, clips: int = 8, classes: Sequence[str] = ()) -> list[Path]:
    """One contact sheet per class, of its first training clips. Returns the files."""
    info = cache.info
    for name in classes:
        if name not in info.classes:
            raise DataError(f"dataset {info.name!r} has no class {name!r}{did_you_mean(name, info.classes)}")
    train = cache.load().train
    target.mkdir(parents=True, exist_ok=True)
    paths = []
    for label, name in enumerate(info.classes):
        if classes and name not in classes:
            continue
        rows = train.indices_of(label)[:clips]
        names = [Path(train.ids[int(row)]).stem for row in rows]
        path = target / f"{label:03d}-{re.sub(r'[^A-Za-z0-9_.-]+', '_', name)}.png"
        path.write_bytes(contact_sheet(train.clips(rows), names))
        paths.append(path)
    return paths


def _state(problems: Sequence[str]) -> str:
    return f"{len(problems)} problem{'s' if len(problems) > 1 else ''}" if problems else "sound"
