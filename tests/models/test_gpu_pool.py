"""GPU presets, and the KV pool beside the weights."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvhorizon.errors import InputError
from kvhorizon.models.performance.gpu import gpu_names, preset, recognised, tpot_target_s
from kvhorizon.models.performance.kv_pool import pool_blocks
from kvhorizon.models.performance.shape import builtin

LLAMA_8B = builtin("llama-3.1-8b")


def test_presets_by_any_case_and_errors_list_them() -> None:
    assert preset("H100-80GB").max_num_batched_tokens == 8192
    with pytest.raises(InputError, match=r"gpu='h999'.*a100-40gb.*l40s-48gb"):
        preset("h999")


RECOGNISED = {
    "NVIDIA A100-SXM4-40GB": "a100-40gb",
    "NVIDIA A100-PCIE-40GB": "a100-40gb",
    "A100-SXM4-40GB": "a100-40gb",  # as older drivers say
    "NVIDIA A100-SXM4-80GB": "a100-80gb",
    "NVIDIA A100 80GB PCIe": "a100-80gb-pcie",
    "NVIDIA H100 80GB HBM3": "h100-80gb",
    "NVIDIA H100 PCIe": "h100-80gb-pcie",
    "NVIDIA H200": "h200",
    "NVIDIA L4": "l4-24gb",
    "NVIDIA L40S": "l40s-48gb",
    "NVIDIA RTX PRO 6000 Blackwell Workstation Edition": "rtx-pro-6000",
}
UNKNOWN = (
    "NVIDIA A100-SXM4-40GB MIG 1g.5gb",
    "NVIDIA A10G",
    "NVIDIA A10",
    "NVIDIA B200",
    "NVIDIA GH200 480GB",
    "NVIDIA GB200",
    "NVIDIA H100 NVL",
    "NVIDIA H200 NVL",
    "NVIDIA H20",
    "NVIDIA L40",
    "NVIDIA GeForce RTX 4090",
    "NVIDIA GeForce RTX 5090",
    "NVIDIA RTX 6000 Ada Generation",
    "NVIDIA RTX A6000",
    "NVIDIA RTX PRO 6000 Blackwell Server Edition",
    "NVIDIA RTX PRO 6000 Blackwell Max-Q Workstation Edition",
    "Tesla T4",
    "Tesla V100-SXM2-32GB",
    "AMD Instinct MI300X",
    "AMD Instinct MI300X OAM",
    "",
)


@pytest.mark.parametrize(("device", "name"), RECOGNISED.items())
def test_a_device_is_recognised_by_what_its_driver_calls_it(device: str, name: str) -> None:
    assert recognised(device) is recognised(device.upper()) is preset(name)


@pytest.mark.parametrize("device", UNKNOWN)
def test_no_device_is_taken_for_another(device: str) -> None:
    assert recognised(device) is None


def test_every_preset_has_a_device_and_none_has_two_presets() -> None:
    devices = [device.lower() for name in gpu_names() for device in preset(name).devices]
    assert len(devices) == len(set(devices))
    assert all(preset(name).devices for name in gpu_names())


def test_goodput_targets() -> None:
    """A 70B model is given 0.1 s, unless its GPU is given more."""
    assert tpot_target_s(preset("h200"), LLAMA_8B) == 0.05
    assert tpot_target_s(preset("h200"), builtin("llama-3.1-70b")) == 0.1
    assert tpot_target_s(preset("l4-24gb"), builtin("llama-3.1-70b")) == 0.15


def test_pool_of_llama_8b_on_a100_40gb() -> None:
    """0.9 · 42.3 GB − 16.1 GB of weights − 1.8 GB, in pages of 16 · 131072 bytes: about 154 000 tokens."""
    assert pool_blocks(LLAMA_8B, preset("a100-40gb")) * 16 == pytest.approx(154_000, rel=0.02)


def test_pool_reported_by_a_user() -> None:
    """gpt-oss-20b on an A100 80 GB at utilization 0.65: vLLM 0.19 reports 36.56 GiB of KV memory.

    Source: myoceane.fr, "vLLM ... A100" (2026-04-18). Growing layers only: 12 of 2048 bytes per token.
    """
    blocks = pool_blocks(builtin("gpt-oss-20b"), preset("a100-80gb"), gpu_memory_utilization=0.65)
    assert blocks * 16 * 12 * 2048 / 2**30 == pytest.approx(36.56, rel=0.05)


def test_weights_that_do_not_fit_are_an_error() -> None:
    with pytest.raises(
        InputError, match=r"model='llama-3\.1-70b', leaves no KV block on a100-80gb with tp=1: 141\.1 GB"
    ):
        pool_blocks(builtin("llama-3.1-70b"), preset("a100-80gb"))
    assert pool_blocks(builtin("llama-3.1-70b"), preset("a100-80gb"), tp=4) > 10_000


@pytest.mark.parametrize(("field", "value"), [("tp", 3), ("tp", 0), ("gpu_memory_utilization", 1.1), ("block_size", 0)])
def test_bad_arguments_name_field_and_value(field: str, value: float) -> None:
    with pytest.raises(InputError, match=f"{field}={value}"):
        pool_blocks(LLAMA_8B, preset("h200"), **{field: value})


@settings(max_examples=40, deadline=None)
@given(
    gpu=st.sampled_from([name for name in gpu_names() if name != "l4-24gb"]),
    utilization=st.floats(0.6, 0.95),
    block_size=st.sampled_from([8, 16, 32, 128]),
)
def test_pool_grows_with_memory_and_keeps_its_tokens(gpu: str, utilization: float, block_size: int) -> None:
    """More memory, more blocks; the block size moves the tokens by less than a block; fp8 KV doubles them."""
    base = pool_blocks(LLAMA_8B, preset(gpu), gpu_memory_utilization=utilization)
    assert pool_blocks(LLAMA_8B, preset(gpu), gpu_memory_utilization=utilization + 0.05) > base
    other = pool_blocks(LLAMA_8B, preset(gpu), gpu_memory_utilization=utilization, block_size=block_size)
    assert abs(other * block_size - base * 16) <= max(block_size, 16)
    small = pool_blocks(LLAMA_8B, preset(gpu), gpu_memory_utilization=utilization, kv_dtype_bytes=1.0)
    assert 0 <= small - 2 * base <= 1
