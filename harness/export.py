"""Distilled sets as folders that anybody can use: the clips, labels.csv, a card (README.md), and dataset.py, which needs no harness."""

from __future__ import annotations

import csv
import fnmatch
import io
import shlex
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev

from harness import __version__
from harness.clip_files import FORMATS, dataset_source, scale, write_clips
from harness.errors import StoreError, UsageError, did_you_mean
from harness.names import parse_list
from harness.record import Record, Sweep
from harness.registry import Registry
from harness.report.load import Results, load
from harness.report.tables import slug
from harness.rows import Row
from harness.session import Distilled
from harness.spec import DistillSpec
from harness.store import Store
from harness.words import amount, percent, seconds

LICENCES = {
    "moving-digits": "see https://scikit-learn.org/stable/datasets/toy_dataset.html, whose handwritten digits they are made of",
    "ucf101": "see https://www.crcv.ucf.edu/data/UCF101.php",
    "miniucf": "see https://www.crcv.ucf.edu/data/UCF101.php",
    "hmdb51": "HMDB by H. Kuehne, H. Jhuang, E. Garrote, T. Poggio, T. Serre, Creative Commons Attribution 4.0 International, says "
    "http://serre-lab.clps.brown.edu/resource/hmdb-a-large-human-motion-database/",
    "kinetics400": "see https://github.com/cvdfoundation/kinetics-dataset",
    "ssv2": "see https://www.qualcomm.com/developer/software/something-something-v-2-dataset",
    "utd_mhad": "see https://www.utdallas.edu/~kehtar/UTD-MHAD.html",
}
"""Where the terms of a dataset stand; what they are only where its own page has been read."""


@dataclass(frozen=True)
class Choice:
    """Which sets. Empty: all. methods: names, labels or wildcards. cell: the beginning of a cell's or a set's key."""

    datasets: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()
    ipc: tuple[int, ...] = ()
    labels: tuple[str, ...] = ()
    seeds: tuple[int, ...] = ()
    cell: str = ""

    def takes(self, row: Row) -> bool:
        """Whether a cell is chosen."""
        names = (row.method, row.method_label)
        return (
            (not self.datasets or row.dataset in self.datasets or row.dataset_label in self.datasets)
            and (not self.methods or any(m in names or fnmatch.fnmatchcase(row.method, m) for m in self.methods))
            and (not self.ipc or row.ipc in self.ipc)
            and (not self.labels or row.labels in self.labels)
            and (not self.seeds or row.seed in self.seeds)
            and (not self.cell or row.key.startswith(self.cell) or (row.distill_key or "").startswith(self.cell))
        )


def read_choice(cell: str, filters: Mapping[str, str | None]) -> Choice:
    """A choice from lists as the command line takes them; None: not given. Raises UsageError where a number is none."""
    lists = {name: tuple(parse_list(text, name)) for name, text in filters.items() if text is not None}
    numbers: dict[str, tuple[int, ...]] = {}
    for name in ("ipc", "seeds"):
        for text in lists.get(name, ()):
            if not text.isdecimal():
                raise UsageError(f"--{name}: {text!r} is not a whole number")
        numbers[name] = tuple(map(int, lists.get(name, ())))
    return Choice(lists.get("datasets", ()), lists.get("methods", ()), labels=lists.get("labels", ()), cell=cell, **numbers)


def export_sets(
    store: Store, out: Path, choice: Choice, forms: Sequence[str] = ("npz",), plugins: Sequence[str] = (), arguments: Sequence[str] = ()
) -> list[Path]:
    """Write each chosen set into a folder ``out``/<dataset>-<method>-seed<seed>/ipc<ipc>; returns the folders.

    forms: of FORMATS. plugins: files of the methods whose sets are not stored as clips. arguments: the command line, for the card. An
    earlier export of a set is replaced. Raises UsageError where nothing is chosen, StoreError where a set is missing or damaged.
    """
    for form in forms:
        if form not in FORMATS:
            raise UsageError(f"unknown format {form!r}{did_you_mean(form, FORMATS)}")
    results = load(store)
    chosen: dict[str, list[Row]] = {}
    for row in results.rows:
        if row.distill_key and row.status == "done" and choice.takes(row):
            chosen.setdefault(row.distill_key, []).append(row)
    if not chosen:
        made = sorted({row.method_label for row in results.rows if row.distill_key and row.status == "done"})
        raise UsageError(f"no set in {store.shown} is chosen by these filters; methods with a set: {', '.join(made) or 'none'}")
    registry, command = Registry(plugins), shlex.join(["python", "-m", "harness", *arguments]) if arguments else ""
    folders: dict[Path, str] = {}
    for key in chosen:
        record = results.records.get(key)
        if record is None:
            raise StoreError(f"the record of set {key[:12]} is missing in {store.shown}")
        made_set = read_set(store, record, registry, results)
        folder = out / _folder(record)
        if folder in folders:  # two sets of one name: made by other code, or on other data of the same name
            folder = folder.with_name(f"{folder.name}-{key[:8]}")
        folders[folder] = key
        _write(made_set, record, results, folder, forms, command)
    return list(folders)


