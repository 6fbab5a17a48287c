"""Where questions are answered: in this process, in a pool of processes, or on a Ray cluster. Answers are the same.

An executor is entered once and may be given questions several times, so that its workers stay warm.

`ray` takes a cluster of this machine, `ray:ADDRESS` joins one (`auto`, or `host:port` of its head). Its nodes need
kvhorizon installed, and trace files at the same path; what a lost worker was at is done again by another.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import importlib
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from kvhorizon.errors import InputError
from kvhorizon.extras import require
from kvhorizon.whatif.question import Question

MOST_WORKERS = 256
MOST_RETRIES = 5  # of a question whose worker was lost
Results = dict[str, Any]  # as `results.json`
Answer = Callable[[Question, int], Results]
Run = Callable[[Answer, Sequence[Question], int], Iterator[tuple[int, Results]]]  # places and results as they come


@contextlib.contextmanager
def executor(spec: str, workers: int) -> Iterator[Run]:
    """`processes`, `ray` or `ray:ADDRESS`; the number of workers is the pool's, or of a cluster that is started here.

    Raises InputError for any other, and for a cluster that cannot be used.
    """
    if not 1 <= workers <= MOST_WORKERS:
        raise InputError("workers", workers, f"must be within 1 ... {MOST_WORKERS}")
    kind, _, address = spec.partition(":")
    if spec == "processes":
        with _processes(workers) as run:
            yield run
    elif kind == "ray":
        with _ray(address, workers) as run:
            yield run
    else:
        raise InputError("executor", spec, "must be processes, ray or ray:ADDRESS")


def _here(answer: Answer, questions: Sequence[Question], work: int) -> Iterator[tuple[int, Results]]:
    for place, question in enumerate(questions):
        yield place, answer(question, work)


@contextlib.contextmanager
def _processes(workers: int) -> Iterator[Run]:
    if workers == 1:
        yield _here
        return
    pool = concurrent.futures.ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"))

    def run(answer: Answer, questions: Sequence[Question], work: int) -> Iterator[tuple[int, Results]]:
        places = {pool.submit(answer, question, work): place for place, question in enumerate(questions)}
        for future in concurrent.futures.as_completed(places):
            yield places[future], future.result()

    try:
        yield run
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


@contextlib.contextmanager
def _ray(address: str, workers: int) -> Iterator[Run]:
    require("ray", "ray", "executor", "ray")
    ray = importlib.import_module("ray")
    where = {"address": address} if address else {"num_cpus": workers, "include_dashboard": False}
    try:
        ray.init(**where, log_to_driver=False, configure_logging=False)
    except (OSError, RuntimeError, ValueError) as error:
        raise InputError("executor", f"ray:{address}", f"must be a cluster that answers ({_first(error)})") from None

    def run(answer: Answer, questions: Sequence[Question], work: int) -> Iterator[tuple[int, Results]]:
        task = ray.remote(num_cpus=1, max_retries=MOST_RETRIES)(answer)
        places = {task.remote(question, work): place for place, question in enumerate(questions)}
        left = list(places)
        while left:
            done, left = ray.wait(left)
            for one in done:
                yield places[one], _fetch(ray, one)

    try:
        yield run
    finally:
        ray.shutdown()


def _fetch(ray: Any, one: Any) -> Results:
    try:
        found: Results = ray.get(one)
    except ray.exceptions.RayTaskError as error:
        if isinstance(error.cause, InputError):
            raise error.cause from None
        raise
    return found


def _first(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
