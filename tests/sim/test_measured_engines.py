"""Fitting an engine to half of its run: an engine with known coefficients is found again, and nothing else is read."""

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("pandas")
pytest.importorskip("scipy")

from data import shared_data

from experiments.parity._measured_fit import expected, fit, scaled
from experiments.parity._measured_runs import FCFS, MODELS, MeasuredRun, by_second, load, trajectory
from experiments.parity.measured_engines import errors, latencies, score
from kvhorizon.models.performance.shape import builtin
from kvhorizon.sim.replay import replay
from kvhorizon.sim.workload.trace import Trace

REQUESTS = 60
TRUTH = np.array([0.4, -0.5, 0.6, 0.5, 0.3])  # spreads from what is expected


@pytest.fixture(scope="module")
def run() -> MeasuredRun:
    """A run of the simulated engine itself, with coefficients off the expected ones: 8 seats, more arrivals than it
    can take, 15 s of work."""
    rng = np.random.default_rng(0)
    trace = Trace(
        name="known",
        sha256="",
        arrival_s=np.sort(rng.uniform(0.0, 8.0, REQUESTS)) * (np.arange(REQUESTS) > 0),
        prompt_tokens=rng.integers(200, 1500, REQUESTS),
        output_tokens=rng.integers(80, 250, REQUESTS),
        key=np.zeros(REQUESTS, np.int64),
    )
    nothing = np.zeros(0)
    bare = MeasuredRun(builtin("llama-3.1-8b"), 1, 1, 8, 2048, trace, nothing, nothing, nothing, nothing)
    cost = scaled(expected(bare), TRUTH).cost(bare)
    outcome = replay(bare.setup(cost), FCFS)
    steps = trajectory(bare, cost, np.inf)
    ends = np.searchsorted(steps[:, 0], np.arange(1.0, np.ceil(outcome.makespan_s) + 1.0), side="right") - 1
    tokens = steps[ends, 1:]
    return replace(
        bare,
        first_token_s=outcome.first_token_s,
        last_token_s=outcome.finish_s,
        prompt_tokens=tokens[:, 0],
        output_tokens=tokens[:, 1],
    )


def test_walk_ends_like_the_replay(run: MeasuredRun) -> None:
    """Same end, every token counted once; the smooth curve reaches the same totals."""
    steps = trajectory(run, scaled(expected(run), TRUTH).cost(run), np.inf)
    asked = [run.trace.prompt_tokens.sum(), run.trace.output_tokens.sum()]
    assert steps[-1, 0] == pytest.approx(run.last_token_s.max(), rel=1e-9)
    assert steps[-1, 1:].tolist() == asked
    assert (np.diff(steps, axis=0) >= 0).all()
    assert by_second(steps, steps[-1:, 0] + 1.0)[0] == pytest.approx(asked, rel=0.01)


def test_a_known_engine_is_found_and_the_second_half_not_read(run: MeasuredRun) -> None:
    """The second half is predicted within 2 %; with its measured times destroyed, the fit is bit for bit the same."""
    fitted = fit(run)
    outcome = replay(run.setup(fitted.cost(run)), FCFS)
    later = run.first_token_s > run.half_s
    assert later.sum() > 15
    simulated = latencies(run, outcome.first_token_s, outcome.finish_s, later)
    measured = latencies(run, run.first_token_s, run.last_token_s, later)
    assert max(errors(simulated, measured).values()) < 0.02
    lost = np.full(REQUESTS, np.nan)
    prompt, output = run.prompt_tokens.copy(), run.output_tokens.copy()
    prompt[run.half_s :] = output[run.half_s :] = -1.0
    blind = replace(run, first_token_s=lost, last_token_s=lost, prompt_tokens=prompt, output_tokens=output)
    assert fit(blind) == fitted


def test_errors_by_hand() -> None:
    """TTFT 2 s for 1 s is off by 0.1 of an e2e latency of 10 s."""
    measured = {"ttft": 1.0, "tpot": 0.05, "e2e": 10.0}
    simulated = {"ttft": 2.0, "tpot": 0.04, "e2e": 9.0}
    expected_errors = {"ttft_mean_err": 0.1, "tpot_mean_err": 0.2, "e2e_mean_err": 0.1}
    assert errors(simulated, measured) == pytest.approx(expected_errors)


def test_measured_runs_are_read_whole() -> None:
    """Tokens of the time series are those of the requests; the engines are those of the meta files."""
    shared_data()
    seats = []
    for name in MODELS:
        run = load(name)
        assert run.prompt_tokens[-1] == run.trace.prompt_tokens.sum()
        assert run.output_tokens[-1] == run.trace.output_tokens.sum()
        assert (run.first_token_s < run.last_token_s).all()
        assert (run.trace.arrival_s <= run.first_token_s).all()
        assert score(run, expected(run))["throughput_err"] < 0.5
        seats.append((run.max_num_seqs, run.max_num_batched_tokens, run.gpus, run.replicas))
    assert seats == [(128, 2048, 1, 1), (256, 4096, 2, 2), (128, 2048, 2, 1)]