def read_set(store: Store, record: Record, registry: Registry, results: Results) -> Distilled:
    """The clips and labels of a distillation. Raises StoreError where they are damaged, PluginError where its method is not at hand."""
    from harness.distilled import DistilledSet
    from harness.tasks.common import materialise

    assert isinstance(record.spec, DistillSpec)
    stored = DistilledSet.from_bytes(store.read_artifact(record, "distilled.safetensors"))
    clips = stored.clips
    if clips is None:
        clips = materialise(registry.revive("method", record.spec.method).create(), stored, record.spec.budget.clip_shape)
    data = results.records.get(record.inputs.get("data", ""))
    classes = tuple(data.arrays.classes or ()) if data else ()
    if not classes:
        raise StoreError(f"the class names of set {record.key[:12]} are missing: the record of its dataset is not in {store.shown}")
    return Distilled(clips, stored.labels, stored.soft_labels, classes)


def _folder(record: Record) -> Path:
    spec = record.spec
    assert isinstance(spec, DistillSpec)
    label = spec.method.label
    if spec.method.files:  # paths are long, and say nothing elsewhere
        label = str(spec.method.params.get("name") or spec.method.name)
    return Path(slug(f"{spec.dataset.label}-{label}-seed{spec.seed}")) / f"ipc{spec.budget.ipc}"


def _write(made: Distilled, record: Record, results: Results, folder: Path, forms: Sequence[str], command: str) -> None:
    """The folder of a set, whole or not at all; one that was exported before is replaced."""
    if folder.exists() and not (folder / "labels.csv").is_file():
        raise UsageError(f"{folder} exists and is no exported set: name another folder with --out")
    part = folder.with_name(f".{folder.name}.part")
    try:
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        files = {form: write_clips(made, part, form) for form in forms}
        (part / "labels.csv").write_text(_labels_csv(made, files), encoding="utf-8")
        (part / "dataset.py").write_text(dataset_source(made, forms), encoding="utf-8")
        (part / "README.md").write_text(_card(made, record, results, forms, command), encoding="utf-8")
        shutil.rmtree(folder, ignore_errors=True)
        part.rename(folder)
    except OSError as error:
        raise UsageError(f"cannot write to {folder}: {error.strerror or error}") from error


def _labels_csv(made: Distilled, files: dict[str, list[str]]) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["index", "label", "class", *files])
    for row, label in enumerate(made.labels.tolist()):
        writer.writerow([row, label, made.classes[label], *(names[row] for names in files.values())])
    return out.getvalue()


