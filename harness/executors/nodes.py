"""What tasks hold on which node, and where the next one fits: a task runs on one node, so that sums over a cluster say nothing.

Pure bookkeeping, without Ray. A GPU may be shared by tasks that ask for parts of it; a task that asks for more than one gets whole ones.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

_TOLERANCE = 1e-9
"""Fractions of GPUs are summed: three thirds are one."""


@dataclass(frozen=True)
class Shape:
    """What a task holds."""

    cpus: int
    gpus: float

    def __str__(self) -> str:
        return f"{self.cpus} CPUs and {self.gpus:g} GPUs" if self.gpus else f"{self.cpus} CPUs"


@dataclass(frozen=True)
class Node:
    """A machine of the cluster. host: its name or address, for people."""

    id: str
    host: str
    cpus: int
    gpus: int


@dataclass
class Nodes:
    """The nodes of a cluster as they come and go."""

    present: dict[str, Node] = field(default_factory=dict)

    def update(self, nodes: Iterable[Node]) -> tuple[list[Node], list[Node]]:
        """Take over which nodes there are; returns those that joined and those that left."""
        now = {node.id: node for node in nodes}
        joined = [node for key, node in now.items() if key not in self.present]
        left = [node for key, node in self.present.items() if key not in now]
        self.present = now
        return joined, left

    @property
    def cpus(self) -> int:
        return sum(node.cpus for node in self.present.values())

    @property
    def gpus(self) -> int:
        return sum(node.gpus for node in self.present.values())

    def shape(self, cpus: int, gpus: float, more_may_come: bool = False) -> Shape:
        """What a task gets of what it asks for: GPUs count only where there are any, or may come, and CPUs no more than a node has."""
        if not self.gpus and not more_may_come:
            gpus = 0.0
        able = [node.cpus for node in self.present.values() if node.cpus and _has_gpus([1.0] * node.gpus, gpus)]
        return Shape(min(cpus, max(able)) if able else cpus, gpus)

    def refusal(self, shape: Shape) -> str | None:
        """Why no node could ever hold a task of this shape; None where one could."""
        if any(self._holds(node, shape, ()) for node in self.present.values()):
            return None
        most = max((node.gpus for node in self.present.values()), default=0)
        if shape.gpus > most:
            return f"it needs {shape.gpus:g} GPUs on one node, and no node has more than {most}"
        return f"it needs {shape}, and no node has as much"

    def place(
        self, shape: Shape, held: Collection[tuple[str, Shape]], idle: Collection[tuple[str, Shape]] = (), without: Collection[str] = ()
    ) -> Node | None:
        """The node that a task goes to beside what is held, or None where it has to wait.

        held, idle: (node id, shape) of what runs, and of processes that wait for work and may be ended. without: nodes that do not count.
        Tasks without a GPU keep away from nodes with some, then the node with most free CPUs is taken.
        """
        able = [n for n in self.present.values() if n.id not in without and self._holds(n, shape, [s for i, s in held if i == n.id])]
        if not able:
            return None
        everything = [*held, *idle]

        def order(node: Node) -> tuple[bool, bool, int]:
            beside = [s for i, s in everything if i == node.id]
            is_kept_free = shape.gpus == 0 and node.gpus > 0
            return is_kept_free, not self._holds(node, shape, beside), sum(s.cpus for s in beside) - node.cpus

        return min(able, key=order)

    def fits(self, node: str, shape: Shape, held: Collection[tuple[str, Shape]]) -> bool:
        """Whether a task fits on this node beside what is held."""
        return node in self.present and self._holds(self.present[node], shape, [s for i, s in held if i == node])

    @staticmethod
    def _holds(node: Node, shape: Shape, beside: Iterable[Shape]) -> bool:
        beside = list(beside)
        free = [1.0] * node.gpus
        for other in sorted((s.gpus for s in beside if s.gpus), reverse=True):
            _take_gpus(free, other)
        return sum(s.cpus for s in beside) + shape.cpus <= node.cpus and _has_gpus(free, shape.gpus)


def _has_gpus(free: list[float], wanted: float) -> bool:
    if wanted <= 1:
        return wanted == 0 or any(part >= wanted - _TOLERANCE for part in free)
    return sum(part >= 1 - _TOLERANCE for part in free) >= wanted


def _take_gpus(free: list[float], wanted: float) -> None:
    """Take parts of the GPU that they fit most tightly, or whole ones."""
    for _ in range(max(1, int(wanted))):
        share = min(wanted, 1.0)
        fitting = [number for number, part in enumerate(free) if part >= share - _TOLERANCE]
        if fitting:
            free[min(fitting, key=lambda number: free[number])] -= share
