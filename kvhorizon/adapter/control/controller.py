"""One step's decisions carried out on the engine: evictions of a plan, the order of victims, the admissions shown."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from kvhorizon.adapter import compat
from kvhorizon.adapter.control.decision_log import DecisionLog
from kvhorizon.adapter.control.plan_follower import PlanFollower
from kvhorizon.adapter.control.reasons import Reasons
from kvhorizon.adapter.control.step_policy import NO_REQUEST, Choice, Rule, enough_victims, move_to_tail
from kvhorizon.adapter.engine.queue_view import HeapStage, ListStage, Stage
from kvhorizon.adapter.engine.request_table import Rows, Slots
from kvhorizon.adapter.engine.running_batch import Batch
from kvhorizon.adapter.engine.step_demand import Demand
from kvhorizon.adapter.engine.view import Engine
from kvhorizon.adapter.kinds.arriving_kv import with_coming
from kvhorizon.adapter.kinds.encoders import unsure_last
from kvhorizon.adapter.kinds.kinds import ready
from kvhorizon.adapter.kinds.lora import Adapters
from kvhorizon.adapter.kinds.unmanaged import beside_passing
from kvhorizon.adapter.prefix_cache.prefixes import FAST_PATH_MOST, Prefixes
from kvhorizon.adapter.prefix_cache.sessions import Sessions
from kvhorizon.solver.evictions import Asked, Gates, Pool, carried_out
from kvhorizon.solver.heuristic.out_of_order import CARE


class Control:
    """Of one engine. `choice` is this step's, for whoever compares it with what the engine did."""

    def __init__(
        self, engine: Engine, rows: Rows, rule: Rule, plans: PlanFollower, log: DecisionLog, level: compat.Level
    ) -> None:
        self.engine, self.rows, self.rule, self.plans, self.log, self.level = engine, rows, rule, plans, log, level
        self.batch, self.reasons = Batch(engine, rows), Reasons(engine, rows, plans, log)
        self.prefixes = Prefixes(engine, rows, rule)
        self.sessions = Sessions(engine, rows, self.prefixes.cache)
        self.adapters = Adapters(engine, rows)
        self.refused: dict[str, Any] = {}  # their grammar failed: vLLM ends them as soon as it sees them
        self.passing: list[Any] = []  # of this step, not chosen from
        self.stage: Stage = HeapStage() if engine.by_priority else ListStage()
        self.choice = NO_REQUEST
        self.busy = False  # this step called for a full look
        self.shown: list[Any] | None = None  # those that the engine can admit in this step; None: any
        self.evicted = 0  # ahead of need
        self.gates = Gates()  # of evictions ahead of need
        self.step = 0
        self._calm_until = 0  # step before which the running requests cannot lack blocks
        self._evictions_done = 0  # serial of the plan whose evictions are done

    def joined(self, slots: Collection[int], chosen_by_us: bool) -> None:
        """The engine has admitted requests; if it was shown our choice, what that costs the quota is due now."""
        self._calm_until = 0
        ledger = self.choice.ledger
        if chosen_by_us and ledger is not None and not set(self.choice.slots).isdisjoint(slots):
            self.rows.scratch.ledger[: len(ledger)] = ledger

    def note_prefills(self, num_tokens: Mapping[str, int], joined: Collection[int]) -> None:
        """A step was scheduled: full blocks of those that joined (slots) and of other prefills are cached now."""
        if not self.prefixes.enabled or not len(self.rows.boundaries):
            return
        for slot, request in self.batch.open.items():
            tokens = num_tokens.get(request.request_id, 0)
            if tokens > 1 or slot in joined:
                self.prefixes.scheduled(slot, request, tokens, slot in joined)

    def fast_path(self, now_s: float, may_evict: bool) -> bool:
        """Whether it is known without a full look that none can join in this step and none lacks a block."""
        engine, rows, plans = self.engine, self.rows, self.plans
        if plans.serial != self._evictions_done and may_evict and plans.evicts:
            return False
        if rows.num_passing or rows.streaming or engine.has_connector or self.refused:
            return False
        free = engine.free_blocks
        if rows.boundaries.stale and not self.rule.rests(engine, free, now_s):
            self.prefixes.refresh(FAST_PATH_MOST)
        if not engine.scheduler.running or not self.rule.stands(engine, free, now_s):
            return False
        wanted = self.batch.wanted_blocks()
        if wanted is None or wanted > free:
            return False
        self.choice, self.busy = NO_REQUEST, False
        return True

    def hide(self) -> None:
        """The engine admits none in this step."""
        self.shown = []
        self.stage.present(self.engine.scheduler, self.shown)

    def act(self, now_s: float, may_evict: bool) -> None:
        """Prepare the engine for this step; undone by `stage.restore()`, but for evictions and order."""
        self.choice, self.busy = NO_REQUEST, False
        plans, engine, rows = self.plans, self.engine, self.rows
        asked, self._evictions_done = plans.serial != self._evictions_done, plans.serial
        evicted = self._evict(now_s) if asked and may_evict and self.level >= compat.Level.FULL else []
        free, wanted = engine.free_blocks, self.batch.wanted_blocks()
        may_lack = self.step >= self._calm_until if wanted is None else wanted > free
        demand = self._put_victims_last(now_s) if may_lack else None
        queue, running = engine.scheduler.waiting, engine.scheduler.running
        if not queue or engine.seats <= 0:  # the engine admits none in this step
            return
        self.prefixes.refresh()
        others = self._others()
        self.passing = [request for request in queue if not self._ours(request)] if others else []
        lacking = demand is not None and demand.total_blocks > free
        if not (lacking or (running and not self.passing and self.rule.infeasible(rows, engine, free, now_s))):
            self.choice = self._choose(demand, now_s, evicted)
        shown = self._shown() if others or self.refused or self.choice is not NO_REQUEST else []
        if shown or running:  # an idle engine is never shown an empty queue
            self.stage.present(engine.scheduler, shown)
            self.shown = None if others else shown

    def advise(self, now_s: float) -> None:
        """Decide, and leave the engine as it is."""
        self.choice, self.busy = NO_REQUEST, False
        engine = self.engine
        running, free = engine.scheduler.running, engine.free_blocks
        queue = engine.scheduler.waiting
        if queue and engine.seats > 0:
            self.prefixes.refresh()
            self.passing = [request for request in queue if not self._ours(request)] if self._others() else []
            infeasible = running and not self.passing and self.rule.infeasible(self.rows, engine, free, now_s)
            self.choice = NO_REQUEST if infeasible else self._choose(None, now_s, [])

    def _choose(self, demand: Demand | None, now_s: float, evicted: list[int]) -> Choice:
        candidates = self._candidates(evicted)
        if not len(candidates):
            return NO_REQUEST
        self.busy = True
        demand = demand or self.batch.demand()
        if self.engine.has_connector:
            demand = with_coming(demand, self.rows, self.engine)
        if self.engine.max_loras:
            candidates = self.adapters.admissible(candidates, demand.slots, now_s)
        if self.passing and len(candidates):
            beside = beside_passing(self.passing, demand, candidates, self.rows, self.engine, now_s)
            demand, candidates, self.passing = beside
        if not len(candidates):
            return NO_REQUEST
        self.prefixes.check_some(demand.total_blocks)
        self.rule.returning_tokens = self.sessions.returning_tokens(now_s, self.rule.prefill_s_per_token)
        before = self.rows.scratch.ledger.copy()
        choice = self._by_class(candidates, demand, now_s)
        if not self.prefixes.confirm(choice.slots):
            self.rows.scratch.ledger[:] = before  # as if nothing had been chosen yet
            choice = self._by_class(candidates, demand, now_s)
        self.rows.scratch.ledger[:CARE] = before[:CARE]  # `admitted` brings it up to date once the engine took them
        self.prefixes.cache.expect(0)
        if choice is NO_REQUEST:
            self.reasons.held(self.step, candidates, now_s, self.rule.returning_tokens)
        return choice

    def _candidates(self, evicted: list[int]) -> Slots:
        """Waiting requests that are ours to admit."""
        rows = self.rows
        slots = rows.waiting()
        if rows.num_passing:
            slots = slots[rows.extra.steer[slots]]
        if self.engine.has_connector:
            apart = {request.request_id for request in self.engine.apart}
            known = ((slot, rows.request[slot]) for slot in slots.tolist())
            mine = [slot for slot, request in known if ready(request) and request.request_id not in apart]
            slots = np.array(mine, dtype=np.int32)
        if evicted:
            slots = slots[~np.isin(slots, evicted)]
        return slots

    def _by_class(self, candidates: Slots, demand: Demand, now_s: float) -> Choice:
        """With priorities the most urgent class first, the next one once all before it are in and stay in."""
        rows, engine, rule = self.rows, self.engine, self.rule
        if not engine.by_priority:
            return rule.choose(rows, engine, demand, candidates, now_s)
        priority, choice, before = rows.extra.priority[candidates], NO_REQUEST, 0
        account = rows.scratch.ledger
        owed = owed_then = account.copy()
        for level in np.unique(priority).tolist():
            urgent = candidates[priority <= level]
            account[:] = owed  # what a narrower look let in, the wider one counts again
            wider = rule.choose(rows, engine, demand, urgent, now_s)
            if before and not set(choice.slots) <= set(wider.slots):
                account[:] = owed_then
                break
            choice, before, owed_then = wider, len(urgent), account.copy()
            if len(choice.slots) < before:
                break
        return choice

    def _others(self) -> bool:
        """Whether some of the queue may not be ours to choose from."""
        return self.rows.num_passing > 0 or self.rows.streaming or self.engine.has_connector

    def _shown(self) -> list[Any]:
        """The chosen, and those that pass through, each before the first chosen one that came after it."""
        rows, passing = self.rows, deque(self.passing)
        chosen = [rows.request[slot] for slot in self.choice.slots if ready(rows.request[slot])]
        shown = list(self.refused.values())
        for request in chosen:
            while passing and passing[0].arrival_time <= request.arrival_time:
                shown.append(passing.popleft())
            shown.append(request)
        shown += passing
        if self.engine.by_priority or not any(request.mm_features for request in shown):
            return shown
        return unsure_last(shown, self.engine.scheduler)

    def _ours(self, request: Any) -> bool:
        """Whether the request is among those that are chosen from; all others are the engine's."""
        slot, extra = self.rows.slot_of.get(request.request_id), self.rows.extra
        if slot is None:  # it has only just come
            return True
        return bool(extra.steer[slot] and extra.waits[slot]) and ready(request)

    def _put_victims_last(self, now_s: float) -> Demand:
        """Where this step will lack blocks, the engine gives up the end of its list: put the best victims there."""
        engine, rows = self.engine, self.rows
        counted, demand = self.batch.counted, self.batch.demand()
        running, free = engine.scheduler.running, engine.free_blocks
        if demand.total_blocks <= free and not counted and not engine.has_connector:
            self._calm_until = self.step + self.batch.calm_steps(demand)
        if demand.total_blocks <= free or engine.by_priority or len(running) < 2:
            return demand
        self.busy = True
        ordered = self.rule.victims(rows, demand, now_s)
        places = enough_victims(engine, demand, ordered, rows.columns.blocks)
        chosen = [int(demand.slots[place]) for place in places]
        after = next(ordered, None)
        spared = None if after is None else int(demand.slots[after])
        if places and places != list(range(len(running) - 1, len(running) - 1 - len(places), -1)):
            move_to_tail(running, places)
            self.batch.reordered(places)
        for slot in chosen:
            self.reasons.victim(self.step, slot, spared, demand, now_s)
        return demand

    def _evict(self, now_s: float) -> list[int]:
        """Evictions that a plan asks for, once per plan, within the gates; returns the slots."""
        engine, rows = self.engine, self.rows
        slots = np.array(self.plans.evictions(rows), dtype=np.int64)
        asked = Asked(slots, now_s - rows.extra.admitted_s[slots], rows.columns.out_of_order[slots])
        pool = Pool(engine.free_blocks, engine.total_blocks, len(engine.scheduler.running))
        done = []
        for slot in carried_out(asked, pool, self.rule.greedy, self.gates).tolist():
            request = rows.request[slot]
            if request.status.name == "RUNNING" and engine.gives_back(request, 1, later=True) > 0:
                self.reasons.evicted(self.step, slot, now_s)
                compat.evict(engine.scheduler, request, now_s)
                done.append(slot)
        self.evicted += len(done)
        return done
