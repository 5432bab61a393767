"""What tuning chose, as a TOML file that `run --config` reads and whose lines can be pasted into bench.toml.

    [protocols.quick.methods]
    dm = { iterations = 60, lr = 51.3 }

    [protocols.quick.tuned]
    dm = { params = { lr = 51.3 }, better = true, trials = 24, ... }

The second table is what makes the report call these rows tuned. A method that was tuned again has its line replaced; others stay.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping, Sequence
from typing import Any

from harness.config import Config
from harness.errors import StoreError
from harness.report.tables import slug
from harness.spec import Tuned
from harness.store import Store
from harness.tune import FOLDER


def write_presets(config: Config, tuned: Mapping[str, Tuned]) -> str:
    """Write or complete the file of this dataset and protocol in the results folder; returns its place.

    tuned: by the name of the method. Raises StoreError when the file that is there cannot be read.
    """
    store, (name, protocol) = Store(config.run.results), config.protocol()
    file = f"{FOLDER}/{slug(config.run.dataset)}-{name}.toml"
    known: dict[str, Any] = {}
    if store.exists(file):
        try:
            known = tomllib.loads(store.read_bytes(file).decode())["protocols"][name]
        except (ValueError, KeyError, TypeError) as error:
            raise StoreError(f"{store.shown}/{file} is not what tune wrote ({error}): move it away") from error
    methods = {**known.get("methods", {})}
    for method, found in tuned.items():
        methods[method] = {**protocol.methods.get(method, {}), **found.params}
    notes = {**known.get("tuned", {}), **{method: found.model_dump(mode="json") for method, found in tuned.items()}}
    lines = [
        f"# Method parameters for {config.run.dataset}, chosen by `python -m harness tune` on held-out training clips.",
        "# Read it with --config, or put its lines in the place of those of the same name in bench.toml.",
        "",
        f"[protocols.{_key(name)}.methods]",
        *_table(methods),
        "",
        f"[protocols.{_key(name)}.tuned]",
        *_table(notes),
        "",
    ]
    store.write_bytes(file, "\n".join(lines).encode())
    return f"{store.shown}/{file}"


def _table(rows: Mapping[str, Mapping[str, Any]]) -> Sequence[str]:
    return [f"{_key(name)} = {_value(row)}" for name, row in sorted(rows.items())]


def _key(name: str) -> str:
    """A bare key where TOML allows it."""
    return name if name.replace("_", "").replace("-", "").isalnum() and name.isascii() else json.dumps(name)


def _value(value: Any) -> str:
    """A TOML value on one line; JSON's numbers, texts and booleans are TOML's. None is written as parameters take it."""
    if isinstance(value, Mapping):
        return f"{{ {', '.join(f'{_key(k)} = {_value(v)}' for k, v in value.items())} }}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(_value(v) for v in value)}]"
    return json.dumps("none" if value is None else value)
