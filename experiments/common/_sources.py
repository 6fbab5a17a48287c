"""Whether kept results are those of the code as it is: a digest of the sources that an experiment measures.

Sources are the experiment's module, all that it imports within kvhorizon and experiments, wherever it does, and what it
names in a text such as "kvhorizon.service.main": so child processes are started, and vLLM is told of classes. Data
files count that these modules name. Comments, docstrings and blank lines do not count, nor does what only calls an
experiment and keeps its figures. A module's `MEASURES`, folders of which every file counts, stands in for all that.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from experiments._house.imports import Modules, closure
from experiments._house.kinds import name_of
from experiments._house.tree import CODE, EXPERIMENTS, Source, Tree

ROOT = Path(__file__).resolve().parents[2]
RESULTS = Path(EXPERIMENTS) / "results"
FRAME = {"experiments.common._harness", "experiments.common._sources", "experiments.__main__"}
COUNTERS = "experiments._house"
DATA = ("csv", "toml", "json", "js", "css")
TEXTS = ("py", "pyi", "md", "proto", *DATA, "yaml", "yml", "txt")


class Stale(NamedTuple):
    """A file of results that is not of the code as it is, and why."""

    path: Path
    experiment: str
    why: str


class Sources:
    """Digests of what experiments measure, in one tree."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._modules = Modules(tree, *CODE)
        patterns = [f"{folder}/**/*.{suffix}" for folder in CODE for suffix in DATA]
        self._data = {path.name: path for path in tree.files(*patterns) if RESULTS not in path.parents}

    def module_of(self, experiment: str) -> str | None:
        """The module of an experiment, in whichever folder it is; None where there is none."""
        if f"{EXPERIMENTS}.{experiment}" in self._modules.by_name:
            return f"{EXPERIMENTS}.{experiment}"
        names = (name for name in self._modules.by_name if name.startswith(f"{EXPERIMENTS}."))
        return next((name for name in names if name.rpartition(".")[2] == experiment), None)

    def files(self, experiment: str) -> list[Path]:
        """Files that an experiment measures, sorted. Raises KeyError where there is no such experiment."""
        module = self.module_of(experiment)
        if module is None:
            raise KeyError(experiment)
        folders = measured(self._modules.by_name[module].syntax)
        if folders:
            every = self._tree.files(*(f"{folder}/**/*.{suffix}" for folder in folders for suffix in TEXTS))
            return [path for path in every if RESULTS not in path.parents]
        needed = closure(self._modules, module) - FRAME
        sources = [self._modules.by_name[name] for name in needed if not name.startswith(COUNTERS)]
        data = {self._data[text] for source in sources for text in texts(source) if text in self._data}
        return sorted({*data, *(source.path for source in sources)})

    def digest(self, experiment: str) -> str:
        """Of those files, hexadecimal. Raises KeyError where there is no such experiment."""
        found = hashlib.sha256()
        for path in self.files(experiment):
            found.update(f"\0{path.as_posix()}\0{self._content(path)}".encode())
        return found.hexdigest()

    @functools.cache  # noqa: B019
    def _content(self, path: Path) -> str:
        module = ".".join(path.with_suffix("").parts).removesuffix(".__init__")
        source = self._modules.by_name.get(module) if path.suffix == ".py" else None
        if source is None:
            return (self._tree.root / path).read_text(encoding="utf-8")
        return "\n".join(line for _, line in source.code_lines)


def measured(syntax: ast.Module) -> list[str]:
    """The folders in a module's `MEASURES`."""
    given = (node for node in syntax.body if isinstance(node, ast.Assign) and name_of(node.targets[0]) == "MEASURES")
    return [folder for node in given for folder in ast.literal_eval(node.value)]


def texts(source: Source) -> Iterator[str]:
    """All texts in a module."""
    for node in ast.walk(source.syntax):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


@functools.cache
def digest_of(experiment: str) -> str:
    """The digest of what an experiment measures, as its sources are when this process asks first."""
    return Sources(Tree(ROOT)).digest(experiment)


def runs_of(path: Path) -> list[dict[str, Any]]:
    """The runs in a file of results that count: of each command and seed the last."""
    content = json.loads(path.read_text(encoding="utf-8"))
    every = content if isinstance(content, list) else [content]
    return list({(run.get("command"), run.get("seed")): run for run in every}.values())


def stale_results(tree: Tree) -> list[Stale]:
    """Files of results with a run that is older than the code, or that does not say of which code it is."""
    sources, found = Sources(tree), []
    for path in tree.files(f"{RESULTS.as_posix()}/*.json"):
        experiment = path.stem
        if sources.module_of(experiment) is None:
            found.append(Stale(path, experiment, "there is no such experiment"))
            continue
        digest = sources.digest(experiment)
        kept = [run.get("sources") for run in runs_of(tree.root / path)]
        if None in kept:
            found.append(Stale(path, experiment, "it does not say which sources it measured"))
        elif set(kept) != {digest}:
            found.append(Stale(path, experiment, "its sources have changed"))
    return found
