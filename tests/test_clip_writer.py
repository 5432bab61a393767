"""Sets that are written clip by clip: what survives a kill, what reaches the disk, and that memory does not grow with them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save

from harness.clip_writer import ClipWriter
from harness.distilled import DistilledSet, is_finite
from harness.errors import DamagedError, DistilledSetError, StoreError, TaskError
from harness.record import Record
from harness.store import Store
from harness.tasks.common import clips_of, materialise
from tests.conftest import PROJECT, TINY_BENCH
from tests.tiny import SHAPE, ContextFactory, tiny_split

ROOM = (5, 2, 1, 4, 4)


def some(n: int, shape: tuple[int, ...] = ROOM[1:]) -> torch.Tensor:
    return torch.randint(0, 256, (n, *shape), dtype=torch.uint8, generator=torch.Generator().manual_seed(n))


# The writer


def test_what_is_written_is_read_also_by_the_next_process(tmp_path: Path) -> None:
    clips, writer = some(5), ClipWriter(tmp_path / "a.uint8", ROOM)
    assert not writer.has(0, 1)
    writer.write(3, clips[3:])
    writer.write(0, clips[:1])
    with pytest.raises(DistilledSetError, match="2 of 5 clips were not written, the first is number 1"):
        writer.whole()
    del writer
    again = ClipWriter(tmp_path / "a.uint8", ROOM)
    assert [again.has(i, 1) for i in range(5)] == [True, False, False, True, True] and not again.has(2, 3)
    again.write(1, clips[1:3])
    assert torch.equal(again.whole(), clips)
    assert torch.equal(again.clips(torch.tensor([4, 0])), clips[[4, 0]]) and torch.equal(again.clips(slice(1, 3)), clips[1:3])
    held = again.clips()
    held.zero_()
    assert torch.equal(again.whole(), clips), "what is read is a copy"


def test_a_file_of_another_size_counts_for_nothing(tmp_path: Path) -> None:
    ClipWriter(tmp_path / "a.uint8", ROOM).write(0, some(5))
    assert not ClipWriter(tmp_path / "a.uint8", (4, *ROOM[1:])).has(0, 1)
    ClipWriter(tmp_path / "b.uint8", ROOM).write(0, some(5))
    (tmp_path / "b.done").write_bytes(b"\1")
    assert not ClipWriter(tmp_path / "b.uint8", ROOM).has(0, 1)


@pytest.mark.parametrize("clips", [some(1).float(), some(1, (2, 1, 4, 5)), some(2)], ids=["float", "shape", "beyond the end"])
def test_clips_that_do_not_fit_are_refused(clips: torch.Tensor, tmp_path: Path) -> None:
    with pytest.raises(DistilledSetError, match=r"of 5 must be uint8 of shape \(B, T, C, H, W\) = \('B', 2, 1, 4, 4\)"):
        ClipWriter(tmp_path / "a.uint8", ROOM).write(4, clips)


def test_a_disk_without_room_is_an_error_at_once(tmp_path: Path) -> None:
    """And not the end of the process at the first page that does not fit."""
    with pytest.raises(TaskError, match=r"the clips of this set need [\d,]+ bytes in"):
        ClipWriter(tmp_path / "a.uint8", (1 << 40, *ROOM[1:]))
    assert not list(tmp_path.iterdir())


def test_every_writer_of_a_context_has_a_file_of_its_own(tmp_path: Path) -> None:
    context = ContextFactory(None, tmp_path).bare(tiny_split())  # type: ignore[arg-type]
    one, two = context.writer(5, ROOM[1:]), context.writer(5, ROOM[1:])
    one.write(0, some(5))
    assert not two.has(0, 1)


def test_a_number_has_a_generator_of_its_own(tmp_path: Path) -> None:
    """Which draws the same whatever was drawn before, and for another seed something else."""
    contexts, train = ContextFactory(None, tmp_path), tiny_split()  # type: ignore[arg-type]

    def drawn(seed: int, number: int, before: int) -> int:
        context = contexts.bare(train, seed)
        torch.rand(before, generator=context.generator)
        return int(torch.randint(2**60, (1,), generator=context.generator_of(number)))

    first, again = ([drawn(seed, number, before) for seed in range(3) for number in range(5)] for before in (0, 7))
    assert first == again and len(set(first)) == 15


# The file of a set


def sets() -> dict[str, DistilledSet]:
    torch.manual_seed(0)
    several = {"z": torch.rand(3, 2).half(), "a": torch.rand(2, 3).bfloat16(), "codes": some(2), "none": torch.empty(0, 4)}
    return {
        "bytes": DistilledSet.of_clips(some(5), torch.arange(5)),
        "floats and logits": DistilledSet.of_clips(torch.rand(5, 2, 1, 4, 4), torch.arange(5), torch.rand(5, 7)),
        "several": DistilledSet(several, torch.arange(5)),
    }


@pytest.mark.parametrize("kind", list(sets()))
def test_a_file_that_is_written_from_a_map_is_safetensors_own(kind: str, tmp_path: Path) -> None:
    stored = sets()[kind]
    plain = {**stored.tensors, "__labels__": stored.labels}
    if stored.soft_labels is not None:
        plain["__soft_labels__"] = stored.soft_labels
    stored.save(tmp_path / "s.safetensors")
    assert (tmp_path / "s.safetensors").read_bytes() == save(plain) == stored.to_bytes()
    ordinary = tmp_path / "ordinary"
    ordinary.write_bytes(b"")
    assert (tmp_path / "s.safetensors").stat().st_mode == ordinary.stat().st_mode, "others may read a results folder"
    opened = DistilledSet.open(tmp_path / "s.safetensors")
    opened.save(tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == stored.to_bytes()


def test_a_change_of_an_opened_set_never_reaches_its_file(tmp_path: Path) -> None:
    sets()["bytes"].save(tmp_path / "s.safetensors")
    before = (tmp_path / "s.safetensors").read_bytes()
    opened = DistilledSet.open(tmp_path / "s.safetensors")
    assert opened.clips is not None
    opened.clips.zero_()
    opened.labels.zero_()
    assert (tmp_path / "s.safetensors").read_bytes() == before
    assert torch.equal(load_file(tmp_path / "s.safetensors")["clips"], some(5))


def test_what_is_no_set_is_refused(tmp_path: Path) -> None:
    (tmp_path / "s.safetensors").write_bytes(b"no such thing")
    with pytest.raises(StoreError, match=r"s\.safetensors is no safetensors file"):
        DistilledSet.open(tmp_path / "s.safetensors")
    (tmp_path / "s.safetensors").write_bytes(save({"clips": some(1)}))
    with pytest.raises(StoreError, match="no labels"):
        DistilledSet.open(tmp_path / "s.safetensors")


def test_values_are_looked_at_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.distilled._PART", 10)
    values = torch.zeros(7, 3)
    assert is_finite(values) and is_finite(torch.zeros(())) and is_finite(torch.empty(0, 3))
    values[6, 2] = torch.nan
    assert not is_finite(values) and not is_finite(torch.tensor(torch.inf))


# In the store


@pytest.mark.parametrize("where", ["folder", "memory://flat-sets"])
def test_artifacts_are_moved_in_and_opened_without_memory(where: str, tmp_path: Path) -> None:
    from tests.test_store import key_of, record

    store, file = Store(tmp_path / "store" if where == "folder" else where), tmp_path / "s.safetensors"
    sets()["bytes"].save(file)
    data = file.read_bytes()
    entry = store.move_artifact(key_of("m"), "s.safetensors", file)
    made: Record = record("m", artifacts={"s.safetensors": entry})
    assert entry == store.write_artifact(key_of("m"), "copy", data)
    assert store.read_artifact(made, "s.safetensors") == data
    opened = store.open_artifact(made, "s.safetensors", tmp_path)
    assert opened.read_bytes() == data
    assert (opened.parent == tmp_path) == (where != "folder"), "only what lies elsewhere is copied"
    assert store.open_artifact(made, "s.safetensors", tmp_path) == opened
    store.write_bytes(f"artifacts/{made.key}/s.safetensors", data[:-1] + b"\7")
    (tmp_path / "other").mkdir()
    with pytest.raises(DamagedError, match="its checksum differs"):
        store.open_artifact(made, "s.safetensors", tmp_path / "other")
    assert not [path for path in (tmp_path / "other").iterdir() if path.suffix != ".partial"]


# Clips that are made a batch at a time


@pytest.mark.parametrize(
    "spec", ["random", "random[layout=grid,compose=4]", "vdsd_dm[iterations=1,static_iterations=0,half=true,start=real,dynamic_per_clip=1]"]
)
def test_streamed_clips_are_those_of_the_whole_set(spec: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from harness.budget import Budget
    from harness.registry import Registry

    contexts, train = ContextFactory(Registry(), tmp_path), tiny_split(per_class=8)
    plugin = contexts.create("method", spec)
    plugin.distill(train, Budget(2, SHAPE, 3), contexts(plugin, train)).save(tmp_path / "s.safetensors")
    stored = DistilledSet.open(tmp_path / "s.safetensors")
    whole = clips_of(plugin, stored, SHAPE)
    assert isinstance(whole, torch.Tensor) and torch.equal(whole, materialise(plugin, stored, SHAPE))
    monkeypatch.setattr("harness.tasks.common.TOGETHER", 0)
    streamed = clips_of(plugin, stored, SHAPE)
    assert not isinstance(streamed, torch.Tensor) and len(streamed) == len(whole)
    order = torch.randperm(len(whole), generator=torch.Generator().manual_seed(0))
    for part in (*order.split(4), slice(1, 4), [2, 2], None):
        assert torch.equal(streamed.clips(part), whole if part is None else whole[part])


# As a user


PLUGIN = '''
import os, signal
from pathlib import Path
import torch
from harness import DistilledSet, method

@method("slow")
class Slow:
    """One clip at a time, from the seed of each; killed at the clip that the file die_at names, once."""

    def distill(self, train, budget, context):
        writer, note = context.writer(budget.clips, budget.clip_shape), Path(os.environ["NOTES"])
        for number in range(len(writer)):
            if not writer.has(number, 1):
                if (note / "die_at").exists() and int((note / "die_at").read_text()) == number:
                    (note / "die_at").unlink()
                    os.kill(os.getpid(), signal.SIGKILL)
                with open(note / "made", "a") as file:
                    file.write(f"{number} ")
                generator = context.generator_of(number)
                writer.write(number, torch.randint(256, (1, *budget.clip_shape), generator=generator).to(torch.uint8))
        return DistilledSet.of_clips(writer, torch.arange(budget.classes).repeat_interleave(budget.ipc))
'''


def test_a_killed_distillation_goes_on_and_gives_the_same_set(tmp_path: Path) -> None:
    """kill -9 in the middle, on the command line; the second attempt makes the rest alone, and nothing is left behind."""
    (tmp_path / "bench.toml").write_text(TINY_BENCH, encoding="utf-8")
    (tmp_path / "slow.py").write_text(PLUGIN, encoding="utf-8")

    def run(results: str) -> int:
        command = [sys.executable, "-m", "harness", "run", "--config", str(tmp_path / "bench.toml"), "--plugin", str(tmp_path / "slow.py")]
        command += ["--plugin", str(PROJECT / "tests" / "plugins" / "tiny.py"), "--methods", "slow", "--ipc", "3", "--seeds", "1"]
        environment = {**os.environ, "NOTES": str(tmp_path)}
        return subprocess.run(
            [*command, "--results", str(tmp_path / results)], cwd=PROJECT, env=environment, capture_output=True
        ).returncode

    def of(results: str) -> tuple[str, dict[str, float | None]]:
        records = Store(tmp_path / results).read_records()[0].values()
        (made,) = (r for r in records if r.kind == "distill")
        (tested,) = (r for r in records if r.kind == "evaluate" and "distill" in r.inputs)
        return made.artifacts["distilled.safetensors"].sha256, tested.metrics

    (tmp_path / "die_at").write_text("4")
    assert run("killed") == -signal.SIGKILL
    assert (tmp_path / "made").read_text().split() == ["0", "1", "2", "3"]
    assert run("killed") == 0
    made = (tmp_path / "made").read_text().split()
    assert made == [str(number) for number in range(len(made))] and len(made) > 4, "nothing twice"
    assert run("undisturbed") == 0
    assert of("killed") == of("undisturbed")
    scratch = tmp_path / "killed" / "cache" / "scratch"
    assert not scratch.exists() or not list(scratch.iterdir())


# Memory, in a small form

NEED = """
import sys, torch
from pathlib import Path
from harness.distilled import DistilledSet
from harness.protocol import TrainingProtocol
from harness.tasks.common import clips_of
from harness.training import predict_logits, train_network
from methods.compose import Composed
from methods.random import Random
from tests.tiny import ContextFactory, tiny_split

