"""What would KV offloading buy? Evicted KV comes back over the bus instead of being computed again."""

import dataclasses
from pathlib import Path

import pytest

from kvhorizon.errors import InputError
from kvhorizon.models.performance.kv_offload import UNKNOWN_KV_BYTES, kv_bytes_on_one, reload_s_per_token
from kvhorizon.recording.read import Recording, read_recording
from kvhorizon.recording.schema import Row
from kvhorizon.recording.write import write_rows
from kvhorizon.whatif.engine_spec import engine_spec, load_model
from kvhorizon.whatif.many import answer_all
from kvhorizon.whatif.question import Question, prepare
from kvhorizon.whatif.sweep import parse_axis, points

ASKED = Question("synthetic:chat", gpu="l4-24gb", kv_blocks=700, load=1.2, limit=300, policies=("fcfs",))


def test_a_token_of_an_8b_model_takes_five_microseconds() -> None:
    """32 layers, 8 heads of 128, keys and values, 2 bytes: 131,072 bytes at 25 GB/s."""
    assert kv_bytes_on_one(load_model("llama-3.1-8b"), 1) == 131072.0
    assert kv_bytes_on_one(load_model("llama-3.1-8b"), 2) == 65536.0
    assert kv_bytes_on_one(None, 1) == UNKNOWN_KV_BYTES
    assert reload_s_per_token(131072.0) == pytest.approx(5.243e-6, rel=1e-3)


def test_offloading_saves_recomputation_and_the_faster_the_more() -> None:
    asked = points(ASKED, [parse_axis("offload_gb_s=0,1,25")])
    lost, slow, fast = (results["policies"][0] for results in answer_all(asked, 100))
    assert lost["preemptions"] > 50
    assert lost["recompute_tokens"] > 0
    assert fast["recompute_tokens"] < 0.05 * lost["recompute_tokens"]
    assert fast["recompute_gpu_s"] < slow["recompute_gpu_s"]
    assert fast["recompute_gpu_s"] < 0.5 * lost["recompute_gpu_s"]
    assert fast["throughput_tok_s"] >= lost["throughput_tok_s"]


@pytest.mark.parametrize("speed", [-1.0, 1e6, float("nan")])
def test_a_speed_is_a_speed(speed: float) -> None:
    with pytest.raises(InputError, match="offload-gb-s"):
        prepare(dataclasses.replace(ASKED, offload_gb_s=speed))


def recorded(folder: Path, **facts: object) -> Recording:
    """A recording of one request, with facts of an engine."""
    known = {"total_blocks": 700, "block_size": 16, "max_num_seqs": 8, "max_num_batched_tokens": 512}
    path = folder / "r.parquet"
    write_rows(path, [Row(1.0, 10, 5)], {**known, "max_model_len": 4096, "cost": {}, **facts})
    return read_recording(path)


def test_a_recorded_engine_says_how_large_its_kv_is(tmp_path: Path) -> None:
    assert engine_spec(None, None, 1, None, recorded(tmp_path, kv_bytes_per_token=4096.0)).kv_bytes == 4096.0
    assert engine_spec(None, None, 1, None, recorded(tmp_path)).kv_bytes == UNKNOWN_KV_BYTES
    with pytest.raises(InputError, match="kv_bytes_per_token"):
        engine_spec(None, None, 1, None, recorded(tmp_path, kv_bytes_per_token="much"))
