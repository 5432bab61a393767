"""Conformance: every plugin that the registry knows is run on a tiny dataset and held to the contract. Given to plugin authors too.

    python -m pytest tests/conformance --plugin my_method.py --small 'my_method[iterations=3]' -k my_method
"""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from harness.registry import Registry, parse_spec
from tests.tiny import ContextFactory

SMALL = Path(__file__).with_name("small.toml")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--plugin", action="append", default=[], metavar="PATH", help="a Python file with plugins; may be repeated")
    parser.addoption("--small", action="append", default=[], metavar="SPEC", help="name[key=value,...]: what makes a plugin quick")
    parser.addoption("--data-root", default=None, metavar="DIR", help="where a dataset that is read from disk is tested")


def load_registry(config: pytest.Config) -> Registry:
    """The registry with the parameters that make plugins quick as defaults."""
    small = tomllib.loads(SMALL.read_text(encoding="utf-8"))
    defaults = {kind: dict(small.get(f"{kind}s", {})) for kind in ("method", "evaluator", "dataset", "asset")}
    registry = Registry(config.getoption("--plugin", default=[]), defaults)
    for spec in config.getoption("--small", default=[]):
        name, params = parse_spec(spec)
        for kind in defaults:
            if name in registry.names(kind):
                defaults[kind][name] = params
    return registry


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test for each plugin: an argument ``method_name``, ``evaluator_name`` ... runs over all names of that kind."""
    for kind in ("method", "evaluator", "dataset", "asset"):
        if f"{kind}_name" in metafunc.fixturenames:
            metafunc.parametrize(f"{kind}_name", load_registry(metafunc.config).names(kind))
    if "plugin_info" in metafunc.fixturenames:
        registry = load_registry(metafunc.config)
        infos = [info for kind in ("method", "evaluator", "dataset", "asset") for info in registry.infos(kind)]
        metafunc.parametrize("plugin_info", infos, ids=lambda info: f"{info.kind}-{info.name}")


@pytest.fixture(scope="session")
def registry(pytestconfig: pytest.Config) -> Registry:
    return load_registry(pytestconfig)


@pytest.fixture(scope="session")
def contexts(registry: Registry, tmp_path_factory: pytest.TempPathFactory) -> ContextFactory:
    return ContextFactory(registry, tmp_path_factory.mktemp("scratch"))
