"""In bfloat16, where near-ties flip with the batch: do our evictions flip tokens that vLLM's own would not?

The same requests three times on one engine with real weights: a few at a time, so that no request is evicted (that run
says which tokens are right, and how far ahead of the others each was); all at once with vLLM alone, which preempts; and
all at once under control. Where a run parts from the first, the first's log-probabilities tell whether it was a
near-tie: the logits are of size 4 … 16, where bfloat16 has steps of 1/32 and 1/16, so that NEAR_TIE is two roundings.
What follows a flip is another text and is not compared. Needs `make engine`.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # the plugin is asked in this process

from vllm import LLM, SamplingParams

from experiments.common._harness import Figures, Options, Targets, main, target
from experiments.live.serving._live_model import END, VOCABULARY, write_model
from kvhorizon.adapter.modes import Mode

SEED = 0
ROUNDS, QUICK_ROUNDS = 4, 1
REQUESTS = 20  # of a round
OUTPUT_TOKENS = (40, 135)
PROMPT_TOKENS = (20, 40)
TOGETHER = 3  # these always fit
NEAR_TIE = 1.0 / 8.0  # nats
TOP = 10
CONTENDERS = {"plain": Mode.OFF, "ours": Mode.CONTROL}


def engine() -> Any:
    """Blocks for a third of what sixteen requests need."""
    return LLM(
        model=str(write_model()),
        skip_tokenizer_init=True,
        max_model_len=512,
        seed=1,
        dtype="bfloat16",
        enforce_eager=True,
        enable_prefix_caching=False,
        num_gpu_blocks_override=24,
        max_num_seqs=16,
        block_size=32,
        scheduler_cls="kvhorizon.adapter.make_scheduler",
        additional_config={"kvhorizon": {"local_only": True}},
    )


class Load:
    """One round's requests."""

    def __init__(self, seed: int) -> None:
        random = np.random.default_rng(seed)
        sizes = random.integers(*PROMPT_TOKENS, REQUESTS, endpoint=True)
        self.prompts = [{"prompt_token_ids": random.integers(END + 1, VOCABULARY, size).tolist()} for size in sizes]
        self.outputs = random.integers(*OUTPUT_TOKENS, REQUESTS, endpoint=True).tolist()

    def served(self, llm: Any, together: int, logprobs: int | None = None) -> list[Any]:
        """So many at a time; each one's output."""
        found = []
        for begin in range(0, REQUESTS, together):
            part = slice(begin, begin + together)
            sampling = [
                SamplingParams(temperature=0.0, max_tokens=tokens, ignore_eos=True, logprobs=logprobs)
                for tokens in self.outputs[part]
            ]
            found += [done.outputs[0] for done in llm.generate(self.prompts[part], sampling, use_tqdm=False)]
        return found


def gaps(reference: Sequence[Any], other: Sequence[Any]) -> list[float]:
    """Of each request that parted from the reference: how far the two tokens lay apart there [nats]."""
    found = []
    for right, ours in zip(reference, other, strict=True):
        pairs = zip(right.token_ids, ours.token_ids, right.logprobs, strict=True)
        for one, two, top in pairs:
            if one != two:
                found.append(top[one].logprob - top[two].logprob if two in top else float("inf"))
                break
    return found


def measure(options: Options) -> tuple[Figures, Targets]:
    """Each round: the reference, then both."""
    llm = engine()
    plugin = llm.llm_engine.engine_core.engine_core.scheduler.kvhorizon
    rows: dict[str, dict[str, Any]] = {name: {"preemptions": 0, "gaps": []} for name in CONTENDERS}
    undisturbed = 0
    rounds = QUICK_ROUNDS if options.quick else ROUNDS
    for seed in range(SEED, SEED + rounds):
        load, total = Load(seed), plugin.accounting.total
        plugin.switch.chosen, before = Mode.OFF, total.preemptions
        reference = load.served(llm, TOGETHER, TOP)
        undisturbed += total.preemptions - before
        for name, mode in CONTENDERS.items():
            plugin.switch.chosen, before = mode, total.preemptions
            rows[name]["gaps"] += gaps(reference, load.served(llm, REQUESTS))
            rows[name]["preemptions"] += total.preemptions - before
    figures = {"requests": rounds * REQUESTS, "reference_preemptions": undisturbed, **{n: said(rows[n]) for n in rows}}
    return figures, {"token_mismatches": target(figures["ours"]["beyond_near_ties"], "<=0")}


def said(row: Mapping[str, Any]) -> dict[str, Any]:
    """Requests that parted, those of them beyond a near-tie, and how often each gap was seen."""
    counted = {f"{gap:.4f}": len(list(same)) for gap, same in itertools.groupby(sorted(row["gaps"]))}
    beyond = sum(gap > NEAR_TIE for gap in row["gaps"])
    return {
        "preemptions": row["preemptions"],
        "parted": len(row["gaps"]),
        "beyond_near_ties": beyond,
        "gaps": counted,
    }


if __name__ == "__main__":
    main("near_ties", SEED, measure)
