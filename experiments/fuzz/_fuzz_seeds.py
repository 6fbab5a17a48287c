"""Valid inputs of every kind that is read: what the fuzzer begins with."""

from __future__ import annotations

import gzip
import json
import tempfile
from dataclasses import replace
from importlib import resources
from pathlib import Path

import numpy as np

from kvhorizon.models.forecast.history.history import LengthHistory
from kvhorizon.models.forecast.history.state import save_history
from kvhorizon.models.forecast.learned.learned import LearnedModel, save_model
from kvhorizon.models.forecast.learned.trees import from_lightgbm
from kvhorizon.recording.schema import Row
from kvhorizon.recording.write import write_rows
from kvhorizon.service.warm_up import sample_snapshot
from kvhorizon.solver.snapshot_json import snapshot_to_json
from kvhorizon.state import Plan, Snapshot, Source
from kvhorizon.wire.convert import encode_plan, encode_snapshot
from kvhorizon.wire.delta import encode_delta
from kvhorizon.wire.v1 import scheduler_pb2 as pb

OWN = (
    b"arrival_s,prompt_tokens,output_tokens,client,session,priority,prefix_hashes\n"
    b"5.0,10,3,b,s,0,7 8\n4.5,30,5,a,,-1,7\n"
)
AZURE = (
    b"TIMESTAMP,ContextTokens,GeneratedTokens\n"
    b"2023-11-16 18:15:46.6805900,374,44\n2024-05-10 00:00:00.009930+00:00,7,2\n"
)
BURST = (
    b"Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
    b"5,GPT-4,472,18,490,API log\n45,GPT-4,1,2,3,x\n"
)
MOONCAKE = (
    b'{"timestamp": 27482, "input_length": 6955, "output_length": 52, "hash_ids": [46, 47]}\n'
    b'{"timestamp": 30535, "input_length": 6472, "output_length": 26, "hash_ids": [46]}\n'
)
ACCESS = (
    b'{"id": "c", "created": 1700000000, "usage": {"prompt_tokens": 12, "completion_tokens": 5}}\n'
    b'{"timestamp": "2024-05-01T10:00:00.5Z", "request": {"user": "t", "max_tokens": 64}, "ttft_s": 0.2,'
    b' "latency_s": 1.0, "response": {"id": "r", "usage": {"prompt_tokens": 7, "completion_tokens": 3}}}\n',
    b'[{"ts": 1700000000123, "input_tokens": 4, "output_tokens": 2, "request_id": "f", "tenant": "x"}]',
)
BENCHMARK = (
    b'{"input_lens": [10, 20, 30], "output_lens": [3, 1, 0], "ttfts": [0.1, 0.2, 0.0], "itls": [[0.05, 0.07], [], []],'
    b' "start_times": [100.0, 101.5, 102.0], "generated_texts": ["s", "", ""], "errors": ["", "", "boom"]}',
    b'{"input_lens": [10, 20], "output_lens": [3, 1], "request_rate": 2.5}\n{"input_lens": [1], "output_lens": [2],'
    b' "request_rate": Infinity}\n',
)
SCRAPE = (
    b"# TYPE vllm:request_prompt_tokens histogram\n"
    b'vllm:request_prompt_tokens_bucket{engine="0",le="10.0",model_name="m"} 3.0\n'
    b'vllm:request_prompt_tokens_bucket{engine="0",le="+Inf",model_name="m"} 9.0\n'
    b"# TYPE vllm:request_generation_tokens histogram\n"
    b'vllm:request_generation_tokens_bucket{engine="0",le="5.0",model_name="m"} 4.0\n'
    b'vllm:request_generation_tokens_bucket{engine="0",le="+Inf",model_name="m"} 9.0\n'
    b"# TYPE process_start_time_seconds gauge\nprocess_start_time_seconds 1.7e+09\n"
)
SERVICE = b'listen = "localhost:50051"\nbudget = "50ms"\nknob = "means"\nmetrics_port = 0\ntls_cert = "a.pem"\n'
PLUGIN = (
    b'{"kvhorizon": {"mode": "observe", "canary": 0.5, "canary_window_s": 30, "knob": "means", "solver": "unix:/x",'
    b' "record": "/r", "record_limit_mb": 7, "record_tenants": "given", "http_port": 80, "evict": false}}'
)
HUGGING_FACE = (
    b'{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 256, "intermediate_size": 512,'
    b' "num_attention_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": 2, "vocab_size": 1024,'
    b' "max_position_embeddings": 4096, "tie_word_embeddings": false, "torch_dtype": "bfloat16"}',
    b'{"model_type": "qwen3_moe", "hidden_size": 2048, "intermediate_size": 6144, "moe_intermediate_size": 768,'
    b' "num_experts": 128, "num_experts_per_tok": 8, "decoder_sparse_step": 1, "num_attention_heads": 32,'
    b' "head_dim": 128, "num_key_value_heads": 4, "num_hidden_layers": 48, "vocab_size": 151936,'
    b' "max_position_embeddings": 40960, "sliding_window": 128, "use_sliding_window": true,'
    b' "quantization_config": {"quant_method": "fp8", "bits": 8}}',
    b'{"text_config": {"model_type": "deepseek_v3", "hidden_size": 7168, "intermediate_size": 18432,'
    b' "kv_lora_rank": 512, "q_lora_rank": 1536, "qk_rope_head_dim": 64, "qk_nope_head_dim": 128, "v_head_dim": 128, '
    b' "n_routed_experts": 256, "n_shared_experts": 1,'
    b' "num_experts_per_tok": 8, "moe_intermediate_size": 2048, "first_k_dense_replace": 3,'
    b' "num_attention_heads": 128, "num_key_value_heads": 128, "num_hidden_layers": 61, "vocab_size": 129280,'
    b' "max_position_embeddings": 163840}}',
)
ARGUMENTS = (
    *(b"load=0.6:1.5:0.1", b"gpu=a100-40gb,l4-24gb", b"kv-blocks=100,200", b"delay_s=0:1:.5"),
    *(b"ttft_p99<=2s,goodput>=95%", b"e2e_mean<=1500ms", b"throughput_tok_s>=1e3"),
    *(b"fcfs", b"watermark:0.02", b"kvhorizon:greedy/means", b"kvhorizon:z=1.5", b"admission:reserve/strict"),
    *(b"noisy:0.6", b"hint:1", b"oracle", b"5ms", b"0.05s", b"100"),
)
HINTS = (b"218", b"[100, 400]", b'"summary"', b'"[1, 2]"', b'{"a": 1}', b"null", b'"17"')


