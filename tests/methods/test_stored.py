"""Sets that were made elsewhere: every form gives the same clips, and what does not fit is said in a sentence."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from safetensors.torch import save_file

from harness import Budget, DataError, DistilledSet
from harness.cli import main
from harness.conformance import ContextFactory, NotApplicable, Subject, checks
from harness.registry import Registry
from harness.report import build_report
from harness.store import Store
from methods.set_files import class_numbers, open_set, to_unit
from methods.stored import Stored
from tests.conftest import TINY
from tests.tiny import SHAPE, tiny_split

CLASSES = 3
NAMES = tuple(f"class-{c}" for c in range(CLASSES))


@pytest.fixture(scope="module")
def clips() -> torch.Tensor:
    """Two clips of each class, class after class, uint8 (6, T, C, H, W)."""
    train = tiny_split()
    return train.clips(torch.cat([train.indices_of(label)[:2] for label in range(CLASSES)]))


LABELS = torch.tensor([0, 0, 1, 1, 2, 2])
SOFT = torch.log_softmax(4.0 * torch.eye(CLASSES)[LABELS] + torch.rand(6, CLASSES, generator=torch.Generator().manual_seed(0)), 1)


def _frames(folder: Path, clips: torch.Tensor) -> Path:
    for i, clip in enumerate(clips):
        target = folder / f"Class {int(LABELS[i])}" / f"clip{i}"
        target.mkdir(parents=True)
        for t, frame in enumerate(clip):
            Image.fromarray(frame[0].numpy()).save(target / f"frame{t}.png")
    return folder


def _npz(path: Path, **arrays: np.ndarray) -> Path:
    np.savez(path, **arrays)
    return path


def _pt(path: Path, value: object) -> Path:
    torch.save(value, path)
    return path


def _safetensors(path: Path, tensors: dict[str, torch.Tensor]) -> Path:
    save_file(tensors, path)
    return path


FORMS: dict[str, Callable[[Path, torch.Tensor], Path]] = {
    "npz": lambda at, c: _npz(at / "s.npz", clips=c.numpy(), labels=LABELS.numpy()),
    "npz by class and place": lambda at, c: _npz(at / "s.npz", videos=c.unflatten(0, (3, 2)).numpy()),
    "npz by class name": lambda at, c: _npz(at / "s.npz", **{n: c[2 * i : 2 * i + 2].numpy() for i, n in enumerate(NAMES)}),
    "npz with names as labels": lambda at, c: _npz(at / "s.npz", x=c.numpy(), y=np.array([NAMES[i] for i in LABELS])),
    "npz of whole floats": lambda at, c: _npz(at / "s.npz", clips=c.numpy().astype(np.int64), labels=LABELS.numpy()),
    "pt": lambda at, c: _pt(at / "s.pt", {"clips": c, "labels": LABELS}),
    "pt list": lambda at, c: _pt(at / "s.pt", [c, LABELS]),
    "pt of runs": lambda at, c: _pt(at / "s.pt", {"data": [[c.flip(0), LABELS], [c, LABELS]]}),
    "pt by number": lambda at, c: _pt(at / "s.pt", {i: c[2 * i : 2 * i + 2] for i in range(3)}),
    "pt of one-hot labels": lambda at, c: _pt(at / "s.pt", {"images": c, "labels": torch.eye(3)[LABELS]}),
    "safetensors": lambda at, c: _safetensors(at / "s.safetensors", {"clips": c, "labels": LABELS}),
    "our own artifact": lambda at, c: _bytes(at / "s.safetensors", DistilledSet.of_clips(c, LABELS).to_bytes()),
    "frames": lambda at, c: _frames(at / "frames", c),
}


def _bytes(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def distil(tmp_path: Path, ipc: int = 2, **params: object) -> DistilledSet:
    factory = ContextFactory(Registry(), Path(tempfile.mkdtemp(dir=tmp_path)))
    plugin: Stored = factory.registry.resolve("method", "stored", params).create()
    train = tiny_split()
    assert plugin.skip(train.info, Budget(ipc, SHAPE, CLASSES)) is None
    return plugin.distill(train, Budget(ipc, SHAPE, CLASSES), factory(plugin, train))


def declined(ipc: int = 2, shape: tuple[int, int, int, int] = SHAPE, **params: object) -> str:
    plugin = Stored(**params)  # type: ignore[arg-type]
    return plugin.skip(tiny_split(shape).info, Budget(ipc, shape, CLASSES)) or ""


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_set(form: str, clips: torch.Tensor, tmp_path: Path) -> None:
    made = distil(tmp_path, path=FORMS[form](tmp_path, clips))
    assert made.clips is not None and made.clips.dtype == torch.uint8
    assert torch.equal(made.clips, clips) and torch.equal(made.labels, LABELS) and made.soft_labels is None


def test_labels_beside_the_clips(clips: torch.Tensor, tmp_path: Path) -> None:
    images = _pt(tmp_path / "images_best.pt", clips)
    with pytest.raises(DataError, match="has no labels: name a file of them with labels=FILE, or say labels=by_class"):
        open_set(images)
    assert torch.equal(distil(tmp_path, path=images, labels="by_class").labels, LABELS)
    hard = _pt(tmp_path / "hard.pt", LABELS)
    assert torch.equal(distil(tmp_path, path=images, labels=hard).labels, LABELS)
    soft = _pt(tmp_path / "labels_best.pt", SOFT)
    made = distil(tmp_path, path=images, labels=soft)
    assert torch.equal(made.soft_labels, SOFT) and torch.equal(made.labels, SOFT.argmax(1))  # type: ignore[arg-type]
    with pytest.raises(DataError, match="is no file; valid: a file of labels, or by_class"):
        open_set(images, "labels.pt")


def test_soft_labels_are_logits_and_probabilities_become_them(clips: torch.Tensor, tmp_path: Path) -> None:
    logits = _npz(tmp_path / "a.npz", clips=clips.numpy(), labels=LABELS.numpy(), soft_labels=(SOFT + 3).numpy())
    assert Stored(path=logits).native_labels == "soft" and Stored().native_labels == "hard"
    made = distil(tmp_path, path=logits)
    assert torch.equal(made.soft_labels, SOFT + 3) and torch.equal(made.labels, LABELS)  # type: ignore[arg-type]
    shares = _npz(tmp_path / "b.npz", clips=clips.numpy(), labels=LABELS.numpy(), soft_labels=SOFT.exp().numpy())
    made = distil(tmp_path, path=shares)
    assert torch.allclose(made.soft_labels, SOFT, atol=1e-5)  # type: ignore[arg-type]


def test_classes_are_matched_by_name(clips: torch.Tensor, tmp_path: Path) -> None:
    """A file that orders its classes otherwise: numbers and soft columns follow the names."""
    order = [2, 0, 1]
    names = np.array([NAMES[i] for i in order])
    numbers = np.array([order.index(int(label)) for label in LABELS])
    path = _npz(tmp_path / "s.npz", clips=clips.numpy(), labels=numbers, soft_labels=SOFT[:, order].numpy(), classes=names)
    made = distil(tmp_path, path=path)
    assert torch.equal(made.labels, LABELS) and torch.equal(made.soft_labels, SOFT)  # type: ignore[arg-type]
    assert class_numbers(["apply_eye makeup", "1"], ["ApplyEyeMakeup", "BalanceBeam"], "x") == [0, 1]
    with pytest.raises(DataError, match="'Jump' is no class of the dataset"):
        class_numbers(["Jump"], NAMES, "x")
    with pytest.raises(DataError, match="two names stand for one class"):
        class_numbers(["class-1", "1"], NAMES, "x")


@pytest.mark.parametrize(
    ("values", "scale", "expected"),
    [
        (lambda c: c, "auto", lambda c: c),
        (lambda c: c.float(), "bytes", lambda c: c),
        (lambda c: c.float() / 255, "auto", lambda c: c.float() / 255),
        (lambda c: c.double() / 255, "unit", lambda c: c.float() / 255),
        (lambda c: c.float() / 255 * 1.2 - 0.1, "unit", lambda c: c.float() / 255 * 1.2 - 0.1),
        (lambda c: c.float() / 127.5 - 1, "signed", lambda c: c.float() / 255),
    ],
)
def test_values_mean_what_is_said(values: Callable, scale: str, expected: Callable, clips: torch.Tensor) -> None:  # type: ignore[type-arg]
    found, wanted = to_unit(values(clips), scale, "s.npz"), expected(clips)
    assert found.dtype == wanted.dtype and torch.allclose(found.float(), wanted.float(), atol=1e-6)


def test_imagenet_is_the_inverse_of_the_networks_normalisation() -> None:
    from harness import normalise

    colour = torch.rand(2, 8, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    assert torch.allclose(to_unit(normalise(colour), "imagenet", "s.pt"), colour, atol=1e-6)
    from harness.training import IMAGENET_MEAN, IMAGENET_STD

    one = torch.zeros(1, 1, 3, 2, 2)
    one[..., 0, 0] = -1.0
    shown = to_unit(one, "imagenet", "s.pt")
    assert torch.allclose(shown[0, 0, :, 1, 1], torch.tensor(IMAGENET_MEAN))
    assert torch.allclose(shown[0, 0, :, 0, 0], torch.tensor(IMAGENET_MEAN) - torch.tensor(IMAGENET_STD))


@pytest.mark.parametrize(
    ("values", "scale", "sentence"),
    [
        (lambda c: c.float(), "auto", "reach from 0 to .*, so they are not black to white in .0, 1.: say what they are with scale="),
        (lambda c: c.float() / 127.5 - 1, "auto", "reach from -1 to"),
        (lambda c: c.float(), "unit", "only .* of them lie between black and white"),
        (lambda c: c.float() / 255, "bytes", "are no bytes"),
        (lambda c: c.float() / 255, "signed", "scale=signed is -1 to 1"),
        (lambda c: c, "unit", "are bytes, not scale=unit"),
        (lambda c: c.int() + 300, "auto", "bytes are 0 to 255"),
        (lambda c: c.float() / 255, "imagenet", "is of three channels, the clips have 1"),
        (lambda c: (c.float() / 255).expand(-1, -1, 3, -1, -1), "imagenet", "nothing is below 0"),
        (lambda c: c.float() * float("nan"), "unit", "NaN"),
    ],
)
def test_values_that_do_not_fit_are_refused(values: Callable, scale: str, sentence: str, clips: torch.Tensor) -> None:  # type: ignore[type-arg]
    with pytest.raises(DataError, match=sentence):
        to_unit(values(clips), scale, "s.npz")


def test_what_does_not_fit_the_run_is_declined(clips: torch.Tensor, tmp_path: Path) -> None:
    path = FORMS["npz"](tmp_path, clips)
    assert declined(path=path) == ""
    assert "up to 2 clips of a class: it is a set of IPC 2, not 1" in declined(ipc=1, path=path)
    assert "it is a set of IPC 2, not 3" in declined(ipc=3, path=path)
    assert "has clips of 8x1x32x32, the run 16x1x32x32 (T x C x H x W)" in declined(path=path, shape=(16, 1, 32, 32))
    swapped = _npz(tmp_path / "swapped.npz", clips=clips.transpose(1, 2).numpy(), labels=LABELS.numpy())
    assert "in the order N x C x T x H x W: swap T and C" in declined(path=swapped)
    few = _npz(tmp_path / "few.npz", clips=clips[:4].numpy(), labels=LABELS[:4].numpy())
    assert "has no clip of 1 of 3 classes: class-2" in declined(path=few)
    many = _npz(tmp_path / "many.npz", clips=clips.numpy(), labels=LABELS.numpy() + 5)
    assert "has labels 5 to 7, the dataset 0 to 2" in declined(path=many)
    wide = _npz(tmp_path / "wide.npz", clips=clips.numpy(), labels=LABELS.numpy(), soft_labels=np.random.rand(6, 7))
    assert "soft labels for 7 classes, the dataset has 3" in declined(path=wide)
    assert declined() == "it needs the set: write stored[path=FILE]"


def test_what_is_no_set_of_clips_is_named(clips: torch.Tensor, tmp_path: Path) -> None:
    vdsd = {"static": torch.rand(6, 1, 32, 32), "dynamic": torch.rand(6, 8, 1, 32, 32), "hal.weight": torch.rand(1, 2, 3, 3, 3)}
    with pytest.raises(DataError, match=r"holds static 6x1x32x32, dynamic 6x8x1x32x32, hal.weight 1x2x3x3x3: neither an entry 'clips'"):
        open_set(_pt(tmp_path / "vdsd.pt", vdsd))
    with pytest.raises(DataError, match="got 8x1x32x32"):
        open_set(_npz(tmp_path / "one.npz", clips=clips[0].numpy(), labels=LABELS.numpy()))
    with pytest.raises(DataError, match="has 6 clips and 5 labels"):
        open_set(_npz(tmp_path / "short.npz", clips=clips.numpy(), labels=LABELS[:5].numpy()))
    (tmp_path / "broken.npz").write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"broken.npz cannot be read as .npz"):
        open_set(tmp_path / "broken.npz")
    (tmp_path / "set.zip").write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"a set is a file \.safetensors, \.npz, \.pt"):
        open_set(tmp_path / "set.zip")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no set: expected"):
        open_set(tmp_path / "empty")


class Bomb:
    """Runs code when it is unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (exec, ("open('exploded', 'w').close()",))


