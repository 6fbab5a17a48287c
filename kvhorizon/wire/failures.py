"""What a client of the solver service can meet, each with the address and the reason in one line."""

from typing import Any

import grpc

_REFUSALS = (
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.UNIMPLEMENTED,
)


class SolverError(RuntimeError):
    """No plan came; the engine goes on without one."""


class SolverUnavailable(SolverError):
    """The service is not there, went away, failed, or did not answer in time. Another try may succeed."""


class SolverLate(SolverUnavailable):
    """The deadline passed without an answer."""


class SolverRefused(SolverError):
    """The service answered that the message is wrong or too large. The same message will be refused again."""


class GarbagePlan(SolverError):
    """An answer that is no plan for the snapshot that was sent."""


def failure(address: str, error: Any) -> SolverError:
    """The failure that a gRPC error stands for."""
    if error.code() in _REFUSALS:
        kind: type[SolverError] = SolverRefused
    else:
        kind = SolverLate if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED else SolverUnavailable
    return kind(f"solver at {address}: {error.details()} ({error.code().name})")
