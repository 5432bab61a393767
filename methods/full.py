"""Full: the whole training split. Not a method of the budget but the reference that every relative accuracy is measured against.

Nothing is distilled: the network trained on the full training split (by the protocol, with its overrides for the full split) is the
asset ``teacher``, and its cell is only tested. So no budget applies, nothing is audited, and there is no ``distill``.

    python -m harness run --methods full,random

Reported: no full-data figure of MiniUCF or HMDB51 is confirmed by a paper that could be read. The log of an independent run gives 56.2 %
for MiniUCF (ConvNet3D, mean of 15 networks).
"""

from __future__ import annotations

from harness import method


@method("full")
class Full:
    """The whole training split, as the reference of relative accuracy."""

    reference = True
