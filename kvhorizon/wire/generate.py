"""Generate the protobuf and gRPC stubs of `proto/` into `kvhorizon/wire/v1`: `python -m kvhorizon.wire.generate`.

Needs grpcio-tools (extra `dev`) and a source checkout. The path mapping turns `kvhorizon/v1` of the contract into the
Python module `kvhorizon.wire.v1`, so that the imports inside the stubs come out right.
"""

import importlib.util
import subprocess
import sys
from pathlib import Path

from kvhorizon.errors import InputError

ROOT = Path(__file__).resolve().parents[2]
STUBS = ("scheduler_pb2.py", "scheduler_pb2.pyi", "scheduler_pb2_grpc.py")


def generate(out: Path, root: Path = ROOT) -> list[Path]:
    """Write the stubs below the folder `out`, at their package path; return their paths.

    Raises InputError where grpcio-tools or the contract is missing or the contract does not compile.
    """
    contract = root / "proto" / "kvhorizon"
    if not (contract / "v1" / "scheduler.proto").is_file():
        raise InputError("root", str(root), "must be a source checkout with proto/kvhorizon/v1/scheduler.proto")
    if importlib.util.find_spec("grpc_tools") is None:
        raise InputError("grpcio-tools", None, "not installed; pip install 'kvhorizon[dev]'")
    outputs = [f"--{kind}={out}" for kind in ("python_out", "pyi_out", "grpc_python_out")]
    # A process of its own: protoc brings a protobuf library that must not meet another one in the same process.
    arguments = [f"-Ikvhorizon/wire={contract}", *outputs, "kvhorizon/wire/v1/scheduler.proto"]
    status = subprocess.run([sys.executable, "-m", "grpc_tools.protoc", *arguments], check=False).returncode
    if status != 0:
        raise InputError("scheduler.proto", None, f"protoc ended with status {status}")
    return [out / "kvhorizon" / "wire" / "v1" / name for name in STUBS]


def main() -> int:
    """Regenerate in place; exit status 2 with one line where that is impossible."""
    try:
        written = generate(ROOT)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    print("\n".join(str(path.relative_to(ROOT)) for path in written))
    return 0


if __name__ == "__main__":
    sys.exit(main())