def plan() -> Plan:
    """Of the sample snapshot."""
    handles = np.array([7], np.uint64)
    return Plan(
        engine_epoch=0,
        based_on_revision=1,
        source=Source.PROGRAM,
        admissions=handles,
        admit_at_steps=np.zeros(1),
        evictions=np.array([3], np.uint64),
        bucket_steps=np.array([0.0, 8.0]),
        block_prices=np.array([0.1, 0.0]),
        objective=2.0,
        bound=1.0,
    )


def later(snapshot: Snapshot) -> Snapshot:
    """The sample a step on: one request gone, all running ones a token further."""
    requests = snapshot.requests
    columns = {name: getattr(requests, name)[1:] for name in requests.__dataclass_fields__}
    columns["generated_tokens"] = columns["generated_tokens"] + 1
    return replace(
        snapshot,
        revision=snapshot.revision + 1,
        num_running=snapshot.num_running - 1,
        requests=type(requests)(**columns),
    )


def small_snapshot() -> Snapshot:
    """The sample without curves, so that mutations meet what is more than numbers of a table."""
    sample = sample_snapshot()
    kinds = np.minimum(sample.requests.forecast_kind, 1)
    requests = replace(sample.requests, forecast_kind=kinds.astype(np.uint8))
    return replace(sample, requests=requests, curves=np.zeros((0, 0)), curves_version=0)


def snapshots() -> list[bytes]:
    return [encode_snapshot(one).SerializeToString() for one in (small_snapshot(), small_snapshot(), sample_snapshot())]


def plans() -> list[bytes]:
    return [encode_plan(plan()).SerializeToString(), pb.Plan(resync=pb.Resync(reason="r")).SerializeToString()]


def updates() -> list[bytes]:
    sample = small_snapshot()
    opened = pb.Update(open=pb.Open(snapshot=encode_snapshot(sample)))
    return [opened.SerializeToString(), pb.Update(delta=encode_delta(sample, later(sample))).SerializeToString()]


def explains() -> list[bytes]:
    whole = pb.ExplainRequest(snapshot=encode_snapshot(small_snapshot()), handle=[1, 7])
    return [whole.SerializeToString(), pb.ExplainRequest(engine_id="e", handle=[1]).SerializeToString()]


def snapshot_texts() -> list[bytes]:
    written = resources.files("kvhorizon").joinpath("../docs/snapshot.json")
    known = [written.read_bytes()] if written.is_file() else []
    return [snapshot_to_json(small_snapshot()).encode(), *known]


def recordings() -> list[bytes]:
    """Parquet files: one by the plugin, with facts of its engine; one converted, with little in it."""
    facts = {"total_blocks": 1000, "block_size": 16, "max_num_seqs": 64, "max_num_batched_tokens": 2048}
    facts |= {"max_model_len": 4096, "cost": {"fixed_s": 0.01, "linear_s_per_token": 1e-5}, "model": "m"}
    full = Row(1.7e9, 10, 3, "r", 64, 1, "t", 2, 5, 1, 1e9, 0.1, 0.2, 0.05, 0.3, "stop", "observe", (1, 2), "s", 5)
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for rows, described in (([full, full._replace(arrival_s=1.8e9)], facts), ([Row(0.0, 1, 1)], {})):
            path = Path(folder) / "r.parquet"
            write_rows(path, rows, described)
            found.append(path.read_bytes())
    return found


def gzipped() -> list[bytes]:
    return [gzip.compress(text, mtime=0) for text in (OWN, AZURE, MOONCAKE)]


def models() -> list[bytes]:
    """A learned forecast of two quantiles, each with a tree of one split."""
    split = {
        "split_feature": 0,
        "threshold": 3.0,
        "left_child": {"leaf_value": 1.0},
        "right_child": {"leaf_value": 2.0},
    }
    trees = from_lightgbm([{"tree_info": [{"tree_structure": split}]}] * 2)
    centres = np.array([[3.0, 4.0], [5.0, 6.0]])
    model = LearnedModel(trees, np.zeros(2), centres, np.array([0, 1]), np.array([[0, 30], [1, 200]]), {"requests": 2})
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "m.json"
        save_model(model, path)
        return [path.read_bytes()]


def histories() -> list[bytes]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "h.npz"
        save_history(LengthHistory(), path)
        return [path.read_bytes()]


def kept_answers() -> list[bytes]:
    return [json.dumps({"key": "k", "results": {"policies": []}}).encode() + b"\n"]
