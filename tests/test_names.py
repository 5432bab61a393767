"""How plugins are named on a command line."""

from __future__ import annotations

import pytest

from harness.errors import UsageError
from harness.names import natural_key, parse_list, parse_spec, split_list


def test_lists_are_split_outside_of_brackets() -> None:
    assert split_list("a[x=1,y=2], b ,c[z=[1,2]]") == ["a[x=1,y=2]", "b", "c[z=[1,2]]"]
    assert parse_list("1, 5", "ipc") == ["1", "5"]
    with pytest.raises(UsageError, match="the list of ipc is empty"):
        parse_list(" , ", "ipc")


def test_specs() -> None:
    assert parse_spec(" a[ x = 1 ] ") == ("a", {"x": "1"})
    assert parse_spec("a") == parse_spec("a[]") == ("a", {})
    assert parse_spec("a[t=b[c=1,d=2]]") == ("a", {"t": "b[c=1,d=2]"})


@pytest.mark.parametrize("bad", ["a[x]", "a[=1]", "a]", "a[x=1", "[x=1]", "a[x=1,x=2]", ""])
def test_malformed_specs_are_refused(bad: str) -> None:
    with pytest.raises(UsageError):
        parse_spec(bad)


def test_natural_order() -> None:
    assert sorted(["ipc10", "ipc1", "10", "ipc5", "2", "ipc"], key=natural_key) == ["ipc", "ipc1", "ipc5", "ipc10", "2", "10"]


def test_a_parameter_that_is_a_list_is_written_in_brackets() -> None:
    from harness.registry import Registry

    params = Registry().resolve("method", "gvd[backbone=some/pipeline,size=[9,16,32]]").spec.params
    assert params["size"] == [9, 16, 32]
    with pytest.raises(UsageError, match="size"):
        Registry().resolve("method", "gvd[size=[9,wide,16]]")
