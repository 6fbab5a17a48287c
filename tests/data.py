"""Where the shared measurement data is, for tests that need it."""

import os
from pathlib import Path

import pytest


def shared_data() -> Path:
    """The folder named by KVHORIZON_DATA; skips the calling test with one clear line where it is not set."""
    folder = os.environ.get("KVHORIZON_DATA")
    if not folder:
        pytest.skip("KVHORIZON_DATA is not set: the shared traces and calibration data are not here")
    return Path(folder)
