"""Every plugin passes every check of its kind (harness.conformance)."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from harness.conformance import Check, NotApplicable, Subject


def test_plugin(kind: str, name: str, requirement: Check, subject: Callable[[str, str], Subject]) -> None:
    try:
        requirement.run(subject(kind, name))
    except NotApplicable as reason:
        pytest.skip(str(reason))
