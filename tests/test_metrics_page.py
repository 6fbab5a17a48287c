"""docs/reference/metrics.md has the service's metrics as the code has them. To renew it: `python
tests/test_metrics_page.py`."""

from pathlib import Path

from kvhorizon.service.metrics import ServiceMetrics

PAGE = Path(__file__).resolve().parents[1] / "docs/reference/metrics.md"
BEGIN = "<!-- service metrics: made by tests/test_metrics_page.py -->\n"
END = "<!-- end of service metrics -->"


def table() -> str:
    """The service's families as a Markdown table."""
    lines = ["| metric | kind | meaning |", "|---|---|---|"]
    for family in ServiceMetrics().registry.collect():
        name = family.name + ("_total" if family.type == "counter" else "")
        lines.append(f"| `{name}` | {family.type} | {family.documentation} |")
    return "\n".join(lines) + "\n"


def test_the_page_is_current() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert text.split(BEGIN)[1].split(END)[0] == table()


def test_the_page_names_what_is_exposed() -> None:
    assert table().count("\n| `kvhorizon_") >= 8


if __name__ == "__main__":
    before, after = PAGE.read_text(encoding="utf-8").split(BEGIN)
    PAGE.write_text(before + BEGIN + table() + END + after.split(END)[1], encoding="utf-8")
