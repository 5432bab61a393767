"""Verbs and options. No logic: each verb reads its options, calls one module, and turns errors into exit codes.

Exit codes: 0 all done, 1 some cell failed or something is damaged, 2 usage, 130 interrupted. torch, ray, mlflow and matplotlib are
imported only by the verbs that need them.
"""

from __future__ import annotations

import functools
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from harness import __version__, stopping
from harness.errors import HarnessError, UsageError
from harness.text import printable, redacted

if TYPE_CHECKING:
    from harness.data.cache import ClipCache
    from harness.plugin import DatasetPlugin
    from harness.session import Session


class _Verb(click.Command):
    """A verb whose HarnessErrors become one sentence and an exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (Exception, KeyboardInterrupt) as error:
            # An import that a signal cuts short may raise anything.
            if stopping.asked or isinstance(error, KeyboardInterrupt):
                sys.exit(stopping.stopped_early())
            if not isinstance(error, HarnessError):
                raise
            click.echo(f"error: {printable(redacted(str(error)))}", err=True)
            sys.exit(2 if isinstance(error, UsageError) else 1)


class _Verbs(click.Group):
    command_class = _Verb


@click.group(cls=_Verbs, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="harness")
def main() -> None:
    """Run video dataset distillation methods side by side under the same budgets.

    \b
    python -m harness run --methods gvd,random --ipc 1,5,10
    python -m harness report
    python -m harness ui
    """


_results = click.option("--results", metavar="DIR|URL", help="Results folder or fsspec URL. [default: [run].results of bench.toml]")
_config = click.option("--config", "overlay", metavar="FILE", help="A TOML file laid over bench.toml.")
_set = click.option("--set", "assignments", multiple=True, metavar="SECTION.KEY=VALUE", help="Override one key of bench.toml; repeatable.")
_plugin = click.option("--plugin", "plugins", multiple=True, metavar="PATH", help="A Python file with plugins; repeatable.")


@main.command()
@click.option("--dataset", metavar="NAME", help="Dataset plugin, see `list datasets`.")
@click.option("--data-root", metavar="DIR", help="Folder of a dataset that is read from disk.")
@click.option("--methods", metavar="LIST", help="Methods, such as 'gvd[guidance=0.2,compose=2],random'; wildcards work.")
@click.option("--ipc", metavar="LIST", help="Instances per class, such as 1,5,10.")
@click.option("--evaluators", metavar="LIST", help="Evaluator networks.")
@click.option("--seeds", metavar="N|LIST", help="A number of seeds (3 is 0,1,2) or a list with a comma (5, is seed 5 alone).")
@click.option("--labels", metavar="LIST", help="native (as the method makes them), hard, soft (relabelled by the teacher).")
@click.option("--protocol", metavar="NAME", help="Training recipe, a section of [protocols].")
@click.option("--teacher", metavar="NAME", help="Evaluator of the teacher that labels and judges; same: each evaluator's own.")
@_results
@click.option("--executor", type=click.Choice(["ray", "inline"]), help="ray: parallel, also on a cluster; inline: this process.")
@click.option("--workers", type=click.IntRange(0), help="Tasks at a time; 0: as many as the CPUs or GPUs allow.")
@click.option("--timeout", type=click.FloatRange(0, min_open=True), help="Seconds that one task may go without getting further.")
@click.option(
    "--rerun",
    type=click.Choice(["none", "failed", "all"]),
    help="What runs again: only what has no record, all that is not done, all.",
)
@click.option("--stale", type=click.Choice(["rerun", "keep"]), help="What other code made: run it again, or keep it; the report marks it.")
@click.option("--quality/--no-quality", default=None, help="Look at every set through the teacher, or not.")
@click.option("--track/--no-track", default=None, help="Mirror to MLflow, or not.")
@click.option("--predictions", type=click.Choice(["none", "classes", "logits"]), help="What every evaluation keeps, for your own metrics.")
@click.option("--asset-seeds", type=click.Choice(["one", "run"]), help="Teachers and backbones: one for all seeds, or one for each.")
@click.option("--reference/--no-reference", default=None, help="Add `full`, so that relative accuracy is known, or not.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), help="Where to compute.")
@_plugin
@_config
@_set
@click.option("--dry-run", is_flag=True, help="Print the task graph and what each cell resolves to; run nothing.")
def run(assignments: tuple[str, ...], overlay: str | None, plugins: tuple[str, ...], dry_run: bool, **options: Any) -> None:
    """Run methods over budgets, evaluators and seeds; only what is missing is done. Defaults stand in bench.toml."""
    from harness.terminal import run_session

    sys.exit(run_session(_session(overlay, assignments, {**options, "plugins": list(plugins) or None}), sys.argv[1:], dry_run))


@main.command()
@click.option("--dataset", metavar="NAME", help="Dataset plugin, see `list datasets`.")
@click.option("--data-root", metavar="DIR", help="Folder of a dataset that is read from disk.")
@click.option("--methods", metavar="LIST", help="Methods, without parameters; wildcards work.")
@click.option("--trials", type=click.IntRange(1), help="Settings of each method; its defaults are the first.")
@click.option("--seconds", type=click.FloatRange(0), help="Seconds that all trials of a method may take; 0: no limit.")
@click.option("--ipc", metavar="LIST", help="Instances per class at which settings are tried.")
@click.option("--seeds", type=click.IntRange(1), help="Seeds of each trial.")
@click.option("--confirm", type=click.IntRange(2), help="Fresh seeds of the defaults and the best setting.")
@click.option("--search", type=click.Choice(["random", "optuna"]), help="random, or optuna (TPE; with the ray executor).")
@click.option("--scheduler", type=click.Choice(["none", "asha"]), help="asha: stop what is behind after a seed (with the ray executor).")
@click.option("--evaluators", metavar="LIST", help="Evaluator networks; the score is the mean over them.")
@click.option("--labels", metavar="LIST", help="native, hard, soft.")
@click.option("--protocol", metavar="NAME", help="Training recipe, a section of [protocols].")
@click.option("--teacher", metavar="NAME", help="Evaluator of the teacher.")
@_results
@click.option("--executor", type=click.Choice(["ray", "inline"]), help="ray: trials side by side by Ray Tune; inline: this process.")
@click.option("--workers", type=click.IntRange(0), help="Trials at a time; 0: as many as the CPUs or GPUs allow.")
@click.option("--timeout", type=click.FloatRange(0, min_open=True), help="Seconds that one task may go without getting further.")
@click.option("--track/--no-track", default=None, help="Write the trials to MLflow, or not.")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), help="Where to compute.")
@_plugin
@_config
@_set
def tune(assignments: tuple[str, ...], overlay: str | None, plugins: tuple[str, ...], **options: Any) -> None:
    """Search method parameters with the same trials for every method, on held-out training clips; the test split is not touched.

    Writes presets that `run --config` reads. The same command goes on where it was. Defaults stand in [tune] of bench.toml.
    """
    from harness.config import read_options
    from harness.tune_terminal import tune_methods

    names = ("trials", "seconds", "ipc", "seeds", "confirm", "search", "scheduler")
    own = read_options({"ipc": options.pop("ipc"), **{name: options.pop(name) for name in names if name != "ipc"}})
    assignments += tuple(f"tune.{name}={value}" for name, value in own.items())
    sys.exit(tune_methods(_session(overlay, assignments, {**options, "plugins": list(plugins) or None}).config))


@main.command("list")
@click.argument("kind", type=click.Choice(["methods", "evaluators", "datasets", "assets", "metrics", "protocols"]), required=False)
@click.option("--long", is_flag=True, help="Show every parameter: default, what `tune` tries, what bench.toml sets.")
@click.option("--cost", is_flag=True, help="Show parameters, multiply-adds and clip shapes of evaluators (imports torch).")
@_plugin
@_config
@_set
def list_(kind: str | None, long: bool, cost: bool, plugins: tuple[str, ...], overlay: str | None, assignments: tuple[str, ...]) -> None:
    """List methods, evaluators, datasets, assets, metrics of predictions and protocols. Imports none of them."""
    from harness.config import load_config
    from harness.listing import KINDS, plugin_lines, protocol_lines
    from harness.registry import Registry

    registry, config = Registry(plugins), load_config(overlay, assignments)
    for plural in [kind] if kind else KINDS:
        click.secho(plural, bold=True)
        if plural == "protocols":
            for line in protocol_lines(config, long):
                click.echo(line)
            continue
        for line, available in plugin_lines(registry, config, plural[:-1], long, cost):
            click.secho(line, fg=None if available else "yellow")


@main.command()
@_results
@_config
@_set
def status(results: str | None, overlay: str | None, assignments: tuple[str, ...]) -> None:
    """Say what the results folder holds: sweeps, records by status, what runs now."""
    from harness.status import describe_store

    click.echo(printable(describe_store(_session(overlay, assignments, {"results": results}).config.run.results)))


@main.command()
@_results
@click.option("--out", metavar="DIR", help="Where to write. [default: report/ in the results folder; of a URL, report/ here]")
@click.option("--dataset", "datasets", multiple=True, metavar="LIST", help="Only these datasets; repeatable.")
@click.option("--methods", metavar="LIST", help="Only these methods, such as 'gvd,gvd[guidance=0],random'; `full` always stays.")
@click.option("--evaluators", metavar="LIST", help="Only these evaluators; the first is the one that the drop is told from.")
@click.option("--protocol", metavar="LIST", help="Only these protocols.")
@click.option("--labels", metavar="LIST", help="Only these label modes.")
@click.option("--ipc", metavar="LIST", help="Only these IPC.")
@click.option("--only", metavar="LIST", help="Only these tables and figures, such as main,cross,cost; a wrong name lists them.")
@click.option("--order", metavar="LIST", help="Methods that come first, in this order.")
@click.option("--names", multiple=True, metavar="LABEL=NAME", help="What to call a method, evaluator or dataset; repeatable.")
@click.option("--digits", type=click.IntRange(0, 4), default=1, show_default=True, help="Decimals of accuracies in %.")
@click.option("--columns", metavar="LIST", help="Metrics of the tables of metrics, in this order, such as peak_gpu_mib,distill_seconds.")
@click.option("--published", multiple=True, metavar="FILE", help="Published numbers, as in results/published.toml; repeatable.")
@click.option("--metrics", metavar="LIST", help="Metrics of stored predictions, such as f1,confusion. [default: those of --plugin]")
@_plugin
@_config
@_set
def report(
    results: str | None,
    out: str | None,
    metrics: str | None,
    plugins: tuple[str, ...],
    overlay: str | None,
    assignments: tuple[str, ...],
    **options: Any,
) -> None:
    """Write tables (Markdown, LaTeX, CSV), figures (PDF, PNG), a page and a paper.tex from the records alone."""
    from harness.report import build_report
    from harness.report.choice import read_choice
    from harness.report.measured import read_metrics
    from harness.staleness import Staleness

    config = _session(overlay, assignments, {"results": results}).config
    root = config.run.results
    # A page is looked at in a browser: that of a URL is written here.
    target = Path(out) if out else Path("report") if "://" in root else Path(root) / "report"
    measures, choice = read_metrics(plugins, metrics), read_choice(**options)
    files = build_report(root, target, choice=choice, words=config.words, judge=Staleness().stale_cells, measures=measures)
    click.echo(f"{files[0]}\n{len(files)} files in {target}: index.html, paper.tex, report.md, cells.csv, tables/, figures/")


@main.command()
@_results
@click.option("--port", type=click.IntRange(1, 65535), default=5000, show_default=True, help="Port on 127.0.0.1.")
@_config
@_set
def ui(results: str | None, port: int, overlay: str | None, assignments: tuple[str, ...]) -> None:
    """Serve the MLflow mirror on 127.0.0.1 and print the addresses of cells, comparison and report; of a shared server, print them."""
    from harness.tracking import serve_ui

    serve_ui(_session(overlay, assignments, {"results": results}).config.run.results, port=port, announce=click.echo)


@main.command()
@_results
@click.option("--rebuild", is_flag=True, help="Recreate the mirror from the records.")
@_config
@_set
def track(results: str | None, rebuild: bool, overlay: str | None, assignments: tuple[str, ...]) -> None:
    """Bring the MLflow mirror up to date with the records, also those of runs with --no-track."""
    from harness.store import Store
    from harness.tracking import rebuild_mirror

    store = Store(_session(overlay, assignments, {"results": results}).config.run.results)
    click.echo(rebuild_mirror(store, fresh=rebuild))


@main.command()
@_results
@_plugin
@click.option("--small", multiple=True, metavar="SPEC", help="With --plugin: 'name[key=value]', what makes a plugin quick; repeatable.")
@click.option("--data-root", type=click.Path(path_type=Path), help="With --plugin: folder of a dataset that is read from disk.")
@_config
@_set
def check(
    results: str | None,
    plugins: tuple[str, ...],
    small: tuple[str, ...],
    data_root: Path | None,
    overlay: str | None,
    assignments: tuple[str, ...],
) -> None:
    """Verify every record and artifact against its checksum; with --plugin, hold its plugins to the contract on a tiny dataset.

    Exit 1 with a list of what is damaged, missing or broken.
    """
    if plugins:
        from harness.terminal import check_plugins

        sys.exit(check_plugins(plugins, small, data_root))
    from harness.status import check_store

    problems, summary = check_store(_session(overlay, assignments, {"results": results}).config.run.results)
    for problem in problems:
        click.echo(printable(problem))
    click.echo(summary)
    sys.exit(1 if problems else 0)


@main.command()
@click.option("--out", required=True, metavar="DIR", help="Where to write; a folder for each set.")
@click.option("--dataset", "datasets", metavar="LIST", help="Only these datasets.")
@click.option("--methods", metavar="LIST", help="Only these methods: names, labels with their brackets, or wildcards.")
@click.option("--ipc", metavar="LIST", help="Only these instances per class.")
@click.option("--labels", metavar="LIST", help="Only sets of cells with these labels.")
@click.option("--seeds", metavar="LIST", help="Only these seeds: 0,1 (3 is seed 3).")
@click.option("--cell", metavar="KEY", default="", help="Only the set of this cell: the beginning of its key.")
@click.option("--format", "forms", metavar="LIST", default="npz", show_default=True, help="npz, safetensors, mp4, gif.")
@_results
@_plugin
@_config
@_set
def export(
    out: str,
    cell: str,
    forms: str,
    results: str | None,
    plugins: tuple[str, ...],
    overlay: str | None,
    assignments: tuple[str, ...],
    **filters: str | None,
) -> None:
    """Write distilled sets as folders that need no harness: clips, labels.csv, a card, and a PyTorch Dataset that reads them."""
    from harness.export import export_sets, read_choice
    from harness.names import parse_list

    store = _session(overlay, assignments, {"results": results}).store
    for folder in export_sets(store, Path(out), read_choice(cell, filters), parse_list(forms, "formats"), plugins, sys.argv[1:]):
        click.echo(folder)


@main.command("import")
@click.argument("source", metavar="SOURCE")
@_results
@_config
@_set
def import_(source: str, results: str | None, overlay: str | None, assignments: tuple[str, ...]) -> None:
    """Take the records of another results folder (or URL) into this one: checked, without duplicates; what is better here stays.

    Exit 1 with a list of what is damaged. `track` brings the MLflow mirror up to date.
    """
    from harness.merge import import_results
    from harness.store import Store

    done = import_results(Store(source), _session(overlay, assignments, {"results": results}).store)
    for line in done.refused:
        click.echo(line)
    click.echo(str(done))
    sys.exit(1 if done.refused else 0)


@main.command()
@click.argument("folders", nargs=-1, metavar="A [B]")
@click.option("--methods", metavar="X,Y", help="With one folder: two of its methods, Y against X.")
@click.option("--since", metavar="DATE", help="With one folder: what was made since (ISO 8601, UTC), against what was made before.")
@click.option("--by-code", is_flag=True, help="With one folder: what the newest code made, against the same cells by the code before.")
@click.option("--format", "form", type=click.Choice(["terminal", "md", "csv"]), default="terminal", show_default=True)
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Write it into a file.")
@click.option(
    "--fail-on-regression",
    "limit",
    type=click.FloatRange(0),
    is_flag=False,
    flag_value=0.0,
    metavar="[POINTS]",
    help="Exit 1 where B is significantly worse (Holm, 5 %), pooled or in a cell, by more than so many points; comes last, or with =.",
)
def compare(
    folders: tuple[str, ...], methods: str | None, since: str | None, by_code: bool, form: str, out: Path | None, limit: float | None
) -> None:
    """Compare two results folders, two methods of one, or one before and since a date or a change of code: differences, intervals, ties,
    what is missing."""
    from harness.terminal import show_comparison

    sys.exit(show_comparison(folders, methods, since, by_code, form, out, limit))


@main.command()
@click.argument("key", metavar="KEY")
@click.option("--scratch", metavar="DIR", help="Where it is made again, an empty folder. [default: rerun/KEY in the results folder]")
@click.option("--data-root", metavar="DIR", default="", help="Folder of a dataset that is read from disk, where it has moved.")
@_results
@_plugin
@_config
@_set
def rerun(
    key: str,
    scratch: str | None,
    data_root: str,
    results: str | None,
    plugins: tuple[str, ...],
    overlay: str | None,
    assignments: tuple[str, ...],
) -> None:
    """Do one cell again by the beginning of its key (cells.csv), alone, and say whether its metrics are equal to the digit, and if not why.

    Exit 1 where they differ.
    """
    from harness.rerun import rerun_in_scratch

    try:
        verdict, folder = rerun_in_scratch(_session(overlay, assignments, {"results": results}).store, key, scratch, plugins, data_root)
    except KeyboardInterrupt:
        sys.exit(130)
    for line in [*verdict.lines(), f"made again in {folder}"]:
        click.echo(line)
    sys.exit(0 if verdict.equal else 1)


@main.group(cls=_Verbs)
def data() -> None:
    """Prepare, verify and look at a dataset. `run` prepares by itself what it needs."""


_dataset_options = [
    click.option("--dataset", metavar="NAME", help="Dataset plugin, see `list datasets`; takes parameters: 'ucf101[split=2]'."),
    click.option("--data-root", metavar="DIR", help="Folder of a dataset that is read from disk."),
    _results,
    _plugin,
    _config,
    _set,
]


def _data_verb(function: Any) -> Any:
    """A verb of `data`: the options that name a dataset, then (plugin, cache) in their place; with --share the clips go to the results."""

    @functools.wraps(function)
    def verb(overlay: str | None, assignments: tuple[str, ...], **options: Any) -> None:
        named = {name: options.pop(name) for name in ("dataset", "data_root", "results")}
        session = _session(overlay, assignments, {**named, "plugins": list(options.pop("plugins")) or None})
        shares = options.pop("shares", False)
        function(session.dataset, session.cache, **options)
        if shares:
            from harness.data.source import share

            share(session.cache, session.store)

    for option in reversed(_dataset_options):
        verb = option(verb)
    return data.command()(verb)


@_data_verb
@click.option("--workers", type=click.IntRange(1), help="Videos decoded at a time. [default: the CPUs]")
@click.option("--share", "shares", is_flag=True, help="Put the clips with the results, for nodes of a cluster that have no videos.")
def prepare(plugin: DatasetPlugin, cache: ClipCache, workers: int | None) -> None:
    """Decode, resize and cache what is missing; an interrupted attempt goes on where it was."""
    from harness.data.facts import dataset_facts
    from harness.progress import clip_progress

    if not cache.is_prepared():
        with clip_progress(f"decoding {cache.info.name}") as progress:
            cache.open(plugin, workers=workers or os.cpu_count() or 1, progress=progress)
    for name, value in dataset_facts(cache):
        click.echo(f"{name:<22}{value}")


@_data_verb
def verify(plugin: DatasetPlugin, cache: ClipCache) -> None:
    """Check lists, files and the cache's checksums; exit 1 with a list of what is missing, broken or left out."""
    from harness.data.facts import verify_dataset
    from harness.progress import clip_progress

    with clip_progress(f"checking {cache.info.name}") as progress:
        problems, summary = verify_dataset(plugin, cache, progress)
    for problem in problems:
        click.echo(problem)
    click.echo(summary)
    sys.exit(1 if problems else 0)


