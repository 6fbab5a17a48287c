"""HiGHS, set up as this project uses it: silent, and on one thread."""

from __future__ import annotations

from typing import Any


def new_solver(**options: Any) -> Any:
    """A HiGHS solver with these options; `highspy.Highs` without its wrapper, which prints a banner to stdout."""
    import highspy

    solver: Any = getattr(highspy, "_Highs", highspy.Highs)()
    for name, value in {"output_flag": False, "threads": 1, **options}.items():
        solver.setOptionValue(name, value)
    return solver
