"""What `kvhorizon what-if` prints: policies as rows."""

from __future__ import annotations

from typing import Any

from rich.table import Table

from kvhorizon.whatif.engine_spec import AS_RECORDED
from kvhorizon.whatif.question import Answer

TYPICAL = ("p50", "p99")


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:,.{digits}f}"


def engine_line(results: dict[str, Any]) -> str:
    """What was simulated."""
    engine, fleet = results["engine"], results["fleet"]
    several = f"{fleet['replicas']} engines, each " if fleet["replicas"] > 1 else ""
    place = ", as recorded" if engine["gpu"] == AS_RECORDED else f" on {engine['tp']} × {engine['gpu']}"
    pool = f"{engine['kv_blocks']:,} KV blocks of {engine['block_size']} tokens"
    return f"Simulated: {several}{engine['model']}{place}; {pool}; prefix caching {engine['prefix_caching_says']}"


def policies_table(answer: Answer) -> Table:
    """Policies as rows.

    With prefix caching, under which no bound is proven, also the share of prompt tokens that each finds cached and the
    prefill tokens that it computes per request.
    """
    caching = answer.results["engine"]["prefix_caching"]
    trace = answer.results["trace"]
    table = Table(title=f"{trace['name']}, {trace['requests']} requests; seconds unless said otherwise")
    table.add_column("policy", no_wrap=True)
    cached, bound = (("cached", "prefill"), ()) if caching else ((), ("/bound",))
    for name in ("evictions", "recompute", *cached, "TTFT", "p99", "e2e", *bound, "p99", "goodput", "tok/s", "planned"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in answer.results["policies"]:
        plans = row["plans"]
        table.add_row(
            row["policy"],
            _number(row["preemptions"], 0),
            _number(100 * row["recompute_fraction"], 1) + " %",
            *(_cached(row) if caching else ()),
            _number(row["ttft_s"]["mean"], 2),
            _number(row["ttft_s"]["p99"], 1),
            _number(row["e2e_s"]["mean"], 1),
            *(() if caching else (_number(row["over_bound"], 2),)),
            _number(row["e2e_s"]["p99"], 1),
            _number(100 * row["goodput"], 1) + " %",
            _number(row["throughput_tok_s"], 0),
            f"{plans.get('program', 0)}/{sum(plans.values())}" if plans else "-",
        )
    return table


def _cached(row: dict[str, Any]) -> tuple[str, str]:
    return _number(100 * row["cached_share"], 1) + " %", _number(row["prefill_tokens_per_request"], 0)


def failure_table(results: dict[str, Any]) -> Table:
    """What the failure cost under each policy, against the same replay without it."""
    failure = results["failure"]
    table = Table(title=f"What the failure at {failure['at_s']:g} s cost, {failure['down_for_s']:g} s long; seconds")
    table.add_column("policy", no_wrap=True)
    for name in ("interrupted", "KV tokens lost", "recomputed", "TTFT", "p99", "e2e", "p99", "caught up in"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in results["policies"]:
        cost = row["failure"]
        table.add_row(
            row["policy"],
            _number(cost["requests_interrupted"], 0),
            _number(cost["kv_tokens_lost"], 0),
            _more(cost["recompute_tokens_more"], 0),
            _more(cost["ttft_mean_more_s"], 2),
            _more(cost["ttft_p99_more_s"], 1),
            _more(cost["e2e_mean_more_s"], 2),
            _more(cost["e2e_p99_more_s"], 1),
            "at the end" if cost["caught_up_s"] is None else _number(cost["caught_up_s"], 1),
        )
    return table


def _more(value: float | None, digits: int) -> str:
    """A difference, with its sign."""
    return "-" if value is None else f"{value:+,.{digits}f}"


def classes_table(answer: Answer) -> Table:
    """Policies and classes of service as rows."""
    table = Table(title="classes of service; seconds")
    for name in ("policy", "class"):
        table.add_column(name, no_wrap=True)
    for name in ("requests", "weight", "TTFT p50", "p99", "TPOT p50", "p99", "in time"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in answer.results["policies"]:
        for name, one in row["classes"].items():
            times = [_number(one[kind][p], digits) for kind, digits in (("ttft_s", 2), ("tpot_s", 3)) for p in TYPICAL]
            met = "-" if one["slo_attainment"] is None else _number(100 * one["slo_attainment"], 1) + " %"
            table.add_row(row["policy"], name, _number(one["requests"], 0), f"{one['weight']:g}", *times, met)
    return table
