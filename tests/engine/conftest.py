"""Tests against the real vLLM: without it they are skipped, and say so."""

import importlib.util

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if importlib.util.find_spec("vllm") is None:
        for item in items:
            item.add_marker(pytest.mark.skip(reason="vLLM is not installed: `make engine` sets it up"))
