"""Tuples and named tuples that are indexed by a number, in the package.

Counted is `x[3]` or `x[-1]`, the number written there, where the syntax of the package shows that `x` is a tuple of
fixed length: a literal, a name, field or result that is annotated or assigned so, a parameter that calls give one, an
element of a list of tuples, a result of `zip`, `items`, `enumerate`, `partition` or `nonzero`. Not counted: slices,
arrays and lists, tuples of any length (`tuple[X, ...]`), `.shape` of an array, and what only running would tell.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator

from experiments._house.infer import Names, bind, declared_parameters, each, kind_of, number_of, within
from experiments._house.kinds import Fixed, Instance, Known, declarations, declared, name_of
from experiments._house.tree import PACKAGE, Finding, Source, Tree

ROUNDS = 3  # in which kinds travel from calls to parameters
Function = ast.FunctionDef | ast.AsyncFunctionDef
COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.GeneratorExp, ast.DictComp)
BY_KEY = {"sorted", "min", "max", "sort"}  # calls whose `key` is given an element


def tuple_indices(tree: Tree) -> list[Finding]:
    """Every place."""
    sources = tree.python(PACKAGE)
    known = declarations([source.syntax for source in sources])
    functions = _functions([source.syntax for source in sources])
    for _ in range(ROUNDS):
        for source in sources:
            _learn(source, functions, known)
    return [finding for source in sources for finding in _indexed(source, known)]


def _functions(modules: list[ast.Module]) -> dict[str, Function]:
    """Functions by name, of those names that are given once."""
    found: dict[str, list[Function]] = {}
    for module in modules:
        for node in ast.walk(module):
            if isinstance(node, Function):
                found.setdefault(node.name, []).append(node)
    return {name: several[0] for name, several in found.items() if len(several) == 1}


def _learn(source: Source, functions: dict[str, Function], known: Known) -> None:
    """Parameters without a type have the kind that calls give them, and attributes that which methods assign."""
    for node, names in _walk(source.syntax, {}, known):
        _learn_attribute(node, names, known)
        if not isinstance(node, ast.Call) or name_of(node.func) not in functions:
            continue
        function = functions[name_of(node.func)]
        given: list[tuple[str | None, ast.expr]] = [(one.arg, one.value) for one in node.keywords]
        given += zip((one.arg for one in function.args.args if one.arg not in ("self", "cls")), node.args, strict=False)
        for parameter, value in given:
            kind = kind_of(value, names, known)
            if parameter is not None and kind is not None:
                known.parameters.setdefault((function.name, parameter), kind)


def _learn_attribute(node: ast.AST, names: Names, known: Known) -> None:
    """What is assigned to `self.x`."""
    if isinstance(node, ast.Assign):
        target, kind = node.targets[0], kind_of(node.value, names, known)
    elif isinstance(node, ast.AnnAssign):
        target, kind = node.target, declared(node.annotation, known)
    else:
        return
    if isinstance(target, ast.Attribute) and kind is not None:
        owner = kind_of(target.value, names, known)
        if isinstance(owner, Instance):
            known.own.setdefault((owner.name, target.attr), kind)


def _indexed(source: Source, known: Known) -> Iterator[Finding]:
    for node, names in _walk(source.syntax, {}, known):
        if isinstance(node, ast.Subscript) and number_of(node.slice) is not None:
            is_shape = isinstance(node.value, ast.Attribute) and node.value.attr == "shape"
            if not is_shape and isinstance(kind_of(node.value, names, known), Fixed):
                yield Finding(source.path, node.lineno, ast.unparse(node))


def _walk(node: ast.AST, names: Names, known: Known) -> Iterator[tuple[ast.AST, Names]]:
    """Every node in the order of the text, with the kinds of the names that are visible there."""
    yield node, names
    if isinstance(node, Function):
        names = {**names, **declared_parameters(node, known)}
    elif isinstance(node, ast.ClassDef):
        names = {**names, "self": Instance(node.name)}
    elif isinstance(node, COMPREHENSIONS):
        names = within(node.generators, names, known)
    elif isinstance(node, ast.Call) and name_of(node.func) in BY_KEY:
        _bind_key(node, names, known)
    elif isinstance(node, ast.For | ast.AsyncFor):
        bind(node.target, each(kind_of(node.iter, names, known)), names)
    elif isinstance(node, ast.Assign):
        for target in node.targets:
            bind(target, kind_of(node.value, names, known), names)
    elif isinstance(node, ast.AnnAssign):
        bind(node.target, declared(node.annotation, known), names)
    for child in ast.iter_child_nodes(node):
        yield from _walk(child, names, known)


def _bind_key(call: ast.Call, names: Names, known: Known) -> None:
    """In `sorted(pairs, key=lambda one: one[1])`, `one` is an element of `pairs`."""
    whole = call.func.value if isinstance(call.func, ast.Attribute) else call.args[0] if call.args else None
    for keyword in call.keywords:
        if (
            keyword.arg == "key"
            and isinstance(keyword.value, ast.Lambda)
            and whole is not None
            and keyword.value.args.args
        ):
            names[keyword.value.args.args[0].arg] = each(kind_of(whole, names, known))
