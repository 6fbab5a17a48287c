"""The report escapes what comes from outside, and says the answer first."""

import dataclasses

import pytest
from engines import facts, random_trace

from kvhorizon.report.page import headline, render
from kvhorizon.sim.alone import alone
from kvhorizon.sim.metrics import summarize
from kvhorizon.sim.policies import parse_policy
from kvhorizon.sim.replay import replay
from kvhorizon.sim.setup import Setup
from kvhorizon.sim.whatif import Answer

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


def test_the_headline_names_gain_and_cost(answer: Answer) -> None:
    sentence = headline(answer.results["policies"])
    assert sentence.startswith("kvhorizon:greedy avoids")
    assert "mean latency changes by" in sentence


def test_where_nothing_is_evicted_it_says_so(answer: Answer) -> None:
    rows = [{**row, "preemption_frequency": 0.0, "preemptions": 0} for row in answer.results["policies"]]
    assert "little to win" in headline(rows)
