"""How the simulator's functions are compiled: so that they cost what they compute.

numba counts a reference to each array of a named tuple whenever the tuple is taken apart or handed on, atomically and
outside the compiled function. That keeps arrays alive which compiled code makes itself; the simulator's makes none but
in functions marked so, and whoever calls it holds all others. Counting took three quarters of a replay's time.

numba also makes each function callable from Python, which for large tuples takes longer than compiling it. Only a few
are called from there; the others, marked `inside`, run uncompiled if they are.
"""

from typing import Any

from numba import njit
from numba.extending import register_jitable

UNCOUNTED: dict[str, Any] = {"cache": True, "_nrt": False}
COUNTED: dict[str, Any] = {"cache": True, "_nrt": True}

compiled: Any = njit(**UNCOUNTED)
inside: Any = register_jitable(**UNCOUNTED)
making_arrays: Any = register_jitable(**COUNTED)  # one that returns them is called only by another of these
