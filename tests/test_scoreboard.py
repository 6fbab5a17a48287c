"""The scoreboard: ratios by hand, runs that go on where they stopped, the greedy's front."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from experiments.common._cells import Cell, build, loaded
from experiments.common._ratios import aggregate, ratios, summary
from experiments.common._runs import Job, gather, key_of
from experiments.common._sources import digest_of
from experiments.fronts._front import kind_of, not_dominated, settings
from experiments.fronts._program_front import program_settings
from experiments.fronts.program_front import covering, dominates
from experiments.simulated.scoreboard import job_of, seeds_of, sources_of, wanted
from kvhorizon.sim.policies.registry import parse_policy
from kvhorizon.solver.heuristic.params import Knob
from kvhorizon.solver.program.settings import settings_of

CELL = Cell("chat", "llama-3.1-8b", "l4-24gb", 1, 1.0, 60, "bound")


def row(cell: str, policy: str, e2e: float, goodput: float = 0.5, seed: int = 0) -> dict[str, Any]:
    """A run of which only the end-to-end mean and goodput matter."""
    spread = {"mean": e2e, "p50": 1.0, "p99": 1.0, "max": 1.0}
    names = ("ttft_s", "tpot_s", "e2e_s", "slowdown", "long_ttft_s", "long_e2e_s")
    plain = ("throughput_tok_s", "throughput_in_window_tok_s", "makespan_s", "time_to_90pct_s", "time_to_99pct_s")
    more = ("preemption_frequency", "recompute_gpu_s", "recompute_fraction", "wasted_flops", "gpu_utilization")
    columns = {**dict.fromkeys(names, spread), **dict.fromkeys([*plain, *more, "max_wait_s"], 1.0), "goodput": goodput}
    about = {"cell": cell, "kind": "bound", "seed": seed, "policy": policy, "forecast": "none", "reload_s": 0.0}
    return {**about, "cpu_s": 0.0, "sources": digest_of("_runs"), "columns": columns}


def test_ratios_are_pooled_as_geometric_means_and_differences_as_means() -> None:
    """Cell a: 1/2 and cell b: 4/2, so the mean is 1, the worst 2; goodput +.3 and -.1, so +.1, worst -.1."""
    rows = [row("a", "fcfs", 2.0), row("b", "fcfs", 2.0), row("a", "x", 1.0, 0.8), row("b", "x", 4.0, 0.4)]
    columns = aggregate(rows)["to"]["fcfs"]["bound"]["x"]
    assert columns["e2e_mean"][0] == pytest.approx(1.0)
    assert columns["e2e_mean"][3] == pytest.approx(2.0)
    assert columns["goodput"][0] == pytest.approx(0.1)
    assert columns["goodput"][3] == pytest.approx(-0.1)


def test_a_ratio_is_floored_and_nothing_over_nothing_is_one() -> None:
    assert summary("e2e_mean", {"a": [0.0]})[0] == pytest.approx(0.01)
    zeros = [row("a", "fcfs", 0.0), row("a", "x", 0.0)]
    assert ratios(zeros, "x", "fcfs")["e2e_mean"]["a"] == [1.0]
    some = [row("a", "fcfs", 0.0), row("a", "x", 1.0)]
    assert math.isnan(ratios(some, "x", "fcfs")["e2e_mean"]["a"][0])


def test_the_interval_holds_the_value_and_shrinks_to_it_with_one_cell() -> None:
    value, low, high, worst = summary("e2e_mean", {"a": [0.5, 0.5]})
    assert value == low == high == worst == 0.5
    value, low, high, _ = summary("e2e_mean", {str(i): [0.5 + 0.1 * i] for i in range(6)})
    assert low < value < high


def test_names_carry_forecast_and_reload() -> None:
    job = job_of(CELL, 3, "kvhorizon:greedy@oracle+reload", "history")
    assert (job.policy, job.forecast, job.seed) == ("kvhorizon:greedy", "oracle", 3)
    assert job.reload_s > 0.0
    assert job_of(CELL, 0, "sjf", "history").forecast == "history"
    assert [job.policy for job in wanted([CELL], ["sjf"], [0], "oracle")] == ["fcfs", "watermark:0.02", "sjf"]
    assert seeds_of("0-4") == [0, 1, 2, 3, 4]


def test_an_interrupted_run_goes_on_where_it_stopped(tmp_path: Path) -> None:
    """Two of three jobs are kept; the third alone is run, and all three are there in the order asked for."""
    jobs = [Job(CELL, seed, "fcfs", "none") for seed in range(3)]
    asked: list[Job] = []

    def run(some: list[Job]) -> list[dict[str, Any]]:
        asked.extend(some)
        return [{**row(CELL.name, "fcfs", 1.0, seed=job.seed)} for job in some]

    path = tmp_path / "runs.jsonl"
    gather(jobs[:2], path, work=run)
    rows = gather(jobs, path, work=run)
    assert [job.seed for job in asked] == [0, 1, 2]
    assert [key_of(each) for each in rows] == [job.key for job in jobs]
    assert len(path.read_text().splitlines()) == 3
    assert json.loads(path.read_text().splitlines()[0])["seed"] == 0


def test_rows_of_other_code_are_run_again_and_make_no_fresh_result(tmp_path: Path) -> None:
    kept = row(CELL.name, "fcfs", 1.0)
    older = {**kept, "sources": "0" * 64}
    path = tmp_path / "runs.jsonl"
    path.write_text(json.dumps(older) + "\n")
    assert gather([Job(CELL, 0, "fcfs", "none")], path, work=lambda _: [kept]) == [kept]
    assert len(path.read_text().splitlines()) == 2
    assert sources_of([kept]) == digest_of("scoreboard")
    assert sources_of([kept, older]) is None


def test_the_load_is_scaled_once_per_cell_and_seed() -> None:
    """Policies of one cell and seed share the trace whose arrivals were scaled by one first-come-first-served run."""
    before = loaded.cache_info().misses
    first, second = build(CELL, 7, "oracle"), build(CELL, 7, "history")
    assert first.trace is second.trace
    assert loaded.cache_info().misses == before + 1


def test_the_front_has_three_hundred_settings_that_repeat() -> None:
    drawn = settings()
    assert len(drawn) >= 300
    assert len({setting.name for setting in drawn}) == len(drawn)
    assert drawn == settings()
    assert {kind_of(setting.rule) for setting in drawn} == {"N", "B"}
    assert {setting.reload for setting in drawn} == {False, True}


def test_the_programs_settings_repeat_and_the_shipped_ones_are_the_policies() -> None:
    drawn = program_settings()
    assert len({setting.name for setting in drawn}) == len(drawn) >= 60
    assert drawn == program_settings()
    for name in ("kvhorizon", "kvhorizon/strict", "kvhorizon/means"):
        (ours,), theirs = [setting.policy for setting in drawn if setting.name == name], parse_policy(name)
        assert (ours.plugin, ours.program) == (theirs.plugin, settings_of(theirs.planner or Knob.BALANCED))


@pytest.mark.parametrize(
    ("ours", "beaten"),
    [((0.98, 1.01, 1.01), True), ((0.98, 1.02, 0.5), False), ((0.99, 0.99, 0.99), False), ((1.01, 1.01, 0.97), True)],
)
def test_to_dominate_is_two_percent_better_somewhere_and_one_percent_worse_at_most(
    ours: tuple[float, float, float], beaten: bool
) -> None:
    assert dominates(ours, (1.0, 1.0, 1.0)) is beaten


def test_few_points_cover_a_front() -> None:
    """The second dominates two of three, the first one of them, the third the last, the fourth none."""
    theirs = [(1.0, 1.0, 1.0), (1.0, 1.2, 1.0), (2.0, 0.5, 0.5)]
    ours = [(0.9, 1.2, 1.0), (0.9, 1.0, 1.0), (1.9, 0.5, 0.5), (3.0, 3.0, 3.0)]
    assert covering(ours, theirs) == [1, 2]
    assert covering(ours, theirs, most=1) == [1]


def test_dominated_points_are_left_out() -> None:
    """(1, 3), (2, 2) and (3, 1) are the front; (2, 3) is beaten by the first two; equal points stay."""
    assert not_dominated([(1, 3), (2, 2), (3, 1), (2, 3), (2, 2)]) == [0, 1, 2, 4]
