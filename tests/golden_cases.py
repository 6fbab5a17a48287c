"""Twelve fixed what-ifs that together ask for every policy and every option of the simulated engine.

Each is small and repeats to the last bit: traces are synthetic or written here, and the program is given work units.
The cases use the public `kvhorizon.what_if` and the writer of recordings, and nothing else of the package.
"""

from __future__ import annotations

import csv
import json
import random
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import kvhorizon
from kvhorizon.recording.schema import Row
from kvhorizon.recording.write import write_rows

SMALL_POOL = {"gpu": "a100-40gb", "kv_blocks": 700, "load": 1.3}
LARGE_POOL = {"gpu": "a100-40gb", "kv_blocks": 3000, "load": 1.3}  # for outputs of thousands of tokens
BASIC = ("fcfs", "watermark:0.02", "kvhorizon:greedy", "kvhorizon")
PRESETS = ("balanced", "means", "strict", "max-wait:30")  # of the objective
ABLATIONS = ("kvhorizon:no-evict", "kvhorizon:point", "kvhorizon:z=0.5")
BASELINES = (
    *("reserve-max", "sglang", "past-future", "sjf", "srpt", "srpt:inf", "mc-sf", "sorted-f", "a-min"),
    *("ltr", "ltr:preemptive", "lcf", "cost-aware", "flops-per-mb"),
)
VICTIMS = ("lifo", "least-computed", "fewest-output", "cost-aware", "flops-per-mb", "remaining-time", "ours", "thrifty")
PARTS = (*(f"victims:{name}" for name in VICTIMS), "admission:ours", "admission:ours/means", "admission:reserve")
CLASSES = {"long": {"weight": 0.25}, "chat": {"weight": 4.0, "ttft_s": 2.0}}
FAILURE = {"fail_at_s": 30.0, "down_for_s": 15.0}
RECORDED_ENGINE = {
    "model": "recorded",
    "total_blocks": 700,
    "block_size": 16,
    "max_num_seqs": 64,
    "max_num_batched_tokens": 512,
    "max_model_len": 8192,
    "cost": {"fixed_s": 0.012, "weights_s": 0.01, "linear_s_per_token": 8e-5, "kv_read_s_per_token": 6e-8},
}

Case = Callable[[Path], dict[str, Any]]


def asked(trace: str | Path, policies: tuple[str, ...], **question: Any) -> dict[str, Any]:
    """`results.json` outside `timing`, as it would be read again."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the results have them
        data = kvhorizon.what_if(trace, policies=policies, work=100, **question).data
    found: dict[str, Any] = json.loads(json.dumps({key: value for key, value in data.items() if key != "timing"}))
    return found


def priorities(folder: Path) -> dict[str, Any]:
    """One request in four goes before the others."""
    draw, now_s = random.Random(7), 0.0
    with (folder / "priorities.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["arrival_s", "prompt_tokens", "output_tokens", "priority"])
        for _ in range(250):
            table.writerow(
                [now_s, 20 + int(600 * draw.random()), 10 + int(500 * draw.random()), int(draw.random() < 0.75)]
            )
            now_s += draw.random() / 4
    policies = ("priority", *BASIC, "kvhorizon:greedy/strict")
    return asked(folder / "priorities.csv", policies, **SMALL_POOL, forecast="oracle")


def recording(folder: Path) -> dict[str, Any]:
    """Requests of two tenants as an engine records them, with what it measured of each."""
    draw, now_s, rows = random.Random(11), 1e9, []
    for number in range(300):
        prompt, output = 20 + int(500 * draw.random()), 20 + int(400 * draw.random())
        ttft_s, tpot_s = 0.05 + 0.4 * draw.random(), 0.03 + 0.01 * draw.random()
        row = Row(
            arrival_s=now_s,
            prompt_tokens=prompt,
            output_tokens=output,
            request_id=f"r{number}",
            tenant=f"tenant-{number % 2}",
            preemptions=int(number % 10 == 0),
            recompute_tokens=(prompt + output // 2) * int(number % 10 == 0),
            ttft_s=ttft_s,
            tpot_s=tpot_s,
            e2e_s=ttft_s + tpot_s * (output - 1),
            finish="stop",
            mode="observe",
        )
        rows.append(row)
        now_s += draw.random() / 2
    write_rows(folder / "recording.parquet", rows, RECORDED_ENGINE)
    return asked(folder / "recording.parquet", BASIC)


CASES: dict[str, Case] = {
    "default_policies": lambda _: asked(
        "synthetic:chat", (*BASIC, "fcfs:free-recompute"), **SMALL_POOL, limit=300, forecast="noisy:0.6"
    ),
    "rules": lambda _: asked(
        "synthetic:reasoning",
        (*(f"kvhorizon:greedy/{preset}" for preset in PRESETS), "kvhorizon:edge-only"),
        **LARGE_POOL,
        limit=300,
    ),
    "programs": lambda _: asked(
        "synthetic:mixed",
        (*(f"kvhorizon/{preset}" for preset in PRESETS), *ABLATIONS),
        **LARGE_POOL,
        limit=150,
        forecast="noisy:0.6",
        delay_s=0.05,
    ),
    "baselines": lambda _: asked(
        "synthetic:bursty", BASELINES, gpu="a100-40gb", kv_blocks=1300, load=2.0, limit=300, forecast="noisy:0.6"
    ),
    "victims_and_admission": lambda _: asked("synthetic:shift", PARTS, **LARGE_POOL, limit=300, seed=1),
    "prefix_caching": lambda _: asked("synthetic:agentic", BASIC, gpu="a100-40gb", kv_blocks=2000, load=4.0, limit=300),
    "priorities": priorities,
    "classes": lambda _: asked(
        "synthetic:mixed", BASIC, **LARGE_POOL, limit=200, forecast="hint:0.5", classes=json.dumps(CLASSES)
    ),
    "fleet": lambda _: asked(
        "synthetic:shared-prompt",
        BASIC,
        gpu="a100-40gb",
        kv_blocks=400,
        load=6.0,
        limit=400,
        replicas=3,
        router="least-kv",
        patience_s=1.0,
        retries=1,
    ),
    "failure": lambda _: asked("synthetic:chat", BASIC, **SMALL_POOL, limit=250, seed=2, **FAILURE),
    "offload": lambda _: asked(
        "synthetic:chat",
        (*BASIC, "kvhorizon:greedy/means"),
        gpu="a100-40gb",
        kv_blocks=1100,
        load=3.0,
        limit=250,
        offload_gb_s=25.0,
        max_output_tokens=1000,
        mix="synthetic:bursty",
        mix_share=0.3,
    ),
    "recording": recording,
}
