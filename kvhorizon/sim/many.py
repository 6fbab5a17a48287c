"""Many questions at once: in a pool of processes, each answer kept as it comes, so that an interrupted run goes on."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import hashlib
import json
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from kvhorizon import __version__
from kvhorizon.errors import InputError
from kvhorizon.sim.in_process import InProcess
from kvhorizon.sim.whatif import Question, prepare, what_if

Results = dict[str, Any]  # as `results.json`


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
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                row = json.loads(line)
                kept[row["key"]] = row["results"]
            except (ValueError, KeyError, TypeError):
                continue
    return kept


def _each(questions: Sequence[Question], work: int, workers: int) -> Iterator[tuple[int, Results]]:
    if workers == 1 or len(questions) == 1:
        for i, question in enumerate(questions):
            yield i, answer(question, work)
        return
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(workers, context) as pool:
        places = {pool.submit(answer, question, work): i for i, question in enumerate(questions)}
        try:
            for future in concurrent.futures.as_completed(places):
                yield places[future], future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def answer_all(
    questions: Sequence[Question],
    work: int,
    workers: int = 1,
    kept_in: Path | None = None,
    progress: Callable[[float], None] | None = None,
) -> list[Results]:
    """Results in the order of the questions, the same for any number of workers. Raises InputError.

    Those found in `kept_in` (JSON lines) are not computed again; new ones are added to it.
    """
    if not 1 <= workers <= 256:
        raise InputError("workers", workers, "must be within 1 ... 256")
    contents = {trace: digest_of(trace) for trace in {question.trace for question in questions}}
    keys = [key_of(question, contents[question.trace], work) for question in questions]
    kept = load(kept_in) if kept_in else {}
    missing = [i for i, key in enumerate(keys) if key not in kept]
    for place, results in _each([questions[i] for i in missing], work, workers):
        key = keys[missing[place]]
        kept[key] = results
        if kept_in:
            with kept_in.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"key": key, "results": results}) + "\n")
        if progress:
            progress(1.0 - sum(k not in kept for k in keys) / len(keys))
    return [kept[key] for key in keys]
