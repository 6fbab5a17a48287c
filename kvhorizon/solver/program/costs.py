"""What the options of a request cost, in weighted seconds of delay; seconds already waited are sunk.

    waiting, point a      w·t_a·(1 + postponed if a > 0)        w = weight·(1 + age / (aging_s + aging_share·output))
    not in the horizon    w·T_K·never
    running, point a ≥ 1  the same delay + loss                 loss = undoing it stalls the batch, see `stall_s`
    any, while it holds   the batch's delay by reading its KV   linear in KV tokens, so the batch size has a price
    overflow              what evicting an average block costs

Steps become seconds by the snapshot's recent step time.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kvhorizon.compiled.compiler import compiled
from kvhorizon.models.forecast.survival import Curves, mean_remaining
from kvhorizon.models.performance.step_time import recompute_seconds, undoing
from kvhorizon.solver.heuristic.params import kv_time
from kvhorizon.solver.program.settings import Settings
from kvhorizon.state import Snapshot

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]


class RequestPredictions(NamedTuple):
    """What is predicted of all requests of a snapshot, (N,) each."""

    context: IntArray  # tokens of its own: without those in blocks that others hold
    remaining: FloatArray  # predicted output to come [tokens]
    weight: FloatArray  # of a second of delay, grown with age
    key: FloatArray  # KV·time^size_power / (weight · (order_age_s + age)), the step's own order, least first


class Options(NamedTuple):
    """Who has options, and when they begin."""

    slot: IntArray  # (n,) running requests first
    weight: FloatArray  # (n,) of a second of delay
    loss: FloatArray  # (r,) of evicting each running one
    edges: FloatArray  # (K + 1,) steps
    bucket: IntArray  # (A,) at whose start an option begins


def predictions_of(snapshot: Snapshot, curves: Curves, settings: Settings) -> RequestPredictions:
    """Predictions of all requests."""
    requests = snapshot.requests
    context = requests.prompt_tokens + requests.generated_tokens - requests.shared_tokens
    remaining, work = np.empty(len(context)), np.empty(len(context))
    _predict(curves, context, requests.generated_tokens, requests.output_limit_tokens, remaining, work)
    age_s = np.maximum(snapshot.now_s - requests.arrival_s, 0.0)
    output = requests.generated_tokens + remaining
    aging = 1.0 + age_s / (settings.aging_s + settings.aging_share * output)
    weight = requests.weight * aging
    key = work**settings.size_power / (np.maximum(requests.weight, 1e-9) * (settings.order_age_s + age_s))
    return RequestPredictions(context, remaining, weight, key)


@compiled
def _predict(curves, context, generated, limit, remaining, work):  # type: ignore[no-untyped-def]
    for n in range(len(context)):
        remaining[n] = mean_remaining(curves, n, generated[n], limit[n])
        work[n] = kv_time(context[n], remaining[n])


@compiled
def _recompute(cost, context, out):  # type: ignore[no-untyped-def]
    for n in range(len(context)):
        out[n] = recompute_seconds(cost, 0, context[n]) + 0.5 * (cost.fixed_s + cost.weights_s)


def stall_s(snapshot: Snapshot, context: IntArray) -> FloatArray:
    """(n,) Seconds of delay that evicting a request with `context` (n,) tokens costs.

    Its recompute, net of what comes back from caches, and half a step, for each running sequence, as all of them wait
    meanwhile.
    """
    alone, habits = np.empty(len(context)), snapshot.habits
    _recompute(undoing(snapshot.facts.cost, habits.kept_share, habits.reload_s_per_token), context, alone)
    return alone * max(snapshot.num_running, 1)


def overflow_price(snapshot: Snapshot, rows: IntArray) -> float:
    """Seconds per block: what evicting a block of an average running (else waiting) request costs."""
    requests = snapshot.requests
    peers = np.arange(snapshot.num_running) if snapshot.num_running else rows
    if not len(peers):
        return 1.0
    context = requests.prompt_tokens[peers] + requests.generated_tokens[peers]
    blocks = -(-context // snapshot.facts.block_size)
    return float(stall_s(snapshot, context).sum() / max(blocks.sum(), 1)) + 1e-9


def eviction_losses(snapshot: Snapshot, predictions: RequestPredictions, settings: Settings) -> FloatArray:
    """(R,) Seconds that evicting each running request costs; more near its end, and where it happened before."""
    requests, running = snapshot.requests, slice(0, snapshot.num_running)
    generated, remaining = requests.generated_tokens[running], predictions.remaining[running]
    done = generated / np.maximum(generated + remaining, 1.0)
    loss = stall_s(snapshot, predictions.context[running]) * (1.0 + requests.preemptions[running])
    return np.asarray(loss * (1.0 + settings.progress * done))


def evictable(snapshot: Snapshot, predictions: RequestPredictions, settings: Settings) -> BoolArray:
    """(R,) Running requests that the program may evict: none while the pool has room, else the few best victims.

    The best victim frees most KV·time per weighted second lost; one still in prefill has little to free and is left
    alone.
    """
    requests, running = snapshot.requests, slice(0, snapshot.num_running)
    allowed = np.zeros(snapshot.num_running, bool)
    used = snapshot.facts.total_blocks - snapshot.free_blocks
    if used < settings.evict_occupancy * snapshot.facts.total_blocks or snapshot.num_running < 2:
        return allowed
    context, remaining = predictions.context[running], predictions.remaining[running]
    losses = eviction_losses(snapshot, predictions, settings) * requests.weight[running]
    score = remaining * (context + 0.5 * remaining) / np.maximum(losses, 1e-12)
    score[requests.computed_tokens[running] < context - 1] = -1.0
    best = np.argsort(-score, kind="stable")[: settings.max_evictions]
    allowed[best[score[best] > 0.0]] = True
    return allowed


def option_costs(
    snapshot: Snapshot, options: Options, block_steps: FloatArray, alive_steps: FloatArray, settings: Settings
) -> tuple[FloatArray, FloatArray]:
    """Weighted seconds (S, A) of each option and (S,) of none; inf and 0 in slots that no request has.

    `block_steps`, `alive_steps` (S, A): expected blocks and sequences, summed over the steps of the horizon; reading
    them slows the running sequences, now or later. Not within the horizon the same work is only later.
    """
    edges, bucket, step_s = options.edges, options.bucket, snapshot.step_s
    late = np.where(edges[bucket] > 0.0, 1.0 + settings.postponed, 1.0)
    start_s = edges[bucket] * step_s * late
    cost, price = snapshot.facts.cost, settings.read_price * max(snapshot.num_running, 1)
    block_s, sequence_s = price * cost.kv_read_s_per_token * snapshot.facts.block_size, price * cost.sequence_s
    out = np.full(block_steps.shape, np.inf), np.zeros(len(block_steps))
    never_s = settings.never * edges[-1] * step_s
    _fill_costs(options, start_s, never_s, _Reads(block_steps, alive_steps, block_s, sequence_s), *out)
    return out


class _Reads(NamedTuple):
    """What reading a request's KV costs the others: (S, A) expected blocks and sequences · steps, seconds of each."""

    block_steps: FloatArray
    alive_steps: FloatArray
    block_s: float
    sequence_s: float


@compiled
def _fill_costs(options, start_s, never_s, reads, cost, never):  # type: ignore[no-untyped-def]
    for i in range(len(options.slot)):
        s, w = options.slot[i], options.weight[i]
        loss = options.loss[i] if i < len(options.loss) else 0.0
        for a in range(len(start_s)):
            read_s = reads.block_steps[s, a] * reads.block_s + reads.alive_steps[s, a] * reads.sequence_s
            cost[s, a] = w * start_s[a] + read_s + (loss if a > 0 else 0.0)
        first_s, later_s = reads.block_steps[s, 0] * reads.block_s, reads.alive_steps[s, 0] * reads.sequence_s
        never[s] = w * never_s + first_s + later_s + loss
