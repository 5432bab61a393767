from __future__ import annotations

from pathlib import Path

import pytest

from harness.errors import ConfigError
from harness.report.published import load_published, published_tables

GOOD = """
number = [{ dataset = "d", evaluator = "e", metric = "top-1", method = "M", ipc = 5, accuracy = 0.2, source = "s" }]
[sources]
s = "S"
"""


def test_the_projects_own_file_is_valid_and_names_a_source_for_every_number() -> None:
    sources, numbers = load_published()
    assert len(numbers) >= 30
    assert {n.source for n in numbers} == set(sources)
    keys = [(n.dataset, n.evaluator, n.metric, n.method, n.ipc) for n in numbers]
    assert len(keys) == len(set(keys))


def test_what_was_derived_and_not_read_says_so() -> None:
    _, numbers = load_published()
    derived = [n for n in numbers if n.method == "GVD"]
    assert derived and all("derived, not read" in n.note for n in derived)


def test_numbers_stand_in_tables_of_their_own_with_their_sources() -> None:
    tables = {t.name: t for t in published_tables(["miniucf"])}
    assert set(tables) == {"published-miniucf-convnet3d-top-1", "published-miniucf-cnn_gru-top-1", "published-miniucf-cnn_lstm-top-1"}
    main = tables["published-miniucf-convnet3d-top-1"]
    assert main.columns == ("IPC 1", "IPC 5", "IPC 10", "IPC 20")
    prism = next(r for r in main.rows if r.label.text == "PRISM")
    assert [c.text for c in prism.cells] == ["17.9 ± 0.3", "28.0", "31.0", "—"]
    assert any("2505.22564" in note for note in main.notes)
    assert published_tables(["moving-digits"]) == []


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
    assert len(load_published(path)[1]) == 1
    path.write_text(GOOD.replace(*change))
    with pytest.raises(ConfigError, match=message):
        load_published(path)


def test_no_file_means_no_numbers(tmp_path: Path) -> None:
    assert load_published(tmp_path / "none.toml") == ({}, [])
