"""Learning goes on beside the step, and nothing that happens there reaches it."""

from pathlib import Path
from typing import Any

import numpy as np
from fakes import Status, request, scheduler, wait_for

from kvhorizon.adapter.engine.request_table import Rows
from kvhorizon.adapter.engine.view import Engine
from kvhorizon.adapter.forecasting.finished import Ended
from kvhorizon.adapter.forecasting.forecaster import Forecaster
from kvhorizon.adapter.forecasting.learner import SAVE_S, WATCH_S, Learner, running_now, state_folder

COMPILING_S = 120.0  # what the thread calls may have to be compiled first


def build(state: Path | None = None) -> tuple[Learner, Forecaster, Any, Rows]:
    forecaster = Forecaster()
    engine = Engine(scheduler())
    rows = Rows(8, forecaster.tables)
    return Learner(forecaster, engine, rows, state), forecaster, engine, rows


def end(forecaster: Forecaster, count: int, tokens: int = 50) -> None:
    for handle in range(count):
        forecaster.finished(Ended(handle, 0, 0, 0.0, tokens, False, False))


def test_a_poke_is_enough_and_stopping_ends_the_thread() -> None:
    learner, forecaster, _, _ = build()
    end(forecaster, 100)
    learner.poke(1.0)
    wait_for(lambda: forecaster.tables.version > 0, COMPILING_S)
    thread = learner._thread
    learner.stop()
    assert thread is not None
    assert not thread.is_alive()
    learner.stop()


def test_what_runs_is_read_and_who_has_gone_is_left_out() -> None:
    _, _, engine, rows = build()
    for name, prompt, output in (("a", 10, 5), ("gone", 7, 7), ("b", 20, 9)):
        one = request(name, prompt, output, status=Status.RUNNING)
        engine.scheduler.running.append(one)
        if name != "gone":
            rows.take(rows.add(one, 0.0, 100, 3, 4, 5.0), 0.0)
    found = running_now(engine, rows)
    assert found.generated.tolist() == [5, 9]
    assert found.held.tolist() == [15, 29]
    assert found.limits.tolist() == [100, 100]
    assert found.leaves.tolist() == [3, 3]
    assert found.hint_leaves.tolist() == [4, 4]
    assert found.hint_tokens.tolist() == [5.0, 5.0]
    assert len(np.unique(found.handles)) == 2
    engine.scheduler.running.clear()
    assert len(running_now(engine, rows).handles) == 0


def test_it_looks_at_what_runs_now_and_then() -> None:
    learner, forecaster, engine, rows = build()
    one = request("a", 10, 5000, status=Status.RUNNING)
    rows.take(rows.add(one, 0.0, 10_000, 3), 0.0)
    learner.once(1.0)
    before = forecaster.tables
    engine.scheduler.running.append(one)
    learner.once(1.0 + 0.5 * WATCH_S)
    assert forecaster.tables is before
    learner.once(1.0 + WATCH_S)
    assert forecaster.tables.residual[0][0] > before.residual[0][0]


def test_an_error_is_counted_and_learning_goes_on() -> None:
    learner, forecaster, engine, _ = build()
    engine.scheduler.running.append(None)  # no request at all
    learner.once(1.0)
    assert learner.errors == 1
    engine.scheduler.running.clear()
    end(forecaster, 100)
    learner.once(1.0 + WATCH_S)
    assert learner.errors == 1
    assert forecaster.tables.version > 0


def test_the_state_is_saved_from_time_to_time_and_at_the_end(tmp_path: Path) -> None:
    learner, forecaster, _, _ = build(tmp_path / "state")
    end(forecaster, 200, tokens=7)
    learner.once(1.0)
    assert not (tmp_path / "state").exists()
    learner.once(1.0 + SAVE_S)
    assert (tmp_path / "state" / "history.npz").exists()
    _, again, _, _ = build(tmp_path / "state")
    Learner(again, None, None, tmp_path / "state")  # type: ignore[arg-type]
    assert again.tables.residual[0][0] < 0.2 * Forecaster().tables.residual[0][0]


def test_a_broken_state_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / "history.npz").write_bytes(b"nonsense")
    learner, forecaster, _, _ = build(tmp_path)
    end(forecaster, 100)
    learner.once(1.0)
    assert forecaster.tables.version > 0


def test_models_and_engines_keep_apart(tmp_path: Path) -> None:
    def of(model: str, rank: int, trained: str = "") -> Path | None:
        config = type("Config", (), {})()
        config.model_config = type("Model", (), {"model": model})
        config.parallel_config = type("Parallel", (), {"data_parallel_rank": rank})
        return state_folder(tmp_path, config, trained)

    folders = [of("org/model-8b", 0), of("org/model-8b", 1), of("other/model-8b", 0), of("/models/model-8b/", 0)]
    folders += [of("org/model-8b", 0, "0a1b2c3d"), of("org/model-8b", 0, "0a1b2c3e")]
    assert len(set(folders)) == 6
    assert all(folder is not None and folder.parent == tmp_path for folder in folders)
    assert state_folder(None, None) is None