def test_no_code_of_a_file_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match="without running code in it"):
        open_set(_pt(tmp_path / "bomb.pt", {"clips": Bomb()}))
    np.savez(tmp_path / "bomb.npz", clips=np.array([Bomb()], dtype=object))
    with pytest.raises(DataError, match="without running code in it"):
        open_set(tmp_path / "bomb.npz")
    assert not Path("exploded").exists()


def test_videos_that_would_have_to_be_cut_are_refused(clips: torch.Tensor, tmp_path: Path) -> None:
    path = _frames(tmp_path / "frames", clips)
    (path / "Class 1" / "clip2" / "frame7.png").unlink()
    with pytest.raises(DataError, match="clip2 has 7 frames, a clip of this run 8"):
        distil(tmp_path, path=path)
    Image.new("L", (40, 40)).save(path / "Class 1" / "clip2" / "frame0.png")
    with pytest.raises(DataError, match="clip2 is 40x40 pixels"):
        distil(tmp_path, path=path)


def test_a_gif_of_every_clip(clips: torch.Tensor, tmp_path: Path) -> None:
    for i, clip in enumerate(clips):
        target = tmp_path / "gifs" / str(int(LABELS[i]))
        target.mkdir(parents=True, exist_ok=True)
        frames, buffer = [Image.fromarray(frame[0].numpy()) for frame in clip], io.BytesIO()
        frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:], duration=100)
        (target / f"{i}.gif").write_bytes(buffer.getvalue())
    made = distil(tmp_path, path=tmp_path / "gifs")
    assert made.clips is not None and (made.clips.float() - clips.float()).abs().mean() < 3


