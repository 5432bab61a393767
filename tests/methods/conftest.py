"""What the tests of methods share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.tiny_pipelines import BUILDERS, save


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder with a tiny pretrained pipeline of each family."""
    return {family: save(family, tmp_path_factory.mktemp(family)) for family in BUILDERS}
