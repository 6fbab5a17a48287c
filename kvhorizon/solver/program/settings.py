"""Parameters of the rolling-horizon program's model."""

from __future__ import annotations

from dataclasses import dataclass

from kvhorizon.errors import InputError
from kvhorizon.solver.heuristic.params import Knob

EVICT_OCCUPANCY = 0.96  # of the pool; below it nothing is evicted ahead of need
EVICT_RESIDENCY_S = 2.0  # a request that ran for less stays
EVICT_PER_PLAN = 1


@dataclass(frozen=True, slots=True)
class Settings:
    """What the program assumes. Raises InputError for a value that makes no program."""

    buckets: int = 12  # K
    points: int = 8  # A, admission points, spread over the buckets
    first_bucket_steps: float = 8.0  # about one tick
    horizon_outputs: float = 2.0  # horizon / mean predicted remaining output
    z: float = 1.645  # one-sided confidence of the memory constraint
    reserve_share: float = 0.02  # of the pool, never planned for
    price_factor: float = 1.0  # overflow price / cost of evicting a block
    read_price: float = 1.0  # weight of the delay that a request's KV reads cause to the batch
    candidates: int = 96  # waiting requests considered, by the greedy's key
    oldest: int = 16  # and these in any case
    aging_s: float = 2.0  # a delay weighs 1 + age / (aging_s + aging_share · predicted output)
    aging_share: float = 0.2  # seconds per token
    size_power: float = 0.5  # order of insertion: KV·time^size_power / (order_age_s + age)
    order_age_s: float = 1.0
    postponed: float = 0.5  # surcharge on the delay of not starting now
    never: float = 1.5  # delay of "not within the horizon", in horizons
    progress: float = 1.0  # surcharge on evicting, times the share of output already done
    evict_occupancy: float = EVICT_OCCUPANCY
    max_evictions: int = EVICT_PER_PLAN  # running requests that one plan may evict

    def __post_init__(self) -> None:
        if not 1 <= self.points <= self.buckets:
            raise InputError("points", self.points, f"must be within 1 ... buckets={self.buckets}")
        for name in ("first_bucket_steps", "horizon_outputs", "aging_s", "order_age_s", "never", "price_factor"):
            if not 0.0 < getattr(self, name) < float("inf"):
                raise InputError(name, getattr(self, name), "must be > 0")
        for name in (
            "z",
            "read_price",
            "candidates",
            "oldest",
            "aging_share",
            "size_power",
            "postponed",
            "progress",
            "max_evictions",
        ):
            if not 0.0 <= getattr(self, name) < float("inf"):
                raise InputError(name, getattr(self, name), "must be >= 0")
        for name in ("reserve_share", "evict_occupancy"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise InputError(name, getattr(self, name), "must be within 0 ... 1")


def settings_of(knob: Knob) -> Settings:
    """The model beside the step's rule of `knob`: both put waiting requests into the same order."""
    rule = knob.beside
    return Settings(size_power=rule.order.size_power, order_age_s=rule.order.aging_s)
