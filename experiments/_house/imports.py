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

    def is_lazy(self, dotted: str) -> bool:
        """Whether a name of a package is more than a constant there, so that its functions' imports count."""
        module = self.module_of(dotted)
        if module is None or module == dotted:
            return False
        constants = {target.id for target in _assigned(self.by_name[module].syntax)}
        return dotted[len(module) + 1 :].split(".")[0] not in constants


def _assigned(syntax: ast.Module) -> Iterator[ast.Name]:
    for node in syntax.body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        yield from (target for target in targets if isinstance(target, ast.Name))


def imported(syntax: ast.AST, within_functions: bool, strings: bool = False) -> Iterator[tuple[str, int]]:
    """Dotted names that are imported, with their lines, but for those that only a type checker reads.

    `strings` adds texts that look like dotted names: they start child processes and name classes to other programs.
    """
    for node in ast.iter_child_nodes(syntax):
        if isinstance(node, FUNCTIONS) and not within_functions:
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield from ((f"{node.module}.{alias.name}", node.lineno) for alias in node.names)
        elif strings and isinstance(node, ast.Constant) and isinstance(node.value, str) and _is_dotted(node.value):
            yield node.value, node.lineno
        else:
            yield from imported(node, within_functions, strings)


def _is_dotted(text: str) -> bool:
    return "." in text and all(step.isidentifier() for step in text.split("."))


def closure(modules: Modules, name: str) -> set[str]:
    """All modules that `name` needs, itself among them: what it imports, wherever, and what those import.

    Of a package that is only passed through, what it imports in functions does not count.
    """
    needed: dict[str, bool] = {}  # module, and whether all of it counts
    left = [(name, True)]
    while left:
        module, whole = left.pop()
        if needed.get(module, False) or (module in needed and not whole):
            continue
        needed[module] = whole
        for dotted, _ in imported(modules.by_name[module].syntax, whole, strings=True):
            inside = modules.module_of(dotted)
            if inside is None:
                continue
            is_package = modules.by_name[inside].path.name == "__init__.py"
            left.append((inside, not is_package or modules.is_lazy(dotted)))
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
        inside = (modules.module_of(dotted) for dotted, _ in imported(source.syntax, whole))
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