def _card(made: Distilled, record: Record, results: Results, forms: Sequence[str], command: str) -> str:
    spec, provenance, measured = record.spec, record.provenance, record.metrics
    assert isinstance(spec, DistillSpec)
    n, t, c, h, w = made.clips.shape
    sweep = next((s for s in results.sweeps if s.id == provenance.sweep), None)
    spent = record.phases.get("distill")
    facts = {
        "method": spec.method.label,
        "parameters": ", ".join(f"{k}={v}" for k, v in spec.method.params.items()) or "none",
        "dataset": f"{spec.dataset.label}, {spec.budget.classes} classes; its training split alone",
        "budget": f"IPC {spec.budget.ipc}, {spec.budget.frames:,} frames of {h}x{w}",
        "stored": f"{measured.get('frames_stored') or 0:,.0f} frames, {amount(measured.get('stored_bytes') or 0)}, "
        f"{percent(measured.get('frame_fraction'), 2)} % of the native training frames",
        "clips": f"{n} of {t}x{c}x{h}x{w} (T x C x H x W), {_values(made)}",
        "labels": "hard" if made.soft_labels is None else "hard, and soft ones of a teacher (logits)",
        "seed": str(spec.seed),
        "made in": f"{seconds(spent.seconds) if spent else 'unknown time'} on {provenance.device or 'an unknown device'}, assets apart",
    }
    lines = [f"# {spec.method.label} on {spec.dataset.label}, IPC {spec.budget.ipc}, seed {spec.seed}", ""]
    lines += [f"- {name}: {text}" for name, text in facts.items()]
    if n * t > spec.budget.frames:
        lines.append(
            f"- it is stored in another form, within its budget; as these {n} clips it would be charged for more than IPC {spec.budget.ipc}"
        )
    lines += ["", "## Accuracy of networks trained on it", "", *_accuracies(record, results)]
    lines += [
        "",
        "Top-1 on the test split after the last step, in %; ± is the sample standard deviation over n training seeds.",
        "",
        "## Reading it",
        "",
        "    from dataset import DistilledClips",
        "",
        "`dataset.py` stands alone: it needs torch and the library of its format. `labels.csv` names every clip's class.",
    ]
    if {"mp4", "gif"} & set(forms):
        lines.append("Videos are 8-bit pictures of the clips for looking at, compressed; npz and safetensors hold the set to the bit.")
    if {"npz", "safetensors"} & set(forms):
        lines.append("In the benchmark: `--methods 'stored[path=THIS_FOLDER]'`.")
    lines += ["", "## Licence", "", _licence(spec), "", "## Provenance", ""]
    lines += _provenance(record, sweep, command)
    return "\n".join(lines) + "\n"


def _values(made: Distilled) -> str:
    kind = str(made.clips.dtype).removeprefix("torch.")
    return f"{kind} in [0, 255]" if scale(made) == "bytes" else f"{kind}, [0, 1] is black to white (optimised pixels may leave it)"


def _accuracies(record: Record, results: Results) -> list[str]:
    """A table: each evaluator, protocol and label mode, on this set and on all sets of its method and budget."""
    on_it = [row for row in results.rows if row.distill_key == record.key and row.accuracy is not None]
    lines = ["| evaluator | protocol | labels | this set | all seeds of the method |", "|---|---|---|---|---|"]

    def cell(row: Row) -> tuple[object, ...]:
        return (row.dataset_label, row.clip_shape, row.method_label, row.ipc, row.labels, row.evaluator_label, row.protocol)

    for axes in dict.fromkeys(cell(row) for row in on_it):
        alike = [row for row in results.rows if cell(row) == axes and row.accuracy is not None]
        own, every = ([r.accuracy for r in rows if r.accuracy is not None] for rows in ([r for r in on_it if cell(r) == axes], alike))
        lines.append(f"| {axes[5]} | {axes[6]} | {axes[4]} | {_mean(own)} | {_mean(every)} |")
    return lines


def _mean(values: Sequence[float]) -> str:
    spread = f" ± {percent(stdev(values))}" if len(values) > 1 else ""
    return f"{percent(mean(values))}{spread} (n = {len(values)})"


def _licence(spec: DistillSpec) -> str:
    origin = LICENCES.get(spec.dataset.name, "see where its videos are from")
    return (
        f"The clips derive from the training split of {spec.dataset.label}: {origin}. Its terms hold for this set too; read them before "
        "you pass it on. This card grants no rights."
    )


def _provenance(record: Record, sweep: Sweep | None, command: str) -> list[str]:
    made = record.provenance
    lines = [f"- made by: `{sweep.command}`" if sweep else f"- made by sweep {made.sweep}", f"- made at: {made.ended_at}"]
    code = f"harness {made.harness}" + (f", commit {made.git}" if made.git else "") + (" with changes" if made.git_dirty else "")
    lines.append(f"- code: {code}, method {record.spec.codes().get(f'method {_method(record)}', '')}")
    versions = ", ".join(f"{name} {version}" for name, version in made.libraries.items())
    lines.append(f"- versions: Python {made.python}, {versions}")
    lines.append(f"- key: {record.key}")
    if command:
        lines.append(f"- exported by harness {__version__}: `{command}`")
    return lines


def _method(record: Record) -> str:
    assert isinstance(record.spec, DistillSpec)
    return record.spec.method.name
