"""Figures of `defaults_live`: ratios of paired rounds, worst cells, and rounds that are kept."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("vllm", reason="vLLM is not installed: `make engine` sets it up")

from experiments.live.defaults._defaults_clients import Loop, Seen
from experiments.live.defaults._defaults_figures import ratios, targets, together
from experiments.live.defaults._defaults_kept import Cell, Rounds
from experiments.live.defaults._defaults_loads import Ask
from experiments.live.defaults._defaults_measure import measured
from experiments.live.defaults_live import main

COUNTS = ("requests", "preemptions", "recompute_tokens", "errors", "steps")
COSTS = ("prefill_tokens", "prompt_tokens", "engine_s", "work_s", "cpu_s")


def row(speed: float, ttft: float, p99: float) -> dict[str, Any]:
    times = {"mean": ttft, "p99": p99}
    costs = dict.fromkeys(COSTS, 1.0)
    return {"throughput_req_s": speed, "ttft_s": times, "tpot_s": times, "e2e_s": times, **costs} | dict.fromkeys(
        COUNTS, 2
    )


def round_of(plain: float, watermark: float, program: float) -> dict[str, Any]:
    """Times as given, throughput their inverse."""
    values = {"plain": plain, "watermark": watermark, "rules": program, "program": program}
    return {name: row(1.0 / value, value, 2.0 * value) for name, value in values.items()}


def test_ratios_are_of_a_round_and_the_baseline_is_the_better_one_in_it() -> None:
    """Program to plain: 0.5, 1, 3, median 1; to the better of the two: 2/2, 2/1, 3/1, median 2."""
    rounds = [round_of(4.0, 2.0, 2.0), round_of(2.0, 1.0, 2.0), round_of(1.0, 5.0, 3.0)]
    assert ratios(rounds, "program")["ttft_mean"] == pytest.approx(1.0)
    better = ratios(rounds, "program", ("plain", "watermark"))
    assert better["ttft_p99"] == pytest.approx(2.0)
    assert better["throughput"] == pytest.approx(0.5)
    assert together(rounds)["means"]["program"]["preemptions"] == 6


def test_targets_are_of_the_worst_cell() -> None:
    good, bad = together([round_of(2.0, 2.0, 1.0)]), together([round_of(1.0, 1.0, 1.25)])
    names = [f"{model} {load}" for model in ("tiny", "heavy") for load in ("shared", "sessions", "cold")]
    found = targets({**dict.fromkeys(names, good), "heavy cold": bad, "heavy sessions": bad})
    assert found["throughput_worst"] == {"value": pytest.approx(0.8), "target": ">=0.98", "met": False}
    assert found["ttft_mean_worst"]["value"] == found["sessions_ttft_p99"]["value"] == pytest.approx(1.25)
    assert found["shared_throughput"] == {"value": pytest.approx(2.0), "target": ">=1.0", "met": True}
    assert found["shared_ttft_mean"] == {"value": pytest.approx(0.5), "target": "<=0.9", "met": True}


def test_throughput_is_of_the_time_in_which_all_clients_are_busy() -> None:
    """Two requests; at 2 s, when the first client is done, one is whole and half of the other's answers are there."""
    ask = Ask([3, 4, 5], 4, 256, 0.0, 4, 0, 0, 1, "plain", 0)
    seen = [Seen(ask, 0.0, [1.0, 2.0], [3, 3, 3, 2], "stop"), Seen(ask, 0.5, [1.5, 4.0], [3, 3, 3, 2], "stop")]
    steps = [[3, 6, 0, 1, 0.0, 0.1, 0.1], [4, 6, 4, 2, 0.1, 0.1, 0.1], *[[2, 0, 9, 2, 0.2, 0.1, 0.1]] * 3]
    after = {"steps": steps, "preemptions": 1, "recompute_tokens": 0, "errors": 0, "ladder": {}, "plans": {}}
    found = measured(Loop(0.0, seen, 2, 2.0), {}, after, 1.0)
    assert found["throughput_req_s"] == pytest.approx(0.75)
    assert found["ttft_s"]["mean"] == pytest.approx(1.0)
    assert found["prefill_tokens"] == pytest.approx((13 - 6) / 2)


def test_rounds_add_up_over_runs_of_the_same_code_only(tmp_path: Path) -> None:
    kept, cell, other = tmp_path / "kept.jsonl", Cell("tiny", "cold", 5), Cell("heavy", "cold", 5)
    Rounds(kept).add(cell, round_of(1.0, 1.0, 1.0), 0.5)
    Rounds(kept).add(cell, round_of(2.0, 1.0, 1.0), 0.5)
    assert [one["plain"]["ttft_s"]["mean"] for one in Rounds(kept).of(cell)] == [1.0, 2.0]
    assert Rounds(kept).lacking([cell, other], 2) == [other]
    assert Rounds(kept).lacking([cell], 3) == [cell]
    lines = [json.loads(line) | {"code": "another"} for line in kept.read_text().splitlines()]
    kept.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert Rounds(kept).of(cell) == []


@pytest.mark.parametrize(("option", "value"), [("--models", "huge"), ("--loads", "shared,nothing"), ("--rounds", "0")])
def test_bad_arguments_end_in_one_line(
    option: str, value: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["defaults_live", option, value])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert option.removeprefix("--") in line
    assert value.split(",")[-1] in line
