"""Search spaces: what ``tune`` may try for a parameter, written beside the field of a method.

    lr: Annotated[float, Log(1, 1e4)] = 30.0
    guidance: Annotated[float, Range(0, 0.5)] = 0.1
    decay: Annotated[Literal["linear", "none"], Choice("linear", "none")] = "linear"

A field of whole numbers is searched in whole numbers. The range bounds the search, not the parameter.
"""

from __future__ import annotations

import math
import random
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Range:
    """Uniform from low to high, both included."""

    low: float
    high: float
    whole: bool = field(default=False, repr=False)

    def __post_init__(self) -> None:
        if not self.low < self.high:
            raise ValueError(f"{self} needs low < high")

    def draw(self, rng: random.Random) -> float | int:
        if self.whole:
            return rng.randint(round(self.low), round(self.high))
        return short(rng.uniform(self.low, self.high))

    def contains(self, value: Any) -> bool:
        return self.low <= value <= self.high


@dataclass(frozen=True)
class Log:
    """Uniform in the logarithm, from low to high, both positive and included."""

    low: float
    high: float
    whole: bool = field(default=False, repr=False)

    def __post_init__(self) -> None:
        if not 0 < self.low < self.high:
            raise ValueError(f"{self} needs 0 < low < high")

    def draw(self, rng: random.Random) -> float | int:
        value = math.exp(rng.uniform(math.log(self.low), math.log(self.high)))
        return min(max(round(value), round(self.low)), round(self.high)) if self.whole else short(value)

    def contains(self, value: Any) -> bool:
        return self.low <= value <= self.high


@dataclass(frozen=True, init=False)
class Choice:
    """One of these values, all alike."""

    options: tuple[Any, ...]

    def __init__(self, *options: Any) -> None:
        if len(options) < 2:
            raise ValueError("Choice needs at least two options")
        object.__setattr__(self, "options", options)

    def draw(self, rng: random.Random) -> Any:
        return rng.choice(self.options)

    def contains(self, value: Any) -> bool:
        return value in self.options


Domain = Range | Log | Choice


def search_space(cls: type) -> dict[str, Domain]:
    """Parameter -> what may be tried, of a plugin class; empty where it declares nothing."""
    found: dict[str, Domain] = {}
    for name, hint in typing.get_type_hints(cls, include_extras=True).items():
        if typing.get_origin(hint) is not typing.Annotated:
            continue
        for domain in hint.__metadata__:
            if isinstance(domain, Range | Log):
                found[name] = type(domain)(domain.low, domain.high, whole=hint.__origin__ is int)
            elif isinstance(domain, Choice):
                found[name] = domain
    return found


def draw_settings(space: Mapping[str, Domain], count: int, seed: int) -> list[dict[str, Any]]:
    """So many settings, drawn independently. The first ones do not depend on the count.

    >>> draw_settings({"lr": Log(1, 100)}, 2, seed=0) == draw_settings({"lr": Log(1, 100)}, 3, seed=0)[:2]
    True
    """
    rng = random.Random(seed)
    return [{name: domain.draw(rng) for name, domain in space.items()} for _ in range(count)]


def short(value: Any) -> Any:
    """A float with four significant digits, because a setting is to be read and pasted; anything else as it is.

    >>> short(12.345678), short("linear")
    (12.35, 'linear')
    """
    return float(f"{value:.4g}") if isinstance(value, float) else value
