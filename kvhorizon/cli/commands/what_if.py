"""`kvhorizon what-if`: a trace under several policies; a table, results.json and report.html."""

from __future__ import annotations

import contextlib
import functools
import json
import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from kvhorizon.cli.bars import bars
from kvhorizon.cli.budget import parse_budget
from kvhorizon.cli.commands.questions import AnswerAll
from kvhorizon.cli.commands.questions import find as find_best
from kvhorizon.cli.commands.questions import sweep as sweep_points
from kvhorizon.cli.warn import warn
from kvhorizon.cli.what_if_tables import classes_table, engine_line, failure_table, policies_table
from kvhorizon.errors import InputError
from kvhorizon.extras import require
from kvhorizon.models.slo.classes import read_classes
from kvhorizon.sim.policies.registry import DEFAULT_POLICIES
from kvhorizon.solver.heuristic.params import Knob
from kvhorizon.solver.program.search.planner import Budget
from kvhorizon.whatif.engine_spec import GPU, MODEL
from kvhorizon.whatif.many import answer_all
from kvhorizon.whatif.question import DOWN_FOR_S, Question, prepare
from kvhorizon.whatif.question import what_if as ask
from kvhorizon.whatif.self_check import Check
from kvhorizon.wire.child import SolverChild
from kvhorizon.wire.failures import SolverError
from kvhorizon.wire.resilient import ResilientSolver

TABLE_WIDTH = 124  # where standard output is no terminal


def what_if(
    trace: Annotated[str, typer.Argument(help="A trace file, or synthetic:NAME.")],
    out: Annotated[Path, typer.Option(help="Folder for results.json and report.html.")],
    model: Annotated[
        str | None, typer.Option(help=f"Built-in, or a Hugging Face config.json (default: as recorded, else {MODEL}).")
    ] = None,
    gpu: Annotated[str | None, typer.Option(help=f"A GPU preset (default: as recorded, else {GPU}).")] = None,
    tp: Annotated[int, typer.Option(help="Tensor-parallel GPUs.")] = 1,
    kv_blocks: Annotated[int | None, typer.Option(help="KV pool, in place of what model and GPU give.")] = None,
    load: Annotated[
        float | None, typer.Option(help="Arrivals as a share of capacity; without it, the trace's own.")
    ] = None,
    limit: Annotated[int | None, typer.Option(help="Only so many requests.")] = None,
    seed: Annotated[int, typer.Option(help="Of synthetic workloads and forecast noise.")] = 0,
    policy: Annotated[list[str] | None, typer.Option(help="May be given several times (default: all five).")] = None,
    forecast: Annotated[str, typer.Option(help="history, hint:S, learned[:FILE], noisy:S or oracle.")] = "history",
    budget: Annotated[str, typer.Option(help="Of the program, per plan: work units, or 5ms.")] = "100",
    delay_s: Annotated[float | None, typer.Option(help="From snapshot to applied plan, in virtual time.")] = None,
    sweep: Annotated[
        list[str] | None, typer.Option(help="NAME=FIRST:LAST:STEP or NAME=A,B: ask at each value; may be repeated.")
    ] = None,
    find: Annotated[
        str | None, typer.Option(help="Goals such as 'ttft_p99<=2s,goodput>=.95': how much load or memory meets them.")
    ] = None,
    over: Annotated[
        str, typer.Option(help="With --find: load (the largest), kv_blocks or replicas (the fewest).")
    ] = "load",
    replicas: Annotated[int, typer.Option(help="Engines behind a router; load is of one of them.")] = 1,
    router: Annotated[str, typer.Option(help="round-robin, least-kv or prefix.")] = "round-robin",
    patience_s: Annotated[
        float | None, typer.Option(help="Clients give up that have no token after so many seconds.")
    ] = None,
    retries: Annotated[int, typer.Option(help="How often a client that gave up asks again.")] = 0,
    prefix_caching: Annotated[
        bool | None,
        typer.Option(
            "--prefix-caching/--no-prefix-caching",
            help="vLLM's prefix caching (default: on where the trace says what is shared, else off with a warning).",
        ),
    ] = None,
    classes: Annotated[
        str, typer.Option(help="Classes of service, with weights and targets: JSON, or a .json or .toml file.")
    ] = "",
    max_output_tokens: Annotated[
        int | None, typer.Option(help="What if clients asked for so many output tokens at most: outputs are cut there.")
    ] = None,
    fail_at_s: Annotated[
        float | None, typer.Option(help="The engine, or the first of several, fails then and loses all KV.")
    ] = None,
    down_for_s: Annotated[float, typer.Option(help="How long a failed engine is away.")] = DOWN_FOR_S,
    offload_gb_s: Annotated[
        float,
        typer.Option(help="Evicted KV is kept in host memory and comes back so fast; PCIe 4.0 has 25."),
    ] = 0.0,
    mix: Annotated[str | None, typer.Option(help="Another trace, of which a share of the requests are.")] = None,
    mix_share: Annotated[float, typer.Option(help="That share.")] = 0.5,
    workers: Annotated[int, typer.Option(help="Processes of a sweep.")] = 1,
    executor: Annotated[str, typer.Option(help="Of a sweep: processes, ray, or ray:ADDRESS.")] = "processes",
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
        replicas=replicas,
        router=router,
        patience_s=patience_s,
        retries=retries,
        prefix_caching=prefix_caching,
        classes=read_classes(classes).text(),
        max_output_tokens=max_output_tokens,
        fail_at_s=fail_at_s,
        down_for_s=down_for_s,
        offload_gb_s=offload_gb_s,
        mix=mix,
        mix_share=mix_share,
    )
    require("plotly", "whatif")
    effort = parse_budget(budget)
    folder = _folder(out)
    command = shlex.join(["kvhorizon", *sys.argv[1:]])
    if sweep or find:
        how = functools.partial(answer_all, workers=workers, by=executor)
        _print(_many(question, sweep or [], find, over, effort, how, folder, command))
        return
    _print_answer(question, effort, folder, command)


