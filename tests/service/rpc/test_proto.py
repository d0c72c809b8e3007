from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
SOURCE = ROOT / "service" / "rpc" / "proto"
BELOW = Path("unified_latents") / "service" / "rpc" / "proto"


def test_what_is_committed_is_what_the_contract_generates(tmp_path: Path) -> None:
    """As `make proto` does."""
    outs = [f"--{kind}={tmp_path}" for kind in ("python_out", "pyi_out", "grpc_python_out")]
    command = [sys.executable, "-m", "grpc_tools.protoc", "-I.import", *outs]
    subprocess.run([*command, f".import/{BELOW / 'ul.proto'}"], cwd=ROOT, check=True, timeout=120)
    made = {path.name: path.read_text() for path in (tmp_path / BELOW).iterdir()}
    assert made == {path.name: path.read_text() for path in SOURCE.glob("*_pb2*.py*")}
    assert set(made) == {"ul_pb2.py", "ul_pb2.pyi", "ul_pb2_grpc.py"}
