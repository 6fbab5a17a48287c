"""The offline optimum as an integer program: for each request one path through time, all paths sharing the pool.

A request's nodes are (resident, outputs so far g, step t) and (absent, g, t); its arcs

    run      resident (g, t)  → resident (g + 1, t + 1)         holds its blocks in step t
    wait     absent (g, t)    → absent (g, t + 1)
    admit    absent (g, t)    → resident (g + 1, t + s + 1)     s silent steps, blocks held in t … t + s
    evict    resident (g, t)  → absent (g, t), or (g, t + 1) where the evicting step is lost (s = 0)

and without preemption a single kind, absent (0, t) → done, holding the blocks of a whole run. With y the arcs taken,

    min  Σ_n (end of n's path − arrival_n)
         Σ_in y − Σ_out y = [node is done] − [node is n's first]      each node
         Σ_arcs blocks in step t · y <= pool                          each step t
         y binary.

Paths end in time: where U is the latency of some schedule and B_n a lower bound of that of all requests but n, a
better or equal schedule completes n by arrival_n + U − B_n. HiGHS solves it; the objective is whole, so that a gap
below 1 is a proof.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from kvhorizon.solver.bounds.fluid import fluid_bound
from kvhorizon.solver.bounds.hindsight import Instance, Schedule, latency, shortest_first
from kvhorizon.solver.highs import new_solver

IntArray = NDArray[np.int64]


class Node(NamedTuple):
    """A point on request `n`'s way: absent or resident before output `output` in step `step`, or done."""

    kind: str
    n: int
    output: int = 0
    step: int = 0


PROOF_GAP = 0.99  # of a whole objective


@dataclass(frozen=True, slots=True)
class Arc:
    """Part of one request's path. `held` are its (step, blocks); `emits` the (output, step) it gives, in order."""

    tail: Node
    head: Node
    held: list[tuple[int, int]]
    emits: list[tuple[int, int]]
    cost: int = 0  # latency of the request, on arcs that end it


@dataclass(slots=True)
class Network:
    """Columns and sparse rows of the program."""

    arcs: list[Arc] = field(default_factory=list)
    balance: dict[Node, list[tuple[int, float]]] = field(default_factory=dict)  # node → (column, ±1)
    memory: dict[int, list[tuple[int, float]]] = field(default_factory=dict)  # step → (column, blocks)

    def add(self, arc: Arc) -> None:
        """One more column."""
        column = len(self.arcs)
        self.arcs.append(arc)
        self.balance.setdefault(arc.tail, []).append((column, -1.0))
        self.balance.setdefault(arc.head, []).append((column, 1.0))
        for step, blocks in arc.held:
            self.memory.setdefault(step, []).append((column, float(blocks)))


@dataclass(frozen=True, slots=True)
class Optimum:
    """`schedule` is None where nothing was found in time; `proven`: no schedule has less latency."""

    schedule: Schedule | None
    latency: float
    bound: float
    proven: bool


def deadlines(instance: Instance, upper: int) -> IntArray:
    """(N,) step by which each request ends in every schedule of at most `upper` latency."""
    ends = np.zeros(len(instance), np.int64)
    for n in range(len(instance)):
        rest = np.arange(len(instance)) != n
        others = 0.0
        if rest.any():
            chosen = (instance.arrival[rest], instance.prompt[rest], instance.output[rest])
            others = fluid_bound(*chosen, instance.facts(), grid_s=1.0).total_s
        ends[n] = instance.arrival[n] + upper - int(np.ceil(others - 1e-6))
    return ends


def whole_runs(instance: Instance, n: int, end: int) -> Iterator[Arc]:
    """Non-preemptive arcs of request n."""
    prompt, output, arrival = (int(column[n]) for column in (instance.prompt, instance.output, instance.arrival))
    for begin in range(arrival, end - output + 1):
        held = [(begin + g, instance.blocks(prompt + g)) for g in range(output)]
        emits = [(g, begin + g) for g in range(output)]
        yield Arc(Node("absent", n, 0, arrival), Node("done", n), held, emits, begin + output - arrival)


