"""A forecast trained while requests end: better than the history where it can be, and blind to what has not ended."""

import numpy as np
import pytest

from kvhorizon.errors import InputError
from kvhorizon.models.forecast.learned.features import Recorded
from kvhorizon.models.forecast.learned.trained import FIRST_REQUESTS, TrainedForecast
from kvhorizon.models.forecast.of_a_trace import check_spec, history_forecast, make_forecast
from kvhorizon.models.forecast.prequential import finish_times
from kvhorizon.models.forecast.scoring import quantile
from kvhorizon.models.forecast.survival import EXACT

LIMIT = 1 << 20


def requests(size: int, informative: bool, seed: int = 0) -> Recorded:
    """Outputs are a twentieth of the prompt, give or take, or have nothing to do with it; one class of the history."""
    rng = np.random.default_rng(seed)
    prompt = rng.integers(512, 4096, size)
    base = prompt if informative else rng.permutation(prompt)
    output = np.maximum(1, base * np.exp(0.1 * rng.standard_normal(size)) / 20).astype(np.int64)
    arrival_s = np.cumsum(rng.exponential(0.3, size))
    return Recorded(arrival_s, finish_times(arrival_s, output), prompt, output, np.zeros(size, np.int64))


def trained(of: Recorded) -> TrainedForecast:
    limit = np.full(len(of.arrival_s), LIMIT)
    return TrainedForecast(history_forecast(of.prompt_tokens, of.tenant, limit), of, limit, 0)


def run(forecast: TrainedForecast, of: Recorded, count: int) -> None:
    """The first `count` to finish do so, 32 at a time."""
    order = np.argsort(of.finish_s, kind="stable")[:count]
    for some in np.split(order, range(32, count, 32)):
        forecast.learn(some, of.output_tokens[some], float(of.finish_s[some[-1]]))


def errors(forecast: TrainedForecast, of: Recorded, rows: np.ndarray) -> float:
    """Mean |log(median / length)|."""
    curves = forecast.curves
    assert (curves.curve != EXACT).all()
    medians = [quantile(curves.survival[curves.curve[n]], curves.scale[n], 0.5) for n in rows]
    return float(np.abs(np.log(medians / of.output_tokens[rows])).mean())


def test_a_model_takes_over_once_it_beats_the_history() -> None:
    of = requests(FIRST_REQUESTS + 400, True)
    forecast, later = trained(of), np.arange(FIRST_REQUESTS + 100, FIRST_REQUESTS + 400)
    run(forecast, of, FIRST_REQUESTS - 32)
    assert forecast.trainings == 0
    before = errors(forecast, of, later)
    run(forecast := trained(of), of, FIRST_REQUESTS + 64)
    assert (forecast.trainings, forecast.accepted) == (1, 1)
    assert errors(forecast, of, later) < 0.5 * before


def test_where_prompts_tell_nothing_the_history_stays() -> None:
    of = requests(FIRST_REQUESTS + 64, False)
    forecast = trained(of)
    run(forecast, of, FIRST_REQUESTS + 64)
    assert (forecast.trainings, forecast.accepted) == (1, 0)
    limit = np.full(len(of.arrival_s), LIMIT)
    plain = history_forecast(of.prompt_tokens, of.tenant, limit)
    order = np.argsort(of.finish_s, kind="stable")
    for some in np.split(order, range(32, len(order), 32)):
        plain.learn(some, of.output_tokens[some], 0.0)
    rows = plain.curves.curve
    np.testing.assert_array_equal(forecast.curves.survival[forecast.curves.curve], plain.curves.survival[rows])


def test_the_future_does_not_show() -> None:
    """With other lengths for all that end later, every curve is the same."""
    one = requests(FIRST_REQUESTS + 400, True)
    count = FIRST_REQUESTS + 64
    future = np.argsort(one.finish_s, kind="stable")[count:]
    output = one.output_tokens.copy()
    output[future] *= 7
    other = one._replace(output_tokens=output)
    forecasts = [trained(one), trained(other)]
    for forecast in forecasts:
        run(forecast, one, count)
    assert forecasts[0].accepted == forecasts[1].accepted == 1
    for name in ("survival", "residual", "curve", "scale"):
        np.testing.assert_array_equal(*(getattr(forecast.curves, name) for forecast in forecasts))


def test_its_tables_stay_the_same_objects() -> None:
    of = requests(FIRST_REQUESTS + 64, True)
    forecast = trained(of)
    before = tuple(id(array) for array in forecast.curves)
    run(forecast, of, FIRST_REQUESTS + 64)
    forecast.watch(np.arange(5), np.arange(5))
    assert tuple(id(array) for array in forecast.curves) == before


def test_by_name() -> None:
    of = requests(50, True)
    check_spec("learned")
    columns = {"prompt_tokens": of.prompt_tokens, "key": of.tenant, "true_output_tokens": of.output_tokens, "seed": 0}
    made = make_forecast("learned", output_limit=np.full(50, LIMIT), recorded=of, **columns)
    assert isinstance(made, TrainedForecast)
    with pytest.raises(InputError, match="forecast='learned', needs the recorded columns"):
        make_forecast("learned", output_limit=np.full(50, LIMIT), **columns)
