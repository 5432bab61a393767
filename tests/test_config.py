"""bench.toml and what is laid over it."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.config import load_config
from harness.errors import ConfigError
from harness.registry import Registry, read_params


def test_the_projects_own_bench_is_valid_and_names_only_what_exists() -> None:
    config = load_config()
    registry = Registry((), config.plugin_defaults)
    for kind, sections in config.plugin_defaults.items():
        for name, params in sections.items():
            read_params(registry.load(kind, name), params, name)
    for protocol in config.protocols.values():
        for name, params in protocol.methods.items():
            read_params(registry.load("method", name), params, name)
    assert {"quick", "vdsd", "video-dc"} <= config.protocols.keys()


def test_every_key_of_the_bench_has_a_comment() -> None:
    text = (Path(__file__).resolve().parent.parent / "bench.toml").read_text(encoding="utf-8")
    bare = [line for line in text.splitlines() if " = " in line and "#" not in line]
    assert bare == []


def test_precedence(tmp_path: Path) -> None:
    overlay = tmp_path / "over.toml"
    overlay.write_text("[run]\ntimeout = 1\nseeds = 5\nipc = [2]\n[protocols.quick]\nlr = 0.5\n", encoding="utf-8")
    config = load_config(overlay, ("run.timeout=2", "run.seeds=[7]"), {"timeout": 3.0})
    assert config.run.timeout == 3 and config.run.seeds == (7,) and config.run.ipc == (2,)
    quick = config.protocols["quick"]
    assert quick.train.lr == 0.5 and quick.train.batch == load_config().protocols["quick"].train.batch


def test_full_recipe_is_the_recipe_with_its_overrides() -> None:
    config = load_config(None, ("protocols.quick.lr=0.25", "protocols.quick.full.epochs=9"))
    quick = config.protocols["quick"]
    assert quick.full.lr == 0.25 and quick.full.epochs == 9 and quick.train.epochs != 9


def test_a_number_of_seeds_counts_from_zero_and_duplicates_are_one() -> None:
    assert load_config(None, ("run.seeds=3",)).run.seeds == (0, 1, 2)
    assert load_config(None, ("run.ipc=[5,1,5]",)).run.ipc == (5, 1)


@pytest.mark.parametrize(
    ("assignment", "sentence"),
    [
        ("protocols.quick.epoch=1", "unknown key 'epoch' in .protocols.quick.*did you mean 'epochs'"),
        ("run.executor=spark", "executor = 'spark' in .run. is not valid"),
        ("resources.train.cpus=1", "unknown key 'train'"),
        ("resources.asset.cpus=0", "cpus = 0"),
        ("datasets.moving-digits.frames=0", "frames = 0"),
        ("colours.x=1", "unknown key 'colours'"),
    ],
)
def test_wrong_keys_and_values(assignment: str, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        load_config(None, (assignment,))


def test_a_config_is_frozen() -> None:
    config = load_config()
    with pytest.raises(ValueError):
        config.run.timeout = 5  # type: ignore[misc]


def test_words_must_be_texts() -> None:
    with pytest.raises(ConfigError, match=r"\[words.gvd\] of bench.toml must hold texts"):
        load_config(base=Path("bench.toml"), assignments=("words.gvd=3",))
    assert load_config().words["gvd"]["guidance=0"] == "unguided diffusion"