@pytest.fixture(scope="module")
def stored_subject(tmp_path_factory: pytest.TempPathFactory) -> Subject:
    """The method with a set for IPC 1 and one for IPC 3."""
    folder, train = tmp_path_factory.mktemp("sets"), tiny_split()
    for ipc in (1, 3):
        rows = torch.cat([train.indices_of(label)[:ipc] for label in range(CLASSES)])
        _npz(folder / f"ipc{ipc}.npz", clips=train.clips(rows).numpy(), labels=train.labels[rows].numpy())
    contexts = ContextFactory(Registry(), tmp_path_factory.mktemp("scratch"), small={"stored": {"path": folder}})
    return Subject(contexts, "method", "stored")


@pytest.mark.parametrize("requirement", checks("method"), ids=lambda check: check.name)
def test_it_keeps_the_contract_of_a_method(requirement: object, stored_subject: Subject) -> None:
    try:
        requirement.run(stored_subject)  # type: ignore[attr-defined]
    except NotApplicable:
        assert requirement.name in ("takes_colour", "makes_rows_as_the_whole")  # type: ignore[attr-defined]


def run(bench: Path, tmp_path: Path, spec: str) -> tuple[int, str]:
    command = ["run", "--config", str(bench), "--plugin", str(TINY), "--results", str(tmp_path / "results"), "--methods", f"{spec},random"]
    result = CliRunner().invoke(main, [*command, "--ipc", "1", "--seeds", "1", "--no-reference"])
    assert "Traceback" not in result.output
    return result.exit_code, result.output


