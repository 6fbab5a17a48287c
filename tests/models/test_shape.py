"""Parameters and KV bytes against published numbers; configuration files."""

import json
from dataclasses import replace

import pytest

from kvhorizon.errors import InputError
from kvhorizon.models.performance.shape import ModelShape, builtin, builtin_names, from_config

TOY = ModelShape(
    "toy", layers=1, hidden=4, heads=2, kv_heads=1, head_dim=2, intermediate=8, vocab=10, max_position=64
)  # fmt: skip


def test_counts_the_matrices_of_a_toy() -> None:
    """Attention 4·(2+2)·2 + 2·2·4 = 48, feed-forward 3·4·8 = 96, embedding and head 2·10·4 = 80."""
    assert TOY.attention_params_per_layer == 48
    assert TOY.linear_params_per_token == 144
    assert TOY.active_params == 184
    assert TOY.params == 224
    assert replace(TOY, tied_embeddings=True).params == 184


@pytest.mark.parametrize(
    ("name", "params", "active", "kv_bytes"),
    [
        ("llama-3.1-8b", 8030261248, 7504924672, 131072),
        ("llama-3.1-70b", 70553706496, 69503033344, 327680),
        ("qwen3-32b", 32762123264, 31984210944, 262144),
        ("qwen3-30b-a3b", 30532122624, 3041867776, 98304),
        ("gpt-oss-120b", 116829156672, 5132849472, 73728),
        ("deepseek-v3", 671026419200, 36625618432, 70272),
        ("mixtral-8x7b", 46702792704, 12748853248, 131072),
        ("qwen2.5-7b-instruct", 7615616512, 7070619136, 57344),
    ],
)
def test_agrees_with_the_published_checkpoints(name: str, params: int, active: int, kv_bytes: int) -> None:
    """Within 0.1 %: norms and biases are left out."""
    shape = builtin(name)
    assert shape.params == pytest.approx(params, rel=1e-3)
    assert shape.active_params == pytest.approx(active, rel=1e-3)
    assert shape.kv_bytes_per_token() == kv_bytes


def test_windowed_layers_stop_growing() -> None:
    """gpt-oss-20b: 24 layers of 2·8·64·2 = 2048 bytes; 12 of them keep 128 tokens."""
    shape = builtin("gpt-oss-20b")
    assert shape.kv_bytes_per_token(context_tokens=127) == 24 * 2048
    assert shape.kv_bytes_per_token(context_tokens=128) == 12 * 2048
    assert shape.kv_bytes(1000) == 12 * 2048 * (1000 + 128)
    assert shape.window_kv_bytes() == 12 * 2048 * 128
    assert shape.growing_layers == 12
    assert builtin("mistral-7b-v0.1").growing_layers == 32  # its window of 4096 is not short


def test_kv_is_split_over_gpus_until_heads_run_out() -> None:
    """8 KV heads on 4 and on 16 GPUs; MLA keeps its whole latent vector on each."""
    assert builtin("llama-3.1-70b").kv_share(4) == 1 / 4
    assert builtin("llama-3.1-70b").kv_share(16) == 1 / 8
    assert builtin("deepseek-v3").kv_share(8) == 1.0


def test_names_are_forgiving_and_errors_list_the_known_ones() -> None:
    assert builtin("meta-llama/Llama-3.1-8B") == builtin("llama-3.1-8b")
    with pytest.raises(InputError, match=r"model='gpt-5'.*llama-3\.1-8b"):
        builtin("gpt-5")
    assert len(set(builtin_names())) == 13


LLAMA = {
    "model_type": "llama", "num_hidden_layers": 32, "hidden_size": 4096, "num_attention_heads": 32,
    "num_key_value_heads": 8, "intermediate_size": 14336, "vocab_size": 128256, "max_position_embeddings": 131072,
    "tie_word_embeddings": False, "head_dim": None,
}  # fmt: skip
QWEN3_MOE = {
    "model_type": "qwen3_moe", "num_hidden_layers": 48, "hidden_size": 2048, "num_attention_heads": 32,
    "num_key_value_heads": 4, "head_dim": 128, "intermediate_size": 6144, "moe_intermediate_size": 768,
    "num_experts": 128, "num_experts_per_tok": 8, "mlp_only_layers": [], "vocab_size": 151936, "sliding_window": None,
    "use_sliding_window": False, "max_position_embeddings": 40960, "tie_word_embeddings": False,
}  # fmt: skip
GPT_OSS = {
    "model_type": "gpt_oss", "num_hidden_layers": 24, "hidden_size": 2880, "num_attention_heads": 64,
    "num_key_value_heads": 8, "head_dim": 64, "intermediate_size": 2880, "num_local_experts": 32,
    "num_experts_per_tok": 4, "vocab_size": 201088, "sliding_window": 128, "max_position_embeddings": 131072,
    "layer_types": ["sliding_attention", "full_attention"] * 12, "tie_word_embeddings": False,
    "quantization_config": {"quant_method": "mxfp4"},
}  # fmt: skip
DEEPSEEK = {
    "model_type": "deepseek_v3", "num_hidden_layers": 61, "hidden_size": 7168, "num_attention_heads": 128,
    "num_key_value_heads": 128, "intermediate_size": 18432, "moe_intermediate_size": 2048, "n_routed_experts": 256,
    "num_experts_per_tok": 8, "n_shared_experts": 1, "first_k_dense_replace": 3, "kv_lora_rank": 512,
    "q_lora_rank": 1536, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128, "vocab_size": 129280,
    "max_position_embeddings": 163840, "tie_word_embeddings": False, "quantization_config": {"quant_method": "fp8"},
}  # fmt: skip


@pytest.mark.parametrize(
    ("config", "name"),
    [(LLAMA, "llama-3.1-8b"), (QWEN3_MOE, "qwen3-30b-a3b"), (GPT_OSS, "gpt-oss-20b"), (DEEPSEEK, "deepseek-v3")],
)
def test_config_json_gives_the_builtin_shape(config: dict, name: str) -> None:
    assert from_config(config, name) == builtin(name)


def test_reads_a_file_and_a_nested_text_config(tmp_path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"_name_or_path": "org/Seeing-Llama/", "text_config": LLAMA}))
    assert from_config(path) == replace(builtin("llama-3.1-8b"), name="seeing-llama")


def test_a_window_without_layer_types_is_on_every_layer() -> None:
    shape = from_config({**LLAMA, "sliding_window": 4096})
    assert (shape.sliding_window, shape.full_attention_layers) == (4096, 0)


def test_says_what_is_wrong_with_a_config(tmp_path) -> None:
    with pytest.raises(InputError, match="num_hidden_layers: must be an integer >= 0"):
        from_config({k: v for k, v in LLAMA.items() if k != "num_hidden_layers"})
    with pytest.raises(InputError, match="vocab_size='many', must be an integer"):
        from_config({**LLAMA, "vocab_size": "many"})
    with pytest.raises(InputError, match=r"must be a readable config\.json"):
        from_config(tmp_path / "absent.json")
