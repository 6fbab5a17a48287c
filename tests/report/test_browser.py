"""The report in a real browser, where one is at hand: a short run of `experiments.report_browser`."""

from pathlib import Path

import pytest

from experiments.bench.report_browser import chromium, faults, look, write_report
from kvhorizon.errors import InputError

pytest.importorskip("playwright", reason="Playwright is not installed: the report is NOT TESTED in a browser")


def test_a_browser_draws_it_and_its_controls_work(tmp_path: Path) -> None:
    try:
        with chromium():
            pass
    except InputError as error:
        pytest.skip(f"{error}: the report is NOT TESTED in a browser")
    found = look(write_report(1500, tmp_path), 1, tmp_path / "shots")
    assert found["told"] == []
    assert all(one["events"] and one["figures"] for one in found["used"].values())
    assert faults(found["used"]) == 0, found["used"]
    assert (tmp_path / "shots/print.pdf").stat().st_size > 10_000
