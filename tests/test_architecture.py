"""Imports go one way: each package may use only what stands before it."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "kvhorizon"

# part -> parts it may import. Parts are top-level modules and folders of the package.
ALLOWED: dict[str, set[str]] = {
    "__init__": {"notebook"},
    "errors": set(),
    "extras": {"errors"},
    "state": set(),
    "compiled": {"errors"},
    "models": {"compiled", "errors", "extras", "state"},
    "recording": {"errors", "extras"},
    "wire": {"errors", "state"},
    "solver": {"compiled", "errors", "state", "models"},
    "service": {"errors", "state", "models", "solver", "wire"},
    "adapter": {"compiled", "errors", "state", "models", "solver", "wire", "recording"},
    "sim": {"compiled", "errors", "state", "models", "solver", "recording"},
    "whatif": {"errors", "extras", "state", "models", "solver", "sim", "recording"},
    "report": {"state", "models", "sim", "whatif"},
    "notebook": {"errors", "sim", "report", "whatif"},
    "config": {"errors"},
    "cli": {
        "__init__",
        "errors",
        "extras",
        "state",
        "config",
        "models",
        "solver",
        "service",
        "adapter",
        "sim",
        "whatif",
        "report",
        "wire",
        "recording",
    },
    "__main__": {"cli"},
}
FORBIDDEN_OUTSIDE = {
    "vllm": {"adapter/scheduler.py", "adapter/telemetry/stat_logger.py"},
    "highspy": {
        "solver/program/search/restricted_mip.py",
        "solver/bounds/hindsight_program.py",
        "solver/checks/lp_relaxation.py",
        "solver/highs.py",
    },
    "pulp": {"solver/checks/reference.py"},
    "pyarrow": set(),  # by recording/schema.py, when it is asked for
}


def parts_imported(path: Path) -> set[str]:
    """Parts of the package that a file imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for steps in (name.split(".") for name in names):
            if steps[0] == "kvhorizon":
                found.add(steps[1] if len(steps) > 1 and is_part(steps[1]) else "__init__")
    return found


def is_part(name: str) -> bool:
    return (PACKAGE / name).is_dir() or (PACKAGE / f"{name}.py").exists()


def sources() -> list[Path]:
    return [path for path in sorted(PACKAGE.rglob("*.py")) if "_pb2" not in path.name]


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_one_way(path: Path) -> None:
    inside = path.relative_to(PACKAGE)
    part = inside.parts[0] if len(inside.parts) > 1 else inside.stem
    allowed = ALLOWED[part] | {part, "__init__"}
    assert parts_imported(path) <= allowed


@pytest.mark.parametrize(("package", "where"), FORBIDDEN_OUTSIDE.items())
def test_heavy_packages_stay_in_their_file(package: str, where: set[str]) -> None:
    users = set()
    for path in sources():
        for node in ast.walk(ast.parse(path.read_text())):
            module = getattr(node, "module", None) if isinstance(node, ast.ImportFrom) else None
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [module or ""]
            if any(name.split(".")[0] == package for name in names):
                users.add(str(path.relative_to(PACKAGE)))
    assert users <= where


def test_every_import_that_is_allowed_is_used() -> None:
    used: dict[str, set[str]] = {part: set() for part in ALLOWED}
    for path in sources():
        inside = path.relative_to(PACKAGE)
        used[inside.parts[0] if len(inside.parts) > 1 else inside.stem] |= parts_imported(path)
    assert {part: allowed - used[part] for part, allowed in ALLOWED.items() if allowed - used[part]} == {}


def test_every_part_is_named() -> None:
    parts = {path.relative_to(PACKAGE).parts[0].removesuffix(".py") for path in sources()}
    assert parts <= set(ALLOWED)


def test_test_files_have_names_of_their_own() -> None:
    names = [path.name for path in (ROOT / "tests").rglob("*.py") if path.name not in ("__init__.py", "conftest.py")]
    assert sorted(names) == sorted(set(names))
