"""Executors: whoever answers, the answers are the same; a lost worker costs time only; bad names are told."""

import contextlib
import dataclasses
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from experiments.bench.bench_whatif import cluster, plain
from kvhorizon.errors import InputError
from kvhorizon.whatif.executors import executor
from kvhorizon.whatif.many import answer, answer_all
from kvhorizon.whatif.question import Question

SMALL = Question("synthetic:chat", gpu="l4-24gb", kv_blocks=700, load=1.2, limit=120, policies=("fcfs",))
PROBE = "import ray, sys; ray.init(sys.argv[1]); ray.get(ray.remote(lambda: 1).remote(), timeout=60)"
QUESTIONS = [dataclasses.replace(SMALL, seed=n) for n in range(4)]


@pytest.mark.parametrize("spec", ["threads", "", "processes:2", "dask"])
def test_a_bad_executor_is_told(spec: str) -> None:
    with pytest.raises(InputError, match="executor"), executor(spec, 1):
        pass


@pytest.mark.parametrize("workers", [0, 257])
def test_a_bad_number_of_workers_is_told(workers: int) -> None:
    with pytest.raises(InputError, match="workers"):
        answer_all([SMALL], 100, workers)


def test_a_pool_answers_twice_as_it_does_alone() -> None:
    alone = [plain(answer(question, 100)) for question in QUESTIONS]
    with executor("processes", 2) as run:
        for _ in range(2):
            found = dict(run(answer, QUESTIONS, 100))
            assert [plain(found[place]) for place in range(4)] == alone


@pytest.fixture
def address() -> Iterator[str]:
    """A cluster of Ray's that has answered; skipped, loudly, where Ray itself does not run on this machine."""
    pytest.importorskip("ray", reason="Ray is not installed: its executor is NOT TESTED")
    with contextlib.ExitStack() as stack:
        try:
            found = stack.enter_context(cluster())
            subprocess.run([sys.executable, "-c", PROBE, found], check=True, timeout=120)
        except (RuntimeError, subprocess.SubprocessError) as error:
            pytest.skip(f"Ray does not run on this machine: its executor is NOT TESTED ({error})")
        yield found


def test_ray_answers_as_a_pool_does_and_survives_a_lost_worker(address: str, tmp_path: Path) -> None:
    mark = tmp_path / "died"

    def dies_once(question: Question, work: int) -> dict[str, Any]:
        """A worker that is killed at the first question that any is asked."""
        try:
            mark.touch(exist_ok=False)
        except FileExistsError:
            return answer(question, work)
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError

    alone = [plain(answer(question, 100)) for question in QUESTIONS]
    with executor(f"ray:{address}", 2) as run:
        for asked in (answer, dies_once):
            found = dict(run(asked, QUESTIONS, 100))
            assert [plain(found[place]) for place in range(4)] == alone
        assert mark.exists()
        with pytest.raises(InputError, match="trace"):
            list(run(answer, [Question("nothing.csv", policies=("fcfs",))], 100))
