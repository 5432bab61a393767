"""Multi-video instance composition (MVIC): one instance of the budget carries runs of frames from several videos of its class.

In time: with n videos of F frames, video j gives its frames from j F / n to (j + 1) F / n, in their own places, so the guidance that
falls along a clip reaches its composition as it is. The instance costs one clip of the budget, whatever n is.
"""

from __future__ import annotations

from torch import Tensor


def frame_run(frames: int, videos: int, j: int) -> slice:
    """The frames that video j of ``videos`` gives to an instance of that many frames.

    >>> [frame_run(8, 3, j) for j in range(3)]
    [slice(0, 2, None), slice(2, 5, None), slice(5, 8, None)]
    """
    return slice(j * frames // videos, (j + 1) * frames // videos)


def place_runs(storage: Tensor, clips: Tensor, first: int, videos: int) -> None:
    """Write the runs of generated clips number first, first + 1, ... into the instances (N, T, C, H, W) that they belong to.

    Clip s is video s % videos of instance s // videos. With one video per instance this stores the clips.
    """
    frames = storage.shape[1]
    for s, clip in enumerate(clips, start=first):
        run = frame_run(frames, videos, s % videos)
        storage[s // videos, run] = clip[run]
