"""The test split never reaches a method: nothing that a method is handed leads to a test clip."""

from __future__ import annotations

from pathlib import Path

from harness.store import Store
from tests.conftest import Harness

SPY = '''
import gc, re, types
from harness import Budget, Context, DistilledSet, Split, method


@method("spy")
class Spy:
    """Looks at everything that can be reached from its arguments."""

    def distill(self, train, budget, context):
        seen, splits, ids, todo = set(), 0, set(), [train, budget, context]
        while todo:
            thing = todo.pop()
            if id(thing) in seen or isinstance(thing, (types.ModuleType, type, types.FunctionType, types.BuiltinFunctionType)):
                continue
            seen.add(id(thing))
            splits += isinstance(thing, Split)
            if isinstance(thing, str) and re.fullmatch("(train|test)[0-9]+-[0-9]+", thing):
                ids.add(thing)
            todo += gc.get_referents(thing)
        context.metrics["splits_in_reach"] = splits
        context.metrics["train_ids"] = sum(i.startswith("train") for i in ids)
        context.metrics["test_ids"] = sum(i.startswith("test") for i in ids)
        rows = [int(train.indices_of(c)[0]) for c in range(budget.classes)]
        return DistilledSet.of_clips(train.clips(rows), train.labels[rows])
'''


def test_no_test_clip_is_in_reach_of_a_method(harness: Harness, tmp_path: Path) -> None:
    plugin = tmp_path / "spy.py"
    plugin.write_text(SPY, encoding="utf-8")
    result = harness("run", "--methods", "spy", "--plugin", str(plugin), "--ipc", "1", "--seeds", "1")
    assert result.returncode == 0, result.stdout + result.stderr
    records, _ = Store(tmp_path / "results").read_records()
    (distilled,) = [record for record in records.values() if record.kind == "distill"]
    assert (distilled.metrics["train_ids"] or 0) > 0
    assert distilled.metrics["test_ids"] == 0
    assert distilled.metrics["splits_in_reach"] == 1, "the training split, and no other"
