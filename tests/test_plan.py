"""The graph: what decides a key, what does not, and what is shared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from harness.config import Config, load_config
from harness.data.cache import describe
from harness.errors import UsageError
from harness.plan import Plan, plan_run, walk
from harness.registry import Registry
from harness.seeds import derive_seed
from harness.spec import AssetSpec
from tests.conftest import TINY


def make(bench: Path, assignments: tuple[str, ...] = (), **run: Any) -> Plan:
    config = load_config(bench, assignments, {**run, "plugins": [str(TINY)]})
    return plan_with(config)


def plan_with(config: Config) -> Plan:
    registry = Registry(config.run.plugins, config.plugin_defaults)
    dataset = registry.resolve("dataset", config.run.dataset)
    return plan_run(config, registry, dataset, describe(dataset.create(), dataset.name, None, dataset.spec.code))


def keys(plan: Plan, kind: str) -> set[str]:
    return {t.key for t in plan.tasks.values() if t.kind == kind}


def test_evaluators_share_one_distilled_set(bench: Path) -> None:
    plan = make(bench, methods=["first"], evaluators=["tiny-net", "tiny-net[width=8]"], ipc=[1], seeds=1, reference=False)
    assert len(keys(plan, "distill")) == 1 and len(keys(plan, "evaluate")) == 2


def test_inputs_come_before_their_users(bench: Path) -> None:
    plan = make(bench, labels=["hard", "soft"])
    seen: set[str] = set()
    for task in walk(plan.tasks, [c.key for c in plan.cells]):
        assert set(task.inputs.values()) <= seen
        seen.add(task.key)
    assert seen == set(plan.tasks)


@pytest.mark.parametrize(
    "assignment",
    ["run.timeout=9", "run.workers=2", 'run.results="elsewhere"', 'run.executor="ray"', 'run.device="cpu"', "resources.evaluate.cpus=2"],
)
def test_where_and_how_a_task_runs_is_not_in_its_key(bench: Path, assignment: str) -> None:
    assert make(bench).tasks.keys() == make(bench, (assignment,)).tasks.keys()


@pytest.mark.parametrize(
    ("assignment", "changed"),
    [
        ("protocols.tiny.lr=0.2", {"asset", "evaluate"}),
        ("protocols.tiny.full.lr=0.2", {"asset"}),
        ("evaluators.tiny-net.width=5", {"asset", "evaluate"}),
        ("datasets.tiny.train=5", {"data", "asset", "distill", "evaluate"}),
        ("datasets.tiny.frames=3", {"data", "asset", "distill", "evaluate"}),
    ],
)
def test_what_decides_a_result_is_in_its_key(bench: Path, assignment: str, changed: set[str]) -> None:
    config = load_config(bench, (), {"plugins": [str(TINY)], "reference": False, "labels": ["hard", "soft"]})
    other = load_config(bench, (assignment,), {"plugins": [str(TINY)], "reference": False, "labels": ["hard", "soft"]})
    for kind in ("data", "asset", "distill"):
        shared = keys(shaped(config), kind) & keys(shaped(other), kind)
        assert bool(shared) != (kind in changed), kind
    hard = {c.key for c in shaped(config).cells if c.labels == "hard"} & {c.key for c in shaped(other).cells if c.labels == "hard"}
    assert bool(hard) != ("evaluate" in changed)


def shaped(config: Config) -> Plan:
    registry = Registry(config.run.plugins, config.plugin_defaults)
    dataset = registry.resolve("dataset", config.run.dataset)
    section = config.dataset()
    return plan_run(config, registry, dataset, describe(dataset.create(), dataset.name, (section.frames or 4, 1, 8, 8)))


def test_a_name_for_a_protocol_or_a_spelled_out_default_changes_nothing(bench: Path) -> None:
    plain, spelled = make(bench, evaluators=["tiny-net"]), make(bench, evaluators=["tiny-net[width=4]"])
    assert {c.key for c in plain.cells if c.ipc} == {c.key for c in spelled.cells if c.ipc}


def test_native_labels_of_a_hard_method_are_hard(bench: Path) -> None:
    hard, native = make(bench, methods=["first"], labels=["hard"]), make(bench, methods=["first"], labels=["native"])
    assert [c.key for c in hard.cells] == [c.key for c in native.cells]


def test_a_deterministic_method_distills_once_for_all_seeds(bench: Path) -> None:
    plan = make(bench, methods=["k_center[teacher=tiny-net]"], ipc=[1], seeds=3, reference=False)
    assert len(keys(plan, "distill")) == 1 and len(plan.cells) == 3


def test_full_is_one_cell_per_evaluator_and_rests_on_the_teacher(bench: Path) -> None:
    plan = make(bench, labels=["hard", "soft"], ipc=[1, 2, 3], seeds=3)
    full = [c for c in plan.cells if c.ipc is None]
    assert [c.method for c in full] == ["full"]
    assert plan.tasks[full[0].key].inputs.keys() == {"data", "teacher"}
    # The teacher of the soft labels is the very network that `full` tests: nothing is trained twice.
    assert len(keys(plan, "asset")) == 1
    listed = make(bench, methods=["full", "first"], seeds=3)
    assert len([c for c in listed.cells if c.ipc is None]) == 3


def test_a_skip_is_carried_to_the_cell(bench: Path) -> None:
    plan = make(bench, methods=["misbehave[how=decline]"], ipc=[1], seeds=1, reference=False)
    assert {t.skip for t in plan.tasks.values() if t.kind in ("distill", "evaluate")} == {"declines on principle"}


def test_ipc_above_what_a_class_holds(bench: Path) -> None:
    with pytest.raises(UsageError, match="Valid: 1 to 6"):
        make(bench, ipc=[6, 7])


def test_seeds_are_by_role_and_training_ignores_the_method() -> None:
    assert derive_seed("train", "ucf101", "convnet3d", 0) != derive_seed("distil", "ucf101", "convnet3d", 0)
    assert derive_seed("train", "a", "b", 0) != derive_seed("train", "a", "b", 1)
    assert 0 <= derive_seed("data", "x") < 2**31


def test_a_plan_is_frozen(bench: Path) -> None:
    cell = make(bench).cells[0]
    with pytest.raises(ValueError, match="frozen"):
        cell.seed = 3  # type: ignore[misc]


SEEDED = '''
from harness import Asset, asset, method


@asset("diffusion")
class Diffusion:
    """Weights that may come with the project, on a codec of one making."""

    seed: int = 0
    """Its seed."""
    shipped: bool = True
    """Use them."""

    def assets(self, info):
        return {"codec": Asset("codec")}


@asset("codec")
class Codec:
    """It has no seed."""


@method("generative")
class Generative:
    """It needs the weights."""

    deterministic = True

    def assets(self, info):
        return {"weights": Asset("diffusion")}
'''


def test_assets_have_one_seed_or_that_of_the_run(bench: Path, tmp_path: Path) -> None:
    """Teachers and backbones are made for every seed where that is asked for; what judges sets, and what has no seed, is not."""
    (tmp_path / "seeded.py").write_text(SEEDED, encoding="utf-8")

    def plan(**run: Any) -> Plan:
        given = {"methods": ["herding", "random", "generative"], "labels": ["hard", "soft"], "ipc": [1], "seeds": 2, "quality": True, **run}
        return plan_with(load_config(bench, (), {**given, "plugins": [str(TINY), str(tmp_path / "seeded.py")]}))

    def assets(plan: Plan, name: str) -> list[dict[str, Any]]:
        return [t.spec.asset.params for t in plan.of_kind("asset") if isinstance(t.spec, AssetSpec) and t.spec.asset.name == name]

    one, each = plan(), plan(asset_seeds="run")
    assert [p["seed"] for p in assets(one, "teacher")] == [0] and sorted(p["seed"] for p in assets(each, "teacher")) == [0, 1]
    assert assets(one, "diffusion") == [{"seed": 0, "shipped": True}]
    assert assets(each, "diffusion") == [{"seed": 0, "shipped": False}, {"seed": 1, "shipped": False}], "shipped weights have one seed"
    assert len(assets(each, "codec")) == len(assets(each, "feature_reference")) == 1
    methods = ("herding", "random", "generative")
    made = {
        name: {method: {t.key for t in p.of_kind("distill") if t.name.startswith(method)} for method in methods}
        for name, p in (("one", one), ("each", each))
    }
    assert [len(keys) for keys in made["one"].values()] == [1, 2, 1] and [len(keys) for keys in made["each"].values()] == [2, 2, 2]
    assert made["one"]["random"] == made["each"]["random"] and made["one"]["herding"] < made["each"]["herding"], "seed 0 is the same"
    assert {c.key for c in one.cells if c.seed == 0 and c.method != "generative"} <= {c.key for c in each.cells}
