"""Synthetic workloads: seeded, of the shape they promise."""

import numpy as np
import pytest

from kvhorizon.errors import InputError
from kvhorizon.sim.workload.synthetic import WORKLOADS, synthesize


@pytest.mark.parametrize("name", sorted(WORKLOADS))
def test_seeded_sorted_and_positive(name: str) -> None:
    first, second, other = (synthesize(name, 500, seed) for seed in (3, 3, 4))
    assert first.sha256 == second.sha256 != other.sha256
    assert len(first) == 500
    assert first.arrival_s[0] == 0.0
    assert (np.diff(first.arrival_s) >= 0.0).all()
    assert first.prompt_tokens.min() >= 1
    assert first.output_tokens.min() >= 1


def test_shapes() -> None:
    """Medians within a tenth of those of the traces they follow; rollouts at once; long requests where promised."""
    chat, reasoning, mixed, shift = (synthesize(name, 6000, 1) for name in ("chat", "reasoning", "mixed", "shift"))
    assert np.median(chat.output_tokens) == pytest.approx(160, rel=0.1)
    assert np.median(reasoning.output_tokens) == pytest.approx(2215, rel=0.1)  # ServeGen deepseek-r1
    assert (synthesize("rollout", 50, 1).arrival_s == 0.0).all()
    assert mixed.key.mean() == pytest.approx(0.25, abs=0.03)
    assert shift.output_tokens[1000:2000].mean() > 4 * shift.output_tokens[:1000].mean()


def test_bursts_have_more_dispersed_arrivals() -> None:
    def dispersion(name: str) -> float:
        counts = np.bincount((synthesize(name, 5000, 2).arrival_s / 10.0).astype(int))
        return float(counts.var() / counts.mean())

    assert dispersion("bursty") > 3.0 * dispersion("mixed")


def test_sessions_of_agents_repeat_their_prefix() -> None:
    trace = synthesize("agentic", 800, 5)
    assert trace.prefix_hashes is not None
    assert trace.session is not None
    turns = np.flatnonzero(trace.session == trace.session[0])
    shorter, longer = trace.prefix_hashes[turns[0]], trace.prefix_hashes[turns[1]]
    assert (longer[: len(shorter)] == shorter).all()
    assert trace.prompt_tokens[turns[1]] > trace.prompt_tokens[turns[0]]


def test_unknown_names_are_refused() -> None:
    with pytest.raises(InputError, match="workload='poetry', must be one of chat"):
        synthesize("poetry", 10, 0)
    with pytest.raises(InputError, match="requests=0"):
        synthesize("chat", 0, 0)
