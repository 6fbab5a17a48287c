"""`kvhorizon inspect`: what a trace or recording holds, and whether this product can help whoever sent it."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from kvhorizon.cli.warn import warn
from kvhorizon.errors import InputError
from kvhorizon.extras import require
from kvhorizon.recording.read import Recording, is_recording, read_recording
from kvhorizon.sim.prefix_caching import recorded_setting, resolve
from kvhorizon.sim.workload.readers import recorded_trace
from kvhorizon.sim.workload.trace import Trace
from kvhorizon.sim.workload.trace import limit as first
from kvhorizon.state import EngineFacts
from kvhorizon.whatif.engine_spec import engine_spec
from kvhorizon.whatif.inspection import inspect as look_into
from kvhorizon.whatif.trace_spec import load_trace

TABLE_WIDTH = 124  # where standard output is no terminal


def inspect(
    source: Annotated[str, typer.Argument(help="A recording or trace, or synthetic:NAME.")],
    model: Annotated[
        str | None, typer.Option(help="Built-in, or a config.json (default: the recording's own).")
    ] = None,
    gpu: Annotated[str | None, typer.Option(help="A GPU preset (default: the recording's own).")] = None,
    tp: Annotated[int, typer.Option(help="Tensor-parallel GPUs.")] = 1,
    kv_blocks: Annotated[int | None, typer.Option(help="KV pool, in place of what model and GPU give.")] = None,
    limit: Annotated[int | None, typer.Option(help="Only so many requests.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw it all into this HTML file.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="As data.")] = False,
) -> None:
    """Say what is in a recording or trace: rates, lengths, tenants, and how short of memory an engine would be."""
    if limit is not None and limit < 1:
        raise InputError("limit", limit, "must be >= 1")
    recording = read_recording(Path(source)) if is_recording(Path(source)) else None
    if recording is not None:
        whole = recorded_trace(Path(source).name.removesuffix(".parquet"), recording)
        trace = whole if limit is None else first(whole, limit)
    else:
        trace = load_trace(source, limit, 0)
    facts, engine = engine_of(recording, model, gpu, tp, kv_blocks)
    told = None if recording is None else recorded_setting(recording.facts)
    caching = resolve(trace, None, facts.block_size, told)
    found = {**look_into(trace, facts, recording), "engine": engine, "prefix_caching": caching._asdict()}
    warn([] if caching.warning is None else [caching.warning])
    if plot is not None:
        draw(plot, found, trace, facts)
    if as_json:
        typer.echo(json.dumps(found, indent=1))
        return
    Console(width=None if sys.stdout.isatty() else TABLE_WIDTH).print(table(found))
    typer.echo(f"kvhorizon can help {found['verdict']['help']}: {found['verdict']['why']}.")
    if plot is not None:
        typer.echo(f"wrote {plot}")
    typer.echo(f"What each policy would have done: kvhorizon what-if {source} --out OUT")


def draw(path: Path, found: dict[str, Any], trace: Trace, facts: EngineFacts) -> None:
    """Write the page. Raises InputError."""
    require("plotly", "whatif")
    from kvhorizon.report.inspect_page import render_inspection

    page = render_inspection(found, list(lines(found)), trace, facts, shlex.join(["kvhorizon", *sys.argv[1:]]))
    try:
        path.write_text(page, encoding="utf-8")
    except OSError as error:
        raise InputError("plot", str(path), f"must be a file that can be written ({error.strerror})") from None


def engine_of(
    recording: Recording | None, model: str | None, gpu: str | None, tp: int, kv_blocks: int | None
) -> tuple[EngineFacts, str]:
    """The engine asked for, else the one recorded, else what-if's own default; and its name. Raises InputError."""
    engine = engine_spec(model, gpu, tp, kv_blocks, recording)
    named = f"as recorded: {engine.model}" if engine.as_recorded else f"{engine.model} on {tp} × {engine.gpu}"
    return engine.facts, named


def table(found: dict[str, Any]) -> Table:
    """What was found, a line each."""
    shown = Table(title=f"{escape(found['name'])} ({escape(found['engine'])})", show_header=False)
    shown.add_column(no_wrap=True)
    shown.add_column(overflow="fold")
    for name, text in lines(found):
        shown.add_row(name, escape(text))
    return shown


def lines(found: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Name and text of each line."""
    arrivals, pressure = found["arrivals"], found["pressure"]
    yield "requests", f"{found['requests']:,} in {arrivals['span_s']:,.0f} s"
    yield (
        "arrivals",
        f"{_number(arrivals['rate_per_s'], 2)} /s, busiest minute {_number(arrivals['busiest_per_s'], 2)} /s, "
        f"burstiness {_number(arrivals['burstiness'], 1)} (Poisson: 1)",
    )
    for name in ("prompt_tokens", "output_tokens"):
        yield name.replace("_", " "), _spread(found[name], 0) + f", max {found[name]['max']:,}"
    top = ", ".join(f"{one['tenant'] or '(none)'} {100 * one['token_share']:.0f} %" for one in found["tenants"]["top"])
    yield "tenants", f"{found['tenants']['count']}; share of tokens: {top}"
    if found["prefix_reuse"] is not None:
        yield "prefix reuse", f"{100 * found['prefix_reuse']:.0f} % of prompt tokens, with an endless cache"
    if found["prefix_caching"]["on"]:
        yield (
            "prefix caching",
            f"{found['prefix_caching']['says']}; what follows counts whole prompts, as if it were off",
        )
    else:
        yield "prefix caching", found["prefix_caching"]["says"]
    yield (
        "memory",
        f"{pressure['pool_blocks']:,} blocks; a running request holds {pressure['held_tokens_per_request']:,.0f} "
        f"tokens, {100 * pressure['growth_share']:.0f} % of them grown while decoding",
    )
    yield (
        "batch",
        f"memory has room for {pressure['requests_that_fit']:,.0f} requests, there are {pressure['seats']} seats",
    )
    yield (
        "load",
        f"{_percent(pressure['load'])} of the {pressure['capacity_per_s']:,.2f} requests/s that it can serve, "
        f"{_percent(pressure['busiest_load'])} at the busiest time",
    )
    if found["recorded"] is not None:
        yield from _recorded(found["recorded"])


def _recorded(recorded: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for name, label in (("ttft_s", "time to first token"), ("tpot_s", "per output token"), ("e2e_s", "latency")):
        if recorded[name]["mean"] is not None:
            yield label, _spread(recorded[name], 3) + " s"
    yield (
        "evictions",
        f"{recorded['preemptions']:,}, {recorded['preemption_frequency']:.3f} per request; "
        f"{recorded['recompute_tokens']:,} tokens and {100 * recorded['recompute_fraction']:.2f} % of FLOPs again",
    )
    yield "ended by", ", ".join(f"{reason} {count:,}" for reason, count in recorded["finish"].items())


def _spread(values: dict[str, float], digits: int) -> str:
    return ", ".join(f"{name} {values[name]:,.{digits}f}" for name in ("mean", "p50", "p90", "p99"))


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:,.{digits}f}"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:,.0f} %"
