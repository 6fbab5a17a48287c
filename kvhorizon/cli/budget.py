"""A planner's budget as users write it: `5ms` of wall clock, or a bare number of work units."""

from kvhorizon.errors import InputError
from kvhorizon.solver.program.search.planner import Budget

MOST_DIGITS = 12


def parse_budget(text: str) -> Budget:
    """`5ms`, `0.05s`, or `100` work units. Raises InputError."""
    for suffix, unit_s in (("ms", 1e-3), ("s", 1.0)):
        if text.endswith(suffix):
            try:
                return Budget(seconds=float(text.removesuffix(suffix)) * unit_s)
            except ValueError as error:
                if isinstance(error, InputError):
                    raise
                break
    if text.isdecimal() and len(text) <= MOST_DIGITS:
        return Budget(work=int(text))
    raise InputError("budget", text, "must be milliseconds such as 5ms, or a whole number of work units")
