"""Figures, made to be read in print: one column wide, in the serif of the field's papers, with colours that a colour-blind reader tells
apart and a marker for each method."""

from __future__ import annotations

import functools
import hashlib
import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from harness.names import natural_key
from harness.report.cells import FULL, RANDOM, CellResult, View, find, ipcs, merge_evaluators, methods
from harness.words import plural

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMN_INCHES = 3.25
LEGEND_ROW_INCHES = 0.15
_LEAST_POINTS = 10.0
"""Percentage points that an accuracy axis spans at least, so that noise does not look like a difference."""
COLOURS = ("#0173b2", "#de8f05", "#029e73", "#d55e00", "#cc78bc", "#ca9161", "#56b4e9")
"""Those of seaborn's colour-blind palette that are dark enough for print."""
_MARKERS = "osD^vPX<>hp*"
_STYLE: Any = {
    "font.family": "STIXGeneral",
    "mathtext.fontset": "stix",
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
    """The look of every method, the same in all figures. Random is grey and dashed; variants of one method share its colour.

    A name prefers a colour by its hash, whatever else is
    shown, and gives way only to a name before it that prefers the same; with more than seven methods colours repeat with other lines.
    labels: of all methods of the results folder, so that a selection keeps the colours.
    """
    styles: list[Any] = ["-", (0, (4, 1.5)), (0, (1, 1))]
    palette: dict[str, dict[str, Any]] = {RANDOM: {"color": "0.45", "marker": "x", "linestyle": "--"}}
    families: dict[str, tuple[int, int]] = {}  # colour and line style
    taken: set[tuple[int, int, int]] = set()
    for label in sorted({label for label in labels if label not in (RANDOM, FULL)}, key=natural_key):
        family, _, variant = label.partition("[")
        if family not in families:
            uses = [sum(colour == c for colour, _ in families.values()) for c in range(len(COLOURS))]
            chosen = next(c for c in _preferred(family, len(COLOURS)) if uses[c] == min(uses))
            families[family] = chosen, uses[chosen] % len(styles)
        colour, plain = families[family]
        looks = [divmod(i, len(styles)) for i in _preferred(label, len(_MARKERS) * len(styles))]
        fitting = [(marker, style) for marker, style in looks if (style != plain) == bool(variant)]
        marker, style = next((look for look in fitting if (colour, *look) not in taken), fitting[0])
        taken.add((colour, marker, style))
        palette[label] = {"color": COLOURS[colour], "marker": _MARKERS[marker], "linestyle": styles[style]}
    return palette


def _preferred(name: str, count: int) -> list[int]:
    """The numbers below ``count`` in an order that the name alone decides.

    >>> _preferred("gvd", 3) == _preferred("gvd", 3), sorted(_preferred("dm", 3))
    (True, [0, 1, 2])
    """
    return sorted(range(count), key=lambda i: hashlib.sha256(f"{name} {i}".encode()).digest())


@_styled
def accuracy_figure(view: View, palette: Palette) -> Picture | None:
    """Accuracy against IPC, a panel for each evaluator. None where there is nothing to draw."""
    groups = {g: cells for g, cells in view.groups.items() if any(c.ipc is not None and c.mean is not None for c in cells)}
    if not groups:
        return None
    figure, panels = _panels(len(groups))
    for axes, (group, cells) in zip(panels, groups.items(), strict=True):
        _draw_accuracy(axes, cells, palette, view)
        axes.set_title(view.say(group.evaluator))
    _below(panels, "instances per class (IPC)")
    lows, highs = zip(*(axes.get_ylim() for axes in panels), strict=True)
    spare = max(0.0, _LEAST_POINTS - (max(highs) - min(lows))) / 2
    for axes in panels:
        # A line at 100 % is drawn whole.
        axes.set_ylim(max(-1.0, min(lows) - spare), min(101.5, max(highs) + spare))
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
        ("peak_gpu_mib", "peak GPU (MiB)"),
        ("peak_cpu_mib", "peak CPU (MiB)"),
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
                    _draw_before(axes, view, method, _apart(i, len(names)), palette[method]["color"])
        axes.set_ylabel(label)
        _ipc_axis(axes, ipcs(cells))
        values = [value for cell in cells if cell.ipc is not None for value in cell.values(name)]
        if name == "distill_seconds" and 0 < 10 * min(values) < max(values):
            axes.set_yscale("log")
        else:
            axes.set_ylim(0, 1.08 * axes.get_ylim()[1])
    _below(panels, "instances per class (IPC)")
    _legend(figure, panels)
    devices = sorted({row.device for cell in cells for row in cell.done if row.device})
    return Picture(
        f"cost-{group.dataset_stem}",
        f"Cost of distillation against IPC: {group.dataset} ({group.shape})",
        "Peak memory of the distillation phase (largest over seeds) and its seconds (mean over seeds), without "
        "shared assets. The foot of a "
        "stem is the memory of the method's own process before it distilled. "
        f"Device: {', '.join(devices) or 'unknown'}.",
        figure,
    )


def _draw_before(axes: Axes, view: View, method: str, shift: float, colour: Any) -> None:
    """A stem from what the process of this method held before the distillation to its peak, at each IPC."""
    for ipc in ipcs(view.cells):
        cell = merge_evaluators(view.cells, method, ipc)
        before, peak = (None, None) if cell is None else (cell.aggregate("baseline_cpu_mib"), cell.aggregate("peak_cpu_mib"))
        if before is not None and peak is not None:
            axes.plot([ipc * shift] * 2, [before, peak], color=colour, linewidth=0.8, alpha=0.7, zorder=1)
            axes.plot([ipc * shift], [before], color=colour, marker="_", markersize=5, linestyle="none", zorder=1)


@_styled
def rank_figure(name: str, title: str, ranks: Mapping[str, float], difference: float, caption: str, words: Mapping[str, str]) -> Picture:
    """A critical-difference diagram: methods on the axis of mean rank, a bar over those that are not separable."""
    from matplotlib.figure import Figure

    order = sorted(ranks, key=lambda method: ranks[method])
    cliques = not_separable(order, ranks, difference)
    half = (len(order) + 1) // 2
    worst, top = len(order), 0.55 * len(cliques) + 0.6
    said = {method: words.get(method, method) for method in order}
    # Room for the names on both sides, at most a third of the figure each; a longer name is set smaller.
    left, right = (min(0.33 * COLUMN_INCHES, 0.1 + 0.055 * max(len(said[m]) for m in part)) for part in (order[:half], order[half:]))
    scale = (worst - 1) / (COLUMN_INCHES - left - right)  # ranks in an inch
    figure = Figure(figsize=(COLUMN_INCHES, 0.75 + 0.17 * half + 0.09 * len(cliques)))
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.set_axis_off()
    axes.set_xlim(1 - left * scale, worst + right * scale)
    axes.set_ylim(-top - half, 4.1)
    axes.plot([1, worst], [0, 0], color="black", linewidth=0.8)
    for tick in range(1, worst + 1):
        axes.plot([tick, tick], [0, 0.25], color="black", linewidth=0.8)
        axes.text(tick, 0.4, str(tick), ha="center", va="bottom", fontsize=7)
    axes.text((1 + worst) / 2, 1.35, "mean rank (1 is best)", ha="center", va="bottom", fontsize=7)
    axes.plot([1, 1 + difference], [2.75, 2.75], color="black", linewidth=1.0, marker="|", markersize=5)
    axes.text(1, 3.05, f"critical difference {difference:.2f}", ha="left", va="bottom", fontsize=7)
    for i, method in enumerate(order):
        first = i < half
        level = -(top + (i if first else len(order) - 1 - i))
        edge = 1 - 0.04 * scale if first else worst + 0.04 * scale
        axes.plot([ranks[method], ranks[method], edge], [0, level, level], color="black", linewidth=0.6)
        size = min(7.0, 72 * (left if first else right) / (0.5 * len(said[method]) + 1))
        axes.text(edge, level, f" {said[method]} ", ha="right" if first else "left", va="center", fontsize=size)
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
        axes.axhline(100 * full.mean, color="black", linestyle=":", linewidth=1.0, label=view.names.get(FULL, "full"))
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
    """A figure of ``count`` panels, one column wide: one panel, or two in each row."""
    from matplotlib.figure import Figure

    across = _per_row(count)
    rows = math.ceil(count / across)
    figure = Figure(figsize=(COLUMN_INCHES, rows * (2.4 if across == 1 else 1.9)), layout="constrained")
    return figure, [figure.add_subplot(rows, across, i + 1) for i in range(count)]


def _per_row(count: int) -> int:
    return min(count, 2)


def _below(panels: Sequence[Axes], label: str) -> None:
    """The label of the horizontal axis, under the lowest panel of each column."""
    for axes in panels[-_per_row(len(panels)) :]:
        axes.set_xlabel(label if len(panels) == 1 else label.partition("(")[2].rstrip(")") or label)


def _legend(figure: Figure, panels: Sequence[Axes]) -> None:
    """One legend for all panels, below them: each name once, the reference lines last. Its rows make the figure higher."""
    entries: dict[str, Any] = {}
    for axes in panels:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            entries.setdefault(label, handle)
    last = [name for name in ("full", "chance") if name in entries]
    names = [name for name in entries if name not in last] + last
    longest = max(map(len, names))
    columns = max(1, min(len(names), int(figure.get_figwidth() / (0.048 * longest + 0.42))))
    figure.set_figheight(figure.get_figheight() + LEGEND_ROW_INCHES * (math.ceil(len(names) / columns) - 1))
    figure.legend([entries[n] for n in names], names, loc="outside lower center", ncols=columns, frameon=False, handlelength=2.2)


@_styled
def _render(figure: Figure, suffix: str, metadata: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format=suffix, dpi=300, metadata=metadata)
    return buffer.getvalue()
