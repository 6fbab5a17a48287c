"""The report escapes what comes from outside, and says the answer first."""

import dataclasses
import json
from typing import Any

import numpy as np
import pytest
from engines import facts, random_trace

from kvhorizon.report.advice import advise, switch_of
from kvhorizon.report.failure import under_way
from kvhorizon.report.page import pictures, render
from kvhorizon.sim.engine.failure import Failure
from kvhorizon.sim.fleet.failure_cost import failure_cost
from kvhorizon.sim.isolated import alone
from kvhorizon.sim.metrics import summarize
from kvhorizon.sim.policies.registry import parse_policy
from kvhorizon.sim.replay import replay
from kvhorizon.sim.setup import Setup
from kvhorizon.whatif.question import Answer

HOSTILE = '<script>alert("x")</script>'


@pytest.fixture(scope="module")
def answer() -> Answer:
    trace = dataclasses.replace(random_trace(5, 300, 120 * 16, 30.0), name=HOSTILE)
    setup = Setup(trace, facts(400, 16, 64, 512), forecast="noisy:0.6")
    names = ("fcfs", "kvhorizon:greedy")
    outcomes = [replay(setup, parse_policy(name)) for name in names]
    prefill_s, service_s = alone(setup)
    rows = [
        {
            "policy": name,
            **summarize(trace, outcome, prefill_alone_s=prefill_s, service_alone_s=service_s, tpot_target_s=0.1),
        }
        for name, outcome in zip(names, outcomes, strict=True)
    ]
    engine = {"model": "m", "gpu": "g", "tp": 1, "kv_blocks": 400, "block_size": 16}
    engine |= {"max_num_seqs": 64, "max_num_batched_tokens": 512}
    about = {"name": HOSTILE, "requests": 300, "prompt_tokens": 1, "output_tokens": 1, "span_s": 1.0, "sha256": "0"}
    results = {"trace": about, "engine": engine, "load": None, "forecast": "noisy:0.6", "seed": 0, "policies": rows}
    return Answer(results, trace, setup.facts, outcomes)


def test_a_hostile_trace_name_is_shown_not_run(answer: Answer) -> None:
    page = render(answer, f"kvhorizon what-if {HOSTILE}")
    assert HOSTILE not in page
    assert "&lt;script&gt;alert(&quot;x&quot;)&lt;/script&gt;" in page


def test_nothing_is_loaded_from_elsewhere(answer: Answer) -> None:
    body = render(answer, "kvhorizon what-if").split("</script></head>")[1]
    assert "src=" not in body
    assert "href=" not in body
    assert "http://" not in body.replace("http://www.w3.org", "")


def test_every_policy_has_a_column_and_a_line(answer: Answer) -> None:
    page = render(answer, "kvhorizon what-if")
    for name in ("fcfs", "kvhorizon:greedy"):
        assert f'<th scope="col">{name}</th>' in page
        assert page.count(f'"name":"{name}"') >= 4


def test_the_answer_names_the_switch_its_gain_and_how_sure(answer: Answer) -> None:
    advice = advise(answer)
    assert advice.policy == "kvhorizon:greedy"
    assert advice.headline.startswith("kvhorizon:greedy makes the mean request")
    assert advice.switch is not None
    assert advice.switch.endswith("vllm serve MODEL --scheduler-cls kvhorizon.adapter.make_scheduler")
    assert any(text.startswith("evictions −") for text in advice.buys)
    assert "95 % of resampled blocks" in advice.sure[0]
    page = render(answer, "kvhorizon what-if")
    assert page.index(advice.headline) < page.index("Policies side by side") < page.index("Mean against tail")


def test_what_cannot_be_switched_on_is_not_advised(answer: Answer) -> None:
    rows = [
        {**row, "policy": {"kvhorizon:greedy": "mc-sf"}.get(row["policy"], row["policy"])} for row in policies(answer)
    ]
    assert advise(with_policies(answer, rows)).headline.startswith("Nothing to switch on")
    assert switch_of("watermark:0.05") == "vllm serve MODEL --watermark 0.05"
    assert (
        switch_of("kvhorizon/means")
        == "KVHORIZON_KNOB=means vllm serve MODEL --scheduler-cls kvhorizon.adapter.make_scheduler"
    )


def policies(answer: Answer) -> list[dict[str, Any]]:
    return answer.results["policies"]


def with_policies(answer: Answer, rows: list[dict[str, Any]]) -> Answer:
    return dataclasses.replace(answer, results={**answer.results, "policies": rows})


def test_where_nothing_is_evicted_it_says_so(answer: Answer) -> None:
    rows = [{**row, "preemption_frequency": 0.0, "preemptions": 0} for row in policies(answer)]
    advice = advise(with_policies(answer, rows))
    assert (advice.policy, advice.switch) == (None, None)
    assert "little to win" in advice.buys[0]


def test_a_far_longer_tail_is_not_advised(answer: Answer) -> None:
    rows = [dict(row) for row in policies(answer)]
    rows[1]["e2e_s"] = {**rows[1]["e2e_s"], "p99": 2.0 * rows[0]["e2e_s"]["p99"]}
    rows.append(
        {**rows[1], "policy": "watermark:0.02", "e2e_s": {**rows[0]["e2e_s"], "mean": 0.9 * rows[0]["e2e_s"]["mean"]}}
    )
    outcomes = [*answer.outcomes, answer.outcomes[1]]
    found = advise(dataclasses.replace(with_policies(answer, rows), outcomes=outcomes))
    assert found.policy == "watermark:0.02"


