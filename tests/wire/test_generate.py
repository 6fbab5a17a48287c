"""The committed stubs are what the contract generates."""

import pytest

from kvhorizon.errors import InputError
from kvhorizon.wire.generate import ROOT, generate


def test_committed_stubs_are_regenerated_exactly(tmp_path):
    pytest.importorskip("grpc_tools", reason="grpcio-tools is not installed: stubs cannot be regenerated")
    for path in generate(tmp_path):
        committed = ROOT / path.relative_to(tmp_path)
        assert committed.read_text() == path.read_text(), f"{committed.name} is stale; run make proto"


def test_outside_a_checkout_it_says_so(tmp_path):
    with pytest.raises(InputError, match="must be a source checkout"):
        generate(tmp_path, root=tmp_path)
