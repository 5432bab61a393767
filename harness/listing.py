"""What there is to choose from, in lines for the terminal: plugins with their parameters, and protocols. Imports no plugin."""

from __future__ import annotations

from collections.abc import Iterator

from harness.config import Config
from harness.registry import PluginInfo, Registry

KINDS = ("methods", "evaluators", "datasets", "assets", "metrics", "protocols")


def plugin_lines(registry: Registry, config: Config, kind: str, long: bool, cost: bool) -> Iterator[tuple[str, bool]]:
    """(line, whether the plugin is available) of all plugins of a kind. long: with parameters, and what bench.toml and its protocols set
    them to. cost: with what networks cost, which imports torch."""
    infos = registry.infos(kind)
    width = max((len(info.name) for info in infos), default=0)
    indent = f"  {'':<{width}}    "
    for info in infos:
        missing = f"unavailable: {info.error} ({info.origin})" if info.error else ""
        yield f"  {info.name:<{width}}  {' '.join(part for part in (info.summary, missing) if part)}", not missing
        if cost and kind == "evaluator" and not missing:
            from harness.complexity import describe_cost

            yield from ((indent + line, True) for line in describe_cost(registry, info.name))
        for param in info.params if long else ():
            tuned = f" in {param.space}" if param.space else ""
            yield f"{indent}{param.name}: {param.type}{tuned} = {param.default}   {param.doc}", True
            if overrides := _overrides(info, param.name, config):
                yield f"{indent}  but {overrides}", True


def _overrides(info: PluginInfo, param: str, config: Config) -> str:
    """Where bench.toml sets a parameter to something else: "1 (quick, small-video)"."""
    places: dict[str, list[str]] = {}
    everywhere = config.plugin_defaults.get(info.kind, {}).get(info.name, {})
    if param in everywhere:
        places.setdefault(str(everywhere[param]), []).append("all protocols")
    for name, protocol in config.protocols.items() if info.kind == "method" else ():
        given = protocol.methods.get(info.name, {})
        if param in given:
            places.setdefault(str(given[param]), []).append(name)
    return ", ".join(f"{value} ({', '.join(names)})" for value, names in places.items())


def protocol_lines(config: Config, long: bool) -> Iterator[str]:
    """All protocols. long: every key, then what differs in training on the whole split (``full``), and the parameters of methods."""
    width = max((len(name) for name in config.protocols), default=0)
    indent = f"  {'':<{width}}    "
    for name, section in config.protocols.items():
        recipe = section.train
        told = f"{recipe.optimizer} lr {recipe.lr:g}, {recipe.epochs} epochs, batch {recipe.batch}, schedule {recipe.schedule}"
        yield f"  {name:<{width}}  {told}"
        if not long:
            continue
        keys, full = recipe.model_dump(), section.full.model_dump()
        yield from (f"{indent}{key} = {value}" for key, value in keys.items())
        yield from (f"{indent}full.{key} = {value}" for key, value in full.items() if value != keys[key])
        yield from (f"{indent}methods.{method}.{key} = {v}" for method, given in section.methods.items() for key, v in given.items())
        for method, tuned in section.tuned.items():
            yield f"{indent}tuned.{method}: {tuned.trials} trials at IPC {', '.join(map(str, tuned.ipc))} on {tuned.dataset}"
