"""The log of decisions: bounded, repeats counted in place, and a victim's entry tells whether it went."""

from kvhorizon.adapter.control.decision_log import Decision, DecisionLog


def decision(request: str, what: str = "held", step: int = 1, by: str = "local") -> Decision:
    return Decision(float(step), step, request, what, by, "because")


def test_repeats_are_counted_in_place() -> None:
    log = DecisionLog()
    for step in range(5):
        log.note(decision("a", step=step))
    log.note(decision("b", step=5))
    log.note(decision("a", step=6))
    assert [(one.request_id, one.times, one.step) for one in log.newest()] == [("a", 5, 4), ("b", 1, 5), ("a", 1, 6)]
    assert log.counts["held", "local"] == 7


def test_the_oldest_go_where_it_is_full() -> None:
    log = DecisionLog(limit=3)
    for number in range(10):
        log.note(decision(str(number)))
    assert [one.request_id for one in log.newest()] == ["7", "8", "9"]
    assert log.of("1") == []


def test_a_victim_that_goes_is_evicted_by_who_chose_it() -> None:
    log = DecisionLog()
    log.note(decision("a", "victim", step=7, by="program"))
    log.note(decision("b", "victim", step=7))
    log.note(decision("c", "held", step=7))
    assert log.carried_out(7, "a") == "program"
    assert log.carried_out(7, "c") is None  # held is no choice of a victim
    assert log.carried_out(8, "b") is None  # chosen in another step
    assert [one.what for one in log.newest()] == ["evicted", "victim", "held"]
    assert log.counts["evicted", "program"] == 1


def test_an_eviction_of_a_plan_is_counted_once() -> None:
    log = DecisionLog()
    log.note(decision("a", "evicted", step=3, by="program"))
    assert log.carried_out(3, "a") == "program"
    assert log.counts["evicted", "program"] == 1
