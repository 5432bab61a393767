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
@click.option("--timeout", type=click.FloatRange(0, min_open=True), help="Seconds that one task may take.")
@click.option(
    "--rerun",
    type=click.Choice(["none", "failed", "all"]),
    help="What runs again: only what has no record, all that is not done, all.",
)
@click.option("--stale", type=click.Choice(["rerun", "keep"]), help="What other code made: run it again, or keep it; the report marks it.")
@click.option("--quality/--no-quality", default=None, help="Look at every set through the teacher, or not.")
@click.option("--track/--no-track", default=None, help="Mirror to MLflow, or not.")
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


@main.command("list")
@click.argument("kind", type=click.Choice(["methods", "evaluators", "datasets", "assets", "protocols"]), required=False)
@click.option("--long", is_flag=True, help="Show every parameter with its default.")
@click.option("--cost", is_flag=True, help="Show parameters, multiply-adds and clip shapes of evaluators (imports torch).")
@_plugin
@_config
@_set
def list_(kind: str | None, long: bool, cost: bool, plugins: tuple[str, ...], overlay: str | None, assignments: tuple[str, ...]) -> None:
    """List methods, evaluators, datasets, assets and protocols. Imports none of them."""
    from harness.registry import Registry

    registry = Registry(plugins)
    for plural in [kind] if kind else ["methods", "evaluators", "datasets", "assets", "protocols"]:
        click.secho(plural, bold=True)
        if plural == "protocols":
            _list_protocols(overlay, assignments, long)
            continue
        width = max((len(i.name) for i in registry.infos(plural[:-1])), default=0)
        for info in registry.infos(plural[:-1]):
            if info.error:
                click.secho(f"  {info.name:<{width}}  unavailable: {info.error} ({info.origin})", fg="yellow")
                continue
            click.echo(f"  {info.name:<{width}}  {info.summary}")
            if cost and plural == "evaluators":
                from harness.complexity import describe_cost

                for line in describe_cost(registry, info.name):
                    click.echo(f"  {'':<{width}}    {line}")
            for param in info.params if long else ():
                click.echo(f"  {'':<{width}}    {param.name}: {param.type} = {param.default}   {param.doc}")


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
@click.option("--out", metavar="DIR", help="Where to write. [default: report/ in the results folder]")
@click.option("--dataset", "datasets", multiple=True, metavar="NAME", help="Only this dataset; repeatable.")
@_config
@_set
def report(results: str | None, out: str | None, datasets: tuple[str, ...], overlay: str | None, assignments: tuple[str, ...]) -> None:
    """Write tables (Markdown, LaTeX, CSV), figures (PDF, PNG) and a page from the records alone."""
    from harness.report import build_report
    from harness.staleness import Staleness

    config = _session(overlay, assignments, {"results": results}).config
    root = config.run.results
    target = Path(out) if out else Path(root) / "report"
    files = build_report(root, target, datasets=list(datasets) or None, words=config.words, judge=Staleness().stale_cells)
    click.echo(f"{files[0]}\n{len(files)} files in {target}: index.html, report.md, cells.csv, tables/, figures/")


@main.command()
@_results
@click.option("--port", type=click.IntRange(1, 65535), default=5000, show_default=True, help="Port on 127.0.0.1.")
@_config
@_set
def ui(results: str | None, port: int, overlay: str | None, assignments: tuple[str, ...]) -> None:
    """Open the MLflow comparison UI of the results folder on 127.0.0.1."""
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
    """A verb of `data`: the options that name a dataset, then (plugin, cache) in their place."""

    @functools.wraps(function)
    def verb(overlay: str | None, assignments: tuple[str, ...], **options: Any) -> None:
        named = {name: options.pop(name) for name in ("dataset", "data_root", "results")}
        session = _session(overlay, assignments, {**named, "plugins": list(options.pop("plugins")) or None})
        function(session.dataset, session.cache, **options)

    for option in reversed(_dataset_options):
        verb = option(verb)
    return data.command()(verb)


@_data_verb
@click.option("--workers", type=click.IntRange(1), help="Videos decoded at a time. [default: the CPUs]")
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


def _list_protocols(overlay: str | None, assignments: tuple[str, ...], long: bool) -> None:
    from harness.config import load_config

    protocols = load_config(overlay, assignments).protocols
    width = max((len(n) for n in protocols), default=0)
    for name, section in protocols.items():
        recipe = section.train
        told = f"{recipe.optimizer} lr {recipe.lr:g}, {recipe.epochs} epochs, batch {recipe.batch}, schedule {recipe.schedule}"
        click.echo(f"  {name:<{width}}  {told}")
        if long:
            for key, value in recipe.model_dump().items():
                click.echo(f"  {'':<{width}}    {key} = {value}")
