"""Figures, made to be read in print: column width, colours that a colour-blind reader tells apart, a marker for each method."""

from __future__ import annotations

import functools
import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from harness.report.cells import FULL, RANDOM, CellResult, View, find, ipcs, merge_evaluators, methods
from harness.words import plural

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMN_INCHES, PAGE_INCHES = 3.4, 7.0
LEGEND_ROW_INCHES = 0.15
_LEAST_POINTS = 10.0
"""Percentage points that an accuracy axis spans at least, so that noise does not look like a difference."""
_MARKERS = "osD^vPX<>hp*"
_STYLE: Any = {
    "font.size": 8,
    "axes.labelsize": 8,
    "axes.titlesize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.linewidth": 0.4,
    "grid.color": "0.88",
    "lines.linewidth": 1.2,
    "lines.markersize": 4,
    "errorbar.capsize": 2,
    "pdf.fonttype": 42,
    "figure.dpi": 100,
}


@dataclass(frozen=True)
class Picture:
    """A drawn figure. name: file stem. caption: what the reader needs beside it."""

    name: str
    title: str
    caption: str
    figure: Figure

    @functools.cached_property
    def png(self) -> bytes:
        """The figure as a PNG file of 300 dpi; the same drawing gives the same bytes."""
        return _render(self.figure, "png", {"Software": None})

    @functools.cached_property
    def pdf(self) -> bytes:
        """The figure as a PDF file with embedded TrueType fonts; the same drawing gives the same bytes."""
        return _render(self.figure, "pdf", {"CreationDate": None})


Palette = Mapping[str, dict[str, Any]]
"""Method -> colour, marker and line style, as matplotlib takes them."""
P = ParamSpec("P")
T = TypeVar("T")


def _styled(draw: Callable[P, T]) -> Callable[P, T]:
    """Draw under the style of this module, without touching the caller's matplotlib settings."""

    @functools.wraps(draw)
    def styled(*args: P.args, **kwargs: P.kwargs) -> T:
        import matplotlib as mpl

        with mpl.rc_context(_STYLE):
            return draw(*args, **kwargs)

    return styled


