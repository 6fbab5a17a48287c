"""`kvhorizon what-if`: a trace under several policies; a table, results.json and report.html."""

from __future__ import annotations

import contextlib
import functools
import json
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from kvhorizon.cli.budget import parse_budget
from kvhorizon.errors import InputError
from kvhorizon.sim.policies import DEFAULT_POLICIES
from kvhorizon.sim.whatif import Answer, Question, prepare
from kvhorizon.sim.whatif import what_if as ask
from kvhorizon.solver.greedy import Knob
from kvhorizon.solver.planner import Budget
from kvhorizon.wire.child import SolverChild
from kvhorizon.wire.failures import SolverError
from kvhorizon.wire.resilient import ResilientSolver

TABLE_WIDTH = 124  # where standard output is no terminal


def what_if(
    trace: Annotated[str, typer.Argument(help="A trace file, or synthetic:NAME.")],
    out: Annotated[Path, typer.Option(help="Folder for results.json and report.html.")],
    model: Annotated[str, typer.Option(help="A built-in model, or a Hugging Face config.json.")] = "llama-3.1-8b",
    gpu: Annotated[str, typer.Option(help="A GPU preset.")] = "a100-40gb",
    tp: Annotated[int, typer.Option(help="Tensor-parallel GPUs.")] = 1,
    kv_blocks: Annotated[int | None, typer.Option(help="KV pool, in place of what model and GPU give.")] = None,
    load: Annotated[
        float | None, typer.Option(help="Arrivals as a share of capacity; without it, the trace's own.")
    ] = None,
    limit: Annotated[int | None, typer.Option(help="Only so many requests.")] = None,
    seed: Annotated[int, typer.Option(help="Of synthetic workloads and forecast noise.")] = 0,
    policy: Annotated[list[str] | None, typer.Option(help="May be given several times (default: all five).")] = None,
    forecast: Annotated[str, typer.Option(help="history, hint:S, learned:FILE, noisy:S or oracle.")] = "history",
    budget: Annotated[str, typer.Option(help="Of the program, per plan: work units, or 5ms.")] = "100",
    delay_s: Annotated[float | None, typer.Option(help="From snapshot to applied plan, in virtual time.")] = None,
) -> None:
    """Replay a trace through a simulated vLLM engine under several policies."""
    question = Question(
        trace=trace,
        model=model,
        gpu=gpu,
        tp=tp,
        kv_blocks=kv_blocks,
        load=load,
        limit=limit,
        seed=seed,
        policies=tuple(policy or DEFAULT_POLICIES),
        forecast=forecast,
        delay_s=delay_s,
    )
    effort = parse_budget(budget)
    folder, render = _folder(out), _renderer()
    prepared = prepare(question)
    with _solvers(prepared.planners, effort) as solvers, _bars() as bars:
        answer = ask(prepared, solvers, bars)
    command = shlex.join(["kvhorizon", *sys.argv[1:]])
    (folder / "results.json").write_text(json.dumps(answer.results, indent=1) + "\n", encoding="utf-8")
    (folder / "report.html").write_text(render(answer, command), encoding="utf-8")
    Console(width=None if sys.stdout.isatty() else TABLE_WIDTH).print(_table(answer))
    print(f"wrote {folder / 'results.json'} and {folder / 'report.html'}")


def _renderer() -> Callable[[Answer, str], str]:
    """What draws the report. Its libraries are of the extra `whatif`, which other commands do without."""
    try:
        from kvhorizon.report.page import render
    except ModuleNotFoundError as error:
        raise InputError("what-if", error.name, "must be installed: pip install 'kvhorizon[whatif]'") from None
    return render


def _folder(out: Path) -> Path:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError("out", str(out), f"must be a folder that can be written ({error.strerror})") from None
    return out


@contextlib.contextmanager
def _solvers(knobs: Sequence[Knob], budget: Budget) -> Iterator[dict[Knob, ResilientSolver]]:
    """A solver child for each knob, of those that start; policies without one follow their greedy rule."""
    effort = ["--work", str(budget.work)] if budget.work is not None else ["--budget-s", str(budget.seconds)]
    with contextlib.ExitStack() as stack:
        solvers = {}
        for knob in knobs:
            solver = ResilientSolver(functools.partial(SolverChild, [*effort, "--knob", knob]))
            try:
                solvers[knob] = stack.enter_context(solver)
            except SolverError as error:
                print(f"kvhorizon: warning: no solver ({error}); {knob} follows the greedy", file=sys.stderr)
        yield solvers


@contextlib.contextmanager
def _bars() -> Iterator[Any]:
    """One progress bar per policy, on standard error."""
    columns = (
        TextColumn("{task.description:<26}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
    )
    tasks: dict[str, Any] = {}
    with Progress(*columns, console=Console(stderr=True)) as progress:

        def show(name: str, share: float) -> None:
            if name not in tasks:
                tasks[name] = progress.add_task(name, total=1.0)
            progress.update(tasks[name], completed=share)

        yield show


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:,.{digits}f}"


def _table(answer: Answer) -> Table:
    """Policies as rows."""
    trace = answer.results["trace"]
    table = Table(title=f"{trace['name']}, {trace['requests']} requests; seconds unless said otherwise")
    table.add_column("policy", no_wrap=True)
    for name in ("evictions", "recompute", "TTFT", "p99", "e2e", "/bound", "p99", "goodput", "tok/s", "planned"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in answer.results["policies"]:
        plans = row["plans"]
        table.add_row(
            row["policy"],
            _number(row["preemptions"], 0),
            _number(100 * row["recompute_fraction"], 1) + " %",
            _number(row["ttft_s"]["mean"], 2),
            _number(row["ttft_s"]["p99"], 1),
            _number(row["e2e_s"]["mean"], 1),
            _number(row["over_bound"], 2),
            _number(row["e2e_s"]["p99"], 1),
            _number(100 * row["goodput"], 1) + " %",
            _number(row["throughput_tok_s"], 0),
            f"{plans.get('program', 0)}/{sum(plans.values())}" if plans else "-",
        )
    return table