def broken_runs(instance: Instance, n: int, end: int) -> Iterator[Arc]:
    """Preemptive arcs of request n: all ways to its g-th output, for each g."""
    prompt, output, arrival = (int(column[n]) for column in (instance.prompt, instance.output, instance.arrival))

    def to(g: int, step: int, held: list[tuple[int, int]], tail: Node) -> Arc:
        last = g + 1 == output
        head = Node("done", n) if last else Node("resident", n, g + 1, step + 1)
        return Arc(tail, head, held, [(g, step)], step + 1 - arrival if last else 0)

    for g in range(output):
        blocks, silent = instance.blocks(prompt + g), instance.silent_steps(n, g)
        final = end - (output - g)  # step in which this output must have come
        for t in range(arrival + g, final + 1):
            absent, resident = Node("absent", n, g, t), Node("resident", n, g, t)
            if t + silent <= final:
                yield to(g, t + silent, [(step, blocks) for step in range(t, t + silent + 1)], absent)
            if t < final:
                yield Arc(absent, Node("absent", n, g, t + 1), [], [])
            if g > 0:
                yield to(g, t, [(t, blocks)], resident)
                lost = 0 if silent else 1
                if t + lost <= final:
                    yield Arc(resident, Node("absent", n, g, t + lost), [], [])


def build(instance: Instance, preemptive: bool, ends: IntArray) -> Network:
    """The program of an instance whose request n ends by step `ends[n]`."""
    network = Network()
    for n in range(len(instance)):
        for arc in (broken_runs if preemptive else whole_runs)(instance, n, int(ends[n])):
            network.add(arc)
    return network


def balance_of(instance: Instance, node: Node) -> float:
    """Right-hand side of a node: one path of each request begins at its arrival and ends when it is done."""
    if node.kind == "done":
        return 1.0
    begins = node.kind == "absent" and node.output == 0 and node.step == instance.arrival[node.n]
    return -1.0 if begins else 0.0


def optimum(instance: Instance, preemptive: bool, seconds: float, known: Schedule | None = None) -> Optimum:
    """The least total latency of any schedule, if proven within `seconds`; `known` is a schedule that may help."""
    start = shortest_first(instance) if known is None else known
    upper = latency(instance, start)
    network = build(instance, preemptive, deadlines(instance, upper))
    values, bound, proven = _solve(instance, network, seconds)
    if values is None:
        return Optimum(None, float("inf"), bound, False)
    schedule = schedule_of(instance, network, values)
    return Optimum(schedule, latency(instance, schedule), bound, proven)


def schedule_of(instance: Instance, network: Network, values: NDArray[np.float64]) -> Schedule:
    """The steps of outputs on the arcs taken."""
    schedule = [np.zeros(int(output), np.int64) for output in instance.output]
    for column in np.flatnonzero(values > 0.5):
        arc = network.arcs[column]
        for output, step in arc.emits:
            schedule[arc.tail.n][output] = step
    return schedule


def _solve(instance: Instance, network: Network, seconds: float) -> tuple[NDArray[np.float64] | None, float, bool]:
    """(values of the arcs or None, lower bound, whether it is proven) by HiGHS on one thread."""
    import highspy

    solver = new_solver(random_seed=0, time_limit=float(seconds), mip_rel_gap=0.0, mip_abs_gap=PROOF_GAP)
    rows = [(terms, balance_of(instance, node), balance_of(instance, node)) for node, terms in network.balance.items()]
    rows += [(terms, -highspy.kHighsInf, float(instance.pool_blocks)) for terms in network.memory.values()]
    starts = np.cumsum([0] + [len(terms) for terms, _, _ in rows]).astype(np.int32)
    columns = len(network.arcs)
    solver.passModel(
        columns, len(rows), int(starts[-1]),
        int(highspy.MatrixFormat.kRowwise), int(highspy.ObjSense.kMinimize), 0.0,
        np.array([arc.cost for arc in network.arcs], float), np.zeros(columns), np.ones(columns),
        np.array([low for _, low, _ in rows]), np.array([high for _, _, high in rows]),
        starts, np.array([column for terms, _, _ in rows for column, _ in terms], np.int32),
        np.array([value for terms, _, _ in rows for _, value in terms]), np.ones(columns, np.int32),
    )  # fmt: skip
    solver.run()
    info = solver.getInfo()
    found = info.primal_solution_status == highspy.SolutionStatus.kSolutionStatusFeasible
    proven = found and solver.getModelStatus() == highspy.HighsModelStatus.kOptimal
    return np.array(solver.getSolution().col_value) if found else None, float(info.mip_dual_bound), proven