@_data_verb
def info(plugin: DatasetPlugin, cache: ClipCache) -> None:
    """Say what a dataset is: classes, clips, native frames, size, digest."""
    from harness.data.facts import dataset_facts

    for name, value in dataset_facts(cache):
        click.echo(f"{name:<22}{value}")


@_data_verb
@click.option("--out", metavar="DIR", help="Where to write. [default: previews/ beside the cache]")
@click.option("--clips", type=click.IntRange(1), default=8, show_default=True, help="Clips of each class.")
@click.option("--class", "classes", multiple=True, metavar="NAME", help="Only this class; repeatable.")
def preview(plugin: DatasetPlugin, cache: ClipCache, out: str | None, clips: int, classes: tuple[str, ...]) -> None:
    """Write a contact sheet per class (PNG): a clip in each row."""
    from harness.data.facts import write_previews
    from harness.progress import clip_progress

    with clip_progress(f"decoding {cache.info.name}") as progress:
        cache.open(plugin, workers=os.cpu_count() or 1, progress=progress)
    target = Path(out) if out else cache.root.parent / "previews" / cache.info.name
    for path in write_previews(cache, target, clips, classes):
        click.echo(path)


def _session(overlay: str | None, assignments: tuple[str, ...], options: dict[str, Any]) -> Session:
    from harness.session import Session

    return Session.open(overlay, set=assignments, **options)
