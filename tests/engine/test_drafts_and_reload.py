"""Speculative decoding and KV in host memory on vLLM's engine with a model, and a pool too small for the load.

Each engine serves the same requests three times: vLLM alone, a few at a time, so that all have room; all at once under
the plugin's control; and again while plans ask for evictions. The model computes in single precision, so that batches
of other sizes do not flip near-ties.
"""

import json
import os
import subprocess
import sys
from functools import cache
from typing import Any

import pytest

pytest.importorskip("vllm", reason="vLLM is not installed: `make engine` sets it up")

KINDS = ("ngram", "draft reload", "reload asynchronous")
DRAFTING = SYNCHRONOUS = KINDS[:2]
LOADING = KINDS[1:]
UNDER_CONTROL = ("control", "plans")


@cache
def found(kinds: str) -> dict[str, Any]:
    """What came of an engine, in a process of its own."""
    environment = os.environ | {"VLLM_LOGGING_LEVEL": "ERROR", "TORCHDYNAMO_DISABLE": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "experiments.engine._tiny_run", *kinds.split()],
        capture_output=True, text=True, env=environment, check=False, timeout=300,
    )  # fmt: skip
    lines = [line for line in done.stdout.splitlines() if line.startswith("FOUND ")]
    assert lines, done.stderr[-3000:]
    return json.loads(lines[-1].removeprefix("FOUND "))


@pytest.mark.parametrize("kinds", KINDS)
def test_tokens_are_those_of_vllm_alone(kinds: str) -> None:
    """With drafts or without, evicted or not, computed again or loaded."""
    ours = found(kinds)
    assert ours["plain"]["preemptions"] == 0
    assert [len(tokens) for tokens in ours["plain"]["tokens"]] == [40 + 3 * n for n in range(24)]
    assert ours["plain"]["tokens"] == found("ngram")["plain"]["tokens"]
    for load in UNDER_CONTROL:
        assert ours[load]["preemptions"] > 5
        assert ours[load]["differ"] == []


@pytest.mark.parametrize("load", ["plain", *UNDER_CONTROL])
@pytest.mark.parametrize("kinds", KINDS)
def test_nothing_goes_wrong(kinds: str, load: str) -> None:
    served = found(kinds)[load]
    assert (served["plugin_errors"], served["block_errors"], served["left"]) == (0, 0, 0)


@pytest.mark.parametrize("load", ["plain", *UNDER_CONTROL])
@pytest.mark.parametrize("kinds", SYNCHRONOUS)
def test_a_step_takes_the_tokens_and_blocks_that_were_expected(kinds: str, load: str) -> None:
    """Of each running request: its drafts, and no block that refused drafts have left it already."""
    served = found(kinds)[load]
    assert served["expected"] > 200
    assert served["surprises"] == []


@pytest.mark.parametrize("load", UNDER_CONTROL)
@pytest.mark.parametrize("kinds", KINDS)
def test_recompute_is_counted_to_the_token(kinds: str, load: str) -> None:
    served = found(kinds)[load]
    assert served["recomputed"] == served["audited"] > 0


@pytest.mark.parametrize("kinds", DRAFTING)
def test_drafts_are_taken_and_refused(kinds: str) -> None:
    served = found(kinds)["control"]
    assert 0 < served["accepted"] < served["drafts"]


def test_the_pace_is_that_of_the_drafts() -> None:
    """A decode gains as many tokens a step as are learned; with an n-gram lookup that finds little, one."""
    served = found("draft reload")["plain"]
    assert served["learned"] == pytest.approx(served["decoded"] / served["decodes"], rel=0.05)
    assert served["learned"] > 3.0
    assert found("ngram")["plain"]["learned"] == 1.0


@pytest.mark.parametrize("kinds", LOADING)
def test_evicted_kv_comes_back_from_host_memory(kinds: str) -> None:
    """Most of it; what is computed again is the rest."""
    ours = found(kinds)
    assert ours["may_evict"]
    for load in UNDER_CONTROL:
        assert ours[load]["loading"] > 1
        assert ours[load]["restored"] > ours[load]["recomputed"]
    assert ours["plans"]["evicted"] > 5
    assert ours["kept"] > 0.5
    assert found("ngram")["control"]["restored"] == 0
    assert not found("ngram")["may_evict"]


@pytest.mark.parametrize("kinds", LOADING)
def test_who_leaves_while_its_kv_is_on_the_way_harms_no_request(kinds: str) -> None:
    served = found(kinds)["plans"]
    assert len(served["aborted"]) > 0
    assert served["left"] == 0
