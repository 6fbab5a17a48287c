"""What a length history counts, per node of its tree of keys, and the compiled code that updates it.

Node 0 is of all requests; a node's parent is a more general key. A node's curve is the product-limit estimate of what
it counted, with its parent's curve as prior (`models.forecast.product_limit`); node 0's prior is a log-normal with the
tail seen. How many requests K the parent weighs as is chosen per level, by evidence: the K of `STRENGTHS` whose
predictive mass (n_b + K p_b) / (n + K) gave the lengths seen next the greatest discounted log score (prequential
choice: Dawid, "The prequential approach", JRSS A 1984). Counts fade by 1 − 1/memory with each request that their node
counts.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kvhorizon.compiled.compiler import counting
from kvhorizon.models.forecast.bins import BINS, EDGES, tabulate
from kvhorizon.models.forecast.product_limit import log_normal_tail, product_limit

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

STRENGTHS = np.array([0.5, 2.0, 8.0, 32.0, 128.0, 512.0, 4096.0])  # K [requests]
FIRST_STRENGTH = 2  # of these, before evidence
HEAD_START = 3.0  # its log score then [nats]
SCORE_FADE = 0.999
BASE_STRENGTH = 8.0  # requests that the log-normal weighs as
TAIL_RATE, TAIL_STRENGTH = 1.5, 4.0  # α₀ and w of the tail
REBUILD_SHARE, REBUILD_MOST = 0.125, 64  # a curve is rebuilt after so many new requests, as a share of all it saw
HEAVY = 1e12  # weights are divided out beyond this

_CENTRES = np.log(np.concatenate([EDGES[:1], np.sqrt(EDGES[1:] * np.maximum(EDGES[:-1] + 1.0, 1.0))]))
_GROUP = np.floor(2.0 * np.log2(EDGES)).astype(np.int64)  # half octaves: single bins would ask for smoothing
_FIRST = np.searchsorted(_GROUP, _GROUP, side="left").astype(np.int64)
_LAST = (np.searchsorted(_GROUP, _GROUP, side="right") - 1).astype(np.int64)


class Evidence(NamedTuple):
    """Of M nodes; compiled code takes it as one argument and modifies it."""

    ended: FloatArray  # (M, B) weight of requests that ended in a bin; divided by `weight` a number of requests
    capped: FloatArray  # (M, B) likewise of those cut at their output limit
    running: FloatArray  # (M, B) requests still running, as last seen
    weight: FloatArray  # (M,) weight of the next request
    total: FloatArray  # (M,) weight of all that ended
    seen: IntArray  # (M,) requests finished, ever
    built: IntArray  # (M,) `seen` when the curve was last built
    parent: IntArray  # (M,) node, -1 of the root
    level: IntArray  # (M,) 0 of the root
    alive: FloatArray  # (M, B) its curve: P(L > e_b)
    row: IntArray  # (M,) of the tables, -1 for none
    scores: FloatArray  # (levels, S) log score of each strength [nats]
    fades: FloatArray  # (1,) factor of `weight` per request


def no_evidence(nodes: int, levels: int, memory: float) -> Evidence:
    """Nothing counted yet; every curve is 1 until it is built."""
    scores = np.zeros((levels, len(STRENGTHS)))
    scores[:, FIRST_STRENGTH] = HEAD_START
    return Evidence(
        ended=np.zeros((nodes, BINS)),
        capped=np.zeros((nodes, BINS)),
        running=np.zeros((nodes, BINS)),
        weight=np.ones(nodes),
        total=np.zeros(nodes),
        seen=np.zeros(nodes, np.int64),
        built=np.zeros(nodes, np.int64),
        parent=np.full(nodes, -1, np.int64),
        level=np.zeros(nodes, np.int64),
        alive=np.ones((nodes, BINS)),
        row=np.full(nodes, -1, np.int64),
        scores=scores,
        fades=np.array([1.0 / (1.0 - 1.0 / memory)]),
    )


@counting
def clear_node(evidence, node):  # type: ignore[no-untyped-def]
    """Forget all of a node."""
    for counts in (evidence.ended, evidence.capped, evidence.running):
        counts[node] = 0.0
    evidence.weight[node] = 1.0
    evidence.total[node] = 0.0
    evidence.seen[node] = 0
    evidence.built[node] = 0
    evidence.row[node] = -1


@counting
def _score(evidence, node, b):  # type: ignore[no-untyped-def]
    """Add the log predictive mass of the half octave around bin b, under each strength, to the level's scores."""
    parent, level = evidence.parent[node], evidence.level[node]
    first, last = _FIRST[b], _LAST[b]
    before = evidence.alive[parent, first - 1] if first > 0 else 1.0
    prior = max(before - evidence.alive[parent, last], 1e-9)
    own = evidence.ended[node, first : last + 1].sum() / evidence.weight[node]
    total = evidence.total[node] / evidence.weight[node]
    for s in range(STRENGTHS.size):
        mass = (own + STRENGTHS[s] * prior) / (total + STRENGTHS[s])
        evidence.scores[level, s] = SCORE_FADE * evidence.scores[level, s] + math.log(mass)


