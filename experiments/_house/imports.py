"""Which module imports which: modules of a tree by name, their imports, cycles, and all that a module needs."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from experiments._house.tree import PACKAGE, Finding, Source, Tree

FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)


class Modules:
    """The Python modules of some folders of a tree."""

    def __init__(self, tree: Tree, *folders: str) -> None:
        self.by_name: dict[str, Source] = {source.module: source for source in tree.python(*folders)}

    def module_of(self, dotted: str) -> str | None:
        """The module that a dotted name leads into; None for names from elsewhere."""
        steps = dotted.split(".")
        names = (".".join(steps[:size]) for size in range(len(steps), 0, -1))
        return next((name for name in names if name in self.by_name), None)

    def needs(self, dotted: str, is_text: bool) -> tuple[str, bool] | None:
        """The module that a dotted name leads into, and whether what it imports in functions counts; None: not ours.

        Of a package it does not where that is only passed through or asked for a constant. In a text a name must be
        defined there; one that is imported may also be made when it is asked for.
        """
        module = self.module_of(dotted)
        if module is None or self.by_name[module].path.name != "__init__.py":
            return None if module is None else (module, True)
        asked, body = dotted[len(module) + 1 :].split(".")[0], self.by_name[module].syntax.body
        defined = {node.name for node in body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
        constants = {target.id for target in _assigned(self.by_name[module].syntax)}
        return module, bool(asked) and (asked in defined or not (is_text or asked in constants))


def _assigned(syntax: ast.Module) -> Iterator[ast.Name]:
    for node in syntax.body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        yield from (target for target in targets if isinstance(target, ast.Name))


def imported(syntax: ast.AST, within_functions: bool) -> Iterator[str]:
    """Dotted names that are imported, but for those that only a type checker reads."""
    for node in ast.iter_child_nodes(syntax):
        if isinstance(node, FUNCTIONS) and not within_functions:
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        else:
            yield from imported(node, within_functions)


def dotted_texts(syntax: ast.AST) -> Iterator[str]:
    """Texts that look like dotted names: they start child processes and name classes to other programs."""
    for node in ast.walk(syntax):
        value = node.value if isinstance(node, ast.Constant) else None
        if isinstance(value, str) and "." in value and all(step.isidentifier() for step in value.split(".")):
            yield value


def closure(modules: Modules, name: str) -> set[str]:
    """All modules that `name` needs, itself among them: what it imports, wherever, or names in a text, and so on."""
    needed: dict[str, bool] = {}  # module, and whether all of it counts
    left = [(name, True)]
    while left:
        module, whole = left.pop()
        if needed.get(module, False) or (module in needed and not whole):
            continue
        needed[module] = whole
        syntax = modules.by_name[module].syntax
        names = [modules.needs(dotted, False) for dotted in imported(syntax, whole)]
        names += [modules.needs(dotted, True) for dotted in dotted_texts(syntax)]
        left += [need for need in names if need is not None]
        steps = module.split(".")
        parents = (".".join(steps[:size]) for size in range(1, len(steps)))
        left += [(parent, False) for parent in parents if parent in modules.by_name]
    return set(needed)


def import_cycles(tree: Tree) -> list[Finding]:
    """Groups of modules of the package that import each other, at once or in functions; one finding per group.

    A package is imported where a name of its own is, not where it is passed through. Its lazy `__getattr__` is the
    public entrance and imports for whoever asks, so it is no part of a cycle.
    """
    modules = Modules(tree, PACKAGE)
    graph: dict[str, set[str]] = {}
    for name, source in modules.by_name.items():
        whole = source.path.name != "__init__.py"
        inside = (modules.module_of(dotted) for dotted in imported(source.syntax, whole))
        graph[name] = {other for other in inside if other is not None and other != name}
    groups = _strongly_connected(graph)
    return [
        Finding(modules.by_name[min(group)].path, 1, " <-> ".join(sorted(group)), len(group))
        for group in groups
        if len(group) > 1
    ]


def _strongly_connected(graph: dict[str, set[str]]) -> list[set[str]]:
    """Groups of nodes that can each be reached from each other."""
    reach = {name: _reached(graph, name) for name in graph}
    groups = {frozenset({name, *(other for other in reach[name] if name in reach[other])}) for name in graph}
    return [set(group) for group in sorted(groups, key=min)]


def _reached(graph: dict[str, set[str]], start: str) -> set[str]:
    found: set[str] = set()
    left = [start]
    while left:
        for other in graph[left.pop()] - found:
            found.add(other)
            left.append(other)
    return found
