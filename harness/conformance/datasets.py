"""What is required of a dataset: it lists its videos cheaply, reads them the same way each time, and keeps its splits apart."""

from __future__ import annotations

import numpy as np

from harness.conformance.subject import Check, NotApplicable, Subject, check, require
from harness.data.cache import SPLITS, describe
from harness.errors import DataError

CHECKS: list[Check] = []


@check(CHECKS)
def lists_its_videos(subject: Subject) -> None:
    """Classes and videos come in a fixed order, every class is in both splits, and no video is."""
    dataset = subject.dataset()
    classes = dataset.classes()
    require(len(set(classes)) == len(classes) >= 2, f"classes must be two or more different names, got {list(classes)[:5]}")
    ids: dict[str, set[str]] = {}
    for split in SPLITS:
        items = list(dataset.items(split))
        ids[split] = {item.id for item in items}
        require(len(ids[split]) == len(items), f"an id names one video; {split} has {len(items)} videos and {len(ids[split])} ids")
        labels = {item.label for item in items}
        foreign = sorted(labels - set(range(len(classes))))
        require(not foreign, f"labels must be in [0, {len(classes)}); {split} has {foreign[:5]}")
        missing = [name for label, name in enumerate(classes) if label not in labels]
        require(not missing, f"every class needs videos in both splits; {split} has none of {missing[:5]}")
        require([item.id for item in dataset.items(split)] == [item.id for item in items], f"the order of {split} is not fixed")
    both = sorted(ids["train"] & ids["test"])
    require(not both, f"no video may be in both splits: {both[:5]}")


@check(CHECKS)
def describes_itself(subject: Subject) -> None:
    """Its digest stays what it is, and clips of another size are other clips."""
    dataset = subject.dataset()
    info = describe(dataset, subject.name)
    listed = sum(not item.problem for item in dataset.items("train"))
    require(info.clip_shape == dataset.default_shape, f"default_shape {dataset.default_shape} is described as {info.clip_shape}")
    require(sum(info.train_per_class) == listed, f"{listed} training videos are listed, {sum(info.train_per_class)} are described")
    same = info.digest == describe(subject.dataset(), subject.name).digest
    require(same, "digest() gives two instances of the same parameters two values")
    t, c, h, w = info.clip_shape
    require(describe(dataset, subject.name, (t, c, h + 8, w + 8)).digest != info.digest, "clips of another size have the same digest")


@check(CHECKS)
def reads_the_same_each_time(subject: Subject) -> None:
    """A video is read as uint8 (T, C, H, W) of the shape that is asked for, by ``read`` as by ``read_parts``, and always the same."""
    dataset = subject.dataset()
    shape = dataset.default_shape
    for split in SPLITS:
        item = next(item for item in dataset.items(split) if not item.problem)
        clip = dataset.read(item, shape)
        require(clip.frames.shape == shape, f"clips must have the shape that is asked for, {shape}, got {clip.frames.shape}")
        require(clip.frames.dtype == np.uint8, f"clips must be uint8, got {clip.frames.dtype}")
        require(clip.frames.std() > 0, f"{split} {item.id} is one flat colour")
        require(clip.native_frames >= 1, f"native_frames counts the frames of the whole video, got {clip.native_frames}")
        for other, how in ((dataset.read(item, shape), "again"), (dataset.read_parts([item], shape)[0], "by read_parts")):
            same = np.array_equal(clip.frames, other.frames) and clip.native_frames == other.native_frames
            require(same, f"{split} {item.id} differs when it is read {how}")


@check(CHECKS)
def names_a_missing_folder(subject: Subject) -> None:
    """A data root that is not there is a DataError that names it."""
    if not subject.reads_from_disk:
        raise NotApplicable("it is not read from disk")
    nowhere = subject.contexts.scratch / "nowhere"
    try:
        subject.contexts.create("dataset", subject.name, root=nowhere).items("train")
    except DataError as error:
        require(str(nowhere) in str(error), f"the error about a missing data root does not name it: {error}")
    else:
        raise AssertionError("a data root that does not exist raises no DataError")
