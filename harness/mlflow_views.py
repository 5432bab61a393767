"""What MLflow's interface opens with: a table of cells with the columns that matter, and charts that compare the cells of a sweep. Pure.

The interface takes its state (filter, columns, charts) from a tag of the experiment whose name the address holds; the button "Share" makes
such tags too. Names and values are those of MLflow 3.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from urllib.parse import urlencode

TAG = "mlflow.sharedViewState."
"""Name of the tag that holds a view, before the view's own name."""
RUNS = 100
"""Runs that MLflow loads at once, and that a chart can show."""
_SECTION = "cells"
_COLUMNS = (
    *(f"params.`{name}`" for name in ("method", "ipc", "labels", "evaluator", "seed")),
    *(f"metrics.`{name}`" for name in ("accuracy", "frame_fraction", "peak_cpu_mib", "peak_gpu_mib")),
)
_WIDTHS = {
    "attributes.`Run Name`": 165, "runDateAndNestInfo": 60, "params.`method`": 105, "params.`ipc`": 40, "params.`labels`": 55,
    "params.`evaluator`": 125, "params.`seed`": 45, "metrics.`accuracy`": 80, "metrics.`frame_fraction`": 100,
    "metrics.`peak_cpu_mib`": 100, "metrics.`peak_gpu_mib`": 100,
}  # fmt: skip
"""Pixels, in the order of the columns: all of them stand in a window of 1600, beside MLflow's own side panels."""


def table_view() -> str:
    """Every cell in a row, by name, so that cells of a method stand together; sweeps are left out."""
    return json.dumps(_state("params.method != ''", "tags.`mlflow.runName`", ascending=True))


def comparison_view(run_ids: Sequence[str]) -> str:
    """These runs as a table, and as charts: method and IPC to accuracy, accuracy over IPC, over frames and over memory."""
    chosen = ", ".join(f"'{run}'" for run in run_ids)
    charts = [
        _chart("PARALLEL", selectedParams=["method", "ipc"], selectedMetrics=["accuracy"], showAllRuns=True),
        _scatter("ipc", "accuracy"),
        _scatter("frame_fraction", "accuracy"),
        _scatter("peak_cpu_mib", "accuracy"),
        _chart("BAR", metricKey="accuracy"),
    ]
    section = {
        "uuid": _SECTION, "name": "Comparison", "display": True, "isReordered": True, "deleted": False, "isGenerated": False,
        "columns": 2, "cardHeight": 380,
    }  # fmt: skip
    return json.dumps(
        {
            **_state(f"attributes.run_id IN ({chosen})", "metrics.`accuracy`", ascending=False),
            "compareRunCharts": [{**chart, "uuid": f"chart-{number}"} for number, chart in enumerate(charts)],
            "compareRunSections": [section],
            "isAccordionReordered": True,
        }
    )


def view_address(root: str, experiment: str, view: str, charts: bool = False) -> str:
    """The address that opens a view, with the menus of model training, not of language models. root: such as http://127.0.0.1:5000."""
    query = {"workflowType": "machine_learning", "viewStateShareKey": view, **({"compareRunsMode": "CHART"} if charts else {})}
    return f"{root.rstrip('/')}/#/experiments/{experiment}/runs?{urlencode(query)}"


def _state(chosen: str, order: str, ascending: bool) -> dict[str, object]:
    return {
        "searchFilter": chosen, "orderByKey": order, "orderByAsc": ascending, "selectedColumns": list(_COLUMNS), "columnWidths": _WIDTHS,
        "columnOrder": list(_WIDTHS), "runsHiddenMode": "SHOW_ALL",
    }  # fmt: skip


def _scatter(x: str, y: str) -> dict[str, object]:
    axes = {"xaxis": {"key": x, "type": "METRIC"}, "yaxis": {"key": y, "type": "METRIC"}}
    return _chart("SCATTER", **axes)


def _chart(kind: str, **chosen: object) -> dict[str, object]:
    return {"type": kind, "metricSectionId": _SECTION, "runsCountToCompare": RUNS, "deleted": False, "isGenerated": False, **chosen}
