"""The step time of a recorded engine, from when its requests began and ended to give tokens.

A request that was not evicted gives a token in each step between its first and its last, so that those steps took

    D = fixed · steps + sequence · Σ sequences + linear · Σ tokens + kv · Σ KV tokens read

in all, sums over its steps. Who else ran in them, and how much they held, follows from the others' first and last
tokens; prompts count in the step that gave their first token, tokens computed again evenly over their request's time.
Four coefficients >= 0 fit all requests best in relative terms (ordinary least squares; Lawson & Hanson 1974 for the
sign). The linear layers are taken as proportional to tokens: where reading weights bounds a step, it is in `fixed`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kvhorizon.state import StepCost

FloatArray = NDArray[np.float64]
LEAST_REQUESTS = 30
MOST_REQUESTS = 2_000  # that are fitted; more say nothing new


class Seen(NamedTuple):
    """What a recording measured, (N,) each; nan where it does not say. Times since the first arrival."""

    prompt_tokens: FloatArray
    output_tokens: FloatArray
    first_s: FloatArray
    end_s: FloatArray
    preemptions: FloatArray
    recompute_tokens: FloatArray


def fit_clock(seen: Seen, until_s: float, cost: StepCost) -> StepCost | None:
    """The engine's step time, FLOPs as in `cost`; None where too few requests say anything.

    Nothing that was seen after `until_s` is read: a request that had not ended then is taken as running to that time.
    """
    known = _known(seen, until_s)
    rows = np.flatnonzero((known.end_s <= until_s) & (known.preemptions == 0) & (known.output_tokens > 1))
    rows = rows[known.end_s[rows] > known.first_s[rows]]
    if len(rows) < LEAST_REQUESTS:
        return None
    rows = rows[np.unique(np.linspace(0, len(rows) - 1, MOST_REQUESTS).astype(np.int64))]
    took_s = known.end_s[rows] - known.first_s[rows]
    work = np.stack([_work(known, int(n)) for n in rows])  # (R, 4) steps, sequences, tokens, KV tokens
    fixed, sequence, linear, kv = not_negative(work / took_s[:, None], np.ones(len(rows))).tolist()
    return cost._replace(
        fixed_s=fixed,
        weights_s=0.0,
        expert_weights_s=0.0,
        experts_per_token=0.0,
        linear_s_per_token=linear,
        attention_s_per_pair=0.0,
        kv_read_s_per_token=kv,
        sequence_s=sequence,
    )


def _known(seen: Seen, until_s: float) -> Seen:
    """Requests that had given a token by then; whose end was not seen runs on, and its recompute is not known."""
    begun = np.flatnonzero(seen.first_s <= until_s)
    part = Seen(*(column[begun] for column in seen))
    over = part.end_s <= until_s
    return part._replace(
        end_s=np.where(over, part.end_s, np.inf), recompute_tokens=np.where(over, part.recompute_tokens, 0.0)
    )


def _work(known: Seen, n: int) -> FloatArray:
    """What was done in the steps of request `n` between its first token and its last, (4,)."""
    begin_s, end_s = known.first_s[n], known.end_s[n]
    steps = known.output_tokens[n] - 1.0
    per_s = steps / (end_s - begin_s)
    from_s, to_s = np.maximum(known.first_s, begin_s), np.minimum(known.end_s, end_s)
    beside = np.maximum(to_s - from_s, 0.0)  # (N,) seconds side by side
    sequences = per_s * beside
    given = np.minimum((0.5 * (from_s + to_s) - known.first_s) * per_s, known.output_tokens)
    kv = float((sequences * (known.prompt_tokens + np.maximum(given, 0.0)))[beside > 0.0].sum())
    began = (known.first_s > begin_s) & (known.first_s <= end_s)
    whole = np.where(np.isfinite(known.end_s), known.end_s - known.first_s, np.inf)
    again = known.recompute_tokens * beside / np.maximum(whole, 1e-9)
    tokens = float(sequences.sum() + known.prompt_tokens[began].sum() + again.sum())
    return np.array([steps, float(sequences.sum()), tokens, kv])


def not_negative(design: FloatArray, values: FloatArray) -> FloatArray:
    """Least squares without the columns whose coefficients would be negative, the most negative dropped first."""
    found, kept = np.zeros(design.shape[1]), list(range(design.shape[1]))
    scale = np.maximum(design.max(axis=0), 1e-300)
    while kept:
        part, *_ = np.linalg.lstsq(design[:, kept] / scale[kept], values, rcond=None)
        if part.min() >= 0.0:
            found[kept] = part / scale[kept]
            return found
        del kept[int(part.argmin())]
    return found
