"""The kind of an expression within a function: what its names were given, and what calls and literals say."""

from __future__ import annotations

import ast

from experiments._house.kinds import Fixed, Instance, Kind, Known, Many, Table, declared, name_of

SAME_ELEMENTS = {"list", "sorted", "set", "reversed", "iter", "deque", "frozenset", "tuple", "filter", "chain"}
ONE_OF = {"min", "max", "next", "heappop", "choice"}
PARTS = {"partition", "rpartition", "divmod", "splitext", "modf", "frexp", "nonzero", "unravel_index"}
Names = dict[str, Kind]


def kind_of(node: ast.expr, names: Names, known: Known) -> Kind:
    """The kind of an expression, where `names` have theirs."""
    match node:
        case ast.Tuple():
            return Fixed(tuple(kind_of(part, names, known) for part in node.elts))
        case ast.Name():
            return names.get(node.id, known.constants.get(node.id))
        case ast.Attribute():
            of = kind_of(node.value, names, known)
            own = known.own.get((of.name, node.attr)) if isinstance(of, Instance) else None
            return own or known.fields.get(node.attr)
        case ast.List() | ast.Set():
            return Many(kind_of(node.elts[0], names, known) if node.elts else None)
        case ast.ListComp() | ast.GeneratorExp() | ast.SetComp():
            return Many(kind_of(node.elt, within(node.generators, names, known), known))
        case ast.DictComp():
            inner = within(node.generators, names, known)
            return Table(kind_of(node.key, inner, known), kind_of(node.value, inner, known))
        case ast.IfExp():
            return kind_of(node.body, names, known) or kind_of(node.orelse, names, known)
        case ast.BoolOp():
            kinds = [kind_of(part, names, known) for part in node.values]
            return next((kind for kind in kinds if kind is not None), None)
        case ast.NamedExpr() | ast.Starred() | ast.Await():
            return kind_of(node.value, names, known)
        case ast.Subscript():
            return _part_of(node, names, known)
        case ast.Call():
            return _of_call(node, names, known)
    return None


def _part_of(node: ast.Subscript, names: Names, known: Known) -> Kind:
    whole = kind_of(node.value, names, known)
    if isinstance(node.slice, ast.Slice):
        return whole if isinstance(whole, Many) else None
    if isinstance(whole, Many):
        return whole.each
    if isinstance(whole, Table):
        return whole.value
    place = number_of(node.slice)
    if isinstance(whole, Fixed) and place is not None and -len(whole.parts) <= place < len(whole.parts):
        return whole.parts[place]
    return None


def number_of(node: ast.expr) -> int | None:
    """The whole number that is written there; None for anything else."""
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        inner = number_of(node.operand)
        return None if inner is None else -inner
    value = node.value if isinstance(node, ast.Constant) else None
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _of_call(call: ast.Call, names: Names, known: Known) -> Kind:
    name = name_of(call.func)
    given = [kind_of(argument, names, known) for argument in call.args]
    first = given[0] if given else None
    if name in PARTS:
        return Fixed()
    if name == "zip":
        return Many(Fixed(tuple(each(kind) for kind in given)))
    if name in ("enumerate", "pairwise", "product", "combinations"):
        return Many(Fixed((None, each(first)) if name == "enumerate" else (each(first),) * 2))
    if isinstance(call.func, ast.Attribute):
        of = kind_of(call.func.value, names, known)
        if name in ("_replace", "copy") and of is not None:
            return of
        if isinstance(of, Table):
            return _of_table(name, of)
        if isinstance(of, Many) and name in ("pop", "popleft"):
            return of.each
    if name in SAME_ELEMENTS:
        return Many(each(first))
    if name in ONE_OF and len(given) == 1:
        return each(first)
    if name in known.named:
        return Fixed()
    return known.results.get(name)


def _of_table(name: str, table: Table) -> Kind:
    if name == "items":
        return Many(Fixed((table.key, table.value)))
    if name in ("keys", "values"):
        return Many(table.key if name == "keys" else table.value)
    return table.value if name in ("get", "pop", "setdefault") else None


def each(kind: Kind) -> Kind:
    """The kind of what is iterated over."""
    if isinstance(kind, Many):
        return kind.each
    return kind.key if isinstance(kind, Table) else None


def bind(target: ast.expr, kind: Kind, names: Names) -> None:
    """Give the names of an assignment's left side their kinds."""
    if isinstance(target, ast.Name):
        names[target.id] = kind
    elif isinstance(target, ast.Tuple | ast.List):
        parts = kind.parts if isinstance(kind, Fixed) else ()
        for place, part in enumerate(target.elts):
            bind(part, parts[place] if place < len(parts) else None, names)


def within(generators: list[ast.comprehension], names: Names, known: Known) -> Names:
    """The names inside a comprehension."""
    inner = dict(names)
    for generator in generators:
        bind(generator.target, each(kind_of(generator.iter, inner, known)), inner)
    return inner


def declared_parameters(function: ast.FunctionDef | ast.AsyncFunctionDef, known: Known) -> Names:
    """Names of a function's parameters with their kinds, by annotation, else by what calls give them."""
    asked = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
    return {
        one.arg: declared(one.annotation, known)
        if one.annotation is not None
        else known.parameters.get((function.name, one.arg))
        for one in asked
        if one.arg != "self"
    }
