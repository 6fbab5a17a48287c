"""Requests are alike by tenant first, by prompt length last; keys of different levels or requests never meet."""

from types import SimpleNamespace
from typing import Any

import numpy as np
from fakes import request

from kvhorizon.adapter.forecasting.hints import Hint
from kvhorizon.adapter.forecasting.keys import chains_of, hint_chains_of, hint_leaf, hint_sources_of, leaf_of, source_of
from kvhorizon.models.forecast.hints import hint_chain
from kvhorizon.models.forecast.history.chains import length_key


def sampling(**more: Any) -> Any:
    return SimpleNamespace(**{"temperature": 1.0, "stop": [], "min_tokens": 0, **more})


def leaf(tenant: str = "", hint: Hint | None = None, limit: int = 100, room: int = 1000, **more: Any) -> int:
    return leaf_of(request("r", **{"prompt": 100, "sampling_params": sampling(), **more}), tenant, hint, limit, room)


BASE = {"tenant": "acme", "hint": Hint(name=7), "limit": 100, "prompt": 100}
OTHERS: list[tuple[int, dict[str, Any]]] = [  # the levels that stay the same
    (0, {"tenant": "other"}),
    (0, {"lora_request": SimpleNamespace(lora_name="sql")}),
    (1, {"hint": Hint(name=8)}),
    (1, {"structured_output_request": object()}),
    (1, {"sampling_params": sampling(temperature=0.0)}),
    (1, {"sampling_params": sampling(stop=["\n"])}),
    (2, {"limit": 200}),
    (2, {"limit": 1000}),
    (3, {"prompt": 5000}),
    (4, {"prompt": 101}),
]


def test_a_difference_shows_from_its_level_on() -> None:
    chain = chains_of(np.array([leaf(**BASE)]))[0]
    assert len(set(chain.tolist())) == 4
    for same, difference in OTHERS:
        other = chains_of(np.array([leaf(**{**BASE, **difference})]))[0]
        assert (chain == other).tolist() == [level < same for level in range(4)], difference


def test_the_cache_salt_tells_tenants_apart() -> None:
    assert leaf(cache_salt="a") != leaf(cache_salt="b")
    assert leaf("a") == leaf(cache_salt="a") == leaf("a", cache_salt="b")


def test_prompt_classes_are_the_simulators() -> None:
    prompts = np.array([0, 1, 7, 8, 63, 64, 511, 512, 4096, 10**9])
    found = [leaf(prompt=prompt) % 16 for prompt in prompts.tolist()]
    assert found == (length_key(np.zeros(len(prompts), np.int64), prompts) % 16).tolist()


def test_a_leaf_is_a_positive_number_of_64_bits_whatever_comes() -> None:
    for number in range(300):
        found = leaf(f"tenant {number}", Hint(name=2**32 - 1), limit=10**9, room=10**9 + 1, prompt=10**9)
        assert (chains_of(np.array([found], dtype=np.int64)) > 0).all()


def test_hints_have_the_chains_of_the_simulators() -> None:
    of = leaf("acme")
    low, high = np.array([100.0, 100.0]), np.array([400.0, 100.0])
    leaves = np.array([hint_leaf(of, Hint(200.0, width=4)), hint_leaf(of, Hint(100.0))])
    sources = np.full(2, source_of(of))
    assert (hint_sources_of(leaves) == sources).all()
    assert (hint_chains_of(leaves) == hint_chain(sources, low, high)).all()
    assert hint_leaf(of, None) == hint_leaf(of, Hint(name=3)) == 0
