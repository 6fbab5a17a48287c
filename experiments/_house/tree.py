"""A tree of sources, read once: Python files with their syntax and code lines, documents, and what a counter finds."""

from __future__ import annotations

import ast
import functools
import io
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

PACKAGE, EXPERIMENTS = "kvhorizon", "experiments"
CODE = (PACKAGE, EXPERIMENTS)  # whose shape is measured
GENERATED = "_pb2"  # part of the name of every file that is generated
DOCUMENTS = ("*.md", "docs/**/*.md", "experiments/**/*.md")


class Finding(NamedTuple):
    """A place that a counter counts; `value` is its size where the largest matters."""

    path: Path  # from the root
    line: int
    what: str
    value: int = 1


class Source:
    """One Python file."""

    def __init__(self, root: Path, path: Path) -> None:
        self.path = path.relative_to(root)
        self.text = path.read_text(encoding="utf-8")

    @functools.cached_property
    def syntax(self) -> ast.Module:
        """Its syntax tree."""
        return ast.parse(self.text)

    @functools.cached_property
    def module(self) -> str:
        """Its dotted name; a package has that of its folder."""
        steps = self.path.with_suffix("").parts
        return ".".join(steps[:-1] if steps[-1] == "__init__" else steps)

    @functools.cached_property
    def code_lines(self) -> list[tuple[int, str]]:
        """Number and stripped text of each line that holds code; docstrings and comments are none."""
        prose = set(docstring_lines(self.syntax))
        lines = self.text.splitlines()
        for token in tokenize.generate_tokens(io.StringIO(self.text).readline):
            if token.type == tokenize.COMMENT:
                row, column = token.start
                lines[row - 1] = lines[row - 1][:column]
        numbered = ((number, line.strip()) for number, line in enumerate(lines, 1))
        return [(number, line) for number, line in numbered if line and number not in prose]


def docstring_lines(syntax: ast.Module) -> Iterator[int]:
    """Numbers of the lines of all docstrings."""
    for node in ast.walk(syntax):
        body = getattr(node, "body", None)
        if (
            isinstance(body, list)
            and body
            and isinstance(body[0], ast.Expr)
            and isinstance(body[0].value, ast.Constant)
        ):
            yield from range(body[0].lineno, (body[0].end_lineno or 0) + 1)


class Tree:
    """The repository, or a small one that a test has planted."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._read: dict[str, list[Source]] = {}

    def python(self, *folders: str) -> list[Source]:
        """Python files that are not generated, sorted by path."""
        return [source for folder in folders for source in self._of(folder)]

    def _of(self, folder: str) -> list[Source]:
        if folder not in self._read:
            paths = sorted((self.root / folder).rglob("*.py"))
            self._read[folder] = [Source(self.root, path) for path in paths if GENERATED not in path.name]
        return self._read[folder]

    def files(self, *patterns: str) -> list[Path]:
        """Paths of files from the root, by patterns, sorted."""
        found = {path for pattern in patterns for path in self.root.glob(pattern) if path.is_file()}
        return sorted(path.relative_to(self.root) for path in found)

    def documents(self) -> list[tuple[Path, str]]:
        """Path and text of README, documentation and notes."""
        return [(path, (self.root / path).read_text(encoding="utf-8")) for path in self.files(*DOCUMENTS)]
