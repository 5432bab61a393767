"""What the README shows is what works."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import PROJECT, TINY, Harness


def test_the_third_party_method_of_the_readme_runs(harness: Harness, tmp_path: Path) -> None:
    text = (PROJECT / "README.md").read_text(encoding="utf-8")
    source = re.search(r"<!-- third-party-method -->\n```python\n(.*?)```", text, re.DOTALL)
    assert source is not None
    plugin = tmp_path / "brightest.py"
    plugin.write_text(source[1], encoding="utf-8")
    methods = "brightest,brightest[darkest=true],random"
    done = harness("run", "--plugin", str(plugin), "--methods", methods, "--ipc", "1", "--seeds", "1", "--no-reference")
    assert done.returncode == 0, done.stdout + done.stderr
    records = [json.loads(p.read_text()) for p in (tmp_path / "results" / "records").glob("*.json")]
    done_cells = {r["spec"]["method"]["label"] for r in records if r["kind"] == "evaluate" and r["status"] == "done"}
    assert done_cells == {"brightest", "brightest[darkest=true]", "random"}


def test_the_session_of_the_readme_runs(bench: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it stands, but for the data and networks: those of the tests, to be quick."""
    import harness

    text = (PROJECT / "README.md").read_text(encoding="utf-8")
    source = re.search(r"<!-- session -->\n```python\n(.*?)```", text, re.DOTALL)
    assert source is not None
    open_session = harness.Session.open

    def small(**run: object) -> harness.Session:
        quick = {"evaluators": "tiny-net", "plugins": [str(TINY)], "results": str(tmp_path / "results")}
        return open_session(bench, set=["methods.herding.teacher=tiny-net"], **{**run, **quick})

    monkeypatch.setattr(harness.Session, "open", small)
    names: dict[str, Any] = {}
    exec(source[1], names)
    assert sorted(names["frame"]["method"]) == ["full", "herding", "random"] and names["frame"]["accuracy"].notna().all()
    assert names["made"].clips.shape == (3, 4, 1, 8, 8)


@pytest.mark.slow
def test_the_set_from_elsewhere_of_the_readme_runs(tmp_path: Path) -> None:
    """Both lines as they stand, by a shell in an empty folder, with options that make them quick."""
    source = re.search(r"<!-- stored -->\n```sh\n(.*?)```", (PROJECT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert source is not None
    quick = " --executor inline --no-track --no-quality --seeds 1 --evaluators 'convnet3d[width=8]' --set protocols.quick.min_steps=5"
    script = source[1].rstrip() + quick + " --set protocols.quick.full.epochs=1\n"
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "PYTHONPATH": str(PROJECT)}
    done = subprocess.run(["bash", "-ec", script], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "stored[path=my_set.npz,name=mine]" in done.stdout


def test_every_verb_of_the_readme_exists() -> None:
    from harness.cli import main

    text = (PROJECT / "README.md").read_text(encoding="utf-8")
    assert set(re.findall(r"python -m harness (\w+)", text)) <= set(main.commands)
