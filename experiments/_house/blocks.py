"""Blocks of equal lines in the package and the experiments."""

from __future__ import annotations

import ast
from collections import defaultdict
from typing import NamedTuple

from experiments._house.tree import CODE, Finding, Source, Tree

LEAST_LINES = 6


class Window(NamedTuple):
    """LEAST_LINES successive lines: the file's number, and that of the first line among those that count."""

    file: int
    first: int

    @property
    def before(self) -> Window:
        """The window one line earlier."""
        return Window(self.file, self.first - 1)


def duplicate_blocks(tree: Tree) -> list[Finding]:
    """Blocks of six or more equal lines, one finding per block however often and long it is.

    Indentation, blank lines, comments, docstrings and imports do not count as lines.
    """
    sources = tree.python(*CODE)
    lines = [_lines(source) for source in sources]
    windows: defaultdict[tuple[str, ...], list[Window]] = defaultdict(list)
    for file, its_lines in enumerate(lines):
        for first in range(len(its_lines) - LEAST_LINES + 1):
            content = tuple(line for _, line in its_lines[first : first + LEAST_LINES])
            windows[content].append(Window(file, first))
    group_of = {window: tuple(group) for group in windows.values() if len(group) > 1 for window in group}
    found = []
    for group in dict.fromkeys(group_of.values()):
        if _goes_on(group, group_of):
            continue
        places = [f"{sources[one.file].path}:{lines[one.file][one.first][0]}" for one in group]
        number, text = lines[group[0].file][group[0].first]
        found.append(Finding(sources[group[0].file].path, number, f"{text}  also {', '.join(places[1:])}", len(group)))
    return found


def _goes_on(group: tuple[Window, ...], group_of: dict[Window, tuple[Window, ...]]) -> bool:
    """Whether the block begins earlier, in all the same places."""
    return group_of.get(group[0].before) == tuple(window.before for window in group)


def _lines(source: Source) -> list[tuple[int, str]]:
    imports = {
        number
        for node in ast.walk(source.syntax)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for number in range(node.lineno, (node.end_lineno or 0) + 1)
    }
    return [(number, line) for number, line in source.code_lines if number not in imports]
