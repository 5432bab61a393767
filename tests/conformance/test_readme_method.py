"""The method that the README shows passes all checks."""

from __future__ import annotations

import re
from pathlib import Path

from harness.conformance import check_files
from tests.conftest import PROJECT


def test_the_method_of_the_readme_passes_every_check(tmp_path: Path) -> None:
    text = (PROJECT / "README.md").read_text(encoding="utf-8")
    source = re.search(r"<!-- third-party-method -->\n```python\n(.*?)```", text, re.DOTALL)
    assert source is not None
    plugin = tmp_path / "brightest.py"
    plugin.write_text(source[1], encoding="utf-8")
    results = list(check_files([plugin]))
    assert [(r.check, r.detail) for r in results if r.status != "ok"] == []
    assert len(results) > 10 and {r.plugin for r in results} == {"brightest"}