def anonymous():
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("RssAnon:")).split()[1]) / 1024

shape, most = (8, 3, 64, 64), 0.0

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.head = torch.nn.Linear(8, 3)
    def forward(self, clips):
        global most
        most = max(most, anonymous())
        return self.head(clips.mean((2, 3, 4)))

folder, method, ipc = Path(sys.argv[1]), Random(int(sys.argv[2]), "grid"), int(sys.argv[3])
context = ContextFactory(None, folder).bare(tiny_split())
room = context.writer(3 * ipc, shape, method.compose)
protocol = TrainingProtocol(epochs=1, batch=4, test_batch=4)
for first in range(0, 3 * ipc * method.compose, 4):
    method.place(room, torch.full((4, *shape), first % 256, dtype=torch.uint8), first)
    most = max(most, anonymous())
soft = predict_logits(Net(), method.clips_of(room), protocol, "cpu")
stored = method.stored(room, torch.arange(3).repeat_interleave(ipc), soft)
stored.validate(shape, 3)
stored.save(folder / "s.safetensors")
stored = DistilledSet.open(folder / "s.safetensors")
clips = clips_of(method, stored, shape)
train_network(Net, clips, stored.labels, protocol, seed=0, device="cpu", soft_labels=stored.soft_labels, planned=40)
print(most)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads RssAnon")
@pytest.mark.slow
@pytest.mark.parametrize("compose", [1, 4])
def test_memory_does_not_grow_with_the_set(compose: int, tmp_path: Path) -> None:
    """Anonymous memory of writing, labelling, storing and training: 86 against 344 MiB of clips, the first more than is held together."""
    peaks = []
    for ipc in (300, 1200):
        (folder := tmp_path / str(ipc)).mkdir()
        command = [sys.executable, "-c", NEED, str(folder), str(compose), str(ipc)]
        done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=True)
        peaks.append(float(done.stdout))
    assert peaks[1] < 1.05 * peaks[0], f"{peaks} MiB"
    assert np.ptp(peaks) < 40
