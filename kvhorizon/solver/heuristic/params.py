"""The greedy's rules: which request to admit first, how much memory to keep in reserve, which to preempt.

Notation: c context [tokens], R predicted output to come [tokens], age time since arrival [s].

* Order: least KV·time  v = R·(c + R/2) [token·steps], the area under the request's own KV, divided by
  w = 1 + age / (a + b·predicted output), so that waiting counts relative to size.
* Reserve: candidate r leaves  clip(max_h S_r(h)·(Σ_m E m(h) + z·σ(h) − occupied − c_r), min, cap)  free: it pays only
  for horizons at which it will itself still be there. It also leaves what the batch takes in its next steps, should
  no request end in them; less, where it is known who ends when.
* Victim: greatest  v / [(recompute seconds + half a step) · (1 + times preempted)]: much future memory for little
  lost work, so a request near its end (R small) is the last to go.
* Reordering budget (`budgeted`): requests admitted before an older one may hold at most a share of the memory in use;
  the oldest request otherwise goes first, and memory that it waits for is only partly granted. Where memory has slack
  they get a share of the tokens let in (`out_of_order`).

* Late lane: a request that has waited longer than a bound goes before all that have not and keeps only the least
  reserve (`max-wait:SECONDS`). The late go in order of arrival, and where the first of them does not fit, none enters:
  then none is served later than first-come-first-served would, by more than about these seconds.

Where requests differ in weight, v is divided by it throughout: in the order, in who may overtake, and in the score of
victims. Bounds on waiting, the oldest request's turn and reserves know of no weight.

A plan's order is v^p / (a + age): with p = 0 it is arrival order, and where sizes hardly differ it is that for any p.
Beside a plan (`PLANNED`) what it names goes first, within the budget of reordering where the rule has one. A planned
request that is short beside the queue's mean, with `means` any, needs only the least reserve; the others keep the
forecast's.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar, NamedTuple

from kvhorizon.compiled.compiler import compiled
from kvhorizon.errors import InputError
from kvhorizon.models.performance.step_time import recompute_seconds

HORIZONS = (16, 48, 112, 240, 496, 1008, 2032, 4080, 8176, 16368)  # steps ahead, geometric


class Knob(str):
    """How much later than first-come-first-served the slowest requests may be, in exchange for the mean.

    `means`, `balanced`, `strict`, or `max-wait:SECONDS`: by no more than about so long. Raises InputError.
    """

    MEANS: ClassVar[Knob]
    BALANCED: ClassVar[Knob]
    STRICT: ClassVar[Knob]

    def __new__(cls, text: str) -> Knob:
        knob = super().__new__(cls, text)
        if text not in NAMED and not 0.0 <= knob.max_wait_s < math.inf:
            raise InputError("knob", text, f"must be one of {', '.join(NAMED)} or {MAX_WAIT}SECONDS")
        return knob

    @property
    def max_wait_s(self) -> float:
        """The bound that it asks for [s], inf where there is none."""
        try:
            return float(self.removeprefix(MAX_WAIT)) if self.startswith(MAX_WAIT) else math.inf
        except ValueError:
            return math.nan

    @property
    def rule(self) -> Greedy:
        """The rule of an engine without a solver."""
        return GREEDY[self] if self in NAMED else waiting_at_most(GREEDY[Knob.MEANS], self.max_wait_s)

    @property
    def beside(self) -> Greedy:
        """The step's rule beside a plan."""
        return PLANNED[self] if self in NAMED else waiting_at_most(PLANNED[Knob.MEANS], self.max_wait_s)


NAMED = ("means", "balanced", "strict")
MAX_WAIT = "max-wait:"
Knob.MEANS, Knob.BALANCED, Knob.STRICT = KNOBS = tuple(map(Knob, NAMED))


class Reserve(NamedTuple):
    """What an admission leaves free. Shares are of the pool."""

    min_share: float = 0.02
    cap_share: float = 0.07
    oldest_share: float = 0.02  # cap for the oldest request, if budgeted
    size_scaled: bool = False  # cap grows with R relative to the queue's mean
    growth_steps: float = 12.0  # what the batch grows by in so many steps is kept, too,
    growth_share: float = 0.05  # up to this, and
    growth_spread: float = 2.0  # up to so many deviations of what is known of it
    z: float = 2.0


