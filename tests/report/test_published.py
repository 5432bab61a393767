from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from harness.errors import ConfigError
from harness.report.cells import View, gather
from harness.report.main_table import main_table
from harness.report.published import Published, gather_published, load_published, published_tables
from tests.report.test_main_table import BETTER, RANDOM, column

GOOD = """
number = [{ dataset = "d", evaluator = "e", metric = "top-1", method = "M", ipc = 5, accuracy = 0.2, source = "s" }]
[sources]
s = "S"
"""


def test_the_projects_own_file_is_valid_and_names_a_source_for_every_number() -> None:
    numbers = load_published()
    assert len(numbers) >= 30 and all(len(n.source) > 10 for n in numbers)
    keys = [(n.dataset, n.evaluator, n.metric, n.method, n.ipc) for n in numbers]
    assert len(keys) == len(set(keys))


def test_what_was_derived_and_not_read_says_so() -> None:
    numbers = load_published()
    derived = [n for n in numbers if n.method == "GVD"]
    assert derived and all("derived, not read" in n.note for n in derived)


def test_numbers_stand_in_tables_of_their_own_with_their_sources() -> None:
    tables = {t.name: t for t in published_tables(["miniucf"], load_published())}
    assert set(tables) == {"published-miniucf-convnet3d-top-1", "published-miniucf-cnn_gru-top-1", "published-miniucf-cnn_lstm-top-1"}
    main = tables["published-miniucf-convnet3d-top-1"]
    assert main.columns == ("IPC 1", "IPC 5", "IPC 10", "IPC 20")
    prism = next(r for r in main.rows if r.label.text == "PRISM")
    assert [c.text for c in prism.cells] == ["17.9 ± 0.3", "28.0", "31.0", "—"]
    assert any("2505.22564" in note for note in main.notes)
    assert published_tables(["moving-digits"], load_published()) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (('source = "s"', 'source = "x"'), "source 'x' stands in no"),
        (("accuracy = 0.2", "accuracy = 20.0"), "a fraction in"),
        (("ipc = 5, ", ""), "'ipc' is missing"),
        (("ipc = 5", 'ipc = "5"'), "ipc must be a int"),
        (("ipc = 5", "ipc = 5, year = 2024"), "unknown key 'year'"),
        (("number = [", "number = "), "not valid TOML"),
    ],
)
def test_a_wrong_entry_is_one_sentence(tmp_path: Path, change: tuple[str, str], message: str) -> None:
    path = tmp_path / "published.toml"
    path.write_text(GOOD)
    assert len(load_published(path)) == 1
    path.write_text(GOOD.replace(*change))
    with pytest.raises(ConfigError, match=message):
        load_published(path)


def test_no_file_means_no_numbers(tmp_path: Path) -> None:
    assert load_published(tmp_path / "none.toml") == []


def test_the_users_own_file_adds_and_corrects(tmp_path: Path) -> None:
    first, second = tmp_path / "a.toml", tmp_path / "b.toml"
    first.write_text(GOOD)
    (entry,) = [line for line in GOOD.splitlines() if line.startswith("number")]
    other = entry.replace("number = [", "").replace("]", "").replace('"M"', '"N"')
    second.write_text(GOOD.replace(entry, f"number = [{other}, {entry.replace('number = [', '').replace('0.2', '0.3')}"))
    assert [(n.method, n.accuracy) for n in gather_published([first, second, tmp_path / "none.toml"])] == [("M", 0.3), ("N", 0.2)]


def test_published_numbers_stand_below_ours_where_dataset_evaluator_and_ipc_agree() -> None:
    def number(method: str, **fields: Any) -> Published:
        return Published(
            **{"dataset": "digits", "evaluator": "net", "metric": "top-1", "ipc": 1, "accuracy": 0.2, "source": "S", **fields},
            method=method,
        )

    numbers = [number("A"), number("B", ipc=5), number("C", protocol="quick"), number("D", evaluator="other"), number("E", metric="top-5")]
    groups = gather([*column("random", 1, RANDOM), *column("gvd", 1, BETTER)])
    plain = main_table(View(groups), next(iter(groups)))
    made = main_table(View(groups, published=numbers), next(iter(groups)))
    assert made.rows[: len(plain.rows)] == plain.rows, "they enter no test with ours"
    added = made.rows[len(plain.rows) :]
    assert [(r.label.text, r.cells[0].text, r.cells[0].notes) for r in added] == [
        ("A, published", "20.0", ("protocol differs", "S")),
        ("C, published", "20.0", ("S",)),
    ]
