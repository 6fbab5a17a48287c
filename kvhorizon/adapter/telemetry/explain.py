"""What happened to one request, what stands now, and why: from the log of decisions and the live state."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kvhorizon.adapter.modes import Mode

if TYPE_CHECKING:
    from kvhorizon.adapter.plugin import Plugin

NEWEST = 200  # lines where no request is named


def explain(plugin: Plugin, request_id: str, wall_s: float, engine_id: str) -> dict[str, Any] | None:
    """All that is known of a request, as plain data; None where that is nothing.

    Its name may lack what vLLM appends to it. Times are times of day; `wall_s` is the present. `handle`, `engine_id`
    and the `solver` of our own are what the service's Explain call wants.
    """
    log, offset_s = plugin.control.log, wall_s - plugin.now()
    name = _full_name(plugin, request_id)
    if name is None:
        return None
    state, text = _now(plugin, name)
    slot = plugin.rows.slot_of.get(name)
    child = getattr(plugin.session.solver, "child", None) if plugin.session is not None else None
    return {
        "request": name,
        "handle": None if slot is None else int(plugin.rows.extra.handle[slot]),
        "engine_id": engine_id,
        "solver": None if child is None or not child.alive else child.address,
        "state": state,
        "now": text,
        "decisions": [one._asdict() | {"at_s": one.at_s + offset_s} for one in log.of(name)],
    }


def newest(plugin: Plugin, wall_s: float) -> dict[str, Any]:
    """The last decisions about any request."""
    offset_s = wall_s - plugin.now()
    return {"decisions": [one._asdict() | {"at_s": one.at_s + offset_s} for one in plugin.control.log.newest(NEWEST)]}


def _full_name(plugin: Plugin, request_id: str) -> str | None:
    names = [*plugin.rows.slot_of, *(one.request_id for one in reversed(plugin.control.log.newest(10**6)))]
    if request_id in names:
        return request_id
    return next((name for name in names if name.startswith(f"{request_id}-")), None)


def _now(plugin: Plugin, name: str) -> tuple[str, str]:
    """Its state, and a sentence."""
    rows, slot = plugin.rows, plugin.rows.slot_of.get(name)
    request = None if slot is None else rows.request[slot]
    if slot is None or request is None:
        return "over", "it is not live any more"
    size = plugin.engine.block_size
    if not rows.extra.waits[slot]:
        blocks = -(-request.num_computed_tokens // size)
        text = f"it runs, has given {request.num_output_tokens} tokens, was evicted {request.num_preemptions} times"
        return "running", f"{text}, and holds {blocks} blocks{_price(plugin, blocks)}"
    blocks = -(-request.num_tokens // size)
    before = int((rows.columns.arrival_s[rows.extra.waits] < rows.columns.arrival_s[slot]).sum())
    # nothing of the rows that changes when read: the step goes on meanwhile
    text = f"it waits, {before} of {rows.num_waiting} came before it: its {request.num_tokens} tokens need"
    rank = int(rows.scratch.rank[slot])
    plan = f"; number {rank} in the plan in force" if rank else ""
    return (
        "waiting",
        f"{text} {blocks} blocks{_price(plugin, blocks)}, {plugin.engine.free_blocks} are free{plan}; {_who(plugin)}",
    )


def _who(plugin: Plugin) -> str:
    if plugin.mode is not Mode.CONTROL or plugin.guard.retired:
        return f"vLLM decides alone (mode {plugin.mode})"
    who = {"program": "the program's plan", "greedy": "the service's greedy plan"}
    return f"{who.get(plugin.plans.source, 'the rule beside the engine')} decides"


def _price(plugin: Plugin, blocks: int) -> str:
    plan = plugin.plans.plan
    if plan is None or not len(plan.block_prices):
        return ""
    price = float(plan.block_prices[0])
    return f", for which the plan asks {price:.3g} s of delay each ({price * blocks:.3g} s)"