class Order(NamedTuple):
    """In which order requests are tried."""

    aging_s: float = 2.0
    aging_share: float = 0.2  # seconds per token of predicted output
    size_power: float = 1.0  # p of a plan's order
    sure_outputs: float = 1.0  # planned requests with at most so many mean R need no more than the least reserve
    tries: int = 16  # candidates that may fail to fit before admission stops
    late_after_s: float = math.inf  # unbudgeted: a request that has waited so long is late


class Quota(NamedTuple):
    """How much may go out of order, if budgeted (`out_of_order`). Shares are of the memory in use."""

    overtake_share: float = 0.2
    backfill_share: float = 0.6  # while the oldest request does not fit
    overtake_flow: float = 0.4  # of the tokens let in while memory has slack, which is
    slack_share: float = 0.15  # of the pool, left beside the oldest request
    overdue_share: float = math.inf  # of a wait in order of arrival, by which the oldest may be late
    overdue_warm: float = math.inf  # likewise, where a request goes before it whose prompt is cached


class Victims(NamedTuple):
    """Which running requests are protected, if budgeted."""

    out_of_order_factor: float = 2.0  # requests out of order are the better victims
    protect_s: float = 5.0
    protect_share: float = 0.5  # of the age of the oldest waiting request


class Holding(NamedTuple):
    """When requests are held back for sessions about to return (`holding`)."""

    pool_share: float = 0.9  # filled by KV in use and KV of sessions about to return, before requests are held back
    busy_share: float = 0.35  # of the requests that so much of the pool holds: with fewer none is held back
    overdue: float = 1.0  # of what is queued, admitted since it would have been a held request's turn


class Greedy(NamedTuple):
    """Every parameter of the greedy, in records whose fields have different names."""

    budgeted: bool  # there is a quota of out-of-order admission
    reserve: Reserve = Reserve()
    order: Order = Order()
    quota: Quota = Quota()
    victims: Victims = Victims()
    holding: Holding = Holding()
    cached: bool = False  # the engine has a prefix cache: prefills are priced, reserves by what an eviction costs


RECORDS = ("reserve", "order", "quota", "victims", "holding")


def parameters(rule: Greedy) -> dict[str, float | bool]:
    """All of them by name, whichever record they are in."""
    found: dict[str, float | bool] = {"budgeted": rule.budgeted, "cached": rule.cached}
    for record in RECORDS:
        found |= getattr(rule, record)._asdict()
    return found


def varied(rule: Greedy, **values: float | bool) -> Greedy:
    """The rule with other values of these parameters. Raises ValueError for a name that is none."""
    changed: dict[str, Any] = {}
    for record in RECORDS:
        before = getattr(rule, record)
        changed[record] = before._replace(**{name: values.pop(name) for name in before._fields if name in values})
    return rule._replace(**changed, **values)  # type: ignore[arg-type]


GREEDY: dict[Knob, Greedy] = {
    Knob.MEANS: Greedy(budgeted=False, reserve=Reserve(cap_share=0.07, size_scaled=True)),
    Knob.BALANCED: Greedy(
        budgeted=True,
        reserve=Reserve(cap_share=0.05, oldest_share=0.035),
        order=Order(tries=8),
        quota=Quota(overtake_share=0.2, backfill_share=0.6),
        holding=Holding(overdue=0.25),
    ),
    Knob.STRICT: Greedy(
        budgeted=True,
        reserve=Reserve(cap_share=0.05, oldest_share=0.03),
        order=Order(tries=8),
        quota=Quota(overtake_share=0.1, backfill_share=0.3, overtake_flow=0.1, slack_share=0.0),
        holding=Holding(overdue=0.1),
    ),
}

