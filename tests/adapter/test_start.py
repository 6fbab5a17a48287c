"""What is said at the start is heard where vLLM's own lines are."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from kvhorizon.adapter.engine_facts import DEFAULT_GPU, gpu_of
from kvhorizon.adapter.factory import speak_as_vllm
from kvhorizon.models.performance.gpu import preset


class Kept(logging.Handler):
    """Keeps the messages."""

    def __init__(self) -> None:
        super().__init__()
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


@contextmanager
def vllms() -> Iterator[Kept]:
    """vLLM's logger as it sets it up, and none for all others; all is as before afterwards."""
    loggers = [logging.getLogger(name) for name in ("", "vllm", "kvhorizon")]
    before = [(list(one.handlers), one.level) for one in loggers]
    kept = Kept()
    for one in loggers:
        one.handlers = []
    loggers[1].handlers = [kept]
    loggers[1].setLevel(logging.INFO)
    try:
        yield kept
    finally:
        for one, (handlers, level) in zip(loggers, before, strict=True):
            one.handlers = handlers
            one.setLevel(level)


def test_our_lines_go_where_vllms_go() -> None:
    with vllms() as kept:
        logging.getLogger("kvhorizon.adapter.factory").info("not heard yet")
        speak_as_vllm()
        speak_as_vllm()
        logging.getLogger("kvhorizon.adapter.factory").info("heard once")
    assert kept.messages == ["heard once"]


def test_whoever_has_set_up_logging_has_the_say() -> None:
    with vllms() as kept:
        own = Kept()
        logging.getLogger().handlers = [own]
        speak_as_vllm()
        logging.getLogger("kvhorizon").warning("one")
    assert (kept.messages, own.messages) == ([], ["one"])


def test_an_unknown_gpu_is_said_in_one_line_and_no_other_one_is() -> None:
    with vllms() as kept:
        speak_as_vllm()
        assert gpu_of("NVIDIA GeForce RTX 4090") is None
        assert gpu_of("NVIDIA L40S") is preset("l40s-48gb")
        assert gpu_of(None) is preset(DEFAULT_GPU), "an engine without a GPU"
    (line,) = kept.messages
    assert line.startswith("kvhorizon does not know the GPU NVIDIA GeForce RTX 4090: steps are priced as on h100-80gb")
