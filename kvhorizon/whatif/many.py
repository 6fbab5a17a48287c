"""Many questions at once, by any executor; each answer is kept as it comes, so that an interrupted run goes on."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path

from kvhorizon import __version__
from kvhorizon.sim.policies.in_process import InProcess
from kvhorizon.whatif.executors import Results, executor
from kvhorizon.whatif.question import Question, prepare, what_if


def answer(question: Question, work: int) -> Results:
    """One question's results; the program is planned in this process with `work` units a plan. Raises InputError."""
    prepared = prepare(question)
    return what_if(prepared, {knob: InProcess(knob, work) for knob in prepared.planners}).results


def digest_of(trace: str) -> str:
    """Of a trace file's content, hexadecimal; empty for what is no file."""
    file = Path(trace)
    return hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else ""


def key_of(question: Question, content: str, work: int) -> str:
    """What an answer depends on, as a hexadecimal digest: the arguments, a file's content, and our version."""
    told = json.dumps([dataclasses.asdict(question), content, work, __version__], sort_keys=True)
    return hashlib.sha256(told.encode()).hexdigest()


def load(path: Path) -> dict[str, Results]:
    """Answers kept by earlier runs, by key; a line that was cut short is left out."""
    kept: dict[str, Results] = {}
    if path.exists():
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                row = json.loads(line)
                kept[row["key"]] = row["results"]
            except (ValueError, KeyError, TypeError, RecursionError):
                continue
    return kept


def answer_all(
    questions: Sequence[Question],
    work: int,
    workers: int = 1,
    kept_in: Path | None = None,
    progress: Callable[[float], None] | None = None,
    by: str = "processes",
) -> list[Results]:
    """Results in the order of the questions, the same for any executor and number of workers. Raises InputError.

    Those found in `kept_in` (JSON lines) are not computed again; new ones are added to it.
    """
    contents = {trace: digest_of(trace) for trace in {question.trace for question in questions}}
    keys = [key_of(question, contents[question.trace], work) for question in questions]
    kept = load(kept_in) if kept_in else {}
    missing = [i for i, key in enumerate(keys) if key not in kept]
    if not missing:
        return [kept[key] for key in keys]
    with executor(by, workers) as run:
        for place, results in run(answer, [questions[i] for i in missing], work):
            key = keys[missing[place]]
            kept[key] = results
            if kept_in:
                with kept_in.open("a", encoding="utf-8") as file:
                    file.write(json.dumps({"key": key, "results": results}) + "\n")
            if progress:
                progress(1.0 - sum(k not in kept for k in keys) / len(keys))
    return [kept[key] for key in keys]