# What a plan names goes first; `balanced` and `strict` keep their budget of reordering, which bounds the tail.
PLANNED: dict[Knob, Greedy] = {
    Knob.MEANS: varied(GREEDY[Knob.MEANS], cap_share=0.1, z=3.0, sure_outputs=math.inf),
    Knob.BALANCED: varied(GREEDY[Knob.BALANCED], aging_s=1.0, size_power=0.5),
    Knob.STRICT: varied(GREEDY[Knob.STRICT], aging_s=1.0, size_power=0.25, sure_outputs=0.5),
}


def waiting_at_most(rule: Greedy, seconds: float) -> Greedy:
    """The rule with a late lane in order of arrival after so many seconds."""
    return varied(rule, late_after_s=seconds)


def with_prefix_cache(rule: Greedy) -> Greedy:
    """The rule of an engine that has a prefix cache: order of arrival, but for requests that would lose what is cached,
    and while the queue is deep (`out_of_order`, decision 019). An unbudgeted rule keeps its own order."""
    return varied(rule, cached=True, overdue_share=0.25, overdue_warm=0.5)


@compiled
def kv_time(context, remaining):  # type: ignore[no-untyped-def]
    """Area under a request's KV until its end [token·steps]: R·(c + R/2)."""
    return remaining * (context + 0.5 * remaining)


@compiled
def aging(age_s, predicted_output, rule):  # type: ignore[no-untyped-def]
    """Weight of a request's delay [-]: 1 + age / (a + b·predicted output)."""
    return 1.0 + age_s / (rule.order.aging_s + rule.order.aging_share * predicted_output)


class Victim(NamedTuple):
    """A running request, as a victim is judged."""

    context: int  # tokens of memory of its own
    generated: int  # tokens
    remaining: float  # predicted output to come [tokens]
    age_s: float
    preemptions: int
    out_of_order: int  # 1: admitted before an older waiting request
    weight: float


@compiled
def victim_score(cost, rule, one, oldest_age_s):  # type: ignore[no-untyped-def]
    """How good a `Victim` a running request is; the greatest goes first."""
    lost_s = recompute_seconds(cost, 0, one.context) + 0.5 * (cost.fixed_s + cost.weights_s)
    score = kv_time(one.context, one.remaining) / (lost_s * (1.0 + one.preemptions)) / one.weight
    if not rule.budgeted:
        return score / aging(one.age_s, one.remaining + one.generated, rule)
    if one.out_of_order:
        score *= rule.victims.out_of_order_factor
    return score / (1.0 + one.age_s / (rule.victims.protect_s + rule.victims.protect_share * oldest_age_s)) ** 2


@compiled
def reserve_cap(rule, oldest, remaining, mean_remaining):  # type: ignore[no-untyped-def]
    """Largest share of the pool that a candidate must leave free [-]."""
    if oldest:
        return rule.reserve.oldest_share
    if rule.reserve.size_scaled:
        scale = min(1.0, remaining / max(mean_remaining, 1.0))
        return rule.reserve.min_share + (rule.reserve.cap_share - rule.reserve.min_share) * scale
    return rule.reserve.cap_share


def at_pace(rule: Greedy, tokens_per_step: float) -> Greedy:
    """The rule where a step brings each running request so many tokens, as it does with drafts."""
    return varied(rule, growth_steps=rule.reserve.growth_steps * tokens_per_step)


@compiled
def growth_reserve(rule, requests, pool):  # type: ignore[no-untyped-def]
    """What so many running requests may take before some of them end, whatever is known of them [tokens]."""
    return min(rule.reserve.growth_steps * requests, rule.reserve.growth_share * pool)


@compiled
def own_horizon_excess(survival, mean, variance, z, context, half_block, occupied):  # type: ignore[no-untyped-def]
    """max_h S_r(h)·(E m(h) + z·σ(h) − occupied − c) [tokens]; all arrays (H,), tokens; own part not yet in the sums.

    Rounding up to blocks exceeds a context by `half_block` tokens on average.
    """
    excess = 0.0
    for h in range(len(HORIZONS)):
        s = survival[h]
        own = context + HORIZONS[h] + half_block
        spread = math.sqrt(variance[h] + s * (1.0 - s) * own * own)
        over = mean[h] + s * own + z * spread - occupied - context
        excess = max(excess, over if h == 0 else s * over)
        if s <= 0.01:
            break
    return excess