@counting
def count(evidence, path, b, capped):  # type: ignore[no-untyped-def]
    """Take in one finished request of bin b at the nodes of `path`, root first (-1: no node)."""
    for node in path:
        if node < 0:
            continue
        if not capped and evidence.parent[node] >= 0 and evidence.total[node] > 0.0:
            _score(evidence, node, b)
        evidence.weight[node] *= evidence.fades[0]
        if capped:
            evidence.capped[node, b] += evidence.weight[node]
        else:
            evidence.ended[node, b] += evidence.weight[node]
            evidence.total[node] += evidence.weight[node]
        evidence.seen[node] += 1
        if evidence.weight[node] > HEAVY:
            for counts in (evidence.ended, evidence.capped):
                counts[node] /= evidence.weight[node]
            evidence.total[node] /= evidence.weight[node]
            evidence.weight[node] = 1.0


@counting
def due(evidence, node):  # type: ignore[no-untyped-def]
    """Whether a node's curve is older than what it saw since."""
    new = evidence.seen[node] - evidence.built[node]
    return new >= min(max(1.0, REBUILD_SHARE * evidence.built[node]), REBUILD_MOST)


@counting
def strength_of(evidence, node):  # type: ignore[no-untyped-def]
    """K, the requests that its parent weighs as."""
    return STRENGTHS[np.argmax(evidence.scores[evidence.level[node]])]


@counting
def _moments(ended, prior):  # type: ignore[no-untyped-def]
    """Posterior mean of log length and its deviation, from counts per bin (`lognormal.fit_lognormal`)."""
    n, first, second, mean = 0.0, 0.0, 0.0, math.log(prior.median_tokens)
    for b in range(BINS):
        n += ended[b]
        first += ended[b] * _CENTRES[b]
        second += ended[b] * _CENTRES[b] ** 2
    if n <= 0.0:
        return mean, prior.log_sigma
    total = prior.strength + n
    seen = first / n
    squares = prior.strength * prior.log_sigma**2 + max(0.0, second - n * seen**2)
    squares += prior.strength * n / total * (seen - mean) ** 2
    return mean + n / total * (seen - mean), math.sqrt(squares / total)


@counting
def build(evidence, node, prior):  # type: ignore[no-untyped-def]
    """Renew a node's curve from its counts and its parent's curve."""
    ended = evidence.ended[node] / evidence.weight[node]
    running = evidence.capped[node] / evidence.weight[node] + evidence.running[node]
    if evidence.parent[node] < 0:
        mean, log_sigma = _moments(ended, prior)
        base = np.empty(BINS)
        log_normal_tail(ended, running, mean, log_sigma, TAIL_RATE, TAIL_STRENGTH, base)
        product_limit(ended, running, base, BASE_STRENGTH, evidence.alive[node])
    else:
        parent = evidence.alive[evidence.parent[node]]
        product_limit(ended, running, parent, strength_of(evidence, node), evidence.alive[node])
    evidence.built[node] = evidence.seen[node]


@counting
def build_and_tabulate(evidence, node, prior, survival, residual):  # type: ignore[no-untyped-def]
    """As `build`, and write the node's rows of the tables (rows, G), if it has any."""
    build(evidence, node, prior)
    row = evidence.row[node]
    if row >= 0:
        tabulate(evidence.alive[node], survival[row], residual[row])


@counting
def count_all(evidence, paths, lengths, capped, prior, survival, residual):  # type: ignore[no-untyped-def]
    """Take in n requests with their paths (n, levels), and renew the curves that are due; how many were."""
    for i in range(len(lengths)):
        count(evidence, paths[i], min(np.searchsorted(EDGES, lengths[i]), BINS - 1), capped[i])
    renewed = 0
    for level in range(paths.shape[1]):
        for i in range(len(lengths)):
            node = paths[i, level]
            if node >= 0 and due(evidence, node):
                build_and_tabulate(evidence, node, prior, survival, residual)
                renewed += 1
    return renewed


@counting
def watch_all(evidence, paths, bins):  # type: ignore[no-untyped-def]
    """Count n running requests with their paths (n, levels), in place of those counted before."""
    evidence.running[:] = 0.0
    for i in range(len(bins)):
        for node in paths[i]:
            if node >= 0:
                evidence.running[node, bins[i]] += 1.0


@counting
def most_special(evidence, paths, rows):  # type: ignore[no-untyped-def]
    """Write to `rows` (n,) the table row of the last node that has one in each of n paths (n, levels)."""
    for i in range(paths.shape[0]):
        for node in paths[i]:
            if node >= 0 and evidence.row[node] >= 0:
                rows[i] = evidence.row[node]
