"""Experiments, a folder per theme. Each is run by its own name: `python -m experiments.NAME`, in whichever folder it
is.

Files that begin with an underscore are parts of experiments, not experiments.
"""

from pathlib import Path

THEMES = sorted(path for path in Path(__file__).parent.iterdir() if (path / "__init__.py").exists())
__path__ = [*__path__, *map(str, THEMES)]
