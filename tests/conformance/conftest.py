"""Conformance: every plugin that the registry knows is held to the contract on a tiny dataset, one test for each plugin and check.

    python -m pytest tests/conformance --plugin my_method.py --small 'my_method[iterations=3]' -k my_method

``python -m harness check --plugin my_method.py`` runs the same checks without pytest.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness.conformance import ContextFactory, Subject, checks
from harness.names import parse_spec
from harness.plugin import KINDS
from harness.registry import Registry
from tests.tiny_pipelines import SIZES, save

SMALL = Path(__file__).with_name("small.toml")
REGISTRY = pytest.StashKey[Registry]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--plugin", action="append", default=[], metavar="PATH", help="a Python file with plugins; may be repeated")
    parser.addoption("--small", action="append", default=[], metavar="SPEC", help="name[key=value,...]: what makes a plugin quick")
    parser.addoption("--data-root", default=None, metavar="DIR", help="where a dataset that is read from disk is tested")


def registry_of(config: pytest.Config) -> Registry:
    """The registry with the plugin files of the command line, made once."""
    if REGISTRY not in config.stash:
        config.stash[REGISTRY] = Registry(config.getoption("--plugin", default=[]))
    return config.stash[REGISTRY]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """``kind``, ``name`` and ``requirement`` run over all plugins and their checks."""
    if "requirement" in metafunc.fixturenames:
        registry = registry_of(metafunc.config)
        cases = [
            pytest.param(kind, info.name, check, id=f"{kind}-{info.name}-{check.name}", marks=[pytest.mark.slow] if check.slow else [])
            for kind in KINDS
            for info in registry.infos(kind)
            for check in checks(kind)
        ]
        metafunc.parametrize(("kind", "name", "requirement"), cases)


@pytest.fixture(scope="session")
def registry(pytestconfig: pytest.Config) -> Registry:
    return registry_of(pytestconfig)


@pytest.fixture(scope="session")
def subject(registry: Registry, tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> Callable[[str, str], Subject]:
    """The plugin of a kind and name, the same one for all of its checks."""
    small: dict[str, dict[str, Any]] = {}
    for section in tomllib.loads(SMALL.read_text(encoding="utf-8")).values():
        small |= section
    small |= dict(parse_spec(spec) for spec in pytestconfig.getoption("--small", default=[]))
    root = pytestconfig.getoption("--data-root", default=None)
    contexts = ContextFactory(registry, tmp_path_factory.mktemp("scratch"), small=small)
    made: dict[tuple[str, str], Subject] = {}

    def find(kind: str, name: str) -> Subject:
        if name == "pipeline_tuning" and "backbone" not in small.get(name, {}):  # it needs a pipeline on the disk
            pipeline = save("LattePipeline", tmp_path_factory.mktemp("pipeline"))
            small[name] = {"backbone": str(pipeline), "size": SIZES["LattePipeline"], "steps": 2, "rank": 2, **small.get(name, {})}
        return made.setdefault((kind, name), Subject(contexts, kind, name, Path(root) if root else None))

    return find
