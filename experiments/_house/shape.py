"""How large things are: files in a folder, lines of a file or function, parameters. Package and experiments."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator

from experiments._house.tree import CODE, Finding, Source, Tree

Function = ast.FunctionDef | ast.AsyncFunctionDef
OPTIONS = ("typer.Option", "typer.Argument")


def files_per_folder(tree: Tree) -> list[Finding]:
    """Python modules directly in each folder; `__init__` and generated files are none."""
    count = Counter(source.path.parent for source in tree.python(*CODE) if source.path.stem != "__init__")
    return [Finding(folder, 0, f"{size} files", size) for folder, size in count.items()]


def file_lines(tree: Tree) -> list[Finding]:
    """Lines of each file that is not empty but for a docstring."""
    sources = (source for source in tree.python(*CODE) if source.code_lines)
    sizes = ((source, len(source.text.splitlines())) for source in sources)
    return [Finding(source.path, 0, f"{size} lines", size) for source, size in sizes]


def functions(source: Source) -> Iterator[Function]:
    """All functions and methods of a file, nested ones among them."""
    for node in ast.walk(source.syntax):
        if isinstance(node, Function):
            yield node


def function_lines(tree: Tree) -> list[Finding]:
    """Lines from `def` to the last of the body, docstring and comments among them, a command's options aside."""
    found = []
    for source in tree.python(*CODE):
        for function in functions(source):
            options = sum((one.end_lineno or 0) - one.lineno + 1 for one in _every(function) if _is_option(one))
            size = (function.end_lineno or 0) - function.lineno + 1 - options
            found.append(Finding(source.path, function.lineno, f"{function.name}: {size} lines", size))
    return found


def parameters(tree: Tree) -> list[Finding]:
    """Parameters of each function but `self` and `cls`; options of a command are its interface and do not count."""
    found = []
    for source in tree.python(*CODE):
        for function in functions(source):
            size = sum(one.arg not in ("self", "cls") and not _is_option(one) for one in _every(function))
            found.append(Finding(source.path, function.lineno, f"{function.name}: {size} parameters", size))
    return found


def _every(function: Function) -> list[ast.arg]:
    asked = function.args
    return [*asked.posonlyargs, *asked.args, *asked.kwonlyargs, *filter(None, (asked.vararg, asked.kwarg))]


def _is_option(parameter: ast.arg) -> bool:
    return parameter.annotation is not None and any(name in ast.unparse(parameter.annotation) for name in OPTIONS)
