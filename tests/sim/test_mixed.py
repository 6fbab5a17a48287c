"""A trace with a share of another's requests: arrivals stay, and who is who can be told apart."""

import dataclasses

import numpy as np
import pytest

from kvhorizon.errors import InputError
from kvhorizon.sim.workload.mixed import mixed
from kvhorizon.sim.workload.synthetic import synthesize
from kvhorizon.sim.workload.trace import Trace
from kvhorizon.whatif.many import answer_all
from kvhorizon.whatif.question import Question, prepare

ASKED = Question("synthetic:chat", gpu="l4-24gb", kv_blocks=1500, load=1.2, limit=200, policies=("fcfs",))


@pytest.fixture
def chat() -> Trace:
    return dataclasses.replace(
        synthesize("chat", 400, 1),
        session=np.arange(400),
        slo_class=("live",) * 400,
        prefix_hashes=tuple(np.array([n]) for n in range(400)),
    )


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_so_many_are_the_others_in_their_order(chat: Trace, share: float) -> None:
    other = synthesize("reasoning", 50, 2)
    both = mixed(chat, other, share, seed=3)
    theirs = both.key >= len(chat.tenants)
    assert abs(theirs.mean() - share) < 0.08
    np.testing.assert_array_equal(both.arrival_s, chat.arrival_s)
    again = np.arange(int(theirs.sum())) % 50
    np.testing.assert_array_equal(both.prompt_tokens[theirs], other.prompt_tokens[again])
    np.testing.assert_array_equal(both.output_tokens[theirs], other.output_tokens[again])
    for name in ("prompt_tokens", "output_tokens", "key", "session"):
        np.testing.assert_array_equal(getattr(both, name)[~theirs], getattr(chat, name)[~theirs])
    assert both.session is not None
    assert (both.session[theirs] == -1).all()
    assert both.slo_class == tuple("" if gone else "live" for gone in theirs)
    assert both.prefix_hashes is not None
    assert [len(one) for one in both.prefix_hashes] == [0 if gone else 1 for gone in theirs]
    assert both.tenants[len(chat.tenants)].startswith(other.name)


def test_no_share_is_the_trace_and_the_whole_is_the_other(chat: Trace) -> None:
    other = synthesize("reasoning", 400, 2)
    assert mixed(chat, other, 0.0, seed=1) is chat
    np.testing.assert_array_equal(mixed(chat, other, 1.0, seed=1).output_tokens, other.output_tokens)


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_a_share_is_a_share(chat: Trace, share: float) -> None:
    with pytest.raises(InputError, match="mix-share"):
        mixed(chat, chat, share, seed=1)


def test_a_what_if_says_what_the_mix_was() -> None:
    """Long answers in place of short ones, at the same moments: first tokens come later."""
    own = dataclasses.replace(ASKED, load=None)
    asked = [dataclasses.replace(own, mix="synthetic:reasoning", mix_share=share) for share in (0.0, 0.5)]
    before, after = answer_all(asked, 100)
    assert after["mix"] == {"trace": "synthetic:reasoning", "share": 0.5}
    assert after["trace"]["output_tokens"] > 1.5 * before["trace"]["output_tokens"]
    assert after["policies"][0]["ttft_s"]["mean"] > before["policies"][0]["ttft_s"]["mean"]


def test_a_mix_must_be_a_trace_that_fits() -> None:
    with pytest.raises(InputError, match="trace"):
        prepare(dataclasses.replace(ASKED, mix="nothing.csv"))
    with pytest.raises(InputError, match="must fit into the pool"):
        prepare(dataclasses.replace(ASKED, kv_blocks=250, limit=3, mix="synthetic:reasoning", mix_share=1.0))
