"""vLLM's whole engine on the CPU with our scheduler, as a user starts it: by name, in a process of its own.

One engine serves all the tests here; the model is tiny, its weights seeded noise, so that tokens can be compared.
"""

import json
import os
import subprocess
import sys

import pytest

pytest.importorskip("vllm", reason="vLLM is not installed: `make engine` sets it up")

from test_plugin_session import alive

from experiments.common._scratch import SERVED, model_folder

ENGINE = """
import json, os, sys
os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
from vllm import LLM, SamplingParams
from kvhorizon.adapter.modes import Mode

if __name__ == "__main__":
    llm = LLM(
        model=sys.argv[1], load_format="dummy", skip_tokenizer_init=True, max_model_len=512, seed=1,
        dtype="float32", enforce_eager=True, enable_prefix_caching=False, num_gpu_blocks_override=24,
        max_num_seqs=16, block_size=32, disable_log_stats=False, scheduler_cls="kvhorizon.adapter.make_scheduler",
    )
    prompts = [{"prompt_token_ids": [(7 * n + k) % 1000 + 3 for k in range(20 + n)]} for n in range(24)]
    sampling = [
        SamplingParams(temperature=0.0, max_tokens=40 + 3 * n, ignore_eos=True, extra_args={"pred_len": 40 + 3 * n})
        for n in range(24)
    ]
    scheduler = llm.llm_engine.engine_core.engine_core.scheduler
    plugin, found = scheduler.kvhorizon, {"kind": type(scheduler).__name__}
    for mode in (Mode.OFF, Mode.CONTROL):
        plugin.switch.chosen = mode
        before = plugin.accounting.total.preemptions
        done = llm.generate(prompts, sampling, use_tqdm=False)
        found[mode.value] = {
            "tokens": [list(one.outputs[0].token_ids) for one in done],
            "preemptions": plugin.accounting.total.preemptions - before,
        }
    found["finished"], found["tracked"] = plugin.accounting.finished, plugin.accounting.tracked
    found["flops"] = plugin.accounting.useful_flops
    found["errors"] = plugin.guard.total + plugin.account_guard.total
    found["ladder"], found["hints"] = dict(plugin.ladder), dict(plugin.hints)
    child = plugin.session.solver.child
    found["child"] = None if child is None else child.pid
    print("FOUND " + json.dumps(found), flush=True)
    os._exit(0)  # as if the engine crashed: nothing stops the child
"""


@pytest.fixture(scope="module")
def found() -> dict:
    """One engine, the same requests twice: with the plugin off, and under its control."""
    done = subprocess.run(
        [sys.executable, "-c", ENGINE, model_folder(SERVED)],
        capture_output=True, text=True, env=dict(os.environ), check=False, timeout=300,
    )  # fmt: skip
    lines = [line for line in done.stdout.splitlines() if line.startswith("FOUND ")]
    assert lines, done.stderr[-3000:]
    return json.loads(lines[-1].removeprefix("FOUND "))


def test_the_engine_takes_our_scheduler_by_name(found: dict) -> None:
    assert found["kind"] in ("KvhorizonScheduler", "AsyncKvhorizonScheduler")
    assert found["errors"] == 0
    assert found["ladder"]["local"] + found["ladder"].get("plan", 0) > 100


def test_tokens_are_the_same_whoever_is_evicted(found: dict) -> None:
    """Greedy sampling; float32, so that batches of other sizes do not flip near-ties."""
    assert found["off"]["preemptions"] > 0
    assert found["control"]["preemptions"] > 0
    assert [len(tokens) for tokens in found["control"]["tokens"]] == [40 + 3 * n for n in range(24)]
    assert found["control"]["tokens"] == found["off"]["tokens"]


def test_everything_is_accounted_for(found: dict) -> None:
    assert (found["finished"], found["tracked"]) == (48, 0)
    assert found["flops"] > 0.0
    assert found["hints"] == {"used": 48}


def test_a_vanished_engine_leaves_no_child(found: dict) -> None:
    assert found["child"] is None or not alive(found["child"])
