"""What-if from Python: `kvhorizon.what_if("trace.csv", policies=["fcfs", "kvhorizon"])`."""

from __future__ import annotations

import html
import json
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kvhorizon.sim.policies.in_process import WORK, InProcess
from kvhorizon.sim.policies.registry import DEFAULT_POLICIES
from kvhorizon.whatif.question import Answer, Question, prepare
from kvhorizon.whatif.question import what_if as ask

if TYPE_CHECKING:
    import pandas
    import plotly.graph_objects


@dataclass(frozen=True, slots=True)
class Results:
    """Answers of one what-if; `data` is `results.json`."""

    answer: Answer

    @property
    def data(self) -> dict[str, Any]:
        """The content of `results.json`."""
        return self.answer.results

    def to_pandas(self) -> pandas.DataFrame:
        """One row per policy; nested figures as `ttft_s.p99`. Needs pandas."""
        import pandas

        return pandas.json_normalize(self.data["policies"]).set_index("policy")

    def plot(self, what: str = "occupancy") -> plotly.graph_objects.Figure:
        """One figure of the report: failure, pareto, lengths, tenants, engine, occupancy, ttft, tpot or e2e.

        Needs plotly. Raises InputError for any other name.
        """
        from kvhorizon.errors import InputError
        from kvhorizon.report.page import pictures

        known = {picture.anchor: picture.figure for picture in pictures(self.answer)}
        if what not in known:
            raise InputError("what", what, f"must be one of {', '.join(known)}")
        return known[what]

    def save(self, folder: str | Path) -> None:
        """Write `results.json` and `report.html` into a folder. Needs plotly."""
        from kvhorizon.report.page import render

        place = Path(folder)
        place.mkdir(parents=True, exist_ok=True)
        (place / "results.json").write_text(json.dumps(self.data, indent=1) + "\n", encoding="utf-8")
        (place / "report.html").write_text(render(self.answer, "kvhorizon.what_if(…)"), encoding="utf-8")

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><th>{html.escape(row['policy'])}</th><td>{row['preemptions']}</td><td>{row['ttft_s']['mean']:.2f}</td>"
            f"<td>{row['e2e_s']['mean']:.2f}</td><td>{row['e2e_s']['p99']:.1f}</td><td>{row['goodput']:.1%}</td></tr>"
            for row in self.data["policies"]
        )
        head = "".join(f"<th>{name}</th>" for name in ("policy", "evictions", "TTFT", "e2e", "e2e p99", "goodput"))
        return f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"


def what_if(
    trace: str | Path, *, policies: Sequence[str] = DEFAULT_POLICIES, work: int = WORK, **question: Any
) -> Results:
    """Replay a trace under several policies; the program is planned in this process, with `work` units a plan.

    `question` takes the command's arguments: model, gpu, tp, kv_blocks, load, limit, seed, forecast, delay_s, replicas,
    router, patience_s, retries, prefix_caching, classes, max_output_tokens, fail_at_s, down_for_s, offload_gb_s, mix,
    mix_share.
    `prefix_caching` None is as vLLM: on where the trace says what is shared. Where it does not, a Python warning says
    so, and `data["warnings"]` keeps it.
    Raises InputError for bad values and TypeError for an argument that does not exist.
    """
    prepared = prepare(Question(trace=str(trace), policies=tuple(policies), **question))
    for text in prepared.warnings:
        warnings.warn(text, stacklevel=2)
    return Results(ask(prepared, {knob: InProcess(knob, work) for knob in prepared.planners}))