def test_what_cannot_be_read_stops_the_command(bench: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.npz").write_bytes(b"nothing")
    for name, sentence in (("broken.npz", "cannot be read as .npz"), ("nowhere.npz", "No such file or directory")):
        code, output = run(bench, tmp_path, f"stored[path={tmp_path / name}]")
        assert code == 2 and sentence in output, output
    assert not (tmp_path / "results").exists()


def test_values_that_do_not_fit_cost_one_row(bench: Path, tmp_path: Path) -> None:
    path = _npz(tmp_path / "s.npz", clips=np.full((3, 4, 1, 8, 8), 200.0), labels=np.arange(3))
    code, output = run(bench, tmp_path, f"stored[path={path},name=theirs]")
    assert code == 1 and "the values reach from 200 to 200" in " ".join(output.split())
    assert run(bench, tmp_path, f"stored[path={path},name=theirs,scale=bytes]")[0] == 0
    frames = {
        r.name: r.metrics["frames_stored"] for r in Store(tmp_path / "results").read_records()[0].values() if "frames_stored" in r.metrics
    }
    assert len(frames) == 2 and set(frames.values()) == {12}, "charged as every set is"
    build_report(tmp_path / "results", tmp_path / "report", formats=("md",))
    text = (tmp_path / "report" / "report.md").read_text(encoding="utf-8")
    assert "| theirs |" in text, "under the name that the user gives"
