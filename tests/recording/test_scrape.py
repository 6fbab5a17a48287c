"""An engine's metrics as a recording: as many requests, as long and as fast as they say; else one clear line."""

import os
import sys
from pathlib import Path

import numpy as np
import pytest

from kvhorizon.cli import main
from kvhorizon.errors import InputError
from kvhorizon.recording.exposition import buckets, by_label, parse, total
from kvhorizon.recording.read import read_recording
from kvhorizon.recording.scrape import is_scrape, scrape_rows

NOW_S = 1.8e9


def scrape(prompt: dict[str, int], output: dict[str, int], started_s: float | None = NOW_S - 500.0) -> str:
    lines = []
    for name, counts in (("prompt", prompt), ("generation", output)):
        lines += [f"# TYPE vllm:request_{name}_tokens histogram"]
        lines += [
            f'vllm:request_{name}_tokens_bucket{{engine="0",le="{le}",model_name="m"}} {n}' for le, n in counts.items()
        ]
    if started_s is not None:
        lines += ["# TYPE process_start_time_seconds gauge", f"process_start_time_seconds {started_s}"]
    return "\n".join(lines) + "\n"


LATER = scrape({"100.0": 400, "200.0": 1000, "+Inf": 1000}, {"50.0": 100, "100.0": 1000, "+Inf": 1000})
EARLIER = scrape({"100.0": 400, "200.0": 500, "+Inf": 500}, {"50.0": 100, "100.0": 500, "+Inf": 500})


def test_one_scrape_is_the_time_since_the_engine_began() -> None:
    rows = scrape_rows(None, LATER, NOW_S)
    arrival_s = np.array([row.arrival_s for row in rows])
    prompt, output = (np.array([getattr(row, name) for row in rows]) for name in ("prompt_tokens", "output_tokens"))
    assert len(rows) == 1000
    assert NOW_S - 500.0 < arrival_s[0] < arrival_s[-1] <= NOW_S
    assert np.diff(arrival_s).std() == pytest.approx(0.5, rel=0.15)  # as of a Poisson process
    assert (prompt <= 100).mean() == pytest.approx(0.4, abs=0.05)
    assert (output <= 50).mean() == pytest.approx(0.1, abs=0.03)
    assert (prompt.max(), output.max()) == (200, 100)


def test_two_scrapes_are_the_time_between_them() -> None:
    rows = scrape_rows(EARLIER, LATER, NOW_S, 100.0)
    assert len(rows) == 500
    assert min(row.prompt_tokens for row in rows) > 100  # the shorter ones came before
    assert min(row.output_tokens for row in rows) > 50
    assert rows[0].arrival_s > NOW_S - 100.0


@pytest.mark.parametrize(
    ("earlier", "later", "says"),
    [
        (None, "vllm:x{", "Prometheus' text format"),
        (None, "up 1\n", "must be there, as vLLM exposes it"),
        (None, scrape({"10.0": 5}, {"10.0": 5}), "must be there, as vLLM exposes it"),
        (None, scrape({"10.0": 5, "+Inf": 4}, {"+Inf": 5}), "must not fall"),
        (None, scrape({"x": 5, "+Inf": 5}, {"+Inf": 5}), "bounds"),
        (None, scrape({"+Inf": 0}, {"+Inf": 0}), "must be within 1"),
        (None, scrape({"+Inf": 9}, {"+Inf": 9}, None), "process_start_time_seconds"),
        (None, scrape({"+Inf": 9}, {"+Inf": 9}, NOW_S + 1), "must be > 0 seconds"),
        (LATER, EARLIER, "must not count less"),
    ],
)
def test_what_makes_no_sense_is_named(earlier: str | None, later: str, says: str) -> None:
    with pytest.raises(InputError, match=says):
        scrape_rows(earlier, later, NOW_S)


def test_samples_by_name_and_label() -> None:
    samples = parse('# TYPE a counter\na_total{x="1",y="p"} 2\na_total{x="2",y="p"} 3\nb 4\n')
    assert total(samples, "a_total") == 5.0
    assert total(samples, "a_total", x="2") == 3.0
    assert total(samples, "nothing") is None
    assert by_label(samples, "a_total", "x") == {"1": 2.0, "2": 3.0}
    assert buckets(samples, "a") == []


def test_the_command_takes_one_scrape_or_two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, text, at_s in (("one.prom", EARLIER, NOW_S - 100.0), ("two.prom", LATER, NOW_S)):
        (tmp_path / name).write_text(text)
        os.utime(tmp_path / name, (at_s, at_s))
        assert is_scrape(text)
    for sources, size in ((["two.prom"], 1000), (["two.prom", "one.prom"], 500)):
        out = tmp_path / "o.parquet"
        monkeypatch.setattr(
            sys, "argv", ["kvhorizon", "record", *(str(tmp_path / one) for one in sources), "--out", str(out)]
        )
        with pytest.raises(SystemExit) as end:
            main()
        assert not end.value.code
        assert len(read_recording(out)) == size
