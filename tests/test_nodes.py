"""Placement by node: what fits where, by hand."""

from __future__ import annotations

import pytest

from harness.executors.nodes import Node, Nodes, Shape


def nodes(*sizes: tuple[int, int]) -> Nodes:
    """Nodes a, b, c ... with (CPUs, GPUs)."""
    return Nodes({name: Node(name, f"host-{name}", cpus, gpus) for name, (cpus, gpus) in zip("abcdef", sizes, strict=False)})


def test_two_gpus_are_not_one_on_each_of_two_nodes() -> None:
    pair = nodes((4, 1), (4, 1))
    assert pair.refusal(Shape(1, 2)) == "it needs 2 GPUs on one node, and no node has more than 1"
    assert pair.place(Shape(1, 2), []) is None
    assert nodes((4, 1), (4, 2)).refusal(Shape(1, 2)) is None
    assert nodes((4, 1), (4, 2)).place(Shape(1, 2), []) == Node("b", "host-b", 4, 2)


def test_cpus_are_lowered_to_what_a_node_has_and_gpus_count_only_where_there_are_any() -> None:
    assert nodes((2, 0), (1, 0)).shape(8, 1) == Shape(2, 0)
    assert nodes((16, 0), (4, 1)).shape(8, 1) == Shape(4, 1), "the CPUs of a node that has the GPU"
    assert nodes((16, 0), (4, 1)).shape(8, 2) == Shape(8, 2), "which no node holds"
    assert nodes((2, 0)).shape(1, 1, more_may_come=True) == Shape(1, 1)
    assert nodes((0, 0), (2, 0)).place(Shape(1, 0), []) == Node("b", "host-b", 2, 0), "a head that does no work"


@pytest.mark.parametrize(
    ("gpus", "held", "asked", "fits"),
    [
        (1, [0.5], 0.5, True),
        (1, [0.5], 0.6, False),
        (1, [1 / 3, 1 / 3], 1 / 3, True),
        (2, [0.7, 0.7], 0.6, False),  # 2.0 in all, and no card has it
        (2, [0.7, 0.7], 0.3, True),
        (2, [0.5], 1, True),
        (2, [0.5, 0.5], 1, True),  # both on one card
        (2, [0.5], 2, False),
        (4, [1, 1], 2, True),
        (4, [0.5, 1, 1], 2, False),
    ],
)
def test_parts_of_gpus_are_of_one_card(gpus: int, held: list[float], asked: float, fits: bool) -> None:
    place = nodes((64, gpus)).place(Shape(1, asked), [("a", Shape(1, part)) for part in held])
    assert (place is not None) == fits


def test_the_free_node_is_taken_and_gpu_nodes_are_kept_for_what_needs_them() -> None:
    mixed = nodes((8, 1), (2, 0), (4, 0))
    assert mixed.place(Shape(1, 0), []).id == "c"  # type: ignore[union-attr]
    assert mixed.place(Shape(1, 0), [("c", Shape(3, 0))]).id == "b"  # type: ignore[union-attr]
    assert mixed.place(Shape(1, 0), [("c", Shape(4, 0)), ("b", Shape(2, 0))]).id == "a"  # type: ignore[union-attr]
    assert mixed.place(Shape(1, 0), [], without={"c", "b", "a"}) is None
    # Processes that only wait for work are ended where there is no other place.
    assert mixed.place(Shape(2, 0), [], idle=[("c", Shape(3, 0))]).id == "b"  # type: ignore[union-attr]
    assert mixed.place(Shape(4, 0), [], idle=[("c", Shape(3, 0))]).id == "c"  # type: ignore[union-attr]


def test_who_joined_and_who_left() -> None:
    present = nodes((1, 0), (1, 0))
    a, new = present.present["a"], Node("n", "host-n", 2, 0)
    joined, left = present.update([a, new])
    assert [n.id for n in joined] == ["n"] and [n.id for n in left] == ["b"]
    assert present.cpus == 3 and present.fits("n", Shape(2, 0), [("a", Shape(1, 0))]) and not present.fits("b", Shape(1, 0), [])
