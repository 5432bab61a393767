"""Sets go out as folders that need no harness, and come back the same, to the digit."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from harness import Session
from harness.cli import main
from harness.clip_files import FORMATS
from harness.clip_writer import ClipWriter
from harness.record import Record
from harness.spec import DistillSpec
from tests.conftest import TINY, TINY_BENCH

CODED = '''
import torch

from harness import DistilledSet, method
from tests.plugins.tiny import _first


@method("coded")
class Coded:
    """The first clips as halves beyond black and white, with soft labels: a set that is not stored as clips."""

    native_labels = "soft"
    deterministic = True

    def distill(self, train, budget, context):
        plain = _first(train, budget)
        soft = 3.0 * torch.eye(budget.classes)[plain.labels] + 0.25
        return DistilledSet({"code": (plain.clips.half() / 200 - 0.1)}, plain.labels, soft)

    def materialise(self, tensors):
        return tensors["code"].float()
'''


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """A results folder with two methods, its --config file, and the plugin of one of them."""
    folder = tmp_path_factory.mktemp("made")
    (folder / "tiny.toml").write_text(TINY_BENCH.replace("epochs = 3", "epochs = 9"), encoding="utf-8")
    (folder / "coded.py").write_text(CODED, encoding="utf-8")
    run(folder, methods="random,coded", ipc="1,2", seeds=2, labels="native")
    return folder / "results", folder / "tiny.toml", folder / "coded.py"


def run(folder: Path, **options: object) -> Session:
    plugins = [str(TINY), str(folder / "coded.py")]
    session = Session.open(folder / "tiny.toml", plugins=plugins, results=str(folder / "results"), reference=False, **options)
    assert session.run() == "done"
    return session


def harness(*arguments: object) -> tuple[int, str]:
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert "Traceback" not in result.output
    return result.exit_code, result.output


def cells(folder: Path, label: str) -> dict[tuple[int, int], Record]:
    records, _ = Session.open(folder / "tiny.toml", results=str(folder / "results")).store.read_records()
    evaluated = [r for r in records.values() if r.is_cell and r.spec.method.label == label]  # type: ignore[union-attr]
    return {(r.spec.ipc, r.spec.seed): r for r in evaluated}  # type: ignore[union-attr]


@pytest.mark.parametrize(("method", "form"), [("random", "npz"), ("coded", "safetensors")])
def test_a_set_that_comes_back_trains_the_same_networks(made: tuple[Path, Path, Path], method: str, form: str, tmp_path: Path) -> None:
    results, _, plugin = made
    code, output = harness("export", "--results", results, "--out", tmp_path, "--methods", method, "--format", form, "--plugin", plugin)
    assert code == 0, output
    folders = sorted({Path(line).parent for line in output.splitlines()})
    assert [f.name for f in folders] == [f"tiny-{method}-seed{s}" for s in ((0, 1) if method == "random" else (0,))]
    for seed, folder in enumerate(folders):
        label = f"stored[path={folder}]"
        run(results.parent, methods=label, ipc="1,2", seeds=2, labels="native")
        back, own = cells(results.parent, label), cells(results.parent, method)
        compared = [(ipc, s) for ipc, s in own if method == "coded" or s == seed]
        assert len(compared) == (4 if method == "coded" else 2)
        for at in compared:
            assert back[at].status == "done" and back[at].metrics == own[at].metrics, at
            assert back[at].arrays == own[at].arrays and back[at].curves == own[at].curves


READ = """
import sys
from pathlib import Path

import torch

for folder in map(Path, sys.argv[1:]):
    sys.path.insert(0, str(folder))
    sys.modules.pop("dataset", None)
    from dataset import CLASSES, DistilledClips

    data = DistilledClips()
    clips, labels = next(iter(torch.utils.data.DataLoader(data, batch_size=len(data))))
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(clips[0].numel(), len(CLASSES)))
    torch.nn.functional.cross_entropy(network(clips), labels).backward()
    print(CLASSES, tuple(clips.shape), clips.dtype, labels.tolist(), f"{clips.mean():.3f}")
    assert not {"harness", "methods"} & set(sys.modules)
    sys.path.pop(0)
