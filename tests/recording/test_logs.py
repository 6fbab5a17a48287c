"""Access logs and benchmark results as recordings: known shapes, and one clear line for what is none."""

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvhorizon.errors import InputError
from kvhorizon.recording.access_log import access_rows
from kvhorizon.recording.benchmark import benchmark_rows, is_benchmark

ANSWER = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "created": 1700000000,
    "choices": [{"message": {"content": "secret"}}],
    "usage": {"prompt_tokens": 12, "completion_tokens": 5, "total_tokens": 17},
}
GATEWAY = {
    "timestamp": "2024-05-01T10:00:00.5Z",
    "request": {"model": "m", "user": "team-a", "max_tokens": 64, "messages": ["secret"]},
    "response": {"id": "r2", "usage": {"prompt_tokens": 7, "completion_tokens": 3}},
    "ttft_s": 0.2,
    "latency_s": 1.0,
}
FLAT = {"ts": 1700000000123, "input_tokens": 4, "output_tokens": 2, "request_id": "f"}
FAILED = {"ts": 1700000001, "input_tokens": 4, "output_tokens": 0}


def lines(*entries: Any) -> str:
    return "\n".join(json.dumps(entry) for entry in entries) + "\n"


@pytest.mark.parametrize("text", [lines(ANSWER, GATEWAY, FLAT, FAILED), json.dumps([ANSWER, GATEWAY, FLAT, FAILED])])
def test_access_logs(text: str) -> None:
    answer, gateway, flat = access_rows(text)
    assert (answer.arrival_s, answer.prompt_tokens, answer.output_tokens) == (1700000000.0, 12, 5)
    assert (answer.request_id, answer.ttft_s) == ("chatcmpl-1", None)
    assert gateway.arrival_s == 1714557600.5
    assert (gateway.tenant, gateway.max_tokens, gateway.request_id) == ("team-a", 64, "r2")
    assert (gateway.ttft_s, gateway.tpot_s, gateway.e2e_s) == (0.2, pytest.approx(0.4), 1.0)
    assert flat.arrival_s == pytest.approx(1700000000.123)
    assert "secret" not in repr([answer, gateway, flat])


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (lines(FAILED), "at least one request"),
        ("{not json", "entry 1='{not json', must be JSON"),
        (lines(ANSWER, 7), "entry 2='7', must be a JSON object"),
        (lines({**FLAT, "ts": None}), "entry 1: timestamp"),
        (lines({**FLAT, "ts": "soon"}), "entry 1: timestamp='soon'"),
        (lines({**FLAT, "ts": -4}), "entry 1: timestamp='-4'"),
        (lines({**FLAT, "ts": "0024-05-01T10:00:00Z"}), "entry 1: timestamp='0024-05-01T10:00:00Z'"),
        (lines({**FLAT, "input_tokens": 2.5}), "entry 1: prompt_tokens='2.5'"),
        (lines({**FLAT, "output_tokens": True}), "entry 1: completion_tokens='True'"),
        (lines({**FLAT, "latency_s": "fast"}), "entry 1: latency_s='fast'"),
        ("[" * 100_000, "must be JSON"),
    ],
)
def test_access_logs_that_make_no_sense(text: str, says: str) -> None:
    with pytest.raises(InputError) as error:
        access_rows(text)
    assert says in str(error.value)


VLLM = {
    "input_lens": [10, 20, 30],
    "output_lens": [3, 1, 0],
    "ttfts": [0.1, 0.2, 0.0],
    "itls": [[0.05, 0.07], [], []],
    "start_times": [100.0, 101.5, 102.0],
    "generated_texts": ["secret", "", ""],
    "errors": ["", "", "boom"],
}


def test_vllm_results() -> None:
    first, second = benchmark_rows(json.dumps(VLLM))
    assert (first.arrival_s, second.arrival_s) == (0.0, 1.5)
    assert (first.prompt_tokens, first.output_tokens) == (10, 3)
    assert (first.ttft_s, first.tpot_s, first.e2e_s) == (0.1, pytest.approx(0.06), pytest.approx(0.22))
    assert second.tpot_s is None
    assert "secret" not in repr([first, second])


def test_results_without_start_times_are_poisson_at_their_rate() -> None:
    """SGLang appends one result a line; each begins when the one before it has begun its last request."""
    size = 4000
    result = {"input_lens": [5] * size, "output_lens": [2] * size, "request_rate": 8.0}
    rows = benchmark_rows(lines(result))
    assert size / rows[-1].arrival_s == pytest.approx(8.0, rel=0.05)
    assert rows == benchmark_rows(lines(result))
    together = benchmark_rows(lines({**result, "request_rate": "inf"}))
    assert {row.arrival_s for row in together} == {0.0}
    assert len(benchmark_rows(lines(result, result))) == 2 * size


@pytest.mark.parametrize(
    ("result", "says"),
    [
        ({"total_input_tokens": 5}, "--save-detailed"),
        ({**VLLM, "output_lens": [1]}, "output_lens"),
        ({**VLLM, "input_lens": [1, "x", 3]}, "input_lens[1]='x'"),
        ({**VLLM, "ttfts": [-1.0, 0.2, 0.0]}, "ttfts[0]='-1.0'"),
        ({**VLLM, "start_times": [1.0, "later", 2.0]}, "start_times[1]='later'"),
        ({**VLLM, "start_times": None, "request_rate": 0}, "request_rate=0"),
        ({**VLLM, "output_lens": [0, 0, 0]}, "at least one request"),
    ],
)
def test_results_that_make_no_sense(result: dict[str, Any], says: str) -> None:
    text = json.dumps(result)
    assert is_benchmark(text)
    with pytest.raises(InputError) as error:
        benchmark_rows(text)
    assert says in str(error.value)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*ANSWER, *FLAT, *VLLM]), inner),
    max_leaves=12,
)


@settings(max_examples=300, deadline=None)
@given(value=json_values | st.text(max_size=30))
def test_nothing_but_an_input_error_comes_of_nonsense(value: object) -> None:
    text = value if isinstance(value, str) else json.dumps(value)
    for read in (access_rows, benchmark_rows):
        rows = []
        with contextlib.suppress(InputError):
            rows = read(text)
        assert all(row.prompt_tokens > 0 and row.arrival_s >= 0.0 for row in rows)
