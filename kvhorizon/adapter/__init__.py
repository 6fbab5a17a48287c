"""The scheduler plugin in vLLM: `vllm serve MODEL --scheduler-cls kvhorizon.adapter.make_scheduler`.

Nothing here imports vLLM until `make_scheduler` is called.
"""

from typing import Any


def make_scheduler(*args: Any, **kwargs: Any) -> Any:
    """vLLM's scheduler, asynchronous or not as configured, with a plugin in it; arguments are vLLM's own."""
    from kvhorizon.adapter.scheduler import make_scheduler as make

    return make(*args, **kwargs)
