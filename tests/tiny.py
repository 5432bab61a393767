"""The tiny dataset and contexts of the conformance checks, for the tests of single plugins."""

from __future__ import annotations

from harness.conformance.tiny import PROTOCOL, SHAPE, ContextFactory, tiny_split

__all__ = ["PROTOCOL", "SHAPE", "ContextFactory", "tiny_split"]