def _print_answer(question: Question, effort: Budget, folder: Path, command: str) -> None:
    """One question: its results and its report into the folder, tables to standard output."""
    prepared = prepare(question)
    warn(prepared.warnings)
    if prepared.self_check is not None:
        _tell(prepared.self_check)
    with _solvers(prepared.planners, effort) as solvers, bars() as show:
        answer = ask(prepared, solvers, show)
    from kvhorizon.report.page import render

    (folder / "results.json").write_text(json.dumps(answer.results, indent=1) + "\n", encoding="utf-8")
    (folder / "report.html").write_text(render(answer, command), encoding="utf-8")
    print(engine_line(answer.results))
    _print(policies_table(answer))
    if any(row["classes"] for row in answer.results["policies"]):
        _print(classes_table(answer))
    if answer.results["failure"] is not None:
        _print(failure_table(answer.results))
    print(f"wrote {folder / 'results.json'} and {folder / 'report.html'}")


def _print(table: Table) -> None:
    Console(width=None if sys.stdout.isatty() else TABLE_WIDTH).print(table)


def _tell(checked: Check) -> None:
    """First of all whether the simulated engine can be believed; on standard error where it differs."""
    if checked.differs:
        print(f"kvhorizon: warning: {checked.says()}", file=sys.stderr)
    else:
        print(checked.says())


def _many(
    question: Question,
    sweep: list[str],
    find: str | None,
    over: str,
    effort: Budget,
    how: AnswerAll,
    folder: Path,
    command: str,
) -> Table:
    if sweep and find:
        raise InputError("find", find, "and --sweep exclude each other")
    if effort.work is None:
        raise InputError("budget", f"{effort.seconds} s", "must be work units with --sweep or --find")
    if find:
        return find_best(question, find, over, effort.work, folder)
    return sweep_points(question, sweep, effort.work, how, folder, command)


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
