"""Are tokens the same whoever was evicted? Where they differ, was it a near-tie?

Greedy sampling. The first token at which two runs part is looked up in a third: the server computes that context's two
log-probabilities by itself. Where they are within NEAR_TIE, rounding that depends on the batch decides between the
tokens, and what follows them is another text.
"""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Sequence

from experiments.live.serving._live_load import Ask, Told
from experiments.live.serving._live_model import LENGTH
from experiments.live.serving._live_server import NAME

NEAR_TIE = 1e-3  # nats; logits of the tiny model are of size 1 … 10, single precision
_TOP = 20


def parted(reference: Sequence[Told], other: Sequence[Told]) -> dict[int, int]:
    """Request -> position of the first token that differs."""
    found = {}
    for number, (one, two) in enumerate(zip(reference, other, strict=True)):
        if one.tokens is None or two.tokens is None or one.tokens == two.tokens:
            continue
        pairs = enumerate(zip(one.tokens, two.tokens, strict=False))
        found[number] = next((at for at, (a, b) in pairs if a != b), min(len(one.tokens), len(two.tokens)))
    return found


def mismatches(url: str, load: Sequence[Ask], reference: Sequence[Told], other: Sequence[Told]) -> dict[str, float]:
    """Requests whose tokens differ, those among them that are no near-ties, and the widest gap seen."""
    gaps = [
        _gap(url, load[number], reference[number], other[number], at) for number, at in parted(reference, other).items()
    ]
    return {
        "differ": len(gaps),
        "beyond_near_ties": sum(gap > NEAR_TIE for gap in gaps),
        "widest_gap": max(gaps, default=0.0),
    }


def _gap(url: str, ask: Ask, reference: Told, other: Told, at: int) -> float:
    """Difference of the two tokens' log-probabilities after the text that both runs share; infinite if far apart."""
    assert reference.tokens is not None
    assert other.tokens is not None
    if at >= min(len(reference.tokens), len(other.tokens)):
        return float("inf")
    asked = {
        "model": NAME,
        "prompt": ask.prompt + reference.tokens[:at],
        "max_tokens": 1,
        "temperature": 0.0,
        "logprobs": _TOP,
        "return_tokens_as_token_ids": True,
        "vllm_xargs": {LENGTH: 2},
    }
    post = urllib.request.Request(
        f"{url}/v1/completions", json.dumps(asked).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(post, timeout=60.0) as answer:
        top = json.load(answer)["choices"][0]["logprobs"]["top_logprobs"][0]
    values = [top.get(f"token_id:{one.tokens[at]}") for one in (reference, other)]
    return abs(values[0] - values[1]) if None not in values else float("inf")
