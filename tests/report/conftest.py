from __future__ import annotations

from pathlib import Path

import pytest

from tests.report.records import comparison


@pytest.fixture(scope="session")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results folder with a whole comparison; for tests that do not change it."""
    root = tmp_path_factory.mktemp("compared")
    comparison(root)
    return root
