"""Seeds, each decided by the role it plays and by the axes that it may depend on."""

from __future__ import annotations

import hashlib


def derive_seed(role: str, *axes: object) -> int:
    """A seed in [0, 2**31) for one role ("asset", "distil", "train"), decided by the named axes alone.

    The seed of training does not take the method as an axis: all methods share initialisation and batch order, so that comparisons
    are paired. The names of the roles decide numbers, so they stay as they are.

    >>> derive_seed("train", "moving-digits", "convnet3d", 0) == derive_seed("train", "moving-digits", "convnet3d", 0)
    True
    """
    text = "/".join([role, *(str(a) for a in axes)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") % 2**31
