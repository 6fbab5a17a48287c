"""Engine time that a request cannot do without, in pieces: what `fluid_bound` schedules.

A step of duration t that computes T tokens, with Q (query, context) pairs of prefill, k KV tokens read by decodes and R
sequences, takes, by Hölder's inequality for α^q + β^q = 1, 1/p + 1/q = 1 (p: the smoothing of
`models.performance.step_time`),

    t >= F + β·L·T + A·Q + K·k + S·R,    F = fixed + α·weights(one token)                                    [s]

and, as its requests hold b_n blocks of the pool's H, at most N sequences and B tokens take part, for θ on the simplex

    F >= F · (θ_b·Σ b_n / H + θ_s·R / N + θ_t·T / B).

Summed up, t >= Σ_n u_n with u_n a request's own *work* in that step: the engine is one machine that does at most one
second of work per second, whatever the policy, however prefills are chunked and batches mixed. What a request must do:

* first output: its P prompt tokens, in at least ⌈P/B⌉ steps, the i-th last of which ends with P − i·B tokens in KV;
* each further output: a step of its own that ends with c = P + (outputs so far) tokens in KV. Either it decodes (one
  token, c KV tokens read), or the request was preempted and computes c tokens again: (c − 1) tokens more, and pairs of
  all c positions at the lesser of A and K (a chunk of one token counts as a decode). The lesser of the two is taken.

Work of different outputs lies in different steps. Aborted or repeated computation only adds. Prefix caching, KV reload
and speculation would take work away: no bound under these.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kvhorizon.compiled.compiler import counting
from kvhorizon.models.performance.step_time import smooth_maximum, step_seconds
from kvhorizon.state import EngineFacts, StepCost

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
CUT_OFF = 1e-6  # relative error of `smooth_maximum`, which drops a term so much smaller than the other


class Shares(NamedTuple):
    """How the time that all of a batch share is charged: to blocks, sequences or tokens; to compute or weights."""

    blocks: float = 1.0
    sequences: float = 0.0
    tokens: float = 0.0
    compute: float = 0.0  # β, in [0, 1]


class Charges(NamedTuple):
    """Seconds of work per unit; compiled code takes it as one argument."""

    step_per_block: float
    sequence: float  # per step that a request takes part in
    token: float
    pair: float  # the lesser of prefill pair and KV token read
    kv_token: float


class Pieces(NamedTuple):
    """Work of N requests in M pieces, each of one request, in the order of its outputs."""

    work_s: FloatArray  # (M,)
    offset_s: FloatArray  # (M,) earliest begin after the request's arrival
    to_end_s: FloatArray  # (M,) Σ over its steps of work · least time from mid-step to the request's end [s²]
    first: IntArray  # (N + 1,) where each request's pieces begin
    service_s: FloatArray  # (N,) least time from arrival to end


def weight_share(compute: float, smooth: float) -> float:
    """α of a given β."""
    if smooth <= 1.0:
        return 1.0
    dual = smooth / (smooth - 1.0)
    return float(max(0.0, 1.0 - compute**dual) ** (1.0 / dual))


def charges(facts: EngineFacts, shares: Shares) -> Charges:
    """What one block, sequence, token and pair are charged in each step."""
    cost = facts.cost
    streamed_s = cost.weights_s + cost.expert_weights_s * cost.experts_per_token
    shared_s = cost.fixed_s + (1.0 - CUT_OFF) * weight_share(shares.compute, cost.smooth) * streamed_s
    return Charges(
        step_per_block=shared_s * shares.blocks / facts.total_blocks,
        sequence=shared_s * shares.sequences / facts.max_num_seqs + cost.sequence_s,
        token=shared_s * shares.tokens / facts.max_num_batched_tokens
        + (1.0 - CUT_OFF) * shares.compute * cost.linear_s_per_token,
        pair=min(cost.attention_s_per_pair, cost.kv_read_s_per_token),
        kv_token=cost.kv_read_s_per_token,
    )


@counting
def decode_work(charge, context, block_size):  # type: ignore[no-untyped-def]
    """Least work of a further output at `context` tokens: a decode, or the end of a recomputation."""
    again = (context - 1) * charge.token + charge.pair * 0.5 * context * (context + 1.0)
    held = (context + block_size - 1) // block_size
    return charge.step_per_block * held + charge.sequence + charge.token + min(charge.kv_token * context, again)


@counting
def prefill_work(charge, prompt, block_size, most):  # type: ignore[no-untyped-def]
    """Least work of the first output."""
    steps = (prompt + most - 1) // most
    held = 0
    for i in range(steps):
        held += (prompt - i * most + block_size - 1) // block_size
    pairs = 0.5 * prompt * (prompt + 1.0)
    return charge.step_per_block * held + charge.sequence * steps + charge.token * prompt + charge.pair * pairs


@counting
def decode_seconds(cost, alone_s, context):  # type: ignore[no-untyped-def]
    """Least duration of a step with a further output at `context` tokens: the request alone.

    `alone_s`: a step that computes one token, nothing read.
    """
    pair = min(cost.attention_s_per_pair, cost.kv_read_s_per_token)
    again = pair * 0.5 * context * (context + 1.0)
    return alone_s + min(cost.kv_read_s_per_token * context, again)


@counting
def prefill_seconds(cost, prompt, most):  # type: ignore[no-untyped-def]
    """Least time from the begin of the prefill to the first output.

    Over m steps of k_i tokens Σ ‖(W, L·k_i)‖ >= ‖(m·W, L·P)‖ (Minkowski), which grows with m >= ⌈P/B⌉.
    """
    steps = (prompt + most - 1) // most
    streamed_s = cost.weights_s + cost.expert_weights_s * cost.experts_per_token
    linear_s = smooth_maximum(steps * streamed_s, cost.linear_s_per_token * prompt, cost.smooth)
    pair = min(cost.attention_s_per_pair, cost.kv_read_s_per_token)
    pairs_s = pair * 0.5 * prompt * (prompt + 1.0)
    return steps * (cost.fixed_s + cost.sequence_s) + (1.0 - CUT_OFF) * linear_s + pairs_s


@counting
def fill_pieces(prompt, output, most, block_size, cost, charge, pieces):  # type: ignore[no-untyped-def]
    """Write the pieces of all requests: the prefill, then the further outputs in groups of equal size."""
    alone_s = step_seconds(cost, 0, 0.0, 1, 0.0, 1)
    work_s, offset_s, to_end_s, first, service_s = pieces
    for n in range(len(prompt)):
        begun = prefill_seconds(cost, prompt[n], most)
        at, groups = first[n], first[n + 1] - first[n] - 1
        decodes = output[n] - 1
        end = begun
        for j in range(decodes):
            end += decode_seconds(cost, alone_s, prompt[n] + j + 1)
        service_s[n] = end
        work_s[at] = prefill_work(charge, prompt[n], block_size, most)
        offset_s[at] = 0.0
        to_end_s[at] = work_s[at] * (end - begun + 0.5 * alone_s)
        for j in range(decodes):
            piece = at + 1 + j * groups // decodes
            seconds = decode_seconds(cost, alone_s, prompt[n] + j + 1)
            work = decode_work(charge, prompt[n] + j + 1, block_size)
            if work_s[piece] == 0.0:
                offset_s[piece] = begun
            work_s[piece] += work
            to_end_s[piece] += work * (end - begun - 0.5 * seconds)
            begun += seconds


def pieces_of(prompt: IntArray, output: IntArray, facts: EngineFacts, shares: Shares, most_groups: int) -> Pieces:
    """Pieces of requests with `prompt` and `output` (N,) tokens, at most `most_groups` + 1 each."""
    first = np.concatenate([[0], np.cumsum(1 + np.minimum(output - 1, most_groups))]).astype(np.int64)
    work_s, offset_s, to_end_s = (np.zeros(int(first[-1])) for _ in range(3))
    service_s = np.zeros(len(prompt))
    budget, size, cost = facts.max_num_batched_tokens, facts.block_size, facts.cost
    pieces = Pieces(work_s, offset_s, to_end_s, first, service_s)
    fill_pieces(prompt, output, budget, size, StepCost(*map(float, cost)), charges(facts, shares), pieces)
    return pieces
