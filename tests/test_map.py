"""The map of the code: each question has a route of at most three files, which define what the map names in them."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MAP = (ROOT / "docs/map.md").read_text(encoding="utf-8")
ROUTES = re.split(r"(?m)^\d\. ", MAP)[1:]
STEP = re.compile(r"`(kvhorizon/[\w/]+\.py)`: (.*?)(?=`kvhorizon/|\Z)", re.DOTALL)


def defined(path: Path) -> set[str]:
    """Functions, classes, methods and names assigned in a file, and keyword arguments by which it fills a field."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        elif isinstance(node, ast.keyword) and node.arg:
            found.add(node.arg)
    return found


def test_there_are_eight_questions() -> None:
    assert len(ROUTES) == 8


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.split("**")[1][:40])
def test_a_route_is_short_and_leads_to_what_it_names(route: str) -> None:
    steps = STEP.findall(route)
    assert 1 <= len(steps) <= 3
    for path, text in steps:
        names = re.findall(r"`(\w+)`", text)
        assert names
        assert set(names) <= defined(ROOT / path), path
