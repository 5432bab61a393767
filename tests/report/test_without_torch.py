"""What looks at results runs where torch, ray and mlflow are not installed: on a laptop, years later."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.conftest import PROJECT

PROGRAM = '''
import sys

ABSENT = ("torch", "torchvision", "ray", "mlflow", "diffusers", "pandas", "seaborn", "sklearn")

class Without:
    """A finder of modules that knows nothing of these packages, as where they are not installed."""

    def __init__(self, finder):
        self.finder = finder

    def __getattr__(self, name):
        return getattr(self.finder, name)

    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] in ABSENT else self.finder.find_spec(name, path, target)

sys.meta_path[:] = [Without(finder) for finder in sys.meta_path]
from harness.cli import main

results, out = sys.argv[1:]
for arguments in (
    ["report", "--results", results, "--out", f"{out}/report", "--metrics", "f1,confusion"],
    ["compare", results, results, "--format", "md", "--out", f"{out}/compared.md"],
    ["status", "--results", results],
    ["list", "--long"],
):
    try:
        main(arguments)
    except SystemExit as end:
        if end.code:
            sys.exit(f"{arguments} ends with {end.code}")
'''


def test_results_are_looked_at_without_torch_ray_and_mlflow(compared: Path, tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM, str(compared), str(tmp_path)], cwd=PROJECT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "report" / "paper.tex").is_file() and list((tmp_path / "report" / "figures").glob("*.pdf"))
    assert "# B against A" in (tmp_path / "compared.md").read_text(encoding="utf-8")
    assert "guidance: float" in done.stdout and "No module named 'torch'" in done.stdout, "what there is, and what it would take to run it"