"""


def test_a_plain_loop_outside_the_project_reads_every_format(made: tuple[Path, Path, Path], tmp_path: Path) -> None:
    folders = []
    for form in FORMATS:
        code, output = harness(
            "export", "--results", made[0], "--out", tmp_path / form, "--methods", "rand*", "--ipc", 2, "--seeds", 1, "--format", form
        )
        assert code == 0, output
        folders.append(output.strip())
    elsewhere = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-P", "-c", READ, *folders], cwd=tmp_path, env=elsewhere, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == lines[1], "both hold the set to the bit"
    for line in lines:
        assert line.startswith("('dark', 'grey', 'bright') (6, 4, 1, 8, 8) torch.float32 [0, 0, 1, 1, 2, 2] 0.")
        assert abs(float(line.split()[-1]) - float(lines[0].split()[-1])) < 0.02, "a video is close to its clip"


def test_videos_come_back_as_a_set_too(made: tuple[Path, Path, Path], tmp_path: Path) -> None:
    from methods.set_files import open_set

    code, output = harness(
        "export", "--results", made[0], "--out", tmp_path, "--methods", "random", "--ipc", 1, "--seeds", "0", "--format", "npz,mp4"
    )
    assert code == 0, output
    exact, video = open_set(Path(output.strip())), open_set(Path(output.strip()) / "mp4")
    shape = (4, 1, 8, 8)
    classes = ("dark", "grey", "bright")
    by_label = []
    for name, found in (("exact", exact), ("video", video)):
        labels = found.on(classes)[0]
        clips = found.read(partial(ClipWriter, tmp_path / name, (len(labels), *shape)))
        by_label.append(clips[labels.argsort()].float())
    assert torch.allclose(by_label[0], by_label[1], atol=24), "compressed, not another"
    assert (by_label[0] - by_label[1]).abs().mean() < 6


def test_the_card_and_the_labels_say_what_it_is(made: tuple[Path, Path, Path], tmp_path: Path) -> None:
    results, _, plugin = made
    records, _ = Session.open(made[1], results=str(results)).store.read_records()
    cell = cells(results.parent, "coded")[2, 1]
    made_set = records[cell.inputs["distill"]]
    code, output = harness(
        "export", "--results", results, "--out", tmp_path, "--cell", cell.key[:12], "--plugin", plugin, "--format", "npz,gif"
    )
    assert code == 0, output
    (folder,) = map(Path, output.split())
    card = (folder / "README.md").read_text(encoding="utf-8")
    both = [cells(results.parent, "coded")[2, seed].metrics["accuracy"] or 0.0 for seed in (0, 1)]
    mean, spread = sum(both) / 2, abs(both[0] - both[1]) / 2**0.5
    told = f"| tiny-net | tiny | soft | {100 * mean:.1f} ± {100 * spread:.1f} (n = 2) |".replace("| soft", "| native")
    for text in (
        "# coded on tiny, IPC 2, seed 0",
        "- labels: hard, and soft ones of a teacher (logits)",
        "float32, [0, 1] is black to white",
        told,
        "## Licence",
        f"torch {torch.__version__.split('+')[0]}",
        made_set.key,
    ):
        assert text in card, f"{text}\n\n{card}"
    rows = list(csv.DictReader((folder / "labels.csv").open(encoding="utf-8")))
    assert [(r["label"], r["class"], r["npz"]) for r in rows][::2] == [
        (str(i), n, "set.npz") for i, n in enumerate(("dark", "grey", "bright"))
    ]
    assert all((folder / r["gif"]).is_file() for r in rows)
    assert isinstance(made_set.spec, DistillSpec)


def test_an_export_is_repeated_in_place_and_nothing_else_is_touched(made: tuple[Path, Path, Path], tmp_path: Path) -> None:
    arguments = ("export", "--results", made[0], "--out", tmp_path, "--methods", "random", "--ipc", 1, "--seeds", "0")
    assert harness(*arguments)[0] == 0
    (folder,) = tmp_path.glob("*/ipc1")
    (folder / "old.txt").write_text("")
    assert harness(*arguments)[0] == 0 and not (folder / "old.txt").exists()
    (folder / "labels.csv").unlink()
    code, output = harness(*arguments)
    assert code == 2 and "exists and is no exported set" in output and (folder / "set.npz").exists()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--methods", "dm"), "is chosen by these filters; methods with a set: coded, random"),
        (("--ipc", "five"), "--ipc: 'five' is not a whole number"),
        (("--format", "avi"), "unknown format 'avi'"),
        (("--cell", "zzz"), "is chosen by these filters"),
        (("--methods", "coded"), "unknown method 'coded'"),
    ],
)
def test_bad_input_is_one_sentence(made: tuple[Path, Path, Path], tmp_path: Path, arguments: tuple[str, str], sentence: str) -> None:
    code, output = harness("export", "--results", made[0], "--out", tmp_path / "out", *arguments)
    assert code == 2 and sentence in output
    assert not (tmp_path / "out").exists()
