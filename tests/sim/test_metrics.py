"""Metrics by hand: two requests whose every number can be checked in the head."""

import dataclasses
import json

import numpy as np
import pytest
from engines import trace

from kvhorizon.models.slo.classes import read_classes
from kvhorizon.sim.metrics import longest, spread, summarize
from kvhorizon.sim.outcome import Outcome


def outcome() -> Outcome:
    """Arrivals at 0 and 1 s, outputs 11 and 1: first tokens at 1 and 2 s, finishes at 3 and 2 s."""
    return Outcome(
        first_token_s=np.array([1.0, 2.0]),
        finish_s=np.array([3.0, 2.0]),
        preemptions=np.array([1, 0]),
        recompute_tokens=np.array([40, 0]),
        wasted_flops=np.array([25.0, 0.0]),
        steps=12,
        busy_s=2.7,
        makespan_s=3.0,
        recompute_s=0.3,
        flops=100.0,
        timeline=np.zeros((0, 4)),
        preempted_at=np.zeros((0, 2)),
        plans={"program": 2},
    )


def summary(**changes: object) -> dict:
    load = trace([0.0, 1.0], [100, 50], [11, 1])
    arguments = {
        "prefill_alone_s": np.array([0.1, 0.1]),
        "service_alone_s": np.array([1.5, 0.5]),
        "tpot_target_s": 0.25,
    }
    return summarize(load, outcome(), **{**arguments, **changes})


def test_classes_of_service_by_hand() -> None:
    """TTFT 1 and 1, TPOT 0.2 and none: the first is too slow for its class, the second of one without targets."""
    load = dataclasses.replace(trace([0.0, 1.0], [100, 50], [11, 1]), slo_class=("chat", "unheard of"))
    classes = read_classes({"chat": {"weight": 4, "ttft_s": 2.0, "tpot_s": 0.1}, "no_request": {}})
    alone = {name: np.array([0.1, 0.1]) for name in ("prefill_alone_s", "service_alone_s")}
    row = summarize(load, outcome(), **alone, tpot_target_s=0.25, classes=classes)
    assert list(row["classes"]) == ["chat", "default"]
    assert row["classes"]["chat"]["slo_attainment"] == row["slo_attainment"] == 0.0
    assert row["classes"]["chat"]["ttft_s"]["p99"] == 1.0
    assert row["classes"]["default"]["slo_attainment"] is None
    lenient = read_classes({"chat": {"ttft_s": 1.0}, "default": {"ttft_s": 0.9}})
    row = summarize(load, outcome(), **alone, tpot_target_s=0.25, classes=lenient)
    assert [row["classes"][name]["slo_attainment"] for name in ("chat", "default")] == [1.0, 0.0]
    assert row["slo_attainment"] == 0.5
    assert summary()["slo_attainment"] is None


def test_by_hand() -> None:
    """TTFT 1 and 1; TPOT (3 − 1)/10 = 0.2 of the first alone; e2e 3 and 1; slowdown 2 and 2; 162 tokens in 3 s."""
    row = summary()
    assert row["finished"] == row["requests"] == 2
    assert row["ttft_s"]["mean"] == 1.0
    assert row["tpot_s"]["mean"] == pytest.approx(0.2)
    assert row["e2e_s"]["mean"] == 2.0
    assert row["slowdown"] == {"mean": 2.0, "p50": 2.0, "p90": 2.0, "p99": 2.0, "max": 2.0}
    assert row["throughput_tok_s"] == pytest.approx(162 / 3)
    assert row["throughput_in_window_tok_s"] == 0.0  # no request finished by the last arrival at 1 s
    assert row["gpu_utilization"] == pytest.approx(0.9)
    assert row["recompute_fraction"] == 0.25
    assert row["preemption_frequency"] == 0.5
    assert row["goodput"] == 1.0
    assert row["max_wait_s"] == 1.0
    assert row["time_to_90pct_s"] == 3.0
    assert json.loads(json.dumps(row)) == row


def test_goodput_needs_both_targets() -> None:
    """A TPOT target of 0.19 s fails the first; its one token lets the second pass."""
    assert summary(tpot_target_s=0.19)["goodput"] == 0.5


def test_what_never_finished_is_absent_not_nan() -> None:
    lost = dataclasses.replace(outcome(), finish_s=np.array([3.0, np.nan]), first_token_s=np.array([1.0, np.nan]))
    load = trace([0.0, 1.0], [100, 50], [11, 1])
    row = summarize(load, lost, prefill_alone_s=np.ones(2), service_alone_s=np.ones(2), tpot_target_s=0.25)
    assert row["finished"] == 1
    assert row["goodput"] == 0.5
    assert "NaN" not in json.dumps(row)


def test_the_longest_tenth() -> None:
    """Of twenty outputs 1 … 20, those of 19 and 20."""
    assert np.flatnonzero(longest(np.arange(1, 21))).tolist() == [18, 19]


def test_nothing_finite_has_no_percentiles() -> None:
    assert spread(np.array([np.nan])) == {"mean": None, "p50": None, "p90": None, "p99": None}