def test_harm_is_said_where_nothing_is_advised(answer: Answer) -> None:
    """Policies exchange their figures: what was better than first-come-first-served is then worse."""
    first, second = policies(answer)
    swapped = [{**second, "policy": "fcfs", "preemption_frequency": 1.0}, {**first, "policy": "kvhorizon:greedy"}]
    advice = advise(with_policies(answer, swapped))
    assert advice.headline.startswith("Nothing to switch on")
    assert advice.costs[0].startswith("kvhorizon:greedy would do harm here: mean latency +")


def test_warnings_stand_before_the_answer_and_are_escaped(answer: Answer) -> None:
    page = render(dataclasses.replace(answer, results={**answer.results, "warnings": [HOSTILE]}), "kvhorizon")
    assert HOSTILE not in page
    assert page.index("&lt;script&gt;alert(&quot;x&quot;)&lt;/script&gt;.</section>") < page.index('class="answer"')


def test_a_difference_to_the_recording_stands_before_the_answer(answer: Answer) -> None:
    told = {"says": "It differs <b>.", "differs": ["ttft_s"]}
    page = render(dataclasses.replace(answer, results={**answer.results, "self_check": told}), "kvhorizon")
    assert page.index("It differs &lt;b&gt;.") < page.index('class="answer"')


def test_hostile_tenants_are_shown_not_run(answer: Answer) -> None:
    key = np.arange(len(answer.trace)) % 2
    both = dataclasses.replace(
        answer, trace=dataclasses.replace(answer.trace, key=key, key_names=(HOSTILE, "</script>"))
    )
    page = render(both, "kvhorizon").split("</script></head>")[1]
    assert HOSTILE not in page
    assert page.count("</script>") == page.count("<script")
    assert "&lt;script&gt;" in page
    assert [one.anchor for one in pictures(both)].count("tenants") == 1
    assert "tenants" not in [one.anchor for one in pictures(answer)]


def test_the_numbers_of_a_figure_are_there_as_a_table(answer: Answer) -> None:
    """Deciles of output length have the mean wait of their requests."""
    lengths = next(one for one in pictures(answer) if one.anchor == "lengths")
    assert len(lengths.table) == 10
    wait = answer.outcomes[0].first_token_s - answer.trace.arrival_s
    shortest = np.argsort(answer.trace.output_tokens, kind="stable")[:30]
    assert lengths.table[0][1] == f"{wait[shortest].mean():,.2f}"


def test_what_a_failure_cost_is_drawn_first(answer: Answer) -> None:
    """A line with the failure and one without for each policy, and a row of differences; of one that cost nothing."""
    failure = {"at_s": 2.0, "down_for_s": 1.5}
    cost = failure_cost(answer.trace.arrival_s, Failure(**failure), answer.outcomes[0], answer.outcomes[0])
    rows = [{**row, "failure": cost} for row in policies(answer)]
    results = {**answer.results, "failure": failure, "policies": rows, "max_output_tokens": 512}
    both = dataclasses.replace(answer, results=results, calm=tuple(answer.outcomes))
    drawn = pictures(both)[0]
    assert drawn.anchor == "failure"
    assert [line.line.dash for line in drawn.figure.data] == ["solid", "dot"] * 2
    assert drawn.table[0] == ("fcfs", "0", "0", "+0", *["+0.00"] * 4, "0.0")
    page = render(both, "kvhorizon")
    assert "<dd>of an engine at 2 s, away for 1.5 s</dd>" in page
    assert "<dd>cut at 512 tokens</dd>" in page
    assert "What the failure cost" not in render(answer, "kvhorizon")


def test_who_is_under_way_has_come_and_is_not_done(answer: Answer) -> None:
    times = np.linspace(0.0, answer.outcomes[0].makespan_s, 20)
    found = under_way(answer.trace.arrival_s, answer.outcomes[0], times)
    for at_s, count in zip(times, found, strict=True):
        assert count == sum((answer.trace.arrival_s <= at_s) & (answer.outcomes[0].finish_s > at_s))


def test_engines_and_clients_are_told_where_they_are_not_plain(answer: Answer) -> None:
    fleet = {"replicas": 3, "router": "least-kv", "patience_s": 9.0, "retries": 1}
    page = render(dataclasses.replace(answer, results={**answer.results, "fleet": fleet}), "kvhorizon")
    assert "<dd>3, by least-kv</dd>" in page
    assert "give up after 9 s, and ask again up to 1 times" in page
    assert "<dt>clients</dt>" not in render(answer, "kvhorizon")


def test_evictions_that_are_not_listed_are_told(answer: Answer) -> None:
    first, second = answer.outcomes
    short = dataclasses.replace(first, preempted_at=first.preempted_at[:5])
    page = render(dataclasses.replace(answer, outcomes=[short, second]), "kvhorizon")
    data = json.loads(page.split('id="minute-data">')[1].split("</script>")[0])
    assert data["policies"][0]["known_until"] == pytest.approx(first.preempted_at[4, 0], abs=0.01)
    assert data["policies"][1]["known_until"] is None
    assert "Only the first" in page
    assert "Only the first" not in render(answer, "kvhorizon")


def test_a_minute_has_its_evictions(answer: Answer) -> None:
    page = render(answer, "kvhorizon")
    data = json.loads(page.split('id="minute-data">')[1].split("</script>")[0])
    assert [one["policy"] for one in data["policies"]] == ["fcfs", "kvhorizon:greedy"]
    for one, outcome in zip(data["policies"], answer.outcomes, strict=True):
        assert len(one["request"]) == len(outcome.preempted_at) * one["share"]
        assert max(one["evicted_at"], default=0.0) <= data["windows"] * data["window_s"]
    assert len(data["policies"][0]["request"]) == int(answer.outcomes[0].preemptions.sum()) > 0
