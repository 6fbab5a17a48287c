"""The rules of one baseline, by number, with their parameters and its memory."""

from typing import NamedTuple

from kvhorizon.sim.policies.baselines import codes
from kvhorizon.sim.policies.baselines.memory import Notes, new_notes
from kvhorizon.solver.heuristic.params import GREEDY, Greedy, Knob


class Rules(NamedTuple):
    """What compiled code takes; the default is vLLM, first come first served. Numbers are those of `codes`."""

    order: int = codes.QUEUE
    admission: int = codes.PROMPT_ONLY
    victim: int = codes.LAST
    ours: Greedy = GREEDY[Knob.BALANCED]  # for CAPPED_RESERVE and for victims as OURS
    skip: int = 0  # candidates that may fail before the search stops
    preempts: bool = False  # evicts running requests for waiting ones that rank above them
    preemptible: float = 1.0  # share of the output predicted at arrival after which a request is let finish
    reserved: float = 0.0  # share of the pool that the future peak must not touch
    conservativeness: float = 1.0  # of the new-token ratio
    quantile: float = 0.0  # of the predicted output that serves as its lower bound
    starvation: int = 0  # steps of waiting that promote a request
    quantum: int = 0  # steps for which a promoted request keeps its rank
    notes: Notes | None = None  # given anew to each replay

    def with_notes(self, requests: int, seats: int) -> "Rules":
        """The same rules, with nothing remembered yet."""
        return self._replace(notes=new_notes(requests, seats))