def make_palette(labels: Sequence[str]) -> Palette:
    """The look of every method, the same in all figures of a report. Random is grey and dashed.

    Seven colours of seaborn's colour-blind palette that are dark enough for print; from the eighth method on the line style changes too.
    """
    import seaborn as sns

    every = sns.color_palette("colorblind", 10)
    colours = [every[i] for i in (0, 1, 2, 3, 4, 5, 9)]
    styles: list[Any] = ["-", (0, (4, 1.5)), (0, (1, 1))]
    palette: dict[str, dict[str, Any]] = {RANDOM: {"color": "0.45", "marker": "x", "linestyle": "--"}}
    for i, label in enumerate(label for label in labels if label not in (RANDOM, FULL)):
        style = styles[i // len(colours) % len(styles)]
        palette[label] = {"color": colours[i % len(colours)], "marker": _MARKERS[i % len(_MARKERS)], "linestyle": style}
    return palette


@_styled
def accuracy_figure(view: View, palette: Palette) -> Picture | None:
    """Accuracy against IPC, a panel for each evaluator. None where there is nothing to draw."""
    groups = {g: cells for g, cells in view.groups.items() if any(c.ipc is not None and c.mean is not None for c in cells)}
    if not groups:
        return None
    figure, panels = _panels(len(groups))
    for axes, (group, cells) in zip(panels, groups.items(), strict=True):
        _draw_accuracy(axes, cells, palette, view)
        axes.set_title(group.evaluator)
        axes.set_xlabel("instances per class (IPC)")
    lows, highs = zip(*(axes.get_ylim() for axes in panels), strict=True)
    spare = max(0.0, _LEAST_POINTS - (max(highs) - min(lows))) / 2
    for axes in panels:
        axes.set_ylim(max(0.0, min(lows) - spare), min(100.0, max(highs) + spare))
    for axes in panels[:: _per_row(len(groups))]:
        axes.set_ylabel("test accuracy (%)")
    _legend(figure, panels)
    seeds = sorted({cell.n for cells in groups.values() for cell in cells if cell.ipc is not None and cell.n})
    count = plural(seeds[0], "seed") if len(seeds) == 1 else f"{seeds[0]} to {seeds[-1]} seeds"
    return Picture(
        f"accuracy-{view.first.stem}",
        f"Accuracy against IPC: {view.title}",
        f"Mean top-1 test accuracy over {count}; bars are ± one sample standard deviation. Dotted: full training split. "
        "Thin dashed: chance. Points of one IPC are set apart a little so that their bars can be read.",
        figure,
    )


@_styled
def cost_figure(view: View, palette: Palette) -> Picture | None:
    """Peak memory and seconds of distillation against IPC. None where unmeasured."""
    group, cells = view.first, view.cells
    panels_wanted = [
        ("peak_gpu_mib", "peak GPU memory (MiB)"),
        ("peak_cpu_mib", "peak CPU memory (MiB)"),
        ("distill_seconds", "distillation (s)"),
    ]
    drawn = [panel for panel in panels_wanted if any(cell.values(panel[0]) for cell in cells if cell.ipc is not None)]
    if not drawn:
        return None
    figure, panels = _panels(len(drawn))
    for axes, (name, label) in zip(panels, drawn, strict=True):
        names = methods(cells)
        for i, method in enumerate(names):
            points = [(ipc, merge_evaluators(cells, method, ipc)) for ipc in ipcs(cells)]
            known = [
                (ipc * _apart(i, len(names)), value)
                for ipc, cell in points
                if cell is not None and (value := cell.aggregate(name)) is not None
            ]
            if known:
                axes.plot(*zip(*known, strict=True), **palette[method], label=view.say(method))
        if name == "peak_cpu_mib":
            baseline = [value for cell in cells for value in cell.values("baseline_cpu_mib")]
            if baseline:
                # The least over methods: assets that a method loads beforehand are its own.
                axes.axhline(min(baseline), color="0.3", linestyle=":", linewidth=0.9, label="process before distillation")
        axes.set_ylabel(label)
        axes.set_xlabel("instances per class (IPC)")
        _ipc_axis(axes, ipcs(cells))
        values = [value for cell in cells if cell.ipc is not None for value in cell.values(name)]
        if name == "distill_seconds" and 0 < 10 * min(values) < max(values):
            axes.set_yscale("log")
        else:
            axes.set_ylim(0, 1.08 * axes.get_ylim()[1])
    _legend(figure, panels)
    devices = sorted({row.device for cell in cells for row in cell.done if row.device})
    return Picture(
        f"cost-{group.dataset_stem}",
        f"Cost of distillation against IPC: {group.dataset} ({group.shape})",
        "Peak memory of the distillation phase (largest over seeds) and its seconds (mean over seeds), without shared assets. "
        f"Device: {', '.join(devices) or 'unknown'}.",
        figure,
    )


@_styled
def rank_figure(name: str, title: str, ranks: Mapping[str, float], difference: float, caption: str, words: Mapping[str, str]) -> Picture:
    """A critical-difference diagram: methods on the axis of mean rank, a bar over those that are not separable."""
    from matplotlib.figure import Figure

    order = sorted(ranks, key=lambda method: ranks[method])
    cliques = not_separable(order, ranks, difference)
    half = (len(order) + 1) // 2
    height = 0.5 + 0.17 * half + 0.09 * len(cliques)
    worst, top = len(order), 0.55 * len(cliques) + 0.6
    figure = Figure(figsize=(COLUMN_INCHES, height))
    axes = figure.add_axes((0.02, 0.02, 0.96, 0.96))
    axes.set_axis_off()
    axes.set_xlim(1 - 0.5 * (worst - 1), worst + 0.5 * (worst - 1))
    axes.set_ylim(-top - half, 1.6)
    axes.plot([1, worst], [0, 0], color="black", linewidth=0.8)
    for tick in range(1, worst + 1):
        axes.plot([tick, tick], [0, 0.25], color="black", linewidth=0.8)
        axes.text(tick, 0.45, str(tick), ha="center", va="bottom", fontsize=7)
    for i, method in enumerate(order):
        left = i < half
        level = -(top + (i if left else len(order) - 1 - i))
        edge = 1 - 0.08 * (worst - 1) if left else worst + 0.08 * (worst - 1)
        axes.plot([ranks[method], ranks[method], edge], [0, level, level], color="black", linewidth=0.6)
        axes.text(edge, level, f" {words.get(method, method)} ", ha="right" if left else "left", va="center", fontsize=7)
    for i, (low, high) in enumerate(cliques):
        y = -0.55 * (i + 0.8)
        axes.plot([low - 0.03, high + 0.03], [y, y], color="black", linewidth=2.4, solid_capstyle="butt")
    return Picture(name, title, caption, figure)


def not_separable(order: Sequence[str], ranks: Mapping[str, float], difference: float) -> list[tuple[float, float]]:
    """The maximal runs of methods within one critical difference, as (lowest, highest) mean rank; single methods make none.

    >>> not_separable(["a", "b", "c"], {"a": 1.0, "b": 1.8, "c": 2.9}, 1.2)
    [(1.0, 1.8), (1.8, 2.9)]
    """
    runs: list[tuple[int, int]] = []
    for start in range(len(order)):
        end = max(i for i in range(start, len(order)) if ranks[order[i]] - ranks[order[start]] <= difference)
        if end > start and not any(s <= start and end <= e for s, e in runs):
            runs.append((start, end))
    return [(ranks[order[s]], ranks[order[e]]) for s, e in runs]


def _draw_accuracy(axes: Axes, cells: Sequence[CellResult], palette: Palette, view: View) -> None:
    budgets, names = ipcs(cells), methods(cells)
    for i, method in enumerate(names):
        shift = _apart(i, len(names))
        found = [cell for cell in (find(cells, method, ipc) for ipc in budgets) if cell is not None and cell.mean is not None]
        if not found:
            continue
        xs = [(cell.ipc or 0) * shift for cell in found]
        means, bars = [100 * (cell.mean or 0.0) for cell in found], [100 * (cell.std or 0.0) for cell in found]
        axes.errorbar(xs, means, bars, **palette[method], elinewidth=0.8, label=view.say(method))
    full = find(cells, FULL, None)
    if full is not None and full.mean is not None:
        axes.axhline(100 * full.mean, color="black", linestyle=":", linewidth=1.0, label="full")
    chance = [1 / len(row.per_class_accuracy) for cell in cells for row in cell.done if row.per_class_accuracy]
    if chance:
        axes.axhline(100 * chance[0], color="0.6", linestyle=(0, (2, 3)), linewidth=0.7, label="chance")
    axes.margins(y=0.06)
    _ipc_axis(axes, budgets)


def _apart(i: int, count: int) -> float:
    """Factor by which the i-th of ``count`` methods is moved along the IPC axis, so that equal points do not hide each other."""
    step = min(0.035, 0.2 / max(1, count - 1))
    return math.exp(step * (i - (count - 1) / 2))


def _ipc_axis(axes: Axes, budgets: Sequence[int]) -> None:
    """IPC on a logarithmic axis that is ticked at the budgets themselves."""
    from matplotlib.ticker import FixedLocator, NullLocator

    axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator(list(budgets)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticklabels([str(ipc) for ipc in budgets])
    axes.set_xlim(budgets[0] / 1.25, budgets[-1] * 1.25)


def _panels(count: int) -> tuple[Figure, list[Axes]]:
    """A figure of ``count`` panels: one at column width, two or three in a row across the page."""
    from matplotlib.figure import Figure

    across, rows = _per_row(count), math.ceil(count / _per_row(count))
    width = COLUMN_INCHES if across == 1 else PAGE_INCHES
    figure = Figure(figsize=(width, rows * (2.5 if across < 3 else 2.1)), layout="constrained")
    return figure, [figure.add_subplot(rows, across, i + 1) for i in range(count)]


def _per_row(count: int) -> int:
    return min(count, 3) if count != 4 else 2


def _legend(figure: Figure, panels: Sequence[Axes]) -> None:
    """One legend for all panels, below them: each name once, the reference lines last. Its rows make the figure higher."""
    entries: dict[str, Any] = {}
    for axes in panels:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            entries.setdefault(label, handle)
    last = [name for name in ("full", "chance", "process before distillation") if name in entries]
    names = [name for name in entries if name not in last] + last
    longest = max(map(len, names))
    columns = max(1, min(len(names), int(figure.get_figwidth() / (0.075 * longest + 0.45))))
    figure.set_figheight(figure.get_figheight() + LEGEND_ROW_INCHES * (math.ceil(len(names) / columns) - 1))
    figure.legend([entries[n] for n in names], names, loc="outside lower center", ncols=columns, frameon=False, handlelength=2.2)


@_styled
def _render(figure: Figure, suffix: str, metadata: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format=suffix, dpi=300, metadata=metadata, bbox_inches="tight", pad_inches=0.03)
    return buffer.getvalue()
